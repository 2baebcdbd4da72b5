"""Multiply-accumulates (MACs) of a node, from the shapes of its operands: a formula per operator that sums products."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import onnx

Shape = tuple[int, ...]


class _Unknown(Exception):
    """A shape that is needed is not known."""


class _Node:
    """A node with the shapes of its operands at hand."""

    def __init__(self, node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> None:
        self.attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute if not a.ref_attr_name}
        self._node, self._shapes = node, shapes

    def input(self, index: int) -> Shape:
        return self._shape(self._node.input, index)

    def output(self, index: int = 0) -> Shape:
        return self._shape(self._node.output, index)

    def shapes_in(self) -> list[Shape]:
        return [self.input(index) for index in range(len(self._node.input))]

    def _shape(self, names: Sequence[str], index: int) -> Shape:
        if index >= len(names) or names[index] not in self._shapes:
            raise _Unknown
        return self._shapes[names[index]]


def macs(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int | None:
    """Multiply-accumulates of one node; 0 for operators that sum no products, None if a shape is missing."""
    rule = _RULES.get(node.op_type)
    if rule is None:
        return 0
    try:
        return rule(_Node(node, shapes))
    except (_Unknown, IndexError):
        return None


def _conv(weight: int) -> Callable[[_Node], int]:
    """Every output entry sums over (C_in / groups) x kernel."""
    return lambda n: math.prod(n.output()) * math.prod(n.input(weight)[1:])


def _conv_transpose(n: _Node) -> int:
    """Every input entry is spread over (C_out / groups) x kernel."""
    return math.prod(n.input(0)) * math.prod(n.input(1)[1:])


def _matmul(n: _Node) -> int:
    transposed = n.attributes.get("transA", 0)
    return math.prod(n.output()) * n.input(0)[-2 if transposed else -1]


def _nbits(n: _Node) -> int:
    return math.prod(n.output()) * int(n.attributes["K"])


def _einsum(n: _Node) -> int:
    """One product for every combination of the labels; "..." stands for the leading axes."""
    equation = n.attributes["equation"].decode().replace(" ", "")
    extents: dict[str, int] = {}
    for term, shape in zip(equation.split("->")[0].split(","), n.shapes_in(), strict=True):
        before, dots, after = term.partition("...")
        middle = [f".{i}" for i in range(len(shape) - len(before) - len(after))] if dots else []
        for label, extent in zip([*before, *reversed(middle), *after], shape, strict=True):
            extents[label] = max(extent, extents.get(label, 1))
    return math.prod(extents.values())


def _recurrent(gates: int) -> Callable[[_Node], int]:
    """Per step, direction and batch entry: gates x hidden x (input + hidden)."""

    def rule(n: _Node) -> int:
        steps_and_batch, (directions, hidden) = n.input(0)[:2], (n.input(2)[0], n.input(2)[2])
        return math.prod(steps_and_batch) * directions * gates * hidden * (n.input(1)[2] + hidden)

    return rule


def _attention(n: _Node) -> int:
    """q k^T and p v: 4-D [batch, heads, length, dim], or 3-D [batch, length, heads * dim]; past keys not counted."""
    q, k, v = n.input(0), n.input(1), n.input(2)
    if len(q) == 4:
        return q[0] * q[1] * q[2] * k[2] * (q[3] + v[3])
    groups = int(n.attributes.get("q_num_heads", 1)) / int(n.attributes.get("kv_num_heads", 1))
    groups = groups if "kv_num_heads" in n.attributes else q[2] / k[2]
    return int(q[0] * q[1] * k[1] * (q[2] + v[2] * groups))


def _packed_attention(n: _Node) -> int:
    """com.microsoft Attention: the projection of the input to q, k and v is inside."""
    (batch, length, width), (_, three) = n.input(0), n.input(1)
    return batch * length * width * three + 2 * batch * length * length * (three // 3)


def _attention_any(n: _Node) -> int:
    return _packed_attention(n) if "num_heads" in n.attributes else _attention(n)


_RULES: dict[str, Callable[[_Node], int]] = {
    "Conv": _conv(1),
    "FusedConv": _conv(1),
    "NhwcConv": _conv(1),
    "ConvInteger": _conv(1),
    "QLinearConv": _conv(3),
    "DeformConv": _conv(1),
    "ConvTranspose": _conv_transpose,
    "Gemm": _matmul,
    "FusedGemm": _matmul,
    "QGemm": _matmul,
    "MatMul": _matmul,
    "FusedMatMul": _matmul,
    "MatMulInteger": _matmul,
    "MatMulIntegerToFloat": _matmul,
    "DynamicQuantizeMatMul": _matmul,
    "QLinearMatMul": _matmul,
    "MatMulNBits": _nbits,
    "Einsum": _einsum,
    "LSTM": _recurrent(4),
    "DynamicQuantizeLSTM": _recurrent(4),
    "GRU": _recurrent(3),
    "RNN": _recurrent(1),
    "Attention": _attention_any,
    "MultiHeadAttention": _attention,
    "GroupQueryAttention": _attention,
}


def standardise(node: onnx.NodeProto) -> None:
    """Turns what ONNX cannot infer into its standard form, as far as shapes go."""
    if node.domain != "com.microsoft":
        return
    if node.op_type == "FusedConv":
        node.op_type, node.domain = "Conv", ""
        del node.input[3:]
        kept = [a for a in node.attribute if not a.name.startswith("activation")]
        del node.attribute[:]
        node.attribute.extend(kept)
    elif node.op_type in ("Gelu", "QuickGelu", "FastGelu", "BiasGelu"):
        node.op_type, node.domain = "Identity", ""
        del node.input[1:]
        del node.attribute[:]
