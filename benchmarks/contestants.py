"""Contestants in matching: vsm_fast, its peers, and the matrix product alone.

Each is prepared for a workload, then runs both branches, semantic and visual, of every pair.
Peers only find nearest neighbours; ``vsm_fast`` also resolves duplicate matches.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear, normalize
from workloads import Workload

from vsm_fast.matching.match import Matches, match, match_eager

THRESHOLD = 0.14  # about half of these workloads' best similarities exceed it
KEOPS_MOST = 1 << 20  # points times points
TOLERANCE = 2e-6  # float32 rounding of a sum over 384 channels


@dataclass(frozen=True)
class Contestant:
    """Implementation of matching, prepared for one workload.

    Attributes:
        run: Timed function.
        check: Function that compares the result of ``run`` with that of ``match_eager``.
    """

    run: Callable[[], Any]
    check: Callable[[Any, Matches], None]


def checked(name: str, workload: Workload) -> Contestant:
    """Prepare a contestant and check its results.

    Raises:
        pytest.skip.Exception: If it cannot run here.
        AssertionError: If its results differ from those of ``match_eager``.
    """
    contestant = CONTESTANTS[name](workload)
    expected = match_eager(workload.source, workload.target, workload.pairs, THRESHOLD)
    contestant.check(contestant.run(), expected)
    return contestant


def _gemm(workload: Workload) -> Contestant:
    """Run the float32 products alone, into preallocated memory: the roofline."""
    branches = workload.branches()
    out = torch.empty(branches[0][0].shape[0], branches[0][1].shape[0])

    def run() -> Tensor:
        for query, key in branches:
            torch.mm(query, key.T, out=out)
        return out

    return Contestant(run, _check_last_product)


def _gemm_onednn(workload: Workload) -> Contestant:
    """Run the float32 products alone with oneDNN, from and to its own layout."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this build of torch has no oneDNN")
    branches = [(query.to_mkldnn(), key.to_mkldnn()) for query, key in workload.branches()]

    def run() -> Tensor:
        for query, key in branches:
            out = linear(query, key)
        return out

    return Contestant(run, lambda out, expected: _check_last_product(out.to_dense(), expected))


def _nearest(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    query, key = normalize(query, dim=1), normalize(key, dim=1)
    best = (query @ key.T).max(1)
    return best.values, best.indices


def _naive(workload: Workload) -> Contestant:
    branches = workload.branches()
    return Contestant(
        lambda: [_nearest(query, key) for query, key in branches],
        partial(_check_nearest, workload),
    )


def _compiled(workload: Workload) -> Contestant:
    """Run the naive function through torch.compile; compilation is not timed."""
    _need_compiler("torch.compile")
    branches = workload.branches()
    nearest = torch.compile(_nearest, dynamic=False)
    return Contestant(
        lambda: [nearest(query, key) for query, key in branches],
        partial(_check_nearest, workload),
    )


def _faiss(workload: Workload) -> Contestant:
    faiss = pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    faiss.omp_set_num_threads(torch.get_num_threads())
    branches = [(query.numpy(), key.numpy()) for query, key in workload.branches()]

    def run() -> list[tuple[Tensor, Tensor]]:
        found = []
        for query, key in branches:
            index = faiss.IndexFlatIP(key.shape[1])
            index.add(key)
            similarity, position = index.search(query, 1)
            found.append((torch.from_numpy(similarity[:, 0]), torch.from_numpy(position[:, 0])))
        return found

    return Contestant(run, partial(_check_nearest, workload))


def _keops(workload: Workload) -> Contestant:
    """Run KeOps' matrix-free reduction; compilation is not timed."""
    if workload.comparisons > KEOPS_MOST:
        pytest.skip("KeOps takes seconds per call here: over 100 x the GEMM; see smaller shapes")
    _need_compiler("KeOps")
    lazy = pytest.importorskip("pykeops.torch", reason="pykeops is not installed").LazyTensor
    branches = workload.branches()

    def run() -> list[tuple[Tensor, Tensor]]:
        found = []
        for query, key in branches:
            similarity = lazy(query[:, None]) | lazy(key[None])
            best, position = similarity.max_argmax(dim=1)
            found.append((best[:, 0], position[:, 0]))
        return found

    return Contestant(run, partial(_check_nearest, workload))


def _vsm_fast(workload: Workload) -> Contestant:
    pairs = workload.pairs

    def check(found: Matches, expected: Matches) -> None:
        for name in ("semantic_similarity", "visual_similarity"):
            ours, theirs = getattr(found, name), getattr(expected, name)
            torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=0)
        assert torch.equal(found.kept, expected.kept)

    return Contestant(lambda: match(workload.source, workload.target, pairs, THRESHOLD), check)


CONTESTANTS: dict[str, Callable[[Workload], Contestant]] = {
    "gemm": _gemm,
    "gemm_onednn": _gemm_onednn,
    "naive": _naive,
    "torch_compile": _compiled,
    "faiss": _faiss,
    "keops": _keops,
    "vsm_fast": _vsm_fast,
}


def _need_compiler(library: str) -> None:
    if not any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))):
        pytest.skip(f"{library} needs a C++ compiler; none found")


def _check_last_product(product: Tensor, expected: Matches) -> None:
    best = product.amax(1)
    last = expected.visual_similarity[-len(best) :]
    torch.testing.assert_close(best, last, atol=TOLERANCE, rtol=0)


def _check_nearest(
    workload: Workload, found: list[tuple[Tensor, Tensor]], expected: Matches
) -> None:
    """Check similarities, and that the positions attain them (any of equal ones)."""
    sizes = workload.source.offsets.diff().tolist()
    expected_rows = [
        best
        for image in zip(
            expected.semantic_similarity.split(sizes),
            expected.visual_similarity.split(sizes),
            strict=True,
        )
        for best in image
    ]
    for (query, key), (similarity, position), best in zip(
        workload.branches(), found, expected_rows, strict=True
    ):
        torch.testing.assert_close(similarity, best, atol=TOLERANCE, rtol=0)
        attained = (query * key[position]).sum(1)
        torch.testing.assert_close(attained, best, atol=TOLERANCE, rtol=0)
