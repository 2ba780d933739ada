from __future__ import annotations

from pathlib import Path

import tiny_models
from training_runs import write_backbone, write_pairs

from recipes.tiny.ablations import run_ablations, table
from vsm_fast.lab.training.contrastive import ContrastiveTraining
from vsm_fast.lab.training.features import FeatureSettings
from vsm_fast.lab.training.train_job import TrainSettings

one_thread = tiny_models.one_thread


def test_every_variant_is_trained_on_its_own_data_and_measured(tmp_path: Path) -> None:
    write_backbone(tmp_path / "backbone")
    for name, seed in (("a", 0), ("b", 10), ("v", 50), ("t", 70)):
        write_pairs(tmp_path / name, 4, seed=seed, kinds=("none", "other subject"))
    settings = TrainSettings(
        str(tmp_path / "a"),
        str(tmp_path / "v"),
        str(tmp_path / "backbone"),
        features=FeatureSettings(variants=1),
        training=ContrastiveTraining(epochs=1, batch=2, precision="fp32"),
    )
    out = tmp_path / "out"
    figures = run_ablations(settings, str(tmp_path / "b"), str(tmp_path / "t"), out, seeds=2)
    assert list(figures) == ["alpha = 10, skewness filter", "alpha = 1", "no skewness filter"]
    assert all(len(runs) == 2 for runs in figures.values())
    weights = {path.read_bytes() for path in out.glob("*/model/aggregation.safetensors")}
    assert len(weights) == 6  # three variants, two seeds each, all different
    again = run_ablations(settings, str(tmp_path / "b"), str(tmp_path / "t"), out, seeds=2)
    for name, runs in figures.items():
        assert [run["pearson"] for run in again[name]] == [run["pearson"] for run in runs]


def test_the_table_has_mean_and_range() -> None:
    runs = [
        {"pearson": 0.2, "spearman": 0.1, "point_auroc": 0.7},
        {"pearson": 0.4, "spearman": 0.1, "point_auroc": 0.8},
    ]
    text = table({"full": runs})
    assert "0.300 (0.200 to 0.400)" in text
    assert "0.750 (0.700 to 0.800)" in text
    assert text.startswith("| variant")
