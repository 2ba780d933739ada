"""Baselines with weights of their own: against the models' plain use, on tiny models."""

from __future__ import annotations

import sys

import lpips_stand_in
import numpy as np
import pytest
import tiny_models
import torch
from made_pairs import made_pair
from pretrained_models import IMAGENET_MEAN, IMAGENET_STD, save_clip, save_dino, save_dinov2
from transformers import CLIPModel, Dinov2Model, ViTImageProcessorPil, ViTModel

from vsm_fast.errors import ModelError
from vsm_fast.lab.baselines.baseline import subject_crop
from vsm_fast.lab.baselines.pretrained import (
    PRETRAINED,
    ImageEncoder,
    covered_patches,
    pretrained_baseline,
)

one_thread = tiny_models.one_thread
lpips = lpips_stand_in.lpips
MAKERS = {"clip-i": save_clip, "dino": save_dino, "dinov2": save_dinov2, "dino-patches": save_dino}
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in MAKERS.items()}


@pytest.fixture
def baseline(folders, lpips):
    def baseline(name):
        return pretrained_baseline(name, source=folders.get(name), device="cpu")

    return baseline


def pair(seed=0, **changes):
    return made_pair(seed, kind="recolour", **changes)


def equal_pair(seed=0):
    base = pair(seed)
    return pair(seed, original_2=base.altered_1, mask_2=base.mask_1)


def crops(example, side):
    return [
        subject_crop(example.altered_1, example.mask_1, side),
        subject_crop(example.original_2, example.mask_2, side),
    ]


def inputs(example, side, mean, std):
    pixels = np.stack([crop for crop, _ in crops(example, side)])
    scaled = (pixels / 255.0 - np.array(mean)) / np.array(std)
    return torch.from_numpy(scaled).float().permute(0, 3, 1, 2)


def cosine(a, b):
    a, b = a.double(), b.double()
    return float(a @ b / (a.norm() * b.norm()))


@torch.no_grad()
def test_clip_i_is_the_cosine_of_clips_image_features(baseline, folders):
    model = CLIPModel.from_pretrained(folders["clip-i"]).eval()
    pixels = inputs(pair(), 32, CLIP_MEAN, CLIP_STD)
    vectors = model.visual_projection(model.vision_model(pixels).pooler_output)
    assert baseline("clip-i")([pair()])[0] == pytest.approx(cosine(*vectors), abs=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("name", "side"), [("dino", 32), ("dinov2", 28)])
def test_dino_is_the_cosine_of_the_class_tokens(baseline, folders, name, side):
    model = {"dino": ViTModel, "dinov2": Dinov2Model}[name].from_pretrained(folders[name]).eval()
    # The folder decides: that of DINO says nothing, and ViT's processor then gives [-1, 1].
    norm = ((0.5,) * 3, (0.5,) * 3) if name == "dino" else (IMAGENET_MEAN, IMAGENET_STD)
    tokens = model(inputs(pair(), side, *norm)).last_hidden_state[:, 0]
    assert baseline(name)([pair()])[0] == pytest.approx(cosine(*tokens), abs=1e-5)


@torch.no_grad()
def test_patch_nearest_neighbour_in_loops(baseline, folders):
    model = ViTModel.from_pretrained(folders["dino"], add_pooling_layer=False).eval()
    example = pair()
    tokens = model(inputs(example, 32, (0.5,) * 3, (0.5,) * 3)).last_hidden_state[:, 1:]
    kept = []
    for side, (_, mask) in enumerate(crops(example, 32)):
        rows = []
        for y in range(4):
            for x in range(4):
                if mask[8 * y : 8 * y + 8, 8 * x : 8 * x + 8].mean() >= 0.5:
                    rows.append(tokens[side, 4 * y + x])
        kept.append(rows)
    assert 0 < len(kept[0]) < 16  # the mask matters
    wanted = np.mean([max(cosine(a, b) for b in kept[1]) for a in kept[0]])
    assert baseline("dino-patches")([example])[0] == pytest.approx(wanted, abs=1e-5)


def test_lpips_counts_against_the_pair(baseline):
    values = baseline("lpips")([pair(), equal_pair()])
    (a, _), (b, _) = crops(pair(), 256)
    wanted = -np.abs(a.astype(float) - b).mean() / 127.5  # the stand-in's distance
    np.testing.assert_allclose(values, [wanted, 0], atol=1e-5)


@pytest.mark.parametrize("name", PRETRAINED)
def test_the_contract_of_every_baseline(baseline, name):
    """Equal subjects score highest; no subject is NaN; the background does not matter."""
    highest = 0 if name == "lpips" else 1
    compare = baseline(name)
    assert compare.name == name
    values = compare([equal_pair(), pair()])
    assert values.dtype == np.float64
    assert values[0] == pytest.approx(highest, abs=1e-5)
    assert values[1] < highest - 1e-3
    empty = pair(1, mask_1=np.zeros((48, 48), bool))
    empty_reference = pair(2, mask_2=np.zeros((48, 48), bool))
    values = compare([pair(), empty, empty_reference, pair(3)])
    assert np.isnan(values).tolist() == [False, True, True, False]
    np.testing.assert_allclose(values[[0, 3]], [*compare([pair()]), *compare([pair(3)])], atol=1e-5)
    assert compare([]).shape == (0,)
    assert np.isnan(compare([empty])).all()
    other = np.where(pair().mask_1[..., None], pair().altered_1, np.uint8(7))
    assert compare([pair(altered_1=other)])[0] == compare([pair()])[0]


def test_more_pairs_than_a_batch(baseline):
    pairs = [pair(seed) for seed in range(18)]
    compare = baseline("dino")
    single = np.concatenate([compare([one]) for one in pairs])
    np.testing.assert_allclose(compare(pairs), single, atol=1e-5)


def test_a_thin_subject_keeps_a_patch():
    mask = np.zeros((32, 32), bool)
    mask[:, 9] = True
    mask[16:, 10] = True
    assert covered_patches(mask, 4).reshape(4, 4).tolist() == [
        [False] * 4, [False] * 4, [False, True, False, False], [False, True, False, False],
    ]  # fmt: skip


def test_missing_weights_are_a_model_error(tmp_path, monkeypatch):
    for module in ("constants", "_snapshot_download"):
        name = f"huggingface_hub.{module}.HF_HUB_CACHE"
        monkeypatch.setattr(name, str(tmp_path), raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    repositories = {
        "clip-i": "openai/clip-vit-large-patch14",
        "dino": "facebook/dino-vits16",
        "dino-patches": "facebook/dino-vits16",
        "dinov2": "facebook/dinov2-small",
    }
    for name, repository in repositories.items():
        with pytest.raises(ModelError, match=f"hf download {repository}"):
            pretrained_baseline(name)


def test_wrong_names_and_models_are_refused(folders, monkeypatch):
    with pytest.raises(ValueError, match="clip-i, dino, dinov2, dino-patches, lpips; got 'fid'"):
        pretrained_baseline("fid")
    with pytest.raises(ModelError, match="CLIP-I"):
        pretrained_baseline("clip-i", source=folders["dino"])
    with pytest.raises(ValueError, match="own weights"):
        pretrained_baseline("lpips", source=folders["dino"])
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"\[lab\]"):
        pretrained_baseline("dino", source=folders["dino"])


def test_a_processor_that_does_not_fit_the_patches_is_refused(folders):
    model = ViTModel.from_pretrained(folders["dino"])
    for size in ({"height": 30, "width": 30}, {"height": 32, "width": 40}):
        with pytest.raises(ModelError, match="whole patches of 8 pixels"):
            ImageEncoder(model, ViTImageProcessorPil(size=size), "DINO")
