"""Work tables: every point meets every target once, for all sizes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vsm_fast.kernels.schedule import BLOCK_COLUMNS, ITEM_COLUMNS, Schedule, plan

CPU = torch.device("cpu")


def offsets(counts: list[int]) -> torch.Tensor:
    return torch.tensor([0, *counts]).cumsum(0)


def columns(table: torch.Tensor, names: tuple[str, ...]) -> list[dict[str, int]]:
    return [dict(zip(names, row, strict=True)) for row in table.tolist()]


def make(
    counts: list[int], target_counts: list[int], pairs: list[tuple[int, int]], **sizes: int
) -> Schedule:
    defaults = {"tile_queries": 16, "tile_keys": 16, "processors": 1}
    return plan(
        offsets(counts),
        offsets(target_counts),
        torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2),
        CPU,
        **(defaults | sizes),
    )


@settings(max_examples=150, deadline=None)
@given(
    counts=st.lists(st.integers(0, 50), min_size=1, max_size=5),
    target_counts=st.lists(st.integers(0, 70), min_size=1, max_size=4),
    processors=st.sampled_from([1, 7, 132]),
    tile_keys=st.sampled_from([16, 32]),
    data=st.data(),
)
def test_every_point_meets_every_target_once(
    counts: list[int],
    target_counts: list[int],
    processors: int,
    tile_keys: int,
    data: st.DataObject,
) -> None:
    pairs = data.draw(
        st.lists(
            st.tuples(st.integers(0, len(counts) - 1), st.integers(0, len(target_counts) - 1)),
            max_size=7,
        )
    )
    made = make(counts, target_counts, pairs, tile_keys=tile_keys, processors=processors)
    starts, key_starts = offsets(counts).tolist(), offsets(target_counts).tolist()
    wanted = {}
    point = 0
    for source, target in pairs:
        for row in range(starts[source], starts[source + 1]):
            keys = range(key_starts[target], key_starts[target + 1])
            wanted[point] = (row, keys.start, list(keys))
            point += 1
    assert made.points == point
    found: dict[tuple[int, int], list[int]] = {}
    seen_splits: set[tuple[tuple[int, int], int]] = set()
    for item in columns(made.items, ITEM_COLUMNS):
        assert 1 <= item["queries"] <= 16
        for lane in range(item["queries"]):
            place = (item["branch"], item["point"] + lane)
            assert (place, item["split"]) not in seen_splits
            seen_splits.add((place, item["split"]))
            row, first, _ = wanted[item["point"] + lane]
            assert row == item["query"] + lane
            assert first == item["key"] - item["skipped"]
            assert item["skipped"] % tile_keys == 0 or item["keys"] == 0
            found.setdefault(place, []).extend(range(item["key"], item["key"] + item["keys"]))
    assert len(seen_splits) == 2 * point * made.splits  # no output is left unwritten
    for (_, position), keys in found.items():
        assert keys == wanted[position][2]


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(0, 700), min_size=1, max_size=4),
    target_counts=st.lists(st.integers(0, 9), min_size=1, max_size=3),
    data=st.data(),
)
def test_blocks_cover_the_points_of_each_pair(
    counts: list[int], target_counts: list[int], data: st.DataObject
) -> None:
    pairs = data.draw(
        st.lists(
            st.tuples(st.integers(0, len(counts) - 1), st.integers(0, len(target_counts) - 1)),
            max_size=6,
        )
    )
    made = make(counts, target_counts, pairs)
    sizes = [target_counts[target] for _, target in pairs]
    assert made.claims == sum(sizes)
    covered: dict[int, list[int]] = {}
    for block in columns(made.blocks, BLOCK_COLUMNS):
        source, target = pairs[block["pair"]]
        covered.setdefault(block["pair"], []).extend(
            range(block["point"], block["point"] + block["points"])
        )
        assert block["claim"] == sum(sizes[: block["pair"]])
        assert block["key"] == int(offsets(target_counts)[target])
        first = int(made.offsets[block["pair"]])
        assert block["query"] == int(offsets(counts)[source]) + block["point"] - first
    for pair, (source, _) in enumerate(pairs):
        first = int(made.offsets[pair])
        assert covered.get(pair, []) == list(range(first, first + counts[source]))


def test_successive_images_of_one_reference_share_tiles() -> None:
    alone = make([5] * 8, [30], [(i, 0) for i in range(8)])
    assert len(alone.items) == 2 * 3  # 40 rows in tiles of 16, two branches
    assert alone.runs.tolist() == [[0, 40, 0, 0, 30]]
    apart = make([5] * 8, [30, 30], [(i, i % 2) for i in range(8)])
    assert len(apart.items) == 2 * 8


def test_few_rows_are_split_over_targets() -> None:
    made = make([10], [1000], [(0, 0)], processors=64)
    assert made.splits == 32
    assert [item["keys"] for item in columns(made.items, ITEM_COLUMNS)] == 2 * [*[32] * 31, 8]
    assert make([10], [1000], [(0, 0)], processors=1).splits == 1
    assert make([10], [20], [(0, 0)], processors=64).splits == 2  # no more than there are tiles
    assert make([10], [1000], [(0, 0)], processors=100).splits == 32  # none of them empty


def test_ten_thousand_pairs_are_planned_at_once() -> None:
    pairs = [(i % 100, i // 100) for i in range(10_000)]
    made = make([576] * 100, [576] * 100, pairs, tile_queries=128, tile_keys=128)
    assert made.points == 5_760_000
    assert int(made.items[:, ITEM_COLUMNS.index("queries")].sum()) == 2 * made.points


def test_the_smallest_target_that_is_not_empty_is_known() -> None:
    assert make([3], [0, 40, 12], [(0, 0), (0, 1), (0, 2)]).fewest_keys == 12
    assert make([3], [0], [(0, 0)]).fewest_keys == 0
    assert make([3], [4], []).fewest_keys == 0


def test_sizes_that_do_not_fit_are_refused() -> None:
    huge = torch.tensor([0, 2**31])
    with pytest.raises(ValueError, match=r"at most .* points.*got 2,147,483,648.*fewer pairs"):
        plan(
            huge, torch.tensor([0, 1]), torch.tensor([[0, 0]]), CPU,
            tile_queries=16, tile_keys=16, processors=1,
        )  # fmt: skip
