"""The original inputs in front of a pruned model, for callers that cannot change.

    x[N, 3, 8, 8] -> Reshape -> [N, 192] -> Gather(kept pixels) -> [N, 97] -> the pruned model

The manifest says what to select; nothing else of the model changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from onnxdam.errors import InputError, UnsupportedError
from onnxdam.features import ANY_RANK, METADATA_KEY, InputFeatures, Manifest
from onnxdam.graph import io


def accept_original(model: ir.Model, manifest: Manifest | None) -> tuple[ir.Model, Manifest]:
    """Gives a pruned model the inputs of its original, in their order.

    Args:
        model: the pruned model; edited in place.
        manifest: its manifest.

    Returns:
        The model, which holds the manifest that belongs to it now, and this manifest.

    Raises:
        InputError: there is no manifest.
        UnsupportedError: an input of the original cannot be made again from what the manifest says.
    """
    if manifest is None:
        raise InputError("accept full: the model has no manifest, so what its original took is not known")
    if manifest.keep_signature:
        return model, manifest
    graph = model.graph
    slim = {str(value.name): value for value in graph.inputs}
    rest = [value for name, value in slim.items() if name not in {item.name for item in manifest.inputs}]
    wide = [_widened(graph, item, slim.get(item.name)) for item in manifest.inputs]
    graph.inputs.clear()
    graph.inputs.extend([*wide, *rest])
    made = replace(manifest, model=io.fingerprint(model), keep_signature=True)
    model.metadata_props[METADATA_KEY] = made.to_json()
    return model, made


def _widened(graph: ir.Graph, item: InputFeatures, slim: ir.Value | None) -> ir.Value:
    """The original input; the pruned one becomes what is selected from it."""
    if slim is None:
        raise UnsupportedError(
            f"accept full: nothing reads input {item.name!r}, it left, and the manifest does not hold its type; "
            "prune with `--inputs keep-signature`"
        )
    if not item.kept and not item.merged:
        return slim
    if slim.is_graph_output():
        raise UnsupportedError(f"accept full: input {item.name!r} is an output as well, and cannot have two shapes")
    wide = ir.Value(name=item.name, type=slim.type, shape=ir.Shape(item.shape))
    slim.name = _unused(graph, f"{item.name}.selected")
    value = wide
    nodes: list[ir.Node] = []
    for operator, operand, attributes in _steps(item):
        constant = ir.Value(name=_unused(graph, f"{item.name}.{operator.lower()}{len(nodes)}"))
        constant.const_value = ir.Tensor(operand, name=constant.name)
        constant.type, constant.shape = ir.TensorType(ir.DataType.INT64), ir.Shape(operand.shape)
        graph.register_initializer(constant)
        node = ir.node(operator, [value, constant], attributes=attributes, name=constant.name)
        value = node.outputs[0]
        value.name = _unused(graph, f"{item.name}.selected{len(nodes)}")
        value.type = slim.type
        nodes.append(node)
    first = next(iter(graph), None)
    if first is None:
        graph.extend(nodes)
    else:
        graph.insert_before(first, nodes)
    value.shape = slim.shape
    ir.convenience.replace_all_uses_with(slim, value)
    return wide


def _steps(item: InputFeatures) -> Iterator[tuple[str, np.ndarray, dict[str, int]]]:
    """Operator, second input and attributes of each step from the original input to what is read."""
    if item.shape == ANY_RANK:
        raise UnsupportedError(f"accept full: the rank of input {item.name!r} is not known")
    if item.merged:
        yield "Reshape", np.array(_merged_shape(item), np.int64), {}
    gone = max(len(item.merged) - 1, 0)
    for axis, indices in sorted(item.kept.items()):
        now = axis - gone if item.merged and axis > item.merged[-1] else axis
        yield "Gather", np.array(indices, np.int64), {"axis": now}


def _merged_shape(item: InputFeatures) -> list[int]:
    """The second input of the Reshape; 0 copies a size, but only that of the same position."""
    before = [0 if not isinstance(dim, int) else dim for dim in item.shape[: item.merged[0]]]
    after = [dim if isinstance(dim, int) else -1 for dim in item.shape[item.merged[-1] + 1 :]]
    if after.count(-1) > 1:
        raise UnsupportedError(f"accept full: input {item.name!r} has several dynamic axes behind its pixels")
    return [*before, int(item.extent(item.merged[0]) or 0), *after]


def _unused(graph: ir.Graph, wanted: str) -> str:
    """`wanted`, with a number behind it where the graph has such a value."""
    taken = {value.name for value in (*graph.inputs, *graph.initializers.values())}
    taken |= {output.name for node in graph.all_nodes() for output in node.outputs}
    name, number = wanted, 1
    while name in taken:
        name, number = f"{wanted}.{number}", number + 1
    return name
