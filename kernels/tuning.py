"""Which tiles, and whether the fused search at all: measurements decide, not GPU names in code.

A file in ``tuned/`` holds what ``python -m vsm_fast.kernels.tune`` measured on one kind of GPU. The
entry whose shape is nearest decides; where nothing was measured, a default that only looks at what
the GPU can hold.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from vsm_fast.kernels.nearest import NearestTiles

TUNED = Path(__file__).with_name("tuned")
_SCHEMA = 1


@dataclass(frozen=True)
class Choice:
    """How a batch is searched.

    Attributes:
        tiles: How the fused kernel cuts its work.
        gemm: Whether products of torch were measured to be faster than the fused kernel.
        reason: Where this comes from, in a few words.
    """

    tiles: NearestTiles
    gemm: bool
    reason: str


@dataclass(frozen=True)
class TunedEntry:
    """What was measured for one shape.

    Attributes:
        dtype: Name of the rows' type, as ``"float16"``.
        channels: Channels of a row.
        points: Points of a subject.
        tiles: The fastest tiles.
        fused_us: Microseconds of the fused search with these tiles, for ``pairs`` pairs.
        gemm_us: The same of matrix products of torch with a reduction; infinite if not measured.
        pairs: Pairs in the measured batch.
    """

    dtype: str
    channels: int
    points: int
    tiles: NearestTiles
    fused_us: float
    gemm_us: float
    pairs: int


@dataclass(frozen=True)
class TunedGPU:
    """All entries of one kind of GPU, and how they came about.

    Attributes:
        gpu: The device's name.
        provenance: Driver, versions of torch and Triton, date, commit.
        entries: One for each shape.
    """

    gpu: str
    provenance: dict[str, str]
    entries: tuple[TunedEntry, ...]

    @staticmethod
    def read(path: Path) -> TunedGPU:
        """Read a file.

        Raises:
            ValueError: It is damaged or of another version; says which file and what is wrong.
        """
        try:
            raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if raw["schema"] != _SCHEMA:
                raise ValueError(f"schema {raw['schema']}, this version reads {_SCHEMA}")
            entries = tuple(
                TunedEntry(**{**entry, "tiles": NearestTiles(**entry["tiles"])})
                for entry in raw["entries"]
            )
            return TunedGPU(str(raw["gpu"]), dict(raw["provenance"]), entries)
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} is no file of tuned tiles ({type(error).__name__}: {error}). Delete it, "
                "or write it anew with python -m vsm_fast.kernels.tune."
            ) from error

    def json(self) -> str:
        """The file's text."""
        raw = {
            "schema": _SCHEMA,
            "gpu": self.gpu,
            "provenance": self.provenance,
            "entries": [{**vars(entry), "tiles": vars(entry.tiles)} for entry in self.entries],
        }
        return json.dumps(raw, indent=1) + "\n"


def file_name(gpu: str) -> str:
    """Name of the file in which a kind of GPU is tuned."""
    return "-".join("".join(c if c.isalnum() else " " for c in gpu.lower()).split()) + ".json"


def choose(dtype: torch.dtype, channels: int, points: int, device: torch.device) -> Choice:
    """Choose how to search.

    Args:
        dtype: Of the rows that are searched.
        channels: Of a row.
        points: Of the largest target.
        device: Where the rows are.

    Raises:
        ValueError: The file of this GPU is damaged.
    """
    if device.type == "cpu":  # large tiles, because the interpreter takes its time for each
        tiles = NearestTiles(256, 256, 128) if points > 64 else NearestTiles(32, 32, 32)
        return Choice(tiles, False, "interpreted")
    gpu = torch.cuda.get_device_name(device)
    return _choose(gpu, _name(dtype), channels, points) or default(dtype, device)


def _choose(
    gpu: str, dtype: str, channels: int, points: int, folder: Path = TUNED
) -> Choice | None:
    """The nearest measured shape of the same type; None if there is none."""
    tuned = _read(folder / file_name(gpu))
    entries = [entry for entry in tuned.entries if entry.dtype == dtype] if tuned else []
    if not entries:
        return None

    def distance(entry: TunedEntry) -> float:
        ratios = (max(1, points) / entry.points, channels / entry.channels)
        return math.hypot(*map(math.log, ratios))

    best = min(entries, key=distance)
    gemm = best.gemm_us < best.fused_us
    faster = "products of torch" if gemm else "fused"
    shape = f"{best.points} points of {best.channels} channels in {best.dtype}"
    return Choice(best.tiles, gemm, f"{faster}, as measured on {gpu} for {shape}")


@cache
def _read(path: Path) -> TunedGPU | None:
    return TunedGPU.read(path) if path.exists() else None


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def default(dtype: torch.dtype, device: torch.device) -> Choice:
    """How to search on a GPU that nobody has tuned, from what it can hold."""
    properties = torch.cuda.get_device_properties(device)
    tiles = default_tiles(
        dtype,
        major=properties.major,
        shared=getattr(properties, "shared_memory_per_block_optin", 48 << 10),
        amd=torch.version.hip is not None,
    )
    # An assumption, not a measurement: without tensor cores, and with traffic to memory small
    # beside the arithmetic, the vendor's library is at its best.
    gemm = dtype == torch.float32
    way = "products of torch" if gemm else "default tiles"
    return Choice(tiles, gemm, f"not tuned for {properties.name}: {way}")


def default_tiles(dtype: torch.dtype, *, major: int, shared: int, amd: bool) -> NearestTiles:
    """Tiles that compile without spilling, which the ahead-of-time tests check.

    Args:
        dtype: Of the rows that are searched.
        major: Of an NVIDIA GPU's compute capability.
        shared: Bytes of shared memory that a program can have on an NVIDIA GPU.
        amd: Whether it is a GPU of AMD.
    """
    if dtype == torch.float32:
        return NearestTiles(64, 64, 32, warps=8, stages=2 if amd else 3)
    if amd:
        return NearestTiles(128, 128, 64, warps=8, stages=2)
    if shared < 99 << 10:  # what a tile's operands take in three stages
        return NearestTiles(64, 64, 64, warps=4, stages=2)
    if major >= 10:  # products have a memory of their own there: two programs fit without a limit
        return NearestTiles(128, 128, 64, warps=4, stages=3, descriptors=True)
    return NearestTiles(128, 128, 64, warps=8, stages=3, registers=128, descriptors=major == 9)
