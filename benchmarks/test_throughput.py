"""End-to-end throughput against the reference recipe, and memory of long runs.

    pytest benchmarks/test_throughput.py --benchmark-only

The recipe is linear in pairs and is timed on a sample, interleaved with the library. Speeds are
reported, not asserted.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from many_images import Batch, write_batch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.flops import operations_per_image
from benchmarks.reference_recipe import ReferenceRecipe, parts_of
from benchmarks.sd_shape import HALF, LEVELS, network_of, parts
from vsm_fast import VSMScorer
from vsm_fast.model.config import BackboneConfig, ModelConfig, Thresholds
from vsm_fast.model.load import find_model
from vsm_fast.runtimes.choose import LoadedModel
from vsm_fast.runtimes.torch_runtime import TorchRuntime

SAMPLE = 24  # pairs of the recipe per round
FLAT = 0.05  # tolerated growth of peak memory from 200 to 5,000 images


def _score(
    scorer: VSMScorer, batch: Batch, pairs: list[tuple[int, int]] | None = None
) -> np.ndarray:
    return scorer.score(
        batch.refs,
        batch.gens,
        pairs=batch.pairs if pairs is None else pairs,
        ref_masks=batch.ref_masks,
        gen_masks=batch.gen_masks,
    ).score


@pytest.mark.parametrize(("references", "each"), [(1, 200), (30, 4)], ids=["1x200", "30x4"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_pairs_per_second(
    benchmark: BenchmarkFixture,
    capsys: pytest.CaptureFixture[str],
    interleaved_times: Callable[..., dict[str, list[float]]],
    tmp_path: Path,
    dtype: str,
    references: int,
    each: int,
) -> None:
    """Compare the library with the recipe in the same precision, embedded model."""
    benchmark.group = f"throughput {references} x {each}"
    batch = write_batch(tmp_path, references, each)
    scorer = VSMScorer.from_pretrained("tiny", dtype=dtype, runtime="torch")
    recipe = ReferenceRecipe(*parts_of(find_model("tiny")), dtype=getattr(torch, dtype))
    sample = batch.pairs[:: len(batch.pairs) // SAMPLE][:SAMPLE]

    def run_recipe() -> list[float]:
        return [
            recipe.score(
                (batch.refs[ref], batch.ref_masks[ref]), (batch.gens[gen], batch.gen_masks[gen])
            )
            for ref, gen in sample
        ]

    if dtype == "float32":  # in 16 bits both round differently
        _check_same(run_recipe(), _score(scorer, batch, sample))
    seconds = benchmark.pedantic(
        interleaved_times,
        args=({"recipe": run_recipe, "vsm_fast": lambda: _score(scorer, batch)},),
        kwargs={"rounds": 3, "warmup": 1},
        rounds=1,
    )
    rates = {
        "recipe": [len(sample) / time for time in seconds["recipe"]],
        "vsm_fast": [len(batch.pairs) / time for time in seconds["vsm_fast"]],
    }
    ratio = statistics.median(
        ours / theirs for ours, theirs in zip(rates["vsm_fast"], rates["recipe"], strict=True)
    )
    found = {name: statistics.median(values) for name, values in rates.items()}
    benchmark.extra_info.update(ratio=ratio, pairs_per_second=found)
    with capsys.disabled():
        print(
            f"\n{references} x {each}, {dtype}, {torch.get_num_threads()} threads: "
            f"{found['vsm_fast']:.1f} pairs/s against {found['recipe']:.1f}, {ratio:.2f} times"
        )


def test_a_half_width_sd_shape(
    benchmark: BenchmarkFixture,
    capsys: pytest.CaptureFixture[str],
    interleaved_times: Callable[..., dict[str, list[float]]],
    tmp_path: Path,
) -> None:
    """Compare the library with the recipe at half of SD 2.1's widths, 384 pixels."""
    benchmark.group = "throughput, half-width SD shape"
    torch.manual_seed(0)
    made = parts(HALF)
    config = ModelConfig(
        "half-width SD shape",
        BackboneConfig(LEVELS, 384, 261.0),
        made.semantic.config,
        Thresholds(semantic=-1.0, visual=0.9),
    )
    recipe = ReferenceRecipe(config, made)
    network = network_of(made)
    network.backbone.fold(384)  # type: ignore[operator]
    operations = operations_per_image(network, 384)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    scorer = VSMScorer(LoadedModel(config, TorchRuntime(network)))
    batch = write_batch(tmp_path, 1, 8)

    def run_recipe() -> list[float]:
        return [
            recipe.score(
                (batch.refs[ref], batch.ref_masks[ref]), (batch.gens[gen], batch.gen_masks[gen])
            )
            for ref, gen in batch.pairs[:2]
        ]

    seconds = benchmark.pedantic(
        interleaved_times,
        args=({"recipe": run_recipe, "vsm_fast": lambda: _score(scorer, batch)},),
        kwargs={"rounds": 3, "warmup": 1},
        rounds=1,
    )
    np.testing.assert_allclose(run_recipe(), _score(scorer, batch)[:2], atol=0.02)
    rates = {"recipe": 2 / statistics.median(seconds["recipe"])}
    rates["vsm_fast"] = len(batch.pairs) / statistics.median(seconds["vsm_fast"])
    ratio = rates["vsm_fast"] / rates["recipe"]
    achieved = rates["vsm_fast"] * (1 + 1 / len(batch.pairs)) * operations
    benchmark.extra_info.update(ratio=ratio, pairs_per_second=rates, flops=achieved)
    with capsys.disabled():
        print(
            f"\nhalf-width SD shape at 384, 1 x 8: {rates['vsm_fast']:.2f} pairs/s against "
            f"{rates['recipe']:.2f}, {ratio:.2f} times; {operations / 1e9:.0f} GFLOP per image, "
            f"{achieved / 1e9:.0f} GFLOP/s"
        )


def _check_same(recipe: list[float], ours: np.ndarray) -> None:
    """Check equality, except for points with a similarity at a threshold."""
    distance = np.abs(np.array(recipe) - ours)
    assert np.median(distance) == 0, f"scores differ: {distance}"
    assert distance.max() <= 0.01, f"scores differ by up to {distance.max()}"


_LONG_RUN = """
import sys
from pathlib import Path
import torch
from memory import peak_of_process_mib
from vsm_fast import VSMScorer

torch.set_num_threads(1)
model, folder, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
gens = [folder / f"{n:04}.png" for n in range(count)]
scores = VSMScorer.from_pretrained(model, device="cpu").score([gens[0]], gens, heatmaps=True)
assert len(scores) == count and (scores.status == "ok").all()
print(peak_of_process_mib())
"""


def test_memory_is_independent_of_the_number_of_images(
    benchmark: BenchmarkFixture, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Compare peak memory of scoring 200 and 5,000 images with a small random model."""
    benchmark.group = "memory"
    from PIL import Image
    from tiny_models import aggregation_pair, config_of, pixel_unet, write_folder

    write_folder(tmp_path / "model", config_of(), pixel_unet(), *aggregation_pair((24, 8)))
    rng = np.random.default_rng(0)
    for number in range(20):
        pixels = rng.integers(0, 256, (96, 96, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number:04}.png")
    for number in range(20, 5000):
        (tmp_path / f"{number:04}.png").hardlink_to(tmp_path / f"{number % 20:04}.png")

    def peak(count: int) -> float:
        command = [sys.executable, "-c", _LONG_RUN, str(tmp_path / "model"), str(tmp_path)]
        done = subprocess.run(
            [*command, str(count)],
            check=True,
            capture_output=True,
            text=True,
            cwd=Path(__file__).parent,
        )
        return float(done.stdout)

    short = peak(200)
    long = benchmark.pedantic(peak, args=(5000,), rounds=1)
    benchmark.extra_info.update(mib_200=short, mib_5000=long)
    with capsys.disabled():
        print(f"\npeak memory: {short:.0f} MiB for 200 images, {long:.0f} for 5,000")
    assert long <= short * (1 + FLAT)
