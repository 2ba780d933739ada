"""Fuzzing of image files: each damaged file must load or be refused, in bounded time and memory.

    python tests/fuzz/mutate_images.py --count 10000 --seed 0

Shipped photographs in many formats are flipped, cut, spliced and stuffed; image N of a seed is the
same on every machine with the same Pillow. A second process with bounded memory reads them, which
also detects crashes of decoders. Failing files are saved to ``--keep``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageCms, features

ROOT = Path(__file__).parents[2]
CPU_SECONDS = 2.0  # per image; a photograph of this size takes a few milliseconds
WALL_SECONDS = 60.0  # before a hanging reader is killed
START_SECONDS = 600.0  # the same before its first file, because it imports torch
MEMORY = 2 * 2**30  # bytes above the reader's memory before its first image
_SIDE = 96  # pixels
_EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)


@dataclass(frozen=True)
class Outcome:
    """Outcome of one file: ``"loaded"``, a status, or a failure (``bad``)."""

    kind: str
    bad: bool = False


def seeds() -> dict[str, bytes]:
    """Return intact image files by name."""
    photographs = sorted(ROOT.glob("examples/*/*/*.jpg"))[:3]
    pictures = []
    for path in photographs:
        with Image.open(path) as image:
            pictures.append(image.convert("RGB").resize((_SIDE, _SIDE * 3 // 4)))
    first, second, third = pictures
    alpha = Image.linear_gradient("L").resize(first.size)
    transparent = first.copy()
    transparent.putalpha(alpha)
    deep = Image.fromarray(np.asarray(first.convert("L")).astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    animation = {"save_all": True, "append_images": [second, third]}
    files = {
        "png": (first, "PNG", {}),
        "png_alpha": (transparent, "PNG", {"exif": exif, "icc_profile": profile}),
        "png_palette": (first.quantize(32), "PNG", {"transparency": 3}),
        "png_16": (deep, "PNG", {}),
        "png_animated": (first, "PNG", animation),
        "jpeg": (first, "JPEG", {"exif": exif, "icc_profile": profile}),
        "jpeg_progressive": (second, "JPEG", {"progressive": True}),
        "jpeg_cmyk": (third.convert("CMYK"), "JPEG", {}),
        "bmp": (first, "BMP", {}),
        "tiff": (first, "TIFF", {"exif": exif}),
        "tiff_lzw": (second, "TIFF", {"compression": "tiff_lzw"}),
        "tiff_jpeg": (third, "TIFF", {"compression": "jpeg"}),
        "tiff_float": (first.convert("F").point(lambda v: v / 255), "TIFF", {}),
        "tiff_pages": (first, "TIFF", {**animation, "compression": "tiff_adobe_deflate"}),
        "gif": (first, "GIF", {}),
        "gif_animated": (first, "GIF", animation),
        "ppm": (first, "PPM", {}),
        "pgm_16": (deep, "PPM", {}),
    }
    if features.check("webp"):
        files |= {
            "webp": (first, "WEBP", {"exif": exif}),
            "webp_lossless": (transparent, "WEBP", {"lossless": True}),
            "webp_animated": (first, "WEBP", animation),
        }
    if features.check("avif"):
        files["avif"] = (first, "AVIF", {"speed": 10})
    whole = {}
    for name, (image, kind, options) in files.items():
        file = BytesIO()
        image.save(file, kind, **options)
        whole[name] = file.getvalue()
    return whole


def mutated(whole: dict[str, bytes], seed: int, number: int) -> tuple[str, bytes]:
    """Return damaged file ``number`` of a seed, after the name of its original."""
    rng = np.random.default_rng([seed, number])
    names = sorted(whole)
    name = names[int(rng.integers(len(names)))]
    content = bytearray(whole[name])
    for _ in range(int(rng.integers(1, 4))):
        _damage(content, whole, rng)
    return name, bytes(content)


def _damage(content: bytearray, whole: dict[str, bytes], rng: np.random.Generator) -> None:
    length = len(content)
    if length < 2:
        return
    # Half of the damage hits headers, which control the decoders.
    reach = length if rng.random() < 0.5 else min(length, 256)
    start = int(rng.integers(reach))
    size = int(rng.integers(1, max(2, min(length, 4 ** int(rng.integers(1, 7))))))
    other = whole[sorted(whole)[int(rng.integers(len(whole)))]]
    kind = int(rng.integers(7))
    if kind == 0:  # bits
        for place in rng.integers(reach, size=int(rng.integers(1, 9))):
            content[place] ^= 1 << int(rng.integers(8))
    elif kind == 1:  # an extreme number
        value = _EXTREMES[int(rng.integers(len(_EXTREMES)))]
        width = (1, 2, 4)[int(rng.integers(3))]
        order = "big" if rng.random() < 0.5 else "little"
        content[start : start + width] = (value % 256**width).to_bytes(width, order)
    elif kind == 2:  # truncated
        del content[int(rng.integers(1, length)) :]
    elif kind == 3:  # removed
        del content[start : start + size]
    elif kind == 4:  # repeated
        content[start:start] = content[start : start + size]
    elif kind == 5:  # noise
        content[start : start + size] = rng.bytes(size)
    else:  # spliced with another file
        content[start:] = other[min(start, len(other) - 1) :]


def outcome(path: Path) -> Outcome:
    """Read a file as an image and as a mask, and check the result."""
    from vsm_fast.errors import InputError
    from vsm_fast.images.loading import load_image
    from vsm_fast.images.masks import load_mask

    begin = time.process_time()
    try:
        try:
            loaded = load_image(path)
        except InputError as error:
            result = Outcome(error.status.value)
        else:
            pixels, alpha = loaded.pixels, loaded.alpha
            good = pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
            good &= alpha is None or (alpha.dtype == bool and alpha.shape == pixels.shape[:2])
            result = Outcome("loaded") if good and pixels.size else Outcome("wrong arrays", True)
        try:
            load_mask(path, (_SIDE * 3 // 4, _SIDE))
        except InputError as error:
            if error.status.value != "bad_mask":
                result = Outcome(f"mask: {error.status.value}", bad=True)
    except Exception as error:  # a finding
        return Outcome(f"{type(error).__name__}: {error}"[:200], bad=True)
    spent = time.process_time() - begin
    return Outcome(f"took {spent:.1f} s", bad=True) if spent > CPU_SECONDS else result


def main() -> int:
    """Read many damaged files; return 1 if any is not handled."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, help="number of the first file")
    parser.add_argument("--keep", type=Path, help="folder for unhandled files")
    parser.add_argument("--reader", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.reader:
        _read(arguments.seed, arguments.start, arguments.count)
        return 0
    begin = time.perf_counter()
    kinds: Counter[str] = Counter()
    bad: list[tuple[int, str]] = []
    whole, peak, start = seeds(), 0, arguments.start
    last = arguments.start + arguments.count
    while start < last:  # a new reader after each crash
        for line in _reader_lines(arguments.seed, start, last - start):
            kinds[line["kind"]] += 1
            peak = max(peak, line["peak"])
            start = line["number"] + 1
            if line["bad"]:
                bad.append((line["number"], line["kind"]))
        if start < last:
            bad.append((start, "the reader crashed, hung or ran out of memory"))
            start += 1
    print(
        f"{arguments.count} files of seed {arguments.seed} in {time.perf_counter() - begin:.0f} s, "
        f"at most {peak / 2**20:.0f} MiB more memory"
    )
    for kind, count in kinds.most_common():
        print(f"{count:7} {kind}")
    for number, kind in bad:
        name, content = mutated(whole, arguments.seed, number)
        print(f"not handled: number {number} ({name}): {kind}")
        if arguments.keep is not None:
            arguments.keep.mkdir(parents=True, exist_ok=True)
            (arguments.keep / f"{arguments.seed}_{number}_{name}").write_bytes(content)
    return 1 if bad else 0


def _reader_lines(seed: int, start: int, count: int) -> Iterator[dict[str, Any]]:
    """Yield a reader's record of each file, until it has read all or dies."""
    command = [sys.executable, __file__, "--reader", "--seed", str(seed), "--start", str(start),
               "--count", str(count)]  # fmt: skip
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    reader = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # libtiff reports each damaged TIFF
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert reader.stdout is not None
    patience = START_SECONDS
    while True:
        timer = Timer(patience, reader.kill)
        timer.start()
        line = reader.stdout.readline()
        timer.cancel()
        if not line.endswith("\n"):
            break
        patience = WALL_SECONDS
        yield json.loads(line)
    reader.wait()


def _read(seed: int, start: int, count: int) -> None:
    """Read files and print one JSON object per line."""
    import vsm_fast.images.masks  # noqa: F401 - before the measurement of memory

    whole = seeds()
    status = Path("/proc/self/statm")
    if status.exists():  # elsewhere there is no limit
        held = int(status.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, held + MEMORY))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image"
        for number in range(start, start + count):
            path.write_bytes(mutated(whole, seed, number)[1])
            found = outcome(path)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
            line = {"number": number, "kind": found.kind, "bad": found.bad, "peak": peak}
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    sys.exit(main())
