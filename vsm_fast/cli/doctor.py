"""``vsm-fast doctor``: versions, devices, the model's state and the path of each stage."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Annotated, TypedDict

from vsm_fast import __version__
from vsm_fast.cli.common import ExitCode, print_text
from vsm_fast.cli.options import Command, option
from vsm_fast.errors import ModelError

if TYPE_CHECKING:
    from vsm_fast.model.config import ModelConfig

_REQUIRED = (
    "torch", "numpy", "pillow", "diffusers", "safetensors", "huggingface-hub", "pyarrow", "pyyaml",
)  # fmt: skip
_OPTIONAL = {  # distributions of each package
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
    """Implementation of a stage on a device, with the reason for the choice.

    ``detail`` of matching names the products or tiles and the machine of their measurement; ""
    if unknown.
    """

    stage: str
    device: str
    path: str
    reason: str
    detail: str


class Examination(TypedDict):
    """Findings in plain values, ready for JSON."""

    versions: dict[str, str]
    optional: dict[str, str | None]
    devices: list[str]
    threads: dict[str, int]
    runtimes: dict[str, str]
    model: dict[str, str]
    stages: list[Stage]
    problems: list[str]


@dataclass(frozen=True, kw_only=True)
class Doctor(Command):
    """Show versions, devices, the model's state and the path of each stage."""

    model: Annotated[str, option("model to check: name or folder")] = "tiny"
    json: Annotated[bool, option("print one JSON object")] = False

    def run(self) -> ExitCode:
        """Examine and report."""
        import json

        report = examine(self.model)
        print_text(json.dumps(report, indent=2) if self.json else render(report))
        return ExitCode.FAILED if report["problems"] else ExitCode.OK


def examine(model: str = "tiny") -> Examination:
    """Examine this installation without network access.

    The only computation is a few small matrix products that measure this CPU.

    Args:
        model: Name or folder of the model to check; a Hub model must be in the cache.

    Returns:
        The findings; ``problems`` is empty if scoring with ``model`` will work.
    """
    versions = {"python": platform.python_version(), "vsm_fast": __version__}
    versions |= {name: _version(name) or "missing" for name in _REQUIRED}
    missing = [name for name in _REQUIRED if versions[name] == "missing"]
    report = Examination(
        versions=versions,
        optional={
            name: next((f"{v} ({n})" for n in names if (v := _version(n))), None)
            for name, names in _OPTIONAL.items()
        },
        devices=[],
        threads={"cpus": os.cpu_count() or 1},
        runtimes={},
        model={"name": model},
        stages=[],
        problems=[f"{name} is required but missing: pip install {name}" for name in missing],
    )
    if not missing:
        import torch

        from vsm_fast.runtimes.tensorrt_library import library, unusable

        kinds = _examine_devices(report)
        gpu = torch.device("cuda")
        reason = unusable(gpu)
        report["runtimes"]["tensorrt"] = (
            f"cannot be used: {reason}" if reason else f"TensorRT {library(gpu).__version__}"
        )
        config = _examine_model(report, model)
        for kind in kinds:
            report["stages"] += _stages(kind, config, report["problems"])
    return report


def render(report: Examination) -> str:
    """Return the findings as text."""
    stages = []
    for stage in report["stages"]:
        name = f"{stage['stage']} on {stage['device']}"
        stages.append((name, f"{stage['path']}: {stage['reason']}"))
        if stage["detail"]:
            stages.append(("", stage["detail"]))
    absent = "not installed (optional)"
    sections = {
        "versions": list(report["versions"].items()),
        "optional": [(name, found or absent) for name, found in report["optional"].items()],
        "devices": [(name.split(":")[0], name) for name in report["devices"]],
        "threads": [(name, str(count)) for name, count in report["threads"].items()],
        "runtimes": list(report["runtimes"].items()),
        "model": list(report["model"].items()),
        "stages": stages,
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


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _examine_devices(report: Examination) -> list[str]:
    """Fill in devices and threads; return the device kinds for scoring."""
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


def _examine_model(report: Examination, model: str) -> ModelConfig | None:
    """Load the model on the CPU, which verifies its files.

    Returns:
        The model's configuration; None if it is unusable, with the reason among the problems.
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


def _stages(device: str, config: ModelConfig | None, problems: list[str]) -> list[Stage]:
    """Return the stages on a device; append damaged tuning files to ``problems``."""
    import torch

    from vsm_fast.matching.match import choose_path, describe_search
    from vsm_fast.model.devices import choose_descriptor_dtype, choose_dtype, precision_name

    where = torch.device(device)
    network = precision_name(choose_dtype("auto", where))
    descriptors = choose_descriptor_dtype(network, where)
    reasons = {
        "cpu": "full precision; channels-last memory, which is faster for convolutions",
        "cuda": "half the memory and tensor cores; descriptors are normalised in float32",
    }
    path, reason = choose_path(where)
    detail = ""
    if config is not None:
        rows, columns = config.aggregation.grid
        channels = config.aggregation.descriptor_channels
        try:
            detail = describe_search(where, descriptors, channels, rows * columns)
        except ValueError as error:
            problems.append(f"matching on {device}: {error}")
    return [
        Stage(
            stage="network",
            device=device,
            path=f"torch {network}",
            reason=reasons[device],
            detail=f"descriptors are stored in {precision_name(descriptors)}",
        ),
        Stage(stage="matching", device=device, path=path, reason=reason, detail=detail),
    ]
