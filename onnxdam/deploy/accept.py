"""The original inputs in front of a pruned model, for callers that cannot change.

    x[N, 3, 8, 8] -> Reshape -> [N, 192] -> Gather(kept pixels) -> [N, 97] -> the pruned model

The manifest says what to select; nothing else of the model changes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from onnxdam.errors import InputError, UnsupportedError
from onnxdam.features import ANY_RANK, METADATA_KEY, InputFeatures, Manifest
from onnxdam.graph import io


def accept_original(model: ir.Model, manifest: Manifest | None) -> tuple[ir.Model, Manifest]:
    """Gives a pruned model the inputs of its original.

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
    inputs = model.graph.inputs
    places = {str(value.name): number for number, value in enumerate(inputs)}
    for item in manifest.inputs:
        if item.name not in places:
            raise UnsupportedError(
                f"accept full: nothing reads input {item.name!r}, it left, and the manifest does not hold its type; "
                "prune with `--inputs keep-signature`"
            )
        if item.kept or item.merged:
            inputs[places[item.name]] = _widened(model, item, inputs[places[item.name]])
    made = replace(manifest, model=io.fingerprint(model), keep_signature=True)
    model.metadata_props[METADATA_KEY] = made.to_json()
    return model, made


def _widened(model: ir.Model, item: InputFeatures, slim: ir.Value) -> ir.Value:
    """The original input; what reads the pruned one reads what is selected from it."""
    if slim.is_graph_output():
        raise UnsupportedError(f"accept full: input {item.name!r} is an output as well, and cannot have two shapes")
    wide = ir.Value(name=item.name, type=slim.type, shape=_shape(item, slim))
    graph, names = model.graph, _unused(model.graph, f"{item.name}.selected")
    value, nodes = wide, []
    for operator, operand, attributes in _steps(item):
        step = ir.node(operator, [value, _initializer(model, next(names), operand)], attributes=attributes)
        value = step.outputs[0]
        value.name = step.name = next(names)
        value.type = slim.type
        nodes.append(step)
    value.shape = slim.shape
    first = next(iter(graph), None)
    if first is None:
        graph.extend(nodes)
    else:
        graph.insert_before(first, nodes)
    ir.convenience.replace_all_uses_with(slim, value)
    return wide


def _initializer(model: ir.Model, name: str, content: np.ndarray) -> ir.Value:
    tensor = ir.Tensor(content, name=name)
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(content.shape), const_value=tensor)
    model.graph.register_initializer(value)
    if (model.ir_version or 4) < 4:
        model.graph.inputs.append(value)  # what initializers had to be then
    return value


def _shape(item: InputFeatures, slim: ir.Value) -> ir.Shape:
    """The original shape; dynamic dimensions as the pruned input writes them (-1 is another spelling of nothing)."""
    assert slim.shape is not None
    gone = max(len(item.merged) - 1, 0)
    dims = []
    for axis, dim in enumerate(item.shape):
        now = axis - gone if item.merged and axis > item.merged[-1] else axis
        dims.append(dim if isinstance(dim, int) else slim.shape[now])
    return ir.Shape(dims)


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


def _unused(graph: ir.Graph, wanted: str) -> Iterator[str]:
    """`wanted` with numbers behind it; no value of the graph is called that."""
    taken = {value.name for value in (*graph.inputs, *graph.initializers.values())}
    taken |= {output.name for node in graph.all_nodes() for output in node.outputs}
    return (name for number in itertools.count() if (name := f"{wanted}{number}") not in taken)
