from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from training_runs import a_pair, write_backbone, write_pairs

from recipes.tiny.train import match_points
from vsm_fast import VSMScorer
from vsm_fast.errors import TrainingError
from vsm_fast.lab.pairs.pair_shards import read_pairs, write_pair_shard
from vsm_fast.lab.training import feature_cache
from vsm_fast.lab.training.calibration import stored_point_table
from vsm_fast.lab.training.contrastive import AggregationPair
from vsm_fast.lab.training.feature_cache import training_features, validation_features
from vsm_fast.lab.training.features import FeatureSettings, PairFeatures
from vsm_fast.model.config import ModelConfig
from vsm_fast.model.load import build_backbone, read_config

one_thread = tiny_models.one_thread


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_backbone(tmp_path / "backbone")


def _parts(model: Path) -> tuple[Any, ModelConfig]:
    config = read_config(model)
    return build_backbone(config, model).eval(), config


def _interrupted(monkeypatch: pytest.MonkeyPatch, after: int) -> Callable[[], None]:
    """Makes the writing of shards fail; what is returned lets it work again."""
    real, written = feature_cache.write_rows, []

    def failing(path: Path, *content: Any) -> None:
        if len(written) == after:
            raise KeyboardInterrupt
        written.append(path)
        real(path, *content)

    monkeypatch.setattr(feature_cache, "write_rows", failing)
    return lambda: monkeypatch.setattr(feature_cache, "write_rows", real)


def test_an_interrupted_cache_is_completed_alike(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_cache, "_SHARD", 2)
    pairs = write_pairs(tmp_path / "pairs", 5)
    settings = FeatureSettings(variants=2)
    whole = training_features(*_parts(model), settings, pairs, tmp_path / "whole")
    repair = _interrupted(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        training_features(*_parts(model), settings, pairs, tmp_path / "cut")
    repair()
    done: list[int] = []
    cut = training_features(*_parts(model), settings, pairs, tmp_path / "cut", done.append)
    assert (len(whole), len(cut), sum(done)) == (10, 10, 5)
    for row in range(10):
        for name, value in whole[row].items():
            assert torch.equal(value, cut[row][name])
    # Complete, it is read without the pairs being described again.
    done.clear()
    training_features(*_parts(model), settings, pairs, tmp_path / "cut", done.append)
    assert done == []


def test_a_lost_shard_is_made_again(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_cache, "_SHARD", 2)
    pairs, settings = write_pairs(tmp_path / "pairs", 5), FeatureSettings(variants=1)
    made = training_features(*_parts(model), settings, pairs, tmp_path / "f")[3]
    wanted = {name: value.clone() for name, value in made.items()}  # what is read is mapped
    shard = tmp_path / "f" / "00001.safetensors"
    content = shard.read_bytes()[:50]
    shard.unlink()
    shard.write_bytes(content)
    with pytest.raises(ValueError, match=r"00001.safetensors .* Delete it"):
        training_features(*_parts(model), settings, pairs, tmp_path / "f")
    shard.unlink()
    again = training_features(*_parts(model), settings, pairs, tmp_path / "f")[3]
    assert all(torch.equal(again[name], wanted[name]) for name in wanted)


def test_features_are_of_pairs_with_matches(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "pairs"
    folder.mkdir()
    speck = a_pair(3)
    tiny = np.zeros_like(speck.mask_1)
    tiny[::20, ::20] = True
    made = [
        a_pair(0),
        a_pair(1, "other subject"),
        replace(a_pair(2), points=np.zeros((0, 4), np.float32)),
        replace(speck, mask_1=tiny, part_1=np.zeros_like(tiny)),
        a_pair(4, "none"),
    ]
    write_pair_shard(made, folder / "0.parquet")
    with caplog.at_level(logging.WARNING):
        rows = training_features(
            *_parts(model), FeatureSettings(variants=1), folder, tmp_path / "f"
        )
    assert rows.notes("id") == ["invert-0", "none-4"]
    assert "two subjects 1, too few matches 1, subject too small 1" in caplog.text
    clean = PairFeatures.of_row(rows[1])
    assert set(clean.part.tolist()) == {0}


def test_another_model_or_other_settings_are_refused(model: Path, tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs", 2)
    backbone, config = _parts(model)
    settings = FeatureSettings(variants=1)
    training_features(backbone, config, settings, pairs, tmp_path / "f")
    later = replace(config, backbone=replace(config.backbone, timestep=51))
    with pytest.raises(TrainingError, match=r"features of other backbone. .*delete"):
        training_features(backbone, later, settings, pairs, tmp_path / "f")
    with pytest.raises(TrainingError, match="features of other settings"):
        training_features(backbone, config, replace(settings, seed=1), pairs, tmp_path / "f")
    write_pair_shard([a_pair(9)], pairs / "1.parquet")
    with pytest.raises(TrainingError, match="features of other pairs"):
        training_features(backbone, config, settings, pairs, tmp_path / "f")
    heads = {name: "0" * 64 for name in config.files if "aggregation" in name}
    assert heads
    retrained = replace(config, files={**config.files, **heads})
    (pairs / "1.parquet").unlink()
    training_features(backbone, retrained, settings, pairs, tmp_path / "f")


def test_unusable_pairs_grids_and_records_are_refused(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "strangers"
    folder.mkdir()
    write_pair_shard([a_pair(1, "other subject")], folder / "0.parquet")
    with pytest.raises(TrainingError, match="no pair of"):
        training_features(*_parts(model), FeatureSettings(), folder, tmp_path / "none")
    backbone, config = _parts(model)
    wide = replace(config, aggregation=replace(config.aggregation, grid=(4, 6)))
    pairs = write_pairs(tmp_path / "pairs", 1)
    with pytest.raises(TrainingError, match=r"\(4, 6\)"):
        training_features(backbone, wide, FeatureSettings(), pairs, tmp_path / "f")
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "features.json").write_text("{")
    with pytest.raises(json.JSONDecodeError):
        training_features(backbone, config, FeatureSettings(), pairs, tmp_path / "f")


@pytest.mark.parametrize("framing", ["image", "subject"])
def test_validation_is_what_the_scorer_measures(tmp_path: Path, framing: str) -> None:
    """Stored features of validation pairs match as the pairs themselves do."""
    grey = {"image": "keep", "subject": "grey"}[framing]
    model = write_backbone(tmp_path / "backbone", framing=framing, background=grey)
    pairs = write_pairs(tmp_path / "pairs", 3, kinds=("none", "other subject"))
    rows = validation_features(*_parts(model), pairs, tmp_path / "f")
    assert rows.notes("kind") == ["invert"] * 3 + ["none", "other subject"]
    scorer = VSMScorer.from_pretrained(model, device="cpu")
    listed = list(read_pairs(pairs))
    assert rows.notes("oracle") == [pair.oracle for pair in listed]
    networks = AggregationPair(scorer.network.semantic, scorer.network.visual)
    stored, direct = stored_point_table(networks, rows), match_points(scorer, listed)
    assert stored.offsets.tolist() == direct.offsets.tolist()
    assert stored.altered.tolist() == direct.altered.tolist()
    # float16 features against float32 ones.
    np.testing.assert_allclose(stored.visual, direct.visual, atol=2e-3)
    np.testing.assert_allclose(stored.semantic, direct.semantic, atol=2e-3)
