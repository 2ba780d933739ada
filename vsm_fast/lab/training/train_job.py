"""Training run of ``vsm-fast train``: features, training with validation, a model folder.

A run is a folder. An interrupted run resumes with the same settings; other settings are refused.
"""

from __future__ import annotations

import csv
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
from vsm_fast.files import replacing, write_json
from vsm_fast.lab.figures import mixing_figure, save_figure
from vsm_fast.lab.pairs.pair_shards import count_pairs
from vsm_fast.lab.training.calibration import Validation, check_pairs, validate
from vsm_fast.lab.training.contrastive import (
    CHECKPOINT,
    AggregationPair,
    ContrastiveTraining,
    EpochRecord,
    train_contrastive,
)
from vsm_fast.lab.training.feature_cache import training_features, validation_features
from vsm_fast.lab.training.features import FeatureSettings
from vsm_fast.lab.training.state import load_state, read_progress, save_state
from vsm_fast.model.aggregation import AggregationNetwork
from vsm_fast.model.config import Thresholds
from vsm_fast.model.devices import choose_device, choose_dtype
from vsm_fast.model.load import build_backbone, verified_config
from vsm_fast.model.location import find_model
from vsm_fast.model.save import save_trained
from vsm_fast.progress import Progress, reporting
from vsm_fast.scorer import VSMScorer

_log = logging.getLogger(__name__)
_CONFIG, _BEST = "config.json", "best.safetensors"
_WAIT = timedelta(hours=24)  # of the other processes while the main process extracts features
_SHOWN = ("pearson", "spearman", "point_auroc", "above_other", "mean_consistent", "mean_other")

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
    """Everything that determines the result of a run.

    Attributes:
        pairs: Data set of controlled pairs for training.
        validation: Data set of other subjects. Without pairs of two subjects (``make-pairs
            --other-subjects``), calibration ignores the similarity of different subjects.
        backbone: Name or folder of the model that provides the backbone.
        levels: Levels to read; empty = the model's.
        features: Augmentation and matching.
        training: Objective and optimiser.
    """

    pairs: str
    validation: str
    backbone: str = "tiny"
    levels: tuple[str, ...] = ()
    features: FeatureSettings = field(default_factory=FeatureSettings)
    training: ContrastiveTraining = field(default_factory=ContrastiveTraining)


@dataclass(frozen=True)
class TrainResult:
    """Model folder of the best epoch, its number (from 1) and its validation."""

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
    """Start or resume a training run.

    Args:
        settings: Data, backbone and training settings.
        out: Run folder: ``config.json``, ``features/``, ``history.csv``, ``tensorboard/``,
            ``mixing.png``, checkpoints, and at the end ``model/``.
        device: ``"auto"`` or a torch device.
        dtype: Precision of the frozen backbone, ``"auto"`` or a name.
        features: Feature cache folder; None is ``out/features``. Runs on the same pairs with the
            same ``settings.features`` can share it.
        progress: Progress of the feature extraction in pairs, as for ``VSMScorer.score``.
        tell: Callback with one line per epoch.

    Raises:
        TrainingError: If ``out`` holds a run with other settings, no pair is usable, or there
            are too few validation pairs.
        PairingError: If the pairs cannot be read.
        ModelError: If the backbone is missing or altered.
        ValueError: If a setting does not fit the backbone, or no thresholds can be calibrated on
            the validation pairs.
        ImportError: If a package of the extra ``lab`` is missing.
    """
    placed = choose_device(device)
    state = required("accelerate", "training").PartialState(cpu=placed.type == "cpu", timeout=_WAIT)
    if state.num_processes > 1 and placed.type == "cuda":
        placed = state.device
    source = find_model(settings.backbone)
    config = verified_config(source)
    if settings.levels:
        config = replace(config, backbone=replace(config.backbone, levels=settings.levels))
    # Faulty inputs are reported before the run claims its folder.
    settings.features.level_of(config.backbone.levels)
    pairs, held_back = Path(settings.pairs), Path(settings.validation)
    total = count_pairs(pairs) + count_pairs(held_back)
    cache = features or out / "features"
    with state.main_process_first():
        _claim(out, settings)
        backbone = build_backbone(config, source)
        backbone.eval().requires_grad_(False).to(placed, choose_dtype(dtype, placed))
        with reporting(progress, total) as advance:
            train = training_features(
                backbone, config, settings.features, pairs, cache / "train", advance
            )
            validation = validation_features(
                backbone, config, held_back, cache / "validation", advance
            )
    check_pairs(validation)
    torch.manual_seed(settings.training.seed)
    networks = AggregationPair(
        *(AggregationNetwork(backbone.level_channels, config.aggregation) for _ in range(2))
    )
    del backbone
    history: _History | None = None
    if state.is_main_process:
        required("matplotlib", "the figure of the mixing weights")
        steps_per_epoch = -(-(len(train) // settings.features.variants) // settings.training.batch)
        history = _History(out, read_progress(out / CHECKPOINT)[0] // steps_per_epoch)

    def after_epoch(record: EpochRecord) -> None:
        assert history is not None
        result = validate(networks, validation)
        figures, (_, best) = result.figures, read_progress(out / _BEST)
        if best is None or figures["pearson"] > best["figures"]["pearson"]:
            save_state(out / _BEST, record.epoch, {"networks": networks}, notes=asdict(result))
        values = {f"loss/{name}": value for name, value in record.losses.items()}
        values["learning_rate"] = record.rate
        values |= {f"validation/{name}": figures[name] for name in _SHOWN}
        values["validation/semantic_threshold"] = result.thresholds[0]
        values["validation/visual_threshold"] = result.thresholds[1]
        for branch in ("semantic", "visual"):
            weights = getattr(networks, branch).mixing().tolist()
            for level, weight in zip(config.backbone.levels, weights, strict=True):
                values[f"mixing/{branch}/{level}"] = weight
        history.add(record.epoch, values)
        losses = ", ".join(f"{name} {loss:.3f}" for name, loss in record.losses.items() if loss)
        tell(
            f"epoch {record.epoch}: {losses}; validation Pearson {figures['pearson']:.3f}, "
            f"Spearman {figures['spearman']:.3f}, point AUROC {figures['point_auroc']:.3f}"
        )

    train_contrastive(
        networks,
        train,
        out,
        settings.training,
        variants=settings.features.variants,
        device=placed,
        after_epoch=after_epoch,
    )
    model = out / "model"
    if history is not None:
        history.close()
        load_state(out / _BEST, {"networks": networks.cpu()})
        epoch, best = read_progress(out / _BEST)
        thresholds = Thresholds(*best["thresholds"])
        config = replace(config, name=out.resolve().name, thresholds=thresholds)
        save_trained(model, config, source, networks.semantic, networks.visual)
        about = {
            "settings": asdict(settings),
            "epoch": epoch,
            "validation": best["figures"],
            "vsm_fast": __version__,
            "torch": torch.__version__,
        }
        write_json(model / "training.json", about)
        figure = mixing_figure(VSMScorer.from_pretrained(model, device="cpu"))
        save_figure(figure, out / "mixing.png")
    state.wait_for_everyone()
    epoch, best = read_progress(out / _BEST)
    semantic, visual = best["thresholds"]
    return TrainResult(model, epoch, Validation((semantic, visual), best["figures"]))


def _claim(out: Path, settings: TrainSettings) -> None:
    """Create the run folder, or check that its settings are the same."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / _CONFIG
    new = json.loads(json.dumps(asdict(settings)))
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else new
    before, now = _flat(old), _flat(new)
    # More epochs extend the same run: rates and pair orders depend on the epoch alone.
    fixed = sorted((set(before) | set(now)) - {"training.epochs"})
    differing = [name for name in fixed if before.get(name) != now.get(name)]
    if differing:
        shown = "; ".join(f"{n}: {before.get(n)!r} there, {now.get(n)!r} here" for n in differing)
        raise TrainingError(
            f"{out} holds a run with other settings ({shown}). Choose another folder, or repeat "
            "that run's settings to resume it."
        )
    write_json(path, new)


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to dotted names."""
    flat: dict[str, Any] = {}
    for name, value in content.items():
        nested = isinstance(value, dict)
        flat.update(_flat(value, f"{prefix}{name}.") if nested else {prefix + name: value})
    return flat


class _History:
    """``history.csv`` and TensorBoard logs of a run with a number of finished epochs.

    Later records of an interrupted run are dropped.
    """

    def __init__(self, folder: Path, epochs: int) -> None:
        self._table = folder / "history.csv"
        self._rows: list[dict[str, str]] = []
        if self._table.exists():
            with self._table.open(newline="", encoding="utf-8") as file:
                self._rows = [row for row in csv.DictReader(file) if int(row["epoch"]) <= epochs]
        required("tensorboard", "the training log")
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=epochs + 1)
        self.close = self._writer.close

    def add(self, epoch: int, values: Mapping[str, float]) -> None:
        """Record an epoch; a second record of the same epoch replaces the first."""
        row = {"epoch": str(epoch), **{name: f"{value:.6g}" for name, value in values.items()}}
        self._rows = [old for old in self._rows if int(old["epoch"]) < epoch] + [row]
        names = list(dict.fromkeys(name for old in self._rows for name in old))
        with (
            replacing(self._table) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(self._rows)
        for name, value in values.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()
