from __future__ import annotations

import pytest

from vsm_fast.data import registry
from vsm_fast.data.offline_stages import GrabCutMasker, LabChange, OfflineAlterer
from vsm_fast.data.pretrained.grounded_sam import GroundedSam
from vsm_fast.data.pretrained.sam import SegmentAnything
from vsm_fast.data.pretrained.sam_parts import SamParts
from vsm_fast.data.registry import make_stages


def test_the_offline_stages() -> None:
    stages = make_stages("grabcut", "descriptors", "offline", "lab")
    assert isinstance(stages.masker, GrabCutMasker)
    assert isinstance(stages.alterer, OfflineAlterer)
    assert isinstance(stages.change, LabChange)
    assert stages.parts is not None
    assert stages.parts(0.3).name == "descriptors"
    assert make_stages("grabcut", "random", "offline", "lab").parts is None


@pytest.mark.parametrize("place", range(4))
def test_an_unknown_name_is_refused_with_the_known_ones(place: int) -> None:
    names = ["grabcut", "descriptors", "offline", "lab"]
    names[place] = "magic"
    with pytest.raises(ValueError, match=r"wanted one of .*; got 'magic'"):
        make_stages(*names)


def test_masks_and_parts_share_one_sam(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading is replaced: what counts is that the same model reaches both stages."""
    loaded: list[object] = []

    def load(device: str) -> object:
        loaded.append(object())
        return loaded[-1]

    got: dict[str, object] = {}

    def masker(sam: object, device: str) -> object:
        got["masks"] = sam
        return "masker"

    def parts(sam: object, device: str) -> object:
        got["parts"] = sam
        return "parts"

    registry._segment_anything.cache_clear()
    monkeypatch.setattr(SegmentAnything, "from_pretrained", load)
    monkeypatch.setattr(GroundedSam, "from_pretrained", masker)
    monkeypatch.setattr(SamParts, "from_pretrained", parts)
    make_stages("grounded-sam", "sam", "offline", "lab")
    registry._segment_anything.cache_clear()
    assert got["masks"] is got["parts"] is loaded[0]
    assert len(loaded) == 1
