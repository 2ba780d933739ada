"""Export to ONNX and TensorRT, installed as ``vsm_fast.export``.

Nothing is here yet: this version runs its models with torch.
"""
