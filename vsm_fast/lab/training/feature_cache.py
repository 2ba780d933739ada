"""Stored features of two data sets of controlled pairs: what is trained on, and what validates.

A folder holds ``features.json``, which says what the features are of, and numbered shards. A
folder of something else is refused; one that is incomplete is completed.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from vsm_fast.errors import TrainingError
from vsm_fast.files import write_json
from vsm_fast.images.subjects import prepare_subject
from vsm_fast.lab.evaluation.evaluating import OTHER_SUBJECT
from vsm_fast.lab.pairs.pair_shards import read_pairs, shard_paths
from vsm_fast.lab.pairs.pairs import ControlledPair
from vsm_fast.lab.training.calibration import altered_cells
from vsm_fast.lab.training.examples import training_example
from vsm_fast.lab.training.features import FeatureSettings, pair_features, stored_levels
from vsm_fast.lab.training.rows import RowShards, write_rows
from vsm_fast.model.config import ModelConfig, weights_fingerprint

_log = logging.getLogger(__name__)
_SHARD = 16  # pairs
_FOOTER = 65536  # bytes: statistics and places of all columns, which change with any content
_FEWEST_MATCHES = 4  # with fewer there is hardly anything to tell apart


# Rows and notes of some pairs, of which the first has this number; counts what it leaves out.
_Rows = tuple[list[dict[str, Tensor]], dict[str, list[Any]]]
_Describe = Callable[[list[ControlledPair], int, "Counter[str]"], _Rows]


def training_features(
    backbone: nn.Module,
    config: ModelConfig,
    settings: FeatureSettings,
    pairs: Path,
    folder: Path,
    advance: Callable[[int], None] = lambda pairs: None,
) -> RowShards:
    """Features to train on: rows of ``PairFeatures``, the variants of a pair one after the other.

    Left out are pairs of two subjects, those whose subject is too small, and those with fewer
    than four matched points.

    Args:
        backbone: float [B, 3, R, R] in [-1, 1] -> one tensor per level.
        config: Its model.
        settings: What is kept of a pair.
        pairs: A data set of controlled pairs.
        folder: Of the features.
        advance: Called with the number of pairs just done.

    Raises:
        TrainingError: The folder holds other features, or no pair can be used.
        PairingError: The pairs cannot be read.
    """
    grid = config.aggregation.grid
    if grid[0] != grid[1]:
        raise TrainingError(f"training needs as many rows as columns in the grid; got {grid}.")
    match_level = settings.level_of(config.backbone.levels)

    def describe(batch: list[ControlledPair], first: int, dropped: Counter[str]) -> _Rows:
        rows: list[dict[str, Tensor]] = []
        names: list[str] = []
        for number, pair in enumerate(batch, start=first):
            if pair.kind == OTHER_SUBJECT:
                dropped["two subjects"] += 1
                continue
            rngs = [
                np.random.default_rng((settings.seed, number, variant))
                for variant in range(settings.variants)
            ]
            framed = [training_example(pair, rng, config.backbone, grid) for rng in rngs]
            examples = [example for example in framed if example is not None]
            if len(examples) < len(framed):
                dropped["subject too small"] += 1
                continue
            made = pair_features(backbone, examples, grid, rngs, settings, match_level)
            if min(int((visit.match >= 0).sum()) for visit in made) < _FEWEST_MATCHES:
                dropped["too few matches"] += 1
                continue
            rows += [visit.row() for visit in made]
            names += [pair.id] * len(made)
        return rows, {"id": names}

    key = {**_key(backbone, config, pairs), "settings": asdict(settings)}
    return _stored(pairs, folder, key, describe, advance)


def validation_features(
    backbone: nn.Module,
    config: ModelConfig,
    pairs: Path,
    folder: Path,
    advance: Callable[[int], None] = lambda pairs: None,
) -> RowShards:
    """Features to validate on: both images of each pair as the scorer would show them.

    A row has ``level_N`` float16 [2, C, h, w] of (reference, generation), ``subject`` bool
    [2, h, w] and ``altered`` bool [h * w]; notes are ``oracle`` and ``kind``. Arguments and
    errors are those of :func:`training_features`.
    """
    grid = config.aggregation.grid
    every = np.arange(grid[0] * grid[1])

    def describe(batch: list[ControlledPair], first: int, dropped: Counter[str]) -> _Rows:
        rows: list[dict[str, Tensor]] = []
        oracles: list[float] = []
        kinds: list[str] = []
        for pair in batch:
            sides = ((pair.original_2, pair.mask_2), (pair.altered_1, pair.mask_1))
            subjects = [prepare_subject(*side, f"pair {pair.id}", config) for side in sides]
            pixels = [subject.pixels for subject in subjects if subject.pixels is not None]
            cells = [subject.cell_mask for subject in subjects if subject.cell_mask is not None]
            if len(pixels) < len(sides):
                dropped["no subject"] += 1
                continue
            row = {
                f"level_{number}": level
                for number, level in enumerate(stored_levels(backbone, torch.stack(pixels), grid))
            }
            row["subject"] = torch.from_numpy(np.stack(cells))
            row["altered"] = torch.from_numpy(altered_cells(config, pair, every))
            rows.append(row)
            oracles.append(pair.oracle)
            kinds.append(pair.kind)
        return rows, {"oracle": oracles, "kind": kinds}

    return _stored(pairs, folder, _key(backbone, config, pairs), describe, advance)


def _key(backbone: nn.Module, config: ModelConfig, pairs: Path) -> dict[str, Any]:
    """Everything that decides what the features are."""
    files = {name: sha for name, sha in config.files.items() if "aggregation" not in name}
    return {
        "dtype": str(next(backbone.parameters()).dtype),
        "pairs": _fingerprint(pairs),
        "backbone": asdict(config.backbone),
        "grid": config.aggregation.grid,
        "weights": weights_fingerprint(replace(config, files=files)),
    }


def _fingerprint(pairs: Path) -> str:
    """sha256 over names, sizes and footers of a data set's files."""
    digest = hashlib.sha256()
    for path in shard_paths(pairs):
        size = path.stat().st_size
        digest.update(f"{path.name} {size} {pq.read_metadata(path).num_rows}".encode())
        with path.open("rb") as file:
            file.seek(max(0, size - _FOOTER))
            digest.update(file.read())
    return digest.hexdigest()


def _stored(
    pairs: Path,
    folder: Path,
    key: Mapping[str, Any],
    describe: _Describe,
    advance: Callable[[int], None],
) -> RowShards:
    """The shards of a data set, made where they are missing."""
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / "features.json"
    key = json.loads(json.dumps(key))
    known = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {"key": key}
    if known["key"] != key:
        differing = ", ".join(name for name in key if known["key"].get(name) != key[name])
        raise TrainingError(
            f"{folder} holds features of other {differing}; choose another folder or delete it."
        )
    names = known.get("shards")
    if names is None or not all((folder / name).exists() for name in names):
        write_json(record, {"key": key})
        known = {"key": key, **_make(pairs, folder, describe, advance)}
        write_json(record, known)
    if known["dropped"]:
        shown = ", ".join(f"{reason} {count}" for reason, count in known["dropped"].items())
        _log.warning("pairs of %s left out: %s", pairs, shown)
    shards = RowShards(folder / name for name in known["shards"])
    if not len(shards):
        raise TrainingError(f"no pair of {pairs} can be used; see the reasons above.")
    return shards


def _make(
    pairs: Path, folder: Path, describe: _Describe, advance: Callable[[int], None]
) -> dict[str, Any]:
    """Write the missing shards; their names, and why pairs were left out."""
    names: list[str] = []
    dropped: Counter[str] = Counter()
    for number, batch in enumerate(_batched(read_pairs(pairs), _SHARD)):
        path = folder / f"{number:05d}.safetensors"
        summary = path.with_suffix(".json")
        made = json.loads(summary.read_text(encoding="utf-8")) if summary.exists() else None
        if made is None or (made["rows"] and not path.exists()):
            left_out: Counter[str] = Counter()
            rows, notes = describe(batch, number * _SHARD, left_out)
            if rows:
                write_rows(path, rows, notes)
            made = {"rows": len(rows), "dropped": dict(left_out)}
            write_json(summary, made)
        dropped.update(made["dropped"])
        names += [path.name] if made["rows"] else []
        advance(len(batch))
    return {"shards": names, "dropped": dict(dropped)}


def _batched(pairs: Iterator[ControlledPair], size: int) -> Iterator[list[ControlledPair]]:
    while batch := list(islice(pairs, size)):
        yield batch
