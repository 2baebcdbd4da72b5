"""Normalisations.

    BatchNormalization   y = (x - mean) / sqrt(var + eps) * scale + bias, per channel: an affine map of each slot
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxdam.rules.base import Op, Relation, Rule, adopt_shape, pin_all, same, same_axes


class BatchNormalization(Rule):
    """BatchNormalization at inference."""

    def shapes(self, op: Op) -> None:
        adopt_shape(op.x, op.y)

    def relations(self, op: Op) -> Iterator[Relation]:
        if op.x.opaque or op.y.opaque or op.attr("training_mode", 0) or len(op.outs) > 1:
            yield from pin_all(op, "training mode")
            return
        yield from same_axes(op.x, op.y)
        for parameter in op.ins[1:]:
            if parameter is not None and op.x.rank > 1:
                yield from same(parameter.axes[0], op.x.axes[1])

    def scaled_by(self, op: Op, axis: int, *, positive: bool) -> dict[int, int] | None:
        return {1: 0, 2: 0} if axis == 1 else None

    def constants(self, op: Op) -> None:
        x, y = op.x, op.y
        parameters = [op.known(i) for i in range(1, 5)]
        if x.opaque or y.opaque or any(p is None for p in parameters) or x.rank < 2 or op.attr("training_mode", 0):
            return
        scale, bias, mean, var = (p.astype(np.float64) for p in parameters if p is not None)
        const = x.const(1) if x.any_const else None
        mask = np.zeros(len(scale), bool) if const is None else const.mask
        value = np.zeros(len(scale)) if const is None else const.value
        if len(mask) != len(scale):
            return
        flat = (scale == 0) & np.isfinite(mean) & (var >= 0)
        level = np.where(flat, 0, (value - mean) / np.sqrt(var + op.attr("epsilon", 1e-5)) * scale) + bias
        y.set_const(1, (mask | flat) & np.isfinite(level), level)


TABLE: dict[tuple[str, str], Rule] = {("", "BatchNormalization"): BatchNormalization()}
