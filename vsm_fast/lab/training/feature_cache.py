"""Feature cache of the training and the validation pairs.

A cache folder holds numbered shards and ``features.json``, which records the model, the pairs and
the settings of the features. Other features are refused; an incomplete cache is completed.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter, defaultdict
from collections.abc import Callable
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
from vsm_fast.lab.evaluation.run import OTHER_SUBJECT
from vsm_fast.lab.pairs.pair_shards import read_pairs, shard_paths
from vsm_fast.lab.pairs.pairs import ControlledPair
from vsm_fast.lab.training.calibration import altered_cells
from vsm_fast.lab.training.examples import training_example
from vsm_fast.lab.training.features import FeatureSettings, pair_features, stored_levels
from vsm_fast.lab.training.rows import RowShards, write_rows
from vsm_fast.model.config import ModelConfig, weights_fingerprint

_log = logging.getLogger(__name__)
_SHARD = 16  # pairs
_FOOTER = 65536  # bytes: statistics and offsets of all columns, which change with any content
_MIN_MATCHES = 4  # fewer matches leave the contrastive loss next to nothing to separate

# Rows of one pair and the notes of each row, or the reason to leave the pair out.
_Rows = tuple[list[dict[str, Tensor]], dict[str, Any]] | str
_Extract = Callable[[ControlledPair, int], _Rows]


def training_features(
    backbone: nn.Module,
    config: ModelConfig,
    settings: FeatureSettings,
    pairs: Path,
    folder: Path,
    advance: Callable[[int], None] = lambda pairs: None,
) -> RowShards:
    """Return training features: rows of ``PairFeatures``, the variants of a pair in succession.

    Leaves out pairs of two subjects, pairs with a subject that is too small, and pairs with
    fewer than four matched points. ``advance`` is called with the number of pairs just finished.

    Raises:
        TrainingError: If the folder holds other features, or no pair is usable.
        PairingError: If the pairs cannot be read.
    """
    grid = config.aggregation.grid
    if grid[0] != grid[1]:
        raise TrainingError(f"training needs as many rows as columns in the grid; got {grid}.")
    match_level = settings.level_of(config.backbone.levels)

    def extract(pair: ControlledPair, number: int) -> _Rows:
        if pair.kind == OTHER_SUBJECT:
            return "two subjects"
        seeds = [(settings.seed, number, variant) for variant in range(settings.variants)]
        rngs = [np.random.default_rng(seed) for seed in seeds]
        framed = [training_example(pair, rng, config.backbone, grid) for rng in rngs]
        examples = [example for example in framed if example is not None]
        if len(examples) < len(framed):
            return "subject too small"
        features = pair_features(backbone, examples, grid, rngs, settings, match_level)
        if min(int((variant.match >= 0).sum()) for variant in features) < _MIN_MATCHES:
            return "too few matches"
        return [variant.row() for variant in features], {"id": pair.id}

    key = {**_key(backbone, config, pairs), "settings": asdict(settings)}
    return _cached(pairs, folder, key, extract, advance)


def validation_features(
    backbone: nn.Module,
    config: ModelConfig,
    pairs: Path,
    folder: Path,
    advance: Callable[[int], None] = lambda pairs: None,
) -> RowShards:
    """Return validation features: both images of each pair, framed as the scorer frames them.

    A row has ``level_N`` float16 [2, C, h, w] of (reference, generated image), ``subject`` bool
    [2, h, w] and ``altered`` bool [h * w]; notes are ``oracle`` and ``kind``. Arguments and
    errors are those of :func:`training_features`.
    """
    grid = config.aggregation.grid
    every = np.arange(grid[0] * grid[1])

    def extract(pair: ControlledPair, number: int) -> _Rows:
        sides = ((pair.original_2, pair.mask_2), (pair.altered_1, pair.mask_1))
        subjects = [prepare_subject(*side, f"pair {pair.id}", config) for side in sides]
        pixels = [subject.pixels for subject in subjects if subject.pixels is not None]
        cells = [subject.cell_mask for subject in subjects if subject.cell_mask is not None]
        if len(pixels) < len(sides):
            return "no subject"
        levels = stored_levels(backbone, torch.stack(pixels), grid)
        row = {f"level_{position}": level for position, level in enumerate(levels)}
        row["subject"] = torch.from_numpy(np.stack(cells))
        row["altered"] = torch.from_numpy(altered_cells(config, pair, every))
        return [row], {"oracle": pair.oracle, "kind": pair.kind}

    return _cached(pairs, folder, _key(backbone, config, pairs), extract, advance)


def _key(backbone: nn.Module, config: ModelConfig, pairs: Path) -> dict[str, Any]:
    """Return everything that determines the features."""
    digest = hashlib.sha256()
    for path in shard_paths(pairs):
        size = path.stat().st_size
        digest.update(f"{path.name} {size} {pq.read_metadata(path).num_rows}".encode())
        with path.open("rb") as file:
            file.seek(max(0, size - _FOOTER))
            digest.update(file.read())
    files = {name: sha for name, sha in config.files.items() if "aggregation" not in name}
    return {
        "dtype": str(next(backbone.parameters()).dtype),
        "pairs": digest.hexdigest(),
        "backbone": asdict(config.backbone),
        "grid": config.aggregation.grid,
        "mask_reduction": config.aggregation.mask_reduction,
        "weights": weights_fingerprint(replace(config, files=files)),
    }


def _cached(
    pairs: Path,
    folder: Path,
    key: dict[str, Any],
    extract: _Extract,
    advance: Callable[[int], None],
) -> RowShards:
    """Return the shards of a data set and write the missing ones."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "features.json"
    key = json.loads(json.dumps(key))
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"key": key}
    if record["key"] != key:
        differing = ", ".join(name for name in key if record["key"].get(name) != key[name])
        raise TrainingError(
            f"{folder} holds features of other {differing}. Choose another folder or delete it."
        )
    names = record.get("shards")
    if names is None or not all((folder / name).exists() for name in names):
        write_json(path, {"key": key})
        names, dropped = _write_shards(pairs, folder, extract, advance)
        record = {"key": key, "shards": names, "dropped": dropped}
        write_json(path, record)
    if record["dropped"]:
        reasons = ", ".join(f"{reason} {number}" for reason, number in record["dropped"].items())
        _log.warning("pairs of %s left out: %s", pairs, reasons)
    shards = RowShards(folder / name for name in record["shards"])
    if not len(shards):
        raise TrainingError(f"no pair of {pairs} is usable; see the reasons above.")
    return shards


def _write_shards(
    pairs: Path, folder: Path, extract: _Extract, advance: Callable[[int], None]
) -> tuple[list[str], dict[str, int]]:
    """Write the missing shards; return all names and the number of left-out pairs per reason."""
    shards: list[str] = []
    total: Counter[str] = Counter()
    stream = read_pairs(pairs)
    for shard, batch in enumerate(iter(lambda: list(islice(stream, _SHARD)), [])):
        path = folder / f"{shard:05d}.safetensors"
        about = path.with_suffix(".json")
        summary = json.loads(about.read_text(encoding="utf-8")) if about.exists() else None
        if summary is None or (summary["rows"] and not path.exists()):
            dropped: Counter[str] = Counter()
            rows: list[dict[str, Tensor]] = []
            notes: defaultdict[str, list[Any]] = defaultdict(list)
            for number, pair in enumerate(batch, start=shard * _SHARD):
                extracted = extract(pair, number)
                if isinstance(extracted, str):
                    dropped[extracted] += 1
                    continue
                rows += extracted[0]
                for name, value in extracted[1].items():
                    notes[name] += [value] * len(extracted[0])
            if rows:
                write_rows(path, rows, notes)
            summary = {"rows": len(rows), "dropped": dict(dropped)}
            write_json(about, summary)
        total.update(summary["dropped"])
        shards += [path.name] if summary["rows"] else []
        advance(len(batch))
    return shards, dict(total)
