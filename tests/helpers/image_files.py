"""Image files for tests, written by Pillow or by hand."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image

from vsm_fast.errors import InputError
from vsm_fast.images.loading import load_image

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)


def saved(path, image, **options):
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(path, **options)
    return path


def written(path, content):
    path.write_bytes(content)
    return path


def exif_of(orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


def refused(source, status, *words, load=load_image, **options):
    with pytest.raises(InputError) as caught:
        load(source, **options)
    assert caught.value.status is status, str(caught.value)
    for word in words:
        assert word in str(caught.value)


def png_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, data=b"", *, depth=8, colour=2):
    """Return a PNG file whose header may contradict its data."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = {b"IHDR": header, b"IDAT": zlib.compress(data), b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks.items())


def icc_profile(space, gamma=1.0, order="rgb"):
    """Return a minimal ICC profile: sRGB primaries in some order, or grey, and a gamma curve."""
    curve = b"curv" + struct.pack(">IIH2x", 0, 1, round(gamma * 256))

    def xyz(*values):
        return b"XYZ " + struct.pack(">I3i", 0, *(round(v * 65536) for v in values))

    primaries = {"r": (0.4361, 0.2225, 0.0139), "g": (0.3851, 0.7169, 0.0971)}
    primaries["b"] = (0.1431, 0.0606, 0.7141)
    tags = {b"wtpt": xyz(0.9642, 1.0, 0.8249)}
    if space == b"GRAY":
        tags[b"kTRC"] = curve
    else:
        for name, primary in zip("rgb", order, strict=True):
            tags[name.encode() + b"XYZ"] = xyz(*primaries[primary])
            tags[name.encode() + b"TRC"] = curve
    table, data = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, body in tags.items():
        table += name + struct.pack(">II", start + len(data), len(body))
        data += body
    header = struct.pack(
        ">I4s4s4s4s4s", start + len(data), b"", b"\x02\x40\0\0", b"mntr", space, b"XYZ "
    )
    header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + table + data


def grey(values):
    return np.repeat(np.array(values, np.uint8)[..., None], 3, axis=-1)
