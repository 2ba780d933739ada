"""Model identity in descriptors, scorers, caches and jobs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import tiny_models
import torch
from job_inputs import write_pairs
from tiny_models import aggregation_pair, config_of, edit_config, pixel_unet

import vsm_fast
from vsm_fast import ModelError, VisualSemanticMatching, VSMScorer
from vsm_fast.errors import PairingError
from vsm_fast.files import sha256_of
from vsm_fast.identity import identity_of
from vsm_fast.integrations.metric import visual_semantic_matching
from vsm_fast.integrations.rewards import VSMReward
from vsm_fast.jobs.manifest import Manifest
from vsm_fast.jobs.runner import run_job
from vsm_fast.jobs.settings import JobSettings, RunOptions
from vsm_fast.matching.match import match
from vsm_fast.model.config import AggregationConfig, BackboneConfig, Thresholds
from vsm_fast.model.save import save_model
from vsm_fast.runtimes.choose import load_runtime
from vsm_fast.runtimes.exported import ONNX, RECORD
from vsm_fast.scorer import cached_scorer

one_thread = tiny_models.one_thread

IMAGES = [np.random.default_rng(seed).integers(0, 256, (40, 40, 3), np.uint8) for seed in range(3)]
TENSORS = torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image in IMAGES])
TORCH = SimpleNamespace(name="torch", precision="float32", device=torch.device("cpu"))


def write(folder: Path, seed: int = 0, **backbone: object) -> Path:
    """Write a model folder with weights by seed."""
    unet = tiny_models.randomised(pixel_unet(), seed)
    save_model(folder, config_of(("us2",), **backbone), unet, *aggregation_pair((24,)))
    return folder


def regraded(folder: Path) -> Path:
    """Change the graph of an exported folder and its recorded hashes."""
    graph = onnx.load(folder / ONNX)
    values = max(graph.graph.initializer, key=lambda entry: len(entry.raw_data))
    values.raw_data = (np.frombuffer(values.raw_data, np.float32) * -1).tobytes()
    onnx.save(graph, folder / ONNX)
    record = json.loads((folder / RECORD).read_text())
    record["files"][ONNX] = sha256_of(folder / ONNX)
    (folder / RECORD).write_text(json.dumps(record))
    return folder


CHANGES: dict[str, Callable[[Path], object]] = {
    "weights": lambda folder: (shutil.rmtree(folder), write(folder, seed=5)),
    "backbone.framing": lambda folder: edit_config(
        folder, lambda content: content["backbone"].update(framing="subject")
    ),
    "backbone.background": lambda folder: edit_config(
        folder, lambda content: content["backbone"].update(background="grey")
    ),
    "backbone.timestep": lambda folder: edit_config(
        folder, lambda content: content["backbone"].update(timestep=400)
    ),
    "backbone.interpolation": lambda folder: edit_config(
        folder, lambda content: content["backbone"].update(interpolation="bilinear")
    ),
    "aggregation.first_level_weight": lambda folder: edit_config(
        folder, lambda content: content["aggregation"].update(first_level_weight="mixing")
    ),
}
changes = pytest.mark.parametrize("changed", CHANGES)


def test_an_identity_contains_every_setting_that_affects_descriptors() -> None:
    config = replace(config_of(), files={"a": "1"})
    record = identity_of(config, TORCH, {ONNX: "2"}).record()
    settings = {f"backbone.{f.name}" for f in fields(BackboneConfig)}
    settings |= {f"aggregation.{f.name}" for f in fields(AggregationConfig)}
    ways = {"weights", "graph", "runtime", "precision", "device"}
    assert settings | ways <= record.keys()
    assert json.loads(json.dumps(record)) == record
    aside = replace(config, name="b", thresholds=Thresholds(0.1, 0.2), base_revision="c")
    assert identity_of(aside, TORCH, {ONNX: "2"}) == identity_of(config, TORCH, {ONNX: "2"})


@changes
def test_descriptors_of_another_model_are_refused(tmp_path: Path, changed: str) -> None:
    folder = write(tmp_path / "m")
    before = VSMScorer.from_pretrained(folder, device="cpu")
    CHANGES[changed](folder)
    now = VSMScorer.from_pretrained(folder, device="cpu")
    described = before.describe(IMAGES[:1])
    for refs in (described, before.describe(IMAGES[:1], on_error="record")):
        with pytest.raises(ModelError, match=rf"another model.*{changed} was .*, now "):
            now.score(refs, IMAGES)
        assert before.score(refs, IMAGES[:1]).status[0] == "ok"
    for use in (
        lambda: now.ready(described.select([0]).to("cpu", torch.bfloat16)),
        lambda: VSMReward(now, described),
        lambda: visual_semantic_matching(TENSORS, described, model=now),
        lambda: match(now.describe(IMAGES[:1]), described, torch.tensor([[0, 0]]), 0.5),
    ):
        with pytest.raises(ModelError, match=changed):
            use()
    with pytest.raises(ValueError, match="needs one identity"):
        vsm_fast.Descriptors.cat([described, now.describe(IMAGES[:1])])


def test_the_same_model_may_compute_in_another_way(small_export: Path) -> None:
    plain = VSMScorer.from_pretrained(small_export.parent / "model", device="cpu")
    others = [
        VSMScorer.from_pretrained(small_export, device="cpu"),
        VSMScorer.from_pretrained(small_export.parent / "model", device="cpu", dtype="bfloat16"),
    ]
    for other in others:
        assert plain.identity != other.identity
        for one, two in ((plain, other), (other, plain)):
            assert two.score(one.describe(IMAGES[:1]), IMAGES[:1]).status[0] == "ok"
    by_hand = replace(plain.describe(IMAGES[:1]), identity=None)
    assert plain.score(by_hand, IMAGES[:1]).score.tolist() == [1.0]


@changes
@pytest.mark.parametrize("relative", [False, True], ids=["replaced", "chdir"])
def test_a_name_stands_for_the_model_that_is_there_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str, relative: bool
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    write(Path("m"))
    before = cached_scorer("m", device="cpu").identity
    if relative:
        monkeypatch.chdir("elsewhere")
        write(Path("m"))
    CHANGES[changed](Path("m").absolute())
    fresh = VSMScorer.from_pretrained("m", device="cpu")
    assert cached_scorer("m", device="cpu").identity == fresh.identity != before
    found = vsm_fast.score_batch(IMAGES[:1], IMAGES, model="m", device="cpu").visual_similarity
    assert np.array_equal(found, fresh.score(IMAGES[:1], IMAGES).visual_similarity)
    ours, wanted = (
        visual_semantic_matching(TENSORS, TENSORS[:1], model=model, reduction="none")
        for model in ("m", fresh)
    )
    assert torch.equal(ours, wanted)


def test_a_loop_loads_its_model_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "m")
    monkeypatch.chdir(tmp_path)
    scorer = cached_scorer("m", device="cpu", cache="c")
    assert cached_scorer(folder, device="cpu", cache=tmp_path / "c") is scorer
    content = (folder / "config.json").read_bytes()
    state = (folder / "config.json").stat()
    (folder / "config.json").write_bytes(content)
    os.utime(folder / "config.json", ns=(state.st_atime_ns, state.st_mtime_ns))
    # Rewritten in place with equal size and time: only the change time differs.
    assert cached_scorer("m", device="cpu", cache="c") is not scorer


def test_a_mean_is_one_of_one_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("m"))
    metric = VisualSemanticMatching("m")
    metric.update(TENSORS, TENSORS)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    metric.update(TENSORS, TENSORS)  # as where it was made
    CHANGES["backbone.framing"](tmp_path / "m")
    with pytest.raises(ModelError, match="framing was 'image', now 'subject'"):
        metric.update(TENSORS, TENSORS)
    assert metric.n_scored == 6


@pytest.mark.parametrize("way", ["replaced", "chdir"])
def test_float32_after_nan_is_that_of_the_same_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("m"))
    loaded = load_runtime("m", device="cpu", dtype="bfloat16")
    assert loaded.in_float32 is not None
    if way == "chdir":
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir("elsewhere")
        write(Path("m"), seed=5)
        assert loaded.in_float32().precision == "float32"
    else:
        CHANGES["weights"](tmp_path / "m")
        with pytest.raises(ModelError, match="was replaced since its model was loaded"):
            loaded.in_float32()


def test_a_job_goes_on_with_the_model_that_it_began_with(
    tmp_path: Path, small_export: Path
) -> None:
    manifest = Manifest(str(write_pairs(tmp_path / "in", 5)))
    options = RunOptions(cache=str(tmp_path / "cache"))

    def run(folder: Path) -> None:
        settings = JobSettings(model=str(folder), device="cpu", shard_rows=2)
        out = tmp_path / f"scores of {folder.name}"
        for shard in list(out.glob("*.parquet"))[:1]:
            shard.unlink()
        run_job(manifest, out, settings, options)

    for number, (changed, change) in enumerate(CHANGES.items()):
        folder = write(tmp_path / str(number))
        run(folder)
        run(folder)
        change(folder)
        with pytest.raises(PairingError, match=rf"another job: {changed} was .*, now "):
            run(folder)
    exported = shutil.copytree(small_export, tmp_path / "exported")
    run(exported)
    regraded(exported)
    with pytest.raises(PairingError, match=r"another job: graph was '[0-9a-f]+', now '"):
        run(exported)


@pytest.mark.parametrize("changed", [*CHANGES, "graph"])
def test_models_that_share_a_cache_share_no_descriptor(
    tmp_path: Path, small_export: Path, changed: str
) -> None:
    if changed == "graph":
        folder, change = shutil.copytree(small_export, tmp_path / "m"), regraded
    else:
        folder, change = write(tmp_path / "m"), CHANGES[changed]
    for _ in range(2):
        found = VSMScorer.from_pretrained(folder, device="cpu", cache=tmp_path / "c")
        wanted = VSMScorer.from_pretrained(folder, device="cpu").describe(IMAGES)
        assert torch.equal(found.describe(IMAGES).visual, wanted.visual)
        assert found.cache is not None
        assert (found.cache.hits, found.cache.misses) == (0, len(IMAGES))
        change(folder)
