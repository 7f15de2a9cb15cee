"""The command line: `python -m pruner`, also installed as `lstm-pruner`."""
