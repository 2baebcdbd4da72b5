"""Productions on any float value: elementwise, broadcasting, data movement, reductions, and operators that pin."""

from __future__ import annotations

import numpy as np

from .builder import BOOL, INT64, Builder, Layer, Slots, Value, along, extent, times
from .ops_spatial import computed_shape, reduce_over, slice_, split, squeeze, unsqueeze

SAFE = (
    "Relu", "Sigmoid", "Tanh", "Abs", "Neg", "LeakyRelu", "Elu", "Selu", "Softplus", "Softsign", "HardSigmoid", "Erf",
    "Sin", "Cos", "HardSwish", "Mish", "ThresholdedRelu", "Atan", "Asinh", "Sign", "Floor", "Ceil", "Round",
    "Identity", "Gelu", "Shrink", "Swish",
)  # fmt: skip
SINCE = {"HardSwish": 14, "Mish": 18, "ThresholdedRelu": 10, "Asinh": 9, "Sign": 9, "Round": 11,
         "Gelu": 20, "Shrink": 9, "Erf": 9, "Swish": 24}  # fmt: skip


def known_axes(x: Value) -> list[int]:
    return [a for a in range(x.rank) if x.static(a)]


def unary(b: Builder, x: Value) -> Value:
    op = b.choose.pick([op for op in SAFE if SINCE.get(op, 1) <= b.opset])
    attrs = {"Shrink": {"lambd": 0.3, "bias": 0.1}, "LeakyRelu": {"alpha": 0.2}}.get(op, {})
    return b.same(op, x, **attrs)


def guarded(b: Builder, x: Value) -> Value:
    """Functions that are finite only on part of the line, applied where they are."""
    style = b.choose.pick(["exp", "log", "sqrt", "reciprocal", "cosh", "acos", "pow", "divide"])
    if style == "exp":
        return b.same("Exp", b.same("Neg", b.same("Abs", x)))
    if style == "log":
        return b.same("Log", b.same("Add", b.same("Abs", x), b.scalar(1.0)))
    if style == "sqrt":
        return b.same("Sqrt", b.same("Abs", x))
    if style == "reciprocal":
        return b.same("Reciprocal", b.same("Add", b.same("Abs", x), b.scalar(0.5)))
    if style == "cosh":
        return b.same(b.choose.pick(["Cosh", "Sinh", "Tan"]) if b.opset >= 9 else "Tan", b.same("Tanh", x))
    if style == "acos":
        return b.same(b.choose.pick(["Acos", "Asin"]), b.same("Mul", b.same("Tanh", x), b.scalar(0.9)))
    if style == "pow":
        return b.same("Pow", b.same("Tanh", x), b.const(np.array(b.choose.pick([2.0, 3.0, 0.0]))))
    other = b.recent(lambda v: v.shape == x.shape) or x
    return b.same("Div", x, b.same("Add", b.same("Abs", other), b.scalar(1.0)))


def with_constant(b: Builder, x: Value) -> Value | None:
    """Add, Sub, Mul, Div, Max, Min with a constant on either side, scalar, per channel, or of any broadcast shape."""
    op = b.choose.pick(["Add", "Mul", "Sub", "Max", "Min", "Div"])
    style = b.choose.pick(["scalar", "channel", "tail", "outer"])
    axes = known_axes(x)
    if style == "scalar" or not axes:
        c = b.scalar(b.choose.pick([0.5, 0.0, -1.5]))
    elif style == "channel":
        axis = b.choose.pick(axes)
        size = extent(x.shape[axis], {})
        c = b.weight([size, *[1] * (x.rank - 1 - axis)], 1.0)
        b.layers.append(Layer(size, outs=(Slots(c.name, along(0)),)))
    else:
        first = next((a for a in range(x.rank) if x.static(*range(a, x.rank))), x.rank - 1)
        c = b.weight([int(s) for s in x.shape[first:]] if first in axes else [1], 1.0)
        if style == "outer":
            c = unsqueeze(b, c, [0]) if c.rank < x.rank else c
    if op == "Div":
        c = b.const(np.abs(b.weights[c.name]) + 0.5, "positive") if c.name in b.weights else None  # type: ignore[assignment]
        if c is None:
            return None
        return b.same("Div", x, c)
    return b.node(op, *((x, c) if b.choose.chance(60) else (c, x)), shape=x.shape)


def binary(b: Builder, x: Value) -> Value | None:
    """Two activations of equal shape."""
    other = b.recent(lambda v: v.shape == x.shape and v != x) or x
    op = b.choose.pick(["Add", "Mul", "Sub", "Max", "Min", "Sum", "Mean"])
    if op == "Mul":
        other = b.same("Tanh", other)
    return b.same(op, x, other, *([x] if op in ("Sum", "Mean", "Max") and b.choose.chance(30) else []))


def broadcast(b: Builder, x: Value) -> Value | None:
    """An activation with itself reduced over one axis, or with one of the pool that broadcasts to it."""
    if x.rank < 2:
        return None
    axis = b.choose.pick(known_axes(x) or [x.rank - 1])
    small = reduce_over(b, b.choose.pick(["ReduceMean", "ReduceMax", "ReduceMin"]), x, [axis], True)
    op = b.choose.pick(["Sub", "Add", "Mul"])
    if op == "Mul":
        small = b.same("Sigmoid", small)
    return b.node(op, *((x, small) if b.choose.chance(60) else (small, x)), shape=x.shape)


def where(b: Builder, x: Value) -> Value:
    other: Value = b.recent(lambda v: v.shape == x.shape and v != x) or b.scalar(b.choose.pick([0.0, 0.4]))
    axes = known_axes(x)
    if axes and b.choose.chance(50):
        axis = b.choose.pick(axes)
        mask = b.const(b.rng.random([extent(x.shape[axis], {}), *[1] * (x.rank - 1 - axis)]) < 0.5, "m")
    else:
        mask = b.node("Greater", x, b.scalar(0.1), shape=x.shape, dtype=BOOL)
        if b.choose.chance(30):
            mask = b.same("Not", mask)
    return b.node("Where", mask, *((x, other) if b.choose.chance(60) else (other, x)), shape=x.shape, dtype=x.dtype)


def clip(b: Builder, x: Value) -> Value:
    low, high = b.choose.pick([(0.0, 6.0), (-1.0, 1.0), (0.25, 2.0), (-3.0, -0.5)])
    if b.opset < 11:
        return b.same("Clip", x, min=low, max=high)
    return b.same("Clip", x, b.const(np.array(low)), b.const(np.array(high)) if b.choose.chance(70) else None)


def cast(b: Builder, x: Value) -> Value:
    to = b.choose.pick([1, 10, 7, 9])
    if to in (7, 9):
        x = b.same("Clip", x, b.const(np.array(-9.3)), b.const(np.array(9.7))) if b.opset >= 11 else b.same("Tanh", x)
    return b.node("Cast", b.node("Cast", x, shape=x.shape, dtype=to, to=to), shape=x.shape, dtype=x.dtype, to=x.dtype)


def softmax(b: Builder, x: Value) -> Value:
    op = b.choose.pick(["Softmax", "LogSoftmax", "Hardmax"])
    axis = b.choose.integer(0, x.rank - 1)
    return b.same(op, x, axis=axis if b.choose.chance(50) or b.opset < 11 else axis - x.rank)


def reduce(b: Builder, x: Value) -> Value | None:
    ops = ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare",
           "ReduceLogSumExp", "ReduceProd", "ReduceLogSum"]  # fmt: skip
    op = b.choose.pick(ops)
    if x.rank < 2:
        return None
    axes = sorted({b.choose.integer(1, x.rank - 1) for _ in range(b.choose.integer(1, 2))})
    if op in ("ReduceProd",):
        x = b.same("Tanh", x)
    if op == "ReduceLogSum":
        x = b.same("Add", b.same("Abs", x), b.scalar(0.5))
    return reduce_over(b, op, x, axes, b.choose.chance(50))


def transpose(b: Builder, x: Value) -> Value:
    perm = b.choose.permutation(x.rank)
    if b.choose.chance(30):
        return b.node("Transpose", x, shape=x.shape[::-1])
    y = b.node("Transpose", x, shape=[x.shape[p] for p in perm], perm=perm)
    if b.choose.chance(60):
        y = unary(b, y)
        y = b.node("Transpose", y, shape=x.shape, perm=[perm.index(a) for a in range(x.rank)])
    return y


def concat(b: Builder, x: Value) -> Value | None:
    axes = known_axes(x)
    if not axes:
        return None
    axis = b.choose.pick(axes)
    rest = [s for a, s in enumerate(x.shape) if a != axis]
    other = b.recent(
        lambda v: v.rank == x.rank and v.static(axis) and [s for a, s in enumerate(v.shape) if a != axis] == rest
    )
    parts = [x, other or x]
    if all(isinstance(s, int) for s in rest) and b.choose.chance(20):
        parts.append(b.weight([*map(int, x.shape[:axis]), 2, *map(int, x.shape[axis + 1 :])], 1.0))
    size = sum(int(p.shape[axis]) for p in parts)
    if size > 24:
        return None
    return b.node(
        "Concat",
        *parts,
        shape=[*x.shape[:axis], size, *x.shape[axis + 1 :]],
        axis=axis if b.choose.chance(60) else axis - x.rank,
    )


def split_rejoin(b: Builder, x: Value) -> Value | None:
    """Unequal pieces, one of them changed, rejoined in another order."""
    axes = [a for a in known_axes(x) if int(x.shape[a]) >= 3]
    if not axes:
        return None
    axis = b.choose.pick(axes)
    size = int(x.shape[axis])
    first = b.choose.integer(1, size - 2)
    parts = split(b, x, axis, [first, 1, size - first - 1])
    parts[0] = unary(b, parts[0])
    order = b.choose.permutation(3)
    kept = order if b.choose.chance(60) else order[:2]
    if len(kept) < 3:
        total = sum(int(parts[i].shape[axis]) for i in kept)
    else:
        total = size
    return b.node("Concat", *[parts[i] for i in kept], shape=[*x.shape[:axis], total, *x.shape[axis + 1 :]], axis=axis)


def slice_any(b: Builder, x: Value) -> Value | None:
    axes = known_axes(x)
    if not axes:
        return None
    axis = b.choose.pick(axes)
    size = int(x.shape[axis])
    start, end = b.choose.integer(0, size - 1), size
    end = b.choose.integer(start + 1, size)
    style = b.choose.pick(["plain", "step", "reverse", "negative"])
    if style == "plain" or b.opset < 10:
        return slice_(b, x, axis, start, end, 1, end - start)
    if style == "step":
        return slice_(b, x, axis, start, 2**31, 2, -(-(size - start) // 2))
    if style == "reverse":
        return slice_(b, x, axis, -1, -(2**31), -1, size)
    return slice_(b, x, axis, start - size, 2**62, 1, size - start)


def gather(b: Builder, x: Value) -> Value | None:
    axes = known_axes(x)
    if not axes:
        return None
    axis = b.choose.pick(axes)
    size = int(x.shape[axis])
    style = b.choose.pick(["constant", "scalar", "runtime", "matrix", "negative"])
    if style == "runtime":
        index = b.input([3], INT64, (-size if b.opset >= 11 else 0, size))
    elif style == "scalar":
        index = b.const(np.array(b.choose.integer(0, size - 1), np.int64), "i")
    elif style == "matrix" and x.rank < 4:
        index = b.const(b.rng.integers(0, size, [2, 2]), "i")
    elif style == "negative" and b.opset >= 11:
        index = b.const(b.rng.integers(-size, size, [size]), "i")
    else:
        index = b.const(b.rng.integers(0, size, [b.choose.integer(1, size)]), "i")
    shape = [*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]]
    if not shape:
        return None
    return b.node("Gather", x, index, shape=shape, axis=axis if b.choose.chance(60) else axis - x.rank)


def gather_fine(b: Builder, x: Value) -> Value | None:
    """GatherElements and GatherND on static tails, ScatterElements and ScatterND with constant indices."""
    if b.opset < 11 or x.rank < 2 or not x.static(*range(1, x.rank)):
        return None
    style = b.choose.pick(["GatherND", "GatherElements", "ScatterElements", "ScatterND"])
    tail = [int(s) for s in x.shape[1:]]
    if style == "GatherND" and b.opset >= 12:
        # (N, ...) with batch_dims 0 would index the batch: move it out of the way first.
        y = b.node("Transpose", x, shape=[*x.shape[1:], x.shape[0]], perm=[*range(1, x.rank), 0])
        index = b.const(b.rng.integers(0, tail[0], [4, 1]), "i")
        y = b.node("GatherND", y, index, shape=[4, *tail[1:], x.shape[0]])
        return b.node("Transpose", y, shape=[x.shape[0], 4, *tail[1:]], perm=[x.rank - 1, *range(x.rank - 1)])
    if style in ("GatherElements", "ScatterElements"):
        y = b.node("Transpose", x, shape=[*x.shape[1:], x.shape[0]], perm=[*range(1, x.rank), 0])
        flat = b.node("Reshape", y, b.ints(tail[0], -1), shape=[tail[0], times(x.shape[0], *tail[1:])])
        index = b.const(b.rng.permutation(tail[0])[: max(tail[0] - 1, 1)].reshape(-1, 1), "i")
        k = int(index.shape[0])  # only the first column is touched: indices need not span the other axes
        if style == "GatherElements":
            return b.node("GatherElements", flat, index, shape=[k, 1], axis=0)
        return b.node("ScatterElements", flat, index, b.weight([k, 1], 1.0), shape=flat.shape, axis=0)
    y = b.node("Transpose", x, shape=[*x.shape[1:], x.shape[0]], perm=[*range(1, x.rank), 0])
    index = b.const(b.rng.permutation(tail[0])[:2].reshape(-1, 1), "i")
    source = b.node(
        "Gather",
        y,
        b.const(b.rng.integers(0, tail[0], int(index.shape[0])), "i"),
        shape=[int(index.shape[0]), *tail[1:], x.shape[0]],
        axis=0,
    )
    return b.same("ScatterND", y, index, b.same("Neg", source))


def expand_tile(b: Builder, x: Value) -> Value | None:
    if not x.static(*range(1, x.rank)) or int(np.prod([int(s) for s in x.shape[1:]])) > 60:
        return None
    axis = b.choose.integer(1, x.rank - 1) if x.rank > 1 else 0
    if b.choose.chance(50):
        repeats = [2 if a == axis else 1 for a in range(x.rank)]
        return b.node("Tile", x, b.ints(*repeats), shape=[times(s, r) for s, r in zip(x.shape, repeats, strict=False)])
    y = unsqueeze(b, x, [x.rank])
    target = b.ints(*[1] * x.rank, 3)
    if b.choose.chance(40):  # the target copies the shape of a value that may itself be narrowed
        shape = b.node("Shape", x, shape=[x.rank], dtype=INT64)
        target = b.node("Concat", shape, b.ints(3), shape=[x.rank + 1], dtype=INT64, axis=0)
    y = b.node("Expand", y, target, shape=[*x.shape, 3])
    return reduce_over(b, "ReduceSum", y, [b.choose.pick([x.rank, max(x.rank - 1, 1)])], False)


def reshape(b: Builder, x: Value) -> Value | None:
    """Merge, split, insert and remove axes, in every spelling of the target."""
    style = b.choose.pick(["merge", "split", "ones", "roundtrip", "flatten", "like"])
    if style == "ones" and x.rank <= 4:
        axis = b.choose.integer(0, x.rank)
        y = unary(b, unsqueeze(b, x, [axis]))
        return squeeze(b, y, [axis]) if b.choose.chance(70) else y
    if style == "merge" and x.rank >= 3:
        axis = b.choose.integer(0, x.rank - 2)
        shape = [*x.shape[:axis], times(*x.shape[axis : axis + 2]), *x.shape[axis + 2 :]]
        return b.node("Reshape", x, target(b, x, axis, shape), shape=shape)
    axes = [a for a in known_axes(x) if int(x.shape[a]) % 2 == 0]
    if style in ("split", "roundtrip") and axes and x.rank <= 4:
        axis = b.choose.pick(axes)
        left = b.choose.pick([2, int(x.shape[axis]) // 2])
        shape = [*x.shape[:axis], left, int(x.shape[axis]) // left, *x.shape[axis + 1 :]]
        if sum(isinstance(s, str) for s in shape) > 1:
            return None
        y = b.node("Reshape", x, b.ints(*[-1 if isinstance(s, str) else s for s in shape]), shape=shape)
        if style == "split":
            return y
        y = reduce_over(b, "ReduceSum", y, [axis], True) if b.choose.chance(30) else unary(b, y)
        if y.shape[axis] != left:
            return squeeze(b, y, [axis])
        return b.node("Reshape", y, computed_shape(b, x, [0], [int(s) for s in x.shape[1:]]), shape=x.shape) \
            if x.static(*range(1, x.rank)) else None  # fmt: skip
    if style == "like":
        shape_ = b.node("Shape", x, shape=[x.rank], dtype=INT64)
        flat = b.node("Reshape", x, b.ints(-1), shape=[times(*x.shape)])
        return b.node("Reshape", unary(b, flat), shape_, shape=x.shape)
    if x.rank >= 2:
        axis = b.choose.integer(1, x.rank - 1)
        return b.node("Flatten", x, shape=[times(*x.shape[:axis]), times(*x.shape[axis:])], axis=axis)
    return None


def target(b: Builder, x: Value, axis: int, shape: list[int | str]) -> Value:
    """Target of a reshape that merges axes `axis` and `axis + 1` of x: zeros before it, -1, or numbers."""
    symbolic = [a for a, s in enumerate(shape) if isinstance(s, str)]
    if not symbolic and b.choose.chance(50):
        return b.ints(*map(int, shape))
    entries = []
    for a, s in enumerate(shape):
        if a == axis:
            entries.append(-1)
        elif a < axis:
            entries.append(0)
        else:
            entries.append(s)
    if all(isinstance(e, int) for e in entries):
        return b.ints(*map(int, entries))
    return computed_shape_of(b, x, axis, shape)


def computed_shape_of(b: Builder, x: Value, axis: int, shape: list[int | str]) -> Value:
    """Shape(x)[:axis] ++ [-1] ++ Shape(x)[axis+2:]."""
    full = b.node("Shape", x, shape=[x.rank], dtype=INT64)
    parts = [slice_(b, full, 0, 0, axis, 1, axis)] if axis else []
    parts.append(b.ints(-1))
    if axis + 2 < x.rank:
        parts.append(slice_(b, full, 0, axis + 2, x.rank, 1, x.rank - axis - 2))
    return b.node("Concat", *parts, shape=[len(shape)], dtype=INT64, axis=0)


def pins(b: Builder, x: Value) -> Value | None:
    """Operators over an axis whose slots all matter: sorting, counting, cumulating."""
    axes = known_axes(x)
    if not axes:
        return None
    axis = b.choose.pick(axes)
    size = int(x.shape[axis])
    style = b.choose.pick(["CumSum", "TopK", "ArgMax", "Trilu", "OneHot", "ReverseSequence"])
    if style == "CumSum" and b.opset >= 11:
        return b.same("CumSum", x, b.const(np.array(axis, np.int64), "i"), reverse=b.choose.pick([None, 1]))
    if style == "TopK" and b.opset >= 11:
        k = max(size - 1, 1)
        shape = [*x.shape[:axis], k, *x.shape[axis + 1 :]]
        return b.nodes_many("TopK", x, b.ints(k), shapes=[shape, shape], axis=axis)[0]
    if style in ("ArgMax", "OneHot"):
        y = b.node("ArgMax", x, shape=[1 if a == axis else s for a, s in enumerate(x.shape)], dtype=INT64, axis=axis)
        if style == "OneHot" and b.opset >= 11:
            values = b.const(np.array([0.0, 1.0]))
            depth = b.const(np.array(size, np.int64), "i")
            return b.node("OneHot", y, depth, values, shape=[*y.shape, size], dtype=x.dtype)
        return b.node("Cast", y, shape=y.shape, dtype=x.dtype, to=x.dtype)
    if style == "Trilu" and b.opset >= 14 and x.rank >= 2:
        return b.same("Trilu", x, upper=b.choose.pick([0, 1]))
    return None


def dropout(b: Builder, x: Value) -> Value:
    return b.same("Dropout", b.same("Identity", x)) if b.choose.chance(50) else b.same("Dropout", x)


ANY_OPS = (
    unary, with_constant, binary, guarded, broadcast, where, clip, softmax, reduce, transpose, concat, split_rejoin,
    slice_any, gather, reshape, expand_tile, gather_fine, cast, pins, dropout,
)  # fmt: skip
