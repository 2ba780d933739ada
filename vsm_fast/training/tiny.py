"""Make the embedded model from photographs: ``python -m vsm_fast.training.tiny``.

Four stages, each resumable, each reading what the one before wrote under ``--out``::

    backbone     denoising training                        backbone.safetensors
    features     frozen features of controlled triplets    features/NNNN.safetensors
    aggregation  contrastive training                      aggregation.safetensors
    calibrate    thresholds on validation subjects,        model/, evaluation.json
                 figures on test subjects
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from vsm_fast.aggregation import AggregationNetwork
from vsm_fast.backbones.unet import UNetFeatures
from vsm_fast.checkpoints import save_model
from vsm_fast.data import splits
from vsm_fast.data.alterations import KINDS
from vsm_fast.data.controlled import controlled_pairs, other_subject_pairs
from vsm_fast.data.photographs import Photograph, load_photographs
from vsm_fast.data.triplets import Triplet, photograph_triplet, procedural_triplet
from vsm_fast.model_config import AggregationConfig, BackboneConfig, ModelConfig, Thresholds
from vsm_fast.scorer import VSMScorer
from vsm_fast.training.aggregation import AggregationTraining, train_aggregation
from vsm_fast.training.backbone import BackboneTraining, make_unet, train_backbone
from vsm_fast.training.calibration import calibrate, match_points, report
from vsm_fast.training.features import load_features, save_features, triplet_features
from vsm_fast.training.state import load_state

_log = logging.getLogger(__name__)

STAGES = ("backbone", "features", "aggregation", "calibrate")
UNSEEN_KIND = "shuffle"  # never trained on: the test figures show how far the model generalises
SEEN_KINDS = tuple(kind for kind in KINDS if kind != UNSEEN_KIND)
BACKBONE = BackboneTraining()
CONFIG = ModelConfig(
    name="tiny",
    backbone=BackboneConfig(
        levels=("us2", "us3", "us4", "us5", "us6"),
        resolution=256,
        timestep=50,
        framing="subject",
        pixel_unshuffle=BACKBONE.pixel_unshuffle,
    ),
    aggregation=AggregationConfig(
        grid=(32, 32), bottleneck_channels=64, descriptor_channels=128, first_level_weight="mixing"
    ),
)
LEVEL_CHANNELS = (192, 128, 128, 64, 64)
_SHARD = 16


def _averaged_unet(out: Path) -> Any:
    unet, average = make_unet(BACKBONE), make_unet(BACKBONE)
    if load_state(out / "backbone.safetensors", {"unet": unet, "average": average}) == 0:
        raise FileNotFoundError(f"{out} has no backbone.safetensors; run --stage backbone first.")
    return average.eval().requires_grad_(False)


def _features(unet: Any) -> UNetFeatures:
    backbone = CONFIG.backbone
    features = UNetFeatures(
        unet, backbone.levels, backbone.timestep, pixel_unshuffle=backbone.pixel_unshuffle
    )
    features.eval().requires_grad_(False)
    return features


def backbone_stage(photos: Path, out: Path, settings: BackboneTraining = BACKBONE) -> None:
    """Denoising training on the photographs of the training subjects."""
    images = [photo.pixels for photo in load_photographs(photos, splits.TRAIN)]
    train_backbone(images, out, settings)


def features_stage(photos: Path, out: Path, triplets: int, workers: int = 2) -> None:
    """Features of controlled triplets, half from photographs, half procedural.

    Triplets are made in ``workers`` processes while this one runs the backbone.
    """
    backbone = _features(_averaged_unet(out))
    folder = out / "features"
    folder.mkdir(parents=True, exist_ok=True)
    shards = [folder / f"{number:04d}.safetensors" for number in range(-(-triplets // _SHARD))]
    missing = [(number, path) for number, path in enumerate(shards) if not path.exists()]
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_load_sources, initargs=(photos,)
    ) as pool:
        for (number, path), made in zip(
            missing, pool.map(_make_triplets, [number for number, _ in missing]), strict=True
        ):
            save_features(triplet_features(backbone, made, CONFIG.aggregation.grid), path)
            _log.info("features of shard %d of %d", number + 1, len(shards))


_sources: list[Photograph] = []  # of a worker process


def _load_sources(photos: Path) -> None:
    cv2.setNumThreads(1)  # the workers are the parallelism
    _sources[:] = load_photographs(photos, splits.TRAIN)


def _make_triplets(shard: int) -> list[Triplet]:
    donors = [photo.pixels for photo in _sources]
    masked = [photo for photo in _sources if photo.mask is not None]
    made = []
    for number in range(shard * _SHARD, (shard + 1) * _SHARD):
        rng = np.random.default_rng((1, number))
        if number % 2:
            photo = masked[int(rng.integers(len(masked)))]
            made.append(photograph_triplet(photo, rng, donors, SEEN_KINDS))
        else:
            made.append(procedural_triplet(rng, donors, SEEN_KINDS))
    return made


def _networks() -> tuple[AggregationNetwork, AggregationNetwork]:
    torch.manual_seed(0)
    aggregation = CONFIG.aggregation
    return (
        AggregationNetwork(LEVEL_CHANNELS, aggregation),
        AggregationNetwork(LEVEL_CHANNELS, aggregation),
    )


def aggregation_stage(out: Path, settings: AggregationTraining) -> None:
    """Contrastive training on the features."""
    data = load_features(sorted((out / "features").glob("*.safetensors")))
    semantic, visual = _networks()
    train_aggregation(semantic, visual, data, LEVEL_CHANNELS, out, settings)


def calibrate_stage(photos: Path, out: Path, repeats: int = 24) -> dict[str, Any]:
    """Write ``out/model`` with thresholds from validation, and figures on test subjects."""
    semantic, visual = _networks()
    load_state(out / "aggregation.safetensors", {"semantic": semantic, "visual": visual})
    unet = _averaged_unet(out)
    folder = out / "model"
    save_model(folder, CONFIG, unet, semantic, visual)
    scorer = VSMScorer.from_pretrained(folder)
    donors = [photo.pixels for photo in load_photographs(photos, splits.TRAIN)]

    def pairs_of(photographs: Sequence[Photograph], kinds: Sequence[str], seed: int) -> list[Any]:
        return list(controlled_pairs(photographs, donors, kinds, repeats=repeats, seed=seed))

    validation = pairs_of(load_photographs(photos, splits.VALIDATION), SEEN_KINDS, 2)
    # One pair in six is of two subjects: without them the highest correlation sits at
    # thresholds under which any two subjects look alike.
    strangers = list(
        other_subject_pairs(
            load_photographs(photos, splits.VALIDATION), count=len(validation) // 5, seed=6
        )
    )
    calibration = [*validation, *strangers]
    oracle = np.array([pair.oracle for pair in calibration])
    chosen = calibrate(match_points(scorer, calibration), oracle)
    config = dataclasses.replace(CONFIG, thresholds=Thresholds(*chosen))
    save_model(folder, config, _averaged_unet(out), semantic, visual)
    _log.info("thresholds: semantic %g, visual %g", *chosen)

    test = load_photographs(photos, splits.TEST)
    figures: dict[str, Any] = {"thresholds": dict(zip(("semantic", "visual"), chosen, strict=True))}
    for name, pairs in (
        ("validation, seen alterations", validation),
        ("test, seen alterations", pairs_of(test, SEEN_KINDS, 3)),
        ("test, unseen alteration", pairs_of(test, (UNSEEN_KIND,), 4)),
    ):
        figures[name] = report(pairs, match_points(scorer, pairs), *chosen)
    others = list(other_subject_pairs(test, count=60, seed=5))
    scores = match_points(scorer, others).scores(*chosen)
    figures["test, other subject"] = {
        "pairs": len(others),
        "scored": int(np.isfinite(scores).sum()),
        "mean": float(np.nanmean(scores)),
    }
    (out / "evaluation.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return figures


def main() -> None:
    """Run one stage or all."""
    parser = argparse.ArgumentParser(
        prog="python -m vsm_fast.training.tiny",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--photos", type=Path, required=True, help="SUBJECT/NN.jpg, NN_mask.png")
    parser.add_argument("--out", type=Path, required=True, help="folder of all checkpoints")
    parser.add_argument("--stage", choices=(*STAGES, "all"), default="all")
    parser.add_argument("--backbone-steps", type=int, default=BACKBONE.steps)
    parser.add_argument("--triplets", type=int, default=1600, help="controlled triplets")
    parser.add_argument("--steps", type=int, default=AggregationTraining.steps)
    parser.add_argument("--repeats", type=int, default=24, help="controlled pairs per photograph")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    wanted = STAGES if options.stage == "all" else (options.stage,)
    if "backbone" in wanted:
        settings = dataclasses.replace(BACKBONE, steps=options.backbone_steps)
        backbone_stage(options.photos, options.out, settings)
    if "features" in wanted:
        features_stage(options.photos, options.out, options.triplets)
    if "aggregation" in wanted:
        aggregation_stage(options.out, AggregationTraining(steps=options.steps))
    if "calibrate" in wanted:
        print(json.dumps(calibrate_stage(options.photos, options.out, options.repeats), indent=2))


if __name__ == "__main__":
    main()
