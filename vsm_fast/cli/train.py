"""``vsm-fast train``: aggregation networks trained on controlled pairs."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args, get_type_hints

from cyclopts import Group, Parameter

from vsm_fast.cli.common import ExitCode, UsageError, checked_device, print_text
from vsm_fast.cli.options import (
    OPTIONS,
    Directory,
    File,
    Integer,
    Name,
    Names,
    QuietCommand,
    option,
)

if TYPE_CHECKING:
    from vsm_fast.lab.training.train_job import TrainSettings

Number = Annotated[float, Parameter(metavar="X")]


@Parameter(name="*", group=Group("features", sort_key=OPTIONS.sort_key + 1))
@dataclass(frozen=True, kw_only=True)
class FeatureOptions:
    """Fields of ``FeatureSettings``; None keeps the preset's value."""

    variants: Annotated[Integer | None, option("visits per pair, each augmented anew")] = None
    flips: Annotated[bool | None, option("mirror half of the visits", negative="--no-flips")] = None
    jitter: Annotated[Number | None, option("largest relative change of a colour channel")] = None
    known_points: Annotated[
        bool | None, option("use the points stored with the pairs", negative="--no-known-points")
    ] = None
    match_level: Annotated[Name | None, option("level that matches pairs without points")] = None
    match_similarity: Annotated[Number | None, option("lowest similarity of such a match")] = None
    match_skewness: Annotated[
        Number | None, option("lowest skewness of its row; negative = every row")
    ] = None


@Parameter(name="*", group=Group("training", sort_key=OPTIONS.sort_key + 2))
@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Fields of ``ContrastiveTraining``; None keeps the preset's value."""

    epochs: Annotated[Integer | None, option("passes over the pairs")] = None
    batch: Annotated[Integer | None, option("pairs per step, over all processes")] = None
    learning_rate: Annotated[Number | None, option("initial learning rate of AdamW")] = None
    drop_every: Annotated[Integer | None, option("epochs between learning-rate drops")] = None
    drop_by: Annotated[Number | None, option("divisor of a learning-rate drop")] = None
    warmup: Annotated[Integer | None, option("steps of linear learning-rate warm-up")] = None
    weight_decay: Annotated[Number | None, option("weight decay of AdamW")] = None
    clip: Annotated[Number | None, option("largest norm of the gradient; 0 = no limit")] = None
    temperature: Annotated[Number | None, option("divisor of the similarities")] = None
    visual_weight: Annotated[
        Number | None, option("weight of the visual terms; alpha in the paper")
    ] = None
    margin_weight: Annotated[
        Number | None, option("weight of the hinge on similarities; 0 = the paper's objective")
    ] = None
    margin: Annotated[Number | None, option("upper bound of altered points' similarity")] = None
    precision: Annotated[
        Name | None, option("precision of the networks: bf16 (autocast) or fp32")
    ] = None
    save_every: Annotated[Integer | None, option("steps between checkpoints")] = None


@dataclass(frozen=True, kw_only=True)
class Train(QuietCommand):
    """Train aggregation networks on controlled pairs."""

    NOTES: ClassVar[str] = """\
Pairs come from vsm-fast make-pairs, or in the layout of the published test set. The backbone stays
frozen; its features are computed once and stored under --out. Settings are those of the preset,
overridden by --config, overridden by the options. Interrupted runs resume with the same command,
bit for bit; --out of a run with other settings is refused, but --epochs may grow.

Several GPUs: accelerate launch --num_processes 4 -m vsm_fast.cli.main train ...

Contents of --out: model/ (for vsm-fast score --model), config.json, history.csv, mixing.png,
tensorboard/, checkpoints, and features/ unless --features names another folder.

"""
    pairs: Annotated[Directory, option("training pairs")]
    validation: Annotated[Directory, option("pairs of other subjects")]
    out: Annotated[Path, option("folder of the run", metavar="RUN")]
    backbone: Annotated[str, option("name or folder", metavar="MODEL")] = "tiny"
    levels: Annotated[Names | None, option("levels of the backbone")] = None
    preset: Annotated[Literal["paper", "tiny"], option("settings to start from")] = "paper"
    config: Annotated[File | None, option("settings by name, JSON")] = None
    seed: Annotated[Integer | None, option("seed of all random draws")] = None
    features: Annotated[
        Directory | None, option("folder of the features, which several runs can share")
    ] = None
    device: Annotated[str, option("auto, cpu, cuda, cuda:1, ...")] = "auto"
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"], option("precision of the backbone")
    ] = "auto"
    of_features: FeatureOptions = field(default_factory=FeatureOptions)
    of_training: TrainingOptions = field(default_factory=TrainingOptions)

    def run(self) -> ExitCode:
        """Train, or resume training."""
        try:
            from vsm_fast.lab.training.train_job import run_training
        except ImportError as error:
            raise UsageError(
                f"train needs {error.name or error}; run: pip install '.[lab]'"
            ) from error
        from vsm_fast.errors import ModelError, TrainingError

        device = checked_device(self.device)
        try:
            result = run_training(
                self._settings(),
                self.out,
                device=device,
                dtype=self.dtype,
                features=self.features,
                progress=self.progress,
                tell=(lambda line: None) if self.quiet else print_text,
            )
        except ModelError:
            raise
        except (TrainingError, ValueError, ImportError, OSError) as error:
            raise UsageError(str(error)) from error
        if not self.quiet:
            semantic, visual = result.validation.thresholds
            print_text(
                f"model: {result.model} (epoch {result.epoch}, thresholds {semantic:g} / "
                f"{visual:g})\nuse it: vsm-fast score --model {result.model} ...\n"
                f"look at: {self.out / 'mixing.png'}, tensorboard --logdir {self.out}"
            )
        return ExitCode.OK

    def _settings(self) -> TrainSettings:
        """Return the preset, overridden by the file, overridden by the options."""
        from vsm_fast.lab.training.train_job import PRESETS, TrainSettings

        features, training = PRESETS[self.preset]
        changes = _read_settings(self.config) if self.config else {}
        options = {**vars(self.of_features), **vars(self.of_training), "seed": self.seed}
        changes |= {name: value for name, value in options.items() if value is not None}

        def changed(part: Any) -> Any:
            names = {entry.name for entry in fields(part)} & set(changes)
            return replace(part, **{name: changes[name] for name in names})

        return TrainSettings(
            pairs=str(self.pairs),
            validation=str(self.validation),
            backbone=self.backbone,
            levels=self.levels or (),
            features=changed(features),
            training=changed(training),
        )


def _read_settings(path: Path) -> dict[str, Any]:
    """Read settings from a JSON file.

    Raises:
        UsageError: If the file is unreadable, or a name or a type is wrong.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"--config {path} cannot be read as JSON: {error}") from error
    hints = {**get_type_hints(FeatureOptions), **get_type_hints(TrainingOptions)}
    types = {name: get_args(hint)[0] for name, hint in hints.items()} | {"seed": int}
    if not isinstance(content, dict) or set(content) - set(types):
        unknown = sorted(set(content) - set(types)) if isinstance(content, dict) else content
        raise UsageError(
            f"--config {path} must be an object with the names {', '.join(sorted(types))}; "
            f"got {unknown!r}."
        )
    for name, value in content.items():
        kind = types[name]
        accepted = (int, float) if kind is float else kind
        if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
            raise UsageError(f"--config {path}: {name} must be a {kind.__name__}; got {value!r}.")
    return content
