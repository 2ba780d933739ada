"""NaN is never silent: what a low precision cannot compute is computed in float32, and counted."""

import logging
import math

import pytest
import torch
from subject_views import scorer_of, subject_image

from vsm_fast import ModelError
from vsm_fast.runtimes.loading import LoadedModel
from vsm_fast.runtimes.torch_runtime import TorchRuntime
from vsm_fast.scorer import VSMScorer


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
    assert caplog.text.count("computed again in float32") == 1


def test_nan_without_a_way_out_is_an_error():
    plain = scorer_of()
    for in_float32 in (None, lambda: _Overflowing(plain.network)):
        scorer = VSMScorer(LoadedModel(plain.config, _Overflowing(plain.network), in_float32))
        with pytest.raises(ModelError, match="NaN or Inf descriptors in float16"):
            scorer.describe(_images())
        assert scorer.recomputed == 0
