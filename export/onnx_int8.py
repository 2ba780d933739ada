"""Graphs with 8-bit convolutions, for ONNX Runtime on CPUs.

Static quantisation by ONNX Runtime's own tool: unsigned 8-bit activations with one scale per
tensor, calibrated with photographs; signed weights of 7 bits with one scale per channel.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vsm_fast.errors import ModelError, PairingError
from vsm_fast.export.onnx_check import on_cpu
from vsm_fast.extras import required
from vsm_fast.images.mask_names import is_mask_name, match_masks
from vsm_fast.images.subjects import prepare_subject
from vsm_fast.model.config import ModelConfig
from vsm_fast.model.network import DescriptorNetwork
from vsm_fast.runtimes.exported import IMAGES

MOST_PHOTOGRAPHS = 64  # more change the ranges of activations little, and take memory
LEAST_MEAN_COSINE = 0.99
_COMPARED = 8
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def calibration_images(root: Path, config: ModelConfig) -> list[Tensor]:
    """Load photographs as network inputs.

    Args:
        root: Folder with one sub-folder per subject, ``SUBJECT/NN.jpg`` with ``NN_mask.png``.
        config: The model's configuration.

    Returns:
        float32 [1, 3, R, R] in [-1, 1] each; at most ``MOST_PHOTOGRAPHS``, evenly spaced.

    Raises:
        ModelError: If there are none, or one cannot be used.
    """
    photographs: list[tuple[Path, str | None]] = []  # with their masks
    try:
        for folder in sorted(path for path in root.iterdir() if path.is_dir()):
            files = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
            masks = [str(path) for path in files if is_mask_name(path.name)]
            paths = [
                path
                for path in files
                if path.suffix.lower() in _SUFFIXES and not is_mask_name(path.name)
            ]
            names = match_masks(map(str, paths), masks)
            photographs += [(path, names.of(str(path))) for path in paths]
    except (PairingError, OSError) as error:
        raise ModelError(f"no photographs for calibration: {error}") from error
    if not photographs:
        raise ModelError(
            f"no photographs for calibration under {root}: sub-folders with .jpg or .png expected."
        )
    images = []
    for path, mask in photographs[:: -(-len(photographs) // MOST_PHOTOGRAPHS)]:
        subject = prepare_subject(path, mask, path.name, config)
        if subject.pixels is None:
            raise ModelError(f"a calibration photograph cannot be used: {subject.reason}")
        images.append(subject.pixels[None])
    return images


def quantize_graph(path: Path, images: Iterable[Tensor]) -> None:
    """Quantise the convolutions of a graph to 8 bits, in place.

    Args:
        path: A float32 ONNX file of a network.
        images: float32 [1, 3, R, R] in [-1, 1] each, typical of those to be scored.

    Raises:
        ModelError: If ONNX Runtime cannot quantise it.
        ImportError: If onnx or onnxruntime is not installed.
    """
    quantization = required("onnxruntime.quantization", "export in int8")
    shapes = required("onnxruntime.quantization.shape_inference", "export in int8")
    onnx = required("onnx", "export in int8")
    metadata = onnx.load(path, load_external_data=False).metadata_props
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        prepared, quantized = Path(folder) / "prepared.onnx", Path(folder) / path.name
        try:
            # The graph has its shapes already; symbolic inference would need SymPy.
            shapes.quant_pre_process(path, prepared, skip_symbolic_shape=True)
            quantization.quantize_static(
                prepared,
                quantized,
                _CalibrationReader(images),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=["Conv"],
                per_channel=True,
                # 7-bit weights: without VNNI, sums of two 8-bit products overflow 16 bits.
                reduce_range=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                calibrate_method=quantization.CalibrationMethod.MinMax,
            )
        except Exception as error:  # the tool raises the errors of its passes
            raise ModelError(
                f"ONNX Runtime cannot quantise this network: {type(error).__name__}: {error}"
            ) from error
        graph = onnx.load(quantized)
        del graph.metadata_props[:]
        graph.metadata_props.extend(metadata)
        onnx.save(graph, path)


class _CalibrationReader:
    """ONNX Runtime's interface for calibration data: a dict of inputs per call, then None."""

    def __init__(self, images: Iterable[Tensor]) -> None:
        self._images: Iterator[Tensor] = iter(images)

    def get_next(self) -> dict[str, Any] | None:
        image = next(self._images, None)
        return None if image is None else {IMAGES: image.numpy()}


def check_quantized(path: Path, network: DescriptorNetwork, images: Sequence[Tensor]) -> float:
    """Compare a quantised graph with its network on photographs.

    Args:
        path: The ONNX file.
        network: The exported network, in float32.
        images: As for :func:`quantize_graph`; the first ``_COMPARED`` are compared.

    Returns:
        The mean cosine of a descriptor with the network's.

    Raises:
        ModelError: If it is below ``LEAST_MEAN_COSINE``, or ONNX Runtime cannot run the graph.
        ImportError: If onnxruntime is not installed.
    """
    run = on_cpu(path)
    cosines = []
    for image in images[:_COMPARED]:
        outputs = run({IMAGES: image})
        with torch.inference_mode():
            expected = network(image)
        cosines += [
            (ours * torchs).sum(1).flatten() for ours, torchs in zip(outputs, expected, strict=True)
        ]
    mean = float(torch.cat(cosines).mean())
    if not mean >= LEAST_MEAN_COSINE:  # also refuses NaN
        raise ModelError(
            f"8 bits are too few for this network: the mean cosine of a descriptor with torch's "
            f"is {mean:.4f}; at least {LEAST_MEAN_COSINE} is required. Export with --dtype fp32."
        )
    return mean
