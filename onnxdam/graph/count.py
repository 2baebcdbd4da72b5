"""Parameters, multiply-accumulates and bytes, per node and in total.

A multiply-accumulate (MAC) is one product that is added to a sum; operators that do not sum products count as none.
Costs are taken from shapes, so dynamic dimensions need a size: 1 unless the caller says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import onnx
import onnx.inliner
import onnx_ir as ir

from onnxdam.graph import io
from onnxdam.graph.shapes import walk
from onnxdam.rules.macs import Shape, macs, standardise

# What counts as a parameter: floats of all widths and what they are quantised to; int64 and bool are structure.
WEIGHTS = {
    t
    for t in ir.DataType
    if t.is_floating_point() or t in (ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT4, ir.DataType.UINT4)
}


@dataclass(frozen=True)
class NodeCost:
    """The cost of one node.

    Attributes:
        name: of the node, or of its first output if it has none.
        op_type: its operator.
        parameters: weights that it reads and no earlier node did.
        macs: multiply-accumulates; None where a shape is not known.
        weight_bytes: size of those weights.
        activation_bytes: size of its results; None where a shape is not known.
    """

    name: str
    op_type: str
    parameters: int
    macs: int | None
    weight_bytes: int
    activation_bytes: int | None


@dataclass(frozen=True)
class Cost:
    """The cost of a model.

    Attributes:
        parameters: stored weights (floating point or quantised), Constant nodes and subgraphs included.
        macs: sum over the nodes whose shapes are known.
        weight_bytes: size of all stored tensors.
        nodes: per node, in graph order, those of subgraphs behind their owner.
        notes: sizes assumed, nodes that could not be counted.
    """

    parameters: int
    macs: int
    weight_bytes: int
    nodes: tuple[NodeCost, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def count(model: io.AnyModel, *, sizes: Mapping[str, int] | None = None) -> Cost:
    """Counts a model.

    Args:
        model: what `onnxdam.graph.io.load` takes; an `ir.Model` is taken as it is.
        sizes: of dynamic dimensions by name; the others count as 1.

    Raises:
        InputError: as `load`.
    """
    loaded = model if isinstance(model, ir.Model) else io.load(model)
    stored = list(_stored(loaded))
    proto = io.to_proto(io.skeleton(loaded))
    notes = _fix_sizes(proto.graph, sizes or {})
    proto = _inferred(proto, notes)
    by_name = {tensor.name: tensor for tensor in stored}
    nodes = tuple(_costs(proto.graph, by_name, {}, set()))
    if any(node.macs is None for node in nodes):
        walk(proto)
        nodes = tuple(_costs(proto.graph, by_name, {}, set()))
    unknown = [node for node in nodes if node.macs is None]
    if unknown:
        notes.append(f"{len(unknown)} nodes could not be counted (shapes unknown), the first is {unknown[0].name!r}")
    every = list(io.tensors(loaded))
    return Cost(
        parameters=sum(tensor.parameters for tensor in stored),
        macs=sum(node.macs or 0 for node in nodes),
        weight_bytes=sum(tensor.nbytes for tensor in every if tensor.dtype != ir.DataType.STRING),
        nodes=nodes,
        notes=tuple(notes),
    )


@dataclass(frozen=True)
class _Stored:
    """A tensor that lies in the file."""

    name: str
    shape: Shape
    parameters: int
    nbytes: int


def _stored(model: ir.Model) -> Iterator[_Stored]:
    """Initializers and Constant nodes (the fill value of a ConstantOfShape is no weight)."""
    for graph in io.graphs(model):
        for value in graph.initializers.values() if isinstance(graph, ir.Graph) else ():
            if value.const_value is not None:
                yield _of(str(value.name), value.const_value)
        for node in graph:
            if node.op_type == "Constant" and "value" in node.attributes and not node.attributes["value"].is_ref():
                yield _of(str(node.outputs[0].name), node.attributes["value"].value)


def _of(name: str, tensor: ir.TensorProtocol) -> _Stored:
    shape = tuple(int(d) for d in tensor.shape.numpy())
    nbytes = tensor.nbytes if tensor.dtype != ir.DataType.STRING else 0
    return _Stored(name, shape, tensor.size if tensor.dtype in WEIGHTS else 0, nbytes)


def _fix_sizes(graph: onnx.GraphProto, sizes: Mapping[str, int]) -> list[str]:
    """Gives every dynamic dimension a size and forgets the shapes that were inferred before."""
    assumed: dict[str, int] = {}
    for value in graph.input:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.HasField("dim_value") and dim.dim_value > 0:
                continue
            name = dim.dim_param or f"{value.name}.{axis}"
            assumed[name] = sizes.get(name, 1)
            dim.dim_value = assumed[name]
    if assumed:
        del graph.value_info[:]
        for value in graph.output:
            value.type.tensor_type.ClearField("shape")
    return [f"counted with {', '.join(f'{k} = {v}' for k, v in assumed.items())}"] if assumed else []


def _inferred(proto: onnx.ModelProto, notes: list[str]) -> onnx.ModelProto:
    try:
        if proto.functions:
            proto = onnx.inliner.inline_local_functions(proto)
        for node in proto.graph.node:
            standardise(node)
        return onnx.shape_inference.infer_shapes(proto, data_prop=True)
    except Exception as error:  # the C++ side throws what it likes; counting goes on with the shapes written down
        notes.append(f"shapes could not be inferred ({' '.join(str(error).split())[:100]})")
        return proto


def _costs(
    graph: onnx.GraphProto, stored: Mapping[str, _Stored], outer: Mapping[str, Shape], seen: set[str]
) -> Iterator[NodeCost]:
    shapes = dict(outer) | {name: tensor.shape for name, tensor in stored.items()}
    kinds: dict[str, int] = {}
    for value in (*graph.value_info, *graph.input, *graph.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim):
            shapes.setdefault(value.name, tuple(d.dim_value for d in tensor.shape.dim))
        kinds[value.name] = tensor.elem_type
    for node in graph.node:
        own = [n for n in dict.fromkeys((*node.input, *node.output)) if n in stored and n not in seen]
        seen.update(own)
        sizes = [_nbytes(shapes.get(o), kinds.get(o, 1)) for o in node.output if o]
        yield NodeCost(
            name=node.name or node.output[0],
            op_type=node.op_type,
            parameters=sum(stored[n].parameters for n in own),
            macs=macs(node, shapes),
            weight_bytes=sum(stored[n].nbytes for n in own),
            activation_bytes=sum(s for s in sizes if s is not None) if None not in sizes else None,
        )
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    yield from _costs(inner, stored, shapes, seen)


def _nbytes(shape: Shape | None, kind: int) -> int | None:
    if shape is None:
        return None
    try:
        return math.ceil(math.prod(shape) * ir.DataType(kind).itemsize)
    except (TypeError, ValueError):  # strings, sequences
        return None
