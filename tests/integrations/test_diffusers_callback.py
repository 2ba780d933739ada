"""Diffusers pipelines with small random weights, scored by the embedded model."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from pretrained_models import save_flux_fill, save_sd2_inpainting

from vsm_fast import InputError, VSMScorer
from vsm_fast.integrations.diffusers_callback import (
    VSMCallback,
    decode_latents,
    score_pipeline_output,
)
from vsm_fast.integrations.rewards import VSMReward

RNG = np.random.default_rng(0)
PHOTO = Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8))
PART = Image.fromarray(np.pad(np.full((40, 40), 255, np.uint8), 12))
INPUTS = {"prompt": "bear", "image": PHOTO, "mask_image": PART, "height": 64, "width": 64}


@pytest.fixture(scope="module")
def scorer():
    return VSMScorer.from_pretrained("tiny", device="cpu")


@pytest.fixture(scope="module")
def reward(scorer):
    # Random weights draw noise: everything matches, and scores lie between 0 and 1.
    return VSMReward(scorer, [PHOTO], semantic_threshold=-1, visual_threshold=0.7)


@pytest.fixture(scope="module")
def inpainting(tmp_path_factory):
    from diffusers import StableDiffusionInpaintPipeline

    folder = save_sd2_inpainting(tmp_path_factory.mktemp("sd2"))
    pipeline = StableDiffusionInpaintPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _run(pipeline, steps=7, output_type="pt", **options):
    seed = torch.Generator().manual_seed(0)
    settings = {"num_inference_steps": steps, "strength": 1.0, "generator": seed}
    return pipeline(**INPUTS, **settings, output_type=output_type, **options)


def test_previews_are_scored_every_few_steps_and_at_the_end(inpainting, reward):
    callback = VSMCallback(reward, every=3)
    output = _run(inpainting, num_images_per_prompt=2, callback_on_step_end=callback)
    assert [preview.step for preview in callback.curve] == [2, 5, 6]
    times = [preview.timestep for preview in callback.curve]
    assert times == sorted(times, reverse=True)
    assert len({preview.score for preview in callback.curve}) > 1
    assert callback.curve[-1].score == pytest.approx(reward(output.images).tolist(), abs=0.01)


def test_a_callback_leaves_images_unchanged_and_restarts(inpainting, reward):
    callback = VSMCallback(reward, every=2)
    watched = _run(inpainting, 3, callback_on_step_end=callback).images
    plain = _run(inpainting, 3).images
    torch.testing.assert_close(watched, plain, rtol=0, atol=0)
    _run(inpainting, 3, callback_on_step_end=callback)
    assert [preview.step for preview in callback.curve] == [1, 2]


def test_a_generation_can_be_stopped(inpainting, reward):
    callback = VSMCallback(reward, every=2, stop=lambda curve: len(curve) == 2)
    output = _run(inpainting, 8, callback_on_step_end=callback)
    assert [preview.step for preview in callback.curve] == [1, 3]
    assert callback.curve[-1].score == pytest.approx(reward(output.images).tolist(), abs=0.01)


def test_previews_use_masks(inpainting, reward):
    mask = torch.from_numpy(np.asarray(PART) > 0)[None]
    callback = VSMCallback(reward, every=9, masks=mask, reference=[0])
    output = _run(inpainting, 2, callback_on_step_end=callback)
    assert callback.curve[0].score == pytest.approx(reward(output.images, mask).tolist(), abs=0.01)


def test_latents_of_a_transformer_are_shifted_back():
    latents = torch.rand(1, 4, 2, 2)
    vae = SimpleNamespace(
        dtype=torch.float32,
        config=SimpleNamespace(scaling_factor=2.0, shift_factor=0.25),
        decode=lambda x, return_dict: (x,),
    )
    processor = SimpleNamespace(postprocess=lambda x, output_type: x)
    pipeline = SimpleNamespace(vae=vae, image_processor=processor)
    torch.testing.assert_close(decode_latents(pipeline, latents), latents / 2 + 0.25)


def test_packed_latents_need_a_decoder_and_the_documented_one_works(tmp_path, reward):
    from diffusers import FluxFillPipeline

    pipeline = FluxFillPipeline.from_pretrained(save_flux_fill(tmp_path))
    pipeline.set_progress_bar_config(disable=True)
    with pytest.raises(ValueError, match=r"FluxFillPipeline has latents \[1, \d+, \d+\]"):
        _run(pipeline, 1, callback_on_step_end=VSMCallback(reward))

    def decode(pipeline, latents):
        unpacked = pipeline._unpack_latents(latents, 64, 64, pipeline.vae_scale_factor)
        return decode_latents(pipeline, unpacked)

    callback = VSMCallback(reward, decode=decode)
    output = _run(pipeline, 2, callback_on_step_end=callback)
    assert callback.curve[-1].score == pytest.approx(reward(output.images).tolist(), abs=0.01)


def test_wrong_options_are_refused(reward):
    callback = VSMCallback(reward, stop=lambda curve: True)
    with pytest.raises(ValueError, match="SimpleNamespace cannot be interrupted"):
        callback(SimpleNamespace(), 0, 999, {})
    with pytest.raises(ValueError, match="every"):
        VSMCallback(reward, every=0)


@pytest.mark.parametrize("kind", ["pil", "np", "pt", "tuple", "images"])
def test_outputs_of_every_kind_are_scored(inpainting, scorer, kind):
    kind_of_image = kind if kind in ("pil", "np", "pt") else "pil"
    output = _run(inpainting, 1, kind_of_image, return_dict=kind != "tuple")
    if kind == "images":
        output = output.images
    scores = score_pipeline_output(
        output, PHOTO, scorer=scorer, ref_mask=PART, gen_masks=[PART], heatmaps=True
    )
    assert len(scores) == 1
    assert scores.status[0] in ("ok", "no_semantic_match")
    assert scores.n_source[0] > 0


def test_latents_are_refused(inpainting, scorer):
    output = _run(inpainting, 1, "latent")
    with pytest.raises(InputError, match="output_type 'pil'"):
        score_pipeline_output(output, PHOTO, scorer=scorer)
