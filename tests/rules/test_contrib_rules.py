"""Fused operators of com.microsoft, and that what follows them is not pinned for want of shapes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest

from tests.rules.runtime_case import check

rng = np.random.default_rng(11)
START = rng.bit_generator.state


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    """Every test draws the same numbers, whichever others run."""
    rng.bit_generator.state = START


def w(*shape: int) -> Any:
    return rng.normal(size=shape).astype("f") / math.sqrt(max(shape[0], 2))


def zero(array: Any, index: Any, value: float = 0.0) -> Any:
    array = array.copy()
    array[index] = value
    return array


ALL = slice(None)


@pytest.mark.parametrize("activation", ["Relu", "Tanh", "Sigmoid", "LeakyRelu", "Clip", "HardSigmoid"])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("pad", [0, 1])
def test_fused_convolution(activation: str, residual: bool, pad: int) -> None:
    """Channel 1 is a constant, channel 4 zero before the activation; both leave, a padded reader keeps one carrier."""
    parameters = {
        "LeakyRelu": ", activation_params=[0.2]",
        "Clip": ", activation_params=[0.1, 0.9]",
        "HardSigmoid": ", activation_params=[0.3, 0.4]",
    }
    c = w(6, 3, 1, 1)
    c[[1, 4]] = 0
    weights = dict(w=zero(w(6, 3, 3, 3), [1, 4]), b=zero(zero(w(6), 1, 0.8), 4), v=w(2, 6, 3, 3), d=w(2))
    z = ", z" if residual else ""
    if residual:
        weights["c"] = c
    out = 6 + 2 * pad - 2
    head = "z = Conv(x, c)" if residual else ""
    text = f"""(float[N,3,6,6] x) => (float[N,2,{out},{out}] y) {{ {head}
        a = com.microsoft.FusedConv<activation="{activation}", pads=[1,1,1,1]{parameters.get(activation, "")}>(x, w, b{z})
        y = Conv<pads=[{pad},{pad},{pad},{pad}]>(a, v, d) }}"""
    left = 5 if pad else 4
    check(
        text,
        weights,
        dict(w=(left, 3, 3, 3), b=(left,), v=(2, left, 3, 3)) | (dict(c=(left, 3, 1, 1)) if residual else {}),
        tolerance=1e-5,
    )


@pytest.mark.parametrize("activation", ["Relu", "Tanh"])
@pytest.mark.parametrize("signed", [False, True])
def test_gates_behind_fused_operators(activation: str, signed: bool) -> None:
    """A gate folds backwards through a positively homogeneous activation, else forwards into the reader."""
    gate = zero(np.abs(w(6, 1, 1)) + 0.5, [1, 4]) * (np.array([1, 1, -1, 1, 1, 1], "f")[:, None, None] if signed else 1)
    small = check(
        f"""(float[N,3,6,6] x) => (float[N,2,4,4] y, float[N,2] z) {{
        a = com.microsoft.FusedConv<activation="{activation}">(x, w, b)  g = Mul(a, gate)  y = Conv(g, v)
        p = GlobalAveragePool(a)  f = Flatten<axis=1>(p)
        c = com.microsoft.FusedGemm<activation="{activation}">(f, u, d)  h = Mul(c, other)  z = Gemm(h, k) }}""",
        dict(w=w(6, 3, 3, 3), b=w(6), gate=gate.astype("f"), v=w(2, 6, 1, 1), u=zero(w(6, 5), [1, 4]), d=w(5),
             other=zero(w(5), 2), k=w(5, 2)),
        dict(w=(4, 3, 3, 3), b=(4,), v=(2, 4, 1, 1), u=(4, 4), d=(4,), k=(4, 2), gate=(), other=()), tolerance=1e-5,
    )  # fmt: skip
    assert "Mul" not in [n.op_type for n in small.graph.node]


def test_a_residual_of_zeros_leaves() -> None:
    """What is left of the residual is zero where anything reads it: its branch goes."""
    weights = dict(w=w(6, 3, 1, 1), c=zero(w(6, 3, 1, 1), [0, 1, 2]), v=zero(w(2, 6, 1, 1), (ALL, [3, 4, 5])))
    small = check(
        """(float[N,3,6,6] x) => (float[N,2,6,6] y) { z = Conv(x, c)
        a = com.microsoft.FusedConv<activation="Relu">(x, w, , z)  y = Conv(a, v) }""",
        weights, dict(w=(3, 3, 1, 1), c=(), v=(2, 3, 1, 1)), tolerance=1e-5,
    )  # fmt: skip
    assert [n.op_type for n in small.graph.node] == ["FusedConv", "Conv"]


def test_fused_convolution_in_groups_and_a_chain_of_shapes() -> None:
    """Behind a fused operator shapes are inferred node by node: pooling, flattening, resizing."""
    check(
        """(float[N,3,6,6] x) => (float[N,2] y) { a = com.microsoft.FusedConv<activation="Relu", pads=[1,1,1,1]>(x, w, b)
        d = com.microsoft.FusedConv<activation="Relu", group=6, pads=[1,1,1,1], kernel_shape=[3,3]>(a, k)
        p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(d)  f = Flatten<axis=1>(p)  y = Gemm(f, g) }""",
        dict(w=zero(w(6, 3, 3, 3), [1, 4]), b=zero(w(6), [1, 4]), k=w(6, 1, 3, 3), g=w(54, 2)),
        dict(w=(4, 3, 3, 3), b=(4,), k=(4, 1, 3, 3), g=(36, 2)), tolerance=1e-5,
    )  # fmt: skip


@pytest.mark.parametrize("a, b", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_fused_matmul_with_a_weight(a: int, b: int) -> None:
    v = w(6, 4)
    text = f"""(float[N,7,5] x) => (float[N,7,4] y) {{ h = MatMul(x, u)  r = Sigmoid(h)
        t = Transpose<perm=[0,{"2,1" if a else "1,2"}]>(r)
        y = com.microsoft.FusedMatMul<transA={a}, transB={b}, alpha=0.3>(t, v) }}"""
    check(
        text,
        dict(u=zero(w(5, 6), (ALL, [0, 3])), v=v.T if b else v),
        dict(u=(5, 5), v=(4, 5) if b else (5, 4)),
        tolerance=1e-5,
    )


def test_fused_matmul_of_two_activations() -> None:
    """Attention written with it: scores lose a dimension, heads leave (batch axes)."""
    shapes = dict(s=np.array([0, 0, 4, 3]), o=np.array([0, 0, 12]))
    check(
        """(float[N,7,5] x) => (float[N,7,5] y) { q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)
        q4 = Reshape(q, s)  k4 = Reshape(k, s)  v4 = Reshape(v, s)
        qt = Transpose<perm=[0,2,1,3]>(q4)  kt = Transpose<perm=[0,2,1,3]>(k4)  vt = Transpose<perm=[0,2,1,3]>(v4)
        a = com.microsoft.FusedMatMul<transB=1, alpha=0.5>(qt, kt)  p = Softmax<axis=-1>(a)
        m = com.microsoft.FusedMatMul(p, vt)  t = Transpose<perm=[0,2,1,3]>(m)  f = Reshape(t, o)  y = MatMul(f, wo) }""",
        dict(wq=zero(w(5, 12), (ALL, [1, 4, 7, 10])), wk=w(5, 12), wv=w(5, 12), wo=zero(w(12, 5), [0, 1, 2])) | shapes,
        dict(wq=(5, 6), wk=(5, 6), wv=(5, 9), wo=(9, 5)), tolerance=1e-5,
    )  # fmt: skip


def test_fused_matmul_batch_transposed() -> None:
    """transBatchA: axis 0 of a is its row, the batch axes come before it."""
    check(
        """(float[7,4,5] x) => (float[4,7,3] y) { h = MatMul(x, u)
        y = com.microsoft.FusedMatMul<transBatchA=1, alpha=2.0>(h, v) }""",
        dict(u=zero(w(5, 6), (ALL, [0, 3])), v=w(4, 6, 3)), dict(u=(5, 4), v=(4, 4, 3)), tolerance=1e-5,
    )  # fmt: skip


@pytest.mark.parametrize("activation", ["Relu", "Sigmoid", "Tanh"])
def test_fused_gemm(activation: str) -> None:
    check(
        f"""(float[N,5] x) => (float[N,3] y) {{
        a = com.microsoft.FusedGemm<transB=1, activation="{activation}">(x, u, b)  y = Gemm(a, v, c) }}""",
        dict(u=zero(w(6, 5), [1, 4]), b=w(6), v=w(6, 3), c=w(3)), dict(u=(4, 5), b=(4,), v=(4, 3)), tolerance=1e-5,
    )  # fmt: skip


def test_bias_gelus() -> None:
    check(
        """(float[N,T,5] x) => (float[N,T,3] y) { h = MatMul(x, u)  g = com.microsoft.BiasGelu(h, b)  i = MatMul(g, v)
        f = com.microsoft.FastGelu(i, c)  y = MatMul(f, k) }""",
        dict(u=zero(w(5, 6), (ALL, [1, 4])), b=zero(w(6), 4), v=zero(w(6, 6), (ALL, [2])), c=w(6), k=zero(w(6, 3), 5)),
        dict(u=(5, 5), b=(5,), v=(5, 5), c=(5,), k=(5, 3)), tolerance=1e-5,
    )  # fmt: skip


def test_skip_layer_normalization() -> None:
    """The normalised axis stays; a slot of no gain is the constant beta and leaves the reader; the sum goes on."""
    check(
        """(float[N,T,6] x) => (float[N,T,2] y, float[N,T,6] s) { h = MatMul(x, u)  r = Relu(h)  b = MatMul(r, v)
        n, , , s = com.microsoft.SkipLayerNormalization(x, b, g, c, d)  y = MatMul(n, k) }""",
        dict(u=zero(w(6, 8), (ALL, [1, 4])), v=w(8, 6), g=w(6), c=w(6), d=w(6), k=w(6, 2)),
        dict(u=(6, 6), v=(6, 6)), tolerance=1e-5,
    )  # fmt: skip


@pytest.mark.parametrize("shape", [(4, 6), (1, 4, 6)])
@pytest.mark.parametrize("kind", ["", "Simplified"])
def test_skip_that_is_broadcast(shape: tuple[int, ...], kind: str) -> None:
    weights = dict(u=zero(w(5, 6), (ALL, [1, 4])), e=zero(w(*shape), (..., [1, 4])), g=w(6), k=zero(w(6, 3), 2))
    left = 4 if kind else 6
    check(
        f"""(float[N,T,5] x) => (float[N,T,3] y) {{ h = MatMul(x, u)
        n = com.microsoft.Skip{kind}LayerNormalization(h, e, g)  y = MatMul(n, k) }}""",
        weights, dict(u=(5, left), e=(*shape[:-1], left), g=(left,), k=(left, 3)), tolerance=1e-5,
    )  # fmt: skip


@pytest.mark.parametrize("total", [False, True])
def test_skip_simplified_layer_normalization_loses_zero_slots(total: bool) -> None:
    """A residual stream whose slots 2 and 5 are zero everywhere: the norm is rescaled."""
    more, out = (", float[N,T,3] z", "z = MatMul(s, m)") if total else ("", "")
    weights = dict(
        e=zero(w(5, 8), (ALL, [2, 5])), u=w(8, 7), v=zero(w(7, 8), (ALL, [2, 5])), g=np.abs(w(8)) + 0.5, k=w(8, 2)
    )
    if total:
        weights["m"] = w(8, 3)
    small = check(
        f"""(float[N,T,5] x) => (float[N,T,2] y{more}) {{ a = MatMul(x, e)  h = MatMul(a, u)  r = Relu(h)  b = MatMul(r, v)
        n, , , s = com.microsoft.SkipSimplifiedLayerNormalization<epsilon=0.001>(a, b, g)  y = MatMul(n, k)  {out} }}""",
        weights, dict(e=(5, 6), u=(6, 7), v=(7, 6), g=(6,), k=(6, 2)) | (dict(m=(6, 3)) if total else {}), tolerance=1e-5,
    )  # fmt: skip
    node = next(n for n in small.graph.node if n.op_type.startswith("Skip"))
    assert onnx.helper.get_attribute_value(node.attribute[0]) == pytest.approx(0.001 * 8 / 6)


def test_skip_simplified_default_epsilon() -> None:
    weights = dict(e=zero(w(5, 8), (ALL, [2, 5])), g=np.abs(w(8)) + 0.5, k=w(8, 2))
    text = """(float[N,T,5] x) => (float[N,T,2] y) { a = MatMul(x, e)
        n = com.microsoft.SkipSimplifiedLayerNormalization(a, a, g)  y = MatMul(n, k) }"""
    check(text, weights, dict(e=(5, 6), g=(6,), k=(6, 2)), tolerance=1e-5)
    check(text, weights, dict(e=(5, 6), g=(6,), k=(6, 2)), tolerance=1e-5, scale=1e-6)


def test_embeddings_are_left_alone_but_what_follows_is_free() -> None:
    weights = dict(word=w(9, 4), pos=w(8, 4), seg=w(2, 4), g=w(4), c=w(4), u=zero(w(4, 6), (ALL, [1, 2])), v=w(6, 3))
    check(
        """(int32[N,5] ids, int32[N,5] kinds) => (float[N,5,3] y) {
        e, m = com.microsoft.EmbedLayerNormalization(ids, kinds, word, pos, seg, g, c)  h = MatMul(e, u)  y = MatMul(h, v) }""",
        weights, dict(u=(4, 4), v=(4, 3)), tolerance=1e-5,
    )  # fmt: skip
