"""The documentation builds without a warning: no dead link, no docstring that cannot be read."""

import subprocess
import sys
from pathlib import Path

import vsm_fast

ROOT = Path(__file__).parents[1]


def test_the_pages_build_and_every_public_name_is_in_the_reference(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", str(tmp_path / "read"),
         str(ROOT / "docs"), str(tmp_path / "html")],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    reference = (tmp_path / "html/reference/api.html").read_text(encoding="utf-8")
    functions = [name for name in vsm_fast.__all__ if name != "__version__"]
    assert [name for name in functions if f".{name}" not in reference] == []
