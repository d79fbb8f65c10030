"""Predictors as ONNX models, compared with PyTorch."""
