"""Which tiles to use."""

from dataclasses import dataclass

from vsm_fast.kernels.nearest import NearestTiles


@dataclass(frozen=True)
class Choice:
    tiles: NearestTiles
    gemm: bool
    reason: str


def choose(dtype, channels, points, device):
    return Choice(NearestTiles(64, 64, 64), False, "interpreted")
