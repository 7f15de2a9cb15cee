"""Bytes and named tensors: formats, checkpoints opened and written, what a model really computes with, its consumers."""
