"""``vsm-fast train``: aggregation networks of your own on controlled pairs of your own."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vsm_fast.cli.common import (
    EXIT_CODES,
    ExitCode,
    UsageError,
    add_device,
    add_verbosity,
    checked_device,
    print_text,
)

if TYPE_CHECKING:
    from vsm_fast.lab.training.train_job import TrainSettings

_HELP = """\
Pairs come from vsm-fast make-pairs, or in the layout of the published test set. The backbone stays
frozen; its features are computed once and kept under --out. Settings are those of the preset,
changed by --config, changed by the options below. Interrupted, the same command goes on where it
was, bit for bit; --out of other settings is refused, except that --epochs may grow.

Several GPUs: accelerate launch --num_processes 4 -m vsm_fast.cli.main train ...

--out gets: model/ (for vsm-fast score --model), config.json, history.csv, mixing.png,
tensorboard/, checkpoints, and features/ unless --features names another folder.

"""
_OF_FEATURES = {
    "variants": "visits of each pair with other frames, colours and mirror images",
    "flips": "mirror half of the visits",
    "jitter": "most relative change of a colour channel",
    "known_points": "use the matched points that pairs bring along",
    "match_level": "level whose features match pairs that have none",
    "match_similarity": "least score of such a match",
    "match_skewness": "least skewness of its row; negative = every row",
}
_OF_TRAINING = {
    "epochs": "passes over the pairs",
    "batch": "pairs of a step, over all processes",
    "learning_rate": "of AdamW at the start",
    "drop_every": "epochs between two drops of the learning rate",
    "drop_by": "what it is divided by",
    "warmup": "steps in which it rises from 0",
    "weight_decay": "of AdamW",
    "clip": "largest norm of the gradient; 0 = any",
    "temperature": "what similarities are divided by",
    "visual_weight": "weight of the visual terms; the paper's alpha",
    "margin_weight": "weight of the hinge on visual similarities; 0 = the paper's objective",
    "margin": "similarity under which altered points should stay",
    "precision": "of the networks: bf16 (autocast) or fp32",
    "save_every": "steps between checkpoints",
}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``train`` to the command line."""
    parser = commands.add_parser(
        "train",
        help="train aggregation networks on controlled pairs",
        epilog=_HELP + EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pairs", required=True, type=Path, metavar="DIR")
    parser.add_argument(
        "--validation", required=True, type=Path, metavar="DIR", help="pairs of other subjects"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="RUN", help="folder of the run")
    parser.add_argument("--backbone", default="tiny", metavar="MODEL", help="name or folder")
    parser.add_argument("--levels", nargs="+", metavar="LEVEL", help="of the backbone")
    parser.add_argument("--preset", choices=("paper", "tiny"), default="paper")
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings by name, JSON")
    parser.add_argument("--seed", type=int, help="of all draws")
    parser.add_argument(
        "--features", type=Path, metavar="DIR", help="of the features; runs can share it"
    )
    for title, texts in (("features", _OF_FEATURES), ("training", _OF_TRAINING)):
        group = parser.add_argument_group(title)
        for name, text in texts.items():
            flag = "--" + name.replace("_", "-")
            if name in _SWITCHES:
                group.add_argument(flag, action=argparse.BooleanOptionalAction, help=text)
            else:
                group.add_argument(flag, type=_TYPES.get(name, float), metavar="X", help=text)
    add_device(parser)
    add_verbosity(parser)
    parser.set_defaults(run=_train)


_SWITCHES = ("flips", "known_points")
_TYPES: dict[str, Any] = {
    **dict.fromkeys(("variants", "epochs", "batch", "drop_every", "warmup", "save_every"), int),
    **dict.fromkeys(("match_level", "precision"), str),
}


def _train(arguments: argparse.Namespace) -> ExitCode:
    """``vsm-fast train``."""
    try:
        from vsm_fast.lab.training.train_job import run_training
    except ImportError as error:
        raise UsageError(f"train needs {error.name or error}; run: pip install '.[lab]'") from error
    from vsm_fast.errors import ModelError, TrainingError

    device = checked_device(arguments.device)
    try:
        result = run_training(
            _settings(arguments),
            arguments.out,
            device=device,
            dtype=arguments.dtype,
            features=arguments.features,
            progress=not arguments.quiet and sys.stderr.isatty(),
            tell=(lambda line: None) if arguments.quiet else print_text,
        )
    except ModelError:
        raise
    except (TrainingError, ValueError, ImportError, OSError) as error:
        raise UsageError(str(error)) from error
    if not arguments.quiet:
        semantic, visual = result.validation.thresholds
        print_text(
            f"model: {result.model} (epoch {result.epoch}, thresholds {semantic:g} / {visual:g})\n"
            f"use it: vsm-fast score --model {result.model} ...\n"
            f"look at: {arguments.out / 'mixing.png'}, tensorboard --logdir {arguments.out}"
        )
    return ExitCode.OK


def _settings(arguments: argparse.Namespace) -> TrainSettings:
    """Preset, changed by the file, changed by the options."""
    from vsm_fast.lab.training.train_job import PRESETS, TrainSettings

    features, training = PRESETS[arguments.preset]
    changes = _read(arguments.config) if arguments.config else {}
    given = {name: getattr(arguments, name) for name in (*_OF_FEATURES, *_OF_TRAINING, "seed")}
    changes |= {name: value for name, value in given.items() if value is not None}
    return TrainSettings(
        pairs=str(arguments.pairs),
        validation=str(arguments.validation),
        backbone=arguments.backbone,
        levels=tuple(arguments.levels or ()),
        features=replace(features, **_of(features, changes)),
        training=replace(training, **_of(training, changes)),
    )


def _of(part: Any, changes: dict[str, Any]) -> dict[str, Any]:
    """The changes that are fields of a part of the settings."""
    return {entry.name: changes[entry.name] for entry in fields(part) if entry.name in changes}


def _read(path: Path) -> dict[str, Any]:
    """Settings of a JSON file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"--config {path} cannot be read as JSON: {error}") from error
    known = {*_OF_FEATURES, *_OF_TRAINING, "seed"}
    if not isinstance(content, dict) or set(content) - known:
        unknown = sorted(set(content) - known) if isinstance(content, dict) else content
        raise UsageError(
            f"--config {path} must be an object with the names {', '.join(sorted(known))}; "
            f"got {unknown!r}."
        )
    kinds = {name: _TYPES.get(name, float) for name in known}
    kinds |= {"seed": int, **dict.fromkeys(_SWITCHES, bool)}
    for name, value in content.items():
        wanted = (int, float) if kinds[name] is float else kinds[name]
        if not isinstance(value, wanted) or (isinstance(value, bool) and kinds[name] is not bool):
            raise UsageError(
                f"--config {path}: {name} must be a {kinds[name].__name__}; got {value!r}."
            )
    return content
