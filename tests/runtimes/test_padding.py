"""Batches of a few sizes."""

import torch

from vsm_fast.runtimes.padding import BatchSizes


def test_smaller_batches_are_padded_to_the_smallest_that_holds_them():
    sizes = BatchSizes()
    rows = torch.arange(6.0)[:, None]
    assert len(sizes.padded(rows[:1])) == 1  # a reference comes first
    assert len(sizes.padded(rows[:4])) == 4
    padded = sizes.padded(rows[:3])
    assert padded.flatten().tolist() == [0, 1, 2, 2]
    assert len(sizes.padded(rows[:1])) == 1
    assert sizes.padded(rows) is rows
