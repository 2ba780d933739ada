"""Results as Markdown tables, with targets."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

Results = dict[str, list[dict[str, Any]]]
TARGET_SHAPE = "64 x 2304, D=384"


def targets(results: Results) -> list[tuple[str, float | None, float]]:
    """Return (description, measured, minimum) per target; None if not measured."""
    ceiling = _ceiling(results, "bfloat16")
    ours = _row(results, TARGET_SHAPE, "bfloat16", "vsm_fast")
    share = ours["tflops"] / ceiling if ours and ceiling else None

    def faster_than(contestant: str) -> float | None:
        peer = _row(results, TARGET_SHAPE, "float16", contestant)
        mine = _row(results, TARGET_SHAPE, "float16", "vsm_fast")
        return peer["p50"] / mine["p50"] if peer and mine else None

    recipe, best = _throughputs(results)
    return [
        ("share of the measured bfloat16 GEMM rate, 64 pairs of 2304 x 384", share, 0.6),
        ("times as fast as torch eager", faster_than("torch eager"), 5.0),
        ("times as fast as torch.compile", faster_than("torch.compile"), 2.0),
        (
            "share of the measured bfloat16 GEMM rate, end to end, 1 x 1000",
            best["tflops"] / ceiling if best and ceiling else None,
            0.45,
        ),
        (
            "times the reference recipe's pairs per second, 1 x 1000",
            best["pairs_per_s"] / recipe["pairs_per_s"] if best and recipe else None,
            6.0,
        ),
    ]


def _throughputs(results: Results) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Return the recipe's row and the library's best row with one reference."""
    rows = [row for row in results.get("throughput", []) if "workload" in row]
    recipe = next((row for row in rows if row["how"] == "recipe"), None)
    ours = [row for row in rows if row["workload"].startswith("1 x")]
    return recipe, max(ours, key=lambda row: row["pairs_per_s"], default=None)


def markdown(results: Results) -> str:
    """Return the tables of a run."""
    sections = (
        _environment, _targets, _matching, _extraction, _throughput, _levers, _group_norm, _exports,
    )  # fmt: skip
    lines = [line for section in sections for line in section(results)]
    for step, rows in results.items():
        lines += [f"- {step}: {row['error']}" for row in rows if "error" in row and len(row) == 1]
    return "\n".join(lines) + "\n"


def _environment(results: Results) -> list[str]:
    found = next(iter(results.get("environment", [])), {})
    if "gemm_tflops" not in found:
        return ["No environment was recorded.", ""]
    names = ("gpu", "driver", "torch", "cuda", "triton", "date", "commit")
    lines = ["# " + " · ".join(f"{name} {found.get(name)}" for name in names), ""]
    rates = [f"{name} {value:.0f}" for name, value in found["gemm_tflops"].items() if value]
    copied = f"copy {found['copy_tb_per_s']:.2f} TB/s (read and written)"
    lines.append(f"{copied}; GEMM 8192³ in TFLOP/s: {', '.join(rates)}")
    for tests in results.get("native tests", []):
        state = "green" if tests.get("green") else "RED"
        lines += ["", f"native tests: {state}, {tests.get('passed', 0)} passed, "
                  f"{tests.get('failed', 0)} failed"]  # fmt: skip
    return [*lines, ""]


def _targets(results: Results) -> list[str]:
    lines = ["| target | minimum | measured | |", "|---|---|---|---|"]
    for target, measured, minimum in targets(results):
        if measured is None:
            lines.append(f"| {target} | {minimum:g} | not measured | |")
        else:
            met = "met" if measured >= minimum else "missed"
            lines.append(f"| {target} | {minimum:g} | {measured:.2f} | {met} |")
    return [*lines, ""]


def _matching(results: Results) -> list[str]:
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in results.get("matching", []):
        if "shape" in row:
            groups[row["shape"], row["dtype"]].append(row)
    lines = []
    for (shape, dtype), rows in groups.items():
        ceiling = _ceiling(results, dtype)
        lines += [f"## {shape}, {dtype}, both branches", ""]
        lines += [
            "| | µs p20 / p50 / p80 | TFLOP/s | of GEMM 8192³ | peak MiB |",
            "|---|---|---|---|---|",
        ]
        for row in rows:
            if "error" in row:
                lines.append(f"| {row['contestant']} | {row['error']} | | | |")
                continue
            share = f"{row['tflops'] / ceiling:.0%}" if ceiling else ""
            lines.append(
                f"| {row['contestant']} | {row['p20']:.0f} / {row['p50']:.0f} / {row['p80']:.0f} | "
                f"{row['tflops']:.1f} | {share} | {row['peak_mib']:.0f} |"
            )
        lines.append("")
    return lines


def _extraction(results: Results) -> list[str]:
    rows = [row for row in results.get("extraction", []) if "batch" in row]
    if not rows:
        return []
    lines = ["## images -> descriptors, SD 2.1 shape, 768 x 768, random weights", ""]
    lines += ["| type | how | batch | images/s | TFLOP/s | peak MiB |", "|---|---|---|---|---|---|"]
    for row in rows:
        cells = (
            [row["error"], "", ""]
            if "error" in row
            else [f"{row['images_per_s']:.2f}", f"{row['tflops']:.0f}", f"{row['peak_mib']:.0f}"]
        )
        lines.append(
            "| " + " | ".join([row["dtype"], row["how"], str(row["batch"]), *cells]) + " |"
        )
    return [*lines, ""]


def _throughput(results: Results) -> list[str]:
    rows = [row for row in results.get("throughput", []) if "workload" in row]
    if not rows:
        return []
    recipe = next((row["pairs_per_s"] for row in rows if row["how"] == "recipe"), None)
    ceiling = _ceiling(results, "bfloat16")
    lines = ["## end to end, SD 2.1 shape, 768 x 768, bfloat16, random weights", ""]
    lines += [
        "| workload | how | pairs/s | x recipe | images/s | of GEMM 8192³ | peak MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        times = f"{row['pairs_per_s'] / recipe:.1f}" if recipe else ""
        share = f"{row['tflops'] / ceiling:.0%}" if ceiling and "tflops" in row else ""
        peak = f"{row['peak_mib']:.0f}" if "peak_mib" in row else ""
        lines.append(
            f"| {row['workload']} | {row['how']} | {row['pairs_per_s']:.2f} | {times} | "
            f"{row['images_per_s']:.2f} | {share} | {peak} |"
        )
    return [*lines, ""]


def _levers(results: Results) -> list[str]:
    rows = [row for row in results.get("levers", []) if "lever" in row]
    if not rows:
        return []
    first = next((row["images_per_s"] for row in rows if "images_per_s" in row), None)
    lines = ["## levers, SD 2.1 shape, 768 x 768, batch 8", ""]
    lines += [
        "| lever | images/s | x default | least cosine | mean cosine | peak MiB |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        if "error" in row:
            lines.append(f"| {row['lever']} | {row['error']} | | | | |")
            continue
        times = f"{row['images_per_s'] / first:.2f}" if first else ""
        lines.append(
            f"| {row['lever']} | {row['images_per_s']:.2f} | {times} | {row['least_cosine']:.4f} | "
            f"{row['mean_cosine']:.5f} | {row['peak_mib']:.0f} |"
        )
    return [*lines, ""]


def _group_norm(results: Results) -> list[str]:
    rows = [row for row in results.get("group norm", []) if "benchmark" in row]
    if not rows:
        return []
    lines = ["## GroupNorm with its activation", "", "| benchmark | µs | |", "|---|---|---|"]
    for row in rows:
        rest = ", ".join(f"{key} {value}" for key, value in list(row.items())[2:])
        lines.append(f"| {row['benchmark']} | {row['median_us']:.0f} | {rest} |")
    return [*lines, ""]


def _exports(results: Results) -> list[str]:
    lines = []
    for step in ("ONNX Runtime", "TensorRT"):
        rows = [row for row in results.get(step, []) if "how" in row]
        if not rows:
            continue
        peers = {row["batch"]: row for row in rows if row["how"] == "torch" and "error" not in row}
        lines += [f"## {step}, SD 2.1 shape, 768 x 768, random weights", ""]
        lines += [
            "| how | batch | images/s | x torch | least cosine | minutes to build | MiB on disk |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in rows:
            if "error" in row:
                lines.append(f"| {row['how']} | {row['batch']} | {row['error']} | | | | |")
                continue
            peer = peers.get(row["batch"])
            times = f"{row['images_per_s'] / peer['images_per_s']:.2f}" if peer else ""
            rest = [
                f"{row[key]:{form}}" if key in row else ""
                for key, form in (
                    ("least_cosine", ".4f"), ("build_minutes", ".1f"), ("size_mib", ".0f"),
                )
            ]  # fmt: skip
            cells = [row["how"], str(row["batch"]), f"{row['images_per_s']:.2f}", times, *rest]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return lines


def _ceiling(results: Results, dtype: str) -> float | None:
    rows = results.get("environment") or [{}]
    rates: dict[str, float] = rows[0].get("gemm_tflops", {})
    return rates.get(dtype)


def _row(results: Results, shape: str, dtype: str, contestant: str) -> dict[str, Any] | None:
    key = {"shape": shape, "dtype": dtype, "contestant": contestant}
    for row in results.get("matching", []):
        if key.items() <= row.items() and "error" not in row:
            return row
    return None
