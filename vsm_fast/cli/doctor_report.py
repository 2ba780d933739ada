"""What ``vsm-fast doctor`` finds out: versions, devices, the model's state, chosen paths."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, TypedDict

from vsm_fast import __version__
from vsm_fast.errors import ModelError

if TYPE_CHECKING:
    from vsm_fast.model.config import ModelConfig

REQUIRED = (
    "torch",
    "numpy",
    "pillow",
    "diffusers",
    "safetensors",
    "huggingface-hub",
    "pyarrow",
    "pyyaml",
)
OPTIONAL = {
    "triton": ("triton",),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "tensorrt": ("tensorrt", "tensorrt-cu12", "tensorrt-cu13"),
    "xformers": ("xformers",),
    "pandas": ("pandas",),
    "opencv": ("opencv-python-headless", "opencv-python"),
    "matplotlib": ("matplotlib",),
    "scikit-learn": ("scikit-learn",),
}


class Stage(TypedDict):
    """Which implementation a stage uses on a device, and why.

    ``detail`` says how it does its work there: of matching which products or tiles are used and
    where that was measured; "" where it is not known.
    """

    stage: str
    device: str
    path: str
    reason: str
    detail: str


class Report(TypedDict):
    """Everything that the doctor found; plain values, ready for JSON."""

    versions: dict[str, str]
    optional: dict[str, str | None]
    devices: list[str]
    threads: dict[str, int]
    runtimes: dict[str, str]
    model: dict[str, str]
    stages: list[Stage]
    problems: list[str]


def examine(model: str = "tiny") -> Report:
    """Examine this installation; reads files and asks no network.

    It computes nothing but a few small products, to measure which are fast on this CPU.

    Args:
        model: Name or folder of the model to check; a Hub model must be downloaded already.

    Returns:
        The report; ``problems`` is empty when scoring with ``model`` will work.
    """
    problems: list[str] = []
    versions = {"python": platform.python_version(), "vsm_fast": __version__}
    for name in REQUIRED:
        found = _installed(name)
        versions[name] = found or "missing"
        if found is None:
            problems.append(f"{name} is required and not installed: pip install {name}")
    optional = {name: _first_installed(names) for name, names in OPTIONAL.items()}
    report = Report(
        versions=versions,
        optional=optional,
        devices=[],
        threads={"cpus": os.cpu_count() or 1},
        runtimes={},
        model={"name": model},
        stages=[],
        problems=problems,
    )
    if "missing" not in versions.values():
        kinds = _examine_devices(report)
        report["runtimes"]["tensorrt"] = _tensorrt()
        config = _examine_model(report, model)
        for kind in kinds:
            report["stages"] += [_network_stage(kind), _matching_stage(kind, config, problems)]
    return report


def render(report: Report) -> str:
    """The report as text for people."""
    absent = "not installed (optional)"
    sections = {
        "versions": list(report["versions"].items()),
        "optional": [(name, found or absent) for name, found in report["optional"].items()],
        "devices": [(name.split(":")[0], name) for name in report["devices"]],
        "threads": [(name, str(count)) for name, count in report["threads"].items()],
        "runtimes": list(report["runtimes"].items()),
        "model": list(report["model"].items()),
        "stages": [
            line
            for stage in report["stages"]
            for line in (
                (f"{stage['stage']} on {stage['device']}", f"{stage['path']}: {stage['reason']}"),
                ("", stage["detail"]),
            )
            if line[1]
        ],
    }
    lines = []
    for title, items in sections.items():
        width = max((len(name) for name, _ in items), default=0)
        lines += [title, *(f"  {name:<{width}}  {text}" for name, text in items), ""]
    if report["problems"]:
        lines += ["problems", *(f"  {problem}" for problem in report["problems"])]
    else:
        lines.append("all is well")
    return "\n".join(lines)


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _first_installed(names: tuple[str, ...]) -> str | None:
    """The first of several distributions of one package, without importing any."""
    return next((f"{found} ({name})" for name in names if (found := _installed(name))), None)


def _examine_devices(report: Report) -> list[str]:
    """Fill in devices and threads; the kinds of device that scoring can use."""
    import torch

    report["devices"].append(f"cpu: {platform.machine()}, {platform.system()}")
    report["threads"]["torch"] = torch.get_num_threads()
    if not torch.cuda.is_available():
        return ["cpu"]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        report["devices"].append(
            f"cuda:{index}: {properties.name}, compute capability {properties.major}."
            f"{properties.minor}, {properties.total_memory / 2**30:.0f} GiB"
        )
    return ["cpu", "cuda"]


def _tensorrt() -> str:
    """Whether runtime ``tensorrt`` can be used, and why not."""
    import torch

    from vsm_fast.runtimes.tensorrt_library import library, unusable

    device = torch.device("cuda")
    reason = unusable(device)
    return f"cannot be used: {reason}" if reason else f"TensorRT {library(device).__version__}"


def _examine_model(report: Report, model: str) -> ModelConfig | None:
    """Load the model on the CPU, which checks that its files are whole and unaltered.

    Returns:
        Its configuration; None if it cannot be used, which ``report`` then says.
    """
    import torch

    from vsm_fast.model.load import load_model

    try:
        config, network = load_model(
            model,
            revision=None,
            device=torch.device("cpu"),
            dtype=torch.float32,
            local_files_only=True,
        )
    except ModelError as error:
        report["model"]["state"] = "unusable"
        report["problems"].append(f"model {model}: {' '.join(str(error).split())}")
        return None
    parameters = sum(parameter.numel() for parameter in network.parameters())
    report["model"] |= {
        "state": "complete, hashes match",
        "parameters": f"{parameters:,}",
        "semantic threshold": f"{config.thresholds.semantic:g}",
        "visual threshold": f"{config.thresholds.visual:g}",
    }
    return config


def _network_stage(device: str) -> Stage:
    import torch

    from vsm_fast.model.devices import choose_descriptor_dtype, choose_dtype, precision_name

    where = torch.device(device)
    chosen = precision_name(choose_dtype("auto", where))
    kept = precision_name(choose_descriptor_dtype(chosen, where))
    reasons = {
        "cpu": "full precision; channels-last memory, which convolutions prefer",
        "cuda": "half the memory and tensor cores; descriptors are normalised in float32",
    }
    return Stage(
        stage="network",
        device=device,
        path=f"torch {chosen}",
        reason=reasons[device],
        detail=f"descriptors are kept in {kept}",
    )


def _matching_stage(device: str, config: ModelConfig | None, problems: list[str]) -> Stage:
    """How matching runs; damage that it meets on the way goes to ``problems``."""
    import torch

    from vsm_fast.matching.match import choose_path, describe_search
    from vsm_fast.model.devices import choose_descriptor_dtype, choose_dtype, precision_name

    where = torch.device(device)
    path, reason = choose_path(where)
    detail = ""
    if config is not None:
        dtype = choose_descriptor_dtype(precision_name(choose_dtype("auto", where)), where)
        rows, columns = config.aggregation.grid
        channels = config.aggregation.descriptor_channels
        try:
            detail = describe_search(where, dtype, channels, rows * columns)
        except ValueError as error:
            problems.append(f"matching on {device}: {error}")
    return Stage(stage="matching", device=device, path=path, reason=reason, detail=detail)
