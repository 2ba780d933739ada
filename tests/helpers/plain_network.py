"""The network of the paper in plain numpy, float64, written from its description.

It shares nothing with the library. Diffusers' own UNet and VAE, whole and untouched, are read
by ``tiny_models.plain_levels``.
"""

from __future__ import annotations

import numpy as np


def bilinear(image, rows, columns):
    """Bilinear resize with half-pixel centres, channel by channel, from its definition."""
    _, height, width = image.shape
    resized = np.zeros((image.shape[0], rows, columns))
    for row in range(rows):
        for column in range(columns):
            y = min(max((row + 0.5) * height / rows - 0.5, 0), height - 1)
            x = min(max((column + 0.5) * width / columns - 0.5, 0), width - 1)
            top, left = int(y), int(x)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            v, u = y - top, x - left
            upper = image[:, top, left] * (1 - u) + image[:, top, right] * u
            lower = image[:, bottom, left] * (1 - u) + image[:, bottom, right] * u
            resized[:, row, column] = upper * (1 - v) + lower * v
    return resized


def group_norm(x, weight, bias, groups):
    split = x.reshape(groups, -1)
    spread = np.sqrt(split.var(1, keepdims=True) + 1e-5)
    normed = ((split - split.mean(1, keepdims=True)) / spread).reshape(x.shape)
    return normed * weight[:, None, None] + bias[:, None, None]


def convolve(x, weight):
    reach = weight.shape[2] // 2
    padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach)))
    result = np.zeros((weight.shape[0], *x.shape[1:]))
    for dy in range(weight.shape[2]):
        for dx in range(weight.shape[3]):
            window = padded[:, dy : dy + x.shape[1], dx : dx + x.shape[2]]
            result += np.einsum("oi,ihw->ohw", weight[:, :, dy, dx], window)
    return result


def plain_aggregation(maps, weights, branch, config):
    """One image: every level resized first, then its bottleneck, mixed, L2 over channels."""
    mixing = np.exp(weights[f"mixing_weights_{branch}"])
    mixing = mixing / mixing.sum()
    total = 0.0
    for level, features in enumerate(maps):

        def step(x, part, level=level):
            name = f"bottleneck_layers_{branch}.{level}.0.{part}"
            norm = weights[f"{name}.norm.weight"], weights[f"{name}.norm.bias"]
            return group_norm(convolve(x, weights[f"{name}.weight"]), *norm, config.groups)

        x = bilinear(features, *config.grid)
        y = np.maximum(step(x, "conv1"), 0)
        y = np.maximum(step(y, "conv2"), 0)
        y = step(y, "conv3")
        has_shortcut = f"bottleneck_layers_{branch}.{level}.0.shortcut.weight" in weights
        y = np.maximum(y + (step(x, "shortcut") if has_shortcut else x), 0)
        is_one = level == 0 and config.first_level_weight == "one"
        total = total + (1.0 if is_one else mixing[level]) * y
    return total / np.linalg.norm(total, axis=0, keepdims=True)
