"""Nearest neighbours by torch's matrix products, the alternative to the fused kernel.

Blocks of similarities pass through memory here. This still wins where the vendor's products are
much faster than the compiler's, such as float32 without tensor cores. Measurements decide per
shape (:mod:`vsm_fast.kernels.tuning`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vsm_fast.kernels.nearest import Branch, NearestParts
from vsm_fast.kernels.schedule import Schedule
from vsm_fast.torch_state import pinned

_MM_SUMS_IN_FLOAT32 = "dtype" in torch.ops.aten.mm.overloads()  # torch.mm(out_dtype=), torch 2.8
_BLOCK_ELEMENTS = 1 << 24  # 64 MiB of float32 similarities per block


@pinned()
def nearest_gemm(
    semantic: Branch,
    visual: Branch,
    schedule: Schedule,
    *,
    claims: Tensor,
    counts: Tensor,
    normalised: bool = True,
) -> NearestParts:
    """Find nearest targets as :func:`vsm_fast.kernels.nearest.nearest` does, without splits.

    Args:
        semantic: Source and target rows [rows, D_s].
        visual: The same, [rows, D_v].
        schedule: Schedule of the batch, of which the runs are used.
        claims: int64 [schedule.claims], output: cleared to the smallest integer.
        counts: int32 [n], output: cleared to 0.
        normalised: Whether rows have unit length.
    """
    claims.fill_(torch.iinfo(torch.int64).min)
    counts.zero_()
    device = schedule.items.device
    similarity = torch.full((2, 1, schedule.points), -torch.inf, device=device)
    index = torch.full((2, 1, schedule.points), -1, dtype=torch.int32, device=device)
    for branch, (query, key) in enumerate((semantic, visual)):
        if not normalised:
            query, key = (F.normalize(rows.float(), dim=1).to(rows.dtype) for rows in (query, key))
        for q0, rows, point, k0, keys in schedule.runs.tolist():
            height = max(1, _BLOCK_ELEMENTS // max(keys, 1))
            for done in range(0, rows if keys else 0, height):
                size = min(height, rows - done)
                products = _products(query[q0 + done :][:size], key[k0 : k0 + keys])
                # NaN is never the best; -inf means no target for claim().
                best, first = products.nan_to_num_(-torch.inf, torch.inf, -torch.inf).max(1)
                out = slice(point + done, point + done + size)
                similarity[branch, 0, out] = best
                index[branch, 0, out] = first.int()
    return NearestParts(similarity, index)


def _products(query: Tensor, key: Tensor) -> Tensor:
    """Return float32 [rows, keys], with sums of 16-bit products in full precision."""
    if query.dtype != torch.float32 and query.device.type == "cuda" and _MM_SUMS_IN_FLOAT32:
        return torch.mm(query, key.T, out_dtype=torch.float32)
    return query.float() @ key.float().T
