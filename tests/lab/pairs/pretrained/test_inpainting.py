"""Inpainting: locality, determinism, and the region and settings passed to the model."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_models
import torch
from PIL import Image
from pretrained_models import save_flux_fill, save_sd2_inpainting, save_sdxl_inpainting

from vsm_fast.errors import ModelError
from vsm_fast.lab.pairs.pretrained.inpainting import (
    INPAINTING_MODELS,
    PROMPTS,
    Inpainter,
    InpaintingSettings,
)
from vsm_fast.lab.pairs.stages import AlterationRequest

one_thread = tiny_models.one_thread
MAKERS = {
    "sdxl-inpainting": save_sdxl_inpainting,
    "sd2-inpainting": save_sd2_inpainting,
    "flux-fill": save_flux_fill,
}
HEIGHT, WIDTH = 50, 75  # no multiples of 8
SHORT = InpaintingSettings(steps=2, padding=4, resolution=64)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in MAKERS.items()}


@pytest.fixture(scope="module")
def load(folders):
    def load(name, **options):
        options = {"settings": SHORT, "device": "cpu", **options}
        return Inpainter.from_pretrained(name, folders[name], **options)

    return load


def request(seed=0, kind="repaint", part=None, pixels=None):
    if pixels is None:
        pixels = np.random.default_rng(9).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:40, 10:60] = True
    if part is None:
        part = np.zeros_like(mask)
        part[15:30, 20:40] = True
        part[20:25, 30:36] = False  # a hole
    rng = np.random.default_rng(seed)
    return AlterationRequest(
        pixels=pixels, part=part, mask=mask, subject="bear_plushie", kind=kind, rng=rng, donor=None
    )


class Painter:
    """Fake pipeline: records its call and returns the image of ``paint``."""

    image_processor = SimpleNamespace(config=SimpleNamespace(vae_scale_factor=8))
    vae_scale_factor = 8
    unet = SimpleNamespace(config=SimpleNamespace(sample_size=32))

    def __init__(self, paint, flagged=None):
        self._paint, self._flagged, self.called = paint, flagged, {}

    def set_progress_bar_config(self, **_settings):
        pass

    def __call__(self, **call):
        self.called = call
        picture = np.asarray(self._paint(call), np.float32) / 255
        tensor = torch.from_numpy(picture).permute(2, 0, 1)[None]
        return SimpleNamespace(images=tensor, nsfw_content_detected=self._flagged)


@pytest.mark.parametrize("name", MAKERS)
def test_only_the_part_is_repainted(load, name):
    job = request()
    before = job.pixels.copy()
    altered = load(name)(job)
    assert altered.pixels.dtype == np.uint8
    assert np.array_equal(job.pixels, before)
    assert np.array_equal(altered.pixels[~job.part], before[~job.part])
    changed = (altered.pixels != before).any(2)
    assert changed[job.part].mean() > 0.9
    assert np.array_equal(altered.part, job.part)
    assert altered.kind == "repaint"
    recorded = json.loads(json.dumps(altered.details))["inpainting"]
    assert recorded["prompt"] == "a photo of a bear plushie"


@pytest.mark.parametrize("name", MAKERS)
def test_the_seed_determines_the_result(load, name):
    first, second = load(name), load(name)
    one, again, other = first(request(1)), second(request(1)), first(request(2))
    assert np.array_equal(one.pixels, again.pixels)
    assert one.details == again.details
    assert not np.array_equal(one.pixels, other.pixels)
    # No state remains from the request in between.
    assert np.array_equal(first(request(1)).pixels, one.pixels)


def test_the_kind_is_in_the_prompt_and_changes_the_picture(load):
    inpainter = load("sd2-inpainting")
    results = [inpainter(request(kind=kind)) for kind in inpainter.kinds]
    assert [result.kind for result in results] == list(PROMPTS)
    assert len({result.details["inpainting"]["prompt"] for result in results}) == len(PROMPTS)
    assert len({result.pixels.tobytes() for result in results}) == len(PROMPTS)
    drawn = {inpainter(request(seed, kind=None)).kind for seed in range(8)}
    assert len(drawn) > 1
    assert drawn <= set(PROMPTS)


@pytest.mark.parametrize("shape", [(1, 1), (50, 3), (2, 75), (50, 75)])
@pytest.mark.parametrize("name", ["sd2-inpainting", "flux-fill"])
def test_parts_of_any_shape(load, name, shape):
    part = np.zeros((HEIGHT, WIDTH), bool)
    part[: shape[0], -shape[1] :] = True
    job = request(part=part)
    altered = load(name)(job)
    assert np.array_equal(altered.pixels[~part], job.pixels[~part])
    assert (altered.pixels != job.pixels).any()


def test_the_output_returns_to_its_region():
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    ramp = np.stack([rows * 4, columns * 3, rows + columns], 2).astype(np.uint8)
    painter = Painter(lambda call: call["image"])
    altered = Inpainter("x", painter, SHORT)(request(pixels=ramp))
    assert painter.called["image"].size == (64, 64)
    assert np.abs(altered.pixels.astype(int) - ramp).max() <= 3  # resampled there and back
    shifted = Inpainter("x", Painter(lambda call: np.roll(call["image"], 8, 0)), SHORT)
    assert np.abs(shifted(request(pixels=ramp)).pixels.astype(int) - ramp).max() > 8


def test_the_model_receives_the_mask_of_the_part():
    def white_inside(call):
        mask = call["mask_image"].resize((call["width"], call["height"]), Image.Resampling.NEAREST)
        return np.stack([np.asarray(mask)] * 3, 2)

    job = request(pixels=np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    altered = Inpainter("x", Painter(white_inside), SHORT)(job)
    inside = altered.pixels[job.part]
    assert np.median(inside) == 255
    assert (inside > 127).mean() > 0.9  # the rest is the edge, resampled


def test_the_region_is_the_part_with_its_padding():
    painter = Painter(lambda call: call["image"])
    inpainter = Inpainter("x", painter, InpaintingSettings(padding=5))
    left, top, right, bottom = inpainter(request()).details["inpainting"]["region"]
    assert (left, right) == (15, 45)  # 20 to 40 and 5 on each side
    assert top <= 10  # 15 to 30 and 5 on each side, or more to make it square
    assert bottom >= 35
    assert bottom - top == 30
    assert (painter.called["width"], painter.called["height"]) == (256, 256)  # 32 latents of 8


def test_the_papers_settings_reach_the_pipeline():
    painter = Painter(lambda call: call["image"])
    Inpainter("x", painter, INPAINTING_MODELS["sdxl-inpainting"].settings)(request())
    called = painter.called
    settings = (called["strength"], called["guidance_scale"], called["num_inference_steps"])
    assert settings == (0.98, 7.5, 30)
    assert INPAINTING_MODELS["sdxl-inpainting"].settings.padding == 32


def test_a_flagged_image_leaves_the_pixels_unchanged():
    painter = Painter(lambda call: np.zeros((call["height"], call["width"], 3)), [True])
    job = request()
    altered = Inpainter("x", painter, SHORT)(job)
    assert altered.details["inpainting"]["flagged"] is True
    assert np.array_equal(altered.pixels, job.pixels)


def test_output_that_is_not_finite_is_an_error(load):
    inpainter = load("sd2-inpainting")
    with torch.no_grad():
        inpainter._pipeline.vae.decoder.conv_out.bias.fill_(float("nan"))
    with pytest.raises(ModelError, match=r"NaN or Inf\. Load it with dtype='float32'"):
        inpainter(request())


def test_other_precisions(load):
    exact = load("sdxl-inpainting")(request()).pixels.astype(int)
    inpainter = load("sdxl-inpainting", dtype="bfloat16")
    assert {p.dtype for p in inpainter._pipeline.unet.parameters()} == {torch.bfloat16}
    assert np.abs(inpainter(request()).pixels - exact).mean() < 3


def test_the_part_has_no_watermark(load):
    assert load("sdxl-inpainting")._pipeline.watermark is None


def test_wrong_requests_are_refused(load):
    inpainter = load("sd2-inpainting")
    with pytest.raises(ValueError, match="repaint shape; got 'explode'"):
        inpainter(request(kind="explode"))
    with pytest.raises(ValueError, match="got an empty part"):
        inpainter(request(part=np.zeros((HEIGHT, WIDTH), bool)))
    with pytest.raises(ValueError, match=r"\(50, 75, 3\) and \(9, 9\)"):
        inpainter(request(part=np.ones((9, 9), bool)))


def test_wrong_settings_are_refused(folders):
    with pytest.raises(ValueError, match="sdxl-inpainting, sd2-inpainting, flux-fill; got 'sd9'"):
        Inpainter.from_pretrained("sd9")
    with pytest.raises(ValueError, match="no GPU here"):
        Inpainter.from_pretrained("sd2-inpainting", folders["sd2-inpainting"], device="cpu",
                                  offload=True)  # fmt: skip
    wrong = {"strength": 0.0, "steps": 0, "padding": -1, "resolution": 32}
    for field, value in wrong.items():
        with pytest.raises(ValueError, match=f"{value}"):
            dataclasses.replace(SHORT, **{field: value})


def test_flux_is_never_the_default():
    assert "flux" not in Inpainter.from_pretrained.__func__.__defaults__[0].lower()
