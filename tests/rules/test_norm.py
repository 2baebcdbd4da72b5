"""Normalisations: what corresponds, what stays, what becomes constant."""

from __future__ import annotations

import numpy as np
import pytest

from tests.handmade.toolkit import Trap, s_
from tests.rules.single import Single

IMAGE = "(double[N,3,4,5] x) => (double[N,2,4,5] y) { a = Conv(x, W1) "
NARROW = {"W1": (4, 3, 1, 1), "W2": (2, 4, 1, 1)}
CHANNELS = {"W1": (6, 3, 1, 1), "W2": (2, 6, 1, 1)}
TEXT = "(double[N,T,3] x) => (double[N,T,2] y) { a = MatMul(x, W) "


def image(name: str, body: str, zero: object, narrow: object = None, weights: object = None, **options: object) -> Trap:
    return Trap(
        name, IMAGE + body + " y = Conv(b, W2) }", {**CHANNELS, **(weights or {})}, zero, narrow or NARROW, **options
    )  # type: ignore[arg-type,dict-item]


GROUPS = "b = GroupNormalization<num_groups = 3>(a, s, c)"
GROUP = {"W1": (2, 3, 1, 1), "W2": (2, 2, 1, 1)}
IMAGES = [
    image("instance norm, zero channel with bias", "b = InstanceNormalization(a, s, c)", {"W1": s_[[1, 4]]},
          {**NARROW, "s": (4,), "c": (4,)}, {"s": (6,), "c": (6,)}, extra=2),
    image("instance norm, unread channel", "b = InstanceNormalization(a, s, c)", {"W2": s_[:, [1, 4]]},
          {**NARROW, "s": (4,), "c": (4,)}, {"s": (6,), "c": (6,)}),
    image("instance norm, scale zero", "b = InstanceNormalization(a, s, c)", {"s": s_[[1, 4]], "c": s_[[1, 4]]},
          {**NARROW, "s": (4,), "c": (4,)}, {"s": (6,), "c": (6,)}),
    image("group norm by channel", GROUPS, {"W1": s_[2:6]}, {**GROUP, "s": (2,), "c": (2,)}, {"s": (6,), "c": (6,)},
          opset=21, extra=2),
    image("group norm by channel, unread group", GROUPS, {"W2": s_[:, 2:4]},
          {"W1": (4, 3, 1, 1), "W2": (2, 4, 1, 1), "s": (4,), "c": (4,)}, {"s": (6,), "c": (6,)}, opset=21),
    image("group norm, half a group stays whole", GROUPS, {"W1": s_[[2, 3, 4]], "c": s_[:]},
          {"W1": (4, 3, 1, 1), "W2": (2, 4, 1, 1), "s": (4,), "c": (4,)}, {"s": (6,), "c": (6,)}, opset=21),
    image("group norm, one dead channel in a group", GROUPS, {"W1": s_[[2]], "W2": s_[:, 2]}, CHANNELS, {"s": (6,), "c": (6,)},
          opset=21),
    image("group norm of one group", "b = GroupNormalization<num_groups = 1>(a, s, c)", {"W1": s_[[2]], "W2": s_[:, 2]}, CHANNELS,
          {"s": (6,), "c": (6,)}, opset=21),
    image("decomposed group norm", "r = Reshape(a, to) i = InstanceNormalization(r, one, nil) h = Shape(a) k = Reshape(i, h) "
          "m = Mul(k, s) b = Add(m, c)", {"W1": s_[2:4], "W2": s_[:, 2:4]},
          {"W1": (4, 3, 1, 1), "W2": (2, 4, 1, 1), "one": (2,), "nil": (2,), "s": (4, 1, 1), "c": (4, 1, 1)},
          {"one": np.ones(3), "nil": np.zeros(3), "s": (6, 1, 1), "c": (6, 1, 1), "to": np.array([0, 3, -1])}),
    image("LRN keeps neighbours", "b = LRN<size = 3>(a)", {"W1": s_[[1, 4]], "W2": s_[:, 2]}, {**CHANNELS, "W2": (2, 6, 1, 1)}),
    image("softmax over positions", "b = Softmax<axis = 3>(a)", {"W2": s_[:, [1, 4]]}, NARROW),
    image("softmax of a constant", "b = Softmax<axis = 3>(a)", {"W1": s_[[1, 4]]}, NARROW, extra=2),
    image("softmax over the channels", "b = Softmax<axis = 1>(a)", {"W2": s_[:, [1, 4]]}, CHANNELS),
    image("old softmax flattens", "b = Softmax<axis = 1>(a)", {"W2": s_[:, [1, 4]]}, CHANNELS, opset=11),
    image("old softmax from the third axis", "b = Softmax<axis = 2>(a)", {"W2": s_[:, [1, 4]]}, NARROW, opset=11),
    image("old log softmax from the third axis", "b = LogSoftmax<axis = -2>(a)", {"W1": s_[[1, 4]]}, NARROW, opset=11, extra=2),
    image("hardmax", "b = Hardmax<axis = -1>(a)", {"W2": s_[:, [1, 4]]}, NARROW),
    image("layer norm over positions", "b = LayerNormalization<axis = 2>(a, s)", {"W1": s_[[1, 4]]}, NARROW, {"s": (4, 5)}),
    image("layer norm over the channels", "b = LayerNormalization<axis = 1>(a, s)", {"W1": s_[[1, 4]], "W2": s_[:, 2]}, CHANNELS,
          {"s": (6, 4, 5)}),
    image("batch norm", "b = BatchNormalization(a, s, c, m, var)", {"s": s_[[1, 4]], "c": s_[[1, 4]]},
          {**NARROW, **dict.fromkeys(("s", "c", "m", "var"), (4,))}, dict.fromkeys(("s", "c", "m", "var"), (6,))),
]  # fmt: skip
FEATURES = {"W": (3, 8), "M": (8, 2)}
DEAD = {"W": s_[:, [0, 3, 6]]}
TEXTS = [
    Trap("RMS norm", TEXT + "b = RMSNormalization(a, s) y = MatMul(b, M) }", {**FEATURES, "s": (8,)}, DEAD,
         {"W": (3, 5), "M": (5, 2), "s": (5,)}, opset=23),
    Trap("RMS norm, scale for all", TEXT + "b = RMSNormalization(a, s) y = MatMul(b, M) }",
         {**FEATURES, "s": (1,)}, DEAD, {"W": (3, 5), "M": (5, 2)}, opset=23),
    Trap("RMS norm, what is only not read stays", TEXT + "b = RMSNormalization(a, s) y = MatMul(b, M) }",
         {**FEATURES, "s": (8,)}, {"M": s_[[0, 3]], "s": s_[[0, 3]]}, {}, opset=23),
    Trap("RMS norm over two axes", "(double[N,3,4,4] x) => (double[N,2,4,4] y) { a = Conv(x, W) "
         "b = RMSNormalization<axis = 1>(a, s) y = Conv(b, M) }",
         {"W": (6, 3, 1, 1), "M": (2, 6, 1, 1), "s": (6, 4, 4)}, {"W": s_[[0, 3]]},
         {"W": (4, 3, 1, 1), "M": (2, 4, 1, 1), "s": (4, 4, 4)}, opset=23),
    Trap("RMS norm of positions", "(double[N,3,4,4] x) => (double[N,2,4,4] y) { a = Conv(x, W) "
         "b = RMSNormalization<axis = -1>(a, s) y = Conv(b, M) }",
         {"W": (6, 3, 1, 1), "M": (2, 6, 1, 1), "s": (4,)}, {"W": s_[[0, 3]]}, {"W": (4, 3, 1, 1), "M": (2, 4, 1, 1)}, opset=23),
    Trap("RMS norm of a residual stream", TEXT + "q = MatMul(a, V) r = Add(a, q) b = RMSNormalization(r, s) y = MatMul(b, M) }",
         {**FEATURES, "V": (8, 8), "s": (8,)}, {"W": s_[:, [0, 3, 6]], "V": s_[:, [3, 6]]},
         {"W": (3, 6), "V": (6, 6), "M": (6, 2), "s": (6,)}, opset=23),
    Trap("norm of features", TEXT + "b = LpNormalization(a) y = MatMul(b, M) }", FEATURES, DEAD, {"W": (3, 5), "M": (5, 2)}),
    Trap("absolute norm of features", TEXT + "b = LpNormalization<p = 1, axis = 2>(a) y = MatMul(b, M) }", FEATURES, DEAD,
         {"W": (3, 5), "M": (5, 2)}),
    Trap("decomposed norm of features", TEXT + "n = ReduceL2<axes = [-1]>(a) c = Clip(n, tiny) h = Shape(a) e = Expand(c, h) b = Div(a, e) "
         "y = MatMul(b, M) }", {**FEATURES, "tiny": 1e-12}, DEAD, {"W": (3, 5), "M": (5, 2)}),
    Trap("layer norm stays", TEXT + "b = LayerNormalization(a, s) y = MatMul(b, M) }", {**FEATURES, "s": (8,)}, DEAD, {}),
    Trap("decomposed layer norm stays", TEXT + "m = ReduceMean<axes = [-1]>(a) d = Sub(a, m) q = Mul(d, d) v = ReduceMean<axes = [-1]>(q) "
         "e = Add(v, eps) s = Sqrt(e) b = Div(d, s) y = MatMul(b, M) }", {**FEATURES, "eps": 0.1}, DEAD, {}),
    Trap("response norm", "(double[N,3,4,4] x) => (double[N,2,4,4] y) { a = Conv(x, W) g = ReduceL2<axes = [2, 3]>(a) m = ReduceMean<axes = [1]>(g) "
         "e = Add(m, eps) k = Div(g, e) p = Mul(a, k) q = Mul(p, s) r = Add(q, c) b = Add(a, r) y = Conv(b, M) }",
         {"W": (6, 3, 1, 1), "M": (2, 6, 1, 1), "s": (1, 6, 1, 1), "c": (1, 6, 1, 1), "eps": 0.1}, {"W": s_[[0, 3]], "c": s_[:, [0, 3]]},
         {"W": (4, 3, 1, 1), "M": (2, 4, 1, 1), "s": (1, 4, 1, 1), "c": (1, 4, 1, 1)}),
]  # fmt: skip


@pytest.mark.parametrize("trap", [*IMAGES, *TEXTS], ids=str)
def test_norm(trap: Trap) -> None:
    outcome = trap.check()
    rescaled = "RMSNormalization" in trap.text and trap.narrow  # in float64 only: epsilon is a float32
    assert outcome.nodes_after <= outcome.nodes_before + bool(rescaled)


SINGLE = "(float[N,3,4,5] x) => (float[N,2,4,5] y) { a = Conv(x, W1) "
SINGLES = [
    Single("group norm by group", SINGLE + GROUPS + " y = Conv(b, W2) }", {**CHANNELS, "s": (3,), "c": (3,)},
           {"W1": s_[2:6], "c": s_[1:]}, {**GROUP, "s": (1,), "c": (1,)}, opset=18),
    Single("group norm by group, unread group", SINGLE + GROUPS + " y = Conv(b, W2) }", {**CHANNELS, "s": (3,), "c": (3,)},
           {"W2": s_[:, 2:5]}, {"W1": (4, 3, 1, 1), "W2": (2, 4, 1, 1), "s": (2,), "c": (2,)}, opset=18),
    Single("group norm of single channels", SINGLE + GROUPS.replace("3", "6") + " y = Conv(b, W2) }",
           {**CHANNELS, "s": (6,), "c": (6,)}, {"W2": s_[:, [2, 5]]}, {**NARROW, "s": (4,), "c": (4,)}, opset=18),
    Single("mean and variance", SINGLE + "b = MeanVarianceNormalization<axes = [2, 3]>(a) y = Conv(b, W2) }", CHANNELS,
           {"W2": s_[:, [1, 4]]}, NARROW),
    Single("mean and variance over the channels", SINGLE + "b = MeanVarianceNormalization<axes = [1, 3]>(a) y = Conv(b, W2) }",
           CHANNELS, {"W2": s_[:, [1, 4]]}),
    Single("scaled image, rank unknown to inference", "(float[N,3,H,V] x) => (float[N,2,D,E] y) { i = ImageScaler<bias = [1.0, 2.0, 3.0], "
           "scale = 2.0>(x) a = Conv(i, W1) p = MaxPool<kernel_shape = [2, 2]>(a) b = InstanceNormalization(p, s, c) y = Conv(b, W2) }",
           {**CHANNELS, "s": (6,), "c": (6,)}, {"W1": s_[[1, 4]]}, {**NARROW, "s": (4,), "c": (4,)}, opset=9),
    Single("a constant that a norm would blow up", "(float[N,3,40,40] x) => (float[N,2,40,40] y) { a = Conv(x, W1, k) "
           "b = InstanceNormalization(a, s, c) y = Conv(b, W2) }", {**CHANNELS, "s": (6,), "c": (6,), "k": (6,)}, {"W1": s_[[1, 4]]}),
    Single("simplified layer norm", "(float[N,T,3] x) => (float[N,T,2] y) { a = MatMul(x, W) b = SimplifiedLayerNormalization<axis = -1>(a, s)"
           " y = MatMul(b, M) }", {**FEATURES, "s": (8,)}, DEAD, {"W": (3, 5), "M": (5, 2), "s": (5,)}),
    Single("inverse deviation is used", "(float[N,T,3] x) => (float[N,T,2] y, float[N,T,1] v) { a = MatMul(x, W) "
           "b, v = SimplifiedLayerNormalization<axis = -1>(a, s) y = MatMul(b, M) }", {**FEATURES, "s": (8,)}, DEAD),
    Single("LRN of zeros", SINGLE + "b = LRN<size = 3>(a) y = Conv(b, W2) }", CHANNELS, {"W1": s_[[0, 1]]}),
    Single("norm of features", "(float[N,T,3] x) => (float[N,T,2] y) { a = MatMul(x, W) b = LpNormalization(a) y = MatMul(b, M) }",
           FEATURES, DEAD, {"W": (3, 5), "M": (5, 2)}),
]  # fmt: skip


@pytest.mark.parametrize("case", SINGLES, ids=str)
def test_single(case: Single) -> None:
    case.check()
