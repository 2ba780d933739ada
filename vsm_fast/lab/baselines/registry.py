"""Baselines by name: those that need no further weights, and those that do."""

from __future__ import annotations

from collections.abc import Sequence

from vsm_fast.errors import ModelError
from vsm_fast.lab.baselines.offline import OFFLINE, offline_baselines
from vsm_fast.lab.baselines.pretrained import PRETRAINED, pretrained_baseline
from vsm_fast.lab.baselines.protocol import Baseline
from vsm_fast.scorer import VSMScorer


def choose_baselines(
    selection: Sequence[str], scorer: VSMScorer
) -> tuple[list[Baseline], dict[str, str]]:
    """Make the baselines that were asked for.

    Args:
        selection: ``["none"]``, ``["offline"]``, ``["all"]`` or names.
        scorer: Whose network and device they use.

    Returns:
        The baselines, and of those that ``"all"`` could not make, why.

    Raises:
        ValueError: An unknown name, or a group beside other names.
        ModelError: A baseline was asked for by name and its weights are missing.
        ImportError: A package is missing; names the extra.
    """
    groups = {"none": (), "offline": OFFLINE, "all": OFFLINE + PRETRAINED}
    if len(selection) == 1 and selection[0] in groups:
        names: Sequence[str] = groups[selection[0]]
    else:
        names = tuple(dict.fromkeys(selection))
    known = groups["all"]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"baselines are none, offline, all, or names of {', '.join(known)}; "
            f"got {', '.join(unknown)}."
        )
    made = offline_baselines(scorer, [name for name in names if name in OFFLINE])
    skipped: dict[str, str] = {}
    for name in names:
        if name in OFFLINE:
            continue
        try:
            made.append(pretrained_baseline(name, device=scorer.device))
        except (ModelError, ImportError) as error:
            if list(selection) != ["all"]:
                raise
            skipped[name] = " ".join(str(error).split())
    return made, skipped
