"""Pruning a model in memory, in the workflow of torch.ao.pruning."""
