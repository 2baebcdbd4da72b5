"""Pooling: every channel by itself over windows of positions.

A constant channel stays that constant under a maximum, and under an average that does not count padding.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxdam.rules.base import Op, Pinned, Relation, Rule, adopt_shape, pin_all, same


class Pool(Rule):
    """MaxPool, AveragePool, LpPool and their global forms."""

    def __init__(self, *, power: bool = False, whole: bool = False) -> None:
        self.power = power  # sums powers: only zero stays what it is
        self.whole = whole  # over all positions

    def shapes(self, op: Op) -> None:
        if not op.x.opaque and not op.y.opaque:
            adopt_shape(op.x, op.y, [0, 1])

    def relations(self, op: Op) -> Iterator[Relation]:
        x, y = op.x, op.y
        if x.opaque or y.opaque or len(op.outs) > 1:  # the indices of MaxPool count positions over all channels
            yield from pin_all(op, "pooled with indices, or unknown rank")
            return
        yield from same(x.axes[0], y.axes[0])
        yield from same(x.axes[1], y.axes[1])
        for axis in (*x.axes[2:], *y.axes[2:]):
            if axis.n > 1:
                yield Pinned(axis, "pooled over")

    def scaled_by(self, op: Op, axis: int, *, positive: bool) -> dict[int, int] | None:
        return {0: axis} if positive and axis == 1 else None

    def constants(self, op: Op) -> None:
        x, y = op.x, op.y
        if x.opaque or y.opaque or not x.any_const:
            return
        counted = op.attr("count_include_pad", 0) and (any(op.attr("pads", ())) or op.attr("ceil_mode", 0) or op.attr("auto_pad", "NOTSET") != "NOTSET")
        for i in (0, 1):
            const = x.const(i)
            if const is not None and y.axes[i].n == len(const.mask):
                mask = const.mask & (const.value == 0) if counted or self.power else const.mask
                y.set_const(i, mask, np.where(mask, const.value, 0))
                if counted and i == 1 and not self.power:
                    y.set_pattern(i, const.mask & ~mask, const.value)


TABLE: dict[tuple[str, str], Rule] = {
    ("", "MaxPool"): Pool(),
    ("", "AveragePool"): Pool(),
    ("", "LpPool"): Pool(power=True),
    ("", "GlobalMaxPool"): Pool(whole=True),
    ("", "GlobalAveragePool"): Pool(whole=True),
    ("", "GlobalLpPool"): Pool(power=True, whole=True),
}
