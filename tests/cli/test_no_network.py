"""The main jobs ask no network: each attempt would be an error, and is written down."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Python runs a sitecustomize before anything else. An audit hook sees what sockets do in any
# thread, also under names that were imported before a test could replace them.
GUARD = """
import os, sys
def guard(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.sendmsg") \\
            or event == "socket.connect" and isinstance(arguments[1], tuple):
        with open(os.environ["ATTEMPTS"], "a") as file:
            print(event, arguments[1:] if event == "socket.connect" else arguments, file=file)
        raise OSError("no network in this test")
sys.addaudithook(guard)
"""


def guarded(tmp_path: Path, code: str, *arguments: str) -> tuple[subprocess.CompletedProcess, str]:
    """Run code, and what it tried of the network."""
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(GUARD)
    attempts = tmp_path / "attempts"
    attempts.touch()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    path = os.pathsep.join([str(tmp_path / "guard"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**environment, "PYTHONPATH": path, "ATTEMPTS": str(attempts), "OMP_NUM_THREADS": "1"},
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    return done, attempts.read_text()


def test_scores_reports_and_pairs_ask_nothing(tmp_path: Path) -> None:
    scores, page, pairs = (str(tmp_path / name) for name in ("s.parquet", "s.html", "pairs"))
    commands = [
        ["score", "--refs", "examples/refs/robot_toy", "--gens", "examples/gens/robot_toy",
         "--out", scores, "--points", "--heatmaps", str(tmp_path / "maps")],
        ["report", scores, "--out", page],
        ["make-pairs", "--source", "examples/refs/robot_toy/reference.jpg", "--parts", "random",
         "--count", "1", "--size", "96", "--out", pairs],
    ]  # fmt: skip
    code = """
import json, sys
from vsm_fast.cli.main import main
for command in json.loads(sys.argv[1]):
    code = main(command)
    assert code == 0, (command, code)
"""
    done, attempts = guarded(tmp_path, code, json.dumps(commands))
    assert done.returncode == 0, done.stderr[-2000:]
    assert attempts == ""
    assert len(list((tmp_path / "maps").iterdir())) == 2
    assert Path(page).stat().st_size > 10_000
    assert list(Path(pairs).glob("*.parquet"))


def test_attempts_are_seen(tmp_path: Path) -> None:
    attempts = (
        "socket.create_connection(('192.0.2.1', 80), 1)",
        "socket.socket().connect(('192.0.2.1', 80))",
        "urllib.request.urlopen('http://example.invalid/')",
        "find_model('org/absent')",
    )
    code = """
import os, socket, urllib.request
from pathlib import Path
from vsm_fast.model.location import find_model
"""
    for attempt in attempts:
        code += f"""
try: {attempt}
except Exception: print("END", file=Path(os.environ["ATTEMPTS"]).open("a"))
"""
    _, seen = guarded(tmp_path, code)
    assert len(parts := seen.split("END\n")) == len(attempts) + 1
    assert all(parts[:-1])
