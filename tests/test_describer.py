"""What a batch can meet: NaN, which is never silent, and memory that does not hold it."""

import copy
import logging
import math

import pytest
import tiny_models
import torch
from subject_views import scorer_of, subject_image

from vsm_fast import ModelError
from vsm_fast.runtimes.choose import LoadedModel
from vsm_fast.runtimes.torch_runtime import TorchRuntime
from vsm_fast.scorer import VSMScorer

one_thread = tiny_models.one_thread


class _Overflowing(TorchRuntime):
    """Gives NaN for batches of bright images, as float16 does where it overflows."""

    name, precision = "onnxruntime", "float16"

    def __init__(self, network):
        super().__init__(network)
        self.precision = "float16"

    def __call__(self, images):
        semantic, visual = super().__call__(images)
        return semantic, visual * math.nan if images.mean() > 0 else visual


def _images():
    dark, bright = (subject_image(seed)[0] // 4 + shift for seed, shift in ((1, 0), (2, 190)))
    return [dark, bright, bright]


def test_batches_with_nan_are_computed_in_float32_and_counted(caplog):
    plain = scorer_of()
    loads = []

    def in_float32():
        loads.append(1)
        return plain.runtime

    scorer = VSMScorer(LoadedModel(plain.config, _Overflowing(plain.network), in_float32))
    with caplog.at_level(logging.WARNING):
        found = scorer.describe(_images(), batch_size=1)
    wanted = plain.describe(_images(), batch_size=1)
    assert torch.equal(found.visual, wanted.visual)
    assert (scorer.recomputed, len(loads)) == (2, 1)
    assert caplog.text.count("affected batches are recomputed") == 1


def test_nan_without_a_way_out_is_an_error():
    plain = scorer_of()
    for in_float32 in (None, lambda: _Overflowing(plain.network)):
        scorer = VSMScorer(LoadedModel(plain.config, _Overflowing(plain.network), in_float32))
        with pytest.raises(ModelError, match="NaN or Inf descriptors in float16"):
            scorer.describe(_images())
        assert scorer.recomputed == 0


def _fresh_scorer():
    """One that no test has halved yet."""
    plain = scorer_of()
    return VSMScorer(LoadedModel(plain.config, TorchRuntime(copy.deepcopy(plain.network))))


def _cuda_is_full():
    raise torch.OutOfMemoryError("CUDA out of memory.")


def _python_has_none():
    raise MemoryError


def _the_machine_has_none():
    torch.empty(1 << 50)  # refused by the system itself, as a RuntimeError


@pytest.mark.parametrize("fail", [_cuda_is_full, _python_has_none, _the_machine_has_none])
def test_a_batch_that_does_not_fit_is_halved_and_stays_halved(fail, monkeypatch, caplog):
    scorer = _fresh_scorer()
    images = [subject_image(seed)[0] for seed in range(7)]
    wanted = scorer.describe(images, batch_size=7)
    plain, sizes = scorer.network.forward, []

    def forward(batch):
        sizes.append(len(batch))
        if len(batch) > 2:
            fail()
        return plain(batch)

    monkeypatch.setattr(scorer.network, "forward", forward)
    found = scorer.describe(images, batch_size=7)
    assert sizes == [7, 3, 1, 1, 1, 1, 1, 1, 1]
    torch.testing.assert_close(found.visual, wanted.visual, atol=1e-5, rtol=1e-5)
    assert "a batch of 7 images exceeds the memory" in caplog.text
    sizes.clear()
    scorer.describe(images[:2])
    assert sizes == [1, 1]


@pytest.mark.parametrize(
    ("error", "wanted"), [(torch.OutOfMemoryError(), [2, 1]), (RuntimeError("a bug"), [2])]
)
def test_one_image_that_does_not_fit_is_an_error_as_is_anything_else(error, wanted, monkeypatch):
    scorer, sizes = _fresh_scorer(), []

    def forward(batch):
        sizes.append(len(batch))
        raise error

    monkeypatch.setattr(scorer.network, "forward", forward)
    with pytest.raises(type(error)):
        scorer.describe(_images()[:2])
    assert sizes == wanted
