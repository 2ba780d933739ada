from __future__ import annotations

import pytest
import tiny_models
from pretrained_models import save_grounding_dino, save_sam, save_sd2_inpainting

from vsm_fast.errors import ModelError
from vsm_fast.images.grabcut import GrabCutMasker
from vsm_fast.images.grounded_sam import SAM, GroundedSam, SegmentAnything
from vsm_fast.lab.pairs.alterations import LabChange, OfflineAlterer
from vsm_fast.lab.pairs.descriptor_parts import DescriptorParts
from vsm_fast.lab.pairs.pretrained.inpainting import Inpainter
from vsm_fast.lab.pairs.pretrained.sam_parts import SamParts
from vsm_fast.lab.pairs.stage_choice import make_stages

one_thread = tiny_models.one_thread


def test_offline_stages() -> None:
    stages = make_stages("grabcut", "descriptors", "offline", "lab")
    assert isinstance(stages.masker, GrabCutMasker)
    assert isinstance(stages.alterer, OfflineAlterer)
    assert isinstance(stages.change, LabChange)
    assert stages.parts is not None
    assert isinstance(stages.parts(0.3), DescriptorParts)
    assert make_stages("grabcut", "random", "offline", "lab").parts is None


@pytest.mark.parametrize("place", range(4))
def test_an_unknown_name_is_refused(place: int) -> None:
    names = ["grabcut", "descriptors", "offline", "lab"]
    names[place] = "magic"
    with pytest.raises(ValueError, match=r"'magic'. Choose one of "):
        make_stages(*names)


def test_selected_weights_are_loaded_and_recorded(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path_factory.mktemp("models")
    saved = {
        "detector": str(save_grounding_dino(root / "dino")),
        "sam": str(save_sam(root / "sam")),
        "alterer": str(save_sd2_inpainting(root / "sd2")),
    }
    load, loaded = SegmentAnything.from_pretrained, []
    monkeypatch.setattr(
        SegmentAnything,
        "from_pretrained",
        lambda source, **settings: loaded.append(load(source, **settings)) or loaded[-1],
    )
    models = {f"{name}_model": folder for name, folder in saved.items()}
    stages = make_stages("grounded-sam", "sam", "sd2-inpainting", "lab", "cpu", **models)
    assert stages.weights == saved
    assert isinstance(stages.masker, GroundedSam)
    assert isinstance(stages.alterer, Inpainter)
    assert stages.alterer.name == "sd2-inpainting"
    assert stages.parts is not None
    assert isinstance(stages.parts(0.3), SamParts)
    assert len(loaded) == 1  # masks and parts share one SAM
    with pytest.raises(ModelError, match="no model 'elsewhere'"):
        make_stages("grabcut", "sam", "offline", "lab", "cpu", sam_model="elsewhere")


def test_a_revision_reaches_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[tuple[str, str | None]] = []

    def fetch(name: str, revision: str | None, **_: object) -> str:
        requests.append((name, revision))
        raise OSError("no network in tests")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    for model in ("owner/sam@refs/pr/5", "owner/sam", None):
        with pytest.raises(ModelError, match="With network access run: hf download"):
            make_stages("grabcut", "sam", "offline", "lab", "cpu", sam_model=model)
    assert requests == [("owner/sam", "refs/pr/5"), ("owner/sam", None), (SAM, None)]


@pytest.mark.parametrize(
    ("stages", "models"),
    [
        (("grabcut", "descriptors", "offline"), {"detector_model": "a/b"}),
        (("grabcut", "random", "offline"), {"sam_model": "a/b"}),
        (("grabcut", "descriptors", "offline"), {"alterer_model": "a/b"}),
    ],
)
def test_unused_weights_are_refused(stages: tuple[str, ...], models: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"the \w+ 'a/b' is not used by .* select the"):
        make_stages(*stages, "lab", **models)
