"""``vsm-fast train`` as a job: features, training with validation, a model folder.

A run is a folder. It can be interrupted at any time; the same settings go on where it was, and
other settings are refused.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from vsm_fast import __version__
from vsm_fast.errors import TrainingError
from vsm_fast.extras import required
from vsm_fast.files import write_json
from vsm_fast.lab.figures import mixing_figure, save_figure
from vsm_fast.lab.pairs.pair_shards import count_pairs
from vsm_fast.lab.training.contrastive import (
    CHECKPOINT,
    AggregationPair,
    ContrastiveTraining,
    EpochRecord,
    train_contrastive,
)
from vsm_fast.lab.training.feature_cache import training_features, validation_features
from vsm_fast.lab.training.features import FeatureSettings
from vsm_fast.lab.training.rows import RowShards
from vsm_fast.lab.training.run_records import RunRecords
from vsm_fast.lab.training.state import load_state, read_notes, read_step, save_state
from vsm_fast.lab.training.validation import Validation, check_pairs, validate
from vsm_fast.model.aggregation import AggregationNetwork
from vsm_fast.model.config import ModelConfig, Thresholds
from vsm_fast.model.devices import choose_device, choose_dtype
from vsm_fast.model.load import build_backbone, verified_config
from vsm_fast.model.location import find_model
from vsm_fast.model.save import save_trained
from vsm_fast.progress import Progress, reporting
from vsm_fast.scorer import VSMScorer

_log = logging.getLogger(__name__)
_CONFIG, _BEST = "config.json", "best.safetensors"
_WAIT = timedelta(hours=24)  # of the other processes while the first one makes the features

PRESETS: Mapping[str, tuple[FeatureSettings, ContrastiveTraining]] = {
    "paper": (FeatureSettings(), ContrastiveTraining()),
    # The second stage of the embedded model: shorter, with the hinge.
    "tiny": (
        FeatureSettings(variants=1),
        ContrastiveTraining(epochs=20, drop_every=8, warmup=50, clip=5.0, margin_weight=100.0),
    ),
}


@dataclass(frozen=True)
class TrainSettings:
    """Everything that decides what a run ends with.

    Attributes:
        pairs: Data set of controlled pairs to train on.
        validation: Another one, of other subjects; without pairs of two subjects (``make-pairs
            --other-subjects``) thresholds do not know how unlike strangers look.
        backbone: Name or folder of the model whose backbone is used.
        levels: Levels to read; empty = the model's.
        features: See ``FeatureSettings``.
        training: See ``ContrastiveTraining``.
    """

    pairs: str
    validation: str
    backbone: str = "tiny"
    levels: tuple[str, ...] = ()
    features: FeatureSettings = field(default_factory=FeatureSettings)
    training: ContrastiveTraining = field(default_factory=ContrastiveTraining)


@dataclass(frozen=True)
class TrainResult:
    """The model folder, the epoch that it is from (counted from 1), and its validation."""

    model: Path
    epoch: int
    validation: Validation


def run_training(
    settings: TrainSettings,
    out: Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    features: Path | None = None,
    progress: Progress = None,
    tell: Callable[[str], None] = _log.info,
) -> TrainResult:
    """Run, or resume, a training.

    Args:
        settings: See there.
        out: Folder of the run: ``config.json``, ``features/``, ``history.csv``,
            ``tensorboard/``, ``mixing.png``, checkpoints, and in the end ``model/``.
        device: ``"auto"`` or a torch device.
        dtype: Precision of the frozen backbone, ``"auto"`` or a name.
        features: Folder of the features; None is ``out/features``. Runs on the same pairs and
            with the same ``settings.features`` can share one.
        progress: As for ``VSMScorer.score``, of the pairs whose features are made.
        tell: Gets one line an epoch.

    Raises:
        TrainingError: ``out`` holds a run of other settings, no pair can be used, or there are
            too few validation pairs.
        PairingError: Pairs cannot be read.
        ModelError: The backbone is missing or altered.
        ValueError: A setting that does not fit the backbone, or validation pairs that no
            thresholds can be calibrated on.
        ImportError: A package of the extra ``train`` is missing.
    """
    chosen = choose_device(device)
    state = required("accelerate", "training").PartialState(cpu=chosen.type == "cpu", timeout=_WAIT)
    if state.num_processes > 1 and chosen.type == "cuda":
        chosen = state.device
    source = find_model(settings.backbone)
    config = verified_config(source)
    if settings.levels:
        config = replace(config, backbone=replace(config.backbone, levels=settings.levels))
    # What is wrong with the inputs is said before the folder belongs to them.
    settings.features.level_of(config.backbone.levels)
    total = count_pairs(settings.pairs) + count_pairs(settings.validation)
    with state.main_process_first():
        _claim(out, settings)
        train, validation, channels = _features(
            settings,
            config,
            source,
            features or out / "features",
            chosen,
            choose_dtype(dtype, chosen),
            progress,
            total,
        )
    check_pairs(validation)
    networks = _new_networks(channels, config, settings.training.seed)
    checkpoint = out / CHECKPOINT
    pairs = len(train) // settings.features.variants
    ended = read_step(checkpoint) // -(-pairs // settings.training.batch)
    records = None
    if state.is_main_process:
        required("matplotlib", "the figure of the mixing weights")
        records = RunRecords(out, ended)

    def after_epoch(record: EpochRecord) -> None:
        assert records is not None
        found = validate(networks, validation)
        _keep_best(record, found, networks, out / _BEST)
        weights = {"semantic": networks.semantic.mixing(), "visual": networks.visual.mixing()}
        mixing = {
            f"mixing/{branch}/{level}": weight
            for branch, values in weights.items()
            for level, weight in zip(config.backbone.levels, values.tolist(), strict=True)
        }
        records.add(record.epoch, _values(record, found) | mixing)
        tell(_line(record, found))

    train_contrastive(
        networks,
        train,
        out,
        settings.training,
        variants=settings.features.variants,
        device=chosen,
        after_epoch=after_epoch,
    )
    if records is not None:
        records.close()
        result = _finish(out, settings, config, source, networks)
    state.wait_for_everyone()
    return result if records is not None else _result(out)


def _claim(out: Path, settings: TrainSettings) -> None:
    """Make the folder this run's, or check that it is."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / _CONFIG
    wanted = json.loads(json.dumps(asdict(settings)))
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else wanted
    before, now = _flat(known), _flat(wanted)
    # More epochs are the same run, longer: rates and orders are those of the epoch.
    fixed = sorted((set(before) | set(now)) - {"training.epochs"})
    differing = [name for name in fixed if before.get(name) != now.get(name)]
    if differing:
        shown = "; ".join(f"{n}: {before.get(n)!r} there, {now.get(n)!r} here" for n in differing)
        raise TrainingError(
            f"{out} holds a run with other settings ({shown}). Choose another folder, or repeat "
            "that run's settings to go on with it."
        )
    write_json(path, wanted)


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in content.items():
        nested = isinstance(value, dict)
        flat.update(_flat(value, f"{prefix}{name}.") if nested else {prefix + name: value})
    return flat


def _features(
    settings: TrainSettings,
    config: ModelConfig,
    source: Path,
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    progress: Progress,
    total: int,
) -> tuple[RowShards, RowShards, tuple[int, ...]]:
    """Features of both data sets, ``total`` pairs, and the channels of each level."""
    pairs, held_back = Path(settings.pairs), Path(settings.validation)
    backbone = build_backbone(config, source)
    backbone.eval().requires_grad_(False).to(device, dtype)
    with reporting(progress, total) as advance:
        train = training_features(
            backbone, config, settings.features, pairs, folder / "train", advance
        )
        validation = validation_features(
            backbone, config, held_back, folder / "validation", advance
        )
    return train, validation, backbone.level_channels


def _new_networks(channels: tuple[int, ...], config: ModelConfig, seed: int) -> AggregationPair:
    torch.manual_seed(seed)
    semantic, visual = (AggregationNetwork(channels, config.aggregation) for _ in range(2))
    return AggregationPair(semantic, visual)


def _keep_best(
    record: EpochRecord, found: Validation, networks: AggregationPair, best: Path
) -> None:
    """Keep the networks when no epoch before correlated better."""
    before = read_notes(best)
    if before is None or found.figures["pearson"] > before["figures"]["pearson"]:
        notes = {"thresholds": found.thresholds, "figures": found.figures}
        save_state(best, record.epoch, {"networks": networks}, notes=notes)


def _values(record: EpochRecord, found: Validation) -> dict[str, float]:
    """The numbers of an epoch, by the names that the logs show."""
    return {
        **{f"loss/{name}": value for name, value in record.losses.items()},
        "learning_rate": record.rate,
        **{f"validation/{name}": found.figures[name] for name in _SHOWN},
        "validation/semantic_threshold": found.thresholds[0],
        "validation/visual_threshold": found.thresholds[1],
    }


def _line(record: EpochRecord, found: Validation) -> str:
    """How an epoch went."""
    shown = ", ".join(f"{name} {value:.3f}" for name, value in record.losses.items() if value)
    return (
        f"epoch {record.epoch}: {shown}; validation Pearson {found.figures['pearson']:.3f}, "
        f"Spearman {found.figures['spearman']:.3f}, "
        f"point AUROC {found.figures['point_auroc']:.3f}"
    )


_SHOWN = ("pearson", "spearman", "point_auroc", "above_other", "mean_consistent", "mean_other")


def _finish(
    out: Path,
    settings: TrainSettings,
    config: ModelConfig,
    source: Path,
    networks: AggregationPair,
) -> TrainResult:
    """Write ``model/`` and ``mixing.png`` from the best epoch."""
    epoch = load_state(out / _BEST, {"networks": networks.cpu()})
    notes = read_notes(out / _BEST)
    model = out / "model"
    chosen = replace(config, name=out.resolve().name, thresholds=Thresholds(*notes["thresholds"]))
    save_trained(model, chosen, source, networks.semantic, networks.visual)
    about = {
        "settings": asdict(settings),
        "epoch": epoch,
        "validation": notes["figures"],
        "vsm_fast": __version__,
        "torch": torch.__version__,
    }
    write_json(model / "training.json", about)
    figure = mixing_figure(VSMScorer.from_pretrained(model, device="cpu"))
    save_figure(figure, out / "mixing.png")
    return _result(out)


def _result(out: Path) -> TrainResult:
    notes, epoch = read_notes(out / _BEST), read_step(out / _BEST)
    thresholds = (float(notes["thresholds"][0]), float(notes["thresholds"][1]))
    return TrainResult(out / "model", epoch, Validation(thresholds, notes["figures"]))
