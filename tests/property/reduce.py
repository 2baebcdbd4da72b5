"""Makes a failing model small: a reproducer that a person can read.

Greedy: keep one output, cut the graph at intermediate values (they become the output, or an input), leave out optional
parts, as long as the same check still fails in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from .builder import Case, all_nodes
from .oracle import IllConditioned, Mismatch
from .properties import Slim, check_slim, finite


def failure(case: Case, slim: Slim) -> str:
    """Message of the first property that fails, or nothing."""
    try:
        check_slim(case, slim)
    except Mismatch as error:
        return str(error)
    except IllConditioned:
        return ""
    return ""


def kind(message: str) -> str:
    """Messages of one kind differ only in names and numbers."""
    first = message.splitlines()[0] if message else ""
    return "".join(c for c in first if not c.isdigit()).split("'")[0].split("(")[0][:50]


def reduce_case(case: Case, slim: Slim, rounds: int = 200) -> Case:
    """The smallest case found whose check fails in the same way."""
    wanted = kind(failure(case, slim))
    best = case
    for _ in range(rounds):
        for candidate in smaller(best.model):
            trial = Case(candidate, best.ranges, best.description, best.seed)
            try:
                usable = valid(candidate) and finite(trial)
            except Exception:
                continue
            if usable and kind(failure(trial, slim)) == wanted:
                best = trial
                break
        else:
            return best
    return best


def valid(model: onnx.ModelProto) -> bool:
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception:
        return False
    return True


def smaller(model: onnx.ModelProto) -> Iterator[onnx.ModelProto]:
    """Models with one thing less, the boldest cuts first."""
    infos = typed_values(model)
    if len(model.graph.output) > 1:
        for output in model.graph.output:
            yield rebuilt(model, [output])
    names = [name for node in model.graph.node for name in node.output]
    here = {o.name for o in model.graph.output}
    for name in names:
        if name in infos and name not in here:
            yield rebuilt(model, [infos[name]])
    for name in reversed(names):
        if name in infos and name not in here:
            yield rebuilt(model, list(model.graph.output), cut=infos[name])
    for i, node in enumerate(model.graph.node):
        if len(node.input) and len(node.output) == 1 and node.output[0] not in here:
            first = infos.get(node.input[0])
            if first is not None and same_type(first, infos.get(node.output[0])):
                yield bypassed(model, i)


def same_type(a: onnx.ValueInfoProto, b: onnx.ValueInfoProto | None) -> bool:
    return b is not None and a.type.SerializeToString() == b.type.SerializeToString()


def typed_values(model: onnx.ModelProto) -> dict[str, onnx.ValueInfoProto]:
    """Values with a complete type: every dimension a number or one of the symbols that the feeds know."""
    inferred = onnx.shape_inference.infer_shapes(model)
    found = {}
    for info in [*inferred.graph.value_info, *inferred.graph.input]:
        dims = info.type.tensor_type.shape.dim
        if (
            all(d.HasField("dim_value") or d.dim_param in ("N", "T") for d in dims)
            and info.type.tensor_type.elem_type == 11
        ):
            found[info.name] = info
    return found


def rebuilt(
    model: onnx.ModelProto, outputs: list[onnx.ValueInfoProto], cut: onnx.ValueInfoProto | None = None
) -> onnx.ModelProto:
    """The part of the model that the outputs need, with a value turned into an input."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    needed = {o.name for o in outputs}
    nodes = []
    for node in reversed(list(graph.node)):
        if cut is not None and cut.name in node.output:
            continue
        if needed & set(node.output):
            nodes.append(node)
            needed |= set(node.input)
            needed |= {name for inner in all_nodes([node]) for name in inner.input}
    kept_nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in reversed(nodes)]
    inputs = [i for i in model.graph.input if i.name in needed] + ([cut] if cut is not None else [])
    initializers = [t for t in model.graph.initializer if t.name in needed]
    for field, items in (("node", kept_nodes), ("input", inputs), ("initializer", initializers), ("output", outputs)):
        graph.ClearField(field)
        getattr(graph, field).extend(items)
    return copy


def bypassed(model: onnx.ModelProto, index: int) -> onnx.ModelProto:
    """The model without one node, its consumers reading the node's first input."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    node = copy.graph.node[index]
    source, gone = node.input[0], node.output[0]
    del copy.graph.node[index]
    for other in all_nodes(copy.graph.node):
        for i, name in enumerate(other.input):
            if name == gone:
                other.input[i] = source
    return rebuilt(copy, list(copy.graph.output))


def signature_of(case: Case, message: str) -> str:
    """What tells one bug from another: the kind of failure and the operators of the reproducer."""
    ops = sorted({node.op_type for node in all_nodes(case.model.graph.node)})
    return f"{kind(message)} [{' '.join(ops)}]"
