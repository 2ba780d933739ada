"""Human ratings from DreamBench++ JSON files, joined to pairs by id.

The layout is that of the project's own analysis code (github.com/yuangpeng/dreambench_plus):

- merged ratings: ``GROUP/METHOD-cp.json`` (concept preservation: fidelity to the subject) and
  ``GROUP/METHOD-pf.json`` (prompt following), each ``{"COLLECTION-PROMPT": score}`` with scores
  from 0 to 4; each ``GROUP`` is a rater, or a group of raters, with ratings for everything;
- raw ratings: ``GROUP/ANYTHING-METHOD.json``, each ``{"COLLECTION-PROMPT": [cp, pf]}``.

Also accepted: nested mappings (category, method, ...), lists of several raters' scores, and
``null`` or NaN for a missing rating. A list of two numbers can mean two raters or (cp, pf);
:class:`ListMeaning` decides, never the length.
"""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from vsm_fast.errors import PairingError
from vsm_fast.jobs.text_tables import unique_keys


class ListMeaning(StrEnum):
    """Meaning of a list of numbers."""

    RATERS = "raters"
    CP_PF = "cp-pf"


def load_ratings(
    source: str | os.PathLike[str], lists: ListMeaning = ListMeaning.RATERS
) -> dict[str, float]:
    """Load the mean human rating of each image.

    Args:
        source: JSON file, or a folder that is searched recursively. In a folder, the file name
            (without ``-cp``) is the method, files ending in ``-pf`` are skipped, and an id in
            several files of a method has one rating from each.
        lists: Meaning of a list: ratings of several raters, or (concept preservation, prompt
            following), of which the first counts.

    Returns:
        Mean rating by ``"METHOD/ID"`` (from a folder) or ``"ID"`` (from a file); nested mappings
        give ``"OUTER/INNER/ID"``. Images without a rating are left out.

    Raises:
        PairingError: If there is no file, a file is not JSON, or a value is neither a number,
            a list nor a mapping.
    """
    root = Path(source)
    if root.is_file():
        files = [(root, "")]
    else:
        paths = sorted(path for path in root.rglob("*.json") if not path.stem.endswith("-pf"))
        files = [(path, path.stem.removesuffix("-cp") + "/") for path in paths]
    if not files:
        raise PairingError(
            f"{root} holds no ratings: expected a .json file or a folder of them, like "
            "merged_data of DreamBench++."
        )
    ratings: defaultdict[str, list[float]] = defaultdict(list)
    for path, prefix in files:
        try:
            content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique_keys)
        except (OSError, ValueError) as error:
            raise PairingError(f"{path} cannot be read as JSON: {error}") from error
        if not isinstance(content, dict):
            raise PairingError(
                f"{path} holds a {type(content).__name__}: expected a mapping of id to rating."
            )
        _collect(content, prefix, lists, path, ratings)
    return {name: float(np.mean(scores)) for name, scores in ratings.items() if scores}


def _collect(
    content: Mapping[str, Any],
    prefix: str,
    lists: ListMeaning,
    path: Path,
    ratings: defaultdict[str, list[float]],
) -> None:
    """Add the scores of a mapping and of the mappings nested in it."""
    for key, value in content.items():
        name = prefix + key
        if isinstance(value, dict):
            _collect(value, f"{name}/", lists, path, ratings)
            continue
        scores = value if isinstance(value, list) else [value]
        if isinstance(value, list) and lists is ListMeaning.CP_PF:
            if len(value) != 2:
                raise PairingError(
                    f"{path}: {name} has {len(value)} numbers; a list of (concept preservation, "
                    "prompt following) must have 2."
                )
            scores = value[:1]
        for score in scores:
            number = isinstance(score, int | float) and not isinstance(score, bool)
            if score is not None and (not number or math.isinf(score)):
                raise PairingError(
                    f"{path}: {name} is {value!r}; expected a number, null, a list of these or a "
                    "mapping."
                )
        ratings[name] += [float(s) for s in scores if s is not None and not math.isnan(s)]


def join_ratings(ratings: Mapping[str, float], ids: Sequence[str]) -> list[float]:
    """Return the rating of each pair, NaN if there is none.

    A pair takes the rating of its whole id (``"METHOD/COLLECTION-PROMPT"``), else the rating
    whose last component is the id (``"COLLECTION-PROMPT"``), if there is exactly one.

    Raises:
        PairingError: If two pairs have the same id, or no pair has a rating.
    """
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if list(ids).count(name) > 1)
        raise PairingError(f"ratings are joined by id, but several pairs have the id {twice!r}.")
    by_leaf: defaultdict[str, list[float]] = defaultdict(list)
    for name, rating in ratings.items():
        by_leaf[name.rpartition("/")[2]].append(rating)
    joined = []
    for name in ids:
        leaves = by_leaf.get(name, [])
        alone = leaves[0] if len(leaves) == 1 else math.nan
        joined.append(ratings.get(name, alone))
    if ids and all(math.isnan(rating) for rating in joined):
        raise PairingError(
            f"none of the {len(ids)} pairs has a rating: pair ids look like {ids[0]!r}, rating "
            f"ids like {next(iter(ratings), '(there are none)')!r}."
        )
    return joined
