"""Normalisations.

    BatchNormalization           y = (x - mean) / sqrt(var + eps) * scale + bias, per channel: an affine map
    InstanceNormalization        mean and var over the positions of one channel: channels correspond
    GroupNormalization           over a group of channels: whole groups may leave
    LayerNormalization           over the last axes, which stay; so do those of Softmax, LRN ...
    RMSNormalization             y = x / sqrt(sum(x^2) / n + eps) * scale: slots that are zero leave,
                                 eps' = eps n / n', scale' = scale sqrt(n / n')
    LpNormalization              y = x / norm(x): slots that are zero leave

What is zero all over becomes the bias. A constant other than zero would too, in real numbers; in single precision its
mean is off by a rounding error, which a division by sqrt(eps) makes 300 times as large. So it is not touched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from onnxdam.analysis.tensor import Array, Axis, Tensor
from onnxdam.rules.base import (
    Balanced,
    Op,
    Pinned,
    Product,
    Relation,
    Rule,
    adopt_shape,
    pin,
    pin_all,
    same,
    same_axes,
)
from onnxdam.rules.elementwise import aligned, operand_const

if TYPE_CHECKING:
    from onnxdam.rewrite.slim import Slim


class BatchNormalization(Rule):
    """BatchNormalization at inference."""

    def shapes(self, op: Op) -> None:
        adopt_shape(op.x, op.y)

    def relations(self, op: Op) -> Iterator[Relation]:
        if op.x.opaque or op.y.opaque or op.attr("training_mode", 0) or len(op.outs) > 1 or not op.attr("spatial", 1):
            yield from pin_all(op, "training mode, or parameters for each position")
            return
        yield from same_axes(op.x, op.y)
        for parameter in op.ins[1:]:
            if parameter is not None and op.x.rank > 1:
                yield from same(parameter.axes[0], op.x.axes[1])

    def scaled_by(self, op: Op, axis: int, *, positive: bool) -> dict[int, int] | None:
        return {1: 0, 2: 0} if axis == 1 else None

    def affine(self, op: Op) -> tuple[int, Array, Array] | None:
        parameters = [op.known(i) for i in range(1, 5)]
        if op.x.opaque or op.y.opaque or any(p is None for p in parameters) or op.x.rank < 2:
            return None
        if op.attr("training_mode", 0) or not op.attr("spatial", 1) or len(op.outs) > 1:
            return None
        gamma, bias, mean, var = (p.astype(np.float64) for p in parameters if p is not None)
        scale = gamma / np.sqrt(var + op.attr("epsilon", 1e-5))
        shift = bias - mean * scale
        return (1, scale, shift) if np.isfinite(scale).all() and np.isfinite(shift).all() else None

    def constants(self, op: Op) -> None:
        found = self.affine(op)
        if found is None:
            return
        _, scale, shift = found
        const = op.x.const(1) if op.x.any_const else None
        mask = np.zeros(len(scale), bool) if const is None else const.mask
        value = np.zeros(len(scale)) if const is None else const.value
        if len(mask) == len(scale):
            level = scale * value + shift
            op.y.set_const(1, (mask | (scale == 0)) & np.isfinite(level), level)


class Normalised(Rule):
    """The axes it normalises over stay, the others correspond."""

    note = "normalised over"
    #: whether a constant other than zero comes out as a constant, rounding included
    steady = False

    def over(self, op: Op) -> tuple[int, ...]:
        """The axes of x that are normalised over, counted from the front."""
        raise NotImplementedError

    def shapes(self, op: Op) -> None:
        adopt_shape(op.x, op.y)

    def relations(self, op: Op) -> Iterator[Relation]:
        x, y = op.x, op.y
        if x.opaque or y.opaque:
            yield from pin_all(op, "unknown rank")
            return
        over = self.over(op)
        for result in op.outs:  # mean and deviation have extent 1 where they were taken
            if result.rank == x.rank:
                yield from same_axes(x, result, [i for i in range(x.rank) if i not in over])
            else:
                yield from pin_all(op, self.note, [x, result])
        yield from pin_all(op, self.note, op.ins[1:])
        for i in over:
            yield from pin(self.note, x.axes[i], y.axes[i])

    def constants(self, op: Op) -> None:
        x, y = op.x, op.y
        if x.opaque or y.opaque:
            return
        over = self.over(op)
        for i in range(x.rank):
            const = x.const(i) if i not in over and x.any_const else None
            level = self.flat(op) if const is not None and y.axes[i].n == len(const.mask) else None
            if const is not None and level is not None:
                mask = const.mask if self.steady else const.mask & (const.value == 0)
                y.set_const(i, mask, np.full(len(mask), level))

    def flat(self, op: Op) -> float | None:
        """What comes out where one number fills all that is normalised over; None where that is not constant."""
        return None


def _tail(axis: int, rank: int) -> tuple[int, ...]:
    return tuple(range(axis % rank if rank else 0, rank))


class Softmax(Normalised):
    """Softmax, LogSoftmax, Hardmax. Before opset 13 they flatten all axes from `axis` on.

    Args:
        level: what n equal numbers become.
    """

    steady = True

    def __init__(self, level: Callable[[int], float] | None, lower: float = -math.inf) -> None:
        self.level = level
        self.lower = lower

    def over(self, op: Op) -> tuple[int, ...]:
        rank = op.x.rank
        return _tail(op.attr("axis", 1), rank) if op.version < 13 else _tail(op.attr("axis", -1), rank)[:1]

    def flat(self, op: Op) -> float | None:
        sizes = [op.x.shape[i] for i in self.over(op)]
        if self.level is None or not all(isinstance(s, int) for s in sizes):
            return None
        return self.level(math.prod(s for s in sizes if isinstance(s, int)))

    def constants(self, op: Op) -> None:
        super().constants(op)
        op.y.lower = max(op.y.lower, self.lower)


class LayerNormalization(Normalised):
    """LayerNormalization: a slot is constant where its scale is zero, or all of x."""

    def over(self, op: Op) -> tuple[int, ...]:
        return _tail(op.attr("axis", -1), op.x.rank)

    def flat(self, op: Op) -> float | None:
        bias = op.tensor(2)
        value = 0.0 if bias is None else bias.uniform
        return None if value is None else float(value)

    def constants(self, op: Op) -> None:
        super().constants(op)
        x, y = op.x, op.y
        scale, bias = op.tensor(1), op.tensor(2)
        if scale is None or not scale.is_known or x.opaque or y.opaque:
            return
        for i in self.over(op):
            n, axis = y.axes[i].n, aligned(scale, y, i)
            zeros = scale.zeros(axis.index) if axis is not None and axis.n == n > 1 else None
            mask = np.ones(n, bool) if x.any_const and x.uniform == 0 and np.isfinite(scale.content).all() else zeros
            if mask is None:
                continue
            if bias is None:
                y.set_const(i, mask, np.zeros(n))
            else:
                known, value = operand_const(bias, aligned(bias, y, i), n)
                y.set_const(i, mask & known, value)


class RMSNormalization(Rule):
    """RMSNormalization, SimplifiedLayerNormalization: loses zero slots, and stays one node."""

    def over(self, op: Op) -> tuple[int, ...]:
        """The axes of x that are normalised over."""
        return _tail(op.attr("axis", -1), op.x.rank)

    def shapes(self, op: Op) -> None:
        adopt_shape(op.x, op.y)

    def relations(self, op: Op) -> Iterator[Relation]:
        x, y, scale = op.x, op.y, op.tensor(1)
        if x.opaque or y.opaque or scale is None or scale.opaque:
            yield from pin_all(op, "unknown rank")
            return
        over = self.over(op)
        exact = scale.is_leaf and not any(t.readers or t.pinned for t in op.outs[1:])
        for t in op.outs[1:]:
            if t.rank == x.rank:
                yield from same_axes(x, t, [i for i in range(x.rank) if i not in over])
            else:
                yield from pin_all(op, "normalised over", [x, t])
        yield from same_axes(x, y)
        for i in range(x.rank):
            axis = aligned(scale, y, i)
            if axis is not None and axis.n > 1:
                yield from same(axis, y.axes[i])
            if i in over and x.axes[i].n > 1:
                zeros = x.zeros(i) if exact and x.any_const else None
                yield Pinned(x.axes[i], "normalised over", None if zeros is None else ~zeros)

    def constants(self, op: Op) -> None:
        x, y, scale = op.x, op.y, op.tensor(1)
        if x.opaque or y.opaque or scale is None or op.attr("epsilon", 1e-5) <= 0:
            return
        for i in range(x.rank):
            axis = aligned(scale, y, i)
            for zeros in (
                x.zeros(i) if x.any_const else None,
                scale.zeros(axis.index) if axis is not None and axis.n > 1 and not scale.opaque else None,
            ):
                if zeros is not None and len(zeros) == y.axes[i].n:
                    y.set_const(i, zeros, np.zeros(len(zeros)))

    def rewrite(self, op: Op, slim: Slim) -> None:
        x = op.x
        ratio = math.prod(x.axes[i].n / slim.count(x, i) for i in self.over(op) if x.axes[i].n > 1)
        if ratio == 1:
            return
        scale = slim.full_known(op, 1)
        epsilon = float(op.attr("epsilon", 1e-5)) * ratio
        slim.set_attr(op, "epsilon", epsilon)
        slim.set_known(op, 1, (scale.astype(np.float64) * math.sqrt(ratio)).astype(scale.dtype))
        if x.dtype == np.float64:
            self._make_up(op, slim, epsilon)

    def _make_up(self, op: Op, slim: Slim, epsilon: float) -> None:
        """The attribute is a float32: with s^2 = stored / epsilon, norm(x; epsilon) = norm(s x; stored)."""
        stored = float(np.float32(epsilon))
        if stored == epsilon:
            return
        source = op.node.inputs[0]
        assert source is not None
        factor = slim.initializer(f"{source.name}_scale", np.asarray(math.sqrt(stored / epsilon)))
        scaled = slim.insert_before(op, "Mul", [source, factor], f"{source.name}_scaled", source)
        op.node.replace_input_with(0, scaled)


class LpNormalization(Rule):
    """LpNormalization: zero slots neither count nor come out as anything but zero."""

    def over(self, op: Op) -> int:
        return int(op.attr("axis", -1)) % max(op.x.rank, 1)

    def shapes(self, op: Op) -> None:
        adopt_shape(op.x, op.y)

    def relations(self, op: Op) -> Iterator[Relation]:
        x, y = op.x, op.y
        if x.opaque or y.opaque or not x.rank:
            yield from pin_all(op, "unknown rank")
            return
        yield from same_axes(x, y)
        axis = self.over(op)
        if x.axes[axis].n > 1:
            zeros = x.zeros(axis) if x.any_const else None
            yield Pinned(x.axes[axis], "normalised over", None if zeros is None else ~zeros)

    def constants(self, op: Op) -> None:
        axis = self.over(op)
        zeros = op.x.zeros(axis) if op.x.any_const and not op.y.opaque else None
        if zeros is not None and not zeros.all() and op.y.axes[axis].n == len(zeros):  # nothing but zeros: 0 / 0
            op.y.set_const(axis, zeros, np.zeros(len(zeros)))


class InstanceNormalization(Rule):
    """InstanceNormalization: a channel that is zero becomes its bias."""

    def shapes(self, op: Op) -> None:
        adopt_shape(op.x, op.y)

    def relations(self, op: Op) -> Iterator[Relation]:
        x, y = op.x, op.y
        if x.opaque or y.opaque or x.rank < 2:
            yield from pin_all(op, "unknown rank")
            return
        yield from same_axes(x, y, [0, 1])
        for parameter in op.ins[1:]:
            if parameter is not None and not parameter.opaque:
                yield from same(parameter.axes[0], y.axes[1])
        for i in range(2, x.rank):
            yield from pin("normalised over", x.axes[i], y.axes[i])

    def scaled_by(self, op: Op, axis: int, *, positive: bool) -> dict[int, int] | None:
        return {1: 0, 2: 0} if axis == 1 else None

    def constants(self, op: Op) -> None:
        x, y, bias, scale = op.x, op.y, op.known(2), op.known(1)
        if x.opaque or y.opaque or bias is None or scale is None or x.rank < 2 or y.axes[1].n != len(bias):
            return
        zeros = x.zeros(1) if x.any_const else None
        mask = (scale == 0) if zeros is None else zeros | (scale == 0)
        y.set_const(1, mask & np.isfinite(scale.astype(float)), bias.astype(np.float64))


class GroupNormalization(Rule):
    """GroupNormalization: whole groups stay or leave. Opset 18 scales groups, opset 21 channels."""

    def shapes(self, op: Op) -> None:
        adopt_shape(op.x, op.y)

    def groups(self, op: Op) -> int:
        return int(op.attr("num_groups", 1))

    def relations(self, op: Op) -> Iterator[Relation]:
        x, y = op.x, op.y
        if x.opaque or y.opaque or x.rank < 2 or not isinstance(x.shape[1], int) or x.shape[1] % self.groups(op):
            yield from pin_all(op, "unknown rank or channels")
            return
        yield from same_axes(x, y, [0, 1])
        for i in range(2, x.rank):
            yield from pin("normalised over", x.axes[i], y.axes[i])
        channels, groups = x.axes[1], self.groups(op)
        if channels.n == 1:
            return
        yield Balanced(channels, groups, whole=True)
        for t in op.ins[1:]:
            if t is not None and not t.opaque:
                yield from self._parameter(t, channels, groups)

    @staticmethod
    def _parameter(t: Tensor, channels: Axis, groups: int) -> Iterator[Relation]:
        if t.axes[0].n == channels.n:
            yield from same(t.axes[0], channels)
        elif t.axes[0].n == groups > 1:
            yield Product(channels, (t.axes[0], Axis(None, 0, channels.n // groups)))
        elif groups > 1:
            yield from pin("scaled by groups", t.axes[0], channels)

    def constants(self, op: Op) -> None:
        x, y, groups = op.x, op.y, self.groups(op)
        scale, bias = self._wide(op, 1), self._wide(op, 2)
        if scale is None or bias is None:
            return
        zeros = x.zeros(1) if x.any_const else None
        mask = scale == 0
        if zeros is not None:
            mask = mask | np.repeat(zeros.reshape(groups, -1).all(1), len(mask) // groups)
        y.set_const(1, mask & np.isfinite(scale), bias)

    def _wide(self, op: Op, index: int) -> Array | None:
        """A parameter, one number per channel."""
        content = op.known(index)
        n = None if op.x.opaque or op.y.opaque or op.x.rank < 2 else op.x.shape[1]
        if content is None or not isinstance(n, int) or n == 1 or n % len(content) or n % self.groups(op):
            return None
        return np.repeat(content.astype(np.float64), n // len(content))

    def rewrite(self, op: Op, slim: Slim) -> None:
        if slim.narrowed(op.x, 1):
            per = op.x.axes[1].n // self.groups(op)
            slim.set_attr(op, "num_groups", slim.count(op.x, 1) // per)


class MeanVarianceNormalization(Normalised):
    """MeanVarianceNormalization: what is constant becomes zero."""

    def over(self, op: Op) -> tuple[int, ...]:
        return tuple(sorted(a % op.x.rank for a in op.attr("axes", (0, 2, 3))))

    def flat(self, op: Op) -> float | None:
        return 0.0


class LRN(Normalised):
    """LRN: divides by a sum over neighbouring channels. Zero stays zero."""

    def over(self, op: Op) -> tuple[int, ...]:
        return (1,)

    def constants(self, op: Op) -> None:
        if op.x.opaque or op.y.opaque or not op.x.any_const or op.attr("bias", 1.0) <= 0 or op.attr("alpha", 1e-4) < 0:
            return
        for i in range(op.x.rank):
            zeros = op.x.zeros(i)
            if zeros is not None and len(zeros) == op.y.axes[i].n:
                op.y.set_const(i, zeros, np.zeros(len(zeros)))


class ImageScaler(Normalised):
    """ImageScaler, an operator of old files: x * scale + bias[channel]."""

    note = "an attribute for each channel"

    def over(self, op: Op) -> tuple[int, ...]:
        return (1,)


TABLE: dict[tuple[str, str], Rule] = {
    ("", "BatchNormalization"): BatchNormalization(),
    ("", "InstanceNormalization"): InstanceNormalization(),
    ("", "GroupNormalization"): GroupNormalization(),
    ("", "LayerNormalization"): LayerNormalization(),
    ("", "RMSNormalization"): RMSNormalization(),
    ("", "SimplifiedLayerNormalization"): RMSNormalization(),
    ("com.microsoft", "SimplifiedLayerNormalization"): RMSNormalization(),
    ("", "LpNormalization"): LpNormalization(),
    ("", "MeanVarianceNormalization"): MeanVarianceNormalization(),
    ("", "LRN"): LRN(),
    ("", "ImageScaler"): ImageScaler(),
    ("", "Softmax"): Softmax(lambda n: 1 / n, lower=0.0),
    ("", "LogSoftmax"): Softmax(lambda n: -math.log(n)),
    ("", "Hardmax"): Softmax(None, lower=0.0),
}
