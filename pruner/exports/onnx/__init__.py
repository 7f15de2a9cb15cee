"""The LSTMs of an export as ONNX files, float and int8: built, quantized, run in ONNX Runtime, told of and checked."""
