from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

import recipes.tiny
from recipes.tiny import splits


def test_no_subject_is_in_two_splits() -> None:
    subjects = [*splits.TRAIN, *splits.VALIDATION, *splits.TEST]
    assert len(subjects) == len(set(subjects)) == 22


def test_shipped_masks_are_of_training_subjects_only() -> None:
    masks = sorted((Path(recipes.tiny.__file__).parent / "masks").glob("*/*_mask.png"))
    assert len(masks) == 41
    assert {path.parent.name for path in masks} <= set(splits.TRAIN)
    for path in masks:
        share = np.asarray(Image.open(path).convert("L")).mean() / 255
        assert 0.005 < share < 0.6, path
