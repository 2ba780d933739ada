"""Randomly damaged sidecars, plans, records and graphs: a ModelError, never a crash."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from pathlib import Path

import fake_tensorrt
import pytest
import tiny_models
import torch
from damage import damaged, replaced_value
from fake_tensorrt import Runtime, place_plan

from vsm_fast import ModelError
from vsm_fast.export.trt_dry_run import graph_facts
from vsm_fast.runtimes.exported import ONNX, RECORD, read_record, verify_graph
from vsm_fast.runtimes.plans import plans_in
from vsm_fast.runtimes.tensorrt_runtime import load_tensorrt

one_thread, tensorrt = tiny_models.one_thread, fake_tensorrt.tensorrt
CPU = torch.device("cpu")


@pytest.fixture
def folder(tensorrt, small_export: Path, tmp_path: Path) -> Path:
    made = shutil.copytree(small_export, tmp_path / "exported")
    place_plan(made, tensorrt)
    load_tensorrt(made, read_record(made), CPU)
    Runtime.fake_given.clear()
    return made


@pytest.mark.parametrize("part", ["sidecar", "plan", "record"])
def test_no_damage_of_a_plan_or_its_papers_is_a_crash(folder: Path, part: str) -> None:
    plan = plans_in(folder)[0]
    path = {"sidecar": plan.with_suffix(".json"), "plan": plan, "record": folder / RECORD}[part]
    content, whole = path.read_bytes(), plan.read_bytes()
    rng = random.Random(part)
    refused = 0
    for number in range(50):
        json_too = part != "plan" and number % 2
        path.write_bytes((replaced_value if json_too else damaged)(content, rng))
        try:
            load_tensorrt(folder, read_record(folder), CPU)
        except ModelError:
            refused += 1
    assert refused > 15
    assert set(Runtime.fake_given) <= {whole}  # TensorRT saw the plan that was built, or nothing


def test_no_damage_of_a_graph_is_a_crash(folder: Path) -> None:
    """Its hash goes with it, so that the damage reaches the readers of ONNX."""
    content, rng = (folder / ONNX).read_bytes(), random.Random(0)
    record = json.loads((folder / RECORD).read_text())
    refused = 0
    for _ in range(40):
        (folder / ONNX).write_bytes(damaged(content, rng))
        record["files"][ONNX] = hashlib.sha256((folder / ONNX).read_bytes()).hexdigest()
        (folder / RECORD).write_text(json.dumps(record))
        try:
            graph_facts(verify_graph(folder, read_record(folder)))
        except ModelError:
            refused += 1
    assert refused > 8
