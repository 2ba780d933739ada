"""The benchmark as a job: the same pairs as without one, resumed, refused, on the command line."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vsm_fast.cli.main import ExitCode, main
from vsm_fast.errors import PairingError
from vsm_fast.lab.pairs import pair_job
from vsm_fast.lab.pairs.benchmark_job import BenchmarkJob, BenchmarkMaker
from vsm_fast.lab.pairs.pair_job import PairJob, run_job
from vsm_fast.lab.pairs.pair_shards import count_pairs, write_shard
from vsm_fast.lab.pairs.photographs import load_photographs
from vsm_fast.lab.pairs.protocol import benchmark_pairs

KINDS = ("recolour", "texture")
SHARD = 4


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_job, "SHARD", SHARD)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photographs of each subject; the last of the cup and all of the hat have no mask."""
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
        kinds=KINDS, size=64,
    )  # fmt: skip
    return replace(job, **changes)  # type: ignore[arg-type]


def arguments_of(photos: Path, out: Path, *more: str) -> list[str]:
    """The same job on the command line."""
    return [
        "make-pairs", "--protocol", "benchmark", "--source", str(photos), "--out", str(out),
        "--count", "9", "--seed", "3", "--subjects", "shoe", "cup", "--donors-from", "hat", "bag",
        "--kinds", *KINDS, "--size", "64", *more,
    ]  # fmt: skip


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}


def test_the_pairs_are_those_of_the_protocol_byte_for_byte(photos: Path, tmp_path: Path) -> None:
    assert main(arguments_of(photos, tmp_path / "out", "--quiet")) == ExitCode.OK
    pairs = benchmark_pairs(
        load_photographs(photos, ("shoe", "cup")),
        [photo.pixels for photo in load_photographs(photos, ("hat", "bag"))],
        KINDS,
        count=9,
        seed=3,
        size=64,
    )
    (tmp_path / "direct").mkdir()
    for shard in range(3):
        path = tmp_path / "direct" / f"pairs-{shard:05d}.parquet"
        assert write_shard(islice(pairs, SHARD), path) == (4, 4, 3)[shard]
    assert shards(tmp_path / "out") == shards(tmp_path / "direct")


def test_what_was_left_out_is_said_and_kept(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
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
        assert sheet.height > 6 * 160  # 11 pairs, two side by side
    # Again: nothing to do, the same report.
    before = [path.stat().st_mtime_ns for path in out.glob("*.parquet")]
    assert main(arguments_of(photos, out)) == ExitCode.OK
    assert capsys.readouterr().out == printed
    assert [path.stat().st_mtime_ns for path in out.glob("*.parquet")] == before


def test_donors_are_all_others_where_none_are_named(photos: Path) -> None:
    made = job_of(photos, donors_from=(), excluded=("bag",)).maker()
    assert made.inputs["donors"] == {"hat": 3}
    # With all subjects, those without a mask drop out.
    made = job_of(photos, subjects=(), donors_from=("hat",)).maker()
    assert made.inputs["photographs"] == {"bag": 3, "cup": 2, "shoe": 3}
    assert made.inputs["without_mask"] == 4


def test_interrupted_and_resumed_is_byte_identical(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_job(job_of(photos), tmp_path / "straight")
    make = BenchmarkMaker.make

    def interrupted(self: BenchmarkMaker, number: int) -> object:
        if number == 6:
            raise KeyboardInterrupt
        return make(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(BenchmarkMaker, "make", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_job(job_of(photos), tmp_path / "halved")
    assert list(shards(tmp_path / "halved")) == ["pairs-00000.parquet"]
    # A killed process cannot remove the file that it was writing.
    cut_off = tmp_path / "halved" / ".pairs-00001.123.tmp.parquet"
    cut_off.write_bytes(b"PAR1")
    run_job(job_of(photos), tmp_path / "halved")
    assert count_pairs(tmp_path / "halved") == 11
    cut_off.unlink()
    for name in ("summary.json", "job.json"):
        assert (tmp_path / "halved" / name).read_text() == (
            tmp_path / "straight" / name
        ).read_text()
    assert shards(tmp_path / "halved") == shards(tmp_path / "straight")


def test_other_settings_and_other_photographs_are_refused(photos: Path, tmp_path: Path) -> None:
    source, out = shutil.copytree(photos, tmp_path / "photos"), tmp_path / "out"
    run_job(job_of(source), out)
    before = shards(out)
    for changes, message in (
        ({"count": 10}, r"count was 9, now 10"),  # a larger benchmark draws other pairs
        ({"donors_from": ("bag", "hat")}, r"donors_from was \['hat', 'bag'\], now"),
    ):
        with pytest.raises(PairingError, match=message):
            run_job(job_of(source, **changes), out)
    with pytest.raises(PairingError, match="protocol was 'benchmark', now 'filtered'"):
        run_job(PairJob(str(source), 9, seed=3), out)
    # A mask more: the shards that are still to be made would be of other photographs.
    shutil.copy(source / "cup" / "0_mask.png", source / "cup" / "2_mask.png")
    (out / "pairs-00001.parquet").unlink()
    with pytest.raises(PairingError, match="without_mask was 1, now 0"):
        run_job(job_of(source), out)
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
        (("--exclude-subjects", "hat", "bag"), "is left for the donors"),
        (("--exclude-subjects", "cup", "shoe"), "is left for the subjects"),
        (("--source", "nowhere"), "nowhere is none"),
        (("--seed", "-1"), "non-negative"),
        (("--size", "8"), "at least 64 pixels"),
        (("--parts", "random", "--area", "0.1", "0.2"), "no use of --parts, --area"),
        (("--protocol", "filtered"), "filtered makes no use of --donors-from"),
    ],
)
def test_wrong_input_is_a_sentence_and_leaves_no_trace(
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
