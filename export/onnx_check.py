"""Checks of an exported graph, before it counts as built."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vsm_fast.errors import ModelError
from vsm_fast.extras import required
from vsm_fast.model import DescriptorNetwork
from vsm_fast.runtimes.exported import IMAGES

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
    onnx = required("onnx", "onnx", "export to ONNX")
    try:
        # By their paths: in memory a graph ends at 2 GiB.
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:  # the checker has classes of its own for each kind
        raise ModelError(f"the exported graph is not valid ONNX: {error}") from error
    if options.precision == "bfloat16":
        return
    runtime = required("onnxruntime", "onnx", "the check of an exported graph")
    settings = runtime.SessionOptions()
    settings.log_severity_level = 3  # errors; float16 constants that a CPU cannot fold are none
    session = runtime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    side = session.get_inputs()[0].shape[2]
    network.float()
    for images in _pictures(options, int(side)):
        found = [torch.from_numpy(array) for array in session.run(None, {IMAGES: images.numpy()})]
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


def _pictures(options: ExportOptions, side: int) -> Iterator[Tensor]:
    """Batches of pictures: of the least size, and of another that it takes."""
    batch = options.batch
    for count in sorted({batch.least, min(batch.most, batch.least + 2)}):
        yield smooth_pictures(count, side)


def smooth_pictures(count: int, side: int) -> Tensor:
    """Random smooth pictures, float32 [count, 3, side, side] in [-1, 1]."""
    coarse = torch.rand(count, 3, 9, 9, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return torch.nn.functional.interpolate(
        coarse, size=(side, side), mode="bicubic", align_corners=False
    ).clamp(-1, 1)
