"""Checks of an exported graph before it is accepted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vsm_fast.errors import ModelError
from vsm_fast.extras import required
from vsm_fast.model.network import DescriptorNetwork
from vsm_fast.runtimes.exported import IMAGES

if TYPE_CHECKING:
    from vsm_fast.export.onnx_graph import ExportOptions

# Least cosine of a descriptor with torch's. float16: both round, in different places. int8: the
# graph is checked before quantisation.
LEAST_COSINE = {"float32": 1 - 1e-5, "float16": 1 - 2e-3, "int8": 1 - 1e-5}


def check_graph(path: Path, network: DescriptorNetwork, options: ExportOptions) -> None:
    """Check that a graph is valid, has the requested shapes, and agrees with torch.

    ONNX Runtime has no bfloat16 arithmetic on a CPU, so a bfloat16 graph is not run. Torch
    computes in float32 with the rounded weights: float16 convolutions take minutes per image on
    a CPU and would add errors of their own.

    Args:
        path: The ONNX file.
        network: The exported network; converted to float32.
        options: The export options.

    Raises:
        ModelError: If a check fails.
        ImportError: If onnx or onnxruntime is not installed.
    """
    check_valid(path)
    side = _check_interface(path, options)
    if options.precision == "bfloat16":
        return
    run = on_cpu(path)
    network.float()
    batch = options.batch
    for count in sorted({batch.least, min(batch.most, batch.least + 2)}):
        images = smooth_pictures(count, side)
        outputs = run({IMAGES: images})
        with torch.inference_mode():
            expected = network(images)
        for name, ours, torchs in zip(("semantic", "visual"), outputs, expected, strict=True):
            if ours.shape != torchs.shape:
                raise ModelError(
                    f"the exported graph gives {name} descriptors {list(ours.shape)}; torch gives "
                    f"{list(torchs.shape)}."
                )
            cosine = float((ours * torchs).sum(1).min())
            if not cosine >= LEAST_COSINE[options.precision]:  # also refuses NaN
                raise ModelError(
                    f"the exported graph is inaccurate: at batch {count} the least cosine of a "
                    f"{name} descriptor with torch's is {cosine:.6f}; at least "
                    f"{LEAST_COSINE[options.precision]} is required. Report it with the versions "
                    "in use."
                )


def check_valid(path: Path) -> None:
    """Check that a file is valid ONNX.

    Raises:
        ModelError: If it is not.
        ImportError: If onnx is not installed.
    """
    onnx = required("onnx", "export to ONNX")
    try:
        # By path: protobuf in memory is limited to 2 GiB.
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:  # the checker has an error class per kind
        raise ModelError(f"the exported graph is not valid ONNX: {error}") from error


def on_cpu(path: Path) -> Callable[[Mapping[str, Tensor]], list[Tensor]]:
    """Load a graph into ONNX Runtime on the CPU, as a function of its inputs by name.

    Raises:
        ModelError: If ONNX Runtime cannot load it or, later, run it.
        ImportError: If onnxruntime is not installed.
    """
    runtime = required("onnxruntime", "the check of an exported graph")
    settings = runtime.SessionOptions()
    settings.log_severity_level = 4  # errors are raised; the rest is about unfolded float16

    def failure(action: str, error: Exception) -> ModelError:
        reason = " ".join(str(error).split())[:500]
        return ModelError(
            f"ONNX Runtime {runtime.__version__} cannot {action} the exported {path.name}: "
            f"{reason}. Report it with the versions in use."
        )

    try:
        session = runtime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # an undocumented class per error code
        raise failure("load", error) from error

    def run(inputs: Mapping[str, Tensor]) -> list[Tensor]:
        arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
        try:
            return [torch.from_numpy(array) for array in session.run(None, arrays)]
        except Exception as error:
            sizes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in inputs.items())
            raise failure(f"run {sizes} through", error) from error

    return run


def _check_interface(path: Path, options: ExportOptions) -> int:
    """Check operator set and batch sizes of a graph; return the side of its images."""
    onnx = required("onnx", "export to ONNX")
    model = onnx.load(str(path), load_external_data=False)
    # The exporter leaves a graph that it cannot convert in another operator set.
    (opset,) = (entry.version for entry in model.opset_import if not entry.domain)
    if opset != options.opset:
        raise ModelError(
            f"this network cannot be exported in operator set {options.opset}; "
            f"torch {torch.__version__} made {opset}. Leave out --opset."
        )
    batch = options.batch
    count, _, side, _ = model.graph.input[0].type.tensor_type.shape.dim
    if bool(count.dim_value) != batch.static:
        # torch's exporter silently fixes a size that the network specialises on.
        actual = count.dim_value or "any number of"
        requested = batch.most if batch.static else f"{batch.least} to {batch.most}"
        raise ModelError(
            f"the exported graph takes {actual} images instead of {requested}: the network makes "
            "the batch size a constant. Report it; until then export with --static-batch N."
        )
    return int(side.dim_value)


def smooth_pictures(count: int, side: int) -> Tensor:
    """Return random smooth pictures, float32 [count, 3, side, side] in [-1, 1]."""
    coarse = torch.rand(count, 3, 9, 9, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return torch.nn.functional.interpolate(
        coarse, size=(side, side), mode="bicubic", align_corners=False
    ).clamp(-1, 1)
