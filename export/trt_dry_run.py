"""Describe the plan that a build would make, without a GPU."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from vsm_fast.errors import ModelError
from vsm_fast.export.trt_engine import parse_onnx, require_precision
from vsm_fast.extras import required
from vsm_fast.model.config import weights_fingerprint
from vsm_fast.runtimes.exported import IMAGES, ExportRecord, verify_graph
from vsm_fast.runtimes.plans import plan_name
from vsm_fast.runtimes.tensorrt_library import create, library, machine, unusable

# TensorRT may not start without a driver. TensorRT for RTX has the same interface and does.
_PARSERS = ("tensorrt", "tensorrt_rtx")
_BYTES = {"FLOAT": 4, "FLOAT16": 2, "BFLOAT16": 2, "INT64": 8, "INT32": 4, "BOOL": 1, "INT8": 1,
          "UINT8": 1, "DOUBLE": 8}  # fmt: skip
Shapes = Mapping[str, tuple[int, ...]]


def describe(folder: Path, record: ExportRecord, device: torch.device) -> Iterator[str]:
    """Yield lines about the plan that an exported folder would give.

    Raises:
        ModelError: If the graph was altered or is invalid, or TensorRT cannot parse it.
        ImportError: If onnx is not installed.
    """
    require_precision(folder, record)
    path = verify_graph(folder, record)
    facts = graph_facts(path)
    kinds = ", ".join(f"{count} {kind}" for kind, count in facts.kinds.most_common(6))
    types = ", ".join(f"{name} {size / 2**20:.1f}" for name, size in facts.types.items())
    batch = record.batch
    rows = [
        ("model", f"{record.model.name}, weights {weights_fingerprint(record.model)[:12]}"),
        *(("input", value) for value in facts.inputs),
        *(("output", value) for value in facts.outputs),
        ("profile", f"batch at least {batch.least}, at best {batch.best}, at most {batch.most}"),
        ("precision", f"{record.precision}, strongly typed"),
        ("operators", f"{facts.kinds.total()} ({kinds}, ...)"),
        ("weights", f"{facts.types.total() / 2**20:.1f} MiB ({types})"),
    ]
    if facts.operations is not None:
        rows.append(("operations", f"{facts.operations / 1e9:.2f} GFLOP per image"))
    if facts.activation_bytes is not None:
        size = facts.activation_bytes / 2**20
        rows.append(("activations", f"{size:.1f} MiB live per image, before operator fusion"))
    rows.append(("parsed", _parse(path)))
    if reason := unusable(device):
        rows.append(("plan", f"cannot be built here: {reason}"))
    else:
        rows.append(("plan", f"would be {plan_name(machine(library(device), device))}"))
    for title, text in rows:
        yield f"{title:<12} {text}"


def _parse(path: Path) -> str:
    """Parse the graph with the first parser that starts, and summarise the result."""
    reasons = []
    for name in _PARSERS:
        try:
            trt = import_module(name)
            builder: Any = create(trt, "Builder")
        except (ImportError, ModelError) as error:
            reasons.append(f"{name}: {error}")
            continue
        network = parse_onnx(trt, builder, path)
        sizes = f"{network.num_inputs} input and {network.num_outputs} outputs"
        return f"by {name} {trt.__version__}: {network.num_layers} layers, {sizes}"
    return (
        f"by onnx alone ({'; '.join(reasons)}). To parse it with TensorRT, without a GPU: "
        "pip install tensorrt-rtx-cu12"
    )


@dataclass(frozen=True)
class GraphFacts:
    """Size and cost of an ONNX graph.

    Attributes:
        inputs: "name type [shape]" of each.
        outputs: As ``inputs``.
        kinds: Number of operators by kind.
        types: Bytes of initialisers by type, like ``{"FLOAT16": 13893120}``.
        operations: Floating-point operations per image (a product and a sum are 2) of
            convolutions and matrix products; None if shapes could not be inferred.
        activation_bytes: Peak size of live tensors per image when the operators run in graph
            order; engines need less or more, as they fuse operators and add workspace. None as
            ``operations``.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    kinds: Counter[str]
    types: Counter[str]
    operations: float | None
    activation_bytes: int | None


def graph_facts(path: Path) -> GraphFacts:
    """Read an ONNX file, without its external weights.

    Raises:
        ModelError: If it is not a valid ONNX file.
        ImportError: If onnx is not installed.
    """
    onnx = required("onnx", "reading an ONNX graph")
    type_name = onnx.TensorProto.DataType.Name

    def shown(value: Any) -> str:
        tensor = value.type.tensor_type
        sizes = ", ".join(str(size.dim_param or size.dim_value) for size in tensor.shape.dim)
        return f"{value.name} {type_name(tensor.elem_type).lower()} [{sizes}]"

    try:
        onnx.checker.check_model(str(path))  # by path: protobuf in memory is limited to 2 GiB
        model = onnx.load(str(path), load_external_data=False)
        graph = model.graph
        types: Counter[str] = Counter()
        for tensor in graph.initializer:
            name = type_name(tensor.data_type)
            types[name] += math.prod(tensor.dims) * _BYTES.get(name, 4)
        inputs, outputs = (tuple(map(shown, values)) for values in (graph.input, graph.output))
        (images,) = (value for value in graph.input if value.name == IMAGES)
        batch = int(images.type.tensor_type.shape.dim[0].dim_value) or 1  # 0: dynamic
        shapes, item_bytes = _inferred(onnx, model, batch)
    except Exception as error:  # protobuf, the checker and shape inference have own classes
        raise ModelError(
            f"{path} is not a valid ONNX graph ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]}). Export the model again."
        ) from error
    operations, peak = _operations(graph.node, shapes), _peak_bytes(graph, shapes, item_bytes)
    return GraphFacts(
        inputs,
        outputs,
        Counter(node.op_type for node in graph.node),
        types,
        None if operations is None else operations / batch,
        None if peak is None else peak // batch,
    )


def _inferred(
    onnx: Any, model: Any, batch: int
) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """Infer shapes and bytes per item of the tensors, as far as possible."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    del fixed.graph.value_info[:]  # its batch is symbolic
    for value in (*fixed.graph.input, *fixed.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    for node in fixed.graph.node:
        if node.op_type == "GroupNormalization":  # onnx 1.23 infers none of it in bfloat16
            node.op_type = "Identity"
            del node.input[1:], node.attribute[:]
    graph = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    item_bytes: dict[str, int] = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        sizes = [size.dim_value for size in tensor.shape.dim]
        if tensor.HasField("shape") and all(size > 0 for size in sizes):
            shapes[value.name] = tuple(sizes)
            kind = onnx.TensorProto.DataType.Name(tensor.elem_type)
            item_bytes[value.name] = _BYTES.get(kind, 4)
    return shapes, item_bytes


def _operations(nodes: Any, shapes: Shapes) -> float | None:
    total = 0
    for node in nodes:
        if node.op_type not in ("Conv", "ConvTranspose", "MatMul", "Gemm"):
            continue
        names = (node.input[0], node.input[1], node.output[0])
        if any(name not in shapes for name in names):
            return None
        left, right, output = (shapes[name] for name in names)
        if node.op_type == "Conv":  # weights [out, in / groups, ...]
            total += 2 * math.prod(output) * math.prod(right[1:])
        elif node.op_type == "ConvTranspose":
            total += 2 * math.prod(left) * math.prod(right[1:])
        else:
            total += 2 * math.prod(output) * left[-1]
    return float(total)


def _peak_bytes(graph: Any, shapes: Shapes, item_bytes: Mapping[str, int]) -> int | None:
    """Return the peak size of tensors that are live at the same time."""
    last_use = {name: number for number, node in enumerate(graph.node) for name in node.input}
    last_use |= {value.name: len(graph.node) for value in graph.output}
    weights = {tensor.name for tensor in graph.initializer}
    sizes: dict[str, int] = {}
    live = peak = 0
    for number, node in enumerate(graph.node):
        for name in filter(None, node.output):
            if name not in shapes:
                return None
            sizes[name] = math.prod(shapes[name]) * item_bytes.get(name, 4)
            live += sizes[name]
        peak = max(peak, live)
        for name in {*node.input, *node.output} - weights:
            if last_use.get(name, number) <= number:
                live -= sizes.pop(name, 0)
    return peak
