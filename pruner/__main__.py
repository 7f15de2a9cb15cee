"""`python -m pruner`: the command line."""

from pruner.cli.main import run

if __name__ == "__main__":
    run()
