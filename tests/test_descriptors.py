from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from vsm_fast.descriptors import Descriptors

Make = Callable[..., Descriptors]


def test_packing_keeps_the_masked_cells_in_row_major_order() -> None:
    semantic = torch.arange(2 * 1 * 2 * 3, dtype=torch.float32).reshape(2, 1, 2, 3)
    masks = torch.tensor([[[0, 1, 0], [1, 0, 1]], [[0, 0, 0], [0, 0, 1]]]).bool()
    packed = Descriptors.pack(semantic, semantic.repeat(1, 2, 1, 1), masks)
    assert packed.semantic[:, 0].tolist() == [1, 3, 5, 11]
    assert packed.visual[:, 1].tolist() == [1, 3, 5, 11]
    assert packed.cells.tolist() == [1, 3, 5, 5]
    assert packed.offsets.tolist() == [0, 3, 4]
    assert packed.grid == (2, 3)


def test_packing_refuses_masks_of_another_grid() -> None:
    maps = torch.zeros(1, 4, 2, 3)
    with pytest.raises(ValueError, match=r"\[1, 2, 3\].*\[1, 3, 2\]"):
        Descriptors.pack(maps, maps, torch.zeros(1, 3, 2, dtype=torch.bool))


def test_selecting_and_joining_move_whole_images(make_descriptors: Make) -> None:
    made = make_descriptors([3, 0, 2])
    chosen = made.select([2, 1, 2])
    assert chosen.offsets.tolist() == [0, 2, 2, 4]
    assert torch.equal(chosen.semantic[:2], made.semantic[made.rows(2)])
    joined = Descriptors.cat([made.select([i]) for i in range(3)])
    for name in ("semantic", "visual", "offsets", "cells"):
        assert torch.equal(getattr(joined, name), getattr(made, name))
    assert len(made.select([])) == 0


def test_points_counts_an_image(make_descriptors: Make) -> None:
    made = make_descriptors([3, 0, 2])
    assert [made.points(i) for i in range(len(made))] == [3, 0, 2]


def test_rows_that_do_not_fit_are_refused(make_descriptors: Make) -> None:
    made = make_descriptors([3])
    with pytest.raises(ValueError, match="equally many rows"):
        Descriptors(made.semantic, made.visual[:2], made.offsets, made.cells, made.grid)
    with pytest.raises(ValueError, match="offsets"):
        Descriptors(made.semantic, made.visual, torch.tensor([0, 2]), made.cells, made.grid)


def test_joining_refuses_nothing_and_other_grids(make_descriptors: Make) -> None:
    with pytest.raises(ValueError, match="at least one"):
        Descriptors.cat([])
    with pytest.raises(ValueError, match="one grid"):
        Descriptors.cat([make_descriptors([3]), make_descriptors([30])])
