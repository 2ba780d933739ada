"""Mutation testing of one module with selected tests.

    python tests/mutation/run.py vsm_fast/matching/scoring.py tests/matching/test_scoring.py

Each mutant runs in a fork of a pytest session with all third-party imports done, so it costs
little more than its tests. Exit status 1: a surviving mutant is not in ``equivalent.txt``.

Not cosmic-ray, which starts a process per mutant (importing torch takes seconds), nor mutmut,
which has no list of equivalent mutants with reasons.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import gc
import importlib
import json
import os
import signal
import sys
import time
from collections import Counter
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType
from typing import Any

import hypothesis
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from operators import mutants

ROOT = Path(__file__).parents[2]
EQUIVALENT = Path(__file__).with_name("equivalent.txt")
# Plugins that write files, collect garbage or run git in every fork.
WITHOUT = ("cacheprovider", "unraisableexception", "benchmark")


class MutantFinder(SourceFileLoader):
    """Import finder that replaces one module by a mutant."""

    def __init__(self, path: Path, tree: ast.Module) -> None:
        super().__init__(".".join(path.relative_to(ROOT).with_suffix("").parts), str(path))
        self.tree = tree

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        """Return the spec of the module (import protocol)."""
        return spec_from_file_location(name, self.path, loader=self) if name == self.name else None

    def get_code(self, fullname: str) -> CodeType:
        """Return the mutant's code (import protocol)."""
        return compile(self.tree, self.path, "exec")


class Forks:
    """Pytest plugin that forks the session per mutant, before collection.

    Args:
        module: File to mutate.
        only: Names of the mutants to run; None runs all.
        equivalent: Names of mutants that no test can detect.
    """

    def __init__(self, module: Path, only: set[str] | None, equivalent: set[str]) -> None:
        self.module, self.only, self.equivalent = module, only, equivalent
        self.counts = Counter[str]()
        self.answer: int | None = None  # in a fork, the pipe for its result
        self.failed = self.why = ""

    def pytest_collection(self) -> bool | None:
        """Return None in a fork, which continues with collection; True ends it."""
        source = self.module.read_text(encoding="utf-8")
        began = time.monotonic()
        plain = self._fork(ast.parse(source), 600)
        if self.answer is not None:
            return None
        if plain["failed"]:
            pytest.exit(f"The tests fail without a mutation: {plain}", 2)
        limit = int(5 * (time.monotonic() - began)) + 10
        import_others(plain["modules"])
        gc.collect()
        gc.freeze()  # keeps untouched pages shared
        made = mutants(source)
        for name in sorted(self.equivalent - {mutant.name for mutant in made}):
            print(f"NO MORE         {name}")
            self.counts["no more"] += 1
        for mutant in made:
            if self.only is not None and mutant.name not in self.only:
                continue
            failed = self._fork(mutant.tree, limit)["failed"]
            if self.answer is not None:
                return None
            survived = "equivalent" if mutant.name in self.equivalent else "SURVIVED"
            verdict = "killed" if failed else survived
            self.counts[verdict] += 1
            print(f"{verdict:10} {mutant.line:4} {mutant.name}")
            if failed:
                print(f"{'by':>15} {failed}", flush=True)
        return True

    def _fork(self, tree: ast.Module, limit: int) -> dict[str, Any]:
        """Run the tests in a fork with a mutant and return their result."""
        reading, writing = os.pipe()
        child = os.fork()
        if child:
            os.close(writing)
            with os.fdopen(reading, encoding="utf-8") as pipe:
                said = pipe.read()
            os.waitpid(child, 0)
            return json.loads(said or '{"failed": "its process, which died or took too long"}')
        self.answer = writing
        signal.alarm(limit)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        finder = MutantFinder(self.module, tree)
        if finder.name in sys.modules:
            raise RuntimeError(f"conftest.py imports {finder.name} before it can be mutated.")
        sys.meta_path.insert(0, finder)
        return {"failed": ""}

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Record a failed collection (pytest hook)."""
        self._note(report)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record a failed test (pytest hook)."""
        self._note(report)

    def _note(self, report: pytest.CollectReport | pytest.TestReport) -> None:
        if report.failed and not self.failed:
            self.failed, self.why = report.nodeid, report.longreprtext

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Send the result and end the fork (pytest hook)."""
        if self.answer is not None:
            if exitstatus and not self.failed:
                self.failed = f"pytest's exit status {int(exitstatus)}"
            said = {"failed": self.failed, "why": self.why, "modules": list(sys.modules)}
            with os.fdopen(self.answer, "w", encoding="utf-8") as pipe:
                json.dump(said, pipe)
            os._exit(0)


def import_others(modules: list[str]) -> None:
    """Import the tests' third-party modules; this repository's own use the mutant."""
    ours = {
        "vsm_fast",
        "tests",
        "benchmarks",
        *(path.stem for path in ROOT.glob("tests/helpers/*.py")),
    }
    for name in modules:
        if name.split(".")[0] not in ours:
            # Some entries of sys.modules have no file.
            with contextlib.suppress(ImportError):
                importlib.import_module(name)


def equivalents(module: Path) -> set[str]:
    """Return the names of a file's mutants in ``equivalent.txt``."""
    sections = EQUIVALENT.read_text(encoding="utf-8").split("\n[")
    mine = [part.partition("]\n")[2] for part in sections if part.startswith(f"{module}]")]
    return {line for part in mine for line in part.splitlines() if line and line[0] != "#"}


def survivors(output: Path) -> set[str]:
    """Return the names of the surviving mutants in an earlier output."""
    lines = output.read_text(encoding="utf-8").splitlines()
    return {line.split(maxsplit=2)[2] for line in lines if line.startswith("SURVIVED")}


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Mutation testing; see the head of this file.")
    parser.add_argument("module", type=Path, help="such as vsm_fast/matching/scoring.py")
    parser.add_argument(
        "--again", type=Path, metavar="FILE", help="run only the survivors of this earlier output"
    )
    arguments, options = parser.parse_known_args()
    if not (ROOT / arguments.module).is_file():
        parser.error(f"module must be a file's path from {ROOT}; got {arguments.module}.")
    only = survivors(arguments.again) if arguments.again else None
    os.chdir(ROOT)
    began = time.monotonic()
    # Reproducible examples, without the database and without shrinking.
    hypothesis.settings.register_profile(
        "mutation", derandomize=True, database=None, phases=[hypothesis.Phase.generate]
    )
    hypothesis.settings.load_profile("mutation")
    forks = Forks(ROOT / arguments.module, only, equivalents(arguments.module))
    without = [f"-pno:{name}" for name in WITHOUT]
    status = pytest.main(
        ["-x", "-s", "-qq", "--disable-warnings", *without, *options], plugins=[forks]
    )
    counts = forks.counts
    mattering = counts["killed"] + counts["SURVIVED"]
    if not mattering:
        return int(status)
    print(
        f"{arguments.module}: {counts['killed']} mutants killed, {counts['SURVIVED']} survived, "
        f"{counts['equivalent']} equivalent; {counts['killed'] / mattering:.1%} of the others "
        f"killed, {time.monotonic() - began:.0f} s"
    )
    return 1 if counts["SURVIVED"] or counts["no more"] else 0


if __name__ == "__main__":
    sys.exit(main())
