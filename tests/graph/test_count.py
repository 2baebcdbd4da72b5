"""Parameters and multiply-accumulates against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxdam.graph.count import count
from onnxdam.rules.macs import macs
from tests.models import mlp, normal, parsed

SHAPES = {
    "image": (2, 6, 8, 8),
    "kernel": (12, 3, 3, 3),
    "map": (2, 12, 8, 8),
    "up": (6, 5, 2, 2),
    "rows": (3, 4),
    "weight": (4, 7),
    "wide": (3, 7),
    "q": (1, 8, 10, 16),
    "k": (1, 8, 12, 16),
    "v": (1, 8, 12, 20),
    "steps": (5, 2, 4),
    "w_gates": (2, 24, 4),
    "r_gates": (2, 24, 6),
    "q3": (1, 10, 128),
    "k3": (1, 12, 32),
}


@pytest.mark.parametrize(
    ("op", "inputs", "output", "attributes", "expected"),
    [
        ("Conv", ["image", "kernel"], "map", {"group": 2}, 2 * 12 * 64 * 3 * 9),
        ("ConvTranspose", ["image", "up"], "map", {}, 2 * 6 * 64 * 5 * 4),
        ("MatMul", ["rows", "weight"], "wide", {}, 3 * 4 * 7),
        ("Gemm", ["rows", "weight"], "wide", {}, 3 * 4 * 7),
        ("Gemm", ["rows", "wide"], "weight", {"transA": 1}, 4 * 7 * 3),
        ("Einsum", ["rows", "weight"], "wide", {"equation": "ij,jk->ik"}, 3 * 4 * 7),
        ("Einsum", ["q", "k"], "map", {"equation": "...qd,...kd->...qk"}, 8 * 10 * 12 * 16),
        ("LSTM", ["steps", "w_gates", "r_gates"], "map", {}, 5 * 2 * 2 * 4 * 6 * (4 + 6)),
        ("Attention", ["q", "k", "v"], "map", {}, 8 * 10 * 12 * (16 + 20)),
        ("Attention", ["q3", "k3", "k3"], "map", {"q_num_heads": 8, "kv_num_heads": 2}, 10 * 12 * (128 + 128)),
        ("Relu", ["image"], "map", {}, 0),
        ("Conv", ["image", "nowhere"], "map", {}, None),
    ],
)
def test_macs(op: str, inputs: list[str], output: str, attributes: dict[str, object], expected: int | None) -> None:
    node = onnx.helper.make_node(op, inputs, [output], **attributes)
    assert macs(node, SHAPES) == expected


def test_totals() -> None:
    cost = count(mlp(hidden=8))
    assert cost.parameters == 4 * 8 + 8 + 8 * 2 + 2
    assert cost.weight_bytes == 4 * cost.parameters
    assert cost.macs == 4 * 8 + 8 * 2
    assert [node.macs for node in cost.nodes] == [32, 0, 16]
    assert [node.parameters for node in cost.nodes] == [40, 0, 18]
    assert [node.activation_bytes for node in cost.nodes] == [32, 32, 8]
    assert cost.notes == ("counted with N = 1",)
    assert count(mlp(), sizes={"N": 5}).macs == 5 * cost.macs


def test_shared_weights_count_once_and_integers_are_no_parameters() -> None:
    model = parsed(
        "g (float[4, 4] x) => (float[2, 8] z) { a = MatMul(x, w)  y = MatMul(a, w)  z = Reshape(y, shape) }",
        w=normal(4, 4),
        shape=np.array([2, 8]),
    )
    cost = count(model)
    assert cost.parameters == 16 == sum(node.parameters for node in cost.nodes)
    assert cost.weight_bytes == 64 + 16


def test_constants_and_subgraphs_count() -> None:
    model = parsed(
        "g (bool c, float[2] x) => (float[2] y) { k = Constant <value = float[2] {1.0, 2.0}> ()  z = Add(x, k)"
        "  y = If (c) <then_branch = t () => (float[2] a)"
        "  { l = Constant <value = float[2] {1.0, 2.0}> ()  a = Mul(z, l) },"
        "  else_branch = e () => (float[2] b) { b = Neg(z) }> }"
    )
    cost = count(model)
    assert cost.parameters == 4
    assert [node.op_type for node in cost.nodes] == ["Constant", "Add", "If", "Constant", "Mul", "Neg"]


def test_dynamic_shapes_that_cannot_be_known_are_said() -> None:
    model = parsed("g (float[N, 4] x, int64[2] s) => (float[A, B] y) { r = Reshape(x, s)  y = MatMul(r, r) }")
    cost = count(model)
    assert cost.nodes[1].macs is None
    assert any("could not be counted" in note for note in cost.notes)


def test_functions_are_looked_into() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17, "f" : 1]> g (float[2, 3] x, float[3, 4] w) => (float[2, 4] y)'
        ' { y = f.times(x, w) } <domain: "f", opset_import: ["" : 17]> times (a, b) => (c) { c = MatMul(a, b) }'
    )
    assert count(model).macs == 24


def test_computed_reshapes_are_followed() -> None:
    """A view written as Shape, Gather, Unsqueeze, Concat, Reshape, as exporters before opset 13 wrote it."""
    model = parsed(
        "g (float[N, S, 12] x) => (float[A, B, C, D] y) {"
        "  s = Shape(x)  n = Gather <axis = 0> (s, zero)  m = Unsqueeze <axes = [0]> (n)"
        "  shape = Concat <axis = 0> (m, rest)  r = Reshape(x, shape)  t = Transpose <perm = [0, 2, 3, 1]> (r)"
        "  u = Transpose <perm = [0, 2, 1, 3]> (r)  y = MatMul(u, t) }",
        header='<ir_version: 7, opset_import: ["" : 11]>\n',
        zero=np.array(0),
        rest=np.array([-1, 3, 4]),
    )
    cost = count(model, sizes={"N": 2, "S": 5})
    assert cost.macs == 2 * 3 * 5 * 5 * 4
    assert cost.notes == ("counted with N = 2, S = 5",)
