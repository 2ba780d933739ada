"""What an ONNX graph says about itself, read without running it: sizes, operations, memory."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vsm_fast.errors import ModelError
from vsm_fast.extras import required
from vsm_fast.runtimes.exported import IMAGES

Shape = tuple[int, ...]
_BYTES = {"FLOAT": 4, "FLOAT16": 2, "BFLOAT16": 2, "INT64": 8, "INT32": 4, "BOOL": 1, "INT8": 1,
          "UINT8": 1, "DOUBLE": 8}  # fmt: skip


@dataclass(frozen=True)
class GraphFacts:
    """An ONNX graph in numbers.

    Attributes:
        inputs, outputs: "name type [shape]" of each.
        nodes: Operators.
        kinds: How many of each.
        weight_bytes: Of all initialisers.
        types: Bytes of initialisers by their type, like ``{"FLOAT16": 13893120}``.
        operations: Floating-point operations for one image (a product and a sum are 2) of
            convolutions, matrix products and attention; None if shapes could not be inferred.
        activation_bytes: Of the tensors alive at the same time, at most, when the operators run
            one after the other as they stand, for one image (of a fixed batch: its share); engines
            need less or more, as they fuse operators and give kernels room to work. None as
            ``operations``.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: int
    kinds: Mapping[str, int]
    weight_bytes: int
    types: Mapping[str, int]
    operations: float | None
    activation_bytes: int | None


def graph_facts(path: Path) -> GraphFacts:
    """Read an ONNX file; its external weights are not read.

    Raises:
        ModelError: It is no valid ONNX file.
        ImportError: onnx is not installed.
    """
    onnx = required("onnx", "reading an ONNX graph")
    try:
        onnx.checker.check_model(str(path))  # by its path: in memory a graph ends at 2 GiB
        model = onnx.load(str(path), load_external_data=False)
        graph = model.graph
        types: Counter[str] = Counter()
        for tensor in graph.initializer:
            name = onnx.TensorProto.DataType.Name(tensor.data_type)
            types[name] += math.prod(tensor.dims) * _BYTES.get(name, 4)
        told = [
            tuple(_shown(onnx, value) for value in values) for values in (graph.input, graph.output)
        ]
        count = _fixed_batch(graph)
        shapes, kinds = _shapes(onnx, model, count or 1)
    except (
        Exception
    ) as error:  # protobuf, the checker and shape inference have classes of their own
        raise ModelError(
            f"{path} is not a valid ONNX graph ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]}). Export the model again."
        ) from error
    operations, alive = _operations(graph.node, shapes), _alive(graph, shapes, kinds)
    images = count or 1
    return GraphFacts(
        told[0],
        told[1],
        len(graph.node),
        Counter(node.op_type for node in graph.node),
        sum(types.values()),
        types,
        None if operations is None else operations / images,
        None if alive is None else alive // images,
    )


def _shown(onnx: Any, value: Any) -> str:
    tensor = value.type.tensor_type
    sizes = [str(size.dim_param or size.dim_value) for size in tensor.shape.dim]
    kind = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
    return f"{value.name} {kind} [{', '.join(sizes)}]"


def _fixed_batch(graph: Any) -> int:
    """The one batch size that a graph takes; 0 if it takes several."""
    (images,) = (value for value in graph.input if value.name == IMAGES)
    return int(images.type.tensor_type.shape.dim[0].dim_value)


def _shapes(onnx: Any, model: Any, batch: int) -> tuple[dict[str, Shape], dict[str, str]]:
    """Shapes and types of the tensors of a batch, as far as they can be inferred."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    del fixed.graph.value_info[:]  # in which the batch has a name
    for value in (*fixed.graph.input, *fixed.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    for node in fixed.graph.node:
        if node.op_type == "GroupNormalization":  # onnx 1.23 infers none of it in bfloat16
            node.op_type = "Identity"
            del node.input[1:], node.attribute[:]
    inferred = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
    shapes: dict[str, Shape] = {tensor.name: tuple(tensor.dims) for tensor in inferred.initializer}
    kinds: dict[str, str] = {}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        tensor = value.type.tensor_type
        sizes = [size.dim_value for size in tensor.shape.dim]
        if tensor.HasField("shape") and all(size > 0 for size in sizes):
            shapes[value.name] = tuple(sizes)
            kinds[value.name] = onnx.TensorProto.DataType.Name(tensor.elem_type)
    return shapes, kinds


def _operations(nodes: Any, shapes: Mapping[str, Shape]) -> float | None:
    total = 0.0
    for node in nodes:
        counted = _COUNTED.get(node.op_type)
        if counted is None:
            continue
        names = (node.input[0], node.input[1], node.output[0])
        if any(name not in shapes for name in names):
            return None
        total += counted(*(shapes[name] for name in names))
    return total


def _of_convolution(_: Shape, weight: Shape, output: Shape) -> float:
    # Weights [out, in / groups, ...]: each output is a product with one of them.
    return 2.0 * math.prod(output) * math.prod(weight[1:])


def _of_transposed(image: Shape, weight: Shape, _: Shape) -> float:
    return 2.0 * math.prod(image) * math.prod(weight[1:])


def _of_product(left: Shape, _: Shape, output: Shape) -> float:
    return 2.0 * math.prod(output) * left[-1]


_COUNTED = {
    "Conv": _of_convolution,
    "ConvTranspose": _of_transposed,
    "MatMul": _of_product,
    "Gemm": _of_product,
}


def _alive(graph: Any, shapes: Mapping[str, Shape], kinds: Mapping[str, str]) -> int | None:
    """Most bytes of results that are needed at the same time."""
    last = {name: number for number, node in enumerate(graph.node) for name in node.input}
    last |= {value.name: len(graph.node) for value in graph.output}
    sizes: dict[str, int] = {}
    given = {tensor.name for tensor in graph.initializer}
    alive = most = 0
    for number, node in enumerate(graph.node):
        for name in filter(None, node.output):
            if name not in shapes:
                return None
            sizes[name] = math.prod(shapes[name]) * _BYTES.get(kinds.get(name, ""), 4)
            alive += sizes[name]
        most = max(most, alive)
        for name in {*node.input, *node.output} - given:
            if last.get(name, number) <= number:
                alive -= sizes.pop(name, 0)
    return most
