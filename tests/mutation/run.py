"""Mutation testing: which small mistakes in a module its tests would not notice.

    python tests/mutation/run.py vsm_fast/matching/scoring.py tests/matching/test_scoring.py [pytest's options]

Each mutant runs in a fork of a pytest that is about to collect its tests and has imported all of
other projects that they need, so that a mutant costs little more than the tests themselves. Exit
status 1: a mutant survived that ``equivalent.txt`` does not explain.
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
# Without the plugins that write, collect garbage or ask git, once in each fork.
WITHOUT = ("cacheprovider", "unraisableexception", "benchmark")


class MutantFinder(SourceFileLoader):
    """Finds one module, and loads a mutant in its place."""

    def __init__(self, path: Path, tree: ast.Module) -> None:
        super().__init__(".".join(path.relative_to(ROOT).with_suffix("").parts), str(path))
        self.tree = tree

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        """The finder's part of the import protocol."""
        return spec_from_file_location(name, self.path, loader=self) if name == self.name else None

    def get_code(self, fullname: str) -> CodeType:
        """The loader's part of the import protocol."""
        return compile(self.tree, self.path, "exec")


class Forks:
    """Pytest plugin: a fork of the session for each mutant, before anything is collected.

    Args:
        module: The file that is mutated.
        only: Names of the mutants to run; None runs all.
        equivalent: Names of those that no test can notice.
    """

    def __init__(self, module: Path, only: set[str] | None, equivalent: set[str]) -> None:
        self.module, self.only, self.equivalent = module, only, equivalent
        self.counts = Counter[str]()
        self.answer: int | None = None  # in a fork, where it says how its tests went
        self.failed = self.why = ""

    def pytest_collection(self) -> bool | None:
        """In the forks None, so that collection goes on; True is its end."""
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
        gc.freeze()  # what no fork touches is shared
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
        """What a fork with a mutated module said of its tests; in the fork nothing."""
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
        """Called by pytest after each file."""
        self._note(report)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called by pytest after each part of each test."""
        self._note(report)

    def _note(self, report: pytest.CollectReport | pytest.TestReport) -> None:
        if report.failed and not self.failed:
            self.failed, self.why = report.nodeid, report.longreprtext

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """The end of a fork."""
        if self.answer is not None:
            if exitstatus and not self.failed:
                self.failed = f"pytest's exit status {int(exitstatus)}"
            said = {"failed": self.failed, "why": self.why, "modules": list(sys.modules)}
            with os.fdopen(self.answer, "w", encoding="utf-8") as pipe:
                json.dump(said, pipe)
            os._exit(0)


def import_others(modules: list[str]) -> None:
    """Import what the tests import, except this repository, whose modules use the mutated one."""
    ours = {"vsm_fast", "tests", "benchmarks", *(path.stem for path in ROOT.glob("tests/*.py"))}
    for name in modules:
        if name.split(".")[0] not in ours:
            # Some names in sys.modules are not of files, and are made again by their makers.
            with contextlib.suppress(ImportError):
                importlib.import_module(name)


def equivalents(module: Path) -> set[str]:
    """Names of the mutants of a file that ``equivalent.txt`` explains."""
    sections = EQUIVALENT.read_text(encoding="utf-8").split("\n[")
    mine = [part.partition("]\n")[2] for part in sections if part.startswith(f"{module}]")]
    return {line for part in mine for line in part.splitlines() if line and line[0] != "#"}


def survivors(output: Path) -> set[str]:
    """Names of the mutants that survived, from what an earlier run printed."""
    lines = output.read_text(encoding="utf-8").splitlines()
    return {line.split(maxsplit=2)[2] for line in lines if line.startswith("SURVIVED")}


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Mutation testing; see the head of this file.")
    parser.add_argument("module", type=Path, help="such as vsm_fast/matching/scoring.py")
    parser.add_argument(
        "--again", type=Path, metavar="FILE", help="only what survived in this earlier output"
    )
    arguments, options = parser.parse_known_args()
    if not (ROOT / arguments.module).is_file():
        parser.error(f"module must be a file's path from {ROOT}; got {arguments.module}.")
    only = survivors(arguments.again) if arguments.again else None
    os.chdir(ROOT)
    began = time.monotonic()
    # The same examples each time, not from the last run, and no time spent on simpler ones.
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
