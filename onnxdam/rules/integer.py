"""Contractions of quantised tensors: y = sum over k of (x[k] - x_zero) * (w[k] - w_zero), exact in integers.

    ConvInteger, MatMulInteger      y is that sum
    QLinearConv, QLinearMatMul      y = saturate(round((sum + b) * x_scale * w_scale / y_scale) + y_zero)
    QGemm                           the same, or a float where y has no scale
    MatMulIntegerToFloat            y = sum * x_scale * w_scale + b
    DynamicQuantizeMatMul           the same, x quantised on the way

What counts as zero is the zero point, on either side, per output channel too. Padding is made of zero points. A
constant that is not the zero point is absorbed only where there is an integer bias and no padding: that is exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxdam.analysis.infer import infer_node
from onnxdam.analysis.tensor import Array, Axis, Const, Mask, Tensor
from onnxdam.rules import contract
from onnxdam.rules.base import (
    Blocked,
    Blocks,
    Contract,
    Op,
    Pinned,
    Product,
    Relation,
    Rule,
    Same,
    adopt_shape,
    pin_all,
    same,
)
from onnxdam.rules.matmul import MatMul
from onnxdam.rules.quantize import OPSET, dynamic_source, encode, number, ranged, scalar, zero_slots

if TYPE_CHECKING:
    from onnxdam.rewrite.slim import Slim

NOT_KNOWN = float("nan")  # equals nothing: no slot counts as zero


@dataclass(frozen=True)
class Layout:
    """Which input is what; -1 where the operator has none.

    Attributes:
        per_row: parameters that may have one entry per row of x.
        per_output: parameters that may have one entry per output slot.
    """

    x: int
    w: int
    x_zero: int
    w_zero: int
    x_scale: int = -1
    w_scale: int = -1
    y_scale: int = -1
    y_zero: int = -1
    bias: int = -1

    @property
    def per_row(self) -> tuple[int, ...]:
        return tuple(i for i in (self.x_scale, self.x_zero) if i >= 0)

    @property
    def per_output(self) -> tuple[int, ...]:
        return tuple(i for i in (self.w_scale, self.w_zero) if i >= 0)

    def tensor(self, op: Op, index: int) -> Tensor | None:
        return None if index < 0 else op.tensor(index)


def x_slots(op: Op, at: Layout) -> tuple[Tensor, float]:
    """The tensor whose constants tell which slots of x are zero, and the number that is zero there.

    Behind DynamicQuantizeLinear that is the float tensor: its zeros become zero points, whatever those are.
    """
    x, zero = op.tensor(at.x), at.tensor(op, at.x_zero)
    assert x is not None
    source = dynamic_source(x, zero)
    if source is not None:
        return source, 0.0
    known = scalar(op, at.x_zero, 0.0) if at.x_zero >= 0 else 0.0
    return x, NOT_KNOWN if known is None else known


def live_slots(op: Op, at: Layout, axis: int, *, padded: bool = False) -> tuple[Mask, Array]:
    """`contract.live_slots` of x, in units of x_scale."""
    x, zero = x_slots(op, at)
    if np.isnan(zero):
        n = x.axes[axis].n
        return np.ones(n, bool), np.zeros(n)
    # the value of a float tensor says nothing about the integer it becomes, unless it is zero
    return contract.live_slots(x, axis, padded=padded or x is not op.tensor(at.x), zero=zero)


def requantised(op: Op, at: Layout, found: Const | None) -> Const | None:
    """Constant sums as the constants of y that they become."""
    if found is None or at.y_scale < 0:
        return found
    scales = [number(op, i) for i in (at.x_scale, at.w_scale, at.y_scale)]
    zero = scalar(op, at.y_zero, 0.0)
    if any(s is None for s in scales) or zero is None:
        return None
    x_scale, w_scale, y_scale = (s.reshape(-1) for s in scales if s is not None)
    if x_scale.size > 1 or w_scale.size not in (1, len(found.mask)):
        return None
    y = encode(found.value, y_scale / (x_scale * w_scale), zero, op.y.dtype)
    mask = found.mask & np.isfinite(y)
    return Const(mask, np.where(mask, y, 0).astype(np.int64))


def follow(parameters: list[Tensor | None], axis: Axis) -> Iterator[Relation]:
    """Parameters with one entry per slot of the axis go along with it; those with one entry are left alone."""
    for p in parameters:
        if p is None:
            continue
        if p.opaque or p.rank > 1:
            yield from (Pinned(a, "parameters of a form that is not known") for a in (*p.axes, axis) if a.n > 1)
        elif p.rank == 1 and p.shape[0] != 1:
            yield from same(p.axes[0], axis)


# -- convolutions ------------------------------------------------------------------------------------------------------
class IntegerConv(Rule):
    """ConvInteger and QLinearConv.

    Args:
        at: which input is what.
    """

    def __init__(self, at: Layout) -> None:
        self.at = at

    def shapes(self, op: Op) -> None:
        if op.node.domain and not op.attr("channels_last", 0):
            infer_node(op, "QLinearConv", 9, OPSET)
        if not op.y.opaque and not op.x.opaque:
            adopt_shape(op.x, op.y, [0])

    @staticmethod
    def group(op: Op) -> int:
        return int(op.attr("group", 1))

    def weight(self, op: Op) -> Tensor:
        w = op.tensor(self.at.w)
        assert w is not None
        return w

    def relations(self, op: Op) -> Iterator[Relation]:
        x, y, w = op.x, op.y, self.weight(op)
        if x.opaque or y.opaque or w.opaque or op.attr("channels_last", 0) or not isinstance(x.shape[1], int):
            yield from pin_all(op, "unknown rank or channels, or channels last")
            return
        yield from same(x.axes[0], y.axes[0])
        for axis in (*x.axes[2:], *y.axes[2:], *w.axes[2:]):
            if axis.n > 1:
                yield Pinned(axis, "convolved over")
        yield from follow([self.at.tensor(op, i) for i in (*self.at.per_output, self.at.bias)], y.axes[1])
        yield from follow([self.at.tensor(op, i) for i in self.at.per_row], Axis(None, 0, 0))
        yield from (
            Blocked(axis) for axis in (x.axes[1], y.axes[1]) if axis.n > 1
        )  # 127 channels: 1.27 x as slow as 128
        yield from self._channels(op, x, y, w)

    def _channels(self, op: Op, x: Tensor, y: Tensor, w: Tensor) -> Iterator[Relation]:
        group = self.group(op)
        source, zero = x_slots(op, self.at)
        if group == 1:
            yield from same(w.axes[0], y.axes[1])
            yield from same(x.axes[1], w.axes[1])
            if x.axes[1].n == w.axes[1].n:
                yield Contract(source.axes[1], w, 1, 0, self.absorb(op), zero, self.weight_zero(op))
        elif group == x.axes[1].n == y.axes[1].n:
            yield from same(x.axes[1], y.axes[1])
            yield from same(w.axes[0], y.axes[1])
        elif not w.is_leaf:
            yield from (
                Pinned(a, "grouped, weights computed at run time")
                for a in (x.axes[1], y.axes[1], *w.axes[:2])
                if a.n > 1
            )
        else:
            yield Same(w.axes[0], y.axes[1])
            if w.axes[1].n > 1:
                yield Pinned(w.axes[1], "sliced block by block")
            yield Blocks(source.axes[1], y.axes[1], group, w, None, zero, self.weight_zero(op))

    def weight_zero(self, op: Op) -> Array:
        """What counts as zero in the weight, broadcastable to it; NaN where it is not known."""
        zero = number(op, self.at.w_zero, 0.0)
        if zero is None:
            return np.asarray(NOT_KNOWN)
        return zero.reshape(()) if zero.size == 1 else zero.reshape(-1, *[1] * (self.weight(op).rank - 1))

    def absorb(self, op: Op) -> str | None:
        if self.at.bias < 0 or self.padded(op) or dynamic_source(op.x, self.at.tensor(op, self.at.x_zero)) is not None:
            return None
        bias = op.tensor(self.at.bias)
        known = number(op, self.at.w_zero, 0.0) is not None and x_slots(op, self.at)[1] == x_slots(op, self.at)[1]
        return "bias" if known and self.weight(op).is_leaf and (bias is None or bias.is_leaf) else None

    def padded(self, op: Op) -> bool:
        mode = op.attr("auto_pad", "NOTSET")
        if mode in ("SAME_UPPER", "SAME_LOWER"):
            return any(t != 1 for t in self.weight(op).shape[2:])
        return mode == "NOTSET" and any(op.attr("pads", ()))

    def centred(self, op: Op) -> Array | None:
        """The weight minus its zero point, None where either is computed at run time."""
        w, zero = op.known(self.at.w), self.weight_zero(op)
        return None if w is None or np.isnan(zero).any() else w.astype(np.int32) - zero.astype(np.int32)

    def constants(self, op: Op) -> None:
        weight = self.centred(op)
        bias = number(op, self.at.bias, 0.0) if self.at.bias >= 0 else np.zeros(())
        if weight is None or bias is None or op.x.opaque or op.y.opaque or op.attr("channels_last", 0):
            return
        live, values = live_slots(op, self.at, 1, padded=self.padded(op))
        group = self.group(op)
        if group > 1:
            per_x, per_y = len(live) // group, len(weight) // group
            block = np.repeat(np.arange(group), per_y)
            taps = weight.reshape(*weight.shape[:2], -1)
            mask = np.asarray(~(taps.astype(bool).any(2) & live.reshape(group, per_x)[block]).any(1))
            level = (taps.astype(np.float64).sum(2) * values.reshape(group, per_x)[block]).sum(1)
            found: Const | None = Const(mask, np.where(mask, level + bias, 0))
        else:
            found = contract.constant_rows(weight, live, values, bias)
        found = requantised(op, self.at, found)
        if found is not None:
            op.y.set_const(1, found.mask, found.value.astype(np.int64))

    def rewrite(self, op: Op, slim: Slim) -> None:
        if self.group(op) > 1:
            self._rewrite_groups(op, slim)
            return
        if self.absorb(op) is None:
            return
        removed, weight = removed_slots(op, self.at, slim, 1), self.centred(op)
        if removed is not None and weight is not None:
            add_to_bias(op, slim, self.at.bias, contract.contribution(weight, removed), (op.y, 1))

    def _rewrite_groups(self, op: Op, slim: Slim) -> None:
        x, y, w, group = op.x, op.y, self.weight(op), self.group(op)
        kept, rows = slim.slots(x, 1), slim.slots(y, 1)
        if len(kept) == x.axes[1].n and len(rows) == y.axes[1].n:
            return
        per_x, per_y = x.axes[1].n // group, y.axes[1].n // group
        if per_x > 1 and w.is_leaf:
            columns = [kept[kept // per_x == row // per_y] % per_x for row in rows]
            slim.set_sliced(op, self.at.w, np.stack([w.content[row][c] for row, c in zip(rows, columns, strict=True)]))
        slim.set_attr(op, "group", len(np.unique(kept // per_x)))


def removed_slots(op: Op, at: Layout, slim: Slim, axis: int) -> Array | None:
    """What the slots of x that leave add, in units of x_scale; None where all of them are zero points."""
    x, zero = x_slots(op, at)
    const = x.const(axis) if x.any_const else None
    if const is None or not slim.narrowed(x, axis):
        return None
    values = np.where(const.mask & ~slim.need.kept(x.axes[axis]), const.value - zero, 0).astype(np.float64)
    return values if values.any() else None


def add_to_bias(op: Op, slim: Slim, index: int, shift: Array, like: tuple[Tensor, int]) -> None:
    """Adds whole numbers to an int32 bias, which is made where there is none."""
    axis = like[0].axes[like[1]]
    if axis.n > 1:
        shift = np.where(slim.need.kept(axis), shift, 0)
    if not shift.any():
        return
    old = op.known(index)
    bias = shift if old is None else slim.full_known(op, index).reshape(-1).astype(np.float64) + shift
    shape = bias.shape if old is None or old.size != bias.size else old.shape
    slim.set_known(op, index, np.rint(bias).astype(np.int32).reshape(shape), like=like)


# -- matrix products ---------------------------------------------------------------------------------------------------
class IntegerMatMul(MatMul):
    """MatMulInteger, QLinearMatMul, MatMulIntegerToFloat: quantised MatMul, batched, either side the weight.

    Args:
        at: which input is what; `x` is the left factor, `w` the right one.
    """

    def __init__(self, at: Layout) -> None:
        self.at = at
        self.factors = (at.x, at.w)

    def shapes(self, op: Op) -> None:
        super().shapes(op)
        if op.y.dtype is None:
            out = self.at.tensor(op, self.at.y_zero) or self.at.tensor(op, self.at.x_scale)
            op.y.dtype = out.dtype if out is not None else None

    def relations(self, op: Op) -> Iterator[Relation]:
        a, b = self.pair(op)
        y = op.y
        if a.opaque or b.opaque or y.opaque or a.rank < 2 or b.rank < 2:
            yield from pin_all(op, "unknown rank, or a vector")
            return
        yield from follow([self.at.tensor(op, i) for i in self.at.per_row], a.axes[-2])
        yield from follow([self.at.tensor(op, i) for i in (*self.at.per_output, self.at.bias)], b.axes[-1])
        yield from same(a.axes[-1], b.axes[-2])
        if a.axes[-1].n == b.axes[-2].n and a.axes[-1].n > 1:
            yield self._contraction(op, a, b)
        yield from same(a.axes[-2], y.axes[-2])
        yield from same(b.axes[-1], y.axes[-1])
        yield from self._batch(a, b, y)

    def _contraction(self, op: Op, a: Tensor, b: Tensor) -> Contract:
        source, zero = x_slots(op, self.at)
        right = self.right_zero(op)
        if a.is_known and not b.is_known:
            left = number(op, self.at.x_zero, 0.0)
            left = (
                np.asarray(NOT_KNOWN) if left is None else left.reshape(()) if left.size == 1 else left.reshape(-1, 1)
            )
            level = scalar(op, self.at.w_zero, 0.0)
            return Contract(b.axes[-2], a, a.rank - 1, a.rank - 2, None, NOT_KNOWN if level is None else level, left)
        return Contract(source.axes[-1], b, b.rank - 2, b.rank - 1, self.absorb(op), zero, right)

    def right_zero(self, op: Op) -> Array:
        zero = number(op, self.at.w_zero, 0.0)
        return np.asarray(NOT_KNOWN) if zero is None or zero.ndim > 1 else zero.reshape(()) if zero.size == 1 else zero

    def absorb(self, op: Op) -> str | None:
        return None

    def scaled_by(self, op: Op, axis: int, *, positive: bool) -> dict[int, int] | None:
        """Integers cannot be scaled."""
        return None

    def weight_of(self, op: Op, index: int, axis: int) -> tuple[int, int] | None:
        return None

    def rewrite(self, op: Op, slim: Slim) -> None:
        """Only the weights are narrowed."""

    def bias(self, op: Op) -> Array | None:
        """What is added to the sum, in its units: 0 where there is no bias, None where that is not a whole number."""
        return None if self.at.bias >= 0 and op.has(self.at.bias) else np.zeros(())

    def constants(self, op: Op) -> None:
        a, b = self.pair(op)
        y, bias = op.y, self.bias(op)
        if a.opaque or b.opaque or y.opaque or min(a.rank, b.rank) < 2 or bias is None:
            return
        right = self.right_zero(op)
        if b.is_known and b.rank == 2 and not np.isnan(right).any():
            weight = (b.content.astype(np.int32) - right.astype(np.int32)).T
            live, values = live_slots(op, self.at, -1)
            self._record(op, y.rank - 1, contract.constant_rows(weight, live, values, bias))
        if not bias.any():
            self._silent(op, a, b, y)

    def _silent(self, op: Op, a: Tensor, b: Tensor, y: Tensor) -> None:
        """A row, column or batch of zero points on either side makes the sum zero."""
        source, zero = x_slots(op, self.at)
        other = scalar(op, self.at.w_zero, 0.0)
        sides = [(source, a.rank - 1, None if np.isnan(zero) else zero), (b, b.rank - 2, other)]
        for t, skip, level in sides:
            for i in range(t.rank):
                j = i + y.rank - t.rank
                mask = zero_slots(t, i, level) if i != skip and j >= 0 and t.axes[i].n > 1 else None
                if mask is not None and y.axes[j].n == len(mask):
                    self._record(op, j, Const(mask, np.zeros(len(mask))))

    def _record(self, op: Op, axis: int, found: Const | None) -> None:
        if found is not None and axis == op.y.rank - 1:
            found = requantised(op, self.at, found)
        elif found is not None and self.at.y_scale >= 0:
            zero = scalar(op, self.at.y_zero, 0.0)  # a sum of zero is the zero point whatever the scales are
            found = None if zero is None else Const(found.mask, np.full(len(found.mask), int(zero)))
        if found is not None:
            op.y.set_const(axis, found.mask, self.units(op, found.value))

    def units(self, op: Op, value: Array) -> Array:
        """The recorded numbers in the type of y."""
        return np.rint(value).astype(np.int64)


class IntegerMatMulToFloat(IntegerMatMul):
    """MatMulIntegerToFloat: the sum, scaled, plus a float bias."""

    def bias(self, op: Op) -> Array | None:
        return np.zeros(())

    def units(self, op: Op, value: Array) -> Array:
        return value

    def _record(self, op: Op, axis: int, found: Const | None) -> None:
        """Sums that are zero leave the bias."""
        if found is None:
            return
        mask = found.mask & (found.value == 0)
        if not op.has(self.at.bias):
            op.y.set_const(axis, mask, np.zeros(len(mask)))
        elif axis == op.y.rank - 1 and (level := number(op, self.at.bias)) is not None:
            op.y.set_const(axis, mask, np.broadcast_to(level.reshape(-1), mask.shape))


class DynamicQuantizeMatMul(IntegerMatMulToFloat):
    """DynamicQuantizeMatMul: x is a float tensor that is quantised inside; what is not zero takes part in its range."""

    def relations(self, op: Op) -> Iterator[Relation]:
        yield from super().relations(op)
        if not op.x.opaque:
            yield from ranged(op.x)


class QGemm(IntegerMatMul):
    """QGemm: QLinearMatMul with transposes, alpha and an int32 bias, to integers or to floats."""

    def shapes(self, op: Op) -> None:
        a, b = self.pair(op)
        if op.y.opaque and not a.opaque and not b.opaque:
            op.y.reshape([a.shape[1 if op.attr("transA", 0) else 0], b.shape[0 if op.attr("transB", 0) else 1]])
        if op.y.dtype is None:
            out = op.tensor(self.at.y_zero) or op.tensor(self.at.x_scale)
            op.y.dtype = out.dtype if out is not None else None

    @staticmethod
    def _contracted(op: Op) -> tuple[int, int]:
        return (0 if op.attr("transA", 0) else 1), (1 if op.attr("transB", 0) else 0)

    def relations(self, op: Op) -> Iterator[Relation]:
        a, b = self.pair(op)
        c, y = op.tensor(self.at.bias), op.y
        if a.opaque or b.opaque or y.opaque or (c is not None and c.opaque):
            yield from pin_all(op, "unknown rank")
            return
        ka, kb = self._contracted(op)
        yield from follow([op.tensor(i) for i in self.at.per_row], Axis(None, 0, 0))
        yield from follow([op.tensor(i) for i in self.at.per_output], b.axes[1 - kb])
        yield from same(a.axes[ka], b.axes[kb])
        source, zero = x_slots(op, self.at)
        if a.axes[ka].n == b.axes[kb].n > 1:
            yield Contract(source.axes[ka], b, kb, 1 - kb, self.absorb(op), zero, self._weight_zero(op))
        yield from same(a.axes[1 - ka], y.axes[0])
        yield from same(b.axes[1 - kb], y.axes[1])
        for i in range(0 if c is None else c.rank):
            assert c is not None
            if c.shape[i] != 1:
                yield from same(c.axes[i], y.axes[i + 2 - c.rank])

    def _weight_zero(self, op: Op) -> Array:
        zero = self.right_zero(op)
        return zero.reshape(-1, 1) if zero.ndim == 1 and self._contracted(op)[1] == 1 else zero

    def absorb(self, op: Op) -> str | None:
        b, c = op.tensor(self.at.w), op.tensor(self.at.bias)
        fits = c is None or (c.is_leaf and c.content.size == op.y.shape[1])
        known = not np.isnan(x_slots(op, self.at)[1]) and not np.isnan(self._weight_zero(op)).any()
        direct = x_slots(op, self.at)[0] is op.tensor(self.at.x)
        return (
            "bias"
            if fits and known and direct and b is not None and b.is_leaf and isinstance(op.y.shape[1], int)
            else None
        )

    def _rows(self, op: Op) -> Array | None:
        """The weight minus its zero point, output slots first; None where it is not known."""
        b, zero = op.known(self.at.w), self._weight_zero(op)
        if b is None or np.isnan(zero).any():
            return None
        weight = b.astype(np.int32) - zero.astype(np.int32)
        return weight if self._contracted(op)[1] == 1 else weight.T

    def constants(self, op: Op) -> None:
        weight, c, y = self._rows(op), op.tensor(self.at.bias), op.y
        if (
            weight is None
            or op.x.opaque
            or y.opaque
            or (c is not None and (not c.is_known or (c.rank == 2 and c.shape[0] != 1)))
        ):
            return
        bias = np.zeros(()) if c is None else c.content.reshape(-1).astype(np.float64)
        live, values = live_slots(op, self.at, self._contracted(op)[0])
        found = contract.constant_rows(weight, live, values, bias)
        alpha = float(op.attr("alpha", 1.0))
        if found is None or (alpha != 1.0 and found.value.any()):
            return
        if op.has(self.at.y_scale):
            found = requantised(op, self.at, found)
            if found is not None:
                y.set_const(1, found.mask, found.value)
            return
        scales = number(op, self.at.x_scale), number(op, self.at.w_scale)
        if scales[0] is not None and scales[1] is not None:
            y.set_const(1, found.mask, found.value * scales[0].reshape(-1) * scales[1].reshape(-1))

    def rewrite(self, op: Op, slim: Slim) -> None:
        weight = self._rows(op)
        if self.absorb(op) is None or weight is None:
            return
        removed = removed_slots(op, self.at, slim, self._contracted(op)[0])
        if removed is not None:
            add_to_bias(op, slim, self.at.bias, contract.contribution(weight, removed), (op.y, 1))


class MatMulNBits(Rule):
    """MatMulNBits: the weight is packed along k, which stays; output slots may leave.

    Inputs: a, b (n, blocks, bytes), scales (n * blocks) or (n, blocks), zero points likewise, g_idx (k), bias (n).
    """

    note = "packed"

    def shapes(self, op: Op) -> None:
        x, y = op.x, op.y
        if not x.opaque and y.opaque:
            y.reshape([*x.shape[:-1], int(op.attr("N"))])
        y.dtype = y.dtype or x.dtype

    def relations(self, op: Op) -> Iterator[Relation]:
        x, y, b = op.x, op.y, op.tensor(1)
        if (
            x.opaque
            or y.opaque
            or b is None
            or b.opaque
            or b.rank < 2
            or any(t is not None and t.opaque for t in op.ins)
        ):
            yield from pin_all(op, "unknown rank")
            return
        for i in range(x.rank - 1):
            yield from same(x.axes[i], y.axes[i])
        yield from pin_all(op, "packed along the contracted axis", [op.tensor(4)])
        for axis in (x.axes[-1], *b.axes[1:]):
            if axis.n > 1:
                yield Pinned(axis, "packed along the contracted axis")
        out = y.axes[-1]
        yield from same(b.axes[0], out)
        for index in (2, 3, 5):
            p = op.tensor(index)
            if p is not None:
                yield from self._parameter(p, out)

    @staticmethod
    def _parameter(p: Tensor, out: Axis) -> Iterator[Relation]:
        first, rest = p.axes[0], p.axes[1:]
        yield from (Pinned(a, "blocks of the contracted axis") for a in rest if a.n > 1)
        if first.n == out.n:
            yield from same(first, out)
        elif not rest and out.n > 1 and first.n % out.n == 0:
            inner = Axis(None, 0, first.n // out.n)
            yield Pinned(inner, "blocks of the contracted axis")
            yield Product(first, (out, inner))
        else:
            yield from (Pinned(a, "parameters of a form that is not known") for a in (first, out) if a.n > 1)

    def rewrite(self, op: Op, slim: Slim) -> None:
        if slim.narrowed(op.y, -1):
            slim.set_attr(op, "N", slim.count(op.y, -1))


TABLE: dict[tuple[str, str], Rule] = {
    ("", "ConvInteger"): IntegerConv(Layout(x=0, w=1, x_zero=2, w_zero=3)),
    ("", "QLinearConv"): IntegerConv(
        Layout(x=0, x_scale=1, x_zero=2, w=3, w_scale=4, w_zero=5, y_scale=6, y_zero=7, bias=8)
    ),
    ("com.microsoft", "QLinearConv"): IntegerConv(
        Layout(x=0, x_scale=1, x_zero=2, w=3, w_scale=4, w_zero=5, y_scale=6, y_zero=7, bias=8)
    ),
    ("", "MatMulInteger"): IntegerMatMul(Layout(x=0, w=1, x_zero=2, w_zero=3)),
    ("", "QLinearMatMul"): IntegerMatMul(
        Layout(x=0, x_scale=1, x_zero=2, w=3, w_scale=4, w_zero=5, y_scale=6, y_zero=7)
    ),
    ("com.microsoft", "QGemm"): QGemm(
        Layout(x=0, x_scale=1, x_zero=2, w=3, w_scale=4, w_zero=5, bias=6, y_scale=7, y_zero=8)
    ),
    ("com.microsoft", "MatMulIntegerToFloat"): IntegerMatMulToFloat(
        Layout(x=0, w=1, x_scale=2, w_scale=3, x_zero=4, w_zero=5, bias=6)
    ),
    ("com.microsoft", "DynamicQuantizeMatMul"): DynamicQuantizeMatMul(
        Layout(x=0, w=1, x_zero=-1, w_scale=2, w_zero=3, bias=4)
    ),
    ("com.microsoft", "MatMulNBits"): MatMulNBits(),
}
