"""Shapes by walking the graph once, computing shape arithmetic on the way.

ONNX's own inference stops at a Reshape whose target is computed (older exporters write every view that way). Here the
sizes are all numbers, so Shape, Gather, Concat and their like are evaluated as they come, and each node is inferred
from the types and the content of its operands.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx.defs
import onnx.reference
import onnx.shape_inference
from onnx import numpy_helper

_MOST = 1024  # entries: what shape arithmetic works on is small
_OPAQUE = {"If", "Loop", "Scan"}


def walk(proto: onnx.ModelProto) -> None:
    """Adds the shapes that can be computed to `value_info`, and to outputs that have none.

    Args:
        proto: a model whose inputs have fixed sizes; edited in place.
    """
    graph = proto.graph
    opsets = {entry.domain or "": entry.version for entry in proto.opset_import}
    types = {v.name: v.type for v in (*graph.value_info, *graph.output, *graph.input) if _fixed(v.type)}
    data = {t.name: numpy_helper.to_array(t) for t in graph.initializer if math.prod(t.dims) <= _MOST}
    for tensor in graph.initializer:
        types[tensor.name] = onnx.helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
    known = set(types)
    for node in graph.node:
        _visit(node, types, data, opsets)
    described = {value.name for value in (*graph.value_info, *graph.output)}
    for name in types.keys() - known:
        if name not in described:
            graph.value_info.append(onnx.helper.make_value_info(name, types[name]))
    for value in (*graph.value_info, *graph.output):
        if value.name in types:
            value.type.CopyFrom(types[value.name])


def _visit(
    node: onnx.NodeProto, types: dict[str, onnx.TypeProto], data: dict[str, np.ndarray], opsets: Mapping[str, int]
) -> None:
    domain = "" if node.domain == "ai.onnx" else node.domain
    computed = _evaluate(node, types, data, opsets.get(domain, 1)) if domain == "" else None
    if computed is not None:
        for name, array in zip(node.output, computed, strict=False):
            data[name] = array
            kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            types[name] = onnx.helper.make_tensor_type_proto(kind, list(array.shape))
        return
    if all(output in types for output in node.output if output) or node.op_type in _OPAQUE:
        return
    try:
        schema = onnx.defs.get_schema(node.op_type, opsets.get(domain, 1), domain)
        given = {name: types[name] for name in node.input if name in types}
        content = {name: numpy_helper.from_array(data[name], name) for name in node.input if name in data}
        found = onnx.shape_inference.infer_node_outputs(
            schema, node, given, content, opset_imports=[onnx.helper.make_opsetid(k, v) for k, v in opsets.items()]
        )
    except Exception:  # an unknown operator, an operand of unknown type: this node stays unknown
        return
    types.update({name: kind for name, kind in found.items() if _fixed(kind)})


def _evaluate(
    node: onnx.NodeProto, types: Mapping[str, onnx.TypeProto], data: Mapping[str, np.ndarray], version: int
) -> list[np.ndarray] | None:
    """The content of the outputs, if the node is shape arithmetic."""
    if node.op_type == "Shape" and node.input[0] in types:
        dims = np.array([d.dim_value for d in types[node.input[0]].tensor_type.shape.dim], np.int64)
        attributes = {a.name: a.i for a in node.attribute}
        return [dims[attributes.get("start", 0) : attributes.get("end", len(dims))]]
    operands = [name for name in node.input if name]
    if node.op_type in _OPAQUE or not all(name in data for name in operands):
        return None
    if not operands and node.op_type != "Constant":
        return None
    if node.op_type == "Constant" and any(math.prod(a.t.dims) > _MOST for a in node.attribute):
        return None
    try:
        results: Any = onnx.reference.ReferenceEvaluator(_alone(node, data, version)).run(
            None, {name: data[name] for name in operands}
        )
    except Exception:  # the evaluator does not know it: inference may
        return None
    arrays = [np.asarray(result) for result in results]
    return arrays if all(array.size <= _MOST for array in arrays) else None


def _alone(node: onnx.NodeProto, data: Mapping[str, np.ndarray], version: int) -> onnx.ModelProto:
    inputs = [
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(data[name].dtype), data[name].shape
        )
        for name in dict.fromkeys(node.input)
        if name
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    graph = onnx.helper.make_graph([node], "one", inputs, outputs)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", version)])


def _fixed(kind: onnx.TypeProto) -> bool:
    tensor = kind.tensor_type
    return tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim)
