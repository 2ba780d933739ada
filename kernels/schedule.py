"""Schedule of a batch of pairs: the rows of each program of a kernel.

The host computes it from its offsets, so a batch needs one copy to the device, no
synchronisation, and launches of known sizes, which a CUDA graph can capture. The tables absorb
ragged sizes; the kernels see whole items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Columns of the tables; kernels index them by position.
ITEM_COLUMNS = ("branch", "query", "queries", "point", "key", "keys", "skipped", "split")
BLOCK_COLUMNS = ("pair", "point", "points", "claim", "query", "key")
_MOST = 2**31 - 1 - 2**16  # int32, to which kernels add up to one tile
POINTS_PER_BLOCK = 256  # of claim and count; larger blocks idle on small subjects


@dataclass(frozen=True, eq=False)
class Schedule:
    """Work tables of ``P`` pairs with ``T`` source points in total.

    Attributes:
        items: int32 [I, 8], work of ``nearest``: branch (0 semantic, 1 visual); first source row
            and number of rows (at most a tile); first output point; first target row and number
            of rows; preceding target rows of the image; split.
        runs: int64 [R, 5] on the CPU, consecutive source rows with a common target: first source
            row, source rows, first point, first target row, target rows.
        blocks: int32 [B, 6], work of ``claim`` and ``count``: pair; first point and number of
            points; first claim of the pair; source row of the first point; first target row.
        offsets: int64 [P + 1] on the CPU; pair ``p`` owns points ``offsets[p]:offsets[p+1]``.
        claims: Number of target points, summed over pairs.
        splits: Number of parts of each item's targets.
        fewest_keys: Points of the smallest non-empty target; 0 if all are empty.
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

    Consecutive source rows with a common target form a run and fill tiles together, so small
    subjects waste no lanes. The tiles of a run are adjacent, so concurrent programs read the same
    target from the L2 cache. With fewer tiles than processors, the targets are split.

    Args:
        source_offsets: int64 [S + 1] on the CPU, rows of each source image.
        target_offsets: int64 [R + 1] on the CPU, rows of each target image.
        pairs: int64 [P, 2] on the CPU, (source image, target image).
        device: Device of the kernels.
        tile_queries: Maximum source rows per item.
        tile_keys: Target rows per tile; splits are multiples of it.
        processors: Programs that the device runs concurrently.

    Returns:
        The schedule, with tables on ``device``.

    Raises:
        ValueError: If the batch exceeds the range of the tables.
    """
    sources, targets = pairs.numpy().T
    bounds, key_bounds = source_offsets.numpy(), target_offsets.numpy()
    starts, counts = bounds[sources], np.diff(bounds)[sources]
    key_starts, key_counts = key_bounds[targets], np.diff(key_bounds)[targets]
    offsets = np.concatenate([[0], counts.cumsum()])
    claims = np.concatenate([[0], key_counts.cumsum()])
    runs = _runs(targets, starts, counts, offsets, key_starts, key_counts)
    if max(offsets[-1], claims[-1]) > _MOST:
        raise ValueError(
            f"a batch can have at most {_MOST:,} source points and as many target points, summed "
            f"over pairs; got {offsets[-1]:,} and {claims[-1]:,}. Match fewer pairs per call."
        )
    items, splits = _items(runs, tile_queries, tile_keys, processors)
    blocks = _blocks(starts, counts, offsets, claims, key_starts)
    tables = torch.from_numpy(np.concatenate([items.ravel(), blocks.ravel()]).astype(np.int32))
    if device.type == "cuda":  # pinned: the copy does not wait for the device
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


def _runs(
    targets: _Rows,
    starts: _Rows,
    counts: _Rows,
    offsets: _Rows,
    key_starts: _Rows,
    key_counts: _Rows,
) -> _Rows:
    """Return the table ``Schedule.runs``."""
    if len(targets) == 0:
        return np.empty((0, 5), np.int64)
    follows = (targets[1:] == targets[:-1]) & (starts[1:] == starts[:-1] + counts[:-1])
    first = np.concatenate([[0], np.flatnonzero(~follows) + 1])
    rows = np.add.reduceat(counts, first)
    runs = np.stack([starts[first], rows, offsets[first], key_starts[first], key_counts[first]], 1)
    return runs[rows > 0]


def _items(runs: _Rows, tile_queries: int, tile_keys: int, processors: int) -> tuple[_Rows, int]:
    """Return the items (ordered by run, branch, split, rows) and the number of splits."""
    tiles = -(-runs[:, 1] // tile_queries)
    key_tiles = -(-runs[:, 4] // tile_keys)
    work = 2 * int(tiles.sum())
    most = max(1, int(key_tiles.max(initial=1)))
    splits = max(1, min(processors // max(work, 1), most))
    splits = -(-most // -(-most // splits))  # the fewest with the same longest split
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
    """Return the blocks of points, each within one pair."""
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
