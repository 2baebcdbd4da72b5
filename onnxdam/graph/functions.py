"""Model-local functions are inlined before a model is analysed.

A function that cannot be inlined (written against another version of an operator it uses, taking a graph as an
attribute, calling itself) stays; its calls are operators without a rule.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import onnx
import onnx_ir as ir

from onnxdam.rewrite.dead import bodies

logger = logging.getLogger(__name__)


def inline(model: ir.Model) -> ir.Model:
    """The model without functions, in place; a model that has none is returned as it is."""
    called = set(_called(model))
    if not called & set(model.functions):
        return model
    stay = {key for key, function in model.functions.items() if not _adapt(model, function)}
    from onnx_ir.passes import PreconditionError
    from onnx_ir.passes.common import InlinePass

    taken = {name for graph in _graphs(model) for name in _names(graph)}
    for number, function in enumerate(model.functions.values()):
        _separate(function, _prefix(taken, number))
    try:
        InlinePass(lambda function: function.identifier() not in stay)(model)
    except PreconditionError as error:
        logger.warning("functions are not inlined: %s", error)
    return model


def _called(model: ir.Model) -> Iterator[ir.OperatorIdentifier]:
    for node in model.graph.all_nodes():
        yield node.op_identifier()


def _adapt(model: ir.Model, function: ir.Function) -> bool:
    """Whether the function can be inlined; its opset becomes the model's where that makes no difference to it."""
    if any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in function.attributes.values()):
        return False
    nodes = list(function.all_nodes())
    for domain, version in list(function.opset_imports.items()):
        wanted = model.opset_imports.get(domain, version)
        if wanted == version:
            continue
        if not all(_unchanged(domain, node.op_type, version, wanted) for node in nodes if node.domain == domain):
            logger.warning("function %s is not inlined: it is for opset %s of %r", function.name, version, domain)
            return False
        function.opset_imports[domain] = wanted
    return True


def _unchanged(domain: str, operator: str, one: int, other: int) -> bool:
    """Whether two versions of an operator set define the operator alike."""
    try:
        a, b = (onnx.defs.get_schema(operator, version, domain) for version in (one, other))
    except onnx.defs.SchemaError:
        return False
    return bool(a.since_version == b.since_version)


def _separate(function: ir.Function, prefix: str) -> None:
    """Gives every value of the function a name that is nowhere else, and every output a node of its own."""
    for graph in _nested(function.graph):
        values = (
            [*graph.inputs, *(v for node in graph for v in node.outputs)]
            if graph is not function.graph
            else [v for node in graph for v in node.outputs]
        )
        for value in values:
            if value.name:
                value.name = prefix + value.name
    seen: set[int] = set()
    for index, value in enumerate(function.outputs):
        if value in function.inputs or id(value) in seen:  # inlined, it would be another value by a second name
            node = ir.Node("", "Identity", [value], num_outputs=1, name=f"{prefix}output_{index}")
            node.outputs[0].name = f"{prefix}output_{index}"
            function.graph.append(node)
            function.outputs[index] = node.outputs[0]
        seen.add(id(value))


def _prefix(taken: set[str], number: int) -> str:
    """A prefix that no name begins with."""
    prefix = f"f{number}_"
    while any(name.startswith(prefix) for name in taken):
        prefix += "_"
    return prefix


def _graphs(model: ir.Model) -> Iterator[ir.Graph]:
    yield from _nested(model.graph)
    for function in model.functions.values():
        yield from _nested(function.graph)


def _nested(graph: ir.Graph) -> Iterator[ir.Graph]:
    """The graph, and the bodies of its nodes."""
    yield graph
    for node in graph:
        for body in bodies(node):
            yield from _nested(body)


def _names(graph: ir.Graph) -> Iterator[str]:
    for value in (*graph.inputs, *graph.initializers.values(), *(v for node in graph for v in node.outputs)):
        if value.name:
            yield value.name
