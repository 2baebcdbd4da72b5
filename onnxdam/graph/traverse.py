"""Every graph and every stored tensor of a model, wherever it sits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeGuard

import onnx_ir as ir

_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
_TENSORS = (ir.AttributeType.TENSOR, ir.AttributeType.TENSORS)


def tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    """Every stored tensor: initializers and attributes, of the graph, its subgraphs and the model's functions."""
    for graph in graphs(model):
        if isinstance(graph, ir.Graph):
            for value in graph.initializers.data.values():
                if value.const_value is not None:
                    yield value.const_value
        for node in graph:
            for attribute in attributes(node):
                if attribute.type in _TENSORS and attribute.value is not None:
                    yield from _each(attribute)


def graphs(model: ir.Model) -> Iterator[ir.Graph | ir.Function]:
    """The main graph, the functions, and all their subgraphs, outermost first."""
    todo: list[ir.Graph | ir.Function] = [*reversed(list(model.functions.values())), model.graph]
    while todo:
        graph = todo.pop()
        yield graph
        for node in graph:
            for attribute in attributes(node):
                if attribute.type in _GRAPHS and attribute.value is not None:
                    todo.extend(_each(attribute))


def attributes(node: ir.Node) -> Iterable[ir.Attr]:
    """The attributes of a node; views of onnx-ir's own dictionary are many times slower than of the one it holds."""
    return node.attributes.data.values()


def is_external(tensor: ir.TensorProtocol | None) -> TypeGuard[ir.ExternalTensor]:
    """Whether a tensor lies in a file of its own (to ask `isinstance` takes long: the class is a runtime protocol)."""
    return type(tensor) is ir.ExternalTensor


def _each(attribute: ir.Attr) -> Iterable[Any]:
    """What an attribute holds; `as_tensor` and the like are 30 times slower: they check a runtime protocol."""
    single = attribute.type in (ir.AttributeType.TENSOR, ir.AttributeType.GRAPH)
    return (attribute.value,) if single else attribute.value
