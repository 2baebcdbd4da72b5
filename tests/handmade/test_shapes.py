"""Traps in data movement and shape arithmetic, control flow, quantisation, the interface of a model, and odd numbers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.property.properties import check_slim
from tests.property.subject import slim

from .toolkit import Trap, run, s_

F32 = np.float32
LINEAR = {"W1": (5, 6), "b1": (6,), "W2": (6, 2)}
DEAD = {"W1": s_[:, [1, 4]], "b1": s_[[1, 4]]}
NARROW = {"W1": (5, 4), "b1": (4,), "W2": (4, 2)}


def between(middle: str, name: str, weights: dict[str, object] | None = None, **more: object) -> Trap:
    """A trap between two linear layers: `middle` turns r (N, T, 6) into s; channels 1 and 4 are dead."""
    text = f"(double[N,T,5] x) => (double[N,T,2] y) {{ a = MatMul(x, W1)  c = Add(a, b1)  r = Relu(c)  {middle}  y = MatMul(s, W2) }}"
    more.setdefault("narrow", NARROW)
    return Trap(name, text, LINEAR | (weights or {}), DEAD, **more)  # type: ignore[arg-type]


TRAPS = [
    between("s = Identity(r)", "plain"),
    between("z = Shape(r)  s = Reshape(r, z)", "reshape_to_own_shape"),
    between("z = Shape(r)  f = Reshape(r, minus)  g = Tanh(f)  s = Reshape(g, z)", "flattened_and_restored", {"minus": [-1]}),
    between("z = Shape(r)  o = ConstantOfShape(z)  od = Cast<to=11>(o)  s = Add(r, od)", "constant_of_shape"),
    between("z = Shape(r)  e = Expand(v, z)  s = Mul(r, e)", "expand_to_the_shape_of_a_pruned_value", {"v": (1,)}),
    between("z = Shape(r)  d = Gather(z, two)  f = Cast<to=11>(d)  s = Div(r, f)", "size_used_as_a_number", {"two": 2},
            narrow=None),
    between("n = Size(r)  f = Cast<to=11>(n)  s = Div(r, f)", "element_count_used_as_a_number", narrow=None),
    between("f = Reshape(r, flat)  g = Tanh(f)  z = Shape(x)  zs = Slice(z, i0, i2)  t = Concat<axis=0>(zs, six)  s = Reshape(g, t)",
            "merge_dynamic_axes_and_restore", {"flat": [-1, 6], "i0": [0], "i2": [2], "six": [6]}),
    between("q = Reshape(r, split)  t = Transpose<perm=[0,1,3,2]>(q)  s = Reshape(t, merge)", "shuffle_on_the_last_axis",
            {"split": [0, 0, 2, 3], "merge": [0, 0, -1]}),
    between("u = Unsqueeze(r, ax)  v = Tanh(u)  s = Squeeze(v, ax)", "unsqueeze_squeeze", {"ax": [3]}),
    between("g = Gather<axis=-1>(r, perm)  s = Neg(g)", "gather_constant_permutation", {"perm": [5, 4, 3, 2, 1, 0]}),
    between("g = Gather<axis=-1>(r, idx)  s = Neg(g)", "gather_constant_repeats", {"idx": [-1, 4, 3, 3, 0, 1]},
            narrow={"W1": (5, 3), "b1": (3,), "W2": (4, 2)}),
    between("v = Slice(r, hi, lo, ax, step)  s = Neg(v)", "slice_backwards",
            {"hi": [-1], "lo": [-(2**31)], "ax": [-1], "step": [-1]}),
    between("l = Slice(r, i0, big, ax, step)  h = Slice(r, i1, big, ax, step)  m = Concat<axis=2>(h, l)  s = Neg(m)",
            "even_and_odd_channels_rejoined", {"i0": [0], "i1": [1], "big": [2**62], "ax": [2], "step": [2]}),
    between("t = Tile(r, reps)  q = Reshape(t, split)  s = ReduceSum<keepdims=0>(q, ax)", "tile_then_sum",
            {"reps": [1, 1, 2], "split": [0, 0, 2, 6], "ax": [2]}),
    between("t = Transpose<perm=[2,0,1]>(r)  g = Gather(t, first)  u = ScatterND(t, rows, g)  s = Transpose<perm=[1,2,0]>(u)",
            "scatter_into_a_dead_channel", {"rows": [[1]], "first": [0]}, narrow=None),
    between("m = Greater(r, z)  s = Where(m, r, z)", "where_against_zero", {"z": 0.0}),
    between("m = Less(r, z)  s = Where(m, r, one)", "where_brings_a_constant", {"z": 0.5, "one": 1.0}, narrow=None),
    between("f = Cast<to=1>(r)  s = Cast<to=11>(f)", "cast_there_and_back"),
    between("q = Equal(r, z)  s = Cast<to=11>(q)", "equal_to_zero_is_one_on_dead_channels", {"z": 0.0}, narrow=None),
    between("r2 = Add(r, one)  i = Div(one, r2)  s = Mul(r, i)",
            "reciprocal_of_one_plus_zero", {"one": 1.0}),
    between("m = Mean(r, r)  s = Sum(m, r)", "variadic"),
    between("s = Max(r, v)", "maximum_with_a_positive_vector", {"v": [1.0] * 6}, narrow=None),
    between("s = Max(r, v)", "maximum_with_a_negative_vector", {"v": [-1.0] * 6}, narrow=NARROW | {"v": (4,)}),
    between("p = Pow(r, e)  s = Identity(p)", "power_zero_of_zero_is_one", {"e": 0.0}, narrow=None),
    Trap(
        "expand_to_an_extent_that_only_its_shape_tells",  # nobody reads the numbers of m, but its Shape makes a column wide
        "(double[N,5] x) => (double[N,7] y) { a = MatMul(x, W1)  b = MatMul(a, W2)  m = Max(b, v)  z = Shape(m)  y = Expand(b, z) }",
        {"W1": (5, 6), "W2": (6, 1), "v": np.arange(7.0)[None]}, {"W1": s_[:, [1, 4]]}, {"W1": (5, 4), "W2": (4, 1), "v": (1, 1)},
    ),
    Trap(
        "a_known_condition_is_a_gate",
        "(double[N,5] x) => (double[N,2] y) { a = MatMul(x, W1)  r = Cos(a)  s = Where(open, r, zero)  t = Tanh(s)  y = MatMul(t, W2) }",
        {"W1": (5, 6), "W2": (6, 2), "open": np.array([1, 0, 1, 1, 0, 1], bool), "zero": 0.0}, {},
        {"W1": (5, 4), "W2": (4, 2)},
    ),
    Trap(
        "a_known_condition_between_two",
        "(double[N,5] x) => (double[N,2] y) { a = MatMul(x, W1)  r = Cos(a)  b = MatMul(x, V)  s = Where(open, r, b)  y = MatMul(s, W2) }",
        {"W1": (5, 6), "V": (5, 6), "W2": (6, 2), "open": np.array([1, 0, 1, 1, 0, 1], bool)}, {"V": s_[:, [1, 2]]},
        {"W1": (5, 5), "V": (5, 5), "W2": (5, 2)},
    ),
    Trap(
        "pieces_of_what_is_flattened_at_run_time",
        "(double[N,3,2,3] x) => (double[N,24] y, double[N,2,2,3] z)"
        "{ a = Conv(x, W)  n = Shape<end=1>(a)  s = Concat<axis=0>(n, rest)  r = Reshape(a, s)"
        "  p, q = Split<axis=-1>(r, sizes)  y = Concat<axis=1>(q, p)  b, c = Split<axis=1>(a, halves)  z = Conv(c, M) }",
        {"W": (4, 3, 1, 1), "M": (2, 2, 1, 1), "rest": [-1], "sizes": [7, 17], "halves": [2, 2]}, {"W": s_[:], "M": s_[:]},
    ),
    Trap(
        "pieces_of_unknown_extent",
        "(double[N,3,2,3] x, int64[2] sizes) => (double[N,24] y, double[N,2,2,3] z)"
        "{ a = Conv(x, W)  r = Flatten(a)  p, q = Split<axis=1>(r, sizes)  y = Concat<axis=1>(q, p)"
        "  b, c = Split<axis=1>(a, halves)  z = Conv(c, M) }",
        {"W": (4, 3, 1, 1), "M": (2, 2, 1, 1), "halves": [2, 2]}, {"W": s_[:], "M": s_[:]}, ranges={"sizes": (12, 13)},
    ),
    Trap(
        "gather_with_runtime_indices_on_channels",
        "(double[N,5] x, int64[3] i) => (double[N,2] y) { a = MatMul(x, W1)  r = Relu(a)  g = Gather<axis=1>(r, i)  y = MatMul(g, W2) }",
        {"W1": (5, 6), "W2": (3, 2)}, {"W1": s_[:, [1, 4]]}, {}, kept=True, ranges={"i": (0, 6)},
    ),
    Trap(
        "gather_with_runtime_indices_on_time",
        "(double[N,4,5] x, int64[3] i) => (double[N,3,2] y) { a = MatMul(x, W1)  r = Relu(a)  g = Gather<axis=1>(r, i)"
        "  y = MatMul(g, W2) }",
        {"W1": (5, 6), "W2": (6, 2)}, {"W1": s_[:, [1, 4]]}, {"W1": (5, 4), "W2": (4, 2)}, ranges={"i": (0, 4)},
    ),
    Trap(
        "reshape_zero_minus_one",
        "(double[N,5] x) => (double[N,2] y) { a = MatMul(x, W1)  m = Reshape(a, split)  r = Relu(m)  f = Reshape(r, flat)"
        "  y = MatMul(f, W2) }",
        {"W1": (5, 12), "W2": (12, 2), "split": [0, 3, 2, 2], "flat": [0, -1]}, {"W1": s_[:, 4:8]},
        {"W1": (5, 8), "W2": (8, 2)},
    ),
    Trap(
        "reshape_zero_zero_minus_one",
        "(double[N,5] x) => (double[N,3,2] y) { a = MatMul(x, W1)  m = Reshape(a, split)  r = Relu(m)  f = Reshape(r, flat)"
        "  y = MatMul(f, W2) }",
        {"W1": (5, 12), "W2": (4, 2), "split": [0, 3, 2, 2], "flat": [0, 0, -1]}, {"W1": s_[:, [1, 5, 9, 0]]},
        {"W1": (5, 12), "W2": (4, 2)},
    ),
    Trap(
        "batch_moves_into_the_channels",
        "(double[2,5] x) => (double[3,2] y) { a = MatMul(x, W1)  r = Relu(a)  m = Reshape(r, t)  y = MatMul(m, W2) }",
        {"W1": (5, 6), "W2": (4, 2), "t": [3, 4]}, {"W1": s_[:, [1, 4]]}, None,
    ),
    Trap(
        "constant_along_a_merged_dynamic_axis",
        "(double[N,8,6,5] x) => (double[M,2] y) { f = Flatten<axis=3>(x)  a = MatMul(f, W1)  q = Mul(a, a)"
        "  m = ReduceMean<axes=[-1], keepdims=1>(q)  e = Add(m, eps)  r = Sqrt(e)  d = Div(a, r)  y = MatMul(d, W2) }",
        {"W1": (5, 6), "W2": (6, 2), "eps": 1e-3}, {"W1": s_[:]}, None,
    ),
    *[
        Trap(
            f"squeeze_without_axes_of_what_is_narrowed_to_one_{opset}",
            "(double[2,3,9] x) => (double[2,3] y) { a = Conv(x, W1)  g = GlobalAveragePool(a)  s = Squeeze(g)  y = MatMul(s, W2) }",
            {"W1": (8, 3, 1), "W2": (8, 3)}, {"W1": s_[1:]}, {"W1": (1, 3, 1), "W2": (1, 3)}, opset=opset,
        )
        for opset in (12, 13)
    ],
    Trap(
        "two_outputs_are_the_same_value",
        "(double[N,5] x) => (double[N,2] y, double[N,2] z) { a = MatMul(x, W1)  r = Relu(a)  y = MatMul(r, W2)  z = Identity(y) }",
        {"W1": (5, 6), "W2": (6, 2)}, {"W1": s_[:, [1, 4]]}, {"W1": (5, 4), "W2": (4, 2)},
    ),
    Trap(
        "an_output_that_is_an_input",
        "(double[N,5] x) => (double[N,2] y, double[N,5] x) { a = MatMul(x, W1)  r = Relu(a)  y = MatMul(r, W2) }",
        {"W1": (5, 6), "W2": (6, 2)}, {"W1": s_[:, [1, 4]]}, {"W1": (5, 4), "W2": (4, 2)},
    ),
    Trap(
        "intermediate_value_that_is_an_output",
        "(double[N,5] x) => (double[N,2] y, double[N,6] r) { a = MatMul(x, W1)  r = Relu(a)  y = MatMul(r, W2) }",
        {"W1": (5, 6), "W2": (6, 2)}, {"W1": s_[:, [1, 4]]},
    ),
    Trap(
        "wholly_constant_output",
        "(double[N,5] x) => (double[N,2] y) { a = MatMul(x, W1)  r = Exp(a)  y = MatMul(r, W2) }",
        {"W1": (5, 6), "W2": (6, 2)}, {"W1": s_[:]},
    ),
    Trap(
        "zero_size_tensors",
        "(double[N,5] x, double[N,0] e) => (double[N,2] y) { c = Concat<axis=1>(x, e)  a = MatMul(c, W1)  r = Relu(a)"
        "  y = MatMul(r, W2) }",
        {"W1": (5, 6), "W2": (6, 2)}, {"W1": s_[:, [1, 4]]}, {"W1": (5, 4), "W2": (4, 2)},
    ),
    Trap(
        "scalars",
        "(double x) => (double y) { a = Mul(x, w)  r = Relu(a)  y = Add(r, b) }", {"w": 0.0, "b": 1.0}, {}, None,
    ),
    Trap(
        "infinite_constant_times_zero_stays_nan",
        "(double[N,4] x) => (double[N,2] y) { a = MatMul(x, W1)  m = Mul(a, inf)  y = MatMul(m, W2) }",
        {"W1": (4, 3), "W2": (3, 2), "inf": [1.0, float("inf"), 1.0]}, {"W1": s_[:, 1]}, None,
    ),
    Trap(
        "zero_divided_by_zero_stays_nan",
        "(double[N,4] x) => (double[N,2] y) { a = MatMul(x, W1)  b = MatMul(x, W3)  m = Div(a, b)  y = MatMul(m, W2) }",
        {"W1": (4, 3), "W2": (3, 2), "W3": (4, 3)}, {"W1": s_[:, 1], "W3": s_[:, 1]}, None,
    ),
    Trap(
        "logarithm_of_a_dead_channel_stays_infinite",
        "(double[N,4] x) => (double[N,2] y) { a = MatMul(x, W1)  r = Abs(a)  l = Log(r)  y = MatMul(l, W2) }",
        {"W1": (4, 3), "W2": (3, 2)}, {"W1": s_[:, 1]}, None,
    ),
    Trap(
        "unread_infinity_does_not_wake_up",
        "(double[N,4] x) => (double[N,2] y) { a = MatMul(x, W1)  b = Add(a, one)  r = Reciprocal(b)  y = MatMul(r, W2) }",
        {"W1": (4, 3), "W2": (3, 2), "one": [1.0, 1, 1]}, {"W1": s_[:, 1], "W2": s_[1]}, None,
    ),
    Trap(
        "value_used_inside_an_if_branch",
        "(double[N,5] x, bool p) => (double[N,2] y) { a = MatMul(x, W1)  r = Relu(a)"
        "  y = If(p) <then_branch = t () => (double[N,2] u) { u = MatMul(r, W2) },"
        "             else_branch = e () => (double[N,2] v) { n = Neg(r)  v = MatMul(n, W3) }> }",
        {"W1": (5, 6), "W2": (6, 2), "W3": (6, 2)}, {"W1": s_[:, [1, 4]]},
        {"W1": (5, 4), "W2": (4, 2), "W3": (4, 2)},
    ),
    Trap(
        "if_branches_with_different_dead_channels",
        "(double[N,5] x, bool p) => (double[N,2] y) {"
        "  r = If(p) <then_branch = t () => (double[N,6] u) { u = MatMul(x, W1) },"
        "             else_branch = e () => (double[N,6] v) { v = MatMul(x, W3) }>"
        "  s = Relu(r)  y = MatMul(s, W2) }",
        {"W1": (5, 6), "W2": (6, 2), "W3": (5, 6)}, {"W1": s_[:, [1, 4]], "W3": s_[:, [4, 5]]}, None,
    ),
    Trap(
        "loop_carries_a_dead_channel",
        "(double[N,5] x) => (double[N,2] y) { a = MatMul(x, W1)"
        "  l = Loop(two, yes, a) <body = b (int64 i, bool k, double[N,6] s) => (bool k2, double[N,6] t) {"
        "    k2 = Identity(k)  m = MatMul(s, V)  n = Add(m, s)  t = Relu(n) }>"
        "  y = MatMul(l, W2) }",
        {"W1": (5, 6), "V": (6, 6), "W2": (6, 2), "two": 2, "yes": True}, {"W1": s_[:, [1, 4]], "V": s_[:, [1, 4]]}, None,
    ),
    Trap(
        "loop_channel_dead_at_the_start_only",
        "(double[N,5] x) => (double[N,2] y) { a = MatMul(x, W1)"
        "  l = Loop(two, yes, a) <body = b (int64 i, bool k, double[N,6] s) => (bool k2, double[N,6] t) {"
        "    k2 = Identity(k)  m = MatMul(s, V)  n = Add(m, s)  t = Relu(n) }>"
        "  y = MatMul(l, W2) }",
        {"W1": (5, 6), "V": (6, 6), "W2": (6, 2), "two": 2, "yes": True}, {"W1": s_[:, [1, 4]]}, None,
    ),
    Trap(
        "scan_with_a_state",
        "(double[N,4] h0, double[T,N,5] x) => (double[N,2] y) {"
        "  h, all = Scan<num_scan_inputs=1, body = b (double[N,4] s, double[N,5] e) => (double[N,4] t, double[N,4] o) {"
        "    m = MatMul(e, W1)  n = MatMul(s, R)  q = Add(m, n)  t = Tanh(q)  o = Identity(t) }>(h0, x)"
        "  y = MatMul(h, W2) }",
        {"W1": (5, 4), "R": (4, 4), "W2": (4, 2)}, {"W1": s_[:, 1], "R": s_[:, 1]}, None,
    ),
    Trap(
        "body_of_a_function",
        "(double[N,5] x) => (double[N,2] y) { a = MatMul(x, W1)  r = local.Act(a)  y = MatMul(r, W2) }",
        {"W1": (5, 6), "W2": (6, 2)}, {"W1": s_[:, [1, 4]]}, {"W1": (5, 4), "W2": (4, 2)},
        functions='<domain: "local", opset_import: ["": 17]> Act (x) => (y) { r = Relu(x)  y = Tanh(r) }',
    ),
    Trap(
        "dynamic_quantisation_sees_constants",
        "(double[N,5] x) => (float[N,2] y) { a = MatMul(x, W1)  c = Add(a, b1)  f = Cast<to=1>(c)  q, s, z = DynamicQuantizeLinear(f)"
        "  i = MatMulInteger(q, Q, z)  g = Cast<to=1>(i)  y = Mul(g, s) }",
        {"W1": (5, 6), "b1": [0.0, 30, 0, 0, 0, 0], "Q": np.arange(-6, 6, dtype=np.int8).reshape(6, 2)}, {"W1": s_[:, [1, 4]]}, None,
    ),
    Trap(
        "qlinear_conv_with_a_zero_point",
        "(double[N,3,4,4] x) => (float[N,2,4,4] y) { a = Conv(x, W1)  f = Cast<to=1>(a)  q = QuantizeLinear(f, s, z)"
        "  c = QLinearConv<pads=[1,1,1,1]>(q, s, z, Q, t, w, s, z)  y = DequantizeLinear(c, s, z) }",
        {"W1": (4, 3, 1, 1), "s": F32(0.05), "z": np.uint8(100), "t": F32(0.02), "w": np.int8(0),
         "Q": np.arange(-36, 36, dtype=np.int8).reshape(2, 4, 3, 3)},
        {"W1": s_[[1, 2]]}, {"W1": (2, 3, 1, 1), "Q": (2, 2, 3, 3)},
    ),
    Trap(
        "qlinear_matmul_weight_zero_point_is_the_zero",
        "(double[N,5] x) => (float[N,2] y) { a = MatMul(x, W1)  f = Cast<to=1>(a)  q = QuantizeLinear(f, s, z)"
        "  c = QLinearMatMul(q, s, z, Q, t, w, s, z)  y = DequantizeLinear(c, s, z) }",
        {"W1": (5, 6), "s": F32(0.05), "z": np.uint8(100), "t": F32(0.02), "w": np.uint8(3),
         "Q": np.array([[3, 3], [0, 0], [1, 9], [200, 4], [3, 3], [8, 8]], np.uint8)},
        {}, {"W1": (5, 4), "Q": (4, 2)},
    ),
    Trap(
        "dequantised_weights_per_channel",
        "(double[N,3,4,4] x) => (double[N,2,4,4] y) { d = DequantizeLinear<axis=0>(Q, s, z)  w = Cast<to=11>(d)  a = Conv(x, w, b)"
        "  r = Relu(a)  y = Conv(r, W2) }",
        {"Q": np.arange(1, 13, dtype=np.int8).reshape(4, 3, 1, 1), "s": np.array([0.1, 0.2, 0.3, 0.4], F32),
         "z": np.zeros(4, np.int8), "b": (4,), "W2": (2, 4, 1, 1)},
        {"Q": s_[[1, 2]], "b": s_[[1, 2]]}, {"W2": (2, 2, 1, 1), "b": (2,), "Q": (2, 3, 1, 1), "s": (2,), "z": (2,)},
    ),
    Trap(
        "initial_zero_point_makes_a_zero_weight",
        "(double[N,3] x) => (double[N,2] y) { d = DequantizeLinear(Q, s, z)  w = Cast<to=11>(d)  a = MatMul(x, w)  r = Relu(a)"
        "  y = MatMul(r, W2) }",
        {"Q": np.array([[5, 1, 7, 0], [5, 2, 7, 0], [5, 3, 7, 0]], np.uint8), "s": F32(0.1), "z": np.uint8(5), "W2": (4, 2)},
        {}, {"W2": (3, 2), "Q": (3, 3)},
    ),
]  # fmt: skip


@pytest.mark.parametrize("trap", TRAPS, ids=str)
def test_trap(trap: Trap) -> None:
    trap.check()


def test_masked_nan_is_really_nan() -> None:
    """The traps about infinity are traps: their masked models give NaN, and slim must, too."""
    named = {trap.name: trap for trap in TRAPS}
    for name in ("infinite_constant_times_zero_stays_nan", "zero_divided_by_zero_stays_nan"):
        model = named[name].case().model
        (y,) = run(model, x=np.ones((2, 4)))
        assert np.isnan(y).any()


def test_a_declared_name_stands_for_one_extent() -> None:
    """Rows that channels are merged into get fewer; what is declared of them cannot share a name with those that stay."""
    case = Trap(
        "merged_rows_share_a_name_with_others",
        "(double[N,2,5] x, double[N,6,2] u) => (double[N,6,2] y, double[M,2] g)"
        " <double[N,2,6] a, double[N,6,2] t, double[M,2] f, double[M,2] e, double[N,6,2] h>"
        "{ a = MatMul(x, W1)  t = Transpose<perm=[0,2,1]>(a)  f = Reshape(t, rows)  e = Sin(f)  h = Reshape(e, back)"
        "  s = Transpose<perm=[0,2,1]>(h)  y0 = MatMul(s, W2)  v = ReduceMean<axes=[1]>(y0)  y = Add(u, v)"
        "  g = Reshape(u, pairs) }",
        {"W1": (5, 6), "W2": (6, 2), "rows": [-1, 2], "back": [-1, 6, 2], "pairs": [-1, 2]},
        {"W1": s_[:, [1, 4]]},
    ).case()
    small, _ = slim(case.model)
    names = [v.name for v in small.graph.value_info]
    assert {"f", "e"} <= set(names)
    small.graph.output.extend(small.graph.value_info)
    found = run(small, x=np.ones((3, 2, 5)), u=np.ones((3, 6, 2)))
    extents: dict[str, set[int]] = {}
    for value, array in zip(small.graph.output, found, strict=True):
        for declared, extent in zip(value.type.tensor_type.shape.dim, array.shape, strict=True):
            if declared.dim_param:
                extents.setdefault(declared.dim_param, set()).add(extent)
    assert extents["M"] == {18}, extents
    assert all(len(each) == 1 for each in extents.values()), extents


def test_nothing_masked_nothing_changed() -> None:
    """Without dead weight a model comes back with the same bytes in every initializer and the same nodes."""
    for trap in TRAPS:
        if trap.functions or "If" in trap.text or "Loop" in trap.text:
            continue
        case = Trap(trap.name, trap.text, trap.weights, {}, ranges=trap.ranges, opset=trap.opset).case()
        check_slim(case, slim)


def test_input_may_be_shared_between_calls() -> None:
    """Slimming the same model object twice, with another call in between, gives the same bytes."""
    first, second = TRAPS[0].case().model, TRAPS[1].case().model
    a, _ = slim(first)
    slim(second)
    b, _ = slim(first)
    assert a.SerializeToString(deterministic=True) == b.SerializeToString(deterministic=True)
    assert isinstance(a, onnx.ModelProto)
