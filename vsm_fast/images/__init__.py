"""The first stage: what callers have, to what the network sees of it.

One image goes through ``stored`` (bytes that are no local file), ``decoding`` (a file to pixels),
``loading`` (any source to upright sRGB), ``masks`` and ``automatic_masks`` (its subject),
``framing`` (the region, resized) and comes out of ``subjects`` as a ``Subject``; ``feeding`` does
that for many, ahead of the network, and ``tensor_subjects`` for a batch on a GPU.
"""
