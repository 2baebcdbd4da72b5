"""Attention as one operator: heads, dimensions of heads, groups, caches, masks, rotations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest

from tests.rules.runtime_case import check

rng = np.random.default_rng(3)
START = rng.bit_generator.state


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    """Every test draws the same numbers, whichever others run."""
    rng.bit_generator.state = START


def w(*shape: int) -> Any:
    return rng.normal(size=shape).astype("f") / math.sqrt(shape[0])


def slots(heads: Any, dims: Any, size: int) -> Any:
    """Hidden slots of these heads and dimensions."""
    return [h * size + d for h in heads for d in dims]


def zero(array: Any, index: Any) -> Any:
    """The array with these slots of the last axis zero."""
    array = array.copy()
    array[..., index] = 0
    return array


def attrs(model: onnx.ModelProto, kind: str) -> dict[str, Any]:
    node = next(n for n in model.graph.node if n.op_type == kind)
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


H, D, E = 4, 4, 6  # heads, dimensions of q and k, dimensions of v
PROJECT = "q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)"
MHA = PROJECT + "  a = com.microsoft.MultiHeadAttention<num_heads=4>(q, k, v{bias})  y = MatMul(a, wo)"
NET = "(float[N,S,8] x) => (float[N,S,8] y) { %s }"


def weights(heads: int = H, groups: int = H, depth: int = D, width: int = E) -> dict[str, Any]:
    return dict(wq=w(8, heads * depth), wk=w(8, groups * depth), wv=w(8, groups * width), wo=w(heads * width, 8))


@pytest.mark.parametrize("by", ["reader", "values"])
def test_heads_that_are_not_read_or_zero_leave(by: str) -> None:
    p = weights()
    if by == "reader":
        p["wo"] = zero(p["wo"].T, slots([1, 2], range(E), E)).T
    else:
        p["wv"] = zero(p["wv"], slots([1, 2], range(E), E))
    small = check(NET % MHA.format(bias=""), p, dict(wq=(8, 8), wk=(8, 8), wv=(8, 12), wo=(12, 8)), tolerance=1e-5)
    assert attrs(small, "MultiHeadAttention") == {"num_heads": 2}


@pytest.mark.parametrize("side", ["wq", "wk"])
def test_dimensions_of_queries_leave_and_the_scale_stays(side: str) -> None:
    p = weights()
    p[side] = zero(p[side], slots(range(H), [1, 3], D))
    small = check(NET % MHA.format(bias=""), p, dict(wq=(8, 8), wk=(8, 8)), tolerance=1e-5)
    assert attrs(small, "MultiHeadAttention")["scale"] == 0.5


def test_a_dimension_that_one_head_needs_stays_in_all() -> None:
    p = weights()
    p["wq"] = zero(p["wq"], slots(range(H - 1), [1], D))
    check(NET % MHA.format(bias=""), p, {}, tolerance=1e-5)


def test_a_dimension_that_only_dead_heads_need_leaves() -> None:
    p = weights()
    p["wq"] = zero(p["wq"], slots(range(H - 1), [1], D))
    p["wo"] = zero(p["wo"].T, slots([H - 1], range(E), E)).T
    check(NET % MHA.format(bias=""), p, dict(wq=(8, 9), wk=(8, 9), wv=(8, 18), wo=(18, 8)), tolerance=1e-5)


def test_dimensions_of_values_leave() -> None:
    p = weights()
    p["wo"] = zero(p["wo"].T, slots(range(H), [0, 5], E)).T
    check(NET % MHA.format(bias=""), p, dict(wv=(8, 16), wo=(16, 8)), tolerance=1e-5)


def test_everything_zero_leaves_one_slot() -> None:
    """Queries that are zero attend to everything alike: one dimension stays."""
    p = weights()
    p["wq"] = p["wq"] * 0
    check(NET % MHA.format(bias=""), p, dict(wq=(8, 4), wk=(8, 4)), tolerance=1e-5)


def test_bias_is_packed_and_counts() -> None:
    """Head 1 is zero in its values, but its bias is not: it stays. Head 2 leaves, with its part of the bias."""
    p = weights(width=D)
    p["wv"] = zero(p["wv"], slots([1, 2], range(D), D))
    p["b"] = zero(w(3 * H * D), [2 * H * D + i for i in slots([2], range(D), D)])
    check(
        NET % MHA.format(bias=", b"), p, dict(wq=(8, 12), wk=(8, 12), wv=(8, 12), wo=(12, 8), b=(36,)), tolerance=1e-5
    )


def test_masks_of_heads_are_narrowed() -> None:
    p = weights()
    p["wo"] = zero(p["wo"].T, slots([0, 3], range(E), E)).T
    p["mask"] = w(1, H, 5, 5)
    body = MHA.format(bias=", , , mask")
    check(NET % body, p, dict(wq=(8, 8), wk=(8, 8), wv=(8, 12), wo=(12, 8), mask=(1, 2, 5, 5)), tolerance=1e-5)
    p["mask"] = w(1, 1, 5, 5)
    check(NET % body, p, dict(wq=(8, 8), wk=(8, 8), wv=(8, 12), wo=(12, 8)), tolerance=1e-5)


def test_keys_and_values_of_four_axes() -> None:
    """Cross attention over keys and values that were split into heads before; padding is masked. Dimensions are tied."""
    p = weights(width=D)
    p["wk"] = zero(p["wk"], slots(range(H), [0, 3], D))
    p["wo"] = zero(p["wo"].T, slots([1, 2], range(D), D) + slots(range(H), [3], D)).T
    p |= dict(s=np.array([0, 0, H, D]), pad=np.array([[1, 1, 1, 0, 0]] * 3, np.int32))
    check(
        """(float[3,S,8] x, float[3,S,8] z) => (float[3,S,8] y) { q = MatMul(x, wq)  k = MatMul(z, wk)  v = MatMul(z, wv)
        k4 = Reshape(k, s)  v4 = Reshape(v, s)  kt = Transpose<perm=[0,2,1,3]>(k4)  vt = Transpose<perm=[0,2,1,3]>(v4)
        a = com.microsoft.MultiHeadAttention<num_heads=4>(q, kt, vt, , pad)  y = MatMul(a, wo) }""",
        p, dict(wq=(8, 6), wk=(8, 6), wv=(8, 6), wo=(6, 8)), tolerance=1e-5,
    )  # fmt: skip


def test_caches_keep_their_heads() -> None:
    """Present keys and values are outputs: nothing of theirs may leave; the values are zero all the same."""
    p = weights(width=D)
    p["wv"] = zero(p["wv"], slots([1], range(D), D))
    p["wo"] = zero(p["wo"].T, slots([2], range(D), D)).T
    check(
        """(float[N,S,8] x, float[N,4,P,4] pk, float[N,4,P,4] pv) => (float[N,S,8] y, float[N,4,K,4] nk, float[N,4,K,4] nv) {
        q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)
        a, nk, nv = com.microsoft.MultiHeadAttention<num_heads=4>(q, k, v, , , , pk, pv)  y = MatMul(a, wo) }""",
        p, {}, tolerance=1e-5,
    )  # fmt: skip


# -- packed weights --------------------------------------------------------------------------------------------------------
PACKED = "a = com.microsoft.Attention<num_heads=4{extra}>(x, w, b)  y = MatMul(a, wo)"


@pytest.mark.parametrize("by", ["reader", "values"])
def test_packed_heads(by: str) -> None:
    p = dict(w=w(8, 48), b=w(48), wo=w(16, 8))
    dead = slots([1, 2], range(4), 4)
    if by == "reader":
        p["wo"] = zero(p["wo"].T, dead).T
    else:
        for name in ("w", "b"):
            p[name] = zero(p[name], [32 + i for i in dead])
    small = check(NET % PACKED.format(extra=""), p, dict(w=(8, 24), b=(24,), wo=(8, 8)), tolerance=1e-5)
    assert attrs(small, "Attention") == {"num_heads": 2}


def test_packed_dimensions_get_sizes_and_scale() -> None:
    p = dict(w=w(8, 48), b=w(48), wo=w(16, 8))
    for name in ("w", "b"):
        p[name] = zero(p[name], slots(range(4), [0], 4))
    p["wo"] = zero(p["wo"].T, slots([3], range(4), 4)).T
    small = check(NET % PACKED.format(extra=""), p, dict(w=(8, 30), b=(30,), wo=(12, 8)), tolerance=1e-5)
    assert attrs(small, "Attention") == {"num_heads": 3, "scale": 0.5, "qkv_hidden_sizes": [9, 9, 12]}


def test_packed_unequal_sizes() -> None:
    p = dict(w=w(8, 8 + 8 + 24), b=w(40), wo=w(24, 8))
    p["wo"] = zero(p["wo"].T, slots([1], range(6), 6) + slots(range(4), [5], 6)).T
    extra = ", qkv_hidden_sizes=[8, 8, 24]"
    small = check(NET % PACKED.format(extra=extra), p, dict(w=(8, 6 + 6 + 15), b=(27,), wo=(15, 8)), tolerance=1e-5)
    assert attrs(small, "Attention")["qkv_hidden_sizes"] == [6, 6, 15]


def test_packed_input_is_contracted() -> None:
    """A zero and a constant on the input side: the constant goes into the bias."""
    u, c = zero(w(5, 8), [1, 4, 6]), np.zeros(8, "f")
    c[4] = 3
    check(
        "(float[N,S,5] x) => (float[N,S,8] y) { h = MatMul(x, u)  i = Add(h, c)  a = com.microsoft.Attention<num_heads=4>(i, w, b)  y = MatMul(a, wo) }",
        dict(u=u, c=c, w=w(8, 48), b=w(48), wo=w(16, 8)), dict(u=(5, 5), c=(), w=(5, 48)), tolerance=1e-5,
    )  # fmt: skip


def test_packed_cache_keeps_its_heads() -> None:
    p = dict(w=w(8, 48), b=w(48), wo=zero(w(16, 8).T, slots([1, 2], range(4), 4)).T)
    check(
        """(float[N,S,8] x, float[2,N,4,P,4] past) => (float[N,S,8] y, float[2,N,4,K,4] now) {
        a, now = com.microsoft.Attention<num_heads=4, unidirectional=1>(x, w, b, , past)  y = MatMul(a, wo) }""",
        p, {}, tolerance=1e-5,
    )  # fmt: skip


# -- grouped queries -------------------------------------------------------------------------------------------------------
GQA = """(float[N,S,8] x, int32[N] last, int32 total) => (float[N,S,8] y) {
    q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)
    a, nk, nv = com.microsoft.GroupQueryAttention<num_heads=6, kv_num_heads=3, do_rotary=1>(q, k, v, , , last, total, cos, sin)
    y = MatMul(a, wo) }"""


def tables(size: int) -> dict[str, Any]:
    angle = np.outer(np.arange(16), 10.0 ** -np.arange(size // 2)).astype("f")
    return dict(cos=np.cos(angle), sin=np.sin(angle))


def gqa_feeds() -> dict[str, Any]:
    return dict(x=w(3, 5, 8), last=np.full(3, 4, np.int32), total=np.array(5, np.int32))


@pytest.mark.parametrize(
    "dead, heads, groups", [([0, 1], 4, 2), ([0, 2, 5], 3, 3), ([0, 1, 2], 4, 2), ([0], 6, 3), ([1, 2, 3, 4, 5], 1, 1)]
)
def test_grouped_queries_stay_balanced(dead: list[int], heads: int, groups: int) -> None:
    p = weights(6, 3, 16, 16)
    p["wo"] = zero(p["wo"].T, slots(dead, range(16), 16)).T
    narrow = dict(wq=(8, 16 * heads), wk=(8, 16 * groups), wv=(8, 16 * groups), wo=(16 * heads, 8))
    small = check(GQA, p | tables(16), narrow, tolerance=1e-5, feeds=gqa_feeds())
    found = attrs(small, "GroupQueryAttention")
    assert (found["num_heads"], found["kv_num_heads"]) == (heads, groups)


def test_grouped_queries_of_zero_values() -> None:
    p = weights(6, 3, 16, 16)
    p["wv"] = zero(p["wv"], slots([1], range(16), 16))
    check(GQA, p | tables(16), dict(wq=(8, 64), wk=(8, 32), wv=(8, 32), wo=(64, 8)), tolerance=1e-5, feeds=gqa_feeds())


def test_grouped_queries_packed() -> None:
    p = dict(w=w(8, 16 * 12), wo=zero(w(96, 8).T, slots([2, 3], range(16), 16)).T)
    text = """(float[N,S,8] x, int32[N] last, int32 total) => (float[N,S,8] y) { h = MatMul(x, w)
        a, nk, nv = com.microsoft.GroupQueryAttention<num_heads=6, kv_num_heads=3>(h, , , , , last, total)  y = MatMul(a, wo) }"""
    check(text, p, dict(w=(8, 16 * 8), wo=(64, 8)), tolerance=1e-5, feeds=gqa_feeds())


def test_grouped_queries_behind_four_bit_weights() -> None:
    """One packed projection of 4-bit weights, as language models are shipped: its outputs leave with the heads."""
    n, blocks = 16 * 12, 2
    p = dict(
        w=rng.integers(0, 255, (n, blocks, 8)).astype(np.uint8), sc=rng.uniform(0.05, 0.1, n * blocks).astype("f"),
        zp=rng.integers(0, 255, (n, 1)).astype(np.uint8), wo=zero(w(96, 8).T, slots([2, 3, 4], range(16), 16)).T,
    )  # fmt: skip
    text = """(float[N,S,32] x, int32[N] last, int32 total) => (float[N,S,8] y) {
        h = com.microsoft.MatMulNBits<K=32, N=192, bits=4, block_size=16, accuracy_level=1>(x, w, sc, zp)
        a, nk, nv = com.microsoft.GroupQueryAttention<num_heads=6, kv_num_heads=3, do_rotary=1>(h, , , , , last, total, cos, sin)
        y = MatMul(a, wo) }"""
    feeds = gqa_feeds() | dict(x=w(3, 5, 32))
    left = 16 * 8
    narrow = dict(w=(left, 2, 8), sc=(2 * left,), zp=(left, 1), wo=(64, 8))
    small = check(text, p | tables(16), narrow, tolerance=1e-5, feeds=feeds)
    assert attrs(small, "MatMulNBits")["N"] == left


def test_grouped_queries_with_caches_as_outputs_keep_their_groups() -> None:
    p = weights(6, 3, 16, 16)
    p["wo"] = zero(p["wo"].T, slots([0, 2, 4], range(16), 16)).T
    text = GQA.replace("(float[N,S,8] y)", "(float[N,S,8] y, float[N,3,K,16] nk, float[N,3,K,16] nv)")
    check(text, p | tables(16), dict(wq=(8, 48), wo=(48, 8)), tolerance=1e-5, feeds=gqa_feeds())


@pytest.mark.parametrize("extra", ["bias", "sink"])
def test_grouped_queries_with_numbers_per_head(extra: str) -> None:
    """An additive mask per head, or a sink per head, loses the heads that leave."""
    p = weights(6, 3, 16, 16)
    p["wo"] = zero(p["wo"].T, slots([0, 1, 4], range(16), 16)).T
    p[extra] = w(1, 6, 5, 5) if extra == "bias" else w(6)
    text = """(float[N,S,8] x, int32[N] last, int32 total) => (float[N,S,8] y) {
        q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)
        a, nk, nv = com.microsoft.GroupQueryAttention<num_heads=6, kv_num_heads=3>(q, k, v, , , last, total, , , EXTRA)
        y = MatMul(a, wo) }""".replace("EXTRA", ", bias" if extra == "bias" else ", , sink")
    narrow = dict(wq=(8, 64), wk=(8, 32), wv=(8, 32), wo=(64, 8))
    check(
        text,
        p,
        narrow | ({"bias": (1, 4, 5, 5)} if extra == "bias" else {"sink": (4,)}),
        tolerance=1e-5,
        feeds=gqa_feeds(),
    )


# -- the standard operator -------------------------------------------------------------------------------------------------
STANDARD = PROJECT + "  a = Attention<q_num_heads={h}, kv_num_heads={g}{extra}>(q, k, v)  y = MatMul(a, wo)"


@pytest.mark.parametrize("opset", [23, 24])
@pytest.mark.parametrize("extra", ["", ", is_causal=1", ", softcap=2.0", ", scale=0.3"])
def test_standard_attention(opset: int, extra: str) -> None:
    p = weights(6, 3)
    p["wo"] = zero(p["wo"].T, slots([0, 1, 3, 4], range(E), E) + slots(range(6), [2], E)).T
    p["wq"] = zero(p["wq"], slots(range(6), [0], D))
    small = check(
        NET % STANDARD.format(h=6, g=3, extra=extra), p,
        dict(wq=(8, 6), wk=(8, 6), wv=(8, 10), wo=(10, 8)), opset=opset, tolerance=1e-5,
    )  # fmt: skip
    found = attrs(small, "Attention")
    assert (found["q_num_heads"], found["kv_num_heads"]) == (2, 2)
    assert found["scale"] == pytest.approx(0.3 if "scale" in extra else 0.5)


@pytest.mark.parametrize("groups", [2, 4])
def test_standard_attention_of_four_axes(groups: int) -> None:
    p = weights(4, groups)
    p["wo"] = zero(p["wo"].T, slots([0, 1], range(E), E) + slots(range(4), [2], E)).T
    p["wk"] = zero(p["wk"], slots(range(groups), [3], D))
    p |= dict(
        sq=np.array([0, -1, 4, D]),
        sk=np.array([0, -1, groups, D]),
        sv=np.array([0, -1, groups, E]),
        so=np.array([0, -1, 4 * E]),
    )
    p["mask"] = w(4, 5, 5)
    left = groups // 2
    check(
        NET % (PROJECT + """ q4 = Reshape(q, sq)  k4 = Reshape(k, sk)  v4 = Reshape(v, sv)
        qt = Transpose<perm=[0,2,1,3]>(q4)  kt = Transpose<perm=[0,2,1,3]>(k4)  vt = Transpose<perm=[0,2,1,3]>(v4)
        a = Attention(qt, kt, vt, mask)  t = Transpose<perm=[0,2,1,3]>(a)  r = Reshape(t, so)  y = MatMul(r, wo)"""), p,
        dict(wq=(8, 6), wk=(8, 3 * left), wv=(8, 5 * left), wo=(10, 8), mask=(2, 5, 5)), opset=23, tolerance=1e-5,
    )  # fmt: skip


def test_standard_caches() -> None:
    """Grouped heads of a cache stay, each with fewer queries."""
    p = weights(4, 2)
    p["wo"] = zero(p["wo"].T, slots([0, 3], range(E), E)).T
    check(
        """(float[N,S,8] x, float[N,2,P,4] pk, float[N,2,P,6] pv) => (float[N,S,8] y, float[N,2,K,4] nk, float[N,2,K,6] nv) {
        q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)
        a, nk, nv = Attention<q_num_heads=4, kv_num_heads=2>(q, k, v, , pk, pv)  y = MatMul(a, wo) }""",
        p, dict(wq=(8, 8), wo=(12, 8)), opset=23, tolerance=1e-5,
    )  # fmt: skip


def test_scores_as_an_output_keep_every_head() -> None:
    p = weights(4, 2)
    p["wo"] = zero(p["wo"].T, slots([0, 1], range(E), E)).T
    check(
        """(float[N,S,8] x) => (float[N,S,8] y, float[N,4,S,S] scores) { q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)
        a, , , scores = Attention<q_num_heads=4, kv_num_heads=2>(q, k, v)  y = MatMul(a, wo) }""",
        p, {}, opset=23, tolerance=1e-5,
    )  # fmt: skip


# -- rotations -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("domain", ["", "com.microsoft."])
def test_rotated_dimensions_leave_in_pairs(interleaved: int, domain: str) -> None:
    """Dimensions 0 and 4 of 8 are zero; one pair leaves where they are a pair, none where they are not."""
    p = weights(4, 4, 8, 6) | tables(8)
    p["wq"] = zero(p["wq"], slots(range(4), [0, 4], 8))
    p["wo"] = zero(p["wo"].T, slots([1], range(6), 6)).T
    p["pos"] = np.tile(np.arange(5), (3, 1))
    rotate = (
        f"RotaryEmbedding<num_heads=4, interleaved={interleaved}>({{0}}, cos, sin, pos)" if not domain
        else f"com.microsoft.RotaryEmbedding<num_heads=4, interleaved={interleaved}>({{0}}, pos, cos, sin)"
    )  # fmt: skip
    text = (
        PROJECT
        + f" qr = {rotate.format('q')}  kr = {rotate.format('k')}  a = Attention<q_num_heads=4, kv_num_heads=4>(qr, kr, v)  y = MatMul(a, wo)"
    )
    size = 8 if interleaved else 6
    check(
        NET % text, p,
        dict(wq=(8, 3 * size), wk=(8, 3 * size), wv=(8, 18), wo=(18, 8), cos=(16, size // 2), sin=(16, size // 2)),
        opset=23, tolerance=1e-5,
    )  # fmt: skip
