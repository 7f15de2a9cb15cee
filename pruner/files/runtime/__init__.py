"""ONNX models in ONNX Runtime: here, where they were built here, and those of strangers in a process of its own."""
