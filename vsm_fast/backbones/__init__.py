"""Backbones: image -> features of a frozen diffusion network."""
