"""Rewards of tensors against scores of images, with the embedded model."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vsm_fast import InputError, ModelError, PairingError, VSMScorer
from vsm_fast.descriptors import Descriptors
from vsm_fast.integrations.rewards import VSMReward

EXAMPLES = Path(__file__).parents[2] / "examples"
SUBJECTS = ("bear_plushie", "colorful_sneaker", "robot_toy")


def _photo(side, subject, name):
    folder = EXAMPLES / side / subject
    image = np.array(Image.open(folder / f"{name}.jpg").convert("RGB"))
    mask = np.array(Image.open(folder / f"{name}_mask.png").convert("L")) > 127
    return torch.from_numpy(image).permute(2, 0, 1) / 255, torch.from_numpy(mask)


REFERENCES, REF_MASKS = zip(*(_photo("refs", name, "reference") for name in SUBJECTS), strict=True)
GENERATIONS, MASKS = zip(
    *(_photo("gens", name, kind) for name in SUBJECTS for kind in ("other_photo", "repainted")),
    strict=True,
)
OF_SUBJECT = [0, 0, 1, 1, 2, 2]


@pytest.fixture(scope="module")
def scorer():
    return VSMScorer.from_pretrained("tiny", device="cpu")


@pytest.fixture(scope="module")
def reward(scorer):
    return VSMReward(scorer, REFERENCES, [mask.numpy() for mask in REF_MASKS])


def test_rewards_are_scores(scorer, reward):
    found = reward(GENERATIONS, MASKS, reference=OF_SUBJECT)
    scores = scorer.score(
        reward.references,
        GENERATIONS,
        gen_masks=[mask.numpy() for mask in MASKS],
        pairs=list(zip(OF_SUBJECT, range(6), strict=True)),
    )
    assert found.dtype == torch.float32
    # A grey level that is rounded the other way can decide for a point at a threshold.
    np.testing.assert_array_less(np.abs(found.numpy() - scores.score), 2.5 / scores.n_matched)


def test_descriptors_of_tensors_are_those_of_images(scorer):
    tensors = scorer.describe_tensors(REFERENCES, REF_MASKS)
    images = scorer.describe(REFERENCES, [mask.numpy() for mask in REF_MASKS])
    torch.testing.assert_close(tensors.offsets, images.offsets)
    torch.testing.assert_close(tensors.cells, images.cells)
    torch.testing.assert_close(tensors.semantic, images.semantic, atol=5e-3, rtol=0)
    torch.testing.assert_close(tensors.visual, images.visual, atol=5e-3, rtol=0)


def test_batches_change_rounding_only(reward):
    together = reward(GENERATIONS, MASKS, reference=OF_SUBJECT)
    parts = reward(GENERATIONS, MASKS, reference=torch.tensor(OF_SUBJECT), batch_size=4)
    torch.testing.assert_close(parts, together, atol=0.02, rtol=0)


def test_a_missing_score_is_undefined_and_not_zero(scorer):
    images = torch.stack([GENERATIONS[0]] * 3)
    images[1, 0, 5, 5] = math.nan
    masks = torch.stack([MASKS[0]] * 3)
    masks[2] = False
    found = VSMReward(scorer, REFERENCES[:1])(images, masks)
    assert found.isnan().tolist() == [False, True, True]
    chosen = VSMReward(scorer, REFERENCES[:1], undefined=-1.0)(images, masks)
    assert chosen.tolist() == [found[0].item(), -1.0, -1.0]


def test_thresholds_apply(scorer):
    assert VSMReward(scorer, REFERENCES[:1], semantic_threshold=1.0)(GENERATIONS[:1]).isnan().all()
    strict = VSMReward(scorer, REFERENCES[:1], visual_threshold=1.0)
    assert strict([GENERATIONS[0]], [MASKS[0]]).tolist() == [0.0]


def test_a_reward_can_enter_a_loss_and_has_no_gradient(reward):
    images = torch.stack(GENERATIONS[:2]).requires_grad_()
    weight = torch.ones(2, requires_grad=True)
    found = reward(images, torch.stack(MASKS[:2]), reference=[0, 0])
    assert not found.requires_grad
    (found * weight).sum().backward()
    torch.testing.assert_close(weight.grad, found)
    assert images.grad is None


def test_as_many_references_as_generations_pair_up(reward):
    found = reward(GENERATIONS[::2], MASKS[::2])
    torch.testing.assert_close(found, reward(GENERATIONS[::2], MASKS[::2], reference=[0, 1, 2]))
    assert reward(torch.empty(0, 3, 8, 8), reference=[]).shape == (0,)


@pytest.mark.parametrize("wrong", [[0, 3], [-1, 0], [0], [0.0, 1.0]])
def test_missing_references_are_refused(reward, wrong):
    with pytest.raises(PairingError, match="reference must"):
        reward(GENERATIONS[:2], reference=wrong)


def test_references_of_another_model_are_refused(scorer):
    rows = torch.ones(1, 4)
    other = Descriptors(rows, rows, torch.tensor([0, 1]), torch.tensor([0]), (2, 2))
    with pytest.raises(ModelError, match="another model"):
        VSMReward(scorer, other)


def test_wrong_input_is_refused(reward):
    with pytest.raises(PairingError, match="2 generations with 3 references"):
        reward(GENERATIONS[:2])
    with pytest.raises(PairingError, match="describe"):
        VSMReward(reward.scorer, reward.references, [None])
    with pytest.raises(InputError, match="clamp"):
        reward([GENERATIONS[0] * 2 - 1], reference=[0])
    with pytest.raises(ValueError, match="batch_size"):
        reward(GENERATIONS[:1], reference=[0], batch_size=0)
