"""A model's network as one ONNX graph: images in, semantic and visual descriptors out."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vsm_fast import __version__
from vsm_fast.errors import ModelError
from vsm_fast.export.onnx_check import check_graph
from vsm_fast.export.onnx_int8 import calibration_images, check_quantized, quantize_graph
from vsm_fast.extras import required
from vsm_fast.files import new_folder, sha256_of
from vsm_fast.model.config import weights_fingerprint
from vsm_fast.model.devices import choose_dtype
from vsm_fast.model.load import load_model
from vsm_fast.model.network import DescriptorNetwork
from vsm_fast.runtimes.exported import (
    DEFAULT_BATCH,
    IMAGES,
    ONNX,
    RECORD,
    SEMANTIC,
    VISUAL,
    BatchRange,
    ExportRecord,
)
from vsm_fast.torch_state import pinned

_log = logging.getLogger(__name__)

# Below operator set 21 GroupNorm is exported as InstanceNormalization, which ONNX Runtime
# computes faster on a CPU. bfloat16 convolutions need 22. int8 is made from float32.
OPSETS = {"float32": 20, "float16": 20, "bfloat16": 22, "int8": 20}
SCORES = "scores.onnx"
_EXTERNAL = 1 << 30  # bytes of weights that get their own file; ONNX is limited to 2 GiB
_EXAMPLE = 2  # images; a batch of one would become a constant


@dataclass(frozen=True)
class ExportOptions:
    """Options of an export.

    Attributes:
        precision: ``"float32"``, ``"float16"``, ``"bfloat16"`` or ``"int8"`` (convolutions, for
            CPUs); input and outputs stay float32.
        batch: Accepted batch sizes.
        opset: ONNX operator set; 0 = the default of the precision.
        scores: Whether to export matching and scoring too, as ``scores.onnx``.
        calibration: Folder of photographs, required for int8 and only for int8; see
            :func:`vsm_fast.export.onnx_int8.calibration_images`.
    """

    precision: str = "float32"
    batch: BatchRange = DEFAULT_BATCH
    opset: int = 0
    scores: bool = False
    calibration: Path | None = None

    def __post_init__(self) -> None:
        if self.precision not in OPSETS:
            raise ValueError(f"precision must be one of {[*OPSETS]}; got {self.precision!r}.")
        if (self.precision == "int8") != (self.calibration is not None):
            raise ValueError(
                "int8, and no other precision, needs calibration photographs; got precision "
                f"{self.precision!r} and calibration {self.calibration}."
            )
        if not self.opset:
            object.__setattr__(self, "opset", OPSETS[self.precision])


@pinned()
def export_onnx(
    model: str,
    out: Path,
    options: ExportOptions | None = None,
    *,
    check: Callable[[Path, DescriptorNetwork, ExportOptions], None] | None = None,
    local_files_only: bool = False,
    tell: Callable[[str], None] = _log.info,
) -> ExportRecord:
    """Export a model's network.

    Args:
        model: Name or folder, as for ``VSMScorer.from_pretrained``.
        out: Folder for the graph and ``export.json``; it appears complete or not at all.
        options: Export options.
        check: Called with the ONNX file, the exported network and the options before the folder
            appears; raises if the graph is wrong. None = :func:`onnx_check.check_graph`.
        local_files_only: Whether to load the model without network access.
        tell: Called with a sentence about each step.

    Returns:
        The content of ``export.json``.

    Raises:
        ModelError: If the model cannot be loaded or exported, or its graph is inaccurate.
        ImportError: If onnx or onnxscript is not installed.
        ValueError: If the precision is unknown.
    """
    options = options or ExportOptions()
    onnx = required("onnx", "export to ONNX")
    onnxscript = required("onnxscript", "export to ONNX")
    int8 = options.precision == "int8"
    dtype = choose_dtype("float32" if int8 else options.precision, torch.device("cpu"))
    config, network = load_model(model, dtype=dtype, local_files_only=local_files_only)
    # A graph has no memory layout; the exporter would write transpositions for it.
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    images = calibration_images(options.calibration, config) if options.calibration else []
    batch, side = options.batch, config.backbone.resolution
    sizes = str(batch.most) if batch.static else f"{batch.least}:{batch.best}:{batch.most}"
    count = batch.most if batch.static else max(_EXAMPLE, batch.least)
    with new_folder(out, RECORD) as folder:
        tell(f"exporting {config.name} in {options.precision}, batch {sizes}")
        program = to_onnx(
            network,
            (torch.zeros(count, 3, side, side),),
            [IMAGES],
            [SEMANTIC, VISUAL],
            batch,
            options.opset,
            f"this network with batch {sizes}",
        )
        # Metadata for users who have only the file.
        program.model.metadata_props.update(
            {
                "model": config.name,
                "weights": weights_fingerprint(config),
                "precision": options.precision,
                "config": json.dumps(json.loads(config.to_json())),
                "vsm_fast": __version__,
            }
        )
        program.model.producer_name, program.model.producer_version = "vsm_fast", __version__
        size = sum(p.numel() * p.element_size() for p in network.parameters())
        program.save(folder / ONNX, external_data=size > _EXTERNAL)
        del program
        tell("checking the graph")
        (check or check_graph)(folder / ONNX, network, options)
        if int8:
            tell(f"quantising with {len(images)} photographs")
            quantize_graph(folder / ONNX, images)
            cosine = check_quantized(folder / ONNX, network, images)
            tell(f"mean cosine of their descriptors with torch's: {cosine:.5f}")
        if options.scores:
            from vsm_fast.export.scores_graph import export_scores  # needs this module

            tell("exporting and checking the graph of the scores")
            export_scores(folder / SCORES, config.aggregation, batch, options.opset)
        versions = {
            "vsm_fast": __version__,
            "torch": torch.__version__,
            "onnx": onnx.__version__,
            "onnxscript": onnxscript.__version__,
        }
        files = {path.name: sha256_of(path) for path in sorted(folder.iterdir())}
        record = ExportRecord(config, options.precision, batch, options.opset, versions, files)
        record.write(folder)
    return record


def to_onnx(
    module: nn.Module,
    example: tuple[Tensor, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    batch: BatchRange,
    opset: int,
    subject: str,
) -> Any:
    """Export a module with torch's exporter.

    Args:
        module: In eval mode.
        example: Input tensors; the first dimension of those with more than one is the batch.
        inputs: Names of the inputs.
        outputs: Names of the outputs.
        batch: Accepted batch sizes.
        opset: ONNX operator set.
        subject: Object of the error's sentence.

    Returns:
        A ``torch.onnx.ONNXProgram``.

    Raises:
        ModelError: If the module cannot be exported.
    """
    shapes = None
    if not batch.static:
        size = torch.export.Dim("batch", min=batch.least, max=batch.most)
        shapes = tuple({0: size} if tensor.ndim > 1 else None for tensor in example)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter warns about itself
            return torch.onnx.export(
                module,
                example,
                dynamo=True,
                input_names=inputs,
                output_names=outputs,
                dynamic_shapes=shapes,
                opset_version=opset,
                verbose=False,
            )
    except Exception as error:  # the exporter raises the errors of its passes
        reason = str(error).splitlines()[0] if str(error) else ""
        raise ModelError(
            f"torch {torch.__version__} cannot export {subject}: {type(error).__name__}: {reason}"
        ) from error
