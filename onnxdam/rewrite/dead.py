"""Removal of what nobody reads: nodes, initializers, whole bodies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import onnx_ir as ir

from onnxdam.analysis.tensor import Tensor
from onnxdam.graph.traverse import attributes
from onnxdam.rules.base import Op


def idle_nodes(graph: ir.Graph) -> frozenset[ir.Node]:
    """Nodes that nobody reads."""
    return frozenset(node for node in graph.all_nodes() if not _is_read(node))


def unspoilt(idle: frozenset[ir.Node], ops: Iterable[Op], is_spoilt: Callable[[Tensor], bool]) -> frozenset[ir.Node]:
    """The idle nodes whose operands, and all that those are made of, are still what they were.

    Args:
        idle: nodes that nobody reads.
        ops: all nodes that do not run, in order.
        is_spoilt: whether a tensor is not what it was, though the nodes that make it run.
    """
    spoilt: set[Tensor] = set()
    gone: set[ir.Node] = set()
    for op in ops if idle else ():
        operands = [*(t for t in op.ins if t is not None), *(t for body in op.bodies.values() for t in body.outs)]
        if any(not t.is_leaf and (t in spoilt or is_spoilt(t)) for t in operands):
            spoilt.update(op.outs)
            gone.add(op.node)
    return idle - gone


def _is_read(node: ir.Node) -> bool:
    return any(v.uses() or v.is_graph_output() for v in node.outputs)


def remove_dead(graph: ir.Graph, spare: frozenset[ir.Node] = frozenset()) -> None:
    """Removes nodes that nobody reads, and initializers that are left over, bodies of nodes included.

    Args:
        graph: is changed in place.
        spare: nodes that stay although nobody reads them.
    """
    for node in reversed(list(graph)):
        if node in spare or _is_read(node):
            for body in bodies(node):
                remove_dead(body, spare)
        else:
            for body in bodies(node):  # else what it captures would still count as read
                body.outputs.clear()
                remove_dead(body)
            graph.remove(node, safe=True)
    outputs = {id(v) for v in graph.outputs}
    for name, value in list(graph.initializers.items()):
        if not value.uses() and id(value) not in outputs:
            del graph.initializers[name]
            if any(value is v for v in graph.inputs):
                graph.inputs.remove(value)


def bodies(node: ir.Node) -> Iterator[ir.Graph]:
    """The graphs that a node holds."""
    for attribute in attributes(node):
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def names(graph: ir.Graph) -> Iterator[str | None]:
    """Names that are taken in a graph and in the bodies of its nodes."""
    yield from (v.name for v in graph.inputs)
    yield from graph.initializers
    for node in graph:
        yield from (v.name for v in node.outputs)
        for body in bodies(node):
            yield from names(body)
