from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from vsm_fast.errors import PairingError
from vsm_fast.lab.pairs.photographs import Photograph
from vsm_fast.lab.pairs.protocol import Benchmark, benchmark_pairs

SIZE = 64
KINDS = ("recolour", "pattern", "texture")


def photographs(subjects: int = 3, each: int = 3, masked: bool = True) -> list[Photograph]:
    photos = []
    for subject in range(subjects):
        for number in range(each):
            rng = np.random.default_rng((subject, number))
            pixels = rng.integers(0, 256, (12, 15, 3), np.uint8).repeat(6, 0).repeat(6, 1)
            mask = np.zeros((72, 90), bool)
            mask[12:60, 20 + number : 70] = True
            name = f"subject {subject}"
            photos.append(Photograph(name, f"{number:02d}", pixels, mask if masked else None))
    return photos


def donors() -> list[np.ndarray]:
    return [np.random.default_rng(9).integers(0, 256, (SIZE, SIZE, 3), np.uint8)]


def pairs(count: int = 48, seed: int = 0, **changes):
    arguments = {"photos": photographs(), "donors": donors(), "kinds": KINDS} | changes
    return list(benchmark_pairs(**arguments, count=count, seed=seed, size=SIZE))


def test_the_mix() -> None:
    made = pairs()
    same = [pair for pair in made if pair.kind != "other subject"]
    others = [pair for pair in made if pair.kind == "other subject"]
    assert (len(same), len(others)) == (48, 12)
    assert Counter(pair.subject for pair in same) == {f"subject {i}": 16 for i in range(3)}
    kinds = Counter(pair.kind for pair in same)
    assert kinds["none"] == 6
    assert set(kinds) == {"none", *KINDS}
    assert len({pair.id for pair in made}) == 60
    # Unaltered pairs are of all subjects: the two draws must not run in step.
    assert len({pair.subject for pair in same if pair.kind == "none"}) > 1


def test_shares_are_uniform_and_photographs_different() -> None:
    shares = []
    for pair in pairs(96):
        first, second = pair.provenance["photographs"]
        assert pair.view == "photo"
        assert first != second
        assert pair.subject == second.partition("/")[0]
        outside = ~pair.part_1
        np.testing.assert_array_equal(pair.altered_1[outside], pair.original_1[outside])
        assert not (pair.part_1 & ~pair.mask_1).any()
        if pair.kind == "other subject":
            assert pair.oracle == 0
            assert first.partition("/")[0] != pair.subject
            continue
        assert first.partition("/")[0] == pair.subject
        if pair.kind == "none":
            assert pair.oracle == 1
            np.testing.assert_array_equal(pair.altered_1, pair.original_1)
        else:
            shares.append(pair.provenance["share"])
            assert 0.2 < 1 - pair.oracle + 0.3 < 1  # the part asked for, or what changed of it
    assert 0.01 <= min(shares) < 0.1
    assert 0.5 < max(shares) <= 0.6
    counts = np.histogram(shares, 3, (0, 0.6))[0]
    assert counts.min() > len(shares) / 6


def test_pairs_follow_from_the_seed() -> None:
    first, again, other = pairs(8), pairs(8), pairs(8, seed=1)
    for one, two in zip(first, again, strict=True):
        assert one.id == two.id
        assert one.provenance == two.provenance
        for name in ("original_1", "original_2", "altered_1", "mask_1", "mask_2", "part_1"):
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name), err_msg=name)
    assert any(
        not np.array_equal(one.original_1, two.original_1)
        for one, two in zip(first, other, strict=True)
    )


def test_any_pair_can_be_made_by_its_number() -> None:
    made = pairs(8)
    benchmark = Benchmark(photographs(), donors(), KINDS, 8, 0, size=SIZE)
    assert len(benchmark) == len(made) == 10
    for number in (9, 2, -1):
        one, two = benchmark[number], made[number]
        assert (one.id, one.provenance) == (two.id, two.provenance)
        np.testing.assert_array_equal(one.altered_1, two.altered_1)
    assert [pair.id for pair in benchmark[7:]] == [pair.id for pair in made[7:]]
    with pytest.raises(IndexError):
        benchmark[10]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"photos": photographs(masked=False)}, PairingError, "no photograph has not"),
        ({"photos": photographs(each=1)}, PairingError, "subject 0, subject 1, subject 2 has not"),
        ({"photos": photographs(subjects=1)}, PairingError, "second subject; got only subject 0"),
        ({"donors": []}, PairingError, "at least one donor"),
        ({"kinds": ("recolor",)}, ValueError, "got 48 and recolor"),
        ({"kinds": ()}, ValueError, "no kind"),
        ({"count": 0}, ValueError, "got 0 and"),
    ],
)
def test_wrong_input_is_refused(changes, error, message) -> None:
    with pytest.raises(error, match=message):
        pairs(**changes)
