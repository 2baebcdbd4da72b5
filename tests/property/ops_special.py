"""Productions with another element type or a body: quantised operators, If, Loop, Scan, model-local functions."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from .builder import BOOL, DOUBLE, FLOAT, INT64, Builder, Layer, Slots, Value, along, value_info
from .ops_any import unary
from .ops_sequence import linear
from .ops_spatial import conv, is_map

UINT8, INT8, INT32 = TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32


def to(b: Builder, x: Value, dtype: int) -> Value:
    return b.node("Cast", x, shape=x.shape, dtype=dtype, to=dtype)


def quantise(b: Builder, x: Value, zero: int) -> tuple[Value, Value, Value]:
    """uint8 version of x with its scale and zero point."""
    scale, zp = b.const(np.array(0.05, np.float32), "scale"), b.const(np.array(zero, np.uint8), "zp")
    return b.node("QuantizeLinear", to(b, x, FLOAT), scale, zp, shape=x.shape, dtype=UINT8), scale, zp


def qdq_activation(b: Builder, x: Value) -> Value | None:
    """Fake quantisation of an activation."""
    if b.opset < 10:
        return None
    q, scale, zp = quantise(b, x, b.choose.pick([128, 0, 90]))
    return to(b, b.node("DequantizeLinear", q, scale, zp, shape=x.shape, dtype=FLOAT), DOUBLE)


def int8_weight(b: Builder, shape: list[int], axis: int) -> Value:
    w = b.const(b.rng.integers(-60, 60, shape).astype(np.int8), "q")
    b.layers.append(Layer(shape[axis], outs=(Slots(w.name, along(axis)),)))
    other = 1 - axis
    b.layers.append(Layer(shape[other], ins=(Slots(w.name, along(other)),)))
    return w


def qdq_weight(b: Builder, x: Value) -> Value | None:
    """Convolution or MatMul whose weights come from DequantizeLinear, per tensor or per channel."""
    spatial = is_map(x)
    if b.opset < 10 or not (spatial or x.static(x.rank - 1)) or x.rank < 2:
        return None
    co, axis = 6, 0 if spatial else 1
    shape = [co, int(x.shape[1]), *[1] * (x.rank - 2)] if spatial else [int(x.shape[-1]), co]
    w = int8_weight(b, shape, axis)
    if b.opset >= 13 and b.choose.chance(60):
        scale = b.const((b.rng.random(co) * 0.02 + 0.005).astype(np.float32), "scale")
        zero = b.const(np.zeros(co, np.int8), "zp") if b.choose.chance(60) else None
        d = b.node("DequantizeLinear", w, scale, zero, shape=shape, dtype=FLOAT, axis=axis)
    else:
        d = b.node("DequantizeLinear", w, b.const(np.array(0.01, np.float32), "scale"), shape=shape, dtype=FLOAT)
    wide = to(b, d, DOUBLE)
    if spatial:
        bias = b.weight([co], 1.0) if b.choose.chance(50) else None
        return b.node("Conv", x, wide, bias, shape=[x.shape[0], co, *x.shape[2:]])
    return b.node("MatMul", x, wide, shape=[*x.shape[:-1], co])


def qlinear(b: Builder, x: Value) -> Value | None:
    """QLinearConv or QLinearMatMul with zero points that are not zero."""
    spatial = is_map(x) and x.rank == 4
    if b.opset < 10 or not (spatial or (x.rank == 2 and x.static(1))):
        return None
    q, scale, zp = quantise(b, x, b.choose.pick([0, 100]))
    co, axis = 4, 0 if spatial else 1
    shape = [co, int(x.shape[1]), 3, 3] if spatial else [int(x.shape[1]), co]
    w = int8_weight(b, shape, axis)
    w_scale, w_zp = b.const(np.array(0.02, np.float32), "scale"), b.const(np.array(0, np.int8), "zp")
    y_scale, y_zp = b.const(np.array(0.1, np.float32), "scale"), b.const(np.array(120, np.uint8), "zp")
    if spatial:
        bias = b.const(b.rng.integers(-200, 200, [co]).astype(np.int32), "q") if b.choose.chance(50) else None
        out = [x.shape[0], co, *x.shape[2:]]
        y = b.node(
            "QLinearConv",
            q,
            scale,
            zp,
            w,
            w_scale,
            w_zp,
            y_scale,
            y_zp,
            bias,
            shape=out,
            dtype=UINT8,
            pads=[1, 1, 1, 1],
        )
    else:
        out = [x.shape[0], co]
        y = b.node("QLinearMatMul", q, scale, zp, w, w_scale, w_zp, y_scale, y_zp, shape=out, dtype=UINT8)
    return to(b, b.node("DequantizeLinear", y, y_scale, y_zp, shape=out, dtype=FLOAT), DOUBLE)


def dynamic_quantisation(b: Builder, x: Value) -> Value | None:
    """DynamicQuantizeLinear, then MatMulInteger or ConvInteger, then the scales."""
    spatial = is_map(x) and x.rank == 4
    if b.opset < 11 or not (spatial or (x.rank in (2, 3) and x.static(x.rank - 1))):
        return None
    f = to(b, x, FLOAT)
    q, scale, zp = Value(b.name("q"), x.shape, UINT8), Value(b.name("s"), (), FLOAT), Value(b.name("z"), (), UINT8)
    b.raw("DynamicQuantizeLinear", [f], [q.name, scale.name, zp.name])
    co = 5
    w_zp = b.const(np.array(0, np.int8), "zp")
    if spatial:
        w = int8_weight(b, [co, int(x.shape[1]), 1, 1], 0)
        y = b.node("ConvInteger", q, w, zp, w_zp, shape=[x.shape[0], co, *x.shape[2:]], dtype=INT32)
    else:
        w = int8_weight(b, [int(x.shape[-1]), co], 1)
        y = b.node("MatMulInteger", q, w, zp, w_zp, shape=[*x.shape[:-1], co], dtype=INT32)
    factor = b.node("Mul", scale, b.const(np.array(0.02, np.float32)), shape=[])
    return to(b, b.node("Mul", to(b, y, FLOAT), factor, shape=y.shape), DOUBLE)


def body_layer(b: Builder, x: Value, out: int | None = None) -> Value:
    """A layer that keeps the width, for bodies."""
    if is_map(x) and not x.static(0):
        return b.same(b.choose.pick(["Relu", "Tanh"]), conv(b, x, int(x.shape[1]), keep_size=True))
    return b.same(b.choose.pick(["Relu", "Tanh"]), linear(b, x, out or int(x.shape[-1])))


def condition(b: Builder, x: Value) -> Value:
    style = b.choose.pick(["input", "computed"])
    if style == "input":
        return b.input([], BOOL)
    total = b.node("ReduceMax", x, shape=[], keepdims=0)
    return b.node("Greater", total, b.const(np.array(0.5)), shape=[], dtype=BOOL)


def layered(x: Value) -> bool:
    return (is_map(x) and not x.static(0)) or (2 <= x.rank <= 3 and x.static(x.rank - 1))


def if_(b: Builder, x: Value) -> Value | None:
    """If whose branches read x and outer weights."""
    if not layered(x):
        return None
    cond = condition(b, x)
    with b.body() as then_nodes:
        then = body_layer(b, x)
    with b.body() as else_nodes:
        other = unary(b, x) if b.choose.chance(50) else b.same("Add", x, b.scalar(0.5))
    shape = x.shape
    then_graph = helper.make_graph(list(then_nodes), "then", [], [value_info(Value(then.name, shape))])
    else_graph = helper.make_graph(list(else_nodes), "else", [], [value_info(Value(other.name, shape))])
    return b.node("If", cond, shape=shape, dtype=x.dtype, then_branch=then_graph, else_branch=else_graph)


def loop(b: Builder, x: Value) -> Value | None:
    """Loop with a carried activation, an unused carried one, and sometimes a scan output."""
    if not layered(x) or x.rank < 2:
        return None
    trips = b.const(np.array(2, np.int64), "i")
    go = b.const(np.array(True), "m") if b.choose.chance(70) else None
    step, keep = Value(b.name("i"), (), INT64), Value(b.name("k"), (), BOOL)
    state = Value(b.name("st"), x.shape)
    with b.body() as nodes:
        keep_out = b.same("Identity", keep)
        y = body_layer(b, state)
        if b.choose.chance(40):
            y = b.same("Add", y, x)  # captured
        stacked = b.same("Neg", y) if b.choose.chance(30) else None
        state_out = y
    outs = [keep_out, state_out] + ([stacked] if stacked else [])
    graph = helper.make_graph(
        list(nodes),
        "body",
        [value_info(v) for v in (step, keep, state)],
        [value_info(Value(v.name, v.shape, v.dtype)) for v in outs],
    )
    result = Value(b.name("l"), x.shape)
    names = [result.name]
    if stacked:
        scan = Value(b.name("l"), (2, *x.shape))
        names.append(scan.name)
    b.raw("Loop", [trips, go, x], names, body=graph)
    if stacked:
        b.push(
            b.node(
                "ReduceSum",
                scan,
                b.ints(0) if b.opset >= 13 else None,
                shape=x.shape,
                keepdims=0,
                axes=None if b.opset >= 13 else [0],
            )
        )
    return result


def scan(b: Builder, x: Value) -> Value | None:
    """Scan over time of (N, T, C) with a hidden state, a recurrent cell written by hand."""
    if x.rank != 3 or not x.static(2) or b.opset < 9:
        return None
    n, t, c = x.shape
    hidden = 5
    first = b.node("Transpose", x, shape=[t, n, c], perm=[1, 0, 2])
    zero_source = linear(b, Value(pool_first(b, x).name, (n, c)), hidden)
    state, step = Value(b.name("st"), (n, hidden)), Value(b.name("e"), (n, c))
    with b.body() as nodes:
        y = b.same("Tanh", b.same("Add", linear(b, step, hidden), linear(b, state, hidden)))
        out = b.same("Identity", y)
    graph = helper.make_graph(
        list(nodes), "step", [value_info(state), value_info(step)], [value_info(y), value_info(out)]
    )
    last, all_ = Value(b.name("l"), (n, hidden)), Value(b.name("l"), (t, n, hidden))
    b.raw("Scan", [zero_source, first], [last.name, all_.name], body=graph, num_scan_inputs=1)
    b.push(last)
    return b.node("Transpose", all_, shape=[n, t, hidden], perm=[1, 0, 2])


def pool_first(b: Builder, x: Value) -> Value:
    n, _, c = x.shape
    return b.node("Gather", x, b.const(np.array(0, np.int64), "i"), shape=[n, c], axis=1)


def function_call(b: Builder, x: Value) -> Value | None:
    """A model-local function around MatMul, with an optional input left out, called up to twice."""
    if not 2 <= x.rank <= 3 or not x.static(x.rank - 1):
        return None
    if not b.functions:
        opset = helper.make_opsetid("", b.opset)
        body = [
            helper.make_node("MatMul", ["x", "w"], ["m"]),
            helper.make_node("Relu", ["m"], ["r"]),
            helper.make_node("MatMul", ["r", "v"], ["y"]),
        ]
        b.functions.append(helper.make_function("local", "Mlp", ["x", "w", "v"], ["y"], body, [opset]))
    c, hidden = int(x.shape[-1]), 6
    w, v = b.weight([c, hidden]), b.weight([hidden, c])
    b.layers += [
        Layer(hidden, outs=(Slots(w.name, along(1)),)),
        Layer(hidden, ins=(Slots(v.name, along(0)),)),
        Layer(c, outs=(Slots(v.name, along(1)),)),
    ]
    return b.node("Mlp", x, w, v, shape=x.shape, domain="local")


SPECIAL_OPS = (qdq_activation, qdq_weight, qlinear, dynamic_quantisation, if_, loop, scan, function_call)
