"""Stages of dataset generation that run pretrained models: Grounding DINO, SAM, inpainting, LPIPS.

They need ``pip install 'vsm_fast[pairs]'`` and weights that the user downloads.
"""
