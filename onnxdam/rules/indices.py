"""Which operators read an input as indices, and into what: random integers must stay in range."""

from __future__ import annotations

import onnx

# An index may travel through these before it is used; the operand that carries it is the first.
_CARRIERS = {
    "Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Flatten", "Slice", "Expand", "Tile", "Concat",
    "Clip",
}  # fmt: skip
# operator -> {input position that is an index: (input position of the table, axis or attribute "axis")}
_TABLES: dict[str, dict[int, tuple[int, str | int]]] = {
    "Gather": {1: (0, "axis")},
    "GatherElements": {1: (0, "axis")},
    "GatherND": {1: (0, 0)},
    "ScatterElements": {1: (0, "axis")},
    "ScatterND": {1: (0, 0)},
    "EmbedLayerNormalization": {0: (2, 0), 1: (4, 0)},
}


def index_bound(graph: onnx.GraphProto, name: str) -> int | None:
    """The number of rows of the smallest table that the value indexes, None if it indexes nothing of known size."""
    extents = _extents(graph)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for operand in set(node.input):
            users.setdefault(operand, []).append(node)
    bounds: list[int] = []
    todo, seen = [name], {name}
    while todo:
        value = todo.pop()
        for node in users.get(value, ()):
            for position, (table, axis) in _TABLES.get(node.op_type, {}).items():
                if position < len(node.input) and table < len(node.input) and node.input[position] == value:
                    rows = extents.get(node.input[table])
                    at = next((a.i for a in node.attribute if a.name == "axis"), 0) if axis == "axis" else int(axis)
                    if rows and -len(rows) <= at < len(rows) and rows[at]:
                        bounds.append(rows[at])
            if node.op_type == "OneHot" and node.input[0] == value and node.input[1] in constants:
                bounds.append(int(onnx.numpy_helper.to_array(constants[node.input[1]]).reshape(-1)[0]))
            if node.op_type in _CARRIERS and (node.input[0] == value or node.op_type == "Concat"):
                todo += [output for output in node.output if output not in seen]
                seen.update(node.output)
    return min(bounds, default=None)


def _extents(graph: onnx.GraphProto) -> dict[str, list[int]]:
    """Shapes that are written down; 0 where dynamic."""
    known = {t.name: list(t.dims) for t in graph.initializer}
    for value in (*graph.value_info, *graph.input):
        known.setdefault(value.name, [dim.dim_value for dim in value.type.tensor_type.shape.dim])
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            known[node.output[0]] = list(node.attribute[0].t.dims)
    return known
