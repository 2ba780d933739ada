"""Where the Triton kernels run in the tests: natively on a GPU, else interpreted on the CPU.

Triton reads ``TRITON_INTERPRET`` when a kernel's module is imported, so ``conftest.py`` sets it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vsm_fast.descriptors import Descriptors
from vsm_fast.matching.match import match
from vsm_fast.matching.matches import Matches

NATIVE = torch.cuda.is_available()
DEVICE = torch.device("cuda" if NATIVE else "cpu")
# The interpreter multiplies the raw bits of bfloat16 (Triton 3.9).
SIXTEEN_BIT = [torch.float16, torch.bfloat16] if NATIVE else [torch.float16]


def match_on_triton(
    source: Descriptors, target: Descriptors, pairs: Tensor, semantic_threshold: float
) -> Matches:
    """Match with path ``"triton"`` and bring the result to the CPU."""
    found = match(
        source.to(DEVICE),
        target.to(DEVICE),
        pairs,
        semantic_threshold,
        visual_thresholds=(0.2, 0.4),
        path="triton",
    )
    assert found.counts is not None
    return Matches(
        found.semantic_similarity.cpu(),
        found.target_index.cpu(),
        found.visual_similarity.cpu(),
        found.kept.cpu(),
        found.offsets,
        found.counts,
    )
