from __future__ import annotations

import numpy as np
import pytest

from vsm_fast.lab.pairs.descriptor_parts import DescriptorParts, centres_of, extract_view
from vsm_fast.lab.pairs.stages import SubjectView
from vsm_fast.scorer import VSMScorer

BOX = (10, 20, 90, 100)


def _view() -> SubjectView:
    """Return an 8 x 8 grid with one descriptor in each half of the subject."""
    descriptors = np.zeros((8, 8, 2), np.float32)
    descriptors[1:7, 1:4, 0] = 1
    descriptors[1:7, 4:7, 1] = 1
    mask = np.zeros((120, 110), bool)
    mask[30:90, 20:80] = True
    return SubjectView(np.zeros((120, 110, 3), np.uint8), mask, descriptors, BOX)


def test_a_part_grows_over_similar_cells() -> None:
    view = _view()
    part = DescriptorParts(0.5)(view, (32.0, 55.0))
    assert part is not None
    assert not (part & ~view.mask).any()
    assert part[30:90, 20:46].mean() > 0.95  # the left half
    assert part[30:90, 54:80].mean() < 0.05
    small = DescriptorParts(0.1)(view, (32.0, 55.0))
    assert small is not None
    assert 0.03 < small.sum() / view.mask.sum() < 0.2
    assert small[55, 32]


def test_a_point_off_the_subject_has_no_part() -> None:
    assert DescriptorParts(0.3)(_view(), (12.0, 22.0)) is None


def test_a_share_of_the_whole_subject_is_refused() -> None:
    with pytest.raises(ValueError, match="share must lie in"):
        DescriptorParts(1.0)


def test_cells_of_a_real_view_cover_its_subject() -> None:
    scorer = VSMScorer.from_pretrained("tiny")
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    mask = np.zeros((90, 120), bool)
    mask[20:70, 30:100] = True
    view = extract_view(scorer, pixels, mask)
    on = np.abs(view.descriptors).sum(axis=2).ravel() > 0
    lengths = np.linalg.norm(view.descriptors.reshape(len(on), -1)[on], axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-3)
    centres = centres_of(view)
    x, y = centres[on].astype(int).T
    assert mask[y, x].mean() > 0.9
    outside = centres[~on].astype(int)
    assert mask[outside[:, 1], outside[:, 0]].mean() < 0.05
