"""The metric in torchmetrics and in training loops, with the embedded model."""

from __future__ import annotations

import copy
import subprocess
import sys
import warnings

import pytest
import torch
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.image import PeakSignalNoiseRatio

import vsm_fast
from vsm_fast import InputError, PairingError, VisualSemanticMatching, VSMScorer
from vsm_fast.integrations.metric import visual_semantic_matching

GENERATOR = torch.Generator().manual_seed(0)
TARGET = torch.rand(4, 3, 64, 64, generator=GENERATOR)
PREDS = TARGET.clone()
PREDS[:, :, 16:48, 16:48] = torch.rand(4, 3, 32, 32, generator=GENERATOR)
MASK = torch.ones(4, 64, 64, dtype=torch.bool)
EMPTY = MASK.clone()
EMPTY[1] = False


@pytest.fixture(scope="module")
def scores():
    return visual_semantic_matching(PREDS, TARGET, reduction="none")


@pytest.fixture(scope="module")
def scorer():
    return VSMScorer.from_pretrained("tiny", device="cpu")


def test_scores_are_those_of_the_scorer(scorer, scores):
    assert len(set(scores.tolist())) > 1
    assert ((scores > 0) & (scores < 1)).any()
    ordinary = scorer.score(TARGET, PREDS)
    difference = (scores - torch.from_numpy(ordinary.score)).abs()
    assert (difference <= torch.from_numpy(2.5 / ordinary.n_matched)).all()


def test_updates_add_up_to_the_mean(scores):
    metric = VisualSemanticMatching()
    for start in (0, 1):
        metric.update(PREDS[start::2], TARGET[start::2])
    torch.testing.assert_close(metric.compute(), scores.mean(), atol=0.01, rtol=0)
    assert metric.n_scored == 4
    metric.reset()
    assert metric.n_scored == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchmetrics': compute before update
        assert metric.compute().isnan()


def test_undefined_pairs_are_counted_and_omitted(scores):
    metric = VisualSemanticMatching()
    metric.update(PREDS, TARGET, preds_mask=EMPTY)
    with pytest.warns(UserWarning, match="n_undefined"):
        mean = metric.compute()
    torch.testing.assert_close(mean, scores[[0, 2, 3]].mean(), atol=0.02, rtol=0)
    assert (metric.n_scored, metric.n_undefined) == (3, 1)
    nothing = VisualSemanticMatching(semantic_threshold=1.0)
    nothing.update(PREDS[:1], TARGET[1:2])
    with pytest.warns(UserWarning, match="no score"):
        assert nothing.compute().isnan()


def test_single_scores_are_kept_when_asked(scores):
    metric = VisualSemanticMatching(reduction="none")
    assert list(VisualSemanticMatching().metric_state) == ["score_sum", "n_scored", "n_undefined"]
    metric.update(PREDS[:2], TARGET[:2], EMPTY[:2])
    metric.update(PREDS[2:], TARGET[2:])
    with pytest.warns(UserWarning, match="no score"):
        found = metric.compute()
    assert found.isnan().tolist() == [False, True, False, False]
    torch.testing.assert_close(found[[0, 2, 3]], scores[[0, 2, 3]], atol=0.02, rtol=0)


def test_every_image_type_and_one_reference_for_all(scorer):
    options = {"model": scorer, "reduction": "none"}
    wanted = visual_semantic_matching(PREDS, TARGET[:1].expand(4, -1, -1, -1), **options)
    one = visual_semantic_matching(list(PREDS), [TARGET[0]], MASK, [MASK[0]], **options)
    torch.testing.assert_close(one, wanted, atol=0.02, rtol=0)
    described = scorer.describe_tensors(TARGET[:1])
    torch.testing.assert_close(visual_semantic_matching(PREDS, described, **options), one)
    eight_bits = (PREDS * 255).round().to(torch.uint8)
    torch.testing.assert_close(visual_semantic_matching(eight_bits, described, **options), one)
    assert visual_semantic_matching(PREDS[:0], described, **options).shape == (0,)
    assert visual_semantic_matching([], [], **options).shape == (0,)


def test_in_a_collection_with_another_metric(scores):
    collection = MetricCollection(
        {"psnr": PeakSignalNoiseRatio(data_range=1.0), "vsm": VisualSemanticMatching()}
    )
    step = collection(PREDS[:2], TARGET[:2], preds_mask=MASK[:2])
    torch.testing.assert_close(step["vsm"], scores[:2].mean(), atol=0.02, rtol=0)
    collection.update(PREDS[2:], TARGET[2:], preds_mask=MASK[2:])
    assert set(step) == {"psnr", "vsm"}
    torch.testing.assert_close(collection.compute()["vsm"], scores.mean(), atol=0.02, rtol=0)
    collection.clone(prefix="val_").reset()


def test_as_part_of_a_module_it_adds_nothing_to_checkpoints():
    module = torch.nn.Module()
    module.vsm = VisualSemanticMatching()
    module.vsm.update(PREDS[:1], TARGET[:1])
    assert module.state_dict() == {}
    assert not list(module.parameters())
    module.vsm.persistent(True)
    state = module.state_dict()
    assert set(state) == {"vsm.score_sum", "vsm.n_scored", "vsm.n_undefined"}
    other = torch.nn.Module()
    other.vsm = VisualSemanticMatching()
    other.vsm.persistent(True)
    other.load_state_dict(state)
    assert other.vsm.n_scored == 1


@pytest.mark.parametrize("by_name", [True, False])
def test_copies_share_the_weights_and_not_the_state(scorer, by_name):
    metric = VisualSemanticMatching("tiny" if by_name else scorer)
    metric.update(PREDS[:1], TARGET[:1])
    twin = copy.deepcopy(metric)
    metric.update(PREDS[:1], TARGET[:1])
    assert twin.scorer is metric.scorer
    assert (twin.n_scored, metric.n_scored) == (1, 2)


def test_it_declares_its_properties_to_torchmetrics():
    metric = VisualSemanticMatching()
    assert (metric.higher_is_better, metric.is_differentiable) == (True, False)
    assert metric.full_state_update is False
    assert (metric.plot_lower_bound, metric.plot_upper_bound) == (0.0, 1.0)
    figure, axis = metric.plot([torch.tensor(0.2), torch.tensor(0.9)])
    assert figure.axes == [axis]
    sum_of_both = metric + MeanMetric()
    assert sum_of_both is not None


def test_thresholds_apply_and_wrong_input_is_refused():
    assert VisualSemanticMatching(visual_threshold=1.0)(PREDS[:1], TARGET[:1]) == 0
    with pytest.raises(ValueError, match="visual_threshold"):
        VisualSemanticMatching(visual_threshold=2.0).update(PREDS, TARGET)
    metric = VisualSemanticMatching()
    with pytest.raises(InputError, match="clamp"):
        metric.update(PREDS * 2 - 1, TARGET)
    with pytest.raises(PairingError, match="4 generations with 3 references"):
        metric.update(PREDS, TARGET[:3])
    with pytest.raises(InputError, match="masks must be bool"):
        metric.update(PREDS, TARGET, MASK.float())
    assert metric.n_scored == 0
    with pytest.raises(ValueError, match="reduction"):
        VisualSemanticMatching(reduction="sum")
    with pytest.raises(ValueError, match="reduction"):
        visual_semantic_matching(PREDS, TARGET, reduction="median")


WORKER = """
import sys, warnings, torch
import torch.distributed as dist
from vsm_fast import VisualSemanticMatching

torch.set_num_threads(1)
rank, place = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=2)
generator = torch.Generator().manual_seed(0)
target = torch.rand(3, 3, 64, 64, generator=generator)
preds = 0.5 * target + 0.5 * torch.rand(3, 3, 64, 64, generator=generator)
mask = torch.ones(3, 64, 64, dtype=torch.bool)
mask[2] = False
mine = [slice(0, 1), slice(1, 3)][rank]
mean, single = VisualSemanticMatching(), VisualSemanticMatching(reduction="none")
for metric in (mean, single):
    metric.update(preds[mine], target[mine], mask[mine])
warnings.simplefilter("ignore")
print(mean.compute().item(), *sorted(single.compute().tolist()))
with mean.sync_context():
    print(mean.n_scored.item(), mean.n_undefined.item())
alone = VisualSemanticMatching(sync_on_compute=False, reduction="none")
alone.update(preds, target, mask)
print(*alone.compute().tolist())
dist.destroy_process_group()
"""


def test_two_processes_agree_on_one_result(tmp_path):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(rank), str(tmp_path / "meeting")],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=600)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert outputs[0] == outputs[1]
    together, counts, alone = (line.split() for line in outputs[0].splitlines())
    assert counts == ["2", "1"]
    scores = [float(score) for score in alone]
    assert float(together[0]) == pytest.approx((scores[0] + scores[1]) / 2, abs=0.01)
    found = [float(score) for score in together[1:]]
    assert sum(score != score for score in found) == 1
    defined = sorted(score for score in found if score == score)
    assert defined == pytest.approx(sorted(scores[:2]), abs=0.01)


def test_the_public_name_imports_lazily():
    assert "VisualSemanticMatching" in dir(vsm_fast)
    code = """
import sys
import vsm_fast
from vsm_fast import *
print({"torch", "torchmetrics"} & set(sys.modules))
sys.modules["torchmetrics"] = None
try:
    vsm_fast.VisualSemanticMatching
except ImportError as error:
    print(error)
"""
    loaded, error = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=600
    ).stdout.splitlines()
    assert "torchmetrics" not in loaded
    assert "pip install torchmetrics" in error
