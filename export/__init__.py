"""Export to ONNX, installed as ``vsm_fast.export``."""
