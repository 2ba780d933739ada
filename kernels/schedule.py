"""The schedule of a batch of pairs: which rows each program of a kernel works on.

Made on the host from offsets that are on the host, so that a whole batch needs one copy to the
device, no synchronisation, and launches whose sizes are known: they can be captured in a CUDA
graph. The tables are the place where ragged sizes are dealt with; the kernels see whole items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Columns of the tables; the kernels read them by these positions.
ITEM_COLUMNS = ("branch", "query", "queries", "point", "key", "keys", "skipped", "split")
BLOCK_COLUMNS = ("pair", "point", "points", "claim", "query", "key")
_MOST = 2**31 - 1 - 2**16  # the tables hold int32, and kernels add up to a tile to it
POINTS_PER_BLOCK = 256  # of claim and count; more would leave lanes idle where subjects are small


@dataclass(frozen=True, eq=False)
class Schedule:
    """The work of matching ``P`` pairs with ``T`` source points in all.

    Attributes:
        items: int32 [I, 8], work of ``nearest``: branch (0 semantic, 1 visual); first row and
            number of source rows (at most a tile); first of their points in the output; first
            row and number of target rows; target rows of the image before these; split.
        runs: int64 [R, 5] on the CPU: source rows that follow each other and share a target:
            first source row, source rows, first point, first target row, target rows.
        blocks: int32 [B, 6], work of ``claim`` and ``count``: pair; first point and number of
            points; first claim of the pair; its first source row for that point; first target row.
        offsets: int64 [P + 1] on the CPU; pair ``p`` owns points ``offsets[p]:offsets[p+1]``.
        claims: Number of target points, counted once for each pair.
        splits: Into how many parts the targets of each item are divided.
        fewest_keys: Points of the smallest target that is not empty; 0 if all are.
    """

    items: Tensor
    runs: Tensor
    blocks: Tensor
    offsets: Tensor
    claims: int
    splits: int
    fewest_keys: int

    @property
    def points(self) -> int:
        """Number of source points, ``T``."""
        return int(self.offsets[-1])

    @property
    def pairs(self) -> int:
        """Number of pairs, ``P``."""
        return len(self.offsets) - 1


def plan(
    source_offsets: Tensor,
    target_offsets: Tensor,
    pairs: Tensor,
    device: torch.device,
    *,
    tile_queries: int,
    tile_keys: int,
    processors: int,
) -> Schedule:
    """Plan the work of a batch.

    Source rows of successive pairs that have the same target and follow each other are one run:
    they fill tiles together, however small the subjects are. All tiles of a run stand together,
    so that programs that run at the same time read the same target from the second-level cache.
    When there are fewer tiles than processors, the targets of each tile are split.

    Args:
        source_offsets: int64 [S + 1] on the CPU, rows of each source image.
        target_offsets: int64 [R + 1] on the CPU, rows of each target image.
        pairs: int64 [P, 2] on the CPU, (source image, target image).
        device: Where the kernels will run.
        tile_queries: Source rows of an item at most.
        tile_keys: Target rows that are compared at once; splits are multiples of it.
        processors: Programs that the device runs at once.

    Returns:
        The schedule, its tables on ``device``.
    """
    sources, targets = pairs.numpy().T
    starts, counts = _ranges(source_offsets, sources)
    key_starts, key_counts = _ranges(target_offsets, targets)
    offsets = np.concatenate([[0], counts.cumsum()])
    claims = np.concatenate([[0], key_counts.cumsum()])
    runs = _runs(targets, starts, counts, offsets, key_starts, key_counts)
    if max(offsets[-1], claims[-1]) > _MOST:
        raise ValueError(
            f"a batch can have at most {_MOST:,} source points and as many target points, counted "
            f"once for each pair; got {offsets[-1]:,} and {claims[-1]:,}. Match fewer pairs a call."
        )
    items, splits = _items(runs, tile_queries, tile_keys, processors)
    blocks = _blocks(starts, counts, offsets, claims, key_starts)
    tables = torch.from_numpy(np.concatenate([items.ravel(), blocks.ravel()]).astype(np.int32))
    if device.type == "cuda":  # pinned, so that the copy does not wait for the device
        tables = tables.pin_memory().to(device, non_blocking=True)
    return Schedule(
        items=tables[: items.size].view(-1, len(ITEM_COLUMNS)),
        runs=torch.from_numpy(runs),
        blocks=tables[items.size :].view(-1, len(BLOCK_COLUMNS)),
        offsets=torch.from_numpy(offsets),
        claims=int(claims[-1]),
        splits=splits,
        fewest_keys=int(key_counts[key_counts > 0].min()) if key_counts.any() else 0,
    )


_Rows = NDArray[np.int64]


def _ranges(offsets: Tensor, images: _Rows) -> tuple[_Rows, _Rows]:
    """First row and number of rows of each image."""
    bounds = offsets.numpy()
    return bounds[images], np.diff(bounds)[images]


def _runs(
    targets: _Rows,
    starts: _Rows,
    counts: _Rows,
    offsets: _Rows,
    key_starts: _Rows,
    key_counts: _Rows,
) -> _Rows:
    """[runs, 5]: first source row, source rows, first point, first target row, target rows."""
    if len(targets) == 0:
        return np.empty((0, 5), np.int64)
    follows = (targets[1:] == targets[:-1]) & (starts[1:] == starts[:-1] + counts[:-1])
    first = np.concatenate([[0], np.flatnonzero(~follows) + 1])
    rows = np.add.reduceat(counts, first)
    runs = np.stack([starts[first], rows, offsets[first], key_starts[first], key_counts[first]], 1)
    return runs[rows > 0]


def _items(runs: _Rows, tile_queries: int, tile_keys: int, processors: int) -> tuple[_Rows, int]:
    """Table of items (run by run, then branch, split and rows) and the number of splits."""
    tiles = -(-runs[:, 1] // tile_queries)
    key_tiles = -(-runs[:, 4] // tile_keys)
    work = 2 * int(tiles.sum())
    most = max(1, int(key_tiles.max(initial=1)))
    splits = max(1, min(processors // max(work, 1), most))
    splits = -(-most // -(-most // splits))  # as few as give the same longest split
    each = tiles * splits * 2
    run = np.repeat(np.arange(len(runs)), each)
    within = np.arange(len(run)) - np.repeat(each.cumsum() - each, each)
    within, tile = np.divmod(within, tiles[run])
    branch, split = np.divmod(within, splits)
    query, rows, point, key, keys = runs[run].T
    done = tile * tile_queries
    skipped = np.minimum(split * -(-key_tiles[run] // splits) * tile_keys, keys)
    following = np.minimum((split + 1) * -(-key_tiles[run] // splits) * tile_keys, keys)
    columns = (
        branch,
        query + done,
        np.minimum(rows - done, tile_queries),
        point + done,
        key + skipped,
        following - skipped,
        skipped,
        split,
    )
    return np.stack(columns, 1), splits


def _blocks(
    starts: _Rows, counts: _Rows, offsets: _Rows, claims: _Rows, key_starts: _Rows
) -> _Rows:
    """Table of blocks of points, each within one pair."""
    each = -(-counts // POINTS_PER_BLOCK)
    pair = np.repeat(np.arange(len(counts)), each)
    done = (np.arange(len(pair)) - np.repeat(each.cumsum() - each, each)) * POINTS_PER_BLOCK
    columns = (
        pair,
        offsets[pair] + done,
        np.minimum(counts[pair] - done, POINTS_PER_BLOCK),
        claims[pair],
        starts[pair] + done,
        key_starts[pair],
    )
    return np.stack(columns, 1)
