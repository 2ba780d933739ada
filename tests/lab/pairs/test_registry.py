from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_models
from pretrained_models import save_grounding_dino, save_sam, save_sd2_inpainting

from vsm_fast.errors import ModelError
from vsm_fast.images.grabcut import GrabCutMasker
from vsm_fast.images.grounded_sam import SAM, GroundedSam, SegmentAnything
from vsm_fast.lab.pairs import registry
from vsm_fast.lab.pairs.offline_stages import LabChange, OfflineAlterer
from vsm_fast.lab.pairs.pretrained.inpainting import Inpainter
from vsm_fast.lab.pairs.pretrained.sam_parts import SamParts
from vsm_fast.lab.pairs.registry import StageModels, make_stages

one_thread = tiny_models.one_thread


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


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of small models, by what they are."""
    root = tmp_path_factory.mktemp("models")
    return {
        "detector": str(save_grounding_dino(root / "dino")),
        "sam": str(save_sam(root / "sam")),
        "alterer": str(save_sd2_inpainting(root / "sd2")),
    }


@pytest.fixture(autouse=True)
def no_sam_is_kept() -> Iterator[None]:
    registry._loaded_sam.cache_clear()
    yield
    registry._loaded_sam.cache_clear()


def test_other_weights_reach_their_stages_and_the_record(
    saved: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Masks and parts share one SAM; what was loaded is recorded."""
    load, loaded = SegmentAnything.from_pretrained, []
    monkeypatch.setattr(
        SegmentAnything,
        "from_pretrained",
        lambda source, **settings: loaded.append(load(source, **settings)) or loaded[-1],
    )
    stages = make_stages(
        "grounded-sam", "sam", "sd2-inpainting", "lab", "cpu", StageModels(**saved)
    )
    assert stages.weights == saved
    assert isinstance(stages.masker, GroundedSam)
    assert isinstance(stages.alterer, Inpainter)
    assert stages.alterer.name == "sd2-inpainting"
    assert stages.parts is not None
    assert isinstance(stages.parts(0.3), SamParts)
    assert len(loaded) == 1
    # The same names again load nothing again; another name does.
    again = make_stages("grabcut", "sam", "offline", "lab", "cpu", StageModels(sam=saved["sam"]))
    assert again.weights == {"sam": saved["sam"]}
    assert len(loaded) == 1
    Path(saved["sam"], "config.json").touch()  # another model may lie there now
    make_stages("grabcut", "sam", "offline", "lab", "cpu", StageModels(sam=saved["sam"]))
    assert len(loaded) == 2
    with pytest.raises(ModelError, match="no model 'elsewhere'"):
        make_stages("grabcut", "sam", "offline", "lab", "cpu", StageModels(sam="elsewhere"))


def test_a_revision_reaches_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None]] = []

    def fetch(name: str, revision: str | None, **_: object) -> str:
        asked.append((name, revision))
        raise OSError("no network in tests")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    for model in ("owner/sam@refs/pr/5", "owner/sam", None):
        with pytest.raises(ModelError, match="With network access run: hf download"):
            make_stages("grabcut", "sam", "offline", "lab", "cpu", StageModels(sam=model))
    assert asked == [("owner/sam", "refs/pr/5"), ("owner/sam", None), (SAM, None)]


@pytest.mark.parametrize(
    ("stages", "models"),
    [
        (("grabcut", "descriptors", "offline"), {"detector": "a/b"}),
        (("grabcut", "random", "offline"), {"sam": "a/b"}),
        (("grabcut", "descriptors", "offline"), {"alterer": "a/b"}),
    ],
)
def test_weights_that_no_stage_would_load_are_refused(
    stages: tuple[str, str, str], models: dict[str, str]
) -> None:
    with pytest.raises(ValueError, match=r"no stage would load the \w+ 'a/b': it is for the"):
        make_stages(*stages, "lab", models=StageModels(**models))
