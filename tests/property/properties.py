"""What slim owes: the same function, interface, a fixpoint, determinism, an untouched input. One check, one message
each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from .builder import SIZES, Case
from .oracle import IllConditioned, Mismatch, compare, evaluate

# Element types of weights: float32, float64, float16, int8, uint8.
COUNTED = (1, 11, 10, 3, 2)
Slim = Callable[[onnx.ModelProto], tuple[onnx.ModelProto, Any]]


@dataclass
class Outcome:
    """What a passed check saw: sizes before and after, and the largest error."""

    before: int
    after: int
    nodes_before: int
    nodes_after: int
    error: float
    small: onnx.ModelProto
    ill_conditioned: bool = False

    @property
    def removed(self) -> bool:
        return self.after < self.before


def size(model: onnx.ModelProto) -> int:
    """Numbers stored in floating-point and 8-bit tensors of rank 1 and more, Constant nodes and subgraphs included."""
    return sum(int(np.prod(t.dims)) for t in tensors(model.graph) if t.data_type in COUNTED and len(t.dims))


def tensors(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    found = list(graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                found.append(attribute.t)
            elif attribute.type == onnx.AttributeProto.GRAPH:
                found += tensors(attribute.g)
    return found


def signature(values: Any, skip: set[str]) -> list[tuple[str, bytes]]:
    return [(v.name, v.type.SerializeToString(deterministic=True)) for v in values if v.name not in skip]


def require(condition: bool, message: str) -> None:
    if not condition:
        raise Mismatch(message)


def call(slim: Slim, model: onnx.ModelProto) -> tuple[onnx.ModelProto, Any]:
    try:
        return slim(model)
    except Exception as error:
        raise Mismatch(f"slim raised {type(error).__name__}: {error}") from error


def check_slim(case: Case, slim: Slim, *, fixpoint: bool = True) -> Outcome:
    """All properties on one case; `fixpoint`: also that a second slim changes nothing.

    Raises:
        Mismatch: one of them does not hold.
    """
    model = case.model
    before = model.SerializeToString(deterministic=True)
    small, _ = call(slim, model)
    require(model.SerializeToString(deterministic=True) == before, "slim changed its input")
    check_interface(model, small)
    try:
        onnx.checker.check_model(small, full_check=True)
    except Exception as error:
        raise Mismatch(f"onnx.checker refuses the slim model: {error}") from error
    error, ill = 0.0, False
    for kind, sizes in enumerate(SIZES):
        try:
            error = max(error, compare(model, small, case.feeds(sizes, kind)).error)
        except IllConditioned:
            ill = True
    again, _ = call(slim, model)
    require(again.SerializeToString(deterministic=True) == deterministic(small), "two runs give different bytes")
    if fixpoint:
        check_fixpoint(small, slim)
    return Outcome(size(model), size(small), len(model.graph.node), len(small.graph.node), error, small, ill)


def check_interface(model: onnx.ModelProto, small: onnx.ModelProto) -> None:
    """Names, order, types, symbolic dimensions, opset and metadata are those of the original."""
    weights = {t.name for t in model.graph.initializer} | {t.name for t in small.graph.initializer}
    wanted, found = signature(model.graph.input, weights), signature(small.graph.input, weights)
    require(found == wanted, f"inputs changed:\n{wanted}\n{found}")
    wanted, found = signature(model.graph.output, set()), signature(small.graph.output, set())
    require(found == wanted, f"outputs changed:\n{wanted}\n{found}")
    opsets = {(o.domain, o.version) for o in model.opset_import}
    require({(o.domain, o.version) for o in small.opset_import} <= opsets, "opset imports changed")
    require(small.ir_version == model.ir_version, f"IR version {model.ir_version} became {small.ir_version}")
    require(list(small.metadata_props) == list(model.metadata_props), "metadata changed")
    require(
        small.graph.name == model.graph.name and small.graph.doc_string == model.graph.doc_string, "graph name changed"
    )
    for tensor in tensors(small.graph):
        originals = {t.name: t for t in tensors(model.graph)}
        if 0 in tensor.dims and 0 not in getattr(originals.get(tensor.name), "dims", [0]):
            raise Mismatch(f"zero-sized tensor {tensor.name} {list(tensor.dims)}")


def deterministic(model: onnx.ModelProto) -> bytes:
    return model.SerializeToString(deterministic=True)


def check_fixpoint(small: onnx.ModelProto, slim: Slim) -> None:
    """Nothing is left for a second slim: the same weights, nodes, bytes."""
    twice, _ = call(slim, small)
    require(size(twice) == size(small), f"a second slim removes more: {size(small)} -> {size(twice)}")
    nodes = (len(small.graph.node), len(twice.graph.node))
    require(nodes[0] == nodes[1], f"a second slim removes nodes: {nodes[0]} -> {nodes[1]}")
    require(deterministic(twice) == deterministic(small), "a second slim changes bytes")


def rounds_until_stable(small: onnx.ModelProto, slim: Slim, most: int = 4) -> int:
    """How many more times slim changes something, on its own result; `most` where it never ends."""
    for count in range(most):
        again, _ = call(slim, small)
        if deterministic(again) == deterministic(small):
            return count
        small = again
    return most


def finite(case: Case) -> bool:
    """True where the masked model gives finite outputs on the inputs it is compared on."""
    for kind, sizes in enumerate(SIZES):
        for output in evaluate(case.model, case.feeds(sizes, kind)):
            if np.issubdtype(output.dtype, np.floating) and not np.isfinite(output).all():
                return False
    return True


def describe(case: Case) -> str:
    """The case as text: the mask and the graph."""
    return f"{case.description}, data seed {case.seed}\n{onnx.printer.to_text(case.model)}"


def identity(model: onnx.ModelProto) -> tuple[onnx.ModelProto, None]:
    """A slim that does nothing, to check the grammar with."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy, None
