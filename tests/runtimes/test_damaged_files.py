"""Sidecars, plans, records and graphs with random damage: our error, never a crash."""

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
from fake_tensorrt import Runtime, place_plan

from vsm_fast import ModelError
from vsm_fast.export.graph_facts import graph_facts
from vsm_fast.runtimes.exported import ONNX, RECORD, read_record, verify_graph
from vsm_fast.runtimes.plans import plans_in
from vsm_fast.runtimes.tensorrt_runtime import load_tensorrt

one_thread, tensorrt = tiny_models.one_thread, fake_tensorrt.tensorrt
CPU = torch.device("cpu")
# Numbers, names and structure that a parser may stumble over.
POISON = (
    b"null", b"-1", b"1e999", b"NaN", b"[]", b"{}", b'""', b"\xff\xfe", b"[" * 3000, b"9" * 5000,
    b"true", b'"\\ud800"', b"\x00",
)  # fmt: skip


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Cut off, bytes changed, a piece removed or doubled, or a value replaced."""
    kind = rng.randrange(5)
    start = rng.randrange(len(content) + 1)
    end = min(len(content), start + rng.randrange(1, 40))
    if kind == 0:
        return content[:start]
    if kind == 1:
        changed = bytearray(content)
        for place in rng.sample(range(len(content)), min(len(content), 1 + rng.randrange(8))):
            changed[place] = rng.randrange(256)
        return bytes(changed)
    if kind == 2:
        return content[:start] + content[end:]
    if kind == 3:
        return content[:end] + content[start:]
    colons = [at for at, byte in enumerate(content) if byte == ord(":")] or [start]
    place = rng.choice(colons) + 1
    return content[:place] + rng.choice(POISON) + content[min(len(content), place + 1) :]


def replaced_value(text: bytes, rng: random.Random) -> bytes:
    """JSON with one value, however deep, replaced by another: valid, and wrong."""
    content = json.loads(text)
    place = content
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = rng.choice(keys)
        if isinstance(place[key], dict | list) and place[key] and rng.random() < 0.8:
            place = place[key]
            continue
        place[key] = rng.choice(
            [None, -1, 1e308, float("inf"), float("nan"), [], {}, "", True, "\ud800", [[]]]
        )
        return json.dumps(content).encode()


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
    for number in range(150):
        json_too = part != "plan" and number % 2
        path.write_bytes((replaced_value if json_too else damaged)(content, rng))
        try:
            load_tensorrt(folder, read_record(folder), CPU)
        except ModelError:
            refused += 1
    assert refused > 50
    assert set(Runtime.fake_given) <= {whole}  # TensorRT saw the plan that was built, or nothing


def test_no_damage_of_a_graph_is_a_crash(folder: Path) -> None:
    """Its hash goes with it, so that the damage reaches the readers of ONNX."""
    content, rng = (folder / ONNX).read_bytes(), random.Random(0)
    record = json.loads((folder / RECORD).read_text())
    refused = 0
    for _ in range(120):
        (folder / ONNX).write_bytes(damaged(content, rng))
        record["files"][ONNX] = hashlib.sha256((folder / ONNX).read_bytes()).hexdigest()
        (folder / RECORD).write_text(json.dumps(record))
        try:
            graph_facts(verify_graph(folder, read_record(folder)))
        except ModelError:
            refused += 1
    assert refused > 30
