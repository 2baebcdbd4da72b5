"""The first fixpoint: what is known about every value, in one pass from the inputs to the outputs.

Shapes come from ONNX shape inference and are refined by the rules; values that depend on initializers alone are
computed; the other values get their constant slots. No decision is taken here.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from onnxdam.analysis.infer import infer_node
from onnxdam.analysis.tensor import Array, Size, Sym, Tensor
from onnxdam.graph.traverse import attributes, is_external
from onnxdam.graph.window import Window
from onnxdam.rules import lookup
from onnxdam.rules.base import Body, Op
from onnxdam.rules.faults import is_trusted

logger = logging.getLogger(__name__)

BIG = 4096  # bytes from which a tensor is hidden from shape inference
SHARED = 4096  # bytes up to which a weight that is read in several places may be sliced differently in each
SMALL = 256  # bytes that a file may grow by for a result that is computed ahead of time
ATTEMPTS = 4  # how often a body is scanned until what is assumed of its inputs holds; nothing is, the last time
Shapes = dict[str, onnx.TypeProto]


@dataclass(frozen=True)
class Flat:
    """An input that was declared anew, with some axes merged.

    Attributes:
        name: of the input.
        shape: its declared extents before.
        axes: the consecutive axes that became one.
        order: row-major positions over them, in the order of the merged axis.
    """

    name: str
    shape: ir.Shape
    axes: tuple[int, ...]
    order: Array

    @property
    def sizes(self) -> list[int]:
        """Extents of the merged axes."""
        return [int(n) for n in self.shape[self.axes[0] : self.axes[-1] + 1]]  # type: ignore[arg-type]

    def is_block(self, kept: Array) -> bool:
        """Whether the kept slots of the merged axis are whole rows, columns, channels: then they leave as such."""
        places = np.unravel_index(self.order[kept], self.sizes)
        return math.prod(len(np.unique(p)) for p in places) == len(kept)


class Network:
    """A model as the analyses see it: ops in topological order (bodies before the node that runs them) and tensors.

    Args:
        model: is read, not changed.
        small: bytes up to which a result is computed ahead of time even if that makes the file grow.
    """

    def __init__(self, model: ir.Model, *, small: int = SMALL) -> None:
        self.model = model
        self._small = small
        self.window = Window()  # what the weights are read through
        self.ops: list[Op] = []
        self.tensors: dict[int, Tensor] = {}
        self._computable: dict[ir.Node, bool] = {}
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []
        self.flats: dict[str, Flat] = {}  # inputs that were declared with merged axes before
        self._opsets = {**model.graph.opset_imports}
        self._scan(model.graph, infer_shapes(model), "")
        for value in model.graph.outputs:
            self._pin(self.of(value), "a graph output")
        self.outputs = [self.of(v) for v in model.graph.outputs]

    def of(self, value: ir.Value) -> Tensor:
        """The tensor of a value."""
        return self.tensors[id(value)]

    def input(self, name: str) -> Tensor:
        """The graph input of this name."""
        return next(tensor for tensor in self.inputs if tensor.name == name)

    @staticmethod
    def _pin(tensor: Tensor, reason: str) -> None:
        tensor.pinned = tensor.pinned or reason

    # -- building ------------------------------------------------------------------------------------------------
    def _scan(
        self, graph: ir.Graph, inferred: onnx.GraphProto, scope: str, enter: Callable[[], None] | None = None
    ) -> None:
        types = {v.name: v.type for v in (*inferred.input, *inferred.output, *inferred.value_info)}
        for value in graph.inputs:
            tensor = self._add(value, types, scope)
            if not scope and value.name not in graph.initializers:
                self._pin(tensor, "a graph input")
                self.inputs.append(tensor)
        for value in graph.initializers.data.values():
            self._initialize(value, types, scope)
        if enter is not None:
            enter()
        for node, described in zip(graph, inferred.node, strict=True):
            self._visit(node, types, described, scope)

    def _add(self, value: ir.Value, types: Shapes, scope: str) -> Tensor:
        shape, dtype = _describe(value, types.get(value.name or ""))
        tensor = self.tensors[id(value)] = Tensor(scope + (value.name or ""), value, shape, dtype)
        return tensor

    def _initialize(self, value: ir.Value, types: Shapes, scope: str) -> None:
        tensor, content = self.tensors.get(id(value)), value.const_value
        if content is None or content.dtype == ir.DataType.STRING:
            if tensor is None:
                self._add(value, types, scope)
            return
        shape = list(content.shape.numpy())
        if tensor is None:
            tensor = self.tensors[id(value)] = Tensor(scope + (value.name or ""), value, shape, None)
        else:  # listed among the inputs too
            tensor.reshape(shape)
        tensor.dtype = content.dtype.numpy()
        tensor.provide(lambda: self.window.read(content), keep=not is_external(content))
        tensor.is_leaf = True

    def _visit(self, node: ir.Node, types: Shapes, described: onnx.NodeProto, scope: str) -> None:
        domain = "" if node.domain == "ai.onnx" else node.domain
        version = self._opsets.get(node.domain, self._opsets.get(domain, 1))
        ins = [None if v is None else self._own(self.of(v), node, scope) for v in node.inputs]
        outs = [self._add(v, types, scope) for v in node.outputs]
        op = Op(node, ins, outs, lookup(domain, node.op_type, version), version, scope)
        for index, tensor in enumerate(ins):
            if tensor is not None:
                tensor.readers.append((op, index))
        for tensor in outs:
            tensor.maker = op
        for attribute in attributes(node):
            if attribute.type == ir.AttributeType.GRAPH:
                inferred = next(a.g for a in described.attribute if a.name == attribute.name)
                self._scan_body(op, attribute.name, attribute.as_graph(), inferred)
        self._learn(op)
        self.ops.append(op)

    def _own(self, t: Tensor, node: ir.Node, scope: str) -> Tensor:
        """A small weight that several nodes share is a tensor for each of them: their masks may differ."""
        if not t.is_leaf or not t.rank or not any(op.node is not node for op, _ in t.readers) or _bytes(t) > SHARED:
            return t
        mine = Tensor(f"{t.name}@{scope}{node.name or node.outputs[0].name}", t.value, t.shape, t.dtype)
        mine.provide(lambda: t.content)
        mine.entries, mine.is_leaf, mine.pinned, mine.maker = t.entries, True, t.pinned, t.maker
        self.tensors[id(mine)] = mine
        return mine

    def _scan_body(self, op: Op, name: str, graph: ir.Graph, inferred: onnx.GraphProto) -> None:
        """Scans a body with what its rule assumes of its inputs, and again with less where that does not hold."""
        scope = f"{op.scope}{op.node.name or op.node.outputs[0].name}.{name}/"
        for attempt in range(ATTEMPTS):
            known = len(self.ops), len(self.tensors)
            assumed: set[tuple[int, int]] = set()

            def enter(assumed: set[tuple[int, int]] = assumed) -> None:
                assumed |= op.rule.enter(op, name, [self.of(v) for v in graph.inputs])

            last = attempt == ATTEMPTS - 1
            self._scan(graph, inferred, scope, None if last else enter)
            op.bodies[name] = Body([self.of(v) for v in graph.inputs], [self.of(v) for v in graph.outputs], assumed)
            if last or op.rule.holds(op, name):
                break
            self._forget(*known)
        for tensor in op.bodies[name].outs:
            tensor.readers.append((op, -1))

    def _forget(self, ops: int, tensors: int) -> None:
        """Back to when there were so many ops and tensors."""
        gone = set(self.ops[ops:])
        del self.ops[ops:]
        for key in list(self.tensors)[tensors:]:
            del self.tensors[key]
        for tensor in self.tensors.values():
            tensor.readers = [reader for reader in tensor.readers if reader[0] not in gone]

    def _learn(self, op: Op) -> None:
        op.rule.shapes(op)
        if any(t.opaque for t in op.outs) and not op.bodies and op.node.domain in ("", "ai.onnx"):
            infer_node(op)
            op.rule.shapes(op)
        if not op.bodies and all(t is None or t.is_known for t in op.ins) and not op.rule.draws:
            self._fold(op)
        if not all(t.is_known for t in op.outs):
            op.rule.entries(op)
            op.folded = op.folded or (bool(op.outs) and all(t.is_leaf for t in op.outs))
        if not op.folded:
            op.rule.constants(op)

    def _fold(self, op: Op) -> None:
        """Computes the outputs of a node all of whose inputs are known, unless that would make the file grow."""
        before = sum(t.content.nbytes if t.rank == 0 else _bytes(t) for t in op.ins if t is not None)
        after = sum(_bytes(t) for t in op.outs)
        leaf = op.rule.folds and all(t is None or t.is_leaf for t in op.ins)
        if leaf and op.ins and after > max(before, self._small):
            return
        if leaf and after > SMALL and any(self._stays(t) for t in op.ins if t is not None):
            leaf = False  # a tied weight would be stored twice
        arrays = evaluate(op)
        if arrays is None:
            return
        for tensor, array in zip(op.outs, arrays, strict=True):
            if tensor.opaque or any(s != d for s, d in zip(tensor.shape, array.shape, strict=False)):
                tensor.reshape(array.shape)
            tensor.dtype = array.dtype
            tensor.provide(lambda array=array: array)  # type: ignore[misc]
            tensor.is_leaf = leaf
        op.folded = leaf

    def _stays(self, t: Tensor) -> bool:
        """Whether a known tensor of some size is read by a node that runs."""
        users = t.value.uses() if t.value is not None and _bytes(t) > SMALL else ()
        return any(not self._is_computable(use.node) for use in users) or t.pinned == "a graph output"

    def _is_computable(self, node: ir.Node) -> bool:
        """Whether the results of a node follow from initializers alone."""
        if node not in self._computable:
            makers = [v.producer() for v in node.inputs if v is not None and v.const_value is None]
            known = all(maker is not None and self._is_computable(maker) for maker in makers)
            self._computable[node] = known and not any(
                a.type == ir.AttributeType.GRAPH for a in node.attributes.values()
            )
        return self._computable[node]

    def active(self) -> Iterator[Op]:
        """The ops that run: those that are not computed ahead of time."""
        return (op for op in self.ops if not op.folded)


def evaluate(op: Op) -> list[Array] | None:
    """The outputs of a node from the content of its inputs, None where that cannot be computed."""
    return compute(op, [None if t is None else t.content for t in op.ins])


def compute(op: Op, arrays: list[Array | None]) -> list[Array] | None:
    """The outputs of a node from any content of its inputs, None where that cannot be computed."""
    if any(a is not None and a.size == 0 for a in arrays) or any(not v.name for v in op.node.outputs):
        return None
    if len(op.outs) == 1:
        quick = op.rule.evaluate(op, *(a for a in arrays if a is not None))
        if quick is not None:
            return [quick]
    if not is_trusted(op.node.op_type, op.node.domain, op.version):
        return None
    try:
        return _reference(op, arrays)
    except Exception as error:  # the reference implementation lacks operators and types: then the value is not known
        logger.debug("%s is not folded: %s", op.name, error)
        return None


def _reference(op: Op, arrays: list[Array | None]) -> list[Array] | None:
    from onnx.reference import ReferenceEvaluator

    names = ["" if a is None else f"i{i}" for i, a in enumerate(arrays)]
    node = ir.serde.serialize_node(op.node)
    del node.input[:], node.output[:]
    node.input.extend(names)
    node.output.extend(f"o{i}" for i in range(len(op.outs)))
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [node],
            "fold",
            [onnx.ValueInfoProto(name=n) for n in names if n],
            [onnx.ValueInfoProto(name=n) for n in node.output],
        ),
        opset_imports=[onnx.helper.make_opsetid(op.node.domain, op.version)],
    )
    with np.errstate(all="ignore"):
        feeds = {n: a for n, a in zip(names, arrays, strict=True) if a is not None}
        results = ReferenceEvaluator(model).run(None, feeds)
    return [np.asarray(r) for r in results] if all(isinstance(r, (np.ndarray, np.generic)) for r in results) else None


def _bytes(t: Tensor) -> float:
    if t.opaque or not all(isinstance(s, int) for s in t.shape):
        return 0 if t.opaque else float("inf")
    return float(np.prod([s for s in t.shape if isinstance(s, int)])) * (t.dtype.itemsize if t.dtype else 4)


def _describe(value: ir.Value, inferred: onnx.TypeProto | None) -> tuple[list[Size] | None, np.dtype | None]:
    """Shape and type of a value, as inferred, else as the file says."""
    if inferred is not None and inferred.HasField("tensor_type"):
        kind = inferred.tensor_type
        dtype = _dtype(kind.elem_type) or _dtype(value.dtype or 0)
        if not kind.HasField("shape"):
            return None, dtype
        return [_size(d, value, i) for i, d in enumerate(kind.shape.dim)], dtype
    if value.shape is not None and isinstance(value.type, ir.TensorType):
        return [
            d if isinstance(d, int) else Sym(1, (str(d.value) if d.value else f"{value.name}.{i}",))
            for i, d in enumerate(value.shape)
        ], _dtype(value.dtype or 0)
    return None, _dtype(value.dtype or 0)


@functools.cache
def _dtype(number: int) -> np.dtype | None:
    """NumPy's form of ONNX's element type."""
    return None if number in (ir.DataType.UNDEFINED, ir.DataType.STRING) else ir.DataType(number).numpy()


def _size(dim: onnx.TensorShapeProto.Dimension, value: ir.Value, i: int) -> Size:
    if dim.HasField("dim_value") and dim.dim_value >= 0:  # some files write -1 for unknown
        return dim.dim_value
    return Sym(1, (dim.dim_param or f"{value.name}.{i}",))


# -- shape inference ---------------------------------------------------------------------------------------------------
def infer_shapes(model: ir.Model) -> onnx.GraphProto:
    """The main graph after ONNX shape inference, without its big tensors."""
    proto = _without_weights(model)
    try:
        proto = onnx.shape_inference.infer_shapes(proto, check_type=False, strict_mode=False, data_prop=True)
    except Exception as error:  # partly inferred is better than not at all: the file's own shapes serve
        logger.warning("shape inference failed, using the shapes in the file: %s", str(error).splitlines()[0])
    return proto.graph


def _without_weights(model: ir.Model) -> onnx.ModelProto:
    """The main graph as inference needs it: big initializers are inputs."""
    proto = onnx.ModelProto(ir_version=max(model.ir_version or 4, 4))
    proto.opset_import.extend(onnx.helper.make_opsetid(d, v) for d, v in model.graph.opset_imports.items())
    graph = proto.graph
    for value in model.graph.inputs:
        if value.name not in model.graph.initializers:
            ir.serde.serialize_value_into(graph.input.add(), value)
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.nbytes > BIG:
            graph.input.append(_declared(name, value if tensor is None else tensor))
        else:
            ir.serde.serialize_tensor_into(graph.initializer.add(), tensor)
            graph.initializer[-1].name = name
    for node in model.graph:
        ir.serde.serialize_node_into(graph.node.add(), node)
        for output in node.outputs:
            if output.name and (output.type is not None or output.shape is not None) and not output.is_graph_output():
                ir.serde.serialize_value_into(graph.value_info.add(), output)
    for value in model.graph.outputs:
        ir.serde.serialize_value_into(graph.output.add(), value)
    return proto


def _declared(name: str, held: ir.Value | ir.TensorProtocol) -> onnx.ValueInfoProto:
    info = onnx.ValueInfoProto(name=name)
    kind = info.type.tensor_type
    kind.elem_type = held.dtype or onnx.TensorProto.UNDEFINED
    if held.shape is not None:
        kind.shape.SetInParent()
        for size in held.shape:
            dim = kind.shape.dim.add()
            if isinstance(size, int):
                dim.dim_value = size
    return info
