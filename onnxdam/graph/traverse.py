"""Every graph and every stored tensor of a model, wherever it sits."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir


def tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    """Every stored tensor: initializers and attributes, of the graph, its subgraphs and the model's functions."""
    for graph in graphs(model):
        if isinstance(graph, ir.Graph):
            for value in graph.initializers.values():
                if value.const_value is not None:
                    yield value.const_value
        for node in graph:
            for attribute in node.attributes.values():
                if attribute.is_ref() or attribute.value is None:
                    continue
                if attribute.type == ir.AttributeType.TENSOR:
                    yield attribute.value  # as_tensor() is 30 times slower: it checks a runtime protocol
                elif attribute.type == ir.AttributeType.TENSORS:
                    yield from attribute.value


def graphs(model: ir.Model) -> Iterator[ir.Graph | ir.Function]:
    """The main graph, the functions, and all their subgraphs, outermost first."""
    todo: list[ir.Graph | ir.Function] = [*reversed(list(model.functions.values())), model.graph]
    while todo:
        graph = todo.pop()
        yield graph
        for node in graph:
            for attribute in node.attributes.values():
                if attribute.is_ref():
                    continue
                if attribute.type == ir.AttributeType.GRAPH:
                    todo.append(attribute.value)
                elif attribute.type == ir.AttributeType.GRAPHS:
                    todo.extend(attribute.value)
