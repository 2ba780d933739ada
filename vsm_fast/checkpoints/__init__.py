"""Weights: model folders, and what they are made from.

``location`` finds a folder by a model's name, ``layout`` says what it holds, ``loading`` reads it
and ``saving`` writes it; ``conversion`` makes one of released files (``released_files``), which
``presets`` knows, ``sources`` and ``hub_files`` find and ``weight_files`` opens, safetensors only.
"""
