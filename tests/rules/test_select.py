"""Operators that index, sort or count: the axes they work on stay, the others correspond."""

from __future__ import annotations

import numpy as np
import pytest

from tests.handmade.toolkit import s_
from tests.rules.single import Single

CHANNELS = {"W1": (6, 3, 1, 1), "W2": (2, 6, 1, 1)}
NARROW = {"W1": (4, 3, 1, 1), "W2": (2, 4, 1, 1)}
DEAD = {"W1": s_[[1, 4]]}
UNREAD = {"W2": s_[:, [1, 4]]}
IMAGE = "(float[N,3,8,6] x) => (float[N,2,D,E] y) { a = Conv(x, W1) "


def image(
    name: str, body: str, zero: object = UNREAD, narrow: object = NARROW, weights: object = None, **options: object
) -> Single:
    """One operator between two convolutions."""
    return Single(name, IMAGE + body + " y = Conv(b, W2) }", {**CHANNELS, **(weights or {})}, zero, narrow, **options)  # type: ignore[arg-type,dict-item]


SMALL = {"k": np.array([3])}
PICKS = [
    image("first of the sorted", "b, i = TopK<axis = 2>(a, k)", DEAD, weights=SMALL),
    image("sorted channels", "b, i = TopK<axis = 1>(a, k) ", {"W1": s_[[1, 4]]}, {"W1": (6, 3, 1, 1)}, {**SMALL, "W2": (2, 3, 1, 1)}),
    image("places of the sorted", "c, i = TopK<axis = 2>(a, k) b = Cast<to = 1>(i)", weights=SMALL),
    image("largest position", "i = ArgMax<axis = 3>(a) b = Cast<to = 1>(i)"),
    image("largest position of a constant", "i = ArgMax<axis = 3>(a) b = Cast<to = 1>(i)", DEAD),
    image("last largest position of a constant", "i = ArgMin<axis = 3, select_last_index = 1>(a) b = Cast<to = 1>(i)", DEAD, {}),
    image("largest channel", "i = ArgMax<axis = 1>(a) c = Cast<to = 1>(i) b = Mul(a, c)", DEAD, {}),
    image("sum in order", "b = CumSum(a, axis)", DEAD, weights={"axis": np.array(2)}),
    image("sum in order of the channels", "b = CumSum(a, axis)", UNREAD, {}, {"axis": np.array(-3)}),
    image("sum in order, exclusive", "s = Sigmoid(a) b = CumSum<exclusive = 1>(s, axis)", UNREAD, NARROW, {"axis": np.array([3])}),
    image("triangle", "b = Trilu<upper = 0>(a)", DEAD),
    image("triangle of a constant", "s = Sigmoid(a) b = Trilu(s)", DEAD, {}),
    image("triangle of channels", "t = Transpose<perm = [0, 2, 3, 1]>(a) u = Trilu(t) b = Transpose<perm = [0, 3, 1, 2]>(u)", DEAD, {}),
    image("compress", "b = Compress<axis = 2>(a, keep)", DEAD, weights={"keep": np.array([True, False, True])}),
    image("compress channels", "b = Compress<axis = 1>(a, keep)", DEAD, {"W1": (6, 3, 1, 1)}, {"keep": np.array([True, False, True]), "W2": (2, 2, 1, 1)}),
    image("turned around", "b = ReverseSequence<batch_axis = 1, time_axis = 0>(a, n)", DEAD, {**NARROW}, {"n": np.array([1] * 6)}),
    Single("elements", "(float[1,3,8,6] x) => (float[1,2,2,6] y) { a = Conv(x, W1) b = GatherElements<axis = 2>(a, i) y = Conv(b, W2) }",
           {**CHANNELS, "i": np.arange(72).reshape(1, 6, 2, 6) % 8}, UNREAD, NARROW),
    Single("elements of zero channels", "(float[1,3,8,6] x) => (float[1,2,2,6] y) { a = Conv(x, W1) b = GatherElements<axis = 2>(a, i) y = Conv(b, W2) }",
           {**CHANNELS, "i": np.arange(72).reshape(1, 6, 2, 6) % 8}, DEAD, NARROW),
    Single("elements, fewer channels", "(float[1,3,8,6] x) => (float[1,2,2,6] y) { a = Conv(x, W1) b = GatherElements<axis = 2>(a, i) y = Conv(b, W2) }",
           {**CHANNELS, "i": np.arange(60).reshape(1, 5, 2, 6) % 8, "W2": (2, 5, 1, 1)}, {"W1": s_[[1, 4]]}, {}),
    Single("elements of the channels", "(float[1,3,8,6] x) => (float[1,2,8,6] y) { a = Conv(x, W1) b = GatherElements<axis = 1>(a, i) y = Conv(b, W2) }",
           {**CHANNELS, "i": np.arange(288).reshape(1, 6, 8, 6) % 6}, DEAD, {}),
    Single("elements of the channels, unread", "(float[1,3,8,6] x) => (float[1,2,8,6] y) { a = Conv(x, W1) b = GatherElements<axis = 1>(a, i) y = Conv(b, W2) }",
           {**CHANNELS, "i": np.arange(288).reshape(1, 6, 8, 6) % 6}, UNREAD, {"W2": (2, 4, 1, 1)}),
]  # fmt: skip
FEATURES = {"W": (3, 6), "M": (6, 2)}
THIN = {"W": (3, 4), "M": (4, 2)}
ROWS = "(float[N,3] x, int64[N] i) => (float[D,2] y) { a = MatMul(x, W) "
LOST = {"W": s_[:, [1, 4]]}
ROW = {"r": (2, 6)}
PLACES = [
    Single("rows", ROWS + "j = Unsqueeze(i, one) b = GatherND(a, j) y = MatMul(b, M) }", {**FEATURES, "one": np.array([1])}, LOST, THIN, high=2),
    Single("rows of a batch", "(float[N,4,3] x, int64[N,2,1] i) => (float[N,2,2] y) { a = MatMul(x, W) b = GatherND<batch_dims = 1>(a, i) y = MatMul(b, M) }",
           FEATURES, LOST, THIN),
    Single("single features", "(float[N,3] x, int64[4,2] i) => (float[4] y) { a = MatMul(x, W) y = GatherND(a, i) }",
           {"W": (3, 6)}, LOST, {}, high=2),
    Single("rows replaced", ROWS + "j = Unsqueeze(k, one) b = ScatterND(a, j, r) y = MatMul(b, M) }",
           {**FEATURES, **ROW, "one": np.array([1]), "k": np.array([1, 0])}, {**LOST, "r": s_[:, [1, 2]]}, {"W": (3, 5), "M": (5, 2), "r": (2, 5)}),
    Single("rows added", ROWS + 'j = Unsqueeze(k, one) b = ScatterND<reduction = "add">(a, j, r) y = MatMul(b, M) }',
           {**FEATURES, **ROW, "one": np.array([1]), "k": np.array([1, 1])}, {**LOST, "r": s_[:, [1, 4]]}, {**THIN, "r": (2, 4)}),
    Single("rows replaced, unread", ROWS + "j = Unsqueeze(k, one) b = ScatterND(a, j, r) y = MatMul(b, M) }",
           {**FEATURES, **ROW, "one": np.array([1]), "k": np.array([1, 0])}, {"M": s_[[1, 4]]}, {**THIN, "r": (2, 4)}),
    Single("equal constants replaced", ROWS + "s = Sigmoid(a) j = Unsqueeze(k, one) b = ScatterND(s, j, r) y = MatMul(b, M) }",
           {**FEATURES, "r": np.full((2, 6), 0.5, np.float32), "one": np.array([1]), "k": np.array([1, 0])}, LOST,
           {"W": (3, 5), "M": (5, 2), "r": (2, 5)}),
    Single("elements replaced", ROWS + "b = ScatterElements<axis = 0>(a, k, r) y = MatMul(b, M) }",
           {**FEATURES, "r": (1, 6), "k": np.array([[0, 1, 0, 1, 0, 1]])}, {**LOST, "r": s_[:, [1, 4]]}, {**THIN, "r": (1, 4)}),
    Single("elements replaced, fewer columns", ROWS + "b = ScatterElements<axis = 0>(a, k, r) y = MatMul(b, M) }",
           {**FEATURES, "r": (1, 5), "k": np.array([[0, 1, 0, 1, 0]])}, {**LOST, "r": s_[:, [1, 4]]}, {}),
    Single("elements replaced along the features", ROWS + "b = ScatterElements<axis = 1>(a, k, r) y = MatMul(b, M) }",
           {**FEATURES, "r": (1, 2), "k": np.array([[0, 1]])}, LOST, {}),
    Single("oldest scatter", ROWS + "b = Scatter<axis = 0>(a, k, r) y = MatMul(b, M) }",
           {**FEATURES, "r": (1, 6), "k": np.array([[0, 1, 0, 1, 0, 1]])}, {"M": s_[[1, 4]]}, {**THIN, "r": (1, 4)}, opset=10),
    Single("classes", "(int64[N] x) => (float[N,2] y) { a = OneHot(x, depth, values) y = MatMul(a, M) }",
           {"depth": np.array(6), "values": np.array([0, 1], np.float32), "M": (6, 2)}, {"M": s_[[1, 4]]}, {"M": (6, 2)}),
    Single("spectrum", "(float[N,8,3] x) => (float[N,8,2,2] y) { a = MatMul(x, W) t = Unsqueeze(a, last) f = DFT<axis = 1>(t) "
           "g = Transpose<perm = [0, 1, 3, 2]>(f) y = MatMul(g, M) }", {**FEATURES, "last": np.array([3])}, LOST, THIN),
    Single("positions counted", "(float[N,3] x) => (int64[2,D] y) { a = MatMul(x, W) y = NonZero(a) }", {"W": (3, 6)}, LOST, {}),
    Single("a sequence", "(float[N,3] x) => (float[N,2] y) { a = MatMul(x, W) s = SequenceConstruct(a, a) b = SequenceAt(s, zero) y = MatMul(b, M) }",
           {**FEATURES, "zero": np.array(0)}, LOST, {}),
    Single("split into a sequence", "(float[N,3] x) => (float[N,2] y) { a = MatMul(x, W) s = SplitToSequence<axis = 1>(a, parts) "
           "b = ConcatFromSequence<axis = 1>(s) y = MatMul(b, M) }", {**FEATURES, "parts": np.array([2, 4])}, LOST, {}),
    Single("an optional", "(float[N,3] x) => (float[N,2] y) { a = MatMul(x, W) s = Optional(a) b = OptionalGetElement(s) y = MatMul(b, M) }",
           FEATURES, LOST, {}),
]  # fmt: skip


@pytest.mark.parametrize("case", [*PICKS, *PLACES], ids=str)
def test_select(case: Single) -> None:
    case.check()
