"""Torch's global switches change no bit of a result."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import vsm_fast
import vsm_fast.scorer
from vsm_fast import VSMScorer, VSMScores
from vsm_fast.descriptors import Descriptors
from vsm_fast.integrations.metric import VisualSemanticMatching
from vsm_fast.integrations.rewards import VSMReward
from vsm_fast.matching.match import match
from vsm_fast.torch_state import pinned

EXAMPLES = Path(__file__).parents[1] / "examples"
REF = EXAMPLES / "refs/bear_plushie/reference.jpg"
GENS = [EXAMPLES / "gens/bear_plushie/repainted.jpg"]
MASKS = {
    "ref_masks": [REF.with_name("reference_mask.png")],
    "gen_masks": [gen.with_name(f"{gen.stem}_mask.png") for gen in GENS],
}


@contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def generic_precision(name: str) -> Iterator[None]:
    if not hasattr(torch.backends, "fp32_precision"):
        pytest.skip("this torch has no torch.backends.fp32_precision")
    torch.backends.fp32_precision = name
    try:
        yield
    finally:
        torch.backends.fp32_precision = "none"


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def default_device(name: str) -> Iterator[None]:
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def every_switch() -> Iterator[None]:
    with ExitStack() as stack:
        for name, switch in SWITCHES.items():
            if name != "all":
                stack.enter_context(switch())
        yield


SWITCHES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "autocast": partial(torch.autocast, "cpu", torch.bfloat16),
    "medium": partial(matmul_precision, "medium"),
    "high": partial(matmul_precision, "high"),
    "bf16": partial(generic_precision, "bf16"),
    "float64": partial(default_dtype, torch.float64),
    "meta": partial(default_device, "meta"),
    "inference": torch.inference_mode,
    "all": every_switch,
}


def tensor_of(path: Path) -> Tensor:
    pixels = np.array(Image.open(path).convert("RGB").resize((128, 128)))
    return torch.from_numpy(pixels).permute(2, 0, 1) / 255


REF_TENSOR, GEN_TENSORS = tensor_of(REF)[None], torch.stack([tensor_of(gen) for gen in GENS])


def of_scores(scores: VSMScores) -> list[Any]:
    return [scores.score, scores.visual_similarity, scores.n_matched]


def of_descriptors(described: Descriptors) -> list[Any]:
    return [described.semantic, described.visual, described.offsets, described.cells]


def by_score_batch(_: VSMScorer, tmp_path: Path) -> list[Any]:
    vsm_fast.scorer._scorer.cache_clear()
    return of_scores(vsm_fast.score_batch([REF], GENS, **MASKS))


def by_scorer(scorer: VSMScorer, tmp_path: Path) -> list[Any]:
    return of_scores(scorer.score([REF], GENS, **MASKS))


def by_described(scorer: VSMScorer, tmp_path: Path) -> list[Any]:
    references = scorer.describe([REF], MASKS["ref_masks"], on_error="record")
    again = scorer.describe([REF], MASKS["ref_masks"])
    both = Descriptors.cat([references, again])
    return of_descriptors(both) + of_scores(scorer.score(references, GENS))


def by_cache(_: VSMScorer, tmp_path: Path) -> list[Any]:
    found = []
    for _ in ("cold", "warm"):
        scorer = VSMScorer.from_pretrained("tiny", device="cpu", cache=tmp_path / "kept")
        found += of_scores(scorer.score([REF], GENS, **MASKS))
    return [*found, *map(Path.read_bytes, sorted(tmp_path.glob("kept/??/*.safetensors")))]


def by_tensors(scorer: VSMScorer, tmp_path: Path) -> list[Any]:
    return of_descriptors(scorer.describe_tensors(GEN_TENSORS))


def by_reward(scorer: VSMScorer, tmp_path: Path) -> list[Any]:
    return [VSMReward(scorer, [REF_TENSOR[0]])(GEN_TENSORS, reference=[0])]


def by_metric(scorer: VSMScorer, tmp_path: Path) -> list[Any]:
    metric = VisualSemanticMatching(scorer, reduction="none")
    # Copied, because TorchMetrics clones its results in the caller's state.
    return [value.numpy().copy() for value in (metric(GEN_TENSORS, REF_TENSOR), metric.score_sum)]


def by_match(scorer: VSMScorer, tmp_path: Path) -> list[Any]:
    source, target = scorer.describe(GENS), scorer.describe([REF])
    matches = match(source, target, torch.zeros(1, 2, dtype=torch.int64, device="cpu"), 0.5)
    return [matches.semantic_similarity, matches.target_index, matches.kept]


ENTRIES = [
    by_score_batch, by_scorer, by_described, by_cache, by_tensors, by_reward, by_metric, by_match
]  # fmt: skip


@pytest.fixture(scope="module")
def scorer() -> VSMScorer:
    return VSMScorer.from_pretrained("tiny", device="cpu")


@pytest.fixture(scope="module")
def plain(scorer: VSMScorer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """The results without any switch, by the name of the entry."""
    return {
        entry.__name__: entry(scorer, tmp_path_factory.mktemp(entry.__name__)) for entry in ENTRIES
    }


def check_same_bits(found: list[Any], wanted: list[Any]) -> None:
    assert len(found) == len(wanted)
    for mine, theirs in zip(found, wanted, strict=True):
        if isinstance(mine, bytes):
            assert mine == theirs
            continue
        assert mine.dtype == theirs.dtype
        if isinstance(mine, Tensor):
            assert mine.device.type == "cpu"
            assert not mine.is_inference(), "unusable with gradients"
            mine, theirs = mine.numpy(), theirs.numpy()
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.__name__)
@pytest.mark.parametrize("switch", SWITCHES)
def test_switches_change_no_bit(
    scorer: VSMScorer, plain: dict[str, list[Any]], switch: str, entry: Any, tmp_path: Path
) -> None:
    with SWITCHES[switch]():
        found = entry(scorer, tmp_path)
    check_same_bits(found, plain[entry.__name__])


def test_a_scorer_is_the_same_wherever_it_was_loaded(
    plain: dict[str, list[Any]], tmp_path: Path
) -> None:
    with every_switch():
        loaded = VSMScorer.from_pretrained("tiny", device="cpu")
    for entry in (by_described, by_tensors):
        check_same_bits(entry(loaded, tmp_path), plain[entry.__name__])
    weights = [*loaded.network.parameters(), *loaded.network.buffers()]
    assert {weight.dtype for weight in weights} == {torch.float32}
    assert not any(weight.is_inference() for weight in weights)


def test_exported_networks_are_closed_too(small_export: Path, tmp_path: Path) -> None:
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def found() -> list[Any]:
        scorer = VSMScorer.from_pretrained(small_export, device="cpu")
        return [*by_tensors(scorer, tmp_path), *scorer.runtime(images)]

    wanted = found()
    with every_switch():
        check_same_bits(found(), wanted)


def test_deterministic_mode_is_closed_too(
    scorer: VSMScorer, poisoned_memory: None, tmp_path: Path
) -> None:
    wanted = by_scorer(scorer, tmp_path)
    with every_switch():
        check_same_bits(by_scorer(scorer, tmp_path), wanted)


def test_a_metric_reset_in_inference_mode_is_updated_outside_of_it(scorer: VSMScorer) -> None:
    metric = VisualSemanticMatching(scorer)
    with torch.inference_mode():
        metric.update(GEN_TENSORS, REF_TENSOR)
        metric.reset()
    metric.update(GEN_TENSORS, REF_TENSOR)
    assert metric.compute() == VisualSemanticMatching(scorer)(GEN_TENSORS, REF_TENSOR)


def ambient_state() -> list[Any]:
    """Return the state that SWITCHES change."""
    names = [(torch.backends.cudnn, "allow_tf32"), (torch.backends, "fp32_precision")]
    for library in (torch.backends.cuda, torch.backends.mkldnn, torch.backends.cudnn):
        for operation in ("matmul", "conv", "rnn"):
            names.append((getattr(library, operation, None), "fp32_precision"))
    found: list[Any] = []
    for owner, name in names:
        try:
            found.append(getattr(owner, name, None))
        except RuntimeError:
            found.append("contradicts another name")
    with suppress(RuntimeError):
        found.append(torch.get_float32_matmul_precision())
    found += [torch.get_default_dtype(), torch.empty(0).device, torch.is_grad_enabled()]
    return [*found, torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")]


@pytest.mark.parametrize("switch", SWITCHES)
def test_the_state_is_restored_also_after_an_error(scorer: VSMScorer, switch: str) -> None:
    with SWITCHES[switch]():
        before = ambient_state()
        with pinned():
            inside = ambient_state()
            with pinned():
                assert ambient_state() == inside
        assert ambient_state() == before
        with pytest.raises(vsm_fast.InputError):
            scorer.describe([EXAMPLES / "CREDITS.md"])
        assert ambient_state() == before
    with pinned():
        assert ambient_state() == inside, "pinned is the same state everywhere"


def test_the_consumer_of_a_generator_keeps_its_own_state(scorer: VSMScorer) -> None:
    with every_switch():
        before = ambient_state()
        for _ in scorer._describer.batches(GENS * 2, [None, None], 1, "raise"):
            assert ambient_state() == before
        assert ambient_state() == before


def test_the_last_thread_restores_process_wide_switches() -> None:
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with pinned():
            entered.set()
            leave.wait()

    with matmul_precision("medium"):
        thread = threading.Thread(target=other)
        thread.start()
        entered.wait()
        try:
            with pinned():
                assert torch.get_float32_matmul_precision() == "highest"
            assert torch.get_float32_matmul_precision() == "highest", "another thread is inside"
            torch.set_float32_matmul_precision("high")
            with pinned():
                assert torch.get_float32_matmul_precision() == "highest"
        finally:
            leave.set()
            thread.join()
        assert torch.get_float32_matmul_precision() == "high", "set last"
