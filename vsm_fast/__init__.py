"""Visual Semantic Matching: subject consistency of generated images, with heat maps.

An implementation of arXiv 2509.21989 for large batches::

    scores = vsm_fast.score_batch(refs=["reference.png"], gens=["a.png", "b.png"], heatmaps=True)
    scores.score        # float32 [2], 1 = consistent, NaN where undefined
    scores.heatmap(0)   # float32 [H, W], 1 = inconsistent, NaN off the subject
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vsm_fast.errors import Flag, InputError, ModelError, PairingError, Status, VSMError

__version__ = "0.1.0"

if TYPE_CHECKING:
    from vsm_fast.descriptors import Descriptors
    from vsm_fast.images.automatic_masks import AutoMask
    from vsm_fast.integrations.metric import VisualSemanticMatching as VisualSemanticMatching
    from vsm_fast.results.scores import VSMResult, VSMScores
    from vsm_fast.scorer import VSMScorer, score_batch

__all__ = [
    "AutoMask",
    "Descriptors",
    "Flag",
    "InputError",
    "ModelError",
    "PairingError",
    "Status",
    "VSMError",
    "VSMResult",
    "VSMScorer",
    "VSMScores",
    "__version__",
    "score_batch",
]

_HOMES = {
    "AutoMask": "images.automatic_masks",
    "Descriptors": "descriptors",
    "VSMResult": "results.scores",
    "VSMScorer": "scorer",
    "VSMScores": "results.scores",
    # Not in __all__: `from vsm_fast import *` must work without torchmetrics.
    "VisualSemanticMatching": "integrations.metric",
    "score_batch": "scorer",
}


def __getattr__(name: str) -> Any:
    # Lazy, so that `import vsm_fast` stays cheap for programs that only read results.
    if name not in _HOMES:
        raise AttributeError(f"module 'vsm_fast' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"vsm_fast.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *_HOMES})
