"""Productions on feature maps (N, C, spatial...): convolutions, normalisation, pooling, resizing, and their usual
blocks.
"""

from __future__ import annotations

import numpy as np

from .builder import Builder, Layer, Slots, Value, along, times

WIDTHS = (4, 6, 8)


def is_map(x: Value) -> bool:
    """(N, C, spatial...) with known channels and spatial extents."""
    return 3 <= x.rank <= 5 and x.static(*range(1, x.rank)) and min(map(int, x.shape[2:])) >= 1


def channels(x: Value) -> int:
    return int(x.shape[1])


def spatial(x: Value) -> tuple[int, ...]:
    return tuple(int(s) for s in x.shape[2:])


def bias_layer(b: Builder, w: Value, axis: int, bias: Value | None, x_axis: int | None) -> None:
    """Registers an ungrouped producer for masking."""
    b.layers.append(
        Layer(
            int(w.shape[axis]),  # type: ignore[arg-type]
            outs=(Slots(w.name, along(axis)),),
            biases=(Slots(bias.name, along(0)),) if bias else (),
        )
    )
    if x_axis is not None:
        b.layers.append(Layer(int(w.shape[x_axis]), ins=(Slots(w.name, along(x_axis)),)))  # type: ignore[arg-type]


def conv_geometry(b: Builder, size: tuple[int, ...]) -> tuple[dict[str, object], list[int], list[int]]:
    """Attributes, kernel and output extents of a window that fits into `size`."""
    rank = len(size)
    style = b.choose.pick(["same", "valid", "auto_upper", "auto_lower", "asymmetric", "auto_valid"])
    kernel = [b.choose.pick([k for k in (1, 3, 2) if k <= s]) for s in size]
    dilation = [
        2 if style != "valid" and k > 1 and 2 * k - 1 <= s and b.choose.chance(15) else 1
        for k, s in zip(kernel, size, strict=False)
    ]
    stride = [2 if b.choose.chance(15) else 1 for _ in size]
    if style.startswith("auto"):
        # The reference evaluator takes the dilated kernel into account for SAME; ONNX Runtime forbids the mixture.
        dilation = [1] * rank
    effective = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=False)]
    attrs: dict[str, object] = {}
    if any(s != 1 for s in stride) or b.choose.chance(30):
        attrs["strides"] = stride
    if any(d != 1 for d in dilation):
        attrs["dilations"] = dilation
    head, tail = [0] * rank, [0] * rank
    if style == "same":
        head = tail = [e // 2 for e in effective]
    elif style == "asymmetric":
        head, tail = [e // 2 for e in effective], [0] * rank
    if style in ("auto_upper", "auto_lower"):
        attrs["auto_pad"] = "SAME_UPPER" if style == "auto_upper" else "SAME_LOWER"
        return attrs, kernel, [-(-s // st) for s, st in zip(size, stride, strict=False)]
    if style == "auto_valid":
        attrs["auto_pad"] = "VALID"
    elif any(head + tail):
        attrs["pads"] = head + tail
    out = [(s + h + t - e) // st + 1 for s, h, t, e, st in zip(size, head, tail, effective, stride, strict=False)]
    return attrs, kernel, out


def conv(b: Builder, x: Value, co: int | None = None, group: int = 1, keep_size: bool = False) -> Value:
    """Conv; `keep_size` makes it a stride-1 window that keeps the spatial extents."""
    ci = channels(x)
    co = co or b.choose.pick(WIDTHS)
    if keep_size:
        kernel = [3 if b.choose.chance(60) else 1] * (x.rank - 2)
        attrs: dict[str, object] = {"pads": [k // 2 for k in kernel] * 2}
        out = list(spatial(x))
    else:
        attrs, kernel, out = conv_geometry(b, spatial(x))
    w = b.weight([co, ci // group, *kernel])
    bias = b.weight([co], 1.0) if b.choose.chance(60) else None
    bias_layer(b, w, 0, bias, 1 if group == 1 else None)
    if group != 1:
        attrs["group"] = group
    if b.choose.chance(50):
        attrs["kernel_shape"] = kernel
    return b.node("Conv", x, w, bias, shape=[x.shape[0], co, *out], **attrs)


def conv_any(b: Builder, x: Value) -> Value:
    """Conv with any grouping that fits: full, grouped, depthwise, depthwise with multiplier 2."""
    ci = channels(x)
    style = b.choose.pick(["full", "group", "depthwise", "multiplier"])
    if style == "group" and ci % 2 == 0:
        return conv(b, x, group=2)
    if style == "depthwise":
        return conv(b, x, ci, group=ci)
    if style == "multiplier" and ci <= 8:
        return conv(b, x, 2 * ci, group=ci)
    return conv(b, x)


def conv_transpose(b: Builder, x: Value) -> Value | None:
    if max(spatial(x)) > 8 or x.rank > 4:
        return None
    ci, rank = channels(x), x.rank - 2
    group = b.choose.pick([1, 2, ci]) if ci % 2 == 0 else 1
    co = ci if group == ci else b.choose.pick((4, 6))
    kernel = [b.choose.pick([2, 3]) for _ in range(rank)]
    stride = [b.choose.pick([1, 2]) for _ in range(rank)]
    extra = [1 if s == 2 and b.choose.chance(30) else 0 for s in stride]
    pads = [1 if k == 3 and b.choose.chance(40) else 0 for k in kernel]
    out = [
        (s - 1) * st + e + k - 2 * p for s, st, e, k, p in zip(spatial(x), stride, extra, kernel, pads, strict=False)
    ]
    if min(out) < 1:
        return None
    w = b.weight([ci, co // group, *kernel], 0.4)
    bias = b.weight([co], 1.0) if b.choose.chance(60) else None
    if group == 1:
        bias_layer(b, w, 1, bias, 0)
    attrs: dict[str, object] = {"strides": stride, "pads": pads * 2, "kernel_shape": kernel}
    if any(extra):
        attrs["output_padding"] = extra
    if group != 1:
        attrs["group"] = group
    return b.node("ConvTranspose", x, w, bias, shape=[x.shape[0], co, *out], **attrs)


def batchnorm(b: Builder, x: Value) -> Value:
    """BatchNormalization over axis 1 of a map or of (N, C)."""
    c = channels(x)
    scale, bias, mean = b.weight([c], 0.5, 1.0), b.weight([c], 1.0), b.weight([c], 0.5)
    var = b.const(b.rng.random(c) + 0.5, "var")
    b.layers.append(Layer(c, outs=(Slots(scale.name, along(0)),), biases=(Slots(bias.name, along(0)),)))
    epsilon = 1e-3 if b.choose.chance(40) else None
    return b.same("BatchNormalization", x, scale, bias, mean, var, epsilon=epsilon)


def other_norm(b: Builder, x: Value) -> Value | None:
    """Instance, group, local response and Lp normalisation."""
    c = channels(x)
    style = b.choose.pick(["InstanceNormalization", "GroupNormalization", "LRN", "LpNormalization"])
    if style == "InstanceNormalization":
        return b.same(style, x, b.weight([c], 0.5, 1.0), b.weight([c], 1.0))
    if style == "GroupNormalization":
        if b.opset < 21 or c % 2:
            return None
        return b.same(style, x, b.weight([c], 0.5, 1.0), b.weight([c], 1.0), num_groups=b.choose.pick([2, 1, c]))
    if style == "LRN" and x.rank == 4:
        return b.same(style, x, size=3)
    if style == "LpNormalization":
        return b.same(style, b.same("Add", x, b.scalar(0.3)), axis=b.choose.pick([1, -1]), p=2)
    return None


def gate(b: Builder, x: Value) -> Value:
    """Mul by a constant vector over axis 1, with zeros where a mask wants them; optionally scales."""
    c = channels(x)
    array = np.ones(c) if b.choose.chance(50) else b.rng.normal(size=c)
    shape = [c, *[1] * (x.rank - 2)]
    if b.choose.chance(50):
        shape = [1, *shape]
    g = b.const(array.reshape(shape), "gate")
    b.layers.append(Layer(c, outs=(Slots(g.name, along(len(shape) - x.rank + 1)),)))
    return b.node("Mul", *((x, g) if b.choose.chance(70) else (g, x)), shape=x.shape)


def pool(b: Builder, x: Value) -> Value | None:
    style = b.choose.pick(["MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool"])
    if style.startswith("Global"):
        return b.node(style, x, shape=[*x.shape[:2], *[1] * (x.rank - 2)])
    kernel = [min(2 + b.choose.integer(0, 1), s) for s in spatial(x)]
    stride = [b.choose.pick([1, 2]) for _ in kernel]
    pads = [1 if k > 2 and b.choose.chance(40) else 0 for k in kernel]
    out = [(s + 2 * p - k) // st + 1 for s, p, k, st in zip(spatial(x), pads, kernel, stride, strict=False)]
    attrs: dict[str, object] = {"kernel_shape": kernel, "strides": stride, "pads": pads * 2}
    if style == "AveragePool" and b.choose.chance(50):
        attrs["count_include_pad"] = 1
    if style == "LpPool" and (any(pads) or x.rank != 4):
        return None
    if style == "MaxPool" and not any(pads) and b.choose.chance(15):
        y, index = b.nodes_many("MaxPool", x, shapes=[[*x.shape[:2], *out]] * 2, **attrs)
        b.forced_outputs.append(Value(index.name, index.shape, 7))
        return y
    return b.node(style, x, shape=[*x.shape[:2], *out], **attrs)


def resize(b: Builder, x: Value) -> Value | None:
    if max(spatial(x)) > 6 or x.rank > 4:
        return None
    factor = b.choose.pick([2, 1])
    out = [s * factor for s in spatial(x)]
    scales = b.const(np.array([1, 1, *[factor] * len(out)], np.float32), "scales")
    if b.opset <= 9:
        return b.node("Upsample", x, scales, shape=[*x.shape[:2], *out], mode="nearest")
    if b.opset < 11:
        return None
    mode = b.choose.pick(["nearest", "linear"])
    attrs: dict[str, object] = {"mode": mode, "coordinate_transformation_mode": "asymmetric"}
    if mode == "nearest":
        attrs["nearest_mode"] = "floor"
    roi = b.const(np.zeros(0, np.float32), "roi") if b.opset < 13 else None
    if b.opset >= 18 and b.choose.chance(25):
        return b.node(
            "Resize", x, None, None, b.ints(*out), shape=[*x.shape[:2], *out], axes=list(range(2, x.rank)), **attrs
        )
    return b.node("Resize", x, roi, scales, shape=[*x.shape[:2], *out], **attrs)


def pad(b: Builder, x: Value) -> Value:
    """Spatial or channel padding, sometimes cropping, in three modes."""
    head, tail = [0] * x.rank, [0] * x.rank
    mode = "constant"
    if b.choose.chance(35):
        head[1], tail[1] = b.choose.integer(0, 2), b.choose.integer(0, 2)
    else:
        axis = b.choose.integer(2, x.rank - 1)
        head[axis], tail[axis] = b.choose.integer(0, 1), 1
        mode = b.choose.pick(["constant", "edge", "reflect"]) if int(x.shape[axis]) > 2 else "constant"  # type: ignore
        if mode == "constant" and int(x.shape[axis]) > 3 and b.choose.chance(25):  # type: ignore[arg-type]
            tail[axis] = -1
    shape = [times(s) if not h + t else int(s) + h + t for s, h, t in zip(x.shape, head, tail, strict=False)]
    value = b.choose.pick([None, 0.0, 0.7]) if mode == "constant" else None
    if b.opset < 11:
        return b.node("Pad", x, shape=shape, pads=head + tail, mode=mode, value=value)
    constant = None if value is None else b.const(np.array(value))
    if b.opset >= 18 and b.choose.chance(30) and head[0] == tail[0] == 0:
        axes = [a for a in range(x.rank) if head[a] or tail[a]] or [1]
        pads = b.ints(*[head[a] for a in axes], *[tail[a] for a in axes])
        return b.node("Pad", x, pads, constant, b.ints(*axes), shape=shape, mode=mode)
    return b.node("Pad", x, b.ints(*head, *tail), constant, shape=shape, mode=mode)


def pixel_shuffle(b: Builder, x: Value) -> Value | None:
    if x.rank != 4:
        return None
    n, c, h, w = x.shape[0], channels(x), *spatial(x)
    if b.choose.chance(50) and (h % 2 == 0 or w % 2 == 0) and c <= 8:
        if h % 2 or w % 2:  # drop the odd row or column
            x = slice_(b, x, 2 if h % 2 else 3, 0, (h if h % 2 else w) - 1, 1, (h if h % 2 else w) - 1)
            h, w = spatial(x)
        return b.node("SpaceToDepth", x, shape=[n, c * 4, h // 2, w // 2], blocksize=2)
    if c % 4 or max(h, w) > 6:
        return None
    mode = b.choose.pick([None, "CRD", "DCR"]) if b.opset >= 11 else None
    return b.node("DepthToSpace", x, shape=[n, c // 4, h * 2, w * 2], blocksize=2, mode=mode)


def activation(b: Builder, x: Value) -> Value:
    return b.same(b.choose.pick(["Relu", "Sigmoid", "LeakyRelu", "Tanh", "Elu", "Softplus"]), x)


def conv_bn(b: Builder, x: Value, co: int | None = None, keep_size: bool = True) -> Value:
    y = conv(b, x, co, keep_size=keep_size)
    if b.choose.chance(70):
        y = batchnorm(b, y)
    return activation(b, y) if b.choose.chance(80) else y


def residual(b: Builder, x: Value) -> Value:
    """x + f(x), the branch of one or two convolutions, the shortcut sometimes projected."""
    width = channels(x) if b.choose.chance(80) else b.choose.pick(WIDTHS)
    y = conv_bn(b, x)
    if b.choose.chance(30):
        y = gate(b, y)
    y = conv(b, y, width, keep_size=True)
    if b.choose.chance(50):
        y = batchnorm(b, y)
    shortcut = x if width == channels(x) else conv(b, x, width, keep_size=True)
    y = b.node("Add", *((y, shortcut) if b.choose.chance(50) else (shortcut, y)), shape=y.shape)
    return activation(b, y) if b.choose.chance(50) else y


def preact_gate(b: Builder, x: Value) -> Value:
    """DAM as its authors place it: gate, BatchNorm, ReLU, padded convolution."""
    y = gate(b, conv(b, x, keep_size=True))
    return conv(b, b.same("Relu", batchnorm(b, y)), keep_size=True)


def squeeze_excite(b: Builder, x: Value) -> Value:
    """x times a per-channel gate computed from its mean."""
    c = channels(x)
    axes = list(range(2, x.rank))
    mean = (
        b.node("GlobalAveragePool", x, shape=[*x.shape[:2], *[1] * len(axes)])
        if b.choose.chance(60)
        else reduce_over(b, "ReduceMean", x, axes, True)
    )
    y = b.same("Relu", pointwise(b, mean, 4))
    scale = b.same(b.choose.pick(["Sigmoid", "HardSigmoid"]), pointwise(b, y, c))
    return b.node("Mul", *((x, scale) if b.choose.chance(50) else (scale, x)), shape=x.shape)


def pointwise(b: Builder, x: Value, co: int) -> Value:
    w, bias = b.weight([co, channels(x), *[1] * (x.rank - 2)]), b.weight([co], 1.0)
    bias_layer(b, w, 0, bias, 1)
    return b.node("Conv", x, w, bias, shape=[x.shape[0], co, *x.shape[2:]])


def depthwise_pair(b: Builder, x: Value) -> Value:
    """Inverted bottleneck: expand, depthwise, project, sometimes with a shortcut."""
    y = pointwise(b, x, b.choose.pick((8, 6, 12)))
    y = b.same("Clip", y, b.const(np.array(0.0)), b.const(np.array(6.0))) if b.opset >= 11 else activation(b, y)
    y = conv(b, y, channels(y), group=channels(y), keep_size=True)
    y = activation(b, batchnorm(b, y) if b.choose.chance(60) else y)
    if b.choose.chance(30):
        y = squeeze_excite(b, y)
    y = pointwise(b, y, channels(x))
    return b.node("Add", x, y, shape=x.shape) if b.choose.chance(60) else y


def channel_shuffle(b: Builder, x: Value) -> Value | None:
    """Grouped convolution, reshape (g, c/g), transpose, reshape back, grouped convolution."""
    c = channels(x)
    if c % 2 or x.rank != 4:
        return None
    group = 2 if c % 3 or b.choose.chance(50) else 3
    y = conv(b, x, c, group=group, keep_size=True)
    h, w = spatial(x)
    batch = -1 if b.choose.chance(50) else 0
    y = b.node("Reshape", y, b.ints(batch, group, c // group, h, w), shape=[x.shape[0], group, c // group, h, w])
    y = b.node("Transpose", y, shape=[x.shape[0], c // group, group, h, w], perm=[0, 2, 1, 3, 4])
    y = b.node("Reshape", y, b.ints(0 if batch else -1, c, h, w), shape=x.shape)
    return conv(b, y, c, group=b.choose.pick([group, c, 1]), keep_size=True)


def neck(b: Builder, x: Value) -> Value | None:
    """CSP / C2f: split in two, work on one part, concatenate all of it, fuse."""
    c = channels(x)
    if c < 4:
        return None
    left = c // 2 if c % 2 == 0 and b.choose.chance(60) else c // 2 - 1
    parts = split(b, x, 1, [left, c - left])
    pieces = list(parts)
    y = parts[1]
    for _ in range(b.choose.integer(1, 2)):
        y = conv_bn(b, y, channels(y))
        if b.choose.chance(40):
            y = b.node("Add", y, pieces[-1], shape=y.shape) if y.shape == pieces[-1].shape else y
        pieces.append(y)
    total = sum(channels(p) for p in pieces)
    y = b.node("Concat", *pieces, shape=[x.shape[0], total, *x.shape[2:]], axis=b.choose.pick([1, 1 - x.rank]))
    return pointwise(b, y, b.choose.pick(WIDTHS))


def dense_block(b: Builder, x: Value) -> Value:
    """DenseNet: each layer sees the concatenation of all before it."""
    for _ in range(2):
        y = conv_bn(b, x, 4)
        x = b.node("Concat", x, y, shape=[x.shape[0], channels(x) + 4, *x.shape[2:]], axis=1)
    return batchnorm(b, x) if b.choose.chance(60) else x


def prelu(b: Builder, x: Value) -> Value:
    c = channels(x)
    shape = b.choose.pick([[c, *[1] * (x.rank - 2)], [1], [*[1] * (x.rank - 1)], [1, c, *[1] * (x.rank - 2)]])
    return b.same("PRelu", x, b.weight(shape, 0.3))


def split(b: Builder, x: Value, axis: int, sizes: list[int]) -> list[Value]:
    """Split with the sizes as attribute or input, or by slices."""
    shapes = [[*x.shape[:axis], size, *x.shape[axis + 1 :]] for size in sizes]
    if b.choose.chance(25):
        starts = np.cumsum([0, *sizes])
        return [slice_(b, x, axis, int(s), int(s) + n, 1, n) for s, n in zip(starts, sizes, strict=False)]
    where = axis if b.choose.chance(60) else axis - x.rank
    if b.opset < 13:
        return b.nodes_many("Split", x, shapes=shapes, axis=where, split=sizes)
    if len(set(sizes)) == 1 and b.choose.chance(40):
        extra = {"num_outputs": len(sizes)} if b.opset >= 18 else {}
        return b.nodes_many("Split", x, shapes=shapes, axis=where, **extra)
    return b.nodes_many("Split", x, b.ints(*sizes), shapes=shapes, axis=where)


def slice_(b: Builder, x: Value, axis: int, start: int, end: int, step: int, size: int) -> Value:
    """Slice along one axis, with attributes (opset < 10) or inputs."""
    shape = [*x.shape[:axis], size, *x.shape[axis + 1 :]]
    if b.opset < 10:
        return b.node("Slice", x, shape=shape, axes=[axis], starts=[start], ends=[end])
    steps = b.ints(step) if step != 1 or b.choose.chance(30) else None
    return b.node("Slice", x, b.ints(start), b.ints(end), b.ints(axis), steps, shape=shape)


def reduce_over(b: Builder, op: str, x: Value, axes: list[int], keepdims: bool) -> Value:
    """A reduction with the axes as attribute or input, whatever the opset says."""
    shape = [1 if a in axes else s for a, s in enumerate(x.shape) if keepdims or a not in axes]
    as_input = b.opset >= (13 if op == "ReduceSum" else 18)
    where = [a if b.choose.chance(60) else a - x.rank for a in axes]
    keep = None if keepdims and b.choose.chance(50) else int(keepdims)
    if as_input:
        return b.node(op, x, b.ints(*where), shape=shape, keepdims=keep)
    return b.node(op, x, shape=shape, axes=where, keepdims=keep)


def to_vector(b: Builder, x: Value) -> Value:
    """Classifier heads' ways from a map to (N, features)."""
    style = b.choose.pick(["flatten", "pool", "mean", "reshape", "computed", "squeeze"])
    n, c, area = x.shape[0], channels(x), int(np.prod(spatial(x)))
    if style == "pool" or (area > 64 and style != "mean"):
        y = b.node("GlobalAveragePool", x, shape=[n, c, *[1] * (x.rank - 2)])
        return b.node("Flatten", y, shape=[n, c]) if b.choose.chance(60) else squeeze(b, y, list(range(2, x.rank)))
    if style == "mean":
        return reduce_over(b, b.choose.pick(["ReduceMean", "ReduceMax", "ReduceSum"]), x, list(range(2, x.rank)), False)
    if style == "squeeze":
        y = b.node("GlobalMaxPool", x, shape=[n, c, *[1] * (x.rank - 2)])
        return squeeze(b, y, list(range(2, x.rank)))
    if style == "reshape":
        return b.node("Reshape", x, b.ints(0, -1), shape=[n, c * area])
    if style == "computed":
        return b.node("Reshape", x, computed_shape(b, x, [0], [-1]), shape=[n, c * area])
    return b.node("Flatten", x, shape=[n, c * area], axis=None if b.choose.chance(50) else 1)


def computed_shape(b: Builder, x: Value, copied: list[int], rest: list[int]) -> Value:
    """Shape arithmetic as torch exports it: Shape, Gather, Unsqueeze, Concat."""
    shape = b.node("Shape", x, shape=[x.rank], dtype=7)
    pieces = []
    for axis in copied:
        if b.opset >= 15 and b.choose.chance(30):
            pieces.append(b.node("Shape", x, shape=[1], dtype=7, start=axis, end=axis + 1))
            continue
        entry = b.node("Gather", shape, b.const(np.array(axis, np.int64), "i"), shape=[], axis=0)
        pieces.append(unsqueeze(b, entry, [0]))
    pieces += [b.ints(size) for size in rest]
    return b.node("Concat", *pieces, shape=[len(pieces)], dtype=7, axis=0)


def squeeze(b: Builder, x: Value, axes: list[int]) -> Value:
    shape = [s for a, s in enumerate(x.shape) if a not in axes]
    if b.opset < 13:
        return b.node("Squeeze", x, shape=shape, axes=axes)
    if x.shape[0] != 1 and all(s != 1 for s in shape) and x.static() and b.choose.chance(20):
        return b.node("Squeeze", x, shape=shape)
    return b.node("Squeeze", x, b.ints(*axes), shape=shape)


def unsqueeze(b: Builder, x: Value, axes: list[int]) -> Value:
    """Inserts ones at the given (output) axes."""
    rest = iter(x.shape)
    shape = [1 if a in axes else next(rest) for a in range(x.rank + len(axes))]
    if b.opset < 13:
        return b.node("Unsqueeze", x, shape=shape, axes=axes)
    return b.node("Unsqueeze", x, b.ints(*axes), shape=shape)


MAP_OPS = (
    conv_any, conv_bn, residual, batchnorm, activation, pool, depthwise_pair, squeeze_excite, neck, channel_shuffle,
    gate, preact_gate, dense_block, conv_transpose, prelu, pad, resize, pixel_shuffle, other_norm,
)  # fmt: skip
