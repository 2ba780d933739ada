"""Compile the kernels for absent GPUs and read the resources of the machine code.

    python tests/kernels/ahead_of_time.py               table of all targets and variants
    python tests/kernels/ahead_of_time.py --defaults    defaults on sm_90 and sm_100 only
    python tests/kernels/ahead_of_time.py --json        the same for the tests

Triton's wheel carries assemblers and disassemblers, so no GPU is needed. The tests run this file
as a program of its own: they interpret the kernels, which excludes compiling them.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from vsm_fast.kernels.claim import CHANNELS_EXACT, WARPS, WARPS_EXACT, _claim_kernel
from vsm_fast.kernels.count import _count_kernel
from vsm_fast.kernels.nearest import CLEARED, NearestTiles, _nearest_kernel
from vsm_fast.kernels.schedule import BLOCK_COLUMNS, ITEM_COLUMNS, POINTS_PER_BLOCK
from vsm_fast.kernels.tuning import default_tiles

KERNELS = {"nearest": _nearest_kernel, "claim": _claim_kernel, "count": _count_kernel}
TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
# Bytes of shared memory that a program can have.
SHARED = {"sm_80": 163 << 10, "sm_90": 227 << 10, "sm_100": 227 << 10, "gfx942": 64 << 10}


def default_on(target: str, dtype: torch.dtype) -> NearestTiles:
    """Return the tiles of an untuned GPU."""
    amd = target.startswith("gfx")
    major = 9 if amd else int(target.removeprefix("sm_")) // 10
    return default_tiles(dtype, major=major, shared=SHARED[target], amd=amd)


# The default of each target, then others that tuning may choose.
TILES = {
    target: [default_on(target, torch.bfloat16), *others]
    for target, others in {
        "sm_80": [NearestTiles(128, 128, 32, warps=8, stages=4)],
        "sm_90": [
            NearestTiles(128, 128, 64, warps=4, stages=3, descriptors=True),
            NearestTiles(128, 256, 64, warps=8, stages=3, descriptors=True),
            NearestTiles(128, 128, 64, warps=8, stages=3),
        ],
        "sm_100": [
            NearestTiles(128, 128, 64, warps=4, stages=3),
            NearestTiles(128, 128, 64, warps=8, stages=3, descriptors=True),
            NearestTiles(128, 128, 64, warps=8, stages=3),
        ],
        "gfx942": [],
    }.items()
}
# Instructions of the matrix units: sm_80, sm_90 (Q: of 8-bit factors), sm_100, gfx942.
MATRIX = re.compile(r"HMMA|QMMA|HGMMA|QGMMA|UTC[HQ]MMA|v_mfma")


@dataclass(frozen=True)
class Job:
    """Compilation of a kernel: target, argument types, constants, launch options."""

    kernel: str
    variant: str
    target: str
    types: dict[str, str]
    constants: dict[str, Any]
    warps: int
    stages: int = 3
    registers: int = 0


@dataclass(frozen=True)
class Resources:
    """Resources of a compiled kernel.

    ``registers`` per thread, ``shared`` bytes per program, ``spills``: stack bytes or spilled
    registers, ``operations``: count per instruction in the machine code.
    """

    kernel: str
    variant: str
    target: str
    warps: int
    registers: int
    shared: int
    spills: int
    operations: dict[str, int]


def nearest_job(
    target: str,
    tiles: NearestTiles,
    dtype: str = "bf16",
    *,
    channels: int = 384,
    normalised: bool = True,
    precision: str = "ieee",
    visual_index: bool = False,
) -> Job:
    """Return the job of the first launch with rows of ``dtype``."""

    def rows(height: int) -> str:
        if tiles.descriptors:
            return f"tensordesc<{dtype}[{height},{tiles.channels}]>"
        return f"*{dtype}"

    query, key = rows(tiles.queries), rows(tiles.keys)
    loads = "descriptors" if tiles.descriptors else "pointers"
    variant = (
        f"{tiles.queries}x{tiles.keys}x{tiles.channels}, {tiles.warps} warps, {loads}, {dtype}"
    )
    variant += f", D={channels}" + ("" if normalised else ", raw")
    variant += ("" if precision == "ieee" else f", {precision}") + ", visual index" * visual_index
    return Job(
        "nearest",
        variant,
        target,
        {
            "semantic_query": query, "semantic_key": key,
            "visual_query": query, "visual_key": key,
            "items": "*i32", "similarity": "*fp32", "index": "*i32",
            "claims": "*i64", "counts": "*i32",
            "n_items": "i32", "n_points": "i32", "n_splits": "i32",
            "n_claims": "i32", "n_counts": "i32", "scale": "fp32",
        },
        {
            "D_SEMANTIC": channels, "D_VISUAL": channels,
            "Q": tiles.queries, "K": tiles.keys, "C": tiles.channels,
            "NORMALISED": normalised, "PRECISION": precision, "DESCRIPTORS": tiles.descriptors,
            "VISUAL_INDEX": visual_index, "ITEM": len(ITEM_COLUMNS), "CLEAR": CLEARED,
        },
        tiles.warps,
        tiles.stages,
        tiles.registers,
    )  # fmt: skip


def claim_job(target: str, *, exact: bool, normalised: bool = True) -> Job:
    """Return the job of the second launch."""
    return Job(
        "claim",
        ("exact" if exact else "as found") + ("" if normalised else ", raw"),
        target,
        {
            "similarity": "*fp32", "index": "*i32", "blocks": "*i32", "claims": "*i64",
            "semantic_similarity": "*fp32", "target_index": "*i64", "visual_similarity": "*fp32",
            "semantic_query": "*bf16", "semantic_key": "*bf16",
            "visual_query": "*bf16", "visual_key": "*bf16",
            "n_splits": "i32", "n_points": "i32", "threshold": "fp32",
        },
        {
            "D_SEMANTIC": 384, "D_VISUAL": 384, "C": CHANNELS_EXACT, "EXACT": exact,
            "NORMALISED": normalised, "BLOCK": POINTS_PER_BLOCK, "COLUMNS": len(BLOCK_COLUMNS),
        },
        WARPS_EXACT if exact else WARPS,
    )  # fmt: skip


def count_job(target: str, thresholds: int) -> Job:
    """Return the job of the third launch."""
    return Job(
        "count",
        f"{thresholds} thresholds",
        target,
        {
            "semantic_similarity": "*fp32", "target_index": "*i64", "visual_similarity": "*fp32",
            "blocks": "*i32", "claims": "*i64", "kept": "*u8", "counts": "*i32",
            "semantic": "fp32", "visual_0": "fp32", "visual_1": "fp32", "visual_2": "fp32",
            "visual_3": "fp32",
        },
        {"THRESHOLDS": thresholds, "BLOCK": POINTS_PER_BLOCK, "COLUMNS": len(BLOCK_COLUMNS)},
        WARPS,
    )  # fmt: skip


def jobs(everything: bool) -> Iterator[Job]:
    """Yield the compilations that the tests inspect; only the defaults unless ``everything``."""
    for target, choices in TILES.items():
        hopper_or_later = target in ("sm_90", "sm_100")
        if not everything and not hopper_or_later:
            continue
        first, exact = choices[0], default_on(target, torch.float32)
        yield nearest_job(target, first)
        yield nearest_job(target, exact, "fp32")
        yield nearest_job(target, exact, "fp32", precision="tf32")
        if hopper_or_later:
            yield nearest_job(target, first, "fp8e4nv", visual_index=True)
        yield claim_job(target, exact=True)
        yield count_job(target, 4)
        if not everything:
            continue
        for tiles in choices[1:]:
            yield nearest_job(target, tiles)
        free = replace(first, registers=0)
        yield nearest_job(target, free, "fp16", normalised=False)
        yield nearest_job(target, free, "fp16", channels=128 if first.descriptors else 100)
        yield claim_job(target, exact=False)
        yield claim_job(target, exact=True, normalised=False)
        yield count_job(target, 0)


def compile_kernel(job: Job) -> Resources:
    """Compile as a launch would and read the machine code."""
    function = KERNELS[job.kernel]
    names = function.arg_names
    signature = {name: job.types.get(name, "constexpr") for name in names}
    # Torch aligns allocations; without this the compiler would load a few bytes at a time.
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(names)
        if signature[name].startswith("*")
    }
    options: dict[str, Any] = {
        "num_warps": job.warps, "num_stages": job.stages, "enable_fp_fusion": True,
    }  # fmt: skip
    target = TARGETS[job.target]
    if job.registers and target.backend == "cuda":
        options["maxnreg"] = job.registers
    source = ASTSource(function, signature, job.constants, aligned)
    compiled = triton.compile(source, target=target, options=options)
    read = _read_amdgcn if target.backend == "hip" else _read_cubin
    registers, spills, operations = read(compiled)
    return Resources(
        job.kernel, job.variant, job.target, job.warps, registers, compiled.metadata.shared,
        spills, operations,
    )  # fmt: skip


def _read_cubin(compiled: Any) -> tuple[int, int, dict[str, int]]:
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage, code = (
            subprocess.run(
                [tools / tool, option, file.name], check=True, capture_output=True, text=True
            ).stdout
            for tool, option in (("cuobjdump", "-res-usage"), ("nvdisasm", "-c"))
        )
    found = {name: int(size) for name, size in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    operations = re.findall(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\d+ +)?([A-Z][\w.]+)", code, re.M)
    return found["REG"], found["STACK"] + found["LOCAL"], dict(Counter(operations))


def _read_amdgcn(compiled: Any) -> tuple[int, int, dict[str, int]]:
    code = compiled.asm["amdgcn"]
    sizes = {
        name: int(re.search(rf"\.{name}:\s*(\d+)", code)[1])  # type: ignore[index]
        for name in ("vgpr_count", "vgpr_spill_count", "sgpr_spill_count")
    }
    operations = re.findall(r"^\s+([a-z]+_[a-z0-9_]+)\s", code, re.M)
    spills = sizes["vgpr_spill_count"] + sizes["sgpr_spill_count"]
    return sizes["vgpr_count"], spills, dict(Counter(operations))


def _table(found: list[Resources]) -> str:
    lines = [
        f"{'target':8}{'kernel':10}{'regs':>5}{'shared':>8}{'spills':>7}{'matrix':>7}{'all':>6}"
    ]
    lines += [
        f"{one.target:8}{one.kernel:10}{one.registers:5}{one.shared:8}{one.spills:7}"
        f"{sum(count for name, count in one.operations.items() if MATRIX.match(name)):7}"
        f"{sum(one.operations.values()):6}  {one.variant}"
        for one in found
    ]
    return "\n".join(lines)


def main() -> None:
    """Compile all jobs, two at a time, and print the result."""
    with ThreadPoolExecutor(2) as pool:  # the assemblers are programs of their own
        found = list(pool.map(compile_kernel, jobs("--defaults" not in sys.argv)))
    if "--json" in sys.argv:
        print(json.dumps([asdict(one) for one in found]))
    else:
        print(_table(found))


if __name__ == "__main__":
    main()
