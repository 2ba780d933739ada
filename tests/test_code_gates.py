"""What the code may not contain: whatever can run what a file says."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("vsm_fast", "kernels", "export", "benchmarks", "examples")
ALLOWED = {("setup.py", "exec")}  # of version.py, which pip cannot import before it is installed

MODULES = {"pickle", "_pickle", "pickletools", "marshal", "shelve", "dill", "cloudpickle", "dbm"}
CALLS = {
    "eval", "exec", "__import__", "os.system", "os.popen", "torch.load", "torch.save",
    "torch.jit.load", "torch.hub.load", "joblib.load", "joblib.dump", "yaml.load", "yaml.load_all",
    "yaml.unsafe_load", "yaml.unsafe_load_all", "yaml.full_load", "yaml.full_load_all",
}  # fmt: skip
METHODS = {"read_pickle", "to_pickle", "load_module", "exec_module"}
# Arguments, and the only value that each may have.
SETTINGS = {
    "allow_pickle": False, "trust_remote_code": False, "shell": False,
    "weights_only": True, "use_safetensors": True, "safe_serialization": True,
}  # fmt: skip


def findings(code: str) -> list[str]:
    """Forbidden names of a module, in the order of its syntax tree."""
    tree = ast.parse(code)
    names = _imported(tree)
    return [found for node in ast.walk(tree) for found in _in_node(node, names)]


def _imported(tree: ast.Module) -> dict[str, str]:
    """What each imported name stands for: ``import numpy as np`` -> ``np: numpy``."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.partition(".")[0]
                names[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def _in_node(node: ast.AST, names: dict[str, str]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (a.name for a in node.names if a.name.partition(".")[0] in MODULES)
    elif isinstance(node, ast.ImportFrom):
        if (node.module or "").partition(".")[0] in MODULES:
            yield str(node.module)
        yield from (n for a in node.names if (n := f"{node.module}.{a.name}") in CALLS)
    elif isinstance(node, ast.Name | ast.Attribute):
        name = _dotted(node, names)
        if name in CALLS or (isinstance(node, ast.Attribute) and node.attr in METHODS):
            yield name or f".{node.attr}"  # type: ignore[union-attr]
    elif isinstance(node, ast.Call):
        for argument in node.args:  # importlib.import_module("pickle")
            if isinstance(argument, ast.Constant) and argument.value in MODULES:
                yield str(argument.value)
    elif isinstance(node, ast.keyword) and _wrong(node.arg, node.value):
        yield str(node.arg)
    elif isinstance(node, ast.Dict):  # {"trust_remote_code": True}, for ** later
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and _wrong(key.value, value):
                yield str(key.value)


def _dotted(node: ast.AST, names: dict[str, str]) -> str | None:
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute) and (base := _dotted(node.value, names)) is not None:
        return f"{base}.{node.attr}"
    return None


def _wrong(name: object, value: ast.AST) -> bool:
    if not isinstance(name, str) or name not in SETTINGS:
        return False
    return not (isinstance(value, ast.Constant) and value.value is SETTINGS[name])


def test_no_code_runs_what_a_file_says() -> None:
    files = [ROOT / "setup.py", *(p for name in FOLDERS for p in (ROOT / name).rglob("*.py"))]
    assert len(files) > 150
    found = {
        (path.relative_to(ROOT).as_posix(), name)
        for path in files
        for name in findings(path.read_text(encoding="utf-8"))
    }
    assert found == ALLOWED


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("import pickle", "pickle"),
        ("import os, marshal as m", "marshal"),
        ("from shelve import open as o", "shelve"),
        ("def f():\n    import cloudpickle.x", "cloudpickle.x"),
        ("import importlib; importlib.import_module('pickle')", "pickle"),
        ("import torch; torch.load(p)", "torch.load"),
        ("import torch as t; f = t.load", "torch.load"),
        ("from torch import load as l", "torch.load"),
        ("from torch import jit; jit.load(p)", "torch.jit.load"),
        ("import joblib; joblib.load(p)", "joblib.load"),
        ("import yaml; yaml.load(f, Loader=L)", "yaml.load"),
        ("import yaml as y; y.unsafe_load(f)", "yaml.unsafe_load"),
        ("np.load(p, allow_pickle=True)", "allow_pickle"),
        ("np.load(p, allow_pickle=wanted)", "allow_pickle"),
        ("f(trust_remote_code=True)", "trust_remote_code"),
        ("f(**{'trust_remote_code': True})", "trust_remote_code"),
        ("read(p, weights_only=False)", "weights_only"),
        ("f(use_safetensors=None)", "use_safetensors"),
        ("subprocess.run(c, shell=True)", "shell"),
        ("eval(text)", "eval"),
        ("run = exec", "exec"),
        ("import os; os.system(c)", "os.system"),
        ("pd.read_pickle(p)", "pd.read_pickle"),
        ("frame().to_pickle(p)", ".to_pickle"),
    ],
)
def test_what_is_forbidden_is_found(code: str, name: str) -> None:
    assert name in findings(code)


@pytest.mark.parametrize(
    "code",
    [
        "model.eval()",
        "import yaml; yaml.safe_load(f)",
        "from safetensors.torch import load; load(b)",
        "np.load(p, allow_pickle=False)",
        "f(trust_remote_code=False, weights_only=True)",
        "json.loads(text)  # never pickle.loads",
    ],
)
def test_what_is_allowed_is_not(code: str) -> None:
    assert findings(code) == []
