"""The benchmark's mix of pairs, and its job: byte-identical, resumed, refused."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vsm_fast.cli.main import ExitCode, main
from vsm_fast.errors import PairingError
from vsm_fast.lab.pairs import pair_job
from vsm_fast.lab.pairs.benchmark import Benchmark, BenchmarkJob
from vsm_fast.lab.pairs.pair_job import PairJob, make_pairs_job
from vsm_fast.lab.pairs.pair_shards import count_pairs, write_pair_shard
from vsm_fast.lab.pairs.photographs import Photograph, load_photographs

SIZE = 64
KINDS = ("recolour", "pattern", "texture")
JOB_KINDS = ("recolour", "texture")
SHARD = 4
DONOR = np.random.default_rng(9).integers(0, 256, (SIZE, SIZE, 3), np.uint8)


def photographs(subjects: int = 3, each: int = 3, masked: bool = True) -> list[Photograph]:
    photos = []
    for subject, number in np.ndindex(subjects, each):
        rng = np.random.default_rng((subject, number))
        pixels = rng.integers(0, 256, (12, 15, 3), np.uint8).repeat(6, 0).repeat(6, 1)
        mask = np.zeros((72, 90), bool)
        mask[12:60, 20 + number : 70] = True
        name = f"subject {subject}"
        photos.append(Photograph(name, f"{number:02d}", pixels, mask if masked else None))
    return photos


def benchmark(count: int = 48, seed: int = 0, **changes) -> Benchmark:
    arguments = {"photos": photographs(), "donors": [DONOR], "kinds": KINDS} | changes
    return Benchmark(**arguments, count=count, seed=seed, size=SIZE)


def test_mix_of_pairs() -> None:
    pairs = list(benchmark(96))
    same = [pair for pair in pairs if pair.kind != "other subject"]
    assert (len(same), len(pairs) - len(same)) == (96, 24)
    assert Counter(pair.subject for pair in same) == {f"subject {i}": 32 for i in range(3)}
    kinds = Counter(pair.kind for pair in same)
    assert kinds["none"] == 12
    assert set(kinds) == {"none", *KINDS}
    assert len({pair.id for pair in pairs}) == 120
    # Unaltered pairs cover several subjects: both draws are independent.
    assert len({pair.subject for pair in same if pair.kind == "none"}) > 1
    shares = []
    for pair in pairs:
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
            assert 1 - pair.oracle == pytest.approx(shares[-1], abs=0.01)
    assert 0.01 <= min(shares) < 0.1
    assert 0.5 < max(shares) <= 0.6
    assert np.histogram(shares, 3, (0, 0.6))[0].min() > len(shares) / 6


def test_a_pair_follows_from_seed_and_number() -> None:
    pairs, again, other = list(benchmark(8)), benchmark(8), benchmark(8, seed=1)
    assert len(again) == len(pairs) == 10
    for number in (9, 2, -1):
        one, two = again[number], pairs[number]
        assert (one.id, one.provenance) == (two.id, two.provenance)
        for name in ("original_1", "original_2", "altered_1", "mask_1", "mask_2", "part_1"):
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name), err_msg=name)
    with pytest.raises(IndexError):
        again[10]
    assert any(not np.array_equal(pairs[n].original_1, other[n].original_1) for n in range(3))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"photos": photographs(masked=False)}, PairingError, "no photograph has a mask"),
        ({"photos": photographs(each=1)}, PairingError, "subject 0, subject 1, subject 2"),
        ({"photos": photographs(subjects=1)}, PairingError, "second subject; got only subject 0"),
        ({"donors": []}, PairingError, "at least one donor"),
        ({"kinds": ("recolor",)}, ValueError, "got 48 and recolor"),
        ({"kinds": ()}, ValueError, "no kind"),
        ({"count": 0}, ValueError, "got 0 and"),
    ],
)
def test_wrong_input_is_refused(changes, error, message) -> None:
    with pytest.raises(error, match=message):
        benchmark(**changes)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_job, "SHARD", SHARD)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photographs per subject; the last of the cup and all of the hat have no mask."""
    root = tmp_path_factory.mktemp("photos")
    y, x = np.mgrid[:70, :80]
    for subject, name in enumerate(("bag", "cup", "hat", "shoe")):
        (root / name).mkdir()
        for number in range(3):
            rng = np.random.default_rng((subject, number))
            pixels = np.kron(rng.integers(0, 256, (7, 8, 3)), np.ones((10, 10, 1)))
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{number}.png")
            if name != "hat" and (name, number) != ("cup", 2):
                mask = (x - 40) ** 2 + (y - 35) ** 2 < (20 + number) ** 2
                Image.fromarray(mask).save(root / name / f"{number}_mask.png")
    return root


def job_of(photos: Path, **changes: object) -> BenchmarkJob:
    job = BenchmarkJob(
        str(photos), 9, seed=3, subjects=("shoe", "cup"), donors_from=("hat", "bag"),
        kinds=JOB_KINDS, size=64,
    )  # fmt: skip
    return replace(job, **changes)  # type: ignore[arg-type]


def arguments_of(photos: Path, out: Path, *more: str) -> list[str]:
    """The same job on the command line."""
    return [
        "make-pairs", "--protocol", "benchmark", "--source", str(photos), "--out", str(out),
        "--count", "9", "--seed", "3", "--subjects", "shoe", "cup", "--donors-from", "hat", "bag",
        "--kinds", *JOB_KINDS, "--size", "64", *more,
    ]  # fmt: skip


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}


def test_the_command_writes_the_benchmark(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, direct = tmp_path / "out", tmp_path / "direct"
    assert main(arguments_of(photos, out)) == ExitCode.OK
    printed = capsys.readouterr().out
    assert "11 pairs of 11 tried" in printed
    assert "photographs: 5 of shoe, cup; left out 1 without a mask" in printed
    assert "donors: 6 photographs of 2 subjects" in printed
    summary = json.loads((out / "summary.json").read_text())
    assert summary["kinds"]["other subject"] == 2
    assert summary["inputs"] == {
        "photographs": {"shoe": 3, "cup": 2}, "without_mask": 1, "donors": {"hat": 3, "bag": 3},
    }  # fmt: skip
    with Image.open(out / "contact_sheet.png") as sheet:
        assert sheet.height > 6 * 160  # 11 pairs, two per row
    # Byte for byte the pairs of the class.
    donors = [photo.pixels for photo in load_photographs(photos, ("hat", "bag"))]
    masked = load_photographs(photos, ("shoe", "cup"))
    pairs = iter(Benchmark(masked, donors, JOB_KINDS, count=9, seed=3, size=64))
    direct.mkdir()
    for shard in range(3):
        path = direct / f"pairs-{shard:05d}.parquet"
        assert write_pair_shard(islice(pairs, SHARD), path) == (4, 4, 3)[shard]
    assert shards(out) == shards(direct)
    # A second run has nothing to do and reports the same.
    before = [path.stat().st_mtime_ns for path in out.glob("*.parquet")]
    assert main(arguments_of(photos, out)) == ExitCode.OK
    assert capsys.readouterr().out == printed
    assert [path.stat().st_mtime_ns for path in out.glob("*.parquet")] == before


def test_default_donors_and_subjects(photos: Path) -> None:
    inputs = job_of(photos, donors_from=(), excluded=("bag",)).open().inputs
    assert inputs["donors"] == {"hat": 3}
    # Without named subjects, those without a mask drop out.
    inputs = job_of(photos, subjects=(), donors_from=("hat",)).open().inputs
    assert inputs["photographs"] == {"bag": 3, "cup": 2, "shoe": 3}
    assert inputs["without_mask"] == 4


def test_interrupted_and_resumed_is_byte_identical(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, halved = tmp_path / "straight", tmp_path / "halved"
    make_pairs_job(job_of(photos), straight)
    make = Benchmark.__getitem__

    def interrupted(self: Benchmark, number: int) -> object:
        if number == 6:
            raise KeyboardInterrupt
        return make(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(Benchmark, "__getitem__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make_pairs_job(job_of(photos), halved)
    assert list(shards(halved)) == ["pairs-00000.parquet"]
    # A killed process leaves a truncated file.
    truncated = halved / ".pairs-00001.123.tmp.parquet"
    truncated.write_bytes(b"PAR1")
    assert count_pairs(halved) == SHARD
    make_pairs_job(job_of(photos), halved)
    assert not truncated.exists()
    assert count_pairs(halved) == 11
    for name in ("summary.json", "job.json"):
        assert (halved / name).read_text() == (straight / name).read_text()
    assert shards(halved) == shards(straight)


def test_other_settings_and_other_photographs_are_refused(photos: Path, tmp_path: Path) -> None:
    source, out = shutil.copytree(photos, tmp_path / "photos"), tmp_path / "out"
    make_pairs_job(job_of(source), out)
    before = shards(out)
    for changes, message in (
        ({"count": 10}, r"count was 9, now 10"),  # a larger benchmark draws other pairs
        ({"donors_from": ("bag", "hat")}, r"donors_from was \['hat', 'bag'\], now"),
    ):
        with pytest.raises(PairingError, match=message):
            make_pairs_job(job_of(source, **changes), out)
    with pytest.raises(PairingError, match="protocol was 'benchmark', now 'filtered'"):
        make_pairs_job(PairJob(str(source), 9, seed=3), out)
    # One more mask: the missing shard would come from other photographs.
    shutil.copy(source / "cup" / "0_mask.png", source / "cup" / "2_mask.png")
    (out / "pairs-00001.parquet").unlink()
    with pytest.raises(PairingError, match="without_mask was 1, now 0"):
        make_pairs_job(job_of(source), out)
    assert shards(out) == {name: before[name] for name in before if name != "pairs-00001.parquet"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--subjects", "shoe", "cop"), "has no sub-folder cop; it has bag, cup, hat, shoe"),
        (("--donors-from", "sky"), "has no sub-folder sky; it has"),
        (("--exclude-subjects", "sky"), "has no sub-folder sky; it has"),
        (("--kinds", "melt"), "kinds of texture, inpaint"),
        (("--subjects", "cup"), "need a second subject; got only cup"),
        (("--subjects", "cup", "hat"), "no photograph of hat has a mask"),
        (("--exclude-subjects", "hat", "bag"), "remains for the donors"),
        (("--exclude-subjects", "cup", "shoe"), "remains for the subjects"),
        (("--source", "nowhere"), "nowhere is not a folder"),
        (("--seed", "-1"), "non-negative"),
        (("--size", "8"), "at least 64 pixels"),
        (("--parts", "random", "--area", "0.1", "0.2"), "--parts, --area"),
        (("--protocol", "filtered"), "--donors-from"),
    ],
)
def test_a_wrong_command_fails_in_one_line_and_leaves_no_trace(
    more: tuple[str, ...],
    message: str,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(arguments_of(photos, tmp_path / "out", *more)) == ExitCode.USAGE
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
