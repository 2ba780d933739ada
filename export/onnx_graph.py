"""A model's network as one ONNX graph: images in, semantic and visual descriptors out."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vsm_fast import __version__
from vsm_fast.errors import ModelError
from vsm_fast.export.onnx_check import check_graph
from vsm_fast.export.onnx_int8 import calibration_images, check_quantized, quantize_graph
from vsm_fast.export.scores_graph import SCORES, export_scores
from vsm_fast.extras import required
from vsm_fast.files import new_folder, sha256_of
from vsm_fast.model.config import ModelConfig, weights_fingerprint
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

# GroupNorm as InstanceNormalization, which ONNX Runtime computes faster on a CPU than the
# GroupNormalization of operator set 21.
OPSETS = {"float32": 20, "float16": 20, "bfloat16": 22}  # before 22, Conv takes no bfloat16
OPSETS["int8"] = OPSETS["float32"]  # from which it is made
_EXTERNAL = 1 << 30  # bytes of weights that get a file of their own; the format's limit is 2 GiB
_EXAMPLE = 2  # images; an example of one would make the batch a constant


@dataclass(frozen=True)
class ExportOptions:
    """How a graph is made.

    Attributes:
        precision: ``"float32"``, ``"float16"``, ``"bfloat16"`` or ``"int8"`` (convolutions, for
            CPUs); input and outputs stay float32.
        batch: Batch sizes that it takes.
        opset: ONNX operator set; 0 = that of ``OPSETS``.
        scores: Whether matching and scoring are exported too, as ``scores.onnx``.
        calibration: Folder of photographs, as for
            :func:`vsm_fast.export.onnx_int8.calibration_images`; for int8, which needs it.
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
                "int8 is calibrated with photographs, and nothing else is; got precision "
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
        out: The folder with the graph and ``export.json``; it appears complete or not at all.
        options: How.
        check: Gets the ONNX file, the network that was exported and the options before the folder
            appears; raises what is wrong. None = :func:`vsm_fast.export.onnx_check.check_graph`.
        local_files_only: Never ask the network for the model.
        tell: Gets a sentence about each step.

    Returns:
        What ``export.json`` says.

    Raises:
        ModelError: The model cannot be loaded or exported, or its graph computes something else.
        ImportError: onnx or onnxscript is not installed.
        ValueError: An unknown precision.
    """
    options = options or ExportOptions()
    onnx = required("onnx", "export to ONNX")
    onnxscript = required("onnxscript", "export to ONNX")
    int8 = options.precision == "int8"
    dtype = choose_dtype("float32" if int8 else options.precision, torch.device("cpu"))
    config, network = load_model(model, dtype=dtype, local_files_only=local_files_only)
    # The graph says nothing about memory; the exporter would write transpositions for it.
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    images = calibration_images(options.calibration, config) if options.calibration else []
    with new_folder(out, RECORD) as folder:
        tell(f"exporting {config.name} in {options.precision}, batch {_shown(options.batch)}")
        program = _export(network, config.backbone.resolution, options)
        _describe(program, config, options)
        size = sum(p.numel() * p.element_size() for p in network.parameters())
        program.save(folder / ONNX, external_data=size > _EXTERNAL)
        del program
        tell("checking the graph")
        (check or check_graph)(folder / ONNX, network, options)
        if int8:
            tell(f"quantising with {len(images)} photographs")
            quantize_graph(folder / ONNX, images)
            cosine = check_quantized(folder / ONNX, network, images)
            tell(f"mean cosine of its descriptors of these with torch's: {cosine:.5f}")
        if options.scores:
            tell("exporting and checking the graph of the scores")
            export_scores(folder / SCORES, config.aggregation, options.batch, options.opset)
        record = ExportRecord(
            config,
            options.precision,
            options.batch,
            options.opset,
            {
                "vsm_fast": __version__,
                "torch": torch.__version__,
                "onnx": onnx.__version__,
                "onnxscript": onnxscript.__version__,
            },
            {path.name: sha256_of(path) for path in sorted(folder.iterdir())},
        )
        record.write(folder)
    return record


def _shown(batch: BatchRange) -> str:
    return str(batch.most) if batch.static else f"{batch.least}:{batch.best}:{batch.most}"


def _export(network: nn.Module, resolution: int, options: ExportOptions) -> Any:
    batch = options.batch
    count = batch.most if batch.static else max(_EXAMPLE, batch.least)
    example: Tensor = torch.zeros(count, 3, resolution, resolution)
    shapes = None
    if not batch.static:
        sizes = torch.export.Dim("batch", min=batch.least, max=batch.most)
        shapes = {IMAGES: {0: sizes}}
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter about itself
            return torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                input_names=[IMAGES],
                output_names=[SEMANTIC, VISUAL],
                dynamic_shapes=shapes,
                opset_version=options.opset,
                verbose=False,
            )
    except Exception as error:  # the exporter raises what its passes raise
        raise ModelError(
            f"torch {torch.__version__} cannot export this network with batch {_shown(batch)}: "
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        ) from error


def _describe(program: Any, config: ModelConfig, options: ExportOptions) -> None:
    """Write into the graph what somebody who has only the file needs to use it."""
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
