"""A model in all the ways in which it can be run, timed side by side: PyTorch and ONNX Runtime, float and int8."""
