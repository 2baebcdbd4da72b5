"""Traps in the fused operators of com.microsoft, in float32 on ONNX Runtime: the reference evaluator does not know them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import helper, numpy_helper

from tests.property.builder import SIZES, Case
from tests.property.oracle import relative_error
from tests.property.properties import check_fixpoint, check_interface, size
from tests.property.subject import slim

from .toolkit import s_

ort = pytest.importorskip("onnxruntime")
HEADER = '<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]> trap '
ATTENTION = {"Wq": (6, 8), "Wk": (6, 8), "Wv": (6, 8), "Wo": (8, 6)}
NARROW_HEAD = {"Wq": (6, 6), "Wk": (6, 6), "Wv": (6, 6), "Wo": (6, 6)}

# name, graph, weights, mask, narrow shapes (None: only the same function)
TRAPS = [
    (
        "fused_conv",
        "(float[N,3,6,6] x) => (float[N,2,6,6] y) { a = com.microsoft.FusedConv<activation=\"Relu\", pads=[1,1,1,1]>(x, W1, b1)  y = Conv(a, W2) }",
        {"W1": (6, 3, 3, 3), "b1": (6,), "W2": (2, 6, 1, 1)},
        {"W1": s_[[1, 4]], "b1": s_[[1, 4]]},
        {"W1": (4, 3, 3, 3), "b1": (4,), "W2": (2, 4, 1, 1)},
    ),
    (
        "fused_conv_constant",
        "(float[N,3,6,6] x) => (float[N,2,6,6] y) { a = com.microsoft.FusedConv<activation=\"Sigmoid\", pads=[1,1,1,1]>(x, W1, b1)  y = Conv(a, W2, b2) }",
        {"W1": (6, 3, 3, 3), "b1": (6,), "W2": (2, 6, 1, 1), "b2": (2,)},
        {"W1": s_[[1, 4]]},
        None,
    ),
    (
        "fused_matmul",
        "(float[N,T,5] x) => (float[N,T,2] y) { a = com.microsoft.FusedMatMul<transB=1, alpha=0.5>(x, W1)  r = Relu(a)  y = com.microsoft.FusedMatMul(r, W2) }",
        {"W1": (6, 5), "W2": (6, 2)},
        {"W1": s_[[1, 4]]},
        {"W1": (4, 5), "W2": (4, 2)},
    ),
    (
        "gelu",
        "(float[N,T,5] x) => (float[N,T,2] y) { a = MatMul(x, W1)  r = com.microsoft.Gelu(a)  y = MatMul(r, W2) }",
        {"W1": (5, 6), "W2": (6, 2)},
        {"W1": s_[:, [1, 4]]},
        {"W1": (5, 4), "W2": (4, 2)},
    ),
    (
        "bias_gelu",
        "(float[N,T,5] x) => (float[N,T,2] y) { a = MatMul(x, W1)  r = com.microsoft.BiasGelu(a, b)  y = MatMul(r, W2) }",
        {"W1": (5, 6), "b": (6,), "W2": (6, 2)},
        {"W1": s_[:, [1, 4]], "b": s_[[1, 4]]},
        None,
    ),
    (
        "skip_layer_normalization_pins_its_axis",
        "(float[N,T,5] x) => (float[N,T,2] y) { a = MatMul(x, W1)  b = MatMul(x, W3)  n = com.microsoft.SkipLayerNormalization(a, b, g, c)  y = MatMul(n, W2) }",
        {"W1": (5, 6), "W3": (5, 6), "g": (6,), "c": (6,), "W2": (6, 2)},
        {"W1": s_[:, [1, 4]], "W3": s_[:, [1, 4]]},
        {},
    ),
    (
        "skip_layer_normalization_inner_layer_is_free",
        "(float[N,T,6] x) => (float[N,T,6] y) { a = MatMul(x, W1)  r = Relu(a)  b = MatMul(r, W2)  y = com.microsoft.SkipLayerNormalization(x, b, g, c) }",
        {"W1": (6, 8), "W2": (8, 6), "g": (6,), "c": (6,)},
        {"W1": s_[:, [1, 4]]},
        {"W1": (6, 6), "W2": (6, 6)},
    ),
    (
        "multi_head_attention",
        "(float[N,T,6] x) => (float[N,T,6] y) { q = MatMul(x, Wq)  k = MatMul(x, Wk)  v = MatMul(x, Wv)  o = com.microsoft.MultiHeadAttention<num_heads=4>(q, k, v)  y = MatMul(o, Wo) }",
        ATTENTION,
        {"Wv": s_[:, 2:4]},
        NARROW_HEAD,
    ),
    (
        "multi_head_attention_ragged",
        "(float[N,T,6] x) => (float[N,T,6] y) { q = MatMul(x, Wq)  k = MatMul(x, Wk)  v = MatMul(x, Wv)  o = com.microsoft.MultiHeadAttention<num_heads=4>(q, k, v)  y = MatMul(o, Wo) }",
        ATTENTION,
        {"Wv": s_[:, 2:3], "Wq": s_[:, 0:1]},
        {},
    ),
    (
        "unknown_operator_pins_only_its_own_axes",
        "(float[N,T,6] x) => (float[N,T,2] y) { a = MatMul(x, W1)  r = Relu(a)  b = MatMul(r, W2)  q = com.microsoft.QuickGelu(b)  y = MatMul(q, W3) }",
        {"W1": (6, 8), "W2": (8, 6), "W3": (6, 2)},
        {"W1": s_[:, [1, 4]]},
        {"W1": (6, 6), "W2": (6, 6)},
    ),
]  # fmt: skip


def masked(name: str) -> Case:
    text, weights, zero = next((t, w, z) for n, t, w, z, _ in TRAPS if n == name)
    rng = np.random.default_rng(3)
    arrays = {key: rng.normal(size=shape).astype(np.float32) for key, shape in weights.items()}
    for key, index in zero.items():
        arrays[key][index] = 0
    model = onnx.parser.parse_model(HEADER + text)
    model.graph.initializer.extend(numpy_helper.from_array(array, key) for key, array in arrays.items())
    helper.set_model_props(model, {"origin": "handmade"})
    return Case(model, {}, name)


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray], level: object) -> list[np.ndarray]:  # type: ignore[type-arg]
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


@pytest.mark.parametrize("name", [t[0] for t in TRAPS])
def test_trap(name: str) -> None:
    narrow = next(t[4] for t in TRAPS if t[0] == name)
    case = masked(name)
    small, _ = slim(case.model)
    check_interface(case.model, small)
    for kind, sizes in enumerate(SIZES):
        feeds = case.feeds(sizes, kind)
        wanted = run(case.model, feeds, ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
        for level in (ort.GraphOptimizationLevel.ORT_DISABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_ALL):
            for a, b in zip(wanted, run(small, feeds, level), strict=True):
                assert relative_error(a, b) < 1e-5
    check_fixpoint(small, slim)
    if narrow is not None:
        expected = sum(int(np.prod(narrow.get(t.name, tuple(t.dims)))) for t in case.model.graph.initializer)
        assert size(small) == expected, (size(small), expected, onnx.printer.to_text(small))
