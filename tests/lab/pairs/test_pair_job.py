"""The job behind ``make-pairs``: pairs, resuming, refusals, command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pretrained_models import save_sd2_inpainting

from vsm_fast.cli.main import ExitCode, main
from vsm_fast.errors import PairingError
from vsm_fast.jobs.job_folder import only_writer
from vsm_fast.lab.pairs import pair_job, pair_pipeline
from vsm_fast.lab.pairs.pair_job import PairJob, make_pairs_job
from vsm_fast.lab.pairs.pair_pipeline import PairMaker, PairSettings
from vsm_fast.lab.pairs.pair_shards import read_pairs
from vsm_fast.lab.pairs.pairs import ControlledPair

EXAMPLES = Path(__file__).parents[3] / "examples" / "refs"
QUICK = PairSettings(size=96)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_job, "SHARD", 4)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    y, x = np.mgrid[:100, :120]
    for number, subject in enumerate(("cup", "shoe")):
        for name in ("00", "01"):
            rng = np.random.default_rng((number, int(name)))
            pixels = np.kron(rng.integers(0, 256, (10, 12, 3)), np.ones((10, 10, 1)))
            mask = (x - 60) ** 2 + (y - 50) ** 2 < 35**2
            (root / subject).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(root / subject / f"{name}.png")
            Image.fromarray(mask.astype(np.uint8) * 255).save(root / subject / f"{name}_mask.png")
    return root


def _job(photos: Path, **changes: object) -> PairJob:
    job = PairJob(str(photos), 10, parts="random", kinds=("recolour", "pattern"), settings=QUICK)
    return replace(job, **changes)  # type: ignore[arg-type]


def _same(first: list[ControlledPair], second: list[ControlledPair]) -> bool:
    return [p.id for p in first] == [p.id for p in second] and all(
        np.array_equal(a.altered_1, b.altered_1) and np.array_equal(a.part_1, b.part_1)
        for a, b in zip(first, second, strict=True)
    )


def test_pairs_match_their_settings(photos: Path, tmp_path: Path) -> None:
    settings = replace(QUICK, unaltered=0.25, other_subjects=0.25)
    summary = make_pairs_job(_job(photos, count=24, settings=settings), tmp_path / "out")
    pairs = list(read_pairs(tmp_path / "out"))
    assert len(pairs) == summary["pairs"] == 24
    assert len({pair.id for pair in pairs}) == 24
    assert set(summary["kinds"]) == {"none", "other subject", "recolour", "pattern"}
    for pair in pairs:
        assert max(pair.mask_1.shape) == 96
        assert not (pair.part_1 & ~pair.mask_1).any()
        same = np.array_equal(pair.altered_1, pair.original_1)
        assert same == (pair.kind in ("none", "other subject"))
        assert np.array_equal(pair.altered_1[~pair.part_1], pair.original_1[~pair.part_1])
        share = 1 - pair.oracle
        expected = {"none": (0, 0), "other subject": (1, 1)}.get(pair.kind, QUICK.area)
        assert expected[0] <= share <= expected[1]
        subjects = {origin.split("/")[0] for origin in pair.provenance["origins"]}
        assert len(subjects) == (2 if pair.kind == "other subject" else 1)
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == summary


def test_an_interrupted_job_resumes(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_pairs_job(_job(photos), tmp_path / "straight")
    make = PairMaker.make

    def interrupted(self: PairMaker, number: int) -> object:
        if number == 6:
            raise KeyboardInterrupt
        return make(self, number)

    monkeypatch.setattr(PairMaker, "make", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_pairs_job(_job(photos), tmp_path / "halved")
    finished = sorted(path.name for path in (tmp_path / "halved").glob("*.parquet"))
    assert finished == ["pairs-00000.parquet"]
    before = (tmp_path / "halved" / finished[0]).stat().st_mtime_ns
    monkeypatch.setattr(PairMaker, "make", make)
    make_pairs_job(_job(photos), tmp_path / "halved")
    assert (tmp_path / "halved" / finished[0]).stat().st_mtime_ns == before
    straight, halved = (list(read_pairs(tmp_path / name)) for name in ("straight", "halved"))
    assert _same(straight, halved)
    # A larger job extends the finished one.
    make_pairs_job(_job(photos, count=12), tmp_path / "halved")
    longer = list(read_pairs(tmp_path / "halved"))
    assert len(longer) == 12
    assert _same(longer[:10], straight)
    with pytest.raises(PairingError, match="count was 12, now 6"):
        make_pairs_job(_job(photos, count=6), tmp_path / "halved")


def test_processes_make_the_same_pairs(photos: Path, tmp_path: Path) -> None:
    make_pairs_job(_job(photos, count=3), tmp_path / "one")
    make_pairs_job(_job(photos, count=3), tmp_path / "two", workers=2)
    assert _same(list(read_pairs(tmp_path / "one")), list(read_pairs(tmp_path / "two")))


def test_another_job_is_refused_with_the_difference(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    make_pairs_job(_job(photos, count=2), out)
    with pytest.raises(PairingError, match=r"seed was 0, now 1"):
        make_pairs_job(_job(photos, count=2, seed=1), out)
    (out / "job.json").unlink()
    with pytest.raises(PairingError, match=r"no job.json"):
        make_pairs_job(_job(photos, count=2), out)


def test_a_folder_has_one_writer(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["make-pairs", "--source", str(photos), "--out", str(tmp_path / "out")]
    command += ["--parts", "random", "--count", "1", "--size", "96"]
    (tmp_path / "out").mkdir()
    with only_writer(tmp_path / "out"):
        assert main(command) != ExitCode.OK
    assert "another process" in capsys.readouterr().err
    assert main(command) == ExitCode.OK


def test_a_failed_start_keeps_the_short_shard(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_pairs_job(_job(photos, count=3), tmp_path)
    before = (tmp_path / "pairs-00000.parquet").read_bytes()

    def missing(job: PairJob) -> PairMaker:
        raise PairingError("no source")

    with monkeypatch.context() as patch:
        patch.setattr(PairJob, "open", missing)
        with pytest.raises(PairingError, match="no source"):
            make_pairs_job(_job(photos, count=4), tmp_path)
    assert (tmp_path / "pairs-00000.parquet").read_bytes() == before
    assert make_pairs_job(_job(photos, count=4), tmp_path)["pairs"] == 4


def test_weights_are_recorded_and_other_weights_refused(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, other = (save_sd2_inpainting(tmp_path / name) for name in ("sd2", "other"))
    out = tmp_path / "out"
    base = [
        "make-pairs", "--source", str(photos), "--out", str(out), "--parts", "random",
        "--size", "96", "--alterer", "sd2-inpainting", "--count",
    ]  # fmt: skip
    assert main([*base, "1", "--alterer-model", str(model)]) in (ExitCode.OK, ExitCode.UNSCORED)
    assert f"weights: alterer {model}" in capsys.readouterr().out
    job = json.loads((out / "job.json").read_text())
    assert job["alterer_model"] == job["inputs"]["alterer"] == str(model)
    assert main([*base, "2", "--alterer-model", str(other)]) == ExitCode.USAGE
    assert f"alterer_model was {str(model)!r}, now {str(other)!r}" in capsys.readouterr().err
    # The same name with another commit in the Hub's cache is refused, too.
    job["inputs"]["alterer"] = "owner/name@0123"
    (out / "job.json").write_text(json.dumps(job))
    assert main([*base, "2", "--alterer-model", str(model)]) == ExitCode.USAGE
    assert "from other inputs: alterer was 'owner/name@0123'" in capsys.readouterr().err
    for wrong, code, message in (
        (["--sam-model", "owner/sam"], ExitCode.USAGE, "select the masker grounded-sam"),
        (["--alterer-model", "owner/name@"], ExitCode.USAGE, "owner/name@revision"),
        (["--alterer-model", "nowhere"], ExitCode.MODEL, "neither a folder nor a Hub"),
    ):
        place = [*base[:4], str(tmp_path / "x"), *base[5:]]
        assert main([*place, "1", *wrong]) == code
        assert message in capsys.readouterr().err
        assert not (tmp_path / "x").exists()


def test_rejections_are_counted_and_a_pair_is_given_up(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Matches of a similarity above 1 do not exist: every altered pair is rejected."""
    monkeypatch.setattr(pair_pipeline, "_TRIES", 3)
    settings = replace(QUICK, similarity=1.01, unaltered=0.0)
    job = _job(photos, count=1, parts="descriptors", settings=settings)
    summary = make_pairs_job(job, tmp_path / "out")
    assert summary["pairs"] == 0
    assert summary["given_up"] == 1
    assert summary["rejected"] == {"too few trusted matches": 3}


def test_parts_at_trusted_matches_of_real_photographs(tmp_path: Path) -> None:
    job = PairJob(str(EXAMPLES), 3, seed=1, settings=PairSettings(size=192, unaltered=0.0))
    make_pairs_job(job, tmp_path)
    pairs = list(read_pairs(tmp_path))
    assert len(pairs) >= 2
    for pair in pairs:
        assert pair.part_2 is not None
        assert pair.points is not None
        x, y = np.floor(pair.points[:, :2]).astype(int).T
        assert pair.mask_1[y, x].mean() > 0.9


def test_the_command(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    base = ["make-pairs", "--source", str(photos), "--out", str(out), "--parts", "random"]
    assert main([*base, "--count", "3", "--size", "96"]) == ExitCode.OK
    assert "3 pairs of 3 tried" in capsys.readouterr().out
    with Image.open(out / "contact_sheet.png") as sheet:
        assert sheet.width > 3 * 160
    for wrong, message in (
        (["--kinds", "melt"], "kinds must be of"),
        (["--area", "0.6", "0.1"], "area must rise"),
        (["--masker", "magic"], "Choose one of grabcut"),
        (["--skewness", "some"], "could not convert"),
        (["--seed", "5"], "another job"),
    ):
        place = base if wrong[0] == "--seed" else [*base[:4], str(tmp_path / "x"), *base[5:]]
        assert main([*place, "--count", "3", "--size", "96", *wrong]) == ExitCode.USAGE
        assert message in capsys.readouterr().err
    for source, message in (
        (str(tmp_path / "none"), "does not exist"),
        ("procedural", "photographs"),
    ):
        assert (
            main(["make-pairs", "--source", source, "--out", str(tmp_path / "y")]) == ExitCode.USAGE
        )
        assert message in capsys.readouterr().err
