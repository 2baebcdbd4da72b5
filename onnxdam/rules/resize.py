"""Operators that sample or rearrange positions; channels and batches correspond.

Resize, Upsample     an axis of scale 1 corresponds; the size of a narrowed one is written down again
GridSample           each channel is sampled alike
CenterCropPad        the axes it names stay
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from onnxdam.rules.base import Op, Relation, Rule, adopt_shape, carry_const, pin, pin_all, same
from onnxdam.rules.elementwise import lower_bound

if TYPE_CHECKING:
    from onnxdam.rewrite.slim import Slim

ROI, SCALES, LENGTHS = 1, 2, 3


class Resize(Rule):
    """Resize from opset 11, in the forms with scales and with sizes."""

    note = "resampled"
    sizes: int | None = LENGTHS

    def axes(self, op: Op) -> tuple[int, ...]:
        """The axes that scales and sizes speak of."""
        return tuple(a % op.x.rank for a in op.attr("axes", range(op.x.rank)))

    def scales(self, op: Op) -> tuple[float, ...] | None:
        """One factor for each of the axes, None where they are not known."""
        content = op.known(SCALES) if op.has(SCALES) else None
        return None if content is None or not content.size else tuple(float(s) for s in content)

    def still(self, op: Op) -> set[int]:
        """The axes that are provably not resampled."""
        x, axes = op.x, self.axes(op)
        still = set(range(x.rank)) - set(axes)
        mode = op.attr("coordinate_transformation_mode", "half_pixel")
        if mode in ("tf_crop_and_resize", "tf_half_pixel_for_nn"):  # these move positions even at scale 1
            return still
        scales = self.scales(op)
        if scales is not None:
            return still | {a for a, s in zip(axes, scales, strict=False) if s == 1}
        sizes = op.entries_of(LENGTHS)
        if sizes is None or op.attr("keep_aspect_ratio_policy", "stretch") != "stretch":
            return still
        return still | {a for a, s in zip(axes, sizes.reshape(-1), strict=False) if s is not None and s == x.shape[a]}

    def shapes(self, op: Op) -> None:
        if not op.x.opaque and not op.y.opaque:
            adopt_shape(op.x, op.y, self.still(op))

    def relations(self, op: Op) -> Iterator[Relation]:
        x, y = op.x, op.y
        yield from pin_all(op, "written-down sizes", op.ins[1:])
        if x.opaque or y.opaque:
            yield from pin_all(op, "unknown rank")
            return
        still = self.still(op)
        for i in range(x.rank):
            if i in still:
                yield from same(x.axes[i], y.axes[i])
            else:
                yield from pin(self.note, x.axes[i], y.axes[i])

    def constants(self, op: Op) -> None:
        x, y = op.x, op.y
        crops = op.attr("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
        if x.opaque or y.opaque or crops:
            return
        if op.attr("mode", "nearest") in ("nearest", "linear"):
            y.lower = lower_bound(x)
        if x.any_const:  # the weights of every mode add up to 1
            carry_const(x, y, self.still(op))

    def rewrite(self, op: Op, slim: Slim) -> None:
        axes = self.axes(op)
        if not op.has(LENGTHS) or op.length(LENGTHS) != len(axes):
            return
        if any(slim.narrowed(op.y, a) for a in axes) or slim.sizes.changed(op.tensor(LENGTHS)):
            shape = slim.shape(op.y)
            slim.write_sizes(op, LENGTHS, [shape[a] for a in axes])


class Upsample(Resize):
    """Upsample and the Resize of opset 10: scales are an attribute or the second input."""

    sizes = None

    def axes(self, op: Op) -> tuple[int, ...]:
        return tuple(range(op.x.rank))

    def scales(self, op: Op) -> tuple[float, ...] | None:
        written = op.attr("scales")
        if written is not None:
            return tuple(written)
        content = op.known(1)
        return None if content is None else tuple(float(s) for s in content)

    def still(self, op: Op) -> set[int]:
        return {a for a, s in enumerate(self.scales(op) or ()) if s == 1}

    def rewrite(self, op: Op, slim: Slim) -> None:
        """Factors hold for any width."""


class AnyResize(Rule):
    """Resize: opset 10 has other inputs than later ones."""

    sizes = LENGTHS

    def __init__(self) -> None:
        self.old, self.new = Upsample(), Resize()

    def _of(self, op: Op) -> Rule:
        return self.old if op.version < 11 else self.new

    def shapes(self, op: Op) -> None:
        self._of(op).shapes(op)

    def relations(self, op: Op) -> Iterator[Relation]:
        yield from self._of(op).relations(op)

    def constants(self, op: Op) -> None:
        self._of(op).constants(op)

    def rewrite(self, op: Op, slim: Slim) -> None:
        self._of(op).rewrite(op, slim)


class GridSample(Rule):
    """GridSample: y[n, c] samples x[n, c] at the positions of grid[n]."""

    note = "sampled at run time"

    def shapes(self, op: Op) -> None:
        if not op.x.opaque and not op.y.opaque:
            adopt_shape(op.x, op.y, [0, 1])

    def relations(self, op: Op) -> Iterator[Relation]:
        x, grid, y = op.x, op.tensor(1), op.y
        if x.opaque or y.opaque or grid is None or grid.opaque or x.rank < 3:
            yield from pin_all(op, "unknown rank")
            return
        yield from same(x.axes[0], y.axes[0])
        yield from same(grid.axes[0], y.axes[0])
        yield from same(x.axes[1], y.axes[1])
        yield from pin(self.note, *x.axes[2:], *y.axes[2:], *grid.axes[1:])

    def constants(self, op: Op) -> None:
        x, y = op.x, op.y
        if x.opaque or y.opaque or not x.any_const:
            return
        inside = op.attr("padding_mode", "zeros") in ("border", "reflection")
        for i in (0, 1):
            const = x.const(i)
            if const is not None and y.axes[i].n == len(const.mask):
                y.set_const(i, const.mask & (inside | (const.value == 0)), const.value)


class CenterCropPad(Rule):
    """CenterCropPad: the axes it names stay; zeros come in."""

    note = "cropped or padded"

    def named(self, op: Op) -> set[int]:
        return {a % op.x.rank for a in op.attr("axes", range(op.x.rank))}

    def shapes(self, op: Op) -> None:
        if not op.x.opaque and not op.y.opaque:
            adopt_shape(op.x, op.y, set(range(op.x.rank)) - self.named(op))

    def relations(self, op: Op) -> Iterator[Relation]:
        x, y = op.x, op.y
        yield from pin_all(op, "written-down sizes", op.ins[1:])
        if x.opaque or y.opaque:
            yield from pin_all(op, "unknown rank")
            return
        named = self.named(op)
        for i in range(x.rank):
            if i in named:
                yield from pin(self.note, x.axes[i], y.axes[i])
            else:
                yield from same(x.axes[i], y.axes[i])

    def constants(self, op: Op) -> None:
        x, y = op.x, op.y
        if x.opaque or y.opaque or not x.any_const:
            return
        for i in set(range(x.rank)) - self.named(op):
            zeros = x.zeros(i)
            if zeros is not None and y.axes[i].n == len(zeros):
                y.set_const(i, zeros, np.zeros(len(zeros)))


class Positions(Rule):
    """Operators about positions alone: nothing may go."""

    note = "positions are computed from all of it"


TABLE: dict[tuple[str, str], Rule] = {
    ("", "Resize"): AnyResize(),
    ("", "Upsample"): Upsample(),
    ("", "GridSample"): GridSample(),
    ("", "CenterCropPad"): CenterCropPad(),
    ("", "AffineGrid"): Positions(),
    ("", "Col2Im"): Positions(),
    ("", "NonMaxSuppression"): Positions(),
}
