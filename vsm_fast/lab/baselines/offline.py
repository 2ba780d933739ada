"""The baselines that need no weights but the model's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vsm_fast.lab.baselines.features import GlobalCosine, PatchNearest, SubjectFeatures
from vsm_fast.lab.baselines.pixels import LabHistogram, MaskedPSNR, MaskedSSIM
from vsm_fast.lab.baselines.protocol import Baseline
from vsm_fast.scorer import VSMScorer

OFFLINE = (
    "psnr", "ssim", "lab-histogram", "feature-cosine", "semantic-cosine", "visual-cosine",
    "patch-nearest",
)  # fmt: skip


def offline_baselines(scorer: VSMScorer, names: Sequence[str] = OFFLINE) -> list[Baseline]:
    """Make baselines by name; they share one pass of the network over each image.

    Args:
        scorer: Whose network the feature baselines use.
        names: Of ``OFFLINE``.

    Raises:
        ValueError: An unknown name.
        ImportError: scikit-image is not installed and a baseline needs it.
    """
    unknown = [name for name in names if name not in OFFLINE]
    if unknown:
        raise ValueError(f"offline baselines are {', '.join(OFFLINE)}; got {', '.join(unknown)}.")
    features = SubjectFeatures(scorer)
    makers: dict[str, Callable[[], Baseline]] = {
        "psnr": MaskedPSNR,
        "ssim": MaskedSSIM,
        "lab-histogram": LabHistogram,
        "feature-cosine": lambda: GlobalCosine(features, "raw"),
        "semantic-cosine": lambda: GlobalCosine(features, "semantic"),
        "visual-cosine": lambda: GlobalCosine(features, "visual"),
        "patch-nearest": lambda: PatchNearest(features),
    }
    return [makers[name]() for name in names]
