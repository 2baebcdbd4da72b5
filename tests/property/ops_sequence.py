"""Productions on (N, C) and (N, T, C): linear layers, attention in its exported forms, recurrent cells, embeddings."""

from __future__ import annotations

import numpy as np

from .builder import Array, Builder, Layer, Slots, Value, along, times
from .ops_spatial import computed_shape, reduce_over, slice_, split, squeeze, unsqueeze


def is_vector(x: Value) -> bool:
    """(N, C)."""
    return x.rank == 2 and x.static(1) and int(x.shape[1]) >= 1


def is_sequence(x: Value) -> bool:
    """(N, T, C) with known C, T known or not."""
    return x.rank == 3 and x.static(2)


def width(x: Value) -> int:
    return int(x.shape[-1])


def linear(b: Builder, x: Value, out: int | None = None, tied: Value | None = None) -> Value:
    """x W + b in one of its spellings: MatMul and Add, Gemm, Einsum, a weight on the left."""
    out = out or b.choose.pick((6, 4, 8))
    c = width(x)
    styles = ["matmul", "einsum"] + (["gemm", "gemm", "left", "gemm_a"] if x.rank == 2 else [])
    style = b.choose.pick(styles)
    bias = b.weight([out], 1.0) if b.choose.chance(60) else None
    shape = [*x.shape[:-1], out]
    transposed = style in ("gemm", "gemm_a") and b.choose.chance(60)
    if style == "left":
        transposed = True
    if style == "einsum" and b.opset < 12:
        style = "matmul"
    w = tied or b.weight([out, c] if transposed else [c, out], c**-0.5)
    axis = 0 if transposed else 1
    biases = (Slots(bias.name, along(0)),) if bias else ()
    b.layers += [
        Layer(out, outs=(Slots(w.name, along(axis)),), biases=biases),
        Layer(c, ins=(Slots(w.name, along(1 - axis)),)),
    ]
    if style == "gemm":
        c_input = bias or (b.weight([out], 1.0) if b.opset < 11 else None)
        if bias and b.choose.chance(25):
            c_input = b.const(b.rng.normal(size=b.choose.pick([[1, out], [1], []])))
        alpha = 0.5 if b.choose.chance(25) else None
        beta = b.choose.pick([0.0, 2.0]) if b.choose.chance(25) else None
        return b.node("Gemm", x, w, c_input, shape=shape, transB=int(transposed) or None, alpha=alpha, beta=beta)
    if style == "gemm_a":
        xt = b.node("Transpose", x, shape=x.shape[::-1], perm=[1, 0])
        bias = bias or (b.weight([out], 1.0) if b.opset < 11 else None)
        return b.node("Gemm", xt, w, bias, shape=shape, transA=1, transB=int(transposed))
    if style == "left":
        xt = b.node("Transpose", x, shape=x.shape[::-1], perm=[1, 0])
        y = b.node("MatMul", w, xt, shape=[out, x.shape[0]])
        if bias and b.choose.chance(50):
            y = b.node("Add", y, unsqueeze(b, bias, [1]), shape=y.shape)
            bias = None
        y = b.node("Transpose", y, shape=shape, perm=[1, 0])
    elif style == "einsum":
        if x.rank > 3:
            return b.node("Einsum", x, w, shape=shape, equation="...c,cd->...d")
        equation = {2: "nc,cd->nd", 3: "ntc,cd->ntd"}[x.rank]
        if b.choose.chance(30):
            equation = "...c,cd->...d"
        y = b.node("Einsum", x, w, shape=shape, equation=equation)
    else:
        y = b.node("MatMul", x, w, shape=shape)
    if bias is None:
        return y
    return b.node("Add", *((y, bias) if b.choose.chance(70) else (bias, y)), shape=shape)


def norm(b: Builder, x: Value) -> Value:
    """LayerNormalization or RMSNormalization over the last axis, as an operator or spelled out."""
    c = width(x)
    gamma = b.weight([c], 0.5, 1.0)
    beta = b.weight([c], 1.0)
    b.layers.append(Layer(c, outs=(Slots(gamma.name, along(0)),), biases=(Slots(beta.name, along(0)),)))
    style = b.choose.pick(["layer", "rms", "rms_spelled", "layer_spelled"])
    if style == "layer" and b.opset >= 17:
        return b.same("LayerNormalization", x, gamma, beta if b.choose.chance(70) else None, axis=-1, epsilon=1e-5)
    if style == "rms" and b.opset >= 23:
        return b.same("RMSNormalization", x, gamma, axis=-1, epsilon=1e-3)
    centred = x
    if style.startswith("layer"):
        centred = b.same("Sub", x, reduce_over(b, "ReduceMean", x, [x.rank - 1], True))
    square = b.same("Mul", centred, centred) if b.choose.chance(50) else b.same("Pow", centred, b.const(np.array(2.0)))
    mean = reduce_over(b, "ReduceMean", square, [x.rank - 1], True)
    root = b.same("Sqrt", b.same("Add", mean, b.const(np.array(1e-3))))
    y = b.same("Div", centred, root)
    y = b.same("Mul", y, gamma)
    return b.same("Add", y, beta) if style.startswith("layer") else y


def feed_forward(b: Builder, x: Value) -> Value:
    """MLP block, plain or gated, with a residual."""
    hidden = b.choose.pick((8, 12))
    y = norm(b, x) if b.choose.chance(50) else x
    style = b.choose.pick(["gelu", "swiglu", "fused", "relu"])
    if style == "swiglu":
        left, right = linear(b, y, hidden), linear(b, y, hidden)
        h = b.same("Mul", b.same("Mul", left, b.same("Sigmoid", left)), right)
    elif style == "fused":
        left, right = split(b, linear(b, y, 2 * hidden), x.rank - 1, [hidden, hidden])
        h = b.same("Mul", left, b.same("Sigmoid", right))
    elif style == "relu":
        h = b.same("Relu", linear(b, y, hidden))
    else:
        h = gelu(b, linear(b, y, hidden))
    y = linear(b, h, width(x))
    return b.node("Add", *((x, y) if b.choose.chance(50) else (y, x)), shape=x.shape)


def gelu(b: Builder, x: Value) -> Value:
    if b.opset >= 20 and b.choose.chance(40):
        return b.same("Gelu", x, approximate=b.choose.pick([None, "tanh"]))
    y = b.same("Erf", b.same("Div", x, b.scalar(2**0.5)))
    y = b.same("Mul", x, b.same("Add", y, b.scalar(1.0)))
    return b.same("Mul", y, b.scalar(0.5))


def heads(b: Builder, x: Value, h: int, d: int, transpose: bool = True) -> Value:
    """(N, T, h*d) to (N, h, T, d)."""
    n, t = x.shape[:2]
    style = b.choose.pick(["zeros", "computed", "minus"])
    if style == "computed":
        target = computed_shape(b, x, [0, 1], [h, d])
    else:
        target = b.ints(0, 0, h, d) if style == "zeros" else b.ints(0, 0, -1, d)
    y = b.node("Reshape", x, target, shape=[n, t, h, d])
    return b.node("Transpose", y, shape=[n, h, t, d], perm=[0, 2, 1, 3]) if transpose else y


def repeat_heads(b: Builder, x: Value, times_: int) -> Value:
    """Grouped queries: each key/value head serves `times_` query heads."""
    n, g, t, d = x.shape
    style = b.choose.pick(["gather", "expand", "tile"])
    if style == "gather":
        index = b.const(np.repeat(np.arange(int(g)), times_), "i")
        return b.node("Gather", x, index, shape=[n, times(g, times_), t, d], axis=1)
    y = unsqueeze(b, x, [2])
    if style == "expand":
        y = b.node("Expand", y, b.ints(1, 1, times_, 1, 1), shape=[n, g, times_, t, d])
    else:
        y = b.node("Tile", y, b.ints(1, 1, times_, 1, 1), shape=[n, g, times_, t, d])
    total = times(g, times_)
    target = computed_shape(b, x, [0], [int(total), -1, int(d)]) if b.choose.chance(50) else b.ints(0, -1, 0, int(d))
    if target.name in b.weights:  # [0, -1, 0, d] would copy the wrong axis; spell it without a zero in the middle
        y2 = b.node("Transpose", y, shape=[n, t, g, times_, d], perm=[0, 3, 1, 2, 4])
        y2 = b.node("Reshape", y2, b.ints(0, 0, -1, int(d)), shape=[n, t, total, d])
        return b.node("Transpose", y2, shape=[n, total, t, d], perm=[0, 2, 1, 3])
    return b.node("Reshape", y, target, shape=[n, total, t, d])


def attention(b: Builder, x: Value) -> Value | None:
    """Multi-head attention with a residual: separate or fused projections, grouped queries, the opset-23 operator."""
    if x.rank != 3 or width(x) > 8:
        return None
    h, d = b.choose.pick([(2, 3), (2, 2), (3, 2), (4, 2)])
    groups = h if not b.choose.chance(35) else b.choose.pick([g for g in (1, 2) if h % g == 0])
    v_dim = d if b.choose.chance(60) else d + 1
    y = norm(b, x) if b.choose.chance(40) else x
    if groups == h and v_dim == d and b.choose.chance(40):
        fused = linear(b, y, 3 * h * d)
        b.layers.append(Layer(h, outs=fused_heads(b, fused, h, d)))
        q, k, v = split(b, fused, 2, [h * d] * 3)
    else:
        q, k, v = linear(b, y, h * d), linear(b, y, groups * d), linear(b, y, groups * v_dim)
        head_layers(b, h, d, q)
    n, t = x.shape[:2]
    if b.opset >= 23 and b.choose.chance(50):
        out = attention_operator(b, q, k, v, h, groups, d, v_dim)
    else:
        out = spelled_attention(b, q, k, v, h, groups, d, v_dim)
    y = linear(b, Value(out.name, (n, t, h * v_dim)), width(x))
    return b.node("Add", x, y, shape=x.shape) if b.choose.chance(70) else y


def producer_weights(b: Builder, x: Value) -> list[tuple[str, int]]:
    """Float parameters of the linear layer that ends in x, with the axis of its outputs."""
    by_output = {name: node for node in b.nodes for name in node.output}
    node, found = by_output.get(x.name), []
    for _ in range(3):
        if node is None:
            break
        for name in node.input:
            array = b.weights.get(name)
            if array is not None and array.dtype == np.float64 and array.ndim and x.shape[-1] in array.shape:
                found.append((name, [a for a in range(array.ndim) if array.shape[a] == x.shape[-1]][-1]))
        if node.op_type not in ("Add", "Transpose"):
            break
        node = next((by_output[i] for i in node.input if i in by_output), None)
    return found


def fused_heads(b: Builder, x: Value, h: int, d: int) -> tuple[Slots, ...]:
    """Head i of a fused qkv projection."""

    def index(axis: int) -> object:
        return lambda i: (*[slice(None)] * axis, [p * h * d + i * d + j for p in range(3) for j in range(d)])

    return tuple(Slots(name, index(axis)) for name, axis in producer_weights(b, x))  # type: ignore[arg-type]


def head_layers(b: Builder, h: int, d: int, q: Value) -> None:
    """Head i of a query projection."""
    slots = [
        Slots(name, lambda i, axis=axis: (*[slice(None)] * axis, [i * d + j for j in range(d)]))  # type: ignore[misc]
        for name, axis in producer_weights(b, q)
    ]
    b.layers.append(Layer(h, outs=tuple(slots)))


def spelled_attention(b: Builder, q: Value, k: Value, v: Value, h: int, g: int, d: int, v_dim: int) -> Value:
    n, t = q.shape[:2]
    q4, k4, v4 = heads(b, q, h, d), heads(b, k, g, d), heads(b, v, g, v_dim)
    if g != h:
        k4, v4 = repeat_heads(b, k4, h // g), repeat_heads(b, v4, h // g)
    scale: Value
    if b.choose.chance(20):  # the scale is computed from the run-time head size
        size = slice_(b, b.node("Shape", q4, shape=[4], dtype=7), 0, 3, 4, 1, 1)
        scale = b.node(
            "Reciprocal", b.node("Sqrt", b.node("Cast", size, shape=[1], dtype=11, to=11), shape=[1]), shape=[1]
        )
    else:
        scale = b.scalar(d**-0.5)
    if b.choose.chance(25) and b.opset >= 12:
        scores = b.node("Einsum", q4, k4, shape=[n, h, t, t], equation="bhqd,bhkd->bhqk")
    else:
        kt = b.node("Transpose", k4, shape=[n, h, d, t], perm=[0, 1, 3, 2])
        scores = b.node("MatMul", q4, kt, shape=[n, h, t, t])
    scores = b.same("Mul", scores, scale)
    weights = b.same("Softmax", scores, axis=3 if b.opset < 13 else -1)
    y = b.node("MatMul", weights, v4, shape=[n, h, t, v_dim])
    y = b.node("Transpose", y, shape=[n, t, h, v_dim], perm=[0, 2, 1, 3])
    target = b.choose.pick(["flat", "computed", "minus"])
    if target == "computed":
        return b.node("Reshape", y, computed_shape(b, y, [0, 1], [h * v_dim]), shape=[n, t, h * v_dim])
    return b.node("Reshape", y, b.ints(0, 0, -1 if target == "minus" else h * v_dim), shape=[n, t, h * v_dim])


def attention_operator(b: Builder, q: Value, k: Value, v: Value, h: int, g: int, d: int, v_dim: int) -> Value:
    n, t = q.shape[:2]
    causal = 1 if b.choose.chance(40) else None
    scale = 0.5 if b.choose.chance(30) else None
    b.constructs.add("Attention")
    if b.choose.chance(50):
        return b.node(
            "Attention", q, k, v, shape=[n, t, h * v_dim], q_num_heads=h, kv_num_heads=g, is_causal=causal, scale=scale
        )
    q4, k4, v4 = heads(b, q, h, d), heads(b, k, g, d), heads(b, v, g, v_dim)
    y = b.node("Attention", q4, k4, v4, shape=[n, h, t, v_dim], is_causal=causal, scale=scale)
    y = b.node("Transpose", y, shape=[n, t, h, v_dim], perm=[0, 2, 1, 3])
    return b.node("Reshape", y, b.ints(0, 0, h * v_dim), shape=[n, t, h * v_dim])


GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def recurrent(b: Builder, x: Value) -> Value | None:
    """LSTM, GRU or RNN over T, with every optional input and attribute."""
    if x.rank != 3:
        return None
    op = b.choose.pick(["LSTM", "GRU", "RNN"])
    n, t, c = x.shape
    hidden, gates = b.choose.pick((4, 3, 5)), GATES[op]
    direction = b.choose.pick(["forward", "bidirectional", "reverse"])
    dirs = 2 if direction == "bidirectional" else 1
    w = b.weight([dirs, gates * hidden, width(x)], 0.5)
    r = b.weight([dirs, gates * hidden, hidden], 0.5)
    bias = b.weight([dirs, 2 * gates * hidden], 0.5) if b.choose.chance(70) else None
    lens = None
    if b.choose.chance(15) and n == "N" and (t == "T" or (isinstance(t, int) and t >= 3)):
        lens = b.input(["N"], 6, (1, 4))
    inputs: list[Value | None] = [b.node("Transpose", x, shape=[t, n, c], perm=[1, 0, 2]), w, r, bias, lens]
    has_state = b.choose.chance(35)
    if has_state:
        if b.choose.chance(50) or not isinstance(n, int):
            inputs.append(b.input([dirs, n, hidden]))
        else:
            inputs.append(b.const(b.rng.normal(size=[dirs, int(n), hidden])))
    if op == "LSTM" and has_state and b.choose.chance(70):
        inputs.append(b.input([dirs, n, hidden]))
    attrs: dict[str, object] = {"hidden_size": hidden}
    if direction != "forward" or b.choose.chance(30):
        attrs["direction"] = direction
    peep = None
    if op == "LSTM" and b.choose.chance(25):
        peep = b.weight([dirs, 3 * hidden], 0.5)
        inputs += [None] * (7 - len(inputs)) + [peep]
    if op == "LSTM" and b.choose.chance(10):
        attrs["input_forget"] = 1
    if op == "GRU" and b.choose.chance(50):
        attrs["linear_before_reset"] = 1
    if b.choose.chance(25):
        names = {"LSTM": ["Sigmoid", "Tanh", "Relu"], "GRU": ["HardSigmoid", "Tanh"], "RNN": ["Relu"]}[op]
        attrs["activations"] = names * dirs
        if op == "GRU":
            attrs["activation_alpha"], attrs["activation_beta"] = [0.2] * dirs, [0.5] * dirs
    if b.choose.chance(8):
        attrs["clip"] = 3.0
    recurrent_layers(b, hidden, gates, dirs, w, r, bias, peep)
    outputs = [Value(b.name("y"), (t, dirs, n, hidden)), Value(b.name("h"), (dirs, n, hidden))]
    if op == "LSTM":
        outputs.append(Value(b.name("c"), (dirs, n, hidden)))
    used = b.choose.pick(["y", "h", "both", "state"])
    b.raw(op, inputs, [
        outputs[0].name if used in ("y", "both") else "",
        outputs[1].name if used in ("h", "both", "state") else "",
        *([outputs[2].name] if op == "LSTM" and used == "state" else []),
    ], **attrs)  # fmt: skip
    if used in ("h", "both", "state"):
        last = b.node("Transpose", outputs[1], shape=[n, dirs, hidden], perm=[1, 0, 2])
        b.push(b.node("Reshape", last, b.ints(0, -1), shape=[n, dirs * hidden]))
    if used == "state":
        if op == "LSTM":
            b.push(b.node("Transpose", outputs[2], shape=[n, dirs, hidden], perm=[1, 0, 2]))
        return None
    if used == "h":
        return None
    if dirs == 1 and b.choose.chance(50):
        y = squeeze(b, outputs[0], [1])
        return b.node("Transpose", y, shape=[n, t, hidden], perm=[1, 0, 2])
    y = b.node("Transpose", outputs[0], shape=[n, t, dirs, hidden], perm=[2, 0, 1, 3])
    return b.node("Reshape", y, b.ints(0, 0, -1), shape=[n, t, dirs * hidden])


def recurrent_layers(
    b: Builder, hidden: int, gates: int, dirs: int, w: Value, r: Value, bias: Value | None, peep: Value | None
) -> None:
    """Hidden units of each direction: silent when all gates' weights are zero, unread when R and the consumers skip
    them.
    """
    for d in range(dirs):
        outs = [Slots(w.name, along(0, gates, hidden, (d,))), Slots(r.name, along(0, gates, hidden, (d,)))]
        biases = [Slots(bias.name, along(0, 2 * gates, hidden, (d,)))] if bias else []
        if peep:
            outs.append(Slots(peep.name, along(0, 3, hidden, (d,))))
        b.layers.append(Layer(hidden, outs=tuple(outs), biases=tuple(biases)))
        b.layers.append(Layer(hidden, ins=(Slots(r.name, along(1, lead=(d,))),)))
    b.layers.append(Layer(int(b.weights[w.name].shape[2]), ins=(Slots(w.name, along(2)),)))


def embedding(b: Builder) -> Value:
    """Tokens (N, T) to (N, T, C), sometimes with positions, sometimes with a tied head as a model output."""
    vocabulary, c = 7, b.choose.pick((6, 8, 4))
    tokens = b.input(["N", b.choose.pick(["T", 4])], INT64, (0, vocabulary))
    table = b.weight([vocabulary, c], 1.0)
    b.layers.append(Layer(c, outs=(Slots(table.name, along(1)),)))
    y = b.node("Gather", table, tokens, shape=[*tokens.shape, c], dtype=11)
    if tokens.static(1) and b.choose.chance(50):
        y = b.same("Add", y, b.weight([int(tokens.shape[1]), c], 1.0))
    if b.choose.chance(40):
        z = feed_forward(b, y)
        head = b.node("Transpose", table, shape=[c, vocabulary], perm=[1, 0])
        b.forced_outputs.append(b.node("MatMul", z, head, shape=[*tokens.shape, vocabulary]))
        b.constructs.add("tied embedding")
    return y


INT64 = 7


def pool_sequence(b: Builder, x: Value) -> Value:
    """(N, T, C) to (N, C): mean, maximum, first or last step, sum."""
    n, _, c = x.shape
    style = b.choose.pick(["ReduceMean", "ReduceMax", "ReduceSum", "gather", "slice"])
    if style == "gather":
        return b.node("Gather", x, b.const(np.array(b.choose.pick([0, -1]), np.int64), "i"), shape=[n, c], axis=1)
    if style == "slice":
        return squeeze(b, slice_(b, x, 1, -1, 2**31, 1, 1), [1])
    return reduce_over(b, style, x, [1], False)


def rotary(b: Builder, x: Value) -> Value | None:
    """x * cos + rotate_half(x) * sin over the last axis."""
    c = width(x)
    if c % 2:
        return None
    half = c // 2
    left = slice_(b, x, x.rank - 1, 0, half, 1, half)
    right = slice_(b, x, x.rank - 1, half, 2**31, 1, half)
    turned = b.node("Concat", b.same("Neg", right), left, shape=x.shape, axis=-1)
    angle = b.rng.normal(size=half)
    cos, sin = np.concatenate([np.cos(angle)] * 2), np.concatenate([np.sin(angle)] * 2)
    return b.same("Add", b.same("Mul", x, b.const(cos)), b.same("Mul", turned, b.const(sin)))


def sequence_conv(b: Builder, x: Value) -> Value | None:
    """Conv1d over time between two transposes (Conformer, Whisper)."""
    if x.rank != 3:
        return None
    n, t, c = x.shape
    out = b.choose.pick((6, 4))
    w, bias = b.weight([out, int(c), 3]), b.weight([out], 1.0)
    b.layers.append(Layer(out, outs=(Slots(w.name, along(0)),), biases=(Slots(bias.name, along(0)),)))
    y = b.node("Transpose", x, shape=[n, c, t], perm=[0, 2, 1])
    y = b.node("Conv", y, w, bias, shape=[n, out, t], pads=[1, 1])
    return b.node("Transpose", b.same("Relu", y), shape=[n, t, out], perm=[0, 2, 1])


def hidden_layer(b: Builder, x: Value) -> Value:
    """Linear and an activation: the most common pair."""
    return b.same(b.choose.pick(["Relu", "Tanh", "Sigmoid", "LeakyRelu"]), linear(b, x))


def factorised(b: Builder, x: Value) -> Value:
    """Two weights multiplied in the graph before they are used."""
    u, v = b.weight([width(x), 3]), b.weight([3, 6])
    b.layers.append(Layer(6, outs=(Slots(v.name, along(1)),)))
    return b.node("MatMul", x, b.node("MatMul", u, v, shape=[width(x), 6]), shape=[*x.shape[:-1], 6])


def batched_weights(b: Builder, x: Value) -> Value | None:
    """A stack of weights, one per expert, summed: MatMul with batch dims on the constant side."""
    if x.rank != 2:
        return None
    w: Array = b.rng.normal(size=[2, width(x), 6])
    experts = b.const(w, "w")
    b.layers.append(Layer(6, outs=(Slots(experts.name, along(2)),)))
    y = b.node("MatMul", x, experts, shape=[2, x.shape[0], 6])
    return reduce_over(b, "ReduceSum", y, [0], False)


SEQUENCE_OPS = (
    hidden_layer, linear, feed_forward, attention, norm, recurrent, rotary, sequence_conv, factorised, batched_weights,
)  # fmt: skip
