"""In place of the lpips package, which needs torchvision, of which there is no CPU build here.

So the tests show that the wrapper prepares its images, calls and fails as it should, and nothing
of LPIPS itself. ``LPIPS`` takes the arguments that lpips 0.1.4 takes; its distance is the mean
absolute difference, so that the expected values can be written down.
"""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch


class StandInLPIPS(torch.nn.Module):
    """Keeps the images that it saw last."""

    def __init__(self, pretrained=True, net="alex", version="0.1", lpips=True, verbose=True):
        super().__init__()
        assert (pretrained, net, version, lpips) == (True, "alex", "0.1", True)
        assert not verbose  # it would print on every start
        self.seen = None

    def forward(self, in0, in1, retPerLayer=False, normalize=False):
        assert not normalize
        self.seen = (in0, in1)
        return (in0 - in1).abs().mean(dim=(1, 2, 3), keepdim=True)


@pytest.fixture
def lpips(monkeypatch):
    """The stand-in at the place where ``import lpips`` finds it."""
    module = ModuleType("lpips")
    module.LPIPS = StandInLPIPS
    monkeypatch.setitem(sys.modules, "lpips", module)
    return module
