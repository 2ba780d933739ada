"""GPU checklist: each step runs in its own process with its own time limit.

A step that fails or exceeds its limit is recorded with its rows so far; the next one runs anyway.
Results are written after each step.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks.gpu.report import Results, markdown

ROOT = Path(__file__).parents[2]
NO_GPU = 3  # exit code
BUDGET = 470  # seconds for all steps: one call ends within eight minutes
# Name, module, limit in seconds. Most steps take less; the last one may not fit.
STEPS = (
    ("environment", "environment", 30),
    ("native tests", "native_tests", 90),
    ("tuning", "tuning", 70),
    ("matching", "matching", 60),
    ("extraction", "extraction", 60),
    ("throughput", "throughput", 50),
    ("levers", "levers", 120),
    ("group norm", "group_norm", 60),
)
# Separate calls (--only): exporting and building a network of this size takes minutes.
EXPORTS = (
    ("ONNX Runtime", "onnx_runtime", 180),
    ("TensorRT", "tensorrt", 400),
)
Run = Callable[[str, Path, float], str | None]


def run_step(module: str, rows: Path, seconds: float, *arguments: str) -> str | None:
    """Run a step that writes JSON lines to ``rows``; return an error message or None.

    A step that exceeds its limit is killed with its children, which would disturb the next step.
    """
    environment = {**os.environ, "VSM_RESULTS": str(rows.parent), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "benchmarks.gpu", "--step", module, "--out", str(rows)]
    with subprocess.Popen(
        [*command, *arguments], cwd=ROOT, env=environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            _, complaint = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            return f"stopped after {seconds:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        return f"exit code {process.returncode}: {complaint.strip()[-600:]}"
    return None


def run_checklist(
    out: Path, budget: float, only: Sequence[str] = (), run: Run = run_step
) -> Results:
    """Run the steps that fit into ``budget`` seconds; write the results after each."""
    results: Results = {}
    until = time.monotonic() + budget
    out.mkdir(parents=True, exist_ok=True)
    for name, module, seconds in (*STEPS, *EXPORTS):
        if module not in (only or [module for _, module, _ in STEPS]):
            continue
        left = until - time.monotonic()
        if left < 5:
            results[name] = [{"error": "no time left"}]
        elif module == "matching" and not _green(results, only):
            results[name] = [{"error": "not measured: the kernel tests fail"}]
        else:
            print(f"{name} (at most {min(seconds, left):.0f} s) ...", flush=True)
            path = out / f"{module}.jsonl"
            path.unlink(missing_ok=True)
            wrong = run(module, path, min(seconds, left))
            lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
            results[name] = [json.loads(line) for line in lines]
            results[name] += [{"error": wrong}] if wrong else []
            path.unlink(missing_ok=True)
        _write(out, results)
    return results


def _green(results: Results, only: Sequence[str]) -> bool:
    if only and "native_tests" not in only:
        return True  # the caller chose to measure without the tests
    return any(row.get("green") for row in results.get("native tests", []))


def _write(out: Path, results: Results) -> None:
    found = next(iter(results.get("environment", [])), {})
    name = "-".join(str(found.get("gpu", "unknown")).lower().split())
    name = f"{name}-{found.get('date', 'undated')}"
    if exports := [module for step, module, _ in EXPORTS if step in results]:
        name = "-".join([name, *exports])  # separate from the other steps' results
    (out / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (out / f"{name}.md").write_text(markdown(results), encoding="utf-8")


def _one_step(module: str, rows: Path, quick: bool) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    step = importlib.import_module(f"benchmarks.gpu.{module}")
    with rows.open("w", encoding="utf-8") as file:
        for row in step.run(device, quick=quick):
            print(json.dumps(row), file=file, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all or some steps, or in a step's process one."""
    names = [module for _, module, _ in (*STEPS, *EXPORTS)]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "benchmarks" / "results",
        help="output folder (default: %(default)s)",
    )
    parser.add_argument(
        "--budget", type=float, default=BUDGET, help=f"total seconds (default {BUDGET})"
    )
    parser.add_argument("--only", nargs="*", default=[], choices=names, help="run only these steps")
    parser.add_argument("--step", choices=names, help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.step:
        _one_step(options.step, options.out, options.quick)
        return 0
    if not torch.cuda.is_available():
        print("No GPU is available to torch: nothing was measured.", file=sys.stderr)
        return NO_GPU
    results = run_checklist(options.out, options.budget, options.only)
    print(markdown(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
