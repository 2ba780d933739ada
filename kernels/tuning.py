"""Choice of tiles, and of the fused search or torch's products, by measurement.

A file in ``tuned/`` holds the measurements of ``python -m vsm_fast.kernels.tune`` on one GPU model.
The entry of the nearest shape decides; without measurements, a default by the GPU's capacity.
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
    """Search configuration of a batch.

    Attributes:
        tiles: Tiles of the fused kernel.
        gemm: Use torch's products instead of the fused kernel.
        reason: Short reason of the choice.
    """

    tiles: NearestTiles
    gemm: bool
    reason: str


@dataclass(frozen=True)
class TunedEntry:
    """Measurement of one shape.

    Attributes:
        dtype: Type of the rows, such as ``"float16"``.
        channels: Channels per row.
        points: Points per subject.
        tiles: Fastest tiles.
        fused_us: Microseconds of the fused search with these tiles, for ``pairs`` pairs.
        gemm_us: The same for torch's products with a reduction; infinite if not measured.
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
    """Measurements on one GPU model, with provenance.

    Attributes:
        gpu: Name of the device.
        provenance: Driver, versions of torch and Triton, date, commit.
        entries: One entry per shape.
    """

    gpu: str
    provenance: dict[str, str]
    entries: tuple[TunedEntry, ...]

    @staticmethod
    def read(path: Path) -> TunedGPU:
        """Read a file.

        Raises:
            ValueError: If it is damaged or of another version.
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
                f"{path} is no file of tuned tiles ({type(error).__name__}: {error}). Delete it "
                "or recreate it with python -m vsm_fast.kernels.tune."
            ) from error

    def json(self) -> str:
        """Return the content of the file."""
        raw = {
            "schema": _SCHEMA,
            "gpu": self.gpu,
            "provenance": self.provenance,
            "entries": [{**vars(entry), "tiles": vars(entry.tiles)} for entry in self.entries],
        }
        return json.dumps(raw, indent=1) + "\n"


def file_name(gpu: str) -> str:
    """Return the file name of a GPU model."""
    return "-".join("".join(c if c.isalnum() else " " for c in gpu.lower()).split()) + ".json"


def choose(dtype: torch.dtype, channels: int, points: int, device: torch.device) -> Choice:
    """Choose the search configuration of a batch.

    Args:
        dtype: Type of the rows.
        channels: Channels per row.
        points: Points of the largest target.
        device: Device of the rows.

    Raises:
        ValueError: If the file of this GPU is damaged.
    """
    if device.type == "cpu":  # large tiles: the interpreter is slow per tile
        tiles = NearestTiles(256, 256, 128) if points > 64 else NearestTiles(32, 32, 32)
        return Choice(tiles, False, "interpreted")
    gpu = torch.cuda.get_device_name(device)
    name = str(dtype).removeprefix("torch.")
    return _choose(gpu, name, channels, points) or default(dtype, device)


def _choose(
    gpu: str, dtype: str, channels: int, points: int, folder: Path = TUNED
) -> Choice | None:
    """Return the choice of the nearest measured shape of the type; None without one."""
    tuned = _read(folder / file_name(gpu))
    entries = [entry for entry in tuned.entries if entry.dtype == dtype] if tuned else []
    if not entries:
        return None

    def distance(entry: TunedEntry) -> float:
        ratios = (max(1, points) / entry.points, channels / entry.channels)
        return math.hypot(*map(math.log, ratios))

    best = min(entries, key=distance)
    gemm = best.gemm_us < best.fused_us
    faster = "torch's products" if gemm else "fused"
    shape = f"{best.points} points of {best.channels} channels in {best.dtype}"
    return Choice(best.tiles, gemm, f"{faster}, as measured on {gpu} for {shape}")


@cache
def _read(path: Path) -> TunedGPU | None:
    return TunedGPU.read(path) if path.exists() else None


def default(dtype: torch.dtype, device: torch.device) -> Choice:
    """Return the configuration of an untuned GPU, by its capacity."""
    properties = torch.cuda.get_device_properties(device)
    tiles = default_tiles(
        dtype,
        major=properties.major,
        shared=getattr(properties, "shared_memory_per_block_optin", 48 << 10),
        amd=torch.version.hip is not None,
    )
    # An unmeasured assumption: without tensor cores, and with little memory traffic relative to
    # arithmetic, the vendor's library is fastest.
    gemm = dtype == torch.float32
    way = "torch's products" if gemm else "default tiles"
    return Choice(tiles, gemm, f"not tuned for {properties.name}: {way}")


def default_tiles(dtype: torch.dtype, *, major: int, shared: int, amd: bool) -> NearestTiles:
    """Return tiles that compile without spills, as the ahead-of-time tests verify.

    Args:
        dtype: Type of the rows.
        major: Major compute capability of an NVIDIA GPU.
        shared: Shared memory per program on an NVIDIA GPU, in bytes.
        amd: Whether the GPU is AMD's.
    """
    if dtype == torch.float32:
        return NearestTiles(64, 64, 32, warps=8, stages=2 if amd else 3)
    if amd:
        return NearestTiles(128, 128, 64, warps=8, stages=2)
    if shared < 99 << 10:  # operands of a tile in three stages
        return NearestTiles(64, 64, 64, warps=4, stages=2)
    if major >= 10:  # products have their own memory: two programs fit without a limit
        return NearestTiles(128, 128, 64, warps=4, stages=3, descriptors=True)
    return NearestTiles(128, 128, 64, warps=8, stages=3, registers=128, descriptors=major == 9)
