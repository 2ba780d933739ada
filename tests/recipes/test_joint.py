"""Joint training on small networks: examples, mirror images, resuming."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
from tiny_models import aggregation_pair, pixel_unet

from recipes.tiny.example_shards import ExampleShards, save_examples
from recipes.tiny.joint import JointTraining, train_joint
from vsm_fast.images.framing import to_input
from vsm_fast.lab.pairs.pairs import ControlledPair
from vsm_fast.lab.training.examples import (
    TrainingExample,
    training_example,
    varied,
)
from vsm_fast.model.config import BackboneConfig
from vsm_fast.model.network import DescriptorNetwork
from vsm_fast.model.unet import UNetFeatures

one_thread = tiny_models.one_thread
SIDE, GRID = 32, (6, 6)
FRAME = BackboneConfig(
    levels=("us2",), resolution=SIDE, timestep=50, framing="subject", background="grey"
)
SETTINGS = JointTraining(steps=4, exact_pairs=1, photograph_pairs=2, warmup=1, save_every=2)


def _pair(seed: int, *, points: bool, subject: str = "cup") -> ControlledPair:
    """Move view 1 by (6, 2) pixels for view 2; invert its left half for the altered view."""
    rng = np.random.default_rng(seed)
    picture = np.kron(rng.integers(0, 256, (12, 12, 3)), np.ones((5, 5, 1))).astype(np.uint8)
    mask = np.zeros((60, 60), bool)
    mask[8:44, 6:42] = True
    part = mask.copy()
    part[:, 24:] = False
    altered = picture.copy()
    altered[part] = 255 - altered[part]

    def moved(array: np.ndarray) -> np.ndarray:
        return np.roll(array, (2, 6), (0, 1))

    x, y = np.meshgrid(np.arange(6, 42, 2) + 0.5, np.arange(8, 44, 2) + 0.5)
    first = np.stack([x.ravel(), y.ravel()], axis=1)
    matched = np.concatenate([first, first + np.array([6, 2])], axis=1).astype(np.float32)
    return ControlledPair(
        id=str(seed), subject=subject, view="warp", kind="invert", original_1=picture,
        original_2=moved(picture), altered_1=altered, mask_1=mask, mask_2=moved(mask),
        part_1=part, altered_2=moved(altered) if points else None,
        points=matched if points else None,
    )  # fmt: skip


def _still() -> np.random.Generator:
    """Return a generator without jitter of frames and masks."""

    class Still:
        def uniform(self, low: float, high: float, size: int) -> np.ndarray:
            return np.zeros(size)

        def choice(self, options: list[int]) -> int:
            return options[0]

    return Still()  # type: ignore[return-value]


def _example(seed: int, **settings: object) -> TrainingExample:
    example = training_example(_pair(seed, **settings), _still(), FRAME, GRID)  # type: ignore[arg-type]
    assert example is not None
    return example


def test_cells_of_a_translation_match_themselves() -> None:
    """Framing aligns both views: each cell shows the same place."""
    example = _example(0, points=True)
    own = torch.arange(36)
    inside = example.landing >= 0
    assert inside.sum() >= 16
    assert torch.equal(example.landing[inside], own[inside])
    assert torch.equal(example.match, example.landing)
    assert example.exact
    assert example.has_altered_2
    same = (example.pictures[0].float() - example.pictures[1].float()).abs().mean()
    assert same < 1  # the same subject on the same grey
    columns = own % 6
    on_subject = example.subject_1
    assert (example.part[on_subject & (columns < 2)] > 0.5).all()
    assert (example.part[on_subject & (columns > 3)] == 0).all()


def test_two_photographs_have_no_correspondence() -> None:
    example = _example(0, points=False)
    assert not example.exact
    assert not example.has_altered_2
    assert (example.landing == -1).all()
    assert torch.equal(example.pictures[3], example.pictures[1])


def test_a_model_without_framing_is_trained_on_the_whole_image() -> None:
    whole = replace(FRAME, framing="image", background="keep")
    pair = _pair(0, points=True)
    example = training_example(pair, np.random.default_rng(0), whole, GRID)
    assert example is not None
    expected = to_input(pair.original_2, (0, 0, 60, 60), SIDE, "bicubic")
    torch.testing.assert_close(example.pictures[1] / 127.5 - 1, expected)
    # 6 pixels are 0.6 of a cell: the centre of a cell lands in the next one.
    inside = example.landing >= 0
    shift = example.landing[inside] % 6 - torch.arange(36)[inside] % 6
    assert set(shift.tolist()) == {1}


def test_a_subject_of_a_few_pixels_is_no_example() -> None:
    pair = _pair(0, points=False)
    speck = np.zeros((60, 60), bool)
    speck[30, 30] = True
    pair = replace(pair, mask_1=np.ones((60, 60), bool), part_1=speck, mask_2=speck | pair.mask_2)
    assert training_example(pair, _still(), FRAME, GRID) is not None
    sparse = np.zeros((60, 60), bool)
    sparse[::12, ::12] = True  # a wide, almost empty box
    pair = replace(pair, mask_1=sparse, part_1=np.zeros_like(sparse))
    assert training_example(pair, _still(), FRAME, GRID) is None


def test_the_source_nearest_to_the_centre_of_its_target_wins() -> None:
    pair = _pair(0, points=True)
    crowded = pair.points.copy()  # type: ignore[union-attr]
    crowded[:, 2:] = [30.0, 28.0]  # all points of view 1 share one target
    example = training_example(replace(pair, points=crowded), _still(), FRAME, GRID)
    assert example is not None
    assert (example.landing >= 0).sum() >= 16
    assert (example.match >= 0).sum() == 1


def test_a_visit_mirrors_images_and_cells_alike() -> None:
    example = _example(0, points=True)
    mirrored = None
    for seed in range(8):
        rng = np.random.default_rng(seed)
        pictures, cells = varied(example, rng)
        if not torch.equal(cells.subject_1, example.subject_1) or (
            (cells.part - example.part).abs().max() > 0
        ):
            mirrored = cells
            left = pictures[0, :, :, : SIDE // 2].mean() - pictures[2, :, :, : SIDE // 2].mean()
            assert abs(left) < 1e-3  # the altered half is now the right one
        assert pictures.min() >= -1
        assert pictures.max() <= 1
        hit = cells.part > 0.5
        assert cells.changed[hit].float().mean() > 0.9
        far = cells.part.view(6, 6).roll(1, 1) + cells.part.view(6, 6).roll(-1, 1)
        assert not cells.changed[(cells.part == 0) & (far.flatten() == 0)].any()
    assert mirrored is not None
    inside = mirrored.landing >= 0
    assert torch.equal(mirrored.landing[inside], torch.arange(36)[inside])
    assert (mirrored.part[torch.arange(36) % 6 < 2] == 0).all()


def _shards(folder: Path) -> ExampleShards:
    examples = [
        _example(seed, points=seed % 2 == 0, subject=("cup", "shoe", "cat")[seed % 3])
        for seed in range(8)
    ]
    paths = [folder / "0.safetensors", folder / "1.safetensors"]
    save_examples(examples[:5], paths[0])
    save_examples(examples[5:], paths[1])
    return ExampleShards(paths)


def test_examples_come_back_from_disk(tmp_path: Path) -> None:
    shards = _shards(tmp_path)
    assert (len(shards.exact), len(shards.photographs)) == (4, 4)
    read, made = shards.read(shards.photographs[3]), _example(7, points=False, subject="shoe")
    assert (read.subject, read.exact, read.has_altered_2) == ("shoe", False, False)
    for name in ("pictures", "subject_1", "part", "match"):
        assert torch.equal(getattr(read, name), getattr(made, name))


def _network() -> DescriptorNetwork:
    backbone = UNetFeatures(pixel_unet(), ("us2", "us5"), 50, pixel_unshuffle=2)
    return DescriptorNetwork(backbone, *aggregation_pair((24, 8)))


def test_an_interrupted_run_resumes_bit_for_bit(tmp_path: Path) -> None:
    shards = _shards(tmp_path)
    for name in ("straight", "halved"):
        (tmp_path / name).mkdir()
    straight = train_joint(_network(), shards, tmp_path / "straight", SETTINGS)
    before = [p.clone() for p in _network().parameters()]
    moved = sum(
        float((a - b).abs().sum()) for a, b in zip(before, straight.parameters(), strict=True)
    )
    assert moved > 0

    class Interrupted(ExampleShards):
        reads = 0

        def read(self, number: int) -> TrainingExample:
            self.reads += 1
            if self.reads > 2 * 3:  # three pairs per step: in the third step
                raise KeyboardInterrupt
            return super().read(number)

    broken = Interrupted(sorted(tmp_path.glob("*.safetensors")))
    with pytest.raises(KeyboardInterrupt):
        train_joint(_network(), broken, tmp_path / "halved", SETTINGS)
    resumed = train_joint(_network(), shards, tmp_path / "halved", SETTINGS)
    for one, other in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_training_lowers_the_loss(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shards = _shards(tmp_path)
    settings = replace(SETTINGS, steps=40, save_every=100, learning_rate=3e-3, ema=0.5)
    with caplog.at_level("INFO"):
        train_joint(_network(), shards, tmp_path, settings)
    lines = [record.getMessage() for record in caplog.records if "photo_point" in record.message]
    first, last = (
        float(line.split("photo_point ")[1].split()[0]) for line in (lines[0], lines[-1])
    )
    assert last < first
