"""Zeros on their way: products with operands on either side, quotients by what is known to be positive, cuts."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

import onnxdam
from tests.handmade.toolkit import s_
from tests.rules.single import Single

DEAD = s_[:, [1, 2, 5]]
ROW = s_[[1, 2, 5]]
MATRICES = {"W": (6, 8), "V": (8, 4)}
THIN = {"W": (6, 5), "V": (5, 4)}
ROWS = "(float[N,6] x) => (float[N,4] y) { a = MatMul(x, W) "
GEMMS = [
    Single("weight on the left", "(float[N,6] x) => (float[4,N] y) { a = Gemm<transB = 1>(W, x) r = Relu(a) y = MatMul(V, r) }",
           {"W": (8, 6), "V": (4, 8)}, {"W": ROW}, {"W": (5, 6), "V": (4, 5)}),
    Single("weight on the left, transposed", "(float[N,6] x) => (float[4,N] y) { a = Gemm<transA = 1, transB = 1>(W, x) r = Relu(a) y = MatMul(V, r) }",
           {"W": (6, 8), "V": (4, 8)}, {"W": DEAD}, {"W": (6, 5), "V": (4, 5)}),
    Single("sum with what is computed", "(float[N,6] x) => (float[N,4] y) { c = MatMul(x, U) h = Relu(x) a = Gemm<alpha = 0.5, beta = 2.0>(h, W, c) r = Relu(a) y = MatMul(r, V) }",
           {"U": (6, 8), **MATRICES}, {"U": DEAD, "W": DEAD}, {"U": (6, 5), **THIN}),
    Single("sum with what does not have the zeros", "(float[N,6] x) => (float[N,4] y) { c = MatMul(x, U) h = Relu(x) a = Gemm(h, W, c) r = Relu(a) y = MatMul(r, V) }",
           {"U": (6, 8), **MATRICES}, {"W": DEAD}, {}),
    Single("a bias for each row", "(float[3,6] x) => (float[3,4] y) { a = Gemm(x, W, c) r = Relu(a) y = MatMul(r, V) }",
           {"c": (3, 8), **MATRICES}, {"c": DEAD, "W": DEAD}, {"c": (3, 5), **THIN}),
    Single("both computed", "(float[N,6] x, float[8,3] k) => (float[N,4] y) { kk = MatMul(k, U) a = MatMul(x, Z) s = Gemm(a, kk) y = MatMul(s, V) }",
           {"Z": (6, 8), "U": (3, 8), "V": (8, 4)}, {"U": DEAD}, {"U": (3, 5), "V": (5, 4)}),
    Single("zeros become the bias", "(float[N,6] x) => (float[N,4] y) { a = Gemm(x, W, c) s = Sigmoid(a) y = Gemm(s, V, d) }",
           {"c": (8,), "d": (4,), **MATRICES}, {"c": ROW, "W": DEAD}, {"c": (5,), **THIN}),
]  # fmt: skip
CONVOLUTIONS = [
    Single("a kernel that is computed", "(float[1,6,4,5] x, float[1,5] c) => (float[1,4,4,5] y) { w = MatMul(c, G) k = Reshape(w, s) a = Conv(x, k) r = Relu(a) y = Conv(r, V) }",
           {"G": np.where(np.isin(np.arange(48) // 6, [1, 2, 5]), 0, np.random.default_rng(0).normal(size=(5, 48))).astype(np.float32),
            "s": np.array([8, 6, 1, 1]), "V": (4, 8, 1, 1)}, {}, {"G": (5, 30), "V": (4, 5, 1, 1)}),
]  # fmt: skip
BOUNDS = {
    "the larger of a norm and one": "n = ReduceL1<keepdims = 1>(x, ax) c = Max(n, one)",
    "the larger of a norm and little": "n = ReduceL2<keepdims = 1>(a, ax) c = Max(n, little)",
    "a count and little": "b = Greater(x, zero) d = Cast<to = 1>(b) n = ReduceSum<keepdims = 1>(d, ax) c = Add(n, little)",
    "a count, at least one": "b = Greater(x, zero) d = Cast<to = 7>(b) n = ReduceSum<keepdims = 1>(d, ax) k = Clip(n, whole) c = Cast<to = 1>(k)",
    "one or two": "b = Greater(x, zero) n = Where(b, one, two) c = ReduceMax<keepdims = 1>(n, ax)",
}
NUMBERS = {"ax": np.array([-1]), "one": np.float32(1), "two": np.float32(2), "zero": np.float32(0),
           "little": np.float32(1e-12), "whole": np.int64(1)}  # fmt: skip
QUOTIENTS = [
    Single(name, f"{ROWS}{body} q = Div(a, c) y = MatMul(q, V) }}", {**MATRICES, **NUMBERS}, {"W": DEAD}, THIN, 20)
    for name, body in BOUNDS.items()
]
MAYBE_ZERO = {
    "a count": "b = Greater(x, zero) d = Cast<to = 1>(b) c = ReduceSum<keepdims = 1>(d, ax)",
    "little, in half precision": "n = ReduceL2<keepdims = 1>(a, ax) m = Max(n, little) h = Cast<to = 10>(m) c = Cast<to = 1>(h)",
    "the smaller of a norm and one": "n = ReduceL1<keepdims = 1>(x, ax) s = Min(n, one) c = Abs(s)",
}
CUTS = [
    Single("rows up to a number that is computed", "(float[N,6] x, float[T,2] k) => (float[D,4] y) { a = MatMul(x, W) s = Shape<start = 0, end = 1>(k) e = Concat<axis = 0>(s, eight) d = Slice(a, zeros, e) y = MatMul(d, V) }",
           {**MATRICES, "eight": np.array([8]), "zeros": np.array([0, 0])}, {"W": DEAD}, THIN, 20),
    Single("some columns, rows up to a number that is computed", "(float[N,6] x, float[T,2] k) => (float[D,4] y) { a = MatMul(x, W) s = Shape<start = 0, end = 1>(k) e = Concat<axis = 0>(s, seven) d = Slice(a, zeros, e) y = MatMul(d, V) }",
           {"W": (6, 8), "V": (7, 4), "seven": np.array([7]), "zeros": np.array([0, 0])}, {"W": DEAD}, {}, 20),
]  # fmt: skip


@pytest.mark.parametrize("single", [*GEMMS, *CONVOLUTIONS, *QUOTIENTS, *CUTS], ids=str)
def test_single(single: Single) -> None:
    single.check()


@pytest.mark.parametrize("body", MAYBE_ZERO.values(), ids=MAYBE_ZERO)
def test_zero_over_what_may_be_zero_is_no_constant(body: str) -> None:
    text = f"{ROWS}{body} q = Div(a, c) y = MatMul(q, V) }}"
    small, _ = onnxdam.slim(Single("", text, {**MATRICES, **NUMBERS}, {"W": DEAD}, {}, 20).model(), align="none")
    assert {t.name: tuple(t.dims) for t in small.graph.initializer}["V"] == (8, 4)


def test_without_simplifying_what_reads_a_narrowed_part_goes() -> None:
    """One piece is read by a node whose result nobody reads."""
    text = "(float[N,6] x) => (float[N,3] y) { a = MatMul(x, W) p, q = Split<axis = 1>(a, s) d = Mul(q, g) y = MatMul(p, V) }"
    model = Single("", text, {"W": (6, 8), "s": np.array([4, 4]), "g": (4,), "V": (4, 3)}, {"W": DEAD}).model()
    small, _ = onnxdam.slim(model, align="none", simplify=False)
    x = np.random.default_rng(0).normal(size=(2, 6)).astype(np.float32)
    wanted, found = (ort.InferenceSession(m.SerializeToString()).run(None, {"x": x})[0] for m in (model, small))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert {t.name: tuple(t.dims) for t in small.graph.initializer}["V"] == (2, 3)
