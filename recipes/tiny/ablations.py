"""The paper's ablations on your own data: ``python -m recipes.tiny.ablations``.

Trains the same networks with the paper's weight of the visual terms and with weight 1, and on
pairs with and without the skewness filter of semantic matches (``make-pairs --skewness none``),
with several seeds each, and writes a table of their figures on test pairs.

Source: arXiv 2509.21989, ablations.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from vsm_fast.files import replacing
from vsm_fast.lab.evaluation.tables import markdown_table
from vsm_fast.lab.training.calibration import oracle_and_kinds, report, stored_point_table
from vsm_fast.lab.training.contrastive import AggregationPair
from vsm_fast.lab.training.feature_cache import validation_features
from vsm_fast.lab.training.train_job import PRESETS, TrainSettings, run_training
from vsm_fast.model.load import build_backbone, verified_config
from vsm_fast.model.location import find_model
from vsm_fast.scorer import VSMScorer

_log = logging.getLogger(__name__)
_COLUMNS = {"pearson": "Pearson", "spearman": "Spearman", "point_auroc": "AUROC of points"}


def run_ablations(
    settings: TrainSettings, unfiltered: str, test: str, out: Path, seeds: int
) -> dict[str, list[dict[str, float]]]:
    """Train every variant with every seed and measure it on test pairs.

    Args:
        settings: Full recipe, with filtered pairs.
        unfiltered: Pairs generated without the skewness filter.
        test: Pairs of subjects outside training and validation.
        out: Folder of the runs; interrupted runs resume.
        seeds: Runs per variant.

    Returns:
        Figures of ``calibration.report`` by variant, one table per seed.
    """
    base = settings.training
    weak = replace(settings, training=replace(base, visual_weight=1.0))
    loose = replace(settings, pairs=unfiltered)
    variants = (
        ("full", f"alpha = {base.visual_weight:g}, skewness filter", settings),
        ("weak", "alpha = 1", weak),
        ("loose", "no skewness filter", loose),
    )
    source = find_model(settings.backbone)
    config = verified_config(source)
    backbone = build_backbone(config, source).eval()
    test_features = validation_features(backbone, config, Path(test), out / "features" / "test")
    figures: dict[str, list[dict[str, float]]] = {}
    for short, name, variant in variants:
        data = out / "features" / ("unfiltered" if variant is loose else "filtered")
        for seed in range(seeds):
            folder = out / f"{short}-{seed}"
            seeded = replace(variant, training=replace(variant.training, seed=seed))
            result = run_training(seeded, folder, device="cpu", features=data)
            network = VSMScorer.from_pretrained(result.model, device="cpu").network
            networks = AggregationPair(network.semantic, network.visual).eval()
            points = stored_point_table(networks, test_features)
            thresholds = result.validation.thresholds
            run = report(*oracle_and_kinds(test_features), points, thresholds)
            figures.setdefault(name, []).append(run)
            _log.info("%s, seed %d: Pearson %.3f", name, seed, run["pearson"])
    return figures


def table(figures: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Format mean, lowest and highest figure over the seeds of each variant as Markdown."""

    def cell(runs: Sequence[Mapping[str, float]], column: str) -> str:
        values = np.array([run[column] for run in runs])
        return f"{values.mean():.3f} ({values.min():.3f} to {values.max():.3f})"

    rows = [[name, *(cell(runs, column) for column in _COLUMNS)] for name, runs in figures.items()]
    return markdown_table(["variant", *_COLUMNS.values()], rows)


def main() -> None:
    """Run the ablations; print and write the table."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.tiny.ablations",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pairs", required=True, help="generated with the skewness filter")
    parser.add_argument("--unfiltered", required=True, help="generated with --skewness none")
    parser.add_argument("--validation", required=True, help="pairs of other subjects")
    parser.add_argument("--test", required=True, help="pairs of further subjects")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--backbone", default="tiny")
    parser.add_argument("--epochs", type=int, default=PRESETS["paper"][1].epochs)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    features, training = PRESETS["paper"]
    settings = TrainSettings(
        options.pairs,
        options.validation,
        options.backbone,
        features=features,
        training=replace(training, epochs=options.epochs),
    )
    text = table(
        run_ablations(settings, options.unfiltered, options.test, options.out, options.seeds)
    )
    with replacing(options.out / "ablations.md") as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
