"""End-to-end parity with the reference pipeline, re-implemented from its description.

One pair at a time, float32 networks of diffusers as they come (VAE and UNet whole, nothing cut,
folded or batched), everything after them in float64 loops. Widths are reduced; the file formats,
key names and the order of steps are those of the published model.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import tiny_models
import torch
from oracle import match_pair, score
from PIL import Image
from plain_network import plain_aggregation
from tiny_models import (
    aggregation_pair,
    condition_unet,
    config_of,
    context,
    plain_levels,
    published_names,
    small_vae,
    write_folder,
)

from vsm_fast import VSMScorer

one_thread = tiny_models.one_thread
LEVELS, RESOLUTION, SCALE = ("us3", "us6", "us8"), 64, 0.18215
TIME_STEP = 261.3  # the published one is learned, so not a whole number


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A model folder, and the parts that it was written from."""
    unet, vae = condition_unet(), small_vae()
    networks = aggregation_pair((16, 16, 8))
    config = config_of(
        LEVELS, RESOLUTION, mask_reduction="any", timestep=TIME_STEP, pixel_unshuffle=1,
        latent_scale=SCALE,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("published") / "model"
    folder.mkdir()
    whole = copy.deepcopy(unet), copy.deepcopy(vae)
    conditioning = {"encoder_hidden_states": context()}
    config = write_folder(folder, config, unet, *networks, vae=vae, conditioning=conditioning)
    weights = {k: v.double().numpy() for k, v in published_names(*networks).items()}
    return folder, config, whole, weights


def _picture(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.kron(rng.integers(0, 256, (9, 7, 3)), np.ones((8, 8, 1))).astype(np.uint8)


def _masks() -> tuple[np.ndarray, np.ndarray]:
    first, second = np.zeros((72, 56), bool), np.zeros((72, 56), bool)
    # Their edges cross cells whose centres they miss, so that the rule of reduction counts.
    first[10:60, 6:50], second[4:63, 10:48] = True, True
    return first, second


@torch.no_grad()
def _describe(pixels, mask, published):
    """Descriptors of the subject's cells, float64 [n, D] twice, as the description says."""
    _, config, (unet, vae), weights = published
    image = Image.fromarray(pixels).resize((RESOLUTION, RESOLUTION), Image.Resampling.BICUBIC)
    array = np.asarray(image).astype(np.float32).transpose(2, 0, 1) / 127.5 - 1
    latent = vae.encode(torch.from_numpy(array)[None]).latent_dist.mode() * SCALE
    levels = plain_levels(unet, latent, torch.tensor([TIME_STEP]), context())
    maps = [levels[name][0].double().numpy() for name in LEVELS]
    rows, columns = config.aggregation.grid
    height, width = mask.shape
    cells = [
        (row, column)
        for row in range(rows)
        for column in range(columns)
        if any(
            mask[y, x]
            for y in range(height)
            for x in range(width)
            # The resized mask is not zero where a cell shares any area with the subject.
            if y * rows < (row + 1) * height and (y + 1) * rows > row * height
            and x * columns < (column + 1) * width and (x + 1) * columns > column * width
        )
    ]  # fmt: skip
    described = []
    for branch in ("semantic", "visual"):
        grid = plain_aggregation(maps, weights, branch, config.aggregation)
        described.append(np.array([grid[:, row, column] for row, column in cells]))
    return described


def test_descriptors_kept_points_and_scores_are_those_of_the_reference(published) -> None:
    scorer = VSMScorer.from_pretrained(published[0], device="cpu")
    references, generations = [_picture(0), _picture(1)], [_picture(number) for number in (0, 2, 3)]
    ref_mask, gen_mask = _masks()
    plain_refs = [_describe(pixels, ref_mask, published) for pixels in references]
    plain_gens = [_describe(pixels, gen_mask, published) for pixels in generations]
    described = scorer.describe(generations, [gen_mask] * 3)
    for number, (semantic, visual) in enumerate(plain_gens):
        rows = described.rows(number)
        np.testing.assert_allclose(described.semantic[rows].numpy(), semantic, atol=2e-5)
        np.testing.assert_allclose(described.visual[rows].numpy(), visual, atol=2e-5)

    pairs = [(ref, gen) for ref in range(2) for gen in range(3)]
    # Thresholds in the widest gaps of what the pairs have, so that no rounding decides.
    oracles = [match_pair(*_both(plain_gens[g], plain_refs[r]), -2.0) for r, g in pairs]
    tau_s = _gap([value for oracle in oracles for value in oracle.semantic])
    tau_v = _gap([value for oracle in oracles for value in oracle.visual])
    scores = scorer.score(
        references, generations, pairs=pairs, ref_masks=[ref_mask] * 2, gen_masks=[gen_mask] * 3,
        semantic_threshold=tau_s, visual_threshold=tau_v, heatmaps=True,
    )  # fmt: skip
    for row, (ref, gen) in enumerate(pairs):
        oracle = match_pair(*_both(plain_gens[gen], plain_refs[ref]), tau_s)
        evidence = scores[row].evidence
        assert evidence is not None
        assert evidence.kept.tolist() == oracle.kept
        expected = score(oracle.kept, oracle.visual, tau_v)
        assert scores.score[row] == pytest.approx(expected, abs=1e-6)
        assert 0 < sum(oracle.kept) < len(oracle.kept)
    assert len({round(float(value), 4) for value in scores.score}) > 2


def _both(generation, reference):
    """Arguments of the oracle: semantic of both, then visual of both."""
    return generation[0], reference[0], generation[1], reference[1]


def _gap(values: list[float]) -> float:
    """The middle of the widest gap between neighbours in the middle half of the values."""
    ordered = np.sort(values)
    inner = ordered[len(ordered) // 4 : 3 * len(ordered) // 4]
    widest = int(np.diff(inner).argmax())
    return float((inner[widest] + inner[widest + 1]) / 2)
