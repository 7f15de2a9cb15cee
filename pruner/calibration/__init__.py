"""Inputs of LSTMs, and what is gathered on them."""
