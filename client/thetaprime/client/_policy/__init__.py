"""Loads, verifies and runs policies in ONNX form."""
