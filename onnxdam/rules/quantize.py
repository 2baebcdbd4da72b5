"""Linear quantisation.

    DequantizeLinear          y = (x - zero) * scale               per tensor, per axis, or in blocks of an axis
    QuantizeLinear            y = saturate(round(x / scale) + zero)   round half to even
    DynamicQuantizeLinear     the same, scale and zero from the range of x together with 0
    QLinear* (elementwise)    y = Q(f(DQ(a), DQ(b), ...))

A quantised zero is the zero point. Quantised weights stay quantised: their content is known, but the integer
initializer, its scale and its zero point are what is narrowed. The range that DynamicQuantizeLinear measures includes
0 anyway, so slots that are zero may leave; every other slot takes part in the scale.

Constants that land too near a rounding tie are not followed: the last bit of a float decides which integer they become.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

from onnxdam.analysis.infer import infer_node
from onnxdam.analysis.tensor import Array, Axis, Mask, Tensor
from onnxdam.rules.base import Op, Pinned, Product, Relation, Rule, Same, adopt_shape, pin_all, same, same_axes
from onnxdam.rules.elementwise import Elementwise
from onnxdam.rules.movement import unread_pieces

if TYPE_CHECKING:
    from onnxdam.rewrite.slim import Slim

OPSET = 17  # of the standard operators whose shape inference is used
TIE = 1e-3, 4e-6  # how far from k + 1/2 a number must be to be rounded safely: at 0, and per unit of its size


# -- numbers -----------------------------------------------------------------------------------------------------------
def integer_range(dtype: np.dtype | None) -> tuple[int, int] | None:
    """Least and greatest number of an integer type (4-bit types included), None for other types."""
    try:
        info = ml_dtypes.iinfo(dtype)
    except (ValueError, TypeError):
        return None
    return int(info.min), int(info.max)


def encode(value: Array, scale: Array | float, zero: Array | float, dtype: np.dtype | None) -> Array:
    """saturate(round(value / scale) + zero); NaN where the rounding is not certain or the type is no integer."""
    limits = integer_range(dtype)
    with np.errstate(all="ignore"):
        exact = np.asarray(value, np.float64) / np.asarray(scale, np.float64)
        nearest = np.rint(exact) + zero
    if limits is None:
        return np.full(np.shape(nearest), np.nan)
    low, high = limits
    margin = TIE[0] + TIE[1] * np.abs(exact)
    certain = (np.abs(exact - np.floor(exact) - 0.5) > margin) | (nearest < low - 1) | (nearest > high + 1)
    return np.where(certain & np.isfinite(exact), np.clip(nearest, low, high), np.nan)


def decode(number: Array, scale: Array | float, zero: Array | float) -> Array:
    """(number - zero) * scale."""
    return (np.asarray(number, np.float64) - zero) * np.asarray(scale, np.float64)


def number(op: Op, index: int, default: float | None = None) -> Array | None:
    """A known parameter in float64: `default` where it is absent, None where it is computed at run time."""
    if not op.has(index):
        return None if default is None else np.asarray(default, np.float64)
    content = op.known(index)
    return None if content is None else content.astype(np.float64)


def scalar(op: Op, index: int, default: float | None = None) -> float | None:
    """The same where it is one number for the whole tensor, else None."""
    content = number(op, index, default)
    if content is None or not content.size or not (content == content.reshape(-1)[0]).all():
        return None
    return float(content.reshape(-1)[0])


def dynamic_source(x: Tensor | None, zero: Tensor | None) -> Tensor | None:
    """The float tensor that DynamicQuantizeLinear made both x and its zero point of, None where none did."""
    maker = None if x is None else x.maker
    if maker is None or zero is None or maker.kind != "DynamicQuantizeLinear" or len(maker.outs) < 3:
        return None
    return maker.x if x is maker.outs[0] and zero is maker.outs[2] else None


def zero_slots(x: Tensor, axis: int, zero: float | None, source: Tensor | None = None) -> Mask | None:
    """Slots of a quantised tensor that stand for zero, None where there are none."""
    if source is not None:
        return source.zeros(axis)
    const = x.const(axis) if zero is not None and (x.any_const or x.is_known) else None
    if const is None:
        return None
    mask = const.mask & (const.value == zero)
    return mask if mask.any() else None


def integer_bias(op: Op, index: int = 2) -> Op | None:
    """The node that dequantises the bias of a contraction of dequantised tensors, where a constant of x can be added to
    its integers exactly: x, weight and bias have scales s, t and s t, and nobody else reads that bias."""
    x, w, bias = op.x, op.tensor(1), op.tensor(index)
    makers = [None if t is None or t.is_leaf else t.maker for t in (x, w, bias)]
    if (
        bias is None
        or len(bias.readers) != 1
        or bias.pinned
        or any(m is None or m.kind != "DequantizeLinear" for m in makers)
    ):
        return None
    source, weight, made = (m for m in makers if m is not None)
    scales = scalar(source, 1), number(weight, 1), number(made, 1)
    if any(s is None for s in scales) or not made.x.is_leaf or made.x.dtype != np.int32 or scalar(made, 2, 0.0) != 0:
        return None
    wanted, found = np.asarray(scales[0] * scales[1]), np.asarray(scales[2])  # type: ignore[operator]
    if wanted.ndim > 1 or found.ndim > 1 or wanted.size > found.size > 1 or made.x.rank != 1:
        return None
    return made if np.allclose(found, wanted, rtol=1e-6, atol=0) else None


def quantised_weight(op: Op) -> bool:
    """Whether the weight is dequantised: then a float bias would keep a runtime from fusing the contraction."""
    w = op.tensor(1)
    return w is not None and not w.is_leaf and w.maker is not None and w.maker.kind == "DequantizeLinear"


def integer_weight(op: Op) -> Op | None:
    """The node that dequantises the weight for this reader alone, by rows at most: its integers can be sliced."""
    w = op.tensor(1)
    made = None if w is None or w.is_leaf else w.maker
    if w is None or made is None or made.kind != "DequantizeLinear" or w.pinned or len(w.readers) != 1:
        return None
    grid = Grid.of(made)
    return made if made.x.is_leaf and not grid.block and grid.axis in (None, 0) else None


def add_to_integers(made: Op, slim: Slim, shift: Array) -> None:
    """Adds `shift` to what a node dequantises; it is a whole multiple of the scale up to rounding."""
    scale = made.known(1)
    assert scale is not None
    old = slim.full_known(made, 0)
    new = old.astype(np.int64) + np.rint(shift / scale.astype(np.float64).reshape(-1)).astype(np.int64)
    slim.set_known(made, 0, new.astype(old.dtype))
    slim.finish(made)


# -- QuantizeLinear, DequantizeLinear ----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Grid:
    """Scale and zero point along an axis of x.

    Attributes:
        axis: the axis that they vary along, None where there is one of each.
        block: slots of that axis that share one (0: each has its own).
    """

    axis: int | None
    block: int

    @classmethod
    def of(cls, op: Op) -> Grid:
        rank, scale = op.x.rank, op.tensor(1)
        if scale is None or scale.rank == 0 or not rank or all(s == 1 for s in scale.shape):
            return cls(None, 0)
        return cls(int(op.attr("axis", 1)) % rank, int(op.attr("block_size", 0)) if scale.rank > 1 else 0)

    def spread(self, parameter: Array, shape: tuple[int, ...]) -> Array:
        """A parameter broadcastable to x of this shape."""
        if self.axis is None or parameter.size == 1:
            return parameter.reshape(())
        if self.block:
            return parameter.repeat(self.block, self.axis).take(np.arange(shape[self.axis]), self.axis)
        return parameter.reshape([-1 if i == self.axis else 1 for i in range(len(shape))])


class Linear(Rule):
    """What both directions share: slots correspond, and scale and zero point go along."""

    folds = False
    note = "quantised"

    def shapes(self, op: Op) -> None:
        adopt_shape(op.x, op.y)

    def beside(self, op: Op, index: int) -> Sequence[int] | None:
        return () if index == 0 and not op.x.opaque and Grid.of(op).axis is None else None

    def relations(self, op: Op) -> Iterator[Relation]:
        x, y, parameters = op.x, op.y, [t for t in op.ins[1:3] if t is not None]
        if x.opaque or y.opaque or any(p.opaque for p in parameters):
            yield from pin_all(op, "unknown rank")
            return
        yield from same_axes(x, y)
        grid = Grid.of(op)
        if grid.axis is None:
            return
        inner = Axis(None, 0, max(grid.block, 1))
        if grid.block > 1:
            yield Pinned(inner, "blocks share a scale")
        for p in parameters:
            yield from self._parameter(x, p, grid, inner)

    @staticmethod
    def _parameter(x: Tensor, p: Tensor, grid: Grid, inner: Axis) -> Iterator[Relation]:
        axis = grid.axis
        assert axis is not None
        if p.rank == 1:
            yield from same(p.axes[0], x.axes[axis])
            return
        if p.rank != x.rank or not grid.block:
            for a in (*p.axes, *x.axes):
                if a.n > 1:
                    yield Pinned(a, "scales of a form that is not known")
            return
        yield from same_axes(p, x, [i for i in range(x.rank) if i != axis])
        outer, whole = p.axes[axis], x.axes[axis]
        if grid.block == 1:
            yield from same(outer, whole)
        elif outer.n > 1 and whole.n == outer.n * grid.block:
            yield Product(whole, (outer, inner))  # blocks leave whole
        else:
            yield from (Pinned(a, "blocks do not divide the axis") for a in (outer, whole) if a.n > 1)

    def transfer(self, op: Op, value: Array, scale: Array, zero: Array) -> Array:
        """Constants of y from constants of x; NaN where they are not certain."""
        raise NotImplementedError

    def constants(self, op: Op) -> None:
        x, y = op.x, op.y
        if x.opaque or y.opaque or y.is_known or not (x.any_const or x.is_known):
            return
        scale, zero = number(op, 1), number(op, 2, 0.0)
        if scale is None or zero is None:
            return
        grid = Grid.of(op)
        for i in range(x.rank):
            const = x.const(i)
            if const is None or y.axes[i].n != len(const.mask):
                continue
            picks = np.flatnonzero(const.mask)
            if grid.axis is None or (grid.axis == i and not grid.block):
                pair = [p.reshape(-1) if p.size == 1 else p[picks] for p in (scale, zero)]
                result = self.transfer(op, const.value[picks], *pair)
            else:
                every = np.unique(np.stack([p.reshape(-1) for p in np.broadcast_arrays(scale, zero)]), axis=1)
                table = self.transfer(op, const.value[picks][:, None], every[:1], every[1:])
                result = np.where((table == table[:, :1]).all(1), table[:, 0], np.nan)
            self._record(y, i, picks, np.broadcast_to(result, picks.shape))

    @staticmethod
    def _record(y: Tensor, axis: int, picks: Array, result: Array) -> None:
        n = y.axes[axis].n
        mask, value = (
            np.zeros(n, bool),
            np.zeros(n, np.float64 if y.dtype is not None and y.dtype.kind == "f" else np.int64),
        )
        certain = np.isfinite(result)
        mask[picks[certain]] = True
        value[picks[certain]] = result[certain]
        if y.dtype is not None and y.dtype.kind == "f":  # as the node rounds it
            value = value.astype(y.dtype).astype(np.float64)
        y.set_const(axis, mask, value)


class DequantizeLinear(Linear):
    """DequantizeLinear."""

    def shapes(self, op: Op) -> None:
        super().shapes(op)
        scale = op.tensor(1)
        if op.y.dtype is None and scale is not None:
            op.y.dtype = scale.dtype

    def evaluate(self, op: Op, *arrays: Array) -> Array | None:
        x, scale = arrays[:2]
        zero = arrays[2] if len(arrays) > 2 else np.zeros((), np.float32)
        if not scale.size or integer_range(x.dtype) is None:
            return None
        grid = Grid.of(op)
        difference = (
            x.astype(np.int64) - grid.spread(zero.astype(np.int64), x.shape) if zero.size else x.astype(np.int64)
        )
        y: Array = difference.astype(np.float32) * grid.spread(scale.astype(np.float32), x.shape)
        return y.astype(op.y.dtype or scale.dtype)

    def transfer(self, op: Op, value: Array, scale: Array, zero: Array) -> Array:
        return (value - zero).astype(np.float32).astype(np.float64) * scale

    def constants(self, op: Op) -> None:
        x, y = op.x, op.y
        super().constants(op)
        if x.opaque or y.opaque or y.is_known:
            return
        self._bound(op)
        zero, source = scalar(op, 2, 0.0), dynamic_source(x, op.tensor(2))
        for i in range(x.rank):  # zero whatever the scale is
            mask = zero_slots(x, i, zero, source)
            if mask is not None and y.axes[i].n == len(mask):
                y.set_const(i, mask, np.zeros(len(mask)))

    @staticmethod
    def _bound(op: Op) -> None:
        limits, scale, zero = integer_range(op.x.dtype), scalar(op, 1), scalar(op, 2, 0.0)
        if limits is not None and scale is not None and zero is not None and scale > 0:
            op.y.lower = (limits[0] - zero) * scale


class QuantizeLinear(Linear):
    """QuantizeLinear."""

    def shapes(self, op: Op) -> None:
        super().shapes(op)
        if op.y.dtype is None:
            zero = op.tensor(2)
            op.y.dtype = np.dtype(np.uint8) if zero is None else zero.dtype

    def evaluate(self, op: Op, *arrays: Array) -> Array | None:
        x, scale = arrays[:2]
        zero = arrays[2] if len(arrays) > 2 else np.zeros((), np.int64)
        limits = integer_range(op.y.dtype)
        if limits is None or not zero.size or x.dtype != np.float32 or scale.dtype != np.float32:
            return None
        grid = Grid.of(op)
        y = np.rint(x / grid.spread(scale, x.shape)).astype(np.float64) + grid.spread(zero.astype(np.float64), x.shape)
        return np.clip(y, *limits).astype(np.int64).astype(op.y.dtype)

    def transfer(self, op: Op, value: Array, scale: Array, zero: Array) -> Array:
        if op.x.dtype is None or op.x.dtype.itemsize < 4:  # too coarse to tell on which side of a tie a constant is
            value = np.where(value == 0, 0.0, np.nan)
        return encode(value, scale, zero, op.y.dtype)


class DynamicQuantizeLinear(Rule):
    """DynamicQuantizeLinear: whatever is not zero takes part in the range."""

    folds = False

    def shapes(self, op: Op) -> None:
        adopt_shape(op.x, op.y)

    def relations(self, op: Op) -> Iterator[Relation]:
        if op.x.opaque or op.y.opaque:
            yield from pin_all(op, "unknown rank")
            return
        yield from same_axes(op.x, op.y)
        yield from ranged(op.x)


def ranged(x: Tensor, axes: range | None = None) -> Iterator[Relation]:
    """Slots that take part in a range which includes 0: all but those that are zero."""
    for i in range(x.rank) if axes is None else axes:
        if x.axes[i].n > 1:
            zeros = x.zeros(i)
            yield Pinned(x.axes[i], "takes part in the range that is quantised", None if zeros is None else ~zeros)


# -- elementwise on quantised operands ---------------------------------------------------------------------------------
class QLinearElementwise(Elementwise):
    """y = Q(f(DQ(a), ...)). Operand k is input 3 k, with scale and zero point behind it; those of y come last.

    Args:
        function: f on constants in float64, called with the op.
        count: number of operands.
    """

    def __init__(self, function: Callable[..., Array], count: int) -> None:
        super().__init__(self._requantised)
        self.real = function
        self.count = count

    def sources(self, op: Op) -> list[Tensor]:
        return [t for k in range(self.count) if (t := op.tensor(3 * k)) is not None]

    def shapes(self, op: Op) -> None:
        super().shapes(op)
        op.y.dtype = op.y.dtype or op.x.dtype

    def relations(self, op: Op) -> Iterator[Relation]:
        yield from pin_all(
            op, "parameters of the quantisation", [t for i, t in enumerate(op.ins) if i % 3 or i >= 3 * self.count]
        )
        yield from super().relations(op)

    def _requantised(self, op: Op, *values: Array) -> Array:
        scales = [scalar(op, 3 * k + 1) for k in range(self.count + 1)]
        zeros = [scalar(op, 3 * k + 2, 0.0) for k in range(self.count + 1)]
        scales[-1], zeros[-1] = scalar(op, 3 * self.count), scalar(op, 3 * self.count + 1, 0.0)
        if any(s is None for s in scales) or any(z is None for z in zeros):
            return np.full(np.broadcast_shapes(*(np.shape(v) for v in values)), np.nan)
        real = [decode(v, s, z) for v, s, z in zip(values, scales, zeros, strict=False)]  # type: ignore[arg-type]
        return encode(self.real(op, *real), scales[-1], zeros[-1], op.y.dtype)  # type: ignore[arg-type]


class QLinearMul(QLinearElementwise):
    """QLinearMul: a zero in either operand is a zero, whatever the other is."""

    def __init__(self) -> None:
        super().__init__(lambda op, a, b: a * b, 2)

    def constants(self, op: Op) -> None:
        super().constants(op)
        y, out = op.y, scalar(op, 7, 0.0)
        if y.opaque or out is None:
            return
        for k, t in enumerate(self.sources(op)):
            for i in range(0 if t.opaque else t.rank):
                j = i + y.rank - t.rank
                mask = zero_slots(t, i, scalar(op, 3 * k + 2, 0.0))
                if mask is not None and y.axes[j].n == len(mask):
                    y.set_const(j, mask, np.full(len(mask), int(out)))


class QLinearPool(Rule):
    """QLinearAveragePool and QLinearGlobalAveragePool, channels first or last.

    Args:
        whole: averages over all positions.
    """

    def __init__(self, *, whole: bool) -> None:
        self.whole = whole

    def shapes(self, op: Op) -> None:
        x, y = op.x, op.y
        y.dtype = y.dtype or x.dtype
        if not x.opaque and y.opaque and self.whole:
            c = self.channel(op)
            y.reshape([s if i in (0, c) else 1 for i, s in enumerate(x.shape)])
        elif not op.attr("channels_last", 0):
            infer_node(op, "AveragePool", 1, OPSET, real=True)

    def channel(self, op: Op) -> int:
        return op.x.rank - 1 if op.attr("channels_last", 0) else 1

    def relations(self, op: Op) -> Iterator[Relation]:
        x, y = op.x, op.y
        yield from pin_all(op, "parameters of the quantisation", op.ins[1:])
        if x.opaque or y.opaque:
            yield from pin_all(op, "unknown rank")
            return
        c = self.channel(op)
        for i in range(x.rank):
            if i in (0, c):
                yield from same(x.axes[i], y.axes[i])
            else:
                yield from (Pinned(a, "pooled over") for a in (x.axes[i], y.axes[i]) if a.n > 1)

    def constants(self, op: Op) -> None:
        x, y = op.x, op.y
        p = scalar(op, 1), scalar(op, 2, 0.0), scalar(op, 3), scalar(op, 4, 0.0)
        if x.opaque or y.opaque or not x.any_const or any(v is None for v in p):
            return
        counted = bool(op.attr("count_include_pad", 0))
        for i in (0, self.channel(op)):
            const = x.const(i)
            if const is not None and y.axes[i].n == len(const.mask):
                mask = const.mask & (const.value == p[1]) if counted else const.mask
                value = encode(decode(const.value, p[0], p[1]), p[2], p[3], y.dtype)  # type: ignore[arg-type]
                mask = mask & np.isfinite(value)
                y.set_const(i, mask, np.where(mask, value, 0).astype(np.int64))


class QLinearConcat(Rule):
    """QLinearConcat: pieces are inputs 2, 5, 8 ..., each with its scale and zero point; those of y come first."""

    operands = "pieces"

    def pieces(self, op: Op) -> list[tuple[int, Tensor]]:
        return [(i, t) for i in range(2, len(op.ins), 3) if (t := op.tensor(i)) is not None]

    def axis(self, op: Op) -> int:
        return int(op.attr("axis", 1)) % op.y.rank

    def shapes(self, op: Op) -> None:
        pieces, y = [t for _, t in self.pieces(op)], op.y
        y.dtype = y.dtype or pieces[0].dtype
        if any(t.opaque for t in pieces) or not y.opaque:
            return
        axis = int(op.attr("axis", 1)) % pieces[0].rank
        sizes = [t.shape[axis] for t in pieces]
        if all(isinstance(s, int) for s in sizes):
            y.reshape(
                [sum(s for s in sizes if isinstance(s, int)) if i == axis else s for i, s in enumerate(pieces[0].shape)]
            )

    def relations(self, op: Op) -> Iterator[Relation]:
        pieces, y = self.pieces(op), op.y
        where = {i for i, _ in pieces}
        yield from pin_all(op, "parameters of the quantisation", [t for i, t in enumerate(op.ins) if i not in where])
        if y.opaque or any(t.opaque or not isinstance(t.shape[self.axis(op)], int) for _, t in pieces):
            yield from pin_all(op, "pieces of unknown extent")
            return
        axis, offset = self.axis(op), 0
        for _, t in pieces:
            n = t.axes[axis].n
            yield Same(t.axes[axis], y.axes[axis], None, np.arange(offset, offset + n))
            offset += n
            yield from same_axes(t, y, [i for i in range(y.rank) if i != axis])

    def constants(self, op: Op) -> None:
        pieces, y = self.pieces(op), op.y
        out_scale, out_zero = scalar(op, 0), scalar(op, 1, 0.0)
        if y.opaque or out_scale is None or out_zero is None or any(t.opaque for _, t in pieces):
            return
        axis, offset = self.axis(op), 0
        mask, value = np.zeros(y.axes[axis].n, bool), np.zeros(y.axes[axis].n, np.int64)
        for i, t in pieces:
            n = t.axes[axis].n
            const = t.const(axis) if t.any_const or t.is_known else None
            scale, zero = scalar(op, i + 1), scalar(op, i + 2, 0.0)
            if const is not None and scale is not None and zero is not None:
                new = encode(decode(const.value, scale, zero), out_scale, out_zero, y.dtype)
                certain = const.mask & np.isfinite(new)
                mask[offset : offset + n] = certain
                value[offset : offset + n] = np.where(certain, new, 0)
            offset += n
        y.set_const(axis, mask, value)

    def rewrite(self, op: Op, slim: Slim) -> None:
        if op.y.opaque:
            return
        gone = unread_pieces(op, self.axis(op), slim)
        if gone:
            slim.drop_inputs(op, [i + k for i in gone for k in range(3)])


class QLinearSoftmax(Rule):
    """QLinearSoftmax: normalises over one axis (over all axes from it on in older opsets)."""

    def shapes(self, op: Op) -> None:
        adopt_shape(op.x, op.y)
        op.y.dtype = op.y.dtype or op.x.dtype

    def relations(self, op: Op) -> Iterator[Relation]:
        x, y = op.x, op.y
        yield from pin_all(op, "parameters of the quantisation", op.ins[1:])
        if x.opaque or y.opaque:
            yield from pin_all(op, "unknown rank")
            return
        axis = int(op.attr("axis", -1)) % x.rank
        over = range(axis, x.rank) if int(op.attr("opset", 13)) < 13 else range(axis, axis + 1)
        yield from same_axes(x, y, [i for i in range(x.rank) if i not in over])
        for i in over:
            yield from (Pinned(a, "normalised over") for a in (x.axes[i], y.axes[i]) if a.n > 1)


def _leaky(op: Op, x: Array) -> Array:
    return np.where(x < 0, op.attr("alpha", 0.01) * x, x)


TABLE: dict[tuple[str, str], Rule] = {
    ("", "DequantizeLinear"): DequantizeLinear(),
    ("", "QuantizeLinear"): QuantizeLinear(),
    ("", "DynamicQuantizeLinear"): DynamicQuantizeLinear(),
    ("com.microsoft", "DequantizeLinear"): DequantizeLinear(),
    ("com.microsoft", "QuantizeLinear"): QuantizeLinear(),
    ("com.microsoft", "QLinearAdd"): QLinearElementwise(lambda op, a, b: a + b, 2),
    ("com.microsoft", "QLinearMul"): QLinearMul(),
    ("com.microsoft", "QLinearSigmoid"): QLinearElementwise(lambda op, x: 1 / (1 + np.exp(-x)), 1),
    ("com.microsoft", "QLinearLeakyRelu"): QLinearElementwise(_leaky, 1),
    ("com.microsoft", "QLinearAveragePool"): QLinearPool(whole=False),
    ("com.microsoft", "QLinearGlobalAveragePool"): QLinearPool(whole=True),
    ("com.microsoft", "QLinearConcat"): QLinearConcat(),
    ("com.microsoft", "QLinearSoftmax"): QLinearSoftmax(),
}
