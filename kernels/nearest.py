"""First launch: cosine nearest neighbours of many ragged pairs, semantic and visual.

Similarities exist only tile by tile, in registers: each tile is reduced to one maximum (and
index) per row before the next. The maximum costs one instruction per product, the index about
three more, on units that are idle while the tensor cores work. The visual branch needs no index
and computes none.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Literal

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from vsm_fast.kernels.devices import launching_on, processors
from vsm_fast.kernels.schedule import ITEM_COLUMNS, Schedule

Precision = Literal["ieee", "tf32"]
Branch = tuple[Tensor, Tensor]
CLEARED = 1024  # integers that a program clears per step


@dataclass(frozen=True)
class NearestTiles:
    """Tile sizes and launch options of the kernel, selected by tuning.

    Attributes:
        queries: Source rows per tile; a power of two from 16.
        keys: Target rows per tile; a power of two from 16.
        channels: Channels per product; a power of two from 16. Only the last product is padded.
        warps: Warps per program.
        stages: Products with operands in flight.
        programs: Persistent programs per processor; 0 launches one program per item.
        descriptors: Load through tensor descriptors (the copy engine of sm_90 and later).
        registers: Register limit per thread on an NVIDIA GPU; 0 leaves it to the compiler, which
            keeps all column numbers in registers. With 128 it recomputes them, and two programs
            of eight warps fit on a processor.
    """

    queries: int = 128
    keys: int = 128
    channels: int = 64
    warps: int = 8
    stages: int = 3
    programs: int = 0
    descriptors: bool = False
    registers: int = 0

    def __post_init__(self) -> None:
        for name in ("queries", "keys", "channels"):
            size = getattr(self, name)
            if size < 16 or size & (size - 1):
                raise ValueError(f"{name} must be a power of two from 16; got {size}.")
        if self.warps not in (1, 2, 4, 8, 16) or self.stages < 1 or self.programs < 0:
            raise ValueError(
                "warps must be 1, 2, 4, 8 or 16, stages at least 1 and programs at least 0; got "
                f"{asdict(self)}."
            )
        if self.registers and not 32 <= self.registers <= 255:
            raise ValueError(f"registers must be 0 or from 32 to 255; got {self.registers}.")


@dataclass(frozen=True, eq=False)
class NearestParts:
    """Nearest targets per split, before the merge.

    Attributes:
        similarity: float32 [2, S, T], semantic and visual; -inf if a split has no target.
        index: int32 [2, S, T], first target row that attains it, within its image; -1 if there
            is none. Valid for the visual branch only with ``visual_index``.
    """

    similarity: Tensor
    index: Tensor


@triton.jit
def _inverse_length(squares):
    # The epsilon of torch.nn.functional.normalize: a row of zeros has similarity 0.
    return 1.0 / tl.maximum(tl.sqrt(squares), 1e-12)


@triton.jit
def _load_rows(
    source, first, last, width, start, channel,
    BLOCK: tl.constexpr, C: tl.constexpr, EVEN: tl.constexpr, DESCRIPTORS: tl.constexpr,
):  # fmt: skip
    """Load rows from ``first + start`` and channels from ``channel``: [BLOCK, C].

    Pointers repeat the last row beyond the end, which changes no maximum and, coming later, no
    index. Descriptors cannot; their callers ignore rows beyond the end.
    """
    if DESCRIPTORS:
        tile = source.load([first + start, channel])
    else:
        rows = first + tl.minimum(start + tl.arange(0, BLOCK), last)
        channels = channel + tl.arange(0, C)
        cells = source + rows.to(tl.int64)[:, None] * width + channels[None, :]
        if EVEN:  # noqa: SIM108 (the compiler takes no mask only where none is written)
            tile = tl.load(cells)
        else:
            tile = tl.load(cells, mask=channels[None, :] < width, other=0.0)
    return tile


@triton.jit
def _nearest_of_tile(
    query, key, q0, nq, k0, nk, skipped,
    D: tl.constexpr, Q: tl.constexpr, K: tl.constexpr, C: tl.constexpr,
    NORMALISED: tl.constexpr, PRECISION: tl.constexpr, DESCRIPTORS: tl.constexpr,
    INDEX: tl.constexpr,
):  # fmt: skip
    """Return the best target of ``Q`` rows: (similarity [Q], index [Q]).

    q0, k0: first source and target row; nq, nk: their numbers; skipped: target rows before ``k0``.
    """
    EVEN: tl.constexpr = D % C == 0
    columns = tl.arange(0, K)
    best = tl.full([Q], -float("inf"), tl.float32)
    index = tl.full([Q], -1, tl.int32)
    # Flattened: the next tile loads while this one is reduced.
    for start in tl.range(0, nk, K, flatten=True):
        # With descriptors the last tile is whole and ends with the last target: repeated rows do
        # not win again. It may begin before k0, within the same image.
        begin = tl.minimum(start, nk - K) if DESCRIPTORS else start
        products = tl.zeros([Q, K], tl.float32)
        squares = tl.zeros([K], tl.float32)
        for channel in range(0, D, C):
            q = _load_rows(query, q0, nq - 1, D, 0, channel, Q, C, EVEN, DESCRIPTORS)
            k = _load_rows(key, k0, nk - 1, D, begin, channel, K, C, EVEN, DESCRIPTORS)
            products = tl.dot(q, k.T, products, input_precision=PRECISION)
            if not NORMALISED:
                raw = k.to(tl.float32)
                squares += tl.sum(raw * raw, 1)
        if not NORMALISED:
            products *= _inverse_length(squares)[None, :]
        top = tl.max(products, 1)
        better = top > best  # strict: the first of equal targets wins; NaN never does
        if INDEX:
            first = tl.min(tl.where(products == top[:, None], columns[None, :], K), 1)
            # Should a repeated last row round upwards, it stands for the last row.
            index = tl.where(better, skipped + tl.minimum(begin + first, nk - 1), index)
        else:
            index = tl.where(better, skipped, index)  # marks that a target exists
        best = tl.where(better, top, best)
    if not NORMALISED:
        length = tl.zeros([Q], tl.float32)
        for channel in range(0, D, C):
            q = _load_rows(query, q0, nq - 1, D, 0, channel, Q, C, EVEN, DESCRIPTORS)
            raw = q.to(tl.float32)
            length += tl.sum(raw * raw, 1)
        # One factor per row does not move the maximum.
        best *= _inverse_length(length)
    return best, index


@triton.jit
def _clear(cells, n_cells, program, programs, VALUE: tl.constexpr, BLOCK: tl.constexpr):
    """Set this program's blocks of cells to ``VALUE``."""
    value = tl.full([BLOCK], VALUE, cells.dtype.element_ty)
    for block in range(program, tl.cdiv(n_cells, BLOCK), programs):
        at = tl.cast(block, tl.int64) * BLOCK + tl.arange(0, BLOCK)
        tl.store(cells + at, value, mask=at < n_cells)


# Sizes vary between batches; specialising on their divisors would recompile.
_SIZES = ["n_items", "n_points", "n_splits", "n_claims", "n_counts", "scale"]


@triton.jit(do_not_specialize=_SIZES)
def _nearest_kernel(
    semantic_query, semantic_key, visual_query, visual_key,  # [rows, D] or descriptors of them
    items, similarity, index,  # [I, 8], [2, S, T], [2, S, T]
    claims, counts,  # int64 [claims], int32 [counts]: cleared for the launches that follow
    n_items, n_points, n_splits, n_claims, n_counts,
    scale,
    D_SEMANTIC: tl.constexpr, D_VISUAL: tl.constexpr,
    Q: tl.constexpr, K: tl.constexpr, C: tl.constexpr,
    NORMALISED: tl.constexpr, PRECISION: tl.constexpr, DESCRIPTORS: tl.constexpr,
    VISUAL_INDEX: tl.constexpr, ITEM: tl.constexpr, CLEAR: tl.constexpr,
):  # fmt: skip
    """One program processes items ``program, program + programs, ...``."""
    program = tl.program_id(0)
    programs = tl.num_programs(0)
    _clear(claims, n_claims, program, programs, -(2**63), CLEAR)
    _clear(counts, n_counts, program, programs, 0, CLEAR)
    for item in range(program, n_items, programs):
        row = items + tl.cast(item, tl.int64) * ITEM
        branch = tl.load(row)
        q0 = tl.load(row + 1)
        nq = tl.load(row + 2)
        point = tl.load(row + 3)
        k0 = tl.load(row + 4)
        nk = tl.load(row + 5)
        skipped = tl.load(row + 6)
        split = tl.load(row + 7)
        points = tl.arange(0, Q)
        out = (branch * n_splits + split).to(tl.int64) * n_points + point + points
        # Two loops, because a pointer selected at run time loses its alignment. Two ifs, because
        # Triton 3.9 allocates the shared memory of both branches of an if-else.
        if branch == 0:
            best, found = _nearest_of_tile(
                semantic_query, semantic_key, q0, nq, k0, nk, skipped,
                D_SEMANTIC, Q, K, C, NORMALISED, PRECISION, DESCRIPTORS, True,
            )  # fmt: skip
            tl.store(similarity + out, best * scale, mask=points < nq)
            tl.store(index + out, found, mask=points < nq)
        if branch != 0:
            best, found = _nearest_of_tile(
                visual_query, visual_key, q0, nq, k0, nk, skipped,
                D_VISUAL, Q, K, C, NORMALISED, PRECISION, DESCRIPTORS, VISUAL_INDEX,
            )  # fmt: skip
            tl.store(similarity + out, best * scale, mask=points < nq)
            tl.store(index + out, found, mask=points < nq)


def nearest(
    semantic: Branch,
    visual: Branch,
    schedule: Schedule,
    *,
    claims: Tensor,
    counts: Tensor,
    tiles: NearestTiles,
    normalised: bool = True,
    precision: Precision = "ieee",
    visual_index: bool = False,
    scale: float = 1.0,
) -> NearestParts:
    """Find the nearest targets of all points of a batch.

    Args:
        semantic: Source and target rows, [rows, D_s] each, contiguous, of one floating type.
        visual: The same, [rows, D_v].
        schedule: Schedule planned for ``tiles``.
        claims: int64 [schedule.claims], output: cleared to the smallest integer.
        counts: int32 [n], output: cleared to 0.
        tiles: Tiles and launch options. Pointers replace tensor descriptors if a row is no
            multiple of 16 bytes or a target is smaller than a tile.
        normalised: Whether rows have unit length; if not, the kernel computes lengths.
        precision: Precision of float32 products; ``"tf32"`` keeps 10 bits of each mantissa.
        visual_index: Compute the index of the visual branch too.
        scale: Factor of the similarities, for rows scaled to fit a small type.

    Returns:
        Best similarity and index per split.
    """
    shape = (2, schedule.splits, schedule.points)
    device = schedule.items.device
    parts = NearestParts(
        torch.empty(shape, dtype=torch.float32, device=device),
        torch.empty(shape, dtype=torch.int32, device=device),
    )
    describable = schedule.fewest_keys >= tiles.keys and all(
        rows.stride(0) * rows.element_size() % 16 == 0 and rows.data_ptr() % 16 == 0
        for rows in (*semantic, *visual)
    )
    if not describable:
        tiles = replace(tiles, descriptors=False)
    n_items = len(schedule.items)
    programs = tiles.programs * processors(device)
    # A register limit would spill where the last product is masked.
    masked = not tiles.descriptors and any(
        rows.shape[1] % tiles.channels for rows in (semantic[0], visual[0])
    )
    limited = tiles.registers and not masked and torch.version.hip is None
    limits = {"maxnreg": tiles.registers} if limited else {}
    grid = min(n_items, programs) if programs else n_items
    with launching_on(device):
        _nearest_kernel[(grid,)](
            *_rows(semantic, tiles), *_rows(visual, tiles),
            schedule.items, parts.similarity, parts.index, claims, counts,
            n_items, schedule.points, schedule.splits, len(claims), counts.numel(), scale,
            D_SEMANTIC=semantic[0].shape[1], D_VISUAL=visual[0].shape[1],
            Q=tiles.queries, K=tiles.keys, C=tiles.channels,
            NORMALISED=normalised, PRECISION=precision, DESCRIPTORS=tiles.descriptors,
            VISUAL_INDEX=visual_index, ITEM=len(ITEM_COLUMNS), CLEAR=CLEARED,
            num_warps=tiles.warps, num_stages=tiles.stages, enable_fp_fusion=True, **limits,
        )  # fmt: skip
    return parts


def _rows(branch: Branch, tiles: NearestTiles) -> tuple[Tensor | TensorDescriptor, ...]:
    """Return the pointers or descriptors of source and target rows."""
    if not tiles.descriptors:
        return branch
    return tuple(
        TensorDescriptor.from_tensor(rows, [height, tiles.channels])
        for rows, height in zip(branch, (tiles.queries, tiles.keys), strict=True)
    )
