from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import vsm_fast

ROOT = Path(__file__).parents[1]


def _run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120
    ).stdout.strip()


def test_kernels_and_export_are_installed_under_vsm_fast() -> None:
    code = "import vsm_fast.kernels as k, vsm_fast.export as e; print(k.__file__, e.__file__)"
    kernels, export = _run(code).split()
    assert Path(kernels).parent.name == "kernels"
    assert Path(export).parent.name == "export"


def test_import_loads_no_heavy_package() -> None:
    code = (
        "import sys, vsm_fast; heavy = {'torch', 'diffusers', 'triton', 'pandas', 'pyarrow',"
        "'PIL', 'cv2', 'scipy', 'transformers', 'huggingface_hub'}; print(heavy & set(sys.modules))"
    )
    assert _run(code) == "set()"


def test_the_api_loads_no_diffusers_before_a_model_is_loaded() -> None:
    code = "import sys, vsm_fast; vsm_fast.score_batch; print('diffusers' in sys.modules)"
    assert _run(code) == "False"


def test_the_scorer_loads_no_lab_no_tensorrt_and_no_ray() -> None:
    loaded = _run("import sys, vsm_fast.scorer; print(*sys.modules)").split()
    packages = ("vsm_fast.lab", "vsm_fast.export", "tensorrt", "ray")
    assert not [name for name in loaded if f"{name}.".startswith(tuple(f"{p}." for p in packages))]


def test_every_public_name_can_be_imported() -> None:
    for name in vsm_fast.__all__:
        assert getattr(vsm_fast, name) is not None
    with pytest.raises(AttributeError, match="nothing_like_this"):
        vsm_fast.nothing_like_this  # noqa: B018


def test_the_embedded_model_is_at_most_20_megabytes() -> None:
    folder = ROOT / "vsm_fast" / "models" / "tiny"
    assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) <= 20e6


def test_constraints_min_holds_the_lower_bounds() -> None:
    """Of the core dependencies, torch aside, and of the extra serve."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bounds = {}
    for text in [*project["dependencies"], *project["optional-dependencies"]["serve"]]:
        (bound,) = (requirement := Requirement(text)).specifier
        assert bound.operator == ">="
        bounds[requirement.name.lower()] = Version(bound.version)
    del bounds["torch"]
    pins = (ROOT / "constraints-min.txt").read_text(encoding="utf-8").splitlines()
    parts = (line.split("==") for line in pins if not line.startswith("#"))
    assert {name.lower(): Version(version) for name, version in parts} == bounds


@pytest.mark.slow
def test_the_wheel_of_the_sdist_scores(tmp_path: Path) -> None:
    """Built as a release is; kernels, export, the model and the page's files travel."""
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path, ROOT]
    subprocess.run(build, check=True, capture_output=True, timeout=300)  # the wheel from the sdist
    (wheel,) = tmp_path.glob("*.whl")
    installed = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(installed)
    assert not [path.name for path in installed.iterdir() if path.name in ("tests", "recipes")]
    code = f"""
import sys
sys.path.insert(0, {str(installed)!r})
from pathlib import Path
import numpy as np
import vsm_fast, vsm_fast.export, vsm_fast.report
files = (Path(vsm_fast.export.__file__).with_name("build_trt.py"),
         Path(vsm_fast.report.__file__).parent / "static" / "table.js")
print(vsm_fast.__file__, [path.exists() for path in files])
image = np.random.default_rng(0).integers(0, 255, (96, 96, 3), np.uint8)
print(vsm_fast.score_batch([image], [image]).score.tolist())
"""
    lines = _run(code).splitlines()
    assert lines == [f"{installed / 'vsm_fast' / '__init__.py'} [True, True]", "[1.0]"]
