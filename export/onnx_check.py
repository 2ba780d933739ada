"""Checks of an exported graph, before it counts as built."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vsm_fast.errors import ModelError
from vsm_fast.extras import required
from vsm_fast.model.network import DescriptorNetwork
from vsm_fast.runtimes.exported import IMAGES, BatchRange

if TYPE_CHECKING:
    from vsm_fast.export.onnx_graph import ExportOptions

# Cosine of a descriptor with torch's, at least. float16: both round, in different places.
LEAST_COSINE = {"float32": 1 - 1e-5, "float16": 1 - 2e-3}
LEAST_COSINE["int8"] = LEAST_COSINE["float32"]  # checked before it is quantised


def check_graph(path: Path, network: DescriptorNetwork, options: ExportOptions) -> None:
    """Check that a graph is valid, says its shapes, and computes what torch computes.

    ONNX Runtime has no bfloat16 arithmetic on a CPU, so that such a graph is not run. torch
    computes in float32 with the weights as they were rounded: in float16 its convolutions take
    minutes an image on a CPU, and would add errors of their own.

    Args:
        path: The ONNX file.
        network: What was exported; it is left in float32.
        options: How.

    Raises:
        ModelError: It is not so.
        ImportError: onnxruntime is not installed.
    """
    check_valid(path)
    side = _checked_side(path, options)
    if options.precision == "bfloat16":
        return
    run = on_cpu(path)
    network.float()
    for images in _pictures(options.batch, side):
        found = run({IMAGES: images})
        with torch.inference_mode():
            wanted = network(images)
        for name, ours, torchs in zip(("semantic", "visual"), found, wanted, strict=True):
            if ours.shape != torchs.shape:
                raise ModelError(
                    f"the exported graph gives {name} descriptors {list(ours.shape)}; torch gives "
                    f"{list(torchs.shape)}."
                )
            cosine = float((ours * torchs).sum(1).min())
            if not cosine >= LEAST_COSINE[options.precision]:  # NaN is not
                raise ModelError(
                    f"the exported graph computes something else: at batch {len(images)} the least "
                    f"cosine of a {name} descriptor with torch's is {cosine:.6f}, wanted "
                    f"{LEAST_COSINE[options.precision]}. Report it with the versions in use."
                )


def check_valid(path: Path) -> None:
    """Check that a file is valid ONNX.

    Raises:
        ModelError: It is not.
        ImportError: onnx is not installed.
    """
    onnx = required("onnx", "export to ONNX")
    try:
        # By its path: in memory a graph ends at 2 GiB.
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:  # the checker has classes of its own for each kind
        raise ModelError(f"the exported graph is not valid ONNX: {error}") from error


def on_cpu(path: Path) -> Callable[[Mapping[str, Tensor]], list[Tensor]]:
    """A graph as a function of its inputs by name, run by ONNX Runtime on the CPU.

    Raises:
        ModelError: ONNX Runtime cannot load it, or later run it.
        ImportError: onnxruntime is not installed.
    """
    runtime = required("onnxruntime", "the check of an exported graph")
    settings = runtime.SessionOptions()
    settings.log_severity_level = 4  # what is wrong is raised; float16 is not folded on a CPU

    def failure(what: str, error: Exception) -> ModelError:
        said = " ".join(str(error).split())[:500]
        return ModelError(
            f"ONNX Runtime {runtime.__version__} cannot {what} the exported {path.name}: {said}. "
            "Report it with the versions in use."
        )

    try:
        session = runtime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # it has a class of its own for each code, none documented
        raise failure("load", error) from error

    def run(inputs: Mapping[str, Tensor]) -> list[Tensor]:
        given = {name: tensor.numpy() for name, tensor in inputs.items()}
        try:
            return [torch.from_numpy(array) for array in session.run(None, given)]
        except Exception as error:
            sizes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in inputs.items())
            raise failure(f"run {sizes} through", error) from error

    return run


def _checked_side(path: Path, options: ExportOptions) -> int:
    """Side of the images of a graph, which is in the operator set and takes the batches wanted."""
    onnx = required("onnx", "export to ONNX")
    model = onnx.load(str(path), load_external_data=False)
    # What it cannot convert the exporter leaves as it is.
    (opset,) = (entry.version for entry in model.opset_import if not entry.domain)
    if opset != options.opset:
        raise ModelError(
            f"this network cannot be exported in operator set {options.opset}; "
            f"torch {torch.__version__} made {opset}. Leave --opset away."
        )
    batch = options.batch
    count, _, side, _ = model.graph.input[0].type.tensor_type.shape.dim
    if bool(count.dim_value) != batch.static:
        # torch's exporter makes a size constant, without a word, when a network asks for that.
        found = count.dim_value or "any number of"
        wanted = batch.most if batch.static else f"{batch.least} to {batch.most}"
        raise ModelError(
            f"the exported graph takes {found} images, wanted {wanted}: something in the network "
            "makes the batch a constant. Report it; until then export with --static-batch N."
        )
    return int(side.dim_value)


def _pictures(batch: BatchRange, side: int) -> Iterator[Tensor]:
    """Batches of pictures: of the least size, and of another that it takes."""
    for count in sorted({batch.least, min(batch.most, batch.least + 2)}):
        yield smooth_pictures(count, side)


def smooth_pictures(count: int, side: int) -> Tensor:
    """Random smooth pictures, float32 [count, 3, side, side] in [-1, 1]."""
    coarse = torch.rand(count, 3, 9, 9, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return torch.nn.functional.interpolate(
        coarse, size=(side, side), mode="bicubic", align_corners=False
    ).clamp(-1, 1)
