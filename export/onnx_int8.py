"""Graphs with convolutions in 8 bits, for ONNX Runtime on CPUs.

Static quantisation by ONNX Runtime's own tool: activations in unsigned 8 bits, weights in signed
ones of which 7 are used, one scale a channel of weights and one a tensor of activations, which
photographs calibrate.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vsm_fast.errors import InputError, ModelError, PairingError
from vsm_fast.export.onnx_check import on_cpu
from vsm_fast.extras import required
from vsm_fast.images.subjects import prepare_subject
from vsm_fast.lab.pairs.photographs import load_photographs
from vsm_fast.model.config import ModelConfig
from vsm_fast.model.network import DescriptorNetwork
from vsm_fast.runtimes.exported import IMAGES

MOST_PHOTOGRAPHS = 64  # more change the ranges of activations little, and take memory
LEAST_MEAN_COSINE = 0.99
_COMPARED = 8


def calibration_images(root: Path, config: ModelConfig) -> list[Tensor]:
    """Photographs as the network of a model sees them.

    Args:
        root: Folder with one sub-folder per subject, ``SUBJECT/NN.jpg`` with ``NN_mask.png``.
        config: The model.

    Returns:
        float32 [1, 3, R, R] in [-1, 1] each; at most ``MOST_PHOTOGRAPHS``, evenly chosen.

    Raises:
        ModelError: There are none, or one cannot be used.
    """
    try:
        photographs = load_photographs(root)
    except (PairingError, InputError, OSError) as error:
        raise ModelError(f"no photographs to calibrate with: {error}") from error
    chosen = photographs[:: -(-len(photographs) // MOST_PHOTOGRAPHS)]
    images = []
    for photograph in chosen:
        name = f"{photograph.subject}/{photograph.name}"
        subject = prepare_subject(photograph.pixels, photograph.mask, name, config)
        if subject.pixels is None:
            raise ModelError(f"no photograph to calibrate with: {subject.reason}")
        images.append(subject.pixels[None])
    return images


def quantize_graph(path: Path, images: Iterable[Tensor]) -> None:
    """Put the convolutions of a graph into 8 bits, in place.

    Args:
        path: A float32 ONNX file of a network.
        images: float32 [1, 3, R, R] in [-1, 1] each, like those that will be scored.

    Raises:
        ModelError: ONNX Runtime cannot quantise it.
        ImportError: onnx or onnxruntime is not installed.
    """
    quantization = required("onnxruntime.quantization", "export in int8")
    shapes = required("onnxruntime.quantization.shape_inference", "export in int8")
    onnx = required("onnx", "export in int8")
    said = onnx.load(path, load_external_data=False).metadata_props
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        prepared, made = Path(folder) / "prepared.onnx", Path(folder) / path.name
        try:
            # The shapes are in the graph already; its symbolic inference would need SymPy.
            shapes.quant_pre_process(path, prepared, skip_symbolic_shape=True)
            quantization.quantize_static(
                prepared,
                made,
                _Images(images),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=["Conv"],
                per_channel=True,
                # Weights of 7 bits: without VNNI, sums of two products of 8 bits overflow 16.
                reduce_range=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                calibrate_method=quantization.CalibrationMethod.MinMax,
            )
        except Exception as error:  # the tool raises what its passes raise
            raise ModelError(
                f"ONNX Runtime cannot quantise this network: {type(error).__name__}: {error}"
            ) from error
        graph = onnx.load(made)
        del graph.metadata_props[:]
        graph.metadata_props.extend(said)
        onnx.save(graph, path)


class _Images:
    """What ONNX Runtime's tool reads: one dict of inputs after the other, then None."""

    def __init__(self, images: Iterable[Tensor]) -> None:
        self._images: Iterator[Tensor] = iter(images)

    def get_next(self) -> dict[str, Any] | None:
        """The next image."""
        image = next(self._images, None)
        return None if image is None else {IMAGES: image.numpy()}


def check_quantized(path: Path, network: DescriptorNetwork, images: Sequence[Tensor]) -> float:
    """Compare a quantised graph with its network on photographs.

    Args:
        path: The ONNX file.
        network: What was exported, in float32.
        images: As for :func:`quantize_graph`; at most ``_COMPARED`` are compared.

    Returns:
        The mean cosine of a descriptor with the network's.

    Raises:
        ModelError: It is below ``LEAST_MEAN_COSINE``, or ONNX Runtime cannot run the graph.
        ImportError: onnxruntime is not installed.
    """
    run = on_cpu(path)
    cosines = []
    for image in images[:_COMPARED]:
        found = run({IMAGES: image})
        with torch.inference_mode():
            wanted = network(image)
        cosines += [
            (ours * torchs).sum(1).flatten() for ours, torchs in zip(found, wanted, strict=True)
        ]
    mean = float(torch.cat(cosines).mean())
    if not mean >= LEAST_MEAN_COSINE:  # NaN is not
        raise ModelError(
            f"8 bits are too few for this network: the mean cosine of a descriptor with torch's "
            f"is {mean:.4f}, wanted {LEAST_MEAN_COSINE}. Export it with --dtype fp32."
        )
    return mean
