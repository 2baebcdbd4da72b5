"""Pooling: every channel by itself over windows of positions.

A constant channel stays that constant under a maximum, and under an average that does not count padding. Zero stays
zero under all of them.

    MaxPool, AveragePool, LpPool, Global...     channels correspond, positions stay
    MaxRoiPool, RoiAlign                        likewise; one result for each region
    MaxUnpool                                   its indices count over all channels: nothing may go
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxdam.rules.base import Op, Relation, Rule, adopt_shape, pin, pin_all, same
from onnxdam.rules.elementwise import lower_bound
from onnxdam.rules.windows import slide


class Pool(Rule):
    """MaxPool, AveragePool, LpPool and their global forms.

    Args:
        power: sums powers, so that only zero stays what it is.
    """

    def __init__(self, *, power: bool = False) -> None:
        self.power = power

    def shapes(self, op: Op) -> None:
        if not op.x.opaque and not op.y.opaque:
            adopt_shape(op.x, op.y, range(min(2, op.x.rank)))
            slide(op, op.attr("kernel_shape", ()))

    def relations(self, op: Op) -> Iterator[Relation]:
        x, y = op.x, op.y
        if x.opaque or y.opaque or x.rank < 2 or any(t.readers or t.pinned for t in op.outs[1:]):
            yield from pin_all(op, "unknown rank, or indices that count positions over all channels")
            return
        for result in op.outs:
            for i in (0, 1):
                yield from same(x.axes[i], result.axes[i]) if result.rank == x.rank else ()
        yield from pin("pooled over", *x.axes[2:], *y.axes[2:])

    def scaled_by(self, op: Op, axis: int, *, positive: bool) -> dict[int, int] | None:
        return {0: axis} if positive and axis == 1 else None

    def constants(self, op: Op) -> None:
        x, y = op.x, op.y
        if x.opaque or y.opaque or x.rank < 2 or op.node.outputs[0].name == "":
            return
        padded = self._padded(op)
        counted = padded and bool(op.attr("count_include_pad", 0))
        low = lower_bound(x)
        y.lower = 0.0 if self.power else min(low, 0.0) if counted else low
        if not x.any_const or (padded and self._may_miss(op)):
            return
        for i in (0, 1):
            const = x.const(i)
            if const is not None and y.axes[i].n == len(const.mask):
                mask = const.mask & (const.value == 0) if counted or self.power else const.mask
                y.set_const(i, mask, np.where(mask, const.value, 0))
                if counted and i == 1 and not self.power:
                    y.set_pattern(i, const.mask & ~mask, const.value)

    @staticmethod
    def _padded(op: Op) -> bool:
        return any(op.attr("pads", ())) or bool(op.attr("ceil_mode", 0)) or op.attr("auto_pad", "NOTSET") != "NOTSET"

    @staticmethod
    def _may_miss(op: Op) -> bool:
        """Whether a window may lie in the padding altogether, where a maximum is not one of x."""
        kernel, pads = op.attr("kernel_shape", ()), op.attr("pads", ())
        return any(d > 1 for d in op.attr("dilations", ())) or any(
            pads[i % len(pads)] >= k or pads[(i + len(kernel)) % len(pads)] >= k for i, k in enumerate(kernel) if pads
        )


class Regions(Rule):
    """MaxRoiPool, RoiAlign: channels correspond; a region outside of x gives zero, so only zero stays constant."""

    def relations(self, op: Op) -> Iterator[Relation]:
        x, regions, y = op.x, op.tensor(1), op.y
        if x.opaque or y.opaque or regions is None or regions.opaque or x.rank != 4:
            yield from pin_all(op, "unknown rank")
            return
        yield from same(x.axes[1], y.axes[1])
        yield from pin_all(op, "cut into regions", op.ins[1:])
        for t in (x, y):
            yield from pin("cut into regions", *(axis for i, axis in enumerate(t.axes) if i != 1))

    def shapes(self, op: Op) -> None:
        if not op.x.opaque and not op.y.opaque:
            adopt_shape(op.x, op.y, [1])

    def constants(self, op: Op) -> None:
        x, y = op.x, op.y
        zeros = x.zeros(1) if x.any_const and not x.opaque and not y.opaque and x.rank == 4 else None
        if zeros is not None and y.axes[1].n == len(zeros):
            y.set_const(1, zeros, np.zeros(len(zeros)))


class Unpool(Rule):
    """MaxUnpool."""

    note = "indices count positions over all channels"


TABLE: dict[tuple[str, str], Rule] = {
    ("", "MaxPool"): Pool(),
    ("", "AveragePool"): Pool(),
    ("", "LpPool"): Pool(power=True),
    ("", "GlobalMaxPool"): Pool(),
    ("", "GlobalAveragePool"): Pool(),
    ("", "GlobalLpPool"): Pool(power=True),
    ("", "MaxRoiPool"): Regions(),
    ("", "RoiAlign"): Regions(),
    ("", "MaxUnpool"): Unpool(),
}
