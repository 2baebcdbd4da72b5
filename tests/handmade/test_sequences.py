"""Traps in linear layers, attention, normalisation, embeddings and recurrent cells."""

from __future__ import annotations

import numpy as np
import pytest

from .toolkit import Trap, s_

MLP = "(double[N,5] x) => (double[N,2] y)"
ATTENTION = {
    "Wq": (6, 8), "Wk": (6, 8), "Wv": (6, 8), "Wo": (8, 6), "heads": [0, 0, 4, 2], "flat": [0, 0, -1], "scale": 0.7,
}  # fmt: skip
ATTEND = """(double[N,T,6] x) => (double[N,T,6] y) {
  q = MatMul(x, Wq)  k = MatMul(x, Wk)  v = MatMul(x, Wv)
  q4 = Reshape(q, heads)  k4 = Reshape(k, heads)  v4 = Reshape(v, heads)
  qt = Transpose<perm=[0,2,1,3]>(q4)  kt = Transpose<perm=[0,2,3,1]>(k4)  vt = Transpose<perm=[0,2,1,3]>(v4)
  s = MatMul(qt, kt)  z = Mul(s, scale)  p = Softmax<axis=-1>(z)  o = MatMul(p, vt)
  ot = Transpose<perm=[0,2,1,3]>(o)  f = Reshape(ot, flat)  y = MatMul(f, Wo) }"""
# The same, the scale computed from the head size that the graph finds at run time.
ATTEND_RUNTIME_SCALE = ATTEND.replace(
    "z = Mul(s, scale)",
    "sh = Shape(qt)  hd = Slice(sh, three, four)  hf = Cast<to=11>(hd)  hr = Sqrt(hf)  z = Div(s, hr)",
)
RUNTIME = {"three": [3], "four": [4]}

TRAPS = [
    Trap(
        "mlp", MLP + "{ a = Gemm<transB=1>(x, W1, b1)  r = Relu(a)  y = Gemm(r, W2) }",
        {"W1": (6, 5), "b1": (6,), "W2": (6, 2)}, {"W1": s_[[0, 5]], "b1": s_[0]},
        {"W1": (4, 5), "b1": (4,), "W2": (4, 2)}, at_most=2,
    ),
    Trap(
        "gemm_alpha_beta_and_constants",
        MLP + "{ a = Gemm<transB=1, alpha=0.5, beta=2.0>(x, W1, b1)  r = Sigmoid(a)  y = Gemm<alpha=3.0, beta=0.5>(r, W2, b2) }",
        {"W1": (6, 5), "b1": (6,), "W2": (6, 2), "b2": (1, 2)}, {"W1": s_[[0, 5]]}, {"W1": (4, 5), "b1": (4,), "W2": (4, 2)},
    ),
    Trap(
        "gemm_scalar_bias_and_constants",
        MLP + "{ a = MatMul(x, W1)  r = Cos(a)  y = Gemm(r, W2, b2) }",
        {"W1": (5, 6), "W2": (6, 2), "b2": 0.5}, {"W1": s_[:, [0, 5]]}, {"W1": (5, 4), "W2": (4, 2)}, extra=2,
    ),
    Trap(
        "beta_zero_bias_is_not_a_bias",
        MLP + "{ a = Gemm<beta=0.0>(x, W1, b1)  r = Relu(a)  y = Gemm(r, W2) }",
        {"W1": (5, 6), "b1": (6,), "W2": (6, 2)}, {"W1": s_[:, [0, 5]]}, {"W1": (5, 4), "W2": (4, 2)}, at_most=4,
        extra=-6,
    ),
    Trap(
        "transposed_gemm_input",
        "(double[5,N] x) => (double[N,2] y) { a = Gemm<transA=1>(x, W1)  r = Relu(a)  t = Transpose(r)  y = Gemm<transA=1>(t, W2) }",
        {"W1": (5, 6), "W2": (6, 2)}, {"W1": s_[:, [0, 5]]}, {"W1": (5, 4), "W2": (4, 2)},
    ),
    Trap(
        "weight_on_the_left",
        "(double[5,N] x) => (double[2,N] y) { a = MatMul(W1, x)  r = Relu(a)  y = MatMul(W2, r) }",
        {"W1": (6, 5), "W2": (2, 6)}, {"W1": s_[[0, 5]]}, {"W1": (4, 5), "W2": (2, 4)},
    ),
    Trap(
        "weight_product_in_the_graph",
        MLP + "{ w = MatMul(U, V)  a = MatMul(x, w)  r = Relu(a)  y = MatMul(r, W2) }",
        {"U": (5, 3), "V": (3, 6), "W2": (6, 2)}, {"V": s_[:, [1, 2]]}, None,
    ),
    Trap(
        "einsum",
        "(double[N,T,5] x) => (double[N,T,2] y) "
        "{ a = Einsum<equation=\"btc,hcd->bhtd\">(x, W1)  r = Relu(a)  y = Einsum<equation=\"bhtd,hde->bte\">(r, W2) }",
        {"W1": (3, 5, 4), "W2": (3, 4, 2)}, {"W1": [s_[1], s_[:, :, 2]]}, {"W1": (2, 5, 3), "W2": (2, 3, 2)},
    ),
    Trap(
        "batched_matmul_weights",
        "(double[3,N,5] x) => (double[3,N,2] y) { a = MatMul(x, W1)  r = Relu(a)  y = MatMul(r, W2) }",
        {"W1": (3, 5, 6), "W2": (3, 6, 2)}, {"W1": s_[:, :, [0, 5]]}, {"W1": (3, 5, 4), "W2": (3, 4, 2)},
    ),
    Trap(
        "dead_in_one_batch_only_stays",
        "(double[3,N,5] x) => (double[3,N,2] y) { a = MatMul(x, W1)  r = Relu(a)  y = MatMul(r, W2) }",
        {"W1": (3, 5, 6), "W2": (3, 6, 2)}, {"W1": s_[0, :, [0, 5]]}, {}, kept=True,
    ),
    Trap("head_of_values", ATTEND, ATTENTION, {"Wv": s_[:, 2:4]},
         {"Wq": (6, 6), "Wk": (6, 6), "Wv": (6, 6), "Wo": (6, 6)}),
    Trap("head_unread", ATTEND, ATTENTION, {"Wo": s_[4:6]},
         {"Wq": (6, 6), "Wk": (6, 6), "Wv": (6, 6), "Wo": (6, 6)}),
    Trap("zero_queries_do_not_kill_a_head", ATTEND, ATTENTION, {"Wq": s_[:, 2:4]}, None),
    Trap("head_dimension_of_queries", ATTEND, ATTENTION, {"Wq": s_[:, [1, 3, 5, 7]]}, {"Wq": (6, 4), "Wk": (6, 4)}),
    Trap("head_dimension_ragged_stays", ATTEND, ATTENTION, {"Wq": s_[:, [1, 2]]}, {}, kept=True),
    Trap("head_dimension_of_values", ATTEND, ATTENTION, {"Wv": s_[:, [1, 3, 5, 7]]}, {"Wv": (6, 4), "Wo": (4, 6)}),
    Trap("scale_computed_from_a_pruned_shape", ATTEND_RUNTIME_SCALE, ATTENTION | RUNTIME, {"Wq": s_[:, [1, 3, 5, 7]]}),
    Trap("scale_computed_from_shape_with_a_dead_head", ATTEND_RUNTIME_SCALE, ATTENTION | RUNTIME, {"Wv": s_[:, 2:4]},
         {"Wq": (6, 6), "Wk": (6, 6), "Wv": (6, 6), "Wo": (6, 6)}, at_most=1),
    Trap("all_heads_dead", ATTEND, ATTENTION, {"Wv": s_[:]}),
    Trap(
        "grouped_queries_stay_whole_groups",
        "(double[N,T,6] x) => (double[N,T,6] y) {"
        "  q = MatMul(x, Wq)  k = MatMul(x, Wk)  v = MatMul(x, Wv)"
        "  q4 = Reshape(q, qh)  k4 = Reshape(k, kh)  v4 = Reshape(v, kh)"
        "  qt = Transpose<perm=[0,2,1,3]>(q4)  kt = Transpose<perm=[0,2,3,1]>(k4)  vt = Transpose<perm=[0,2,1,3]>(v4)"
        "  kr = Gather<axis=1>(kt, rep)  vr = Gather<axis=1>(vt, rep)"
        "  s = MatMul(qt, kr)  p = Softmax<axis=-1>(s)  o = MatMul(p, vr)"
        "  ot = Transpose<perm=[0,2,1,3]>(o)  f = Reshape(ot, flat)  y = MatMul(f, Wo) }",
        {"Wq": (6, 12), "Wk": (6, 4), "Wv": (6, 4), "Wo": (12, 6), "qh": [0, 0, 6, 2], "kh": [0, 0, 2, 2],
         "rep": [0, 0, 0, 1, 1, 1], "flat": [0, 0, -1]},
        {"Wv": s_[:, 2:4]}, {"Wq": (6, 6), "Wk": (6, 2), "Wv": (6, 2), "Wo": (6, 6)},
    ),
    Trap(
        "attention_operator_head",
        "(double[N,T,6] x) => (double[N,T,6] y) { q = MatMul(x, Wq)  k = MatMul(x, Wk)  v = MatMul(x, Wv)"
        "  o = Attention<q_num_heads=4, kv_num_heads=4, is_causal=1>(q, k, v)  y = MatMul(o, Wo) }",
        ATTENTION, {"Wv": s_[:, 2:4]}, {"Wq": (6, 6), "Wk": (6, 6), "Wv": (6, 6), "Wo": (6, 6)}, opset=23,
    ),
    Trap(
        "attention_operator_head_size_keeps_its_scale",
        "(double[N,T,6] x) => (double[N,T,6] y) { q = MatMul(x, Wq)  k = MatMul(x, Wk)  v = MatMul(x, Wv)"
        "  o = Attention<q_num_heads=2, kv_num_heads=2>(q, k, v)  y = MatMul(o, Wo) }",
        ATTENTION | {"Wq": (6, 32), "Wk": (6, 32)}, {"Wq": s_[:, [1, 17]]}, {"Wq": (6, 30), "Wk": (6, 30)}, opset=23,
    ),
    Trap(
        "fused_qkv_split",
        "(double[N,T,6] x) => (double[N,T,6] y) { a = MatMul(x, W)  q, k, v = Split<axis=-1>(a, sizes)"
        "  q4 = Reshape(q, heads)  k4 = Reshape(k, heads)  v4 = Reshape(v, heads)"
        "  qt = Transpose<perm=[0,2,1,3]>(q4)  kt = Transpose<perm=[0,2,3,1]>(k4)  vt = Transpose<perm=[0,2,1,3]>(v4)"
        "  s = MatMul(qt, kt)  p = Softmax<axis=-1>(s)  o = MatMul(p, vt)"
        "  ot = Transpose<perm=[0,2,1,3]>(o)  f = Reshape(ot, flat)  y = MatMul(f, Wo) }",
        {"W": (6, 24), "Wo": (8, 6), "sizes": [8, 8, 8], "heads": [0, 0, 4, 2], "flat": [0, 0, -1]},
        {"W": s_[:, 18:20]}, {"W": (6, 18), "Wo": (6, 6)},
    ),
    Trap(
        "layer_norm_over_a_pruned_axis_is_pinned",
        "(double[N,T,6] x) => (double[N,T,2] y) { a = MatMul(x, W1)  n = LayerNormalization(a, g, b)  y = MatMul(n, W2) }",
        {"W1": (6, 8), "g": (8,), "b": (8,), "W2": (8, 2)}, {"W1": s_[:, [1, 2]]}, {}, kept=True,
    ),
    Trap(
        "layer_norm_output_zero_by_its_gamma",
        "(double[N,T,6] x) => (double[N,T,2] y) { n = LayerNormalization(x, g, b)  y = MatMul(n, W2) }",
        {"g": (6,), "b": (6,), "W2": (6, 2)}, {"g": s_[[1, 2]], "b": s_[[1, 2]]}, {}, kept=True,
    ),
    Trap(
        "gate_behind_a_gemm_that_gets_a_bias",
        "(double[N,4] x) => (double[N,2] y) { a = Gemm(x, W0, c)  b = Gemm(a, W1)  m = Mul(b, gate)  y = Gemm(m, W2) }",
        {"W0": (4, 6), "c": (6,), "W1": (6, 5), "gate": (5,), "W2": (5, 2)},
        {"W0": s_[:, [1, 4]], "gate": s_[[0, 3]]},
        {"W0": (4, 4), "c": (4,), "W1": (4, 3), "W2": (3, 2), "gate": ()},
        extra=3, no_ops="Mul",
    ),
    Trap(
        "rms_norm_axis_shrinks_exactly",
        "(double[N,T,6] x) => (double[N,T,2] y) { a = MatMul(x, W1)  n = RMSNormalization<epsilon=0.001>(a, g)  y = MatMul(n, W2) }",
        {"W1": (6, 8), "g": (8,), "W2": (8, 2)}, {"W1": s_[:, [1, 2]]}, {"W1": (6, 6), "g": (6,), "W2": (6, 2)}, opset=23,
    ),
    Trap(
        "rms_norm_spelled_out",
        "(double[N,T,6] x) => (double[N,T,2] y) { a = MatMul(x, W1)  q = Pow(a, two)  m = ReduceMean<axes=[-1]>(q)"
        "  e = Add(m, eps)  r = Sqrt(e)  d = Div(a, r)  n = Mul(d, g)  y = MatMul(n, W2) }",
        {"W1": (6, 8), "g": (8,), "W2": (8, 2), "two": 2.0, "eps": 1e-3}, {"W1": s_[:, [1, 2]]},
    ),
    Trap(
        "mean_over_a_pruned_axis_is_rescaled_or_kept",
        "(double[N,T,6] x) => (double[N,T,1] y) { a = MatMul(x, W1)  r = Relu(a)  y = ReduceMean<axes=[-1]>(r) }",
        {"W1": (6, 8)}, {"W1": s_[:, [1, 2]]},
    ),
    Trap(
        "sum_over_a_pruned_axis",
        "(double[N,T,6] x) => (double[N,T] y) { a = MatMul(x, W1)  r = Relu(a)  y = ReduceSum<keepdims=0>(r, ax) }",
        {"W1": (6, 8), "ax": [-1]}, {"W1": s_[:, [1, 2]]}, {"W1": (6, 6)},
    ),
    Trap(
        "max_over_a_zero_channel",
        "(double[N,T,6] x) => (double[N,T,1] y) { a = MatMul(x, W1)  y = ReduceMax<axes=[-1]>(a) }",
        {"W1": (6, 8)}, {"W1": s_[:, [1, 2]]},
    ),
    Trap(
        "softmax_over_channels_is_pinned",
        "(double[N,T,6] x) => (double[N,T,2] y) { a = MatMul(x, W1)  p = Softmax<axis=-1>(a)  y = MatMul(p, W2) }",
        {"W1": (6, 8), "W2": (8, 2)}, {"W1": s_[:, [1, 2]]}, {}, kept=True,
    ),
    *[
        Trap(f"{op.split('<')[0].lower()}_over_channels", "(double[N,6] x) => (double[N,2] y) "
             f"{{ a = MatMul(x, W1)  c = {op}  d = Cast<to=11>(c)  y = MatMul(d, W2) }}",
             {"W1": (6, 8), "W2": (width, 2), "ax": 1, "k": [3], "depth": 8, "values": [0.0, 1]}, {"W1": s_[:, [1, 2]]})
        for op, width in (("ArgMax<axis=1>(a)", 1), ("CumSum(a, ax)", 8), ("Hardmax<axis=-1>(a)", 8))
    ],
    Trap(
        "top_k_over_channels",
        "(double[N,6] x) => (double[N,2] y, int64[N,3] i) { a = MatMul(x, W1)  v, i = TopK<axis=1>(a, k)  y = MatMul(v, W2) }",
        {"W1": (6, 8), "W2": (3, 2), "k": [3]}, {"W1": s_[:, [1, 2]]}, {}, kept=True,
    ),
    Trap(
        "top_k_over_time_leaves_channels_free",
        "(double[N,4,6] x) => (double[N,3,2] y) { a = MatMul(x, W1)  v, i = TopK<axis=1>(a, k)  y = MatMul(v, W2) }",
        {"W1": (6, 8), "W2": (8, 2), "k": [3]}, {"W1": s_[:, [1, 2]]}, {"W1": (6, 6), "W2": (6, 2)},
    ),
    Trap(
        "one_hot_of_an_argmax",
        "(double[N,6] x) => (double[N,2] y) { a = MatMul(x, W1)  i = ArgMax<axis=1, keepdims=0>(a)"
        "  o = OneHot(i, depth, values)  y = MatMul(o, W2) }",
        {"W1": (6, 8), "W2": (8, 2), "depth": 8, "values": [0.0, 1]}, {"W1": s_[:, 1], "W2": s_[2]},
    ),
    Trap(
        "non_zero_counts_channels",
        "(double[2,6] x) => (int64[2,M] i) { a = MatMul(x, W1)  r = Relu(a)  i = NonZero(r) }",
        {"W1": (6, 8)}, {"W1": s_[:, [1, 2]]}, {}, kept=True,
    ),
    Trap(
        "embedding_with_zero_columns",
        "(int64[N,T] ids) => (double[N,T,2] y) { e = Gather(E, ids)  r = Relu(e)  y = MatMul(r, W2) }",
        {"E": (7, 6), "W2": (6, 2)}, {"E": s_[:, [1, 2]]}, {"E": (7, 4), "W2": (4, 2)}, ranges={"ids": (0, 7)},
    ),
    Trap(
        "embedding_rows_are_runtime_indexed",
        "(int64[N,T] ids) => (double[N,T,2] y) { e = Gather(E, ids)  r = Relu(e)  y = MatMul(r, W2) }",
        {"E": (7, 6), "W2": (6, 2)}, {"E": s_[[1, 2]]}, {}, kept=True, ranges={"ids": (0, 7)},
    ),
    Trap(
        "embedding_constant_columns",
        "(int64[N,T] ids) => (double[N,T,2] y) { e = Gather(E, ids)  y = MatMul(e, W2) }",
        {"E": np.concatenate([np.ones((7, 2)), np.random.default_rng(0).normal(size=(7, 4))], 1), "W2": (6, 2)}, {},
        None, ranges={"ids": (0, 7)},
    ),
    Trap(
        "tied_embedding_and_head",
        "(int64[N,T] ids) => (double[N,T,7] y) { e = Gather(E, ids)  h = MatMul(e, W)  r = Relu(h)  v = MatMul(r, V)"
        "  s = Add(e, v)  t = Transpose<perm=[1,0]>(E)  y = MatMul(s, t) }",
        {"E": (7, 6), "W": (6, 4), "V": (4, 6)}, {"E": s_[:, [1, 2]]}, {"E": (7, 4), "W": (4, 4), "V": (4, 4)},
        ranges={"ids": (0, 7)},
    ),
    Trap(
        "tied_table_whose_column_the_stream_still_uses",
        "(int64[N,T] ids) => (double[N,T,7] y, double[N,T,3] z) { e = Gather(E, ids)  v = MatMul(e, V)  s = Add(e, v)"
        "  z = MatMul(s, W)  t = Transpose<perm=[1,0]>(E)  y = MatMul(s, t) }",
        {"E": (7, 6), "V": (6, 6), "W": (6, 3)}, {"E": s_[:, [1, 2]]},
    ),
    Trap(
        "bidirectional_lstm_with_different_dead_units",
        "(double[T,N,5] x) => (double[T,N,2] y) { h, hn, cn = LSTM<hidden_size=4, direction=\"bidirectional\">(x, W, R, B)"
        "  t = Transpose<perm=[0,2,1,3]>(h)  f = Reshape(t, flat)  y = MatMul(f, V) }",
        {"W": (2, 16, 5), "R": (2, 16, 4), "B": (2, 32), "V": (8, 2), "flat": [0, 0, -1]},
        {"W": [s_[0, [1, 5, 9, 13]], s_[1, [2, 6, 10, 14]]], "R": [s_[0, [1, 5, 9, 13]], s_[1, [2, 6, 10, 14]]],
         "B": [s_[0, 1::4], s_[1, 2::4]]},
        {"W": (2, 12, 5), "R": (2, 12, 3), "B": (2, 24), "V": (6, 2)},
    ),
    Trap(
        "bidirectional_lstm_dead_in_one_direction_stays",
        "(double[T,N,5] x) => (double[T,N,2] y) { h, hn, cn = LSTM<hidden_size=4, direction=\"bidirectional\">(x, W, R, B)"
        "  t = Transpose<perm=[0,2,1,3]>(h)  f = Reshape(t, flat)  y = MatMul(f, V) }",
        {"W": (2, 16, 5), "R": (2, 16, 4), "B": (2, 32), "V": (8, 2), "flat": [0, 0, -1]},
        {"W": [s_[0, [1, 5, 9, 13]]], "R": [s_[0, [1, 5, 9, 13]]], "B": [s_[0, 1::4]]},
    ),
    Trap(
        "lstm_unit_unread",
        "(double[T,N,5] x) => (double[N,2] y) { h, hn = LSTM<hidden_size=4>(x, W, R, B)  s = Squeeze(hn, ax)  y = MatMul(s, V) }",
        {"W": (1, 16, 5), "R": (1, 16, 4), "B": (1, 32), "V": (4, 2), "ax": [0]},
        {"R": s_[:, :, 1], "V": s_[1]}, {"W": (1, 12, 5), "R": (1, 12, 3), "B": (1, 24), "V": (3, 2)},
    ),
    Trap(
        "lstm_silent_unit_with_initial_state_is_not_silent",
        "(double[T,N,5] x, double[1,N,4] h0, double[1,N,4] c0) => (double[N,2] y)"
        "{ h, hn = LSTM<hidden_size=4>(x, W, R, B, , h0, c0)  s = Squeeze(hn, ax)  y = MatMul(s, V) }",
        {"W": (1, 16, 5), "R": (1, 16, 4), "B": (1, 32), "V": (4, 2), "ax": [0]},
        {"W": s_[:, 1::4], "R": s_[:, 1::4], "B": s_[:, 1::4]}, {}, kept=True,
    ),
    Trap(
        "lstm_peephole_of_a_dead_unit",
        "(double[T,N,5] x) => (double[N,2] y) { h, hn = LSTM<hidden_size=4>(x, W, R, B, , , , P)  s = Squeeze(hn, ax)"
        "  y = MatMul(s, V) }",
        {"W": (1, 16, 5), "R": (1, 16, 4), "B": (1, 32), "P": (1, 12), "V": (4, 2), "ax": [0]},
        {"W": s_[:, 1::4], "R": s_[:, 1::4], "B": s_[:, 1::4]},
        {"W": (1, 12, 5), "R": (1, 12, 3), "B": (1, 24), "P": (1, 9), "V": (3, 2)},
    ),
    *[
        Trap(
            f"gru_linear_before_reset_{flag}",
            f"(double[T,N,5] x) => (double[N,2] y) {{ h, hn = GRU<hidden_size=4, linear_before_reset={flag}>(x, W, R, B)"
            "  s = Squeeze(hn, ax)  y = MatMul(s, V) }",
            {"W": (1, 12, 5), "R": (1, 12, 4), "B": (1, 24), "V": (4, 2), "ax": [0]},
            {"W": s_[:, 1::4], "R": s_[:, 1::4], "B": s_[:, 1::4]},
            {"W": (1, 9, 5), "R": (1, 9, 3), "B": (1, 18), "V": (3, 2)},
        )
        for flag in (0, 1)
    ],
    Trap(
        "gru_hidden_bias_survives_the_reset_gate",
        "(double[T,N,5] x) => (double[N,2] y) { h, hn = GRU<hidden_size=4, linear_before_reset=1>(x, W, R, B)"
        "  s = Squeeze(hn, ax)  y = MatMul(s, V) }",
        {"W": (1, 12, 5), "R": (1, 12, 4), "B": (1, 24), "V": (4, 2), "ax": [0]},
        {"W": s_[:, 1::4], "R": s_[:, 1::4]}, {}, kept=True,
    ),
    Trap(
        "rnn_with_relu_and_lengths",
        "(double[T,N,5] x, int32[N] l) => (double[N,2] y) { h, hn = RNN<hidden_size=4, activations=[\"Relu\"]>(x, W, R, B, l)"
        "  s = Squeeze(hn, ax)  y = MatMul(s, V) }",
        {"W": (1, 4, 5), "R": (1, 4, 4), "B": (1, 8), "V": (4, 2), "ax": [0]},
        {"W": s_[:, 1], "R": s_[:, 1], "B": s_[:, 1::4]},
        {"W": (1, 3, 5), "R": (1, 3, 3), "B": (1, 6), "V": (3, 2)}, ranges={"l": (1, 4)},
    ),
    Trap(
        "lstm_input_features",
        "(double[T,N,5] x) => (double[N,2] y) { a = MatMul(x, U)  h, hn = LSTM<hidden_size=4>(a, W, R, B)  s = Squeeze(hn, ax)"
        "  y = MatMul(s, V) }",
        {"U": (5, 6), "W": (1, 16, 6), "R": (1, 16, 4), "B": (1, 32), "V": (4, 2), "ax": [0]},
        {"U": s_[:, 1], "W": s_[:, :, 4]}, {"U": (5, 4), "W": (1, 16, 4)},
    ),
    Trap(
        "rotary_halves",
        "(double[N,T,6] x) => (double[N,T,2] y) { a = MatMul(x, W1)  l, r = Split<axis=-1>(a, sizes)  n = Neg(r)"
        "  h = Concat<axis=-1>(n, l)  c = Mul(a, cos)  s = Mul(h, sin)  t = Add(c, s)  y = MatMul(t, W2) }",
        {"W1": (6, 8), "W2": (8, 2), "cos": (8,), "sin": (8,), "sizes": [4, 4]}, {"W1": s_[:, [1, 5]]},
        {"W1": (6, 6), "W2": (6, 2), "cos": (6,), "sin": (6,)},
    ),
    Trap(
        "swiglu_fused",
        "(double[N,T,6] x) => (double[N,T,2] y) { a = MatMul(x, W1)  l, r = Split<axis=-1>(a, sizes)  g = Sigmoid(l)"
        "  s = Mul(l, g)  m = Mul(s, r)  y = MatMul(m, W2) }",
        {"W1": (6, 8), "W2": (4, 2), "sizes": [4, 4]}, {"W1": s_[:, [1, 6]]}, {"W1": (6, 4), "W2": (2, 2)},
    ),
]  # fmt: skip


@pytest.mark.parametrize("trap", TRAPS, ids=str)
def test_trap(trap: Trap) -> None:
    trap.check()
