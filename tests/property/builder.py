"""A graph under construction: a pool of values with known shapes, to which productions append nodes.

Dimensions are integers or products of the symbols in `SIZES` ("N", "T", "N*T"): what a production needs to know to stay
valid, and what the declared outputs say. All floating-point work is in float64, so that the oracle can tell an exact
rewrite (1e-16) from a wrong one.

Weights remember what they are for (`Layer`), so that masks can be drawn where they couple: all producers of one width
lose the same channels, biases stay or go, consumers stop reading.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .choices import Choices

Dim = int | str
Shape = tuple[Dim, ...]
Array = np.ndarray[Any, Any]

# Two bindings of every symbolic dimension: two batch sizes, two sequence lengths.
SIZES = ({"N": 2, "T": 3}, {"N": 3, "T": 5})
DOUBLE, FLOAT, INT64, BOOL = TensorProto.DOUBLE, TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


@dataclass(frozen=True)
class Value:
    """A tensor of the graph: its name, shape (symbols included) and ONNX element type."""

    name: str
    shape: Shape
    dtype: int = DOUBLE

    @property
    def rank(self) -> int:
        return len(self.shape)

    def static(self, *axes: int) -> bool:
        """True where all the given axes (all axes if none is given) have a known size."""
        return all(isinstance(self.shape[a], int) for a in (axes or range(self.rank)))


@dataclass(frozen=True)
class Layer:
    """`width` channels that some weights produce or read, and how a mask silences some of them.

    Attributes:
        width: number of channels.
        outs: parameters whose zeroing makes channel i zero: (initializer, function from channels to an index).
        biases: likewise, but leaving these makes the channel a constant instead.
        ins: parameters whose zeroing makes channel i unread.
    """

    width: int
    outs: tuple[Slots, ...] = ()
    biases: tuple[Slots, ...] = ()
    ins: tuple[Slots, ...] = ()


@dataclass(frozen=True)
class Slots:
    """Where channel i lives in a parameter: `index(i)` is an index of the array."""

    name: str
    index: Callable[[int], Any]


def along(axis: int, blocks: int = 1, size: int = 0, lead: tuple[Any, ...] = ()) -> Callable[[int], Any]:
    """Index of channel i along an axis made of `blocks` blocks of `size` channels (gates of a cell, fused qkv)."""
    return lambda i: (*lead, *[slice(None)] * axis, [b * size + i for b in range(blocks)])


@dataclass(repr=False)
class Case:
    """A drawn model, and what is needed to run it.

    Attributes:
        model: the (masked) model.
        ranges: for integer inputs, the exclusive upper bound of their values (and what the lower one is).
        description: what the mask did, for messages.
        seed: seed of the input data.
    """

    model: onnx.ModelProto
    ranges: dict[str, tuple[int, int]]
    description: str = ""
    seed: int = 0
    constructs: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return f"<case: {self.description}>"

    def feeds(self, sizes: dict[str, int], kind: int) -> dict[str, Array]:
        """Input data for one binding of the symbols: values of mixed sign with zeros, and some large ones."""
        rng = np.random.default_rng([self.seed, kind, *sizes.values()])
        overridable = {tensor.name for tensor in self.model.graph.initializer}
        feeds = {}
        for info in self.model.graph.input:
            if info.name in overridable:
                continue
            tensor = info.type.tensor_type
            shape = [d.dim_value if d.HasField("dim_value") else extent(d.dim_param, sizes) for d in tensor.shape.dim]
            dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
            if dtype == np.bool_:
                feeds[info.name] = np.asarray(rng.random(shape) < 0.5)
            elif info.name in self.ranges:
                low, high = self.ranges[info.name]
                feeds[info.name] = rng.integers(low, high, shape).astype(dtype)
            else:
                x = rng.normal(size=shape)
                x = np.where(rng.random(shape) < 0.15, 0.0, x) * np.where(rng.random(shape) < 0.1 * kind, 30.0, 1.0)
                feeds[info.name] = x.astype(dtype)
        return feeds


def extent(dim: Dim, sizes: dict[str, int]) -> int:
    """Size of a dimension under a binding of the symbols."""
    if isinstance(dim, int):
        return dim
    product = 1
    for factor in dim.split("*"):
        product *= int(factor) if factor.isdigit() else sizes[factor]
    return product


def times(*dims: Dim) -> Dim:
    """Product of dimensions, a number where all of them are."""
    number, symbols = 1, []
    for dim in dims:
        for factor in [dim] if isinstance(dim, int) else dim.split("*"):
            if isinstance(factor, int) or factor.isdigit():
                number *= int(factor)
            else:
                symbols.append(factor)
    if not symbols:
        return number
    return "*".join(sorted(symbols) + ([str(number)] if number != 1 else []))


@dataclass
class Builder:
    """Collects nodes, weights and values; productions call its methods."""

    choose: Choices
    opset: int
    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: dict[str, Array] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)
    inputs: list[Value] = field(default_factory=list)
    ranges: dict[str, tuple[int, int]] = field(default_factory=dict)
    pool: list[Value] = field(default_factory=list)
    functions: list[onnx.FunctionProto] = field(default_factory=list)
    constants: set[str] = field(default_factory=set)
    constructs: set[str] = field(default_factory=set)
    forced_outputs: list[Value] = field(default_factory=list)
    count: int = 0

    def name(self, hint: str) -> str:
        """A fresh name."""
        self.count += 1
        return f"{hint}{self.count}"

    # Values

    def input(self, shape: Sequence[Dim], dtype: int = DOUBLE, within: tuple[int, int] | None = None) -> Value:
        """A new graph input; integer inputs draw from the half-open range `within`."""
        value = Value(self.name("x"), tuple(shape), dtype)
        self.inputs.append(value)
        if within is not None:
            self.ranges[value.name] = within
        return value

    def weight(self, shape: Sequence[int], scale: float | None = None, offset: float = 0.0) -> Value:
        """A random float64 parameter, scaled to keep activations near unit size."""
        fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 4
        array = self.rng.normal(size=tuple(shape)) * (1 / np.sqrt(max(fan_in, 1)) if scale is None else scale) + offset
        return self.const(array, "w")

    def const(self, array: Any, hint: str = "c") -> Value:
        """A constant: an initializer, or sometimes a Constant node."""
        array = np.asarray(array)
        value = Value(self.name(hint), array.shape, helper.np_dtype_to_tensor_dtype(array.dtype))
        self.weights[value.name] = array
        if self.choose.chance(8):
            self.constants.add(value.name)
        return value

    def ints(self, *numbers: int) -> Value:
        """An int64 vector."""
        return self.const(np.array(numbers, np.int64), "i")

    def scalar(self, number: float) -> Value:
        """A float64 scalar, of rank 0 or of shape [1]."""
        return self.const(np.array(number if self.choose.chance(50) else [number], np.float64), "s")

    # Nodes

    def raw(self, op: str, inputs: Sequence[Value | str | None], outputs: Sequence[str], **attrs: Any) -> None:
        """Appends a node."""
        names = [x if isinstance(x, str) else "" if x is None else x.name for x in inputs]
        while names and not names[-1]:
            names.pop()
        domain = attrs.pop("domain", "")
        attrs = {key: value for key, value in attrs.items() if value is not None}
        self.nodes.append(helper.make_node(op, names, list(outputs), domain=domain, **attrs))
        self.constructs.add(op)

    def node(
        self, op: str, *inputs: Value | str | None, shape: Sequence[Dim], dtype: int | None = None, **attrs: Any
    ) -> Value:
        """Appends a node with one output of the given shape; the type is that of the first input by default."""
        if dtype is None:
            first = inputs[0]
            dtype = first.dtype if isinstance(first, Value) else DOUBLE
        value = Value(self.name(op[0].lower()), tuple(shape), dtype)
        self.raw(op, inputs, [value.name], **attrs)
        return value

    def nodes_many(self, op: str, *inputs: Value | None, shapes: Sequence[Sequence[Dim]], **attrs: Any) -> list[Value]:
        """Appends a node with several outputs of the type of its first input."""
        first = inputs[0]
        assert first is not None
        values = [Value(self.name(op[0].lower()), tuple(shape), first.dtype) for shape in shapes]
        self.raw(op, inputs, [v.name for v in values], **attrs)
        return values

    def same(self, op: str, x: Value, *more: Value | None, **attrs: Any) -> Value:
        """Appends a node whose output has the shape of its first input."""
        return self.node(op, x, *more, shape=x.shape, **attrs)

    # Pool

    def push(self, *values: Value) -> bool:
        """Offers values to later productions."""
        self.pool.extend(values)
        return True

    def recent(self, fits: Callable[[Value], bool]) -> Value | None:
        """A float value of the pool that fits, mostly the latest one."""
        found = [v for v in reversed(self.pool) if v.dtype == DOUBLE and fits(v)]
        if not found:
            return None
        return found[0] if not self.choose.chance(35) else self.choose.pick(found)

    @contextmanager
    def body(self) -> Iterator[list[onnx.NodeProto]]:
        """Nodes appended inside the block go to a subgraph, whose node list is handed out."""
        outer, self.nodes = self.nodes, []
        try:
            yield self.nodes
        finally:
            self.nodes = outer


def value_info(value: Value) -> onnx.ValueInfoProto:
    """Declared type of a value; products of symbols get no name, as exporters leave them."""
    return helper.make_tensor_value_info(value.name, value.dtype, list(value.shape))


def finish(b: Builder, outputs: Sequence[Value]) -> onnx.ModelProto:
    """The model of a builder: weights as initializers, as Constant nodes, or listed among the inputs (IR 3)."""
    listed = b.opset <= 13 and b.choose.chance(15)
    initializers, constant_nodes = [], []
    used = {name for node in all_nodes(b.nodes) for name in node.input} | {v.name for v in outputs}
    for name, array in b.weights.items():
        if name not in used:
            continue
        tensor = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
        if name in b.constants:
            constant_nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            initializers.append(tensor)
    inputs = [value_info(v) for v in b.inputs]
    if listed:
        inputs += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in initializers]
    graph = helper.make_graph(
        constant_nodes + b.nodes, "drawn", inputs, [value_info(v) for v in outputs], initializers, doc_string="drawn"
    )
    imports = [helper.make_opsetid("", b.opset)]
    if b.functions:
        imports.append(helper.make_opsetid("local", 1))
    ir_version = 3 if listed and b.opset <= 8 else 10 if b.opset >= 21 else 8
    model = helper.make_model(graph, opset_imports=imports, functions=b.functions, producer_name="grammar")
    model.ir_version = 3 if listed else ir_version
    helper.set_model_props(model, {"origin": "grammar"})
    return model


def all_nodes(nodes: Sequence[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes and, inside them, the nodes of subgraphs."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from all_nodes(attribute.g.node)
