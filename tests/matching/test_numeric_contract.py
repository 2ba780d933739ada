"""Scores are independent of batches, neighbours, padding, streams and threads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_models
from hypothesis import given, settings
from hypothesis import strategies as st
from subject_views import subject_image
from tiny_models import aggregation_pair, config_of, pixel_unet, write_folder

import vsm_fast
from vsm_fast import VSMScorer, VSMScores

one_thread = tiny_models.one_thread
CONTRACT = 1e-5
COUNT = 70  # images, so that there are batches of 64
IMAGES, MASKS = (list(part) for part in zip(*map(subject_image, range(COUNT)), strict=True))
REFERENCE = {"refs": IMAGES[:1], "ref_masks": MASKS[:1], "semantic_threshold": -1.0}
BROKEN = np.zeros((4, 4, 7), np.uint8)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("contract") / "model"
    write_folder(folder, config_of(), pixel_unet(), *aggregation_pair((24, 8)))
    return folder


@pytest.fixture(scope="module")
def scorer(model: Path) -> VSMScorer:
    return VSMScorer.from_pretrained(model, device="cpu")


@pytest.fixture(scope="module")
def alone(scorer: VSMScorer) -> VSMScores:
    """Every image by itself."""
    found = scorer.score(gens=IMAGES, gen_masks=MASKS, batch_size=1, **REFERENCE)
    # A threshold between similarities: else a last bit decides for a whole point.
    values = np.sort(found.visual_similarity)
    middle = values[len(values) // 4 : 3 * len(values) // 4]
    widest = int(np.diff(middle).argmax())
    assert middle[widest + 1] - middle[widest] > 4 * CONTRACT
    threshold = float(middle[widest : widest + 2].mean())
    return scorer.score(
        gens=IMAGES, gen_masks=MASKS, batch_size=1, visual_threshold=threshold, **REFERENCE
    )


def check(found: VSMScores, alone: VSMScores, chosen: list[int]) -> None:
    """Rows of ``found`` are those of the chosen images alone."""
    for row, image in enumerate(chosen):
        one, wanted = found[row], alone[image]
        assert (one.n_matched, one.n_source) == (wanted.n_matched, wanted.n_source)
        assert abs(one.score - wanted.score) <= CONTRACT
        apart = np.abs(one.visual_similarity - wanted.visual_similarity)
        assert apart.max(initial=0) <= CONTRACT


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    batch_size=st.integers(1, 64),
    chosen=st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=COUNT),
    broken=st.lists(st.integers(0, COUNT), max_size=3),
)
def test_batch_size_order_and_neighbours(
    scorer: VSMScorer, alone: VSMScores, batch_size: int, chosen: list[int], broken: list[int]
) -> None:
    gens = [IMAGES[image] for image in chosen]
    masks = [MASKS[image] for image in chosen]
    for place in broken:
        gens.insert(place, BROKEN)
        masks.insert(place, None)
    found = scorer.score(
        gens=gens, gen_masks=masks, batch_size=batch_size,
        visual_threshold=alone.visual_threshold, **REFERENCE,
    )  # fmt: skip
    good = np.flatnonzero(found.status == "ok")
    assert len(good) == len(chosen)
    check([found[row] for row in good], alone, chosen)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 33, 64])
def test_every_image_in_batches_of(model: Path, alone: VSMScores, batch_size: int) -> None:
    found = vsm_fast.score_batch(
        gens=IMAGES, gen_masks=MASKS, model=model, device="cpu", batch_size=batch_size,
        visual_threshold=alone.visual_threshold, **REFERENCE,
    )  # fmt: skip
    check(found, alone, list(range(COUNT)))


def test_padding_of_an_exported_graph(small_export: Path) -> None:
    """Its graph takes 2 to 4 images: one is padded to two, seven are 4 + 3, nine are 4 + 4 + 1."""
    scorer = VSMScorer.from_pretrained(small_export, device="cpu")
    options = {**REFERENCE, "visual_threshold": 0.0}
    alone = scorer.score(gens=IMAGES[:9], gen_masks=MASKS[:9], batch_size=1, **options)
    for count, batch_size in ((7, 4), (9, 4), (9, 3)):
        found = scorer.score(
            gens=IMAGES[:count], gen_masks=MASKS[:count], batch_size=batch_size, **options
        )
        apart = np.abs(found.visual_similarity - alone.visual_similarity[: alone.offsets[count]])
        assert apart.max() <= CONTRACT


_PROCESS = """
import hashlib, sys, torch
torch.use_deterministic_algorithms(True)
torch.set_num_threads(int(sys.argv[2]))
sys.path.insert(0, sys.argv[1])
import numpy as np
from subject_views import subject_image
from vsm_fast import VSMScorer
scorer = VSMScorer.from_pretrained(sys.argv[3], device="cpu")
assert scorer.runtime.concurrent
images, masks = (list(part) for part in zip(*map(subject_image, range(12))))
for concurrent in (True, True, False):
    scorer.runtime.concurrent = concurrent
    found = scorer.score(images[:3], images, pairs=[[r, g] for g in range(12) for r in range(3)],
                         ref_masks=masks[:3], gen_masks=masks, batch_size=2,
                         semantic_threshold=-1.0, visual_threshold=0.0)
    print(hashlib.sha256(found.visual_similarity.tobytes() + found.score.tobytes()).hexdigest())
np.save(sys.argv[4], found.visual_similarity)
"""


def test_deterministic_mode_with_streams_and_threads(model: Path, tmp_path: Path) -> None:
    """Same bits in two processes, with two streams as with one; 1 and 2 threads differ by bits."""
    lines = {}
    for name, threads in (("a", 2), ("b", 2), ("c", 1)):
        helpers, out = Path(tiny_models.__file__).parent, tmp_path / f"{name}.npy"
        command = [sys.executable, "-c", _PROCESS, *map(str, (helpers, threads, model, out))]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        lines[name] = done.stdout.split()
    assert len({*lines["a"], *lines["b"]}) == 1
    assert len(set(lines["c"])) == 1
    two, one = (np.load(tmp_path / f"{name}.npy") for name in ("a", "c"))
    assert np.abs(two - one).max() <= CONTRACT
