"""Human ratings in DreamBench++'s JSON files, joined to pairs by id.

The layout is that of the project's own analysis code (github.com/yuangpeng/dreambench_plus):

- merged ratings: ``GROUP/METHOD-cp.json`` (concept preservation: how well the subject is kept)
  and ``GROUP/METHOD-pf.json`` (prompt following), each ``{"COLLECTION-PROMPT": score}``, a score
  from 0 to 4; each ``GROUP`` is one rater or group of raters who rated everything;
- raw ratings: ``GROUP/ANYTHING-METHOD.json``, each ``{"COLLECTION-PROMPT": [cp, pf]}``.

Beyond it: mappings may be nested (category, method, ...), a list may be the scores of several
raters, and ``null`` or NaN means not rated. Two numbers in a list can therefore be two raters or
(cp, pf); :class:`ListMeaning` says which, nothing is guessed from the length.
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
    """What a list of numbers stands for."""

    RATERS = "raters"
    CP_PF = "cp-pf"

    def __str__(self) -> str:
        return self.value


def load_ratings(
    source: str | os.PathLike[str], lists: ListMeaning = ListMeaning.RATERS
) -> dict[str, float]:
    """Mean human rating of each image.

    Args:
        source: A JSON file, or a folder of them, searched downwards. In a folder the file's name
            is the method (without ``-cp``), files ending in ``-pf`` are left out, and one id in
            several files of a method is one rating of each.
        lists: What a list is: ratings of several raters, or (concept preservation, prompt
            following), of which the first counts.

    Returns:
        ``"METHOD/ID"`` (from a folder) or ``"ID"`` (from a file) to the mean rating; nested
        mappings give ``"OUTER/INNER/ID"``. Images without any rating are not in it.

    Raises:
        PairingError: No file, not JSON, or a value that is neither number, list nor mapping.
    """
    root = Path(source)
    if root.is_file():
        files = [(root, "")]
    else:
        found = sorted(path for path in root.rglob("*.json") if not path.stem.endswith("-pf"))
        files = [(path, path.stem.removesuffix("-cp") + "/") for path in found]
    if not files:
        raise PairingError(
            f"{root} holds no ratings: a .json file or a folder of them is expected, like "
            "merged_data of DreamBench++."
        )
    collected: defaultdict[str, list[float]] = defaultdict(list)
    for path, prefix in files:
        try:
            content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique_keys)
        except (OSError, ValueError) as error:
            raise PairingError(f"{path} cannot be read as JSON: {error}") from error
        if not isinstance(content, dict):
            raise PairingError(
                f"{path} holds a {type(content).__name__}; a mapping of id to rating is expected."
            )
        _collect(content, prefix, lists, path, collected)
    return {name: float(np.mean(scores)) for name, scores in collected.items() if scores}


def _collect(
    content: Mapping[str, Any],
    prefix: str,
    lists: ListMeaning,
    path: Path,
    collected: defaultdict[str, list[float]],
) -> None:
    for key, value in content.items():
        name = prefix + key
        if isinstance(value, dict):
            _collect(value, f"{name}/", lists, path, collected)
            continue
        scores = value if isinstance(value, list) else [value]
        if isinstance(value, list) and lists is ListMeaning.CP_PF:
            if len(value) != 2:
                raise PairingError(
                    f"{path}: {name} has {len(value)} numbers; with lists of (concept "
                    "preservation, prompt following) it must have 2."
                )
            scores = value[:1]
        if not all(_is_score(score) for score in scores):
            raise PairingError(
                f"{path}: {name} is {value!r}; a number, null, a list of these or a mapping is "
                "expected."
            )
        collected[name] += [float(s) for s in scores if s is not None and not math.isnan(s)]


def _is_score(score: object) -> bool:
    number = isinstance(score, int | float) and not isinstance(score, bool)
    return score is None or (number and not math.isinf(score))  # type: ignore[arg-type]


def join_ratings(ratings: Mapping[str, float], ids: Sequence[str]) -> list[float]:
    """The rating of each pair, NaN where there is none.

    A pair is rated by the rating of its whole id (``"METHOD/COLLECTION-PROMPT"``), else by the
    one rating whose last component it is (``"COLLECTION-PROMPT"``), if there is only one.

    Raises:
        PairingError: Two pairs have one id, so that a rating cannot be given to one of them; or
            no pair has a rating.
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
            f"none of the {len(ids)} pairs has a rating: their ids are like {ids[0]!r}, those of "
            f"the ratings like {next(iter(ratings), '(there are none)')!r}."
        )
    return joined
