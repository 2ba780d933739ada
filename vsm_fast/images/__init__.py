"""First stage: sources of images and masks to network input.

``storage`` locates files, ``decoding`` reads them, ``loading`` converts any source to upright sRGB,
``masks`` and ``automatic_masks`` supply the subject mask, and ``framing`` crops and resizes.
``subjects`` combines these steps into one ``Subject``. ``feeding`` prepares batches ahead of the
network; ``tensors`` prepares a batch on its own device.
"""
