"""Gain of a fused GroupNorm and SiLU on a GPU, and an upper bound for fusing the mixing.

    pytest benchmarks/test_group_norm.py --benchmark-only

In bfloat16. The kernel joins the package if the VAE's encoder is at least 5 % faster with it in
channels-last memory than with torch in the better of the two layouts.
"""

from __future__ import annotations

import statistics
import types
from collections.abc import Callable, Mapping

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

from vsm_fast.model.aggregation import AggregationNetwork
from vsm_fast.model.config import AggregationConfig
from vsm_fast.model.folding import ResidualBlock, save_memory

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

DEVICE, DTYPE = "cuda", torch.bfloat16
SIDE, BATCH, ROUNDS = 768, 8, 20
WIDTHS = (128, 256, 512, 512)
# Channels and side of the levels us4, us8 and us10 of SD 2.1 at 768 pixels.
LEVELS = ((1280, 24), (640, 48), (320, 96))
Times = Callable[..., dict[str, list[float]]]


def synchronised(run: Callable[[], object]) -> Callable[[], None]:
    def wait() -> None:
        run()
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    return wait


def medians(
    benchmark: BenchmarkFixture, times: Times, contestants: Mapping[str, Callable[[], object]]
) -> dict[str, float]:
    """Return milliseconds of each contestant, interleaved."""
    seconds = benchmark.pedantic(
        times,
        args=({name: synchronised(run) for name, run in contestants.items()},),
        kwargs={"rounds": ROUNDS, "warmup": 5},
        rounds=1,
    )
    found = {name: 1e3 * statistics.median(values) for name, values in seconds.items()}
    benchmark.extra_info.update(found)
    return found


def show(capsys: pytest.CaptureFixture[str], title: str, found: Mapping[str, float]) -> None:
    with capsys.disabled():
        print(f"\n{title}: " + ", ".join(f"{name} {ms:.3f} ms" for name, ms in found.items()))


@pytest.mark.parametrize(
    ("channels", "shrunk"), [(128, 1), (256, 2), (512, 4), (512, 8), (320, 8), (1280, 32)]
)
def test_one_tensor(
    benchmark: BenchmarkFixture,
    capsys: pytest.CaptureFixture[str],
    interleaved_times: Times,
    channels: int,
    shrunk: int,
) -> None:
    """Report every shape of the VAE's encoder and two of the UNet's, against a copy."""
    from benchmarks.group_norm_kernel import GroupNormTiles, group_norm

    side = SIDE // shrunk
    x = torch.randn(BATCH, channels, side, side, device=DEVICE, dtype=DTYPE)
    last = x.contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(2, channels, device=DEVICE, dtype=DTYPE)

    def eager(tensor: Tensor) -> Tensor:
        return F.silu(F.group_norm(tensor, 32, weight, bias), inplace=True)

    def fused(tiles: GroupNormTiles) -> Callable[[], Tensor]:
        return lambda: group_norm(last, 32, weight, bias, activation="silu", tiles=tiles)

    tried = [(64, 64, 4), (32, 128, 4), (64, 128, 8), (32, 64, 2), (128, 64, 8)]
    contestants = {
        "torch": lambda: eager(x),
        "torch channels-last": lambda: eager(last),
        "copy": lambda: x.clone(),
        **{f"fused {tiles}": fused(GroupNormTiles(*tiles)) for tiles in tried},
    }
    found = medians(benchmark, interleaved_times, contestants)
    show(capsys, f"{BATCH} x {channels} x {side}^2, at best 1.5 copies", found)


def _fused_block(block: ResidualBlock, input_tensor: Tensor, temb: Tensor | None = None) -> Tensor:
    """Run ``ResidualBlock.forward`` of a VAE with the kernel."""
    from benchmarks.group_norm_kernel import group_norm

    hidden = input_tensor
    for norm, conv in ((block.norm1, block.conv1), (block.norm2, block.conv2)):
        affine = norm.num_groups, norm.weight, norm.bias, norm.eps
        hidden = conv(group_norm(hidden, *affine, activation="silu"))
    if block.conv_shortcut is not None:
        input_tensor = block.conv_shortcut(input_tensor)
    hidden += input_tensor
    return hidden


def _encoder(*, last: bool, fused: bool) -> nn.Module:
    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=WIDTHS,
        layers_per_block=2,
        latent_channels=4,
    )
    save_memory(vae.encoder)
    encoder: nn.Module = vae.encoder.to(DEVICE, DTYPE).eval()
    if last:
        encoder = encoder.to(memory_format=torch.channels_last)
    for block in encoder.modules() if fused else ():
        if isinstance(block, ResidualBlock):
            block.forward = types.MethodType(_fused_block, block)  # type: ignore[method-assign]
    return encoder


def test_the_vae_encoder(
    benchmark: BenchmarkFixture, capsys: pytest.CaptureFixture[str], interleaved_times: Times
) -> None:
    """Compare torch in both layouts with the kernel, after checking its values."""
    images = torch.randn(BATCH, 3, SIDE, SIDE, device=DEVICE, dtype=DTYPE)
    encoders = {
        "torch": _encoder(last=False, fused=False),
        "torch channels-last": _encoder(last=True, fused=False),
        "fused": _encoder(last=True, fused=True),
    }
    inputs = {
        name: images.contiguous(
            memory_format=torch.contiguous_format if name == "torch" else torch.channels_last
        )
        for name in encoders
    }
    wanted, same, mine = (encoders[name](inputs[name]).float() for name in encoders)
    rounding = (same - wanted).abs().max()
    assert (mine - wanted).abs().max() <= 4 * rounding + 0.05 * wanted.abs().max()
    runs = {name: lambda name=name: encoders[name](inputs[name]) for name in encoders}
    found = medians(benchmark, interleaved_times, runs)
    show(capsys, f"VAE encoder, batch {BATCH} at {SIDE}", found)
    gain = min(found["torch"], found["torch channels-last"]) / found["fused"]
    benchmark.extra_info["gain"] = gain
    with capsys.disabled():
        print(f"gain {gain:.3f}: {'adopt' if gain >= 1.05 else 'delete'}")


def test_upper_bound_of_fusing_the_mixing(
    benchmark: BenchmarkFixture, capsys: pytest.CaptureFixture[str], interleaved_times: Times
) -> None:
    """Compare one network's tail (resize to L2) with the memory traffic of a fused one.

    A fused tail of three levels reads two tensors per level twice and writes one: 13 tensors; a
    copy moves two. By its traffic it would gain 0.06 ms of about 11 per image for both networks,
    so it does not exist.
    """
    config = AggregationConfig()
    network = AggregationNetwork([c for c, _ in LEVELS], config).to(DEVICE, DTYPE).eval()
    levels = [torch.randn(BATCH, c, side, side, device=DEVICE, dtype=DTYPE) for c, side in LEVELS]
    shape = (BATCH, config.descriptor_channels, *config.grid)
    outputs = [torch.randn(shape, device=DEVICE, dtype=DTYPE) for _ in LEVELS]
    sides = [min(side, config.grid[0]) for _, side in LEVELS]  # larger levels are resized first
    narrow = [torch.randn(BATCH, shape[1], s, s, device=DEVICE, dtype=DTYPE) for s in sides]
    weight, bias = torch.randn(2, shape[1], device=DEVICE, dtype=DTYPE)

    def tail() -> Tensor:
        total = torch.zeros(shape, device=DEVICE, dtype=DTYPE)
        for output, shortcut, mixing in zip(outputs, narrow, network.mixing(), strict=True):
            x = F.group_norm(output, config.groups, weight, bias)
            if shortcut.shape != output.shape:
                shortcut = F.interpolate(shortcut, size=config.grid, mode="bilinear")
            x += F.group_norm(shortcut, config.groups, weight, bias)
            total.addcmul_(F.relu(x, inplace=True), mixing)
        return F.normalize(total.float(), dim=1)

    def copies() -> None:
        for _ in range(7):
            outputs[0].clone()

    contestants = {"network": lambda: network(levels), "tail": tail, "fused at best": copies}
    found = medians(benchmark, interleaved_times, contestants)
    show(capsys, f"one aggregation network, batch {BATCH}", found)
