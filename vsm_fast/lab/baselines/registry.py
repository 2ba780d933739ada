"""Selection of baselines by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vsm_fast.errors import ModelError
from vsm_fast.lab.baselines import pixels
from vsm_fast.lab.baselines.baseline import Baseline
from vsm_fast.lab.baselines.features import (
    FeatureBaseline,
    SubjectFeatures,
    global_cosine,
    patch_nearest,
)
from vsm_fast.lab.baselines.pretrained import PRETRAINED, pretrained_baseline
from vsm_fast.scorer import VSMScorer

_PIXEL: dict[str, Callable[[], Baseline]] = {
    "psnr": pixels.psnr,
    "ssim": pixels.ssim,
    "lab-histogram": pixels.lab_histogram,
}
_FEATURE = {
    "feature-cosine": global_cosine("raw"),
    "semantic-cosine": global_cosine("semantic"),
    "visual-cosine": global_cosine("visual"),
    "patch-nearest": patch_nearest,
}
OFFLINE = (*_PIXEL, *_FEATURE)  # need no weights beyond the model's


def choose_baselines(
    selection: Sequence[str], scorer: VSMScorer
) -> tuple[list[Baseline], dict[str, str]]:
    """Create the selected baselines.

    Args:
        selection: ``["none"]``, ``["offline"]``, ``["all"]`` or names.
        scorer: Source of the network and the device.

    Returns:
        The baselines, offline ones first, and the reason for each baseline that ``"all"`` had to
        skip.

    Raises:
        ValueError: If a name is unknown, or a group is mixed with names.
        ModelError: If the weights of a baseline selected by name are missing.
        ImportError: If a package is missing. Names the extra.
    """
    groups = {"none": (), "offline": OFFLINE, "all": OFFLINE + PRETRAINED}
    names = tuple(dict.fromkeys(selection))
    if len(selection) == 1:
        names = groups.get(selection[0], names)
    unknown = [name for name in names if name not in groups["all"]]
    if unknown:
        raise ValueError(
            f"baselines are none, offline, all, or names of {', '.join(groups['all'])}; "
            f"got {', '.join(unknown)}."
        )
    features = SubjectFeatures(scorer)
    baselines: list[Baseline] = []
    skipped: dict[str, str] = {}
    for name in sorted(names, key=lambda name: name not in OFFLINE):
        if name in _PIXEL:
            baselines.append(_PIXEL[name]())
        elif name in _FEATURE:
            baselines.append(FeatureBaseline(name, features, _FEATURE[name]))
        else:
            try:
                baselines.append(pretrained_baseline(name, device=scorer.device))
            except (ModelError, ImportError) as error:
                if list(selection) != ["all"]:
                    raise
                skipped[name] = " ".join(str(error).split())
    return baselines, skipped
