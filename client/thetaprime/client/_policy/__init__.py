"""Policies as ONNX files, verified and run by onnxruntime."""
