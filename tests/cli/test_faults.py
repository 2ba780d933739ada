"""Full disks, read-only folders, missing memory and signals, from the command line."""

from __future__ import annotations

import errno
import json
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
from vsm_fast.describer import Describer

one_thread = tiny_models.one_thread
EXAMPLES = Path(__file__).parents[2] / "examples"
PAIR = [
    "score", "--device", "cpu", "--refs", str(EXAMPLES / "refs/robot_toy/reference.jpg"),
    "--gens", str(EXAMPLES / "gens/robot_toy/other_photo.jpg"),
]  # fmt: skip
# The kernel refuses files above a size limit, as it does on a full disk.
_LIMITED = """
import json, resource, signal, sys
from vsm_fast.cli.main import main
import vsm_fast.scorer
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
for command in json.loads(sys.argv[1]):
    print("exit", main(command), file=sys.stderr)
"""
# Coverage writes files, too.
_UNMEASURED = {name: value for name, value in os.environ.items() if "COVERAGE" not in name}


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_a_full_disk_keeps_old_results_and_leaves_no_partial_files(tmp_path: Path) -> None:
    out, maps, cache = tmp_path / "out", tmp_path / "maps", tmp_path / "cache"
    out.mkdir()
    for name in ("scores.parquet", "scores.jsonl"):
        (out / name).write_bytes(b"old")
    options = (["--out", str(out / "scores.parquet")], ["--heatmaps", str(maps)],
               ["--cache", str(cache)])  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED, json.dumps([[*PAIR, *option] for option in options])],
        capture_output=True, text=True, timeout=300, env=_UNMEASURED,
    )  # fmt: skip
    to_file, end, to_maps, end_of_maps, *_ = done.stderr.splitlines()
    for line in (to_file, to_maps):
        assert os.strerror(errno.EFBIG) in line
    assert end == end_of_maps == f"exit {ExitCode.FAILED:d}"
    assert "Traceback" not in done.stderr
    assert files(out) == ["scores.jsonl", "scores.parquet"]
    assert {path.read_bytes() for path in out.iterdir()} == {b"old"}
    assert files(maps) == []
    assert [name for name in files(cache) if not name.startswith("index.sqlite")] == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_disk_errors_take_one_line(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(pq, "write_table", fail)
    monkeypatch.setattr("os.fsync", fail)
    assert main([*PAIR, "--out", str(tmp_path / "s.parquet"), "-q"]) == ExitCode.FAILED
    assert os.strerror(number) in capsys.readouterr().err
    assert files(tmp_path) == []


def test_a_read_only_folder_is_refused_before_scoring(
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
def test_a_signal_ends_the_run_and_leaves_no_partial_files(
    sent: signal.Signals, during: str, code: int, tmp_path: Path
) -> None:
    folder, log = tmp_path / "out", tmp_path / "log"
    folder.mkdir()
    out = folder / "scores.parquet"
    out.write_bytes(b"old")
    ready, started = os.pipe()

    def wait(*arguments: object, **_: object) -> None:
        if during == "writing":
            Path(str(arguments[1])).write_bytes(b"part")
        os.write(started, b"1")
        time.sleep(60)

    child = os.fork()
    if child == 0:
        exit_code = 70
        try:
            sys.stderr = log.open("w", buffering=1)
            if during == "scoring":
                Describer.compute = wait  # type: ignore[assignment,method-assign]
            else:
                pq.write_table = wait
            exit_code = main([*PAIR, "--out", str(out), "--heatmaps", str(folder / "maps")])
        except SystemExit as error:
            exit_code = int(str(error.code))
        finally:
            os._exit(exit_code)
    os.close(started)  # a child that ends early closes the pipe: the test fails, and does not wait
    assert os.read(ready, 1), log.read_text()
    os.kill(child, sent)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == code, log.read_text()
    assert "Traceback" not in log.read_text()
    assert files(folder) == ["scores.parquet"]
    assert out.read_bytes() == b"old"


@pytest.mark.parametrize("step", ["_open", "tell", "getexif", "load", "convert", "resize"])
def test_an_image_larger_than_memory_fails_alone(
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


# A package that swallows the interrupt of a package it imports.
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
def test_ctrl_c_during_imports_takes_one_line(
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
