"""What text models are told about a subject."""

from __future__ import annotations

import re


def spoken_name(subject: str) -> str:
    """The name of a subject's folder as words: ``"colorful_sneaker2"`` -> ``"colorful sneaker"``.

    Args:
        subject: A name with letters of any script. Numbers, as in the folders ``dog``, ``dog2``,
            tell subjects apart and say nothing of how they look.

    Returns:
        Lower-case words; ``"object"`` when the name has none.
    """
    words = re.sub(r"[\W\d_]+", " ", subject).lower().split()
    return " ".join(words) or "object"
