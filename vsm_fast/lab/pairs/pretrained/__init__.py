"""Dataset generation with pretrained models: SAM parts, inpainting, LPIPS.

Requires ``pip install '.[lab]'`` and downloaded weights.
"""
