"""Train the embedded model from photographs: ``python -m recipes.tiny.train``.

Six resumable stages; each reads the output of the earlier ones under ``--out``::

    backbone     denoising training                        backbone.safetensors
    examples     controlled pairs                          examples/NNNN.safetensors
    features     frozen features of some pairs             features/NNNN.safetensors
    aggregation  contrastive training                      contrastive.safetensors
    joint        backbone and aggregation together,        joint.safetensors
                 on the quantities that the metric reads
    calibrate    thresholds on validation subjects,        model/, evaluation.json
                 figures on test subjects
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recipes.tiny import splits
from recipes.tiny.backbone import BackboneTraining, make_unet, train_backbone
from recipes.tiny.example_shards import ExampleShards
from recipes.tiny.examples import SEEN_KINDS, UNSEEN_KIND, make_examples, training_photographs
from recipes.tiny.joint import JointTraining, train_joint
from recipes.tiny.metric_losses import SimilarityCurve
from vsm_fast.lab.evaluation.run import OTHER_SUBJECT
from vsm_fast.lab.pairs.benchmark import Benchmark
from vsm_fast.lab.pairs.pairs import ControlledPair
from vsm_fast.lab.pairs.photographs import load_photographs
from vsm_fast.lab.training.calibration import (
    PointTable,
    altered_cells,
    calibrate,
    point_table,
    report,
)
from vsm_fast.lab.training.contrastive import (
    CHECKPOINT,
    AggregationPair,
    train_contrastive,
)
from vsm_fast.lab.training.features import pair_features
from vsm_fast.lab.training.rows import RowShards, write_rows
from vsm_fast.lab.training.state import load_state, save_state
from vsm_fast.lab.training.train_job import PRESETS
from vsm_fast.model.aggregation import AggregationNetwork
from vsm_fast.model.config import AggregationConfig, BackboneConfig, ModelConfig, Thresholds
from vsm_fast.model.load import load_model
from vsm_fast.model.location import find_model
from vsm_fast.model.network import DescriptorNetwork
from vsm_fast.model.pixel_statistics import CHANNELS
from vsm_fast.model.save import save_model
from vsm_fast.model.unet import UNetFeatures
from vsm_fast.scorer import VSMScorer

_log = logging.getLogger(__name__)

STAGES = ("backbone", "examples", "features", "aggregation", "joint", "calibrate")
_AFTER_START = ("examples", "joint", "calibrate")
BACKBONE = BackboneTraining()
CONFIG = ModelConfig(
    name="tiny",
    backbone=BackboneConfig(
        levels=("us2", "us3", "us4", "pixels"),
        resolution=256,
        timestep=50,
        framing="subject",
        background="grey",
        pixel_unshuffle=BACKBONE.pixel_unshuffle,
    ),
    aggregation=AggregationConfig(
        grid=(32, 32), bottleneck_channels=64, descriptor_channels=128, first_level_weight="mixing"
    ),
)
LEVEL_CHANNELS = (192, 128, 128, CHANNELS)
_FEATURE_SHARD = 16


def _average_unet(out: Path) -> Any:
    """Load the averaged denoising network."""
    unet, average = make_unet(BACKBONE), make_unet(BACKBONE)
    if load_state(out / "backbone.safetensors", {"unet": unet, "average": average}) == 0:
        raise FileNotFoundError(f"{out} has no backbone.safetensors. Run --stage backbone first.")
    return average.eval().requires_grad_(False)


def _features(out: Path) -> UNetFeatures:
    config = CONFIG.backbone
    features = UNetFeatures(
        _average_unet(out), config.levels, config.timestep, pixel_unshuffle=config.pixel_unshuffle
    )
    return features.eval().requires_grad_(False)


def _networks() -> AggregationPair:
    torch.manual_seed(0)
    semantic, visual = (AggregationNetwork(LEVEL_CHANNELS, CONFIG.aggregation) for _ in range(2))
    return AggregationPair(semantic, visual)


def _examples(out: Path) -> ExampleShards:
    return ExampleShards(sorted((out / "examples").glob("*.safetensors")))


def start_from(model: str, out: Path) -> None:
    """Take backbone and aggregation networks from a model of the same shape.

    Writes the checkpoints of the stages ``backbone`` and ``aggregation`` for the joint training.
    """
    from diffusers import UNet2DModel

    unet = UNet2DModel.from_pretrained(find_model(model), subfolder="unet")
    _, network = load_model(model)
    save_state(
        out / "backbone.safetensors", BACKBONE.steps, {"unet": unet, "average": deepcopy(unet)}
    )
    networks = AggregationPair(network.semantic, network.visual)
    save_state(out / CHECKPOINT, 1, {"networks": networks})


def features_stage(out: Path, pairs: int) -> None:
    """Extract frozen features of the first pairs with known correspondence."""
    backbone, examples = _features(out), _examples(out)
    settings, _ = PRESETS["tiny"]
    folder = out / "features"
    folder.mkdir(parents=True, exist_ok=True)
    numbers = examples.exact[:pairs]
    for start in range(0, len(numbers), _FEATURE_SHARD):
        path = folder / f"{start // _FEATURE_SHARD:04d}.safetensors"
        if path.exists():
            continue
        part = numbers[start : start + _FEATURE_SHARD]
        chosen = [examples.read(number) for number in part]
        rngs = [np.random.default_rng((settings.seed, number)) for number in part]
        visits = pair_features(backbone, chosen, CONFIG.aggregation.grid, rngs, settings)
        write_rows(path, [visit.row() for visit in visits], {"number": part})
        _log.info("features of pairs up to %d of %d", start + len(part), len(numbers))


def joint_stage(out: Path, settings: JointTraining) -> None:
    """Train backbone and aggregation networks together, from the earlier checkpoints."""
    networks = _networks()
    load_state(out / CHECKPOINT, {"networks": networks})
    network = DescriptorNetwork(_features(out), networks.semantic, networks.visual)
    train_joint(network, _examples(out), out, settings)


def _save(out: Path, thresholds: Thresholds) -> Path:
    """Write ``out/model`` from the averaged network of the joint stage."""
    network, average = (
        DescriptorNetwork(_features(out), networks.semantic, networks.visual)
        for networks in (_networks(), _networks())
    )
    modules = {"network": network, "average": average, "curve": SimilarityCurve()}
    if load_state(out / "joint.safetensors", modules) == 0:
        raise FileNotFoundError(f"{out} has no joint.safetensors. Run --stage joint first.")
    unet = _average_unet(out)
    # diffusers expects all layers, including those after the last level, which never run.
    trained: Any = average.backbone
    unet.load_state_dict(trained.unet.state_dict(), strict=False)
    config = dataclasses.replace(CONFIG, thresholds=thresholds)
    save_model(out / "model", config, unet, average.semantic, average.visual)
    return out / "model"


def match_points(scorer: VSMScorer, pairs: Sequence[ControlledPair]) -> PointTable:
    """Extract descriptors of controlled pairs and match them without thresholds."""
    references = scorer.describe([p.original_2 for p in pairs], [p.mask_2 for p in pairs])
    sources = scorer.describe([p.altered_1 for p in pairs], [p.mask_1 for p in pairs])
    altered = [
        altered_cells(scorer.config, pair, sources.cells[sources.rows(number)].numpy())
        for number, pair in enumerate(pairs)
    ]
    return point_table(sources, references, np.concatenate(altered))


def calibrate_stage(photos: Path, out: Path, count: int) -> dict[str, Any]:
    """Write ``out/model`` with thresholds from validation, and figures on test subjects."""
    scorer = VSMScorer.from_pretrained(_save(out, Thresholds()))
    donors = [photo.pixels for photo in training_photographs(photos)]

    def measure(
        subjects: tuple[str, ...], kinds: tuple[str, ...], seed: int
    ) -> tuple[NDArray[np.float64], NDArray[np.str_], PointTable]:
        photographs = load_photographs(photos, subjects)
        pairs = list(Benchmark(photographs, donors, kinds, count, seed))
        oracle = np.array([pair.oracle for pair in pairs])
        return oracle, np.array([pair.kind for pair in pairs]), match_points(scorer, pairs)

    oracle, kinds, table = measure(splits.VALIDATION, SEEN_KINDS, 2)
    chosen = calibrate(table, oracle, kinds == OTHER_SUBJECT)
    _save(out, Thresholds(*chosen))
    _log.info("thresholds: semantic %g, visual %g", *chosen)
    figures = {
        "thresholds": dict(zip(("semantic", "visual"), chosen, strict=True)),
        "validation, seen alterations": report(oracle, kinds, table, chosen),
        "test, seen alterations": report(*measure(splits.TEST, SEEN_KINDS, 3), chosen),
        "test, unseen alteration": report(*measure(splits.TEST, (UNSEEN_KIND,), 4), chosen),
    }
    (out / "evaluation.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return figures


def main() -> None:
    """Run one or all stages."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.tiny.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--photos", type=Path, required=True, help="SUBJECT/NN.jpg, NN_mask.png")
    parser.add_argument("--out", type=Path, required=True, help="folder of all checkpoints")
    parser.add_argument("--stage", choices=(*STAGES, "all"), default="all")
    parser.add_argument(
        "--start", metavar="MODEL", help="instead of the stages backbone, features, aggregation"
    )
    parser.add_argument("--backbone-steps", type=int, default=BACKBONE.steps)
    parser.add_argument("--shards", type=int, default=200, help="of 32 controlled pairs")
    parser.add_argument("--feature-pairs", type=int, default=800, help="pairs of the aggregation")
    parser.add_argument("--epochs", type=int, default=PRESETS["tiny"][1].epochs)
    parser.add_argument("--joint-steps", type=int, default=JointTraining.steps)
    parser.add_argument("--count", type=int, default=400, help="pairs of each benchmark")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    options.out.mkdir(parents=True, exist_ok=True)
    photos, out = options.photos, options.out
    stages: tuple[str, ...] = STAGES if options.stage == "all" else (options.stage,)
    if options.start:
        stages = tuple(stage for stage in stages if stage in _AFTER_START)
        start_from(options.start, out)
    if "backbone" in stages:
        images = [photo.pixels for photo in training_photographs(photos)]
        train_backbone(images, out, dataclasses.replace(BACKBONE, steps=options.backbone_steps))
    if "examples" in stages:
        grid = CONFIG.aggregation.grid
        make_examples(photos, out / "examples", options.shards, CONFIG.backbone, grid, workers=2)
    if "features" in stages:
        features_stage(out, options.feature_pairs)
    if "aggregation" in stages:
        features = RowShards(sorted((out / "features").glob("*.safetensors")))
        settings = dataclasses.replace(PRESETS["tiny"][1], epochs=options.epochs)
        train_contrastive(_networks(), features, out, settings)
    if "joint" in stages:
        joint_stage(out, JointTraining(steps=options.joint_steps))
    if "calibrate" in stages:
        print(json.dumps(calibrate_stage(photos, out, options.count), indent=2))


if __name__ == "__main__":
    main()
