"""Reference recipe: a plain implementation of the method, the baseline for throughput.

Unmodified diffusers modules (whole UNet and VAE, time step and prompt embedded per call), levels
resized before projection, both images decoded and described per pair, pairs in sequence, full
similarity matrices. The benchmarks first check that its scores equal the library's.

Source: arXiv 2509.21989, the VSM metric.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsm_fast.images.subjects import prepare_subject
from vsm_fast.model.aggregation import AggregationNetwork
from vsm_fast.model.config import ModelConfig
from vsm_fast.model.load import build_network, read_config
from vsm_fast.model.pixel_statistics import LEVEL as PIXELS
from vsm_fast.model.pixel_statistics import PixelStatistics

Picture = tuple[Any, Any]  # image and subject mask, as for VSMScorer.score


@contextmanager
def level_outputs(unet: Any) -> Iterator[dict[str, Tensor]]:
    """Yield the levels of a diffusers UNet by name, filled by hooks during its forward pass."""
    levels: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            levels[name] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = []
    for block in unet.up_blocks:
        for layer, resnet in enumerate(block.resnets):
            module = resnet
            if getattr(block, "attentions", None) is not None:
                module = block.attentions[layer]
            if layer + 1 == len(block.resnets) and block.upsamplers is not None:
                module = block.upsamplers[-1]
            handles.append(module.register_forward_hook(keep(f"us{len(handles) + 1}")))
    try:
        yield levels
    finally:
        for handle in handles:
            handle.remove()


@dataclass
class Parts:
    """Unmodified networks of a model.

    Attributes:
        unet: diffusers UNet.
        vae: diffusers ``AutoencoderKL``, or None.
        conditioning: Constant inputs of the UNet by name.
        semantic, visual: Aggregation networks.
    """

    unet: Any
    vae: Any
    conditioning: Mapping[str, Tensor]
    semantic: AggregationNetwork
    visual: AggregationNetwork


def parts_of(folder: Path) -> tuple[ModelConfig, Parts]:
    """Load a model folder with a pixel-space UNet through diffusers."""
    from diffusers import UNet2DModel

    config = read_config(folder)
    network = build_network(config, folder)
    unet = UNet2DModel.from_pretrained(folder / "unet", low_cpu_mem_usage=False)
    return config, Parts(unet, None, {}, network.semantic, network.visual)


class ReferenceRecipe:
    """Scorer of one pair at a time.

    Args:
        config: Configuration of the model.
        parts: Networks of the model; copied.
        device: Device of the networks.
        dtype: Precision of the networks.
    """

    def __init__(
        self,
        config: ModelConfig,
        parts: Parts,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.config, self.device, self.dtype = config, torch.device(device), dtype
        move = {"device": self.device, "dtype": dtype}
        self.unet, self.semantic, self.visual = (
            copy.deepcopy(part).eval().requires_grad_(False).to(**move)
            for part in (parts.unet, parts.semantic, parts.visual)
        )
        self.vae = None if parts.vae is None else copy.deepcopy(parts.vae).eval().to(**move)
        self.conditioning = {name: t.to(**move) for name, t in parts.conditioning.items()}
        self.statistics = PixelStatistics()

    @torch.inference_mode()
    def score(self, reference: Picture, generation: Picture) -> float:
        """Return the VSM of one pair at the model's thresholds; NaN if no point matches."""
        target, source = self._describe(*reference), self._describe(*generation)
        thresholds = self.config.thresholds
        semantic, nearest = _similarities(source[0], target[0]).max(dim=1)
        visual = _similarities(source[1], target[1]).amax(dim=1)
        holder: dict[int, int] = {}
        best = semantic.tolist()
        for point, target_point in enumerate(nearest.tolist()):
            if best[point] > thresholds.semantic and (
                target_point not in holder or best[point] > best[holder[target_point]]
            ):
                holder[target_point] = point
        if not holder:
            return math.nan
        passed = visual[list(holder.values())] > thresholds.visual
        return float(passed.float().mean())

    def _describe(self, image: Any, mask: Any) -> tuple[Tensor, Tensor]:
        """Return semantic and visual descriptors of the subject, [points, D] each."""
        subject = prepare_subject(image, mask, "image", self.config)
        assert subject.pixels is not None, subject.reason
        assert subject.cell_mask is not None
        cells = torch.from_numpy(subject.cell_mask).flatten().to(self.device)
        levels = self.levels(subject.pixels[None].to(self.device, self.dtype))
        maps = (self._aggregate(network, levels) for network in (self.semantic, self.visual))
        semantic, visual = (grid[0].flatten(1).T[cells] for grid in maps)
        return semantic, visual

    def levels(self, images: Tensor) -> list[Tensor]:
        """Return the model's levels of images, float [1, 3, R, R] in [-1, 1]."""
        backbone = self.config.backbone
        if self.vae is None:
            sample = F.pixel_unshuffle(images, backbone.pixel_unshuffle)
        else:
            sample = self.vae.encode(images).latent_dist.mode() * backbone.latent_scale
        timestep = torch.full((1,), backbone.timestep, device=self.device)
        with level_outputs(self.unet) as found:
            self.unet(sample, timestep, **self.conditioning)
        found[PIXELS] = self.statistics(images)
        return [found[name] for name in backbone.levels]

    @staticmethod
    def _aggregate(network: AggregationNetwork, levels: Sequence[Tensor]) -> Tensor:
        total = torch.zeros(())
        for layer, level, weight in zip(
            network.bottleneck_layers, levels, network.mixing(), strict=True
        ):
            block: Any = layer[0]  # type: ignore[index]
            x = F.interpolate(level, size=network.config.grid, mode="bilinear")
            y = F.relu(block.conv1(x))
            y = block.conv3(F.relu(block.conv2(y)))
            y = F.relu(y + (x if block.shortcut is None else block.shortcut(x)))
            total = total.to(y) + weight.to(y) * y
        return F.normalize(total, dim=1)


def _similarities(source: Tensor, target: Tensor) -> Tensor:
    return F.normalize(source, dim=1) @ F.normalize(target, dim=1).T
