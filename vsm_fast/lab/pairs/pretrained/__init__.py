"""Stages of dataset generation that run pretrained models: Grounding DINO, SAM, inpainting, LPIPS.

They need ``pip install '.[lab]'`` and weights that the user downloads.
"""
