from __future__ import annotations

import numpy as np
import pytest
import tiny_models
import torch
from made_pairs import made_pair, small_model

from vsm_fast.errors import ModelError
from vsm_fast.lab.baselines import choose_baselines, registry
from vsm_fast.lab.baselines.features import SubjectFeatures
from vsm_fast.lab.baselines.registry import OFFLINE
from vsm_fast.scorer import VSMScorer

one_thread = tiny_models.one_thread


@pytest.fixture(scope="module")
def scorer(tmp_path_factory) -> VSMScorer:
    return VSMScorer.from_pretrained(small_model(tmp_path_factory.mktemp("model")))


def pairs():
    nothing = np.zeros((48, 48), bool)
    return [made_pair(1), made_pair(2), made_pair(3), made_pair(1, mask_2=nothing)]


def baselines(scorer: VSMScorer, *names: str):
    return choose_baselines(names, scorer)[0]


@pytest.mark.parametrize("branch", ["semantic", "visual"])
def test_descriptors_are_the_scorers_own(scorer: VSMScorer, branch: str) -> None:
    (generation, reference), *_ = SubjectFeatures(scorer)(pairs())
    assert generation is not None
    assert reference is not None
    pair = made_pair(1)
    described = scorer.describe([pair.altered_1, pair.original_2], [pair.mask_1, pair.mask_2])
    for image, side in enumerate((generation, reference)):
        expected = getattr(described, branch)[described.rows(image)]
        torch.testing.assert_close(getattr(side, branch), expected, atol=1e-5, rtol=0)
    value = baselines(scorer, f"{branch}-cosine")[0]([pair])[0]
    means = [getattr(described, branch)[described.rows(i)].mean(0).numpy() for i in (0, 1)]
    expected = means[0] @ means[1] / (np.linalg.norm(means[0]) * np.linalg.norm(means[1]))
    assert value == pytest.approx(expected, abs=1e-5)


def test_patches_find_their_nearest(scorer: VSMScorer) -> None:
    (generation, reference), *_ = SubjectFeatures(scorer)(pairs())
    one, two = generation.raw.numpy(), reference.raw.numpy()
    np.testing.assert_allclose(np.linalg.norm(one, axis=1), 1, atol=1e-5)
    best = [max(float(row @ other) for other in two) for row in one]
    assert baselines(scorer, "patch-nearest")[0](pairs())[0] == pytest.approx(
        np.mean(best), abs=1e-5
    )


def test_equal_subjects_are_at_one_and_missing_ones_undefined(scorer: VSMScorer) -> None:
    pair = made_pair(0)
    same = made_pair(0, original_2=pair.altered_1, mask_2=pair.mask_1)
    for baseline in baselines(scorer, *OFFLINE[3:]):
        values = baseline([same, *pairs()])
        assert values[0] == pytest.approx(1, abs=1e-5)
        assert np.isnan(values).tolist() == [False, False, False, False, True]
        assert (values[1:4] < 1).all()
        assert np.isnan(baseline([pairs()[3]])).all()


def test_baselines_share_one_pass_over_a_batch(scorer: VSMScorer) -> None:
    calls = []
    handle = scorer.network.backbone.register_forward_hook(lambda *_: calls.append(1))
    chosen = baselines(scorer, *OFFLINE[3:])
    first, second = pairs()[:2], pairs()[1:3]
    values = [baseline(first) for baseline in chosen]
    assert len(calls) == 1
    assert chosen[0](second)[0] == pytest.approx(values[0][1], abs=1e-5)
    assert len(calls) == 2
    handle.remove()


def test_choosing(scorer: VSMScorer, monkeypatch) -> None:
    def names(*selection: str) -> list[str]:
        return [baseline.name for baseline in baselines(scorer, *selection)]

    assert names("none") == []
    assert names("offline") == list(OFFLINE)
    assert names("ssim", "psnr", "ssim") == ["ssim", "psnr"]
    with pytest.raises(ValueError, match="got fid"):
        names("psnr", "fid")
    with pytest.raises(ValueError, match="got all"):
        names("psnr", "all")

    def stand_in(name: str, device: object) -> object:
        """In place of downloads: one baseline is made, of the other the weights are missing."""
        if name == "not-there":
            raise ModelError("no weights of not-there.")
        return type("There", (), {"name": name})()

    monkeypatch.setattr(registry, "PRETRAINED", ("there", "not-there"))
    monkeypatch.setattr(registry, "pretrained_baseline", stand_in)
    made, skipped = choose_baselines(["all"], scorer)
    assert [baseline.name for baseline in made] == [*OFFLINE, "there"]
    assert skipped == {"not-there": "no weights of not-there."}
    with pytest.raises(ModelError, match="no weights"):
        names("not-there")
