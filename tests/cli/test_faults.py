"""Disks that are full, folders that cannot be written to, and signals, from the command line."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny_models
from job_inputs import picture, write_model
from PIL import Image, PngImagePlugin

from vsm_fast import VSMScorer
from vsm_fast.cli.main import ExitCode, main

one_thread = tiny_models.one_thread
EXAMPLES = Path(__file__).parents[2] / "examples"
PAIR = [
    "score", "--device", "cpu", "--refs", str(EXAMPLES / "refs/robot_toy/reference.jpg"),
    "--gens", str(EXAMPLES / "gens/robot_toy/other_photo.jpg"),
]  # fmt: skip
# Files may not grow beyond so many bytes: the kernel refuses, as it does on a full disk.
_LIMITED = """
import resource, signal, sys
from vsm_fast.cli.main import main
import vsm_fast.scorer
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
raise SystemExit(main(sys.argv[1:]))
"""
# Coverage writes files, too.
_UNMEASURED = {name: value for name, value in os.environ.items() if "COVERAGE" not in name}
# Slow enough to be met by a signal while it scores, or has written a part; says when it does.
_SLOW = """
import sys, time
import pyarrow.parquet
from vsm_fast.cli import main as cli
from vsm_fast import describer
def slow(*arguments, **settings):
    if sys.argv[1] == "writing":
        open(arguments[1], "wb").write(b"part")
    print("now", flush=True)
    time.sleep(30)
if sys.argv[1] == "scoring":
    describer.Describer.computed = slow
else:
    pyarrow.parquet.write_table = slow
raise SystemExit(cli.main(sys.argv[2:]))
"""


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_a_full_disk_leaves_old_results_and_no_part_of_new_ones(tmp_path: Path) -> None:
    out, maps, cache = tmp_path / "out", tmp_path / "maps", tmp_path / "cache"
    out.mkdir()
    (out / "scores.parquet").write_bytes(b"old")
    (out / "scores.jsonl").write_bytes(b"old")
    for command in (
        [*PAIR, "--out", str(out / "scores.parquet")],
        [*PAIR, "--heatmaps", str(maps)],
    ):
        done = subprocess.run(
            [sys.executable, "-c", _LIMITED, *command],
            capture_output=True, text=True, timeout=300, env=_UNMEASURED,
        )  # fmt: skip
        assert done.returncode == ExitCode.FAILED, done.stderr
        assert os.strerror(errno.EFBIG) in done.stderr
        assert done.stderr.count("\n") == 1
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED, *PAIR, "--cache", str(cache)],
        capture_output=True, text=True, timeout=300, env=_UNMEASURED,
    )  # fmt: skip
    assert files(out) == ["scores.jsonl", "scores.parquet"]
    assert {path.read_bytes() for path in out.iterdir()} == {b"old"}
    assert files(maps) == []
    assert [name for name in files(cache) if not name.startswith("index.sqlite")] == []
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_errors_of_the_disk_are_said_in_one_line(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(pq, "write_table", fail)
    monkeypatch.setattr("os.fsync", fail)
    assert main([*PAIR, "--out", str(tmp_path / "s.parquet"), "-q"]) == ExitCode.FAILED
    assert os.strerror(number) in capsys.readouterr().err
    assert files(tmp_path) == []


def test_a_folder_that_may_not_be_written_to_is_found_before_scoring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write everywhere
    monkeypatch.setattr("vsm_fast.scorer.VSMScorer.from_pretrained", lambda *_: 1 / 0)
    for option, name in (("--out", "a/s.csv"), ("--heatmaps", "b")):
        assert main([*PAIR, option, str(tmp_path / name)]) == ExitCode.USAGE
        assert "cannot be written to" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("sent", "during", "code"),
    [(signal.SIGINT, "scoring", 130), (signal.SIGINT, "writing", 130),
     (signal.SIGTERM, "writing", 143)],
)  # fmt: skip
def test_a_signal_ends_the_run_and_leaves_no_part_of_a_file(
    sent: signal.Signals, during: str, code: int, tmp_path: Path
) -> None:
    out = tmp_path / "scores.parquet"
    out.write_bytes(b"old")
    command = [*PAIR, "--out", str(out), "--heatmaps", str(tmp_path / "maps")]
    with subprocess.Popen(
        [sys.executable, "-c", _SLOW, during, *command],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "now\n"
        time.sleep(0.2)
        process.send_signal(sent)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    assert files(tmp_path) == ["scores.parquet"]
    assert out.read_bytes() == b"old"


@pytest.mark.parametrize("step", ["_open", "tell", "getexif", "load", "convert", "resize"])
def test_an_image_that_does_not_fit_into_memory_costs_its_own_row_only(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large, small = tmp_path / "large.png", tmp_path / "small.jpg"
    Image.new("RGBA", (77, 55), "red").save(large)  # the only PNG, and the only one of its size
    picture(0).save(small)
    scorer = VSMScorer.from_pretrained(write_model(tmp_path / "model"), device="cpu")
    wanted = scorer.score([small], [small], batch_size=1)
    owner = Image.Image if step in ("convert", "resize") else PngImagePlugin.PngImageFile
    plain = getattr(owner, step)

    def fail(image: Image.Image, *arguments: object, **options: object) -> object:
        if owner is Image.Image and image.size != (77, 55):
            return plain(image, *arguments, **options)
        raise MemoryError

    monkeypatch.setattr(owner, step, fail)
    found = scorer.score([small], [small, large, small], batch_size=1)
    assert found.status.tolist() == ["ok", "image_too_large", "ok"]
    assert str(large) in found.reason[1]
    assert "does not fit into" in found.reason[1]
    assert (found.score[[0, 2]] == wanted.score).all()
    assert np.isnan(found.score[1])


# As when a package that imports another one goes on without it.
_SWALLOWED = """
import os, signal
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    raise RuntimeError("half imported")
"""


@pytest.mark.parametrize(
    ("package", "content", "command", "said"),
    [
        ("cyclopts", "raise KeyboardInterrupt", ["-m", "vsm_fast"], "vsm-fast: interrupted"),
        ("torch", "raise KeyboardInterrupt", ["-m", "vsm_fast", "doctor"], "vsm-fast: interrupted"),
        ("torch", _SWALLOWED, ["-m", "vsm_fast", "doctor"], "vsm-fast: interrupted"),
        ("torch", _SWALLOWED, ["export/build_onnx.py"],
         "build_onnx.py: interrupted; nothing was written"),
        ("torch", _SWALLOWED, ["export/build_trt.py"],
         "build_trt.py: interrupted; no plan was written"),
    ],
)  # fmt: skip
def test_ctrl_c_while_packages_are_imported_is_one_line(
    package: str, content: str, command: list[str], said: str, tmp_path: Path
) -> None:
    (tmp_path / f"{package}.py").write_text(content)
    if command[0].startswith("export"):
        command = [*command, "--model", "tiny", "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=120,
        cwd=EXAMPLES.parent, env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (ExitCode.INTERRUPTED, f"{said}\n")
    assert not (tmp_path / "out").exists()
