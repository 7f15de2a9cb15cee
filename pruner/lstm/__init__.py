"""LSTMs: gate names and order, which tensors form one, running it step by step, its kept units, its size."""
