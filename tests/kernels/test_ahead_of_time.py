"""Resources of the compiled kernels on absent GPUs: see ``ahead_of_time.py``."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64",
    reason="Triton has wheels for Linux on x86-64 only",
)
MATRIX = {"sm_80": r"HMMA", "sm_90": r"HGMMA", "sm_100": r"UTCHMMA", "gfx942": r"v_mfma"}
MATRIX_FLOAT8 = {"sm_90": r"QGMMA", "sm_100": r"UTCQMMA"}
# Of a thread (of a lane on gfx942), and bytes of shared memory of a program.
REGISTERS = {"sm_80": 255, "sm_90": 255, "sm_100": 255, "gfx942": 256}
SHARED = {"sm_80": 163 << 10, "sm_90": 227 << 10, "sm_100": 227 << 10, "gfx942": 64 << 10}
# Triton 3.6 and 3.7 go a few bytes over the limit of 128 registers where 3.9 does not.
SPILLED = 0 if tuple(map(int, version("triton").split(".")[:2])) >= (3, 9) else 32
REGISTER_FILE = 65536  # of an NVIDIA multiprocessor

Resources = dict[str, Any]


@pytest.fixture(scope="module", params=["defaults", pytest.param("all", marks=pytest.mark.slow)])
def compiled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[Resources]:
    """Compile in a process that does not interpret kernels."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    options = ["--defaults"] if request.param == "defaults" else []
    run = subprocess.run(
        [sys.executable, Path(__file__).with_name("ahead_of_time.py"), "--json", *options],
        env=environment, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    found: list[Resources] = json.loads(run.stdout)
    targets = {"sm_90", "sm_100"} if options else set(MATRIX)
    assert {one["target"] for one in found} == targets
    assert len(found) == (12 if options else 49)
    return found


def select(compiled: list[Resources], kernel: str, *words: str) -> list[Resources]:
    chosen = [
        one
        for one in compiled
        if one["kernel"] == kernel and all(word in one["variant"].split(", ") for word in words)
    ]
    assert chosen, f"nothing compiled for {kernel} {words}"
    return chosen


def count(one: Resources, pattern: str) -> int:
    return sum(n for name, n in one["operations"].items() if re.match(pattern, name))


def test_nothing_spills_and_everything_fits(compiled: list[Resources]) -> None:
    for one in compiled:
        assert one["spills"] <= SPILLED, one
        assert 0 < one["registers"] <= REGISTERS[one["target"]], one
        assert one["shared"] <= SHARED[one["target"]], one


def test_sixteen_bit_products_run_on_the_matrix_units(compiled: list[Resources]) -> None:
    for one in select(compiled, "nearest"):
        if {"bf16", "fp16"} & set(one["variant"].split(", ")):
            assert count(one, MATRIX[one["target"]]) >= 4, one


def test_float8_products_run_at_their_own_rate(compiled: list[Resources]) -> None:
    found = select(compiled, "nearest", "fp8e4nv")
    assert {one["target"] for one in found} == set(MATRIX_FLOAT8)
    for one in found:
        assert count(one, MATRIX_FLOAT8[one["target"]]) >= 4, one
        assert count(one, MATRIX[one["target"]]) == 0, one


def test_float32_is_exact_unless_tf32_is_asked_for(compiled: list[Resources]) -> None:
    rounded = select(compiled, "nearest", "fp32", "tf32")
    exact = [one for one in select(compiled, "nearest", "fp32") if one not in rounded]
    for one in rounded:
        assert count(one, MATRIX[one["target"]]) >= 4, one
    for one in exact:
        if one["target"] == "gfx942":  # whose matrix units multiply float32 as it is
            assert count(one, "v_mfma_f32_(16x16x4|32x32x2)_?f32") >= 4, one
        else:
            assert count(one, MATRIX[one["target"]]) == 0, one
            assert count(one, "FFMA") >= 64, one


def test_tiles_are_copied_asynchronously(compiled: list[Resources]) -> None:
    for one in select(compiled, "nearest"):
        if one["target"] == "gfx942":
            assert count(one, "buffer_load_dwordx4|global_load_dwordx4") > 0, one
        elif "descriptors" in one["variant"]:
            assert count(one, "UTMALDG") > 0, one
        else:
            assert count(one, r"LDGSTS\.E\S*\.128|LDGSTS") > 0, one


def test_two_programs_of_the_default_tiles_fit_a_processor(compiled: list[Resources]) -> None:
    """One reduces while the other multiplies; the reason for the limit of 128 registers."""
    for target, warps in {"sm_80": 8, "sm_90": 8, "sm_100": 4}.items():
        if target not in {one["target"] for one in compiled}:
            continue
        fitting = [
            one
            for one in select(compiled, "nearest", "128x128x64", f"{warps} warps", "bf16")
            if one["target"] == target
            and 2 * one["warps"] * 32 * one["registers"] <= REGISTER_FILE
            and 2 * one["shared"] <= SHARED[target]
        ]
        assert fitting, target


def test_the_maximum_costs_few_instructions(compiled: list[Resources]) -> None:
    """Per product of a tile: one maximum in both branches, two more and a part for the index."""
    for one in select(compiled, "nearest", "bf16", "D=384"):
        if one["target"] != "sm_90":
            continue
        queries, keys, _ = (int(size) for size in one["variant"].split(",")[0].split("x"))
        products = queries * keys / (one["warps"] * 32)  # of a thread, in one tile
        reducing = count(one, "FMNMX|FSETP|SEL|FSEL|VIMNMX|IMNMX")
        assert reducing <= (1 + 4.2) * products, one


def test_a_claim_is_one_atomic_maximum(compiled: list[Resources]) -> None:
    for one in select(compiled, "claim"):
        wanted = (
            "global_atomic_smax_x2|global_atomic_max_i64|buffer_atomic_smax_x2"
            if one["target"] == "gfx942"
            else r"(ATOM|ATOMG|RED|REDG)\S*MAX\S*64|(ATOM|ATOMG|RED|REDG)\S*64\S*MAX"
        )
        assert count(one, wanted) >= 1, sorted(one["operations"])


def test_counts_are_atomic_sums(compiled: list[Resources]) -> None:
    for one in select(compiled, "count"):
        wanted = (
            "global_atomic_add" if one["target"] == "gfx942" else r"(ATOM|RED)\S*ADD|(RED|ATOM)G?"
        )
        assert count(one, wanted) >= 1, sorted(one["operations"])
