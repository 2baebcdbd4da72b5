"""Operators that make tensors larger, or deeper: slots are repeated, joined by a border, or rearranged.

Expand   y[i] = x[0]             Tile   y[i] = x[i mod n]
Pad      y[before + i] = x[i], else a constant
DepthToSpace, SpaceToDepth       c = (block, block, c') or (c', block, block)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from onnxdam.analysis.tensor import Axis, Sym, Tensor, at_most
from onnxdam.rules.base import (
    Op,
    Pinned,
    Product,
    Relation,
    Rule,
    Same,
    carry_const,
    pin_all,
    same,
)

if TYPE_CHECKING:
    from onnxdam.rewrite.slim import Slim


class Expand(Rule):
    """Expand: axes of extent 1 repeat; the sizes are written down in the second input."""

    sizes = 1

    def shapes(self, op: Op) -> None:
        x, y = op.x, op.y
        if x.opaque:
            return
        sizes = op.entries_of(1)
        if y.opaque:
            if sizes is None or sizes.ndim != 1:
                return
            y.reshape([Sym(1, (f"{y.name}.{i}",)) for i in range(max(len(sizes), x.rank))])
        for i in range(y.rank):
            j, k = i - y.rank + x.rank, (i - y.rank + len(sizes)) if sizes is not None else -1
            size = sizes[k] if sizes is not None and k >= 0 else None
            if j >= 0 and x.shape[j] != 1:
                if size is None or isinstance(size, int) or at_most(size, x.shape[j]):
                    y.adopt(i, x.axes[j])
                elif at_most(x.shape[j], size) and isinstance(y.shape[i], Sym):
                    y.set_layout(i, (size,))
            elif size is not None and isinstance(y.shape[i], Sym):
                y.set_layout(i, (size,))

    def relations(self, op: Op) -> Iterator[Relation]:
        x, y = op.x, op.y
        yield from pin_all(op, "written-down sizes", op.ins[1:])
        if x.opaque or y.opaque:
            yield from pin_all(op, "unknown rank")
            return
        for i, axis in enumerate(x.axes):
            out = y.axes[i + y.rank - x.rank]
            if axis.n > 1:
                yield from same(axis, out)
            elif x.shape[i] != 1 and out.n > 1:
                yield Pinned(out, "expanded from an unknown extent")

    def constants(self, op: Op) -> None:
        op.y.lower = op.x.lower
        if not op.x.opaque and not op.y.opaque and (op.x.any_const or op.x.is_known):
            if op.x.uniform is not None:
                op.y.set_uniform(op.x.uniform)
                return
            for i, axis in enumerate(op.x.axes):
                j = i + op.y.rank - op.x.rank
                const = op.x.const(i) if axis.n > 1 else None
                if const is not None and op.y.axes[j].n == axis.n:
                    op.y.set_const(j, const.mask, const.value)

    def rewrite(self, op: Op, slim: Slim) -> None:
        count = op.length(1)
        if count and (slim.narrowed(op.y) or slim.sizes.changed(op.tensor(1))):
            slim.write_sizes(op, 1, slim.shape(op.y)[-count:], beneath=slim.shape(op.x))


class Tile(Rule):
    """Tile: slot i of x is repeated at i, i + n, i + 2n ...; all copies stay or leave together."""

    def relations(self, op: Op) -> Iterator[Relation]:
        x, y, repeats = op.x, op.y, op.known(1)
        yield from pin_all(op, "written-down repeats", op.ins[1:])
        if x.opaque or y.opaque or repeats is None:
            yield from pin_all(op, "repeats not known")
            return
        for a, b, times in zip(x.axes, y.axes, repeats.tolist(), strict=True):
            if times == 1:
                yield from same(a, b)
            elif b.n == a.n * times and a.n > 1:
                yield Same(b, a, None, np.arange(b.n) % a.n)
            elif not (isinstance(a.layout[0], int) and a.n == 1):
                yield from (Pinned(axis, "repeats of an unknown extent") for axis in (a, b) if axis.n > 1)

    def constants(self, op: Op) -> None:
        x, y, repeats = op.x, op.y, op.known(1)
        if x.opaque or y.opaque or repeats is None or not x.any_const:
            return
        if x.uniform is not None:
            y.set_uniform(x.uniform)
            return
        for i, times in enumerate(repeats.tolist()):
            const = x.const(i)
            if const is not None and y.axes[i].n == len(const.mask) * times and x.axes[i].n > 1:
                y.set_const(i, np.tile(const.mask, times), np.tile(const.value, times))

    def rewrite(self, op: Op, slim: Slim) -> None:
        repeats = op.known(1)
        if repeats is None or op.x.opaque or op.y.opaque:
            return
        new = [
            slim.count(op.y, i) if op.x.shape[i] == 1 and op.y.axes[i].n > 1 else int(times)
            for i, times in enumerate(repeats)
        ]
        if new != repeats.tolist():
            slim.set_sliced(op, 1, np.array(new, np.int64))


class Pad(Rule):
    """Pad: a constant border is made of constant slots; other borders pin the axis."""

    @staticmethod
    def borders(op: Op) -> dict[int, tuple[int, int]] | None:
        """Axis -> slots before and after; None where they are not known."""
        pads = op.ints(1, "pads")
        if pads is None:
            return None
        axes = op.ints(3, "axes") if op.has(3) else tuple(range(op.x.rank))
        if axes is None:
            return None
        half = len(pads) // 2
        return {a % op.x.rank: (pads[k], pads[k + half]) for k, a in enumerate(axes)}

    @staticmethod
    def fill(op: Op) -> float | None:
        """The constant, None where it is not known or the border is not constant."""
        if op.attr("mode", "constant") != "constant":
            return None
        if op.version < 11:
            return float(op.attr("value", 0.0))
        if not op.has(2):
            return 0.0
        value = op.known(2)
        return (
            None
            if value is None or value.dtype.kind not in "fiub"
            else float(value.reshape(-1)[0])
            if value.size
            else 0.0
        )

    def shapes(self, op: Op) -> None:
        x, y = op.x, op.y
        borders = None if x.opaque else self.borders(op)
        if borders is None:
            return
        if y.opaque:
            y.reshape([Sym(1, (f"{y.name}.{i}",)) for i in range(x.rank)])
        for i, size in enumerate(x.shape):
            before, after = borders.get(i, (0, 0))
            if before == after == 0:
                y.adopt(i, x.axes[i])
            elif isinstance(size, int) and isinstance(y.shape[i], Sym):
                y.set_layout(i, (size + before + after,))

    def relations(self, op: Op) -> Iterator[Relation]:
        x, y = op.x, op.y
        yield from pin_all(op, "written-down borders", op.ins[1:])
        borders = None if x.opaque or y.opaque else self.borders(op)
        if borders is None:
            yield from pin_all(op, "borders not known")
            return
        for i in range(x.rank):
            before, after = borders.get(i, (0, 0))
            a, b = x.axes[i], y.axes[i]
            if before == after == 0:
                yield from same(a, b)
            elif self._grows(op, i, before, after):
                yield Same(a, b, None, np.arange(before, before + a.n))
            else:
                yield from (Pinned(axis, "border is not constant") for axis in (a, b) if axis.n > 1)

    def _grows(self, op: Op, i: int, before: int, after: int) -> bool:
        a, b = op.x.axes[i], op.y.axes[i]
        fixed = isinstance(op.x.shape[i], int) and isinstance(op.y.shape[i], int)
        return (
            fixed
            and op.attr("mode", "constant") == "constant"
            and min(before, after) >= 0
            and b.n == before + a.n + after
        )

    def constants(self, op: Op) -> None:
        x, y, fill = op.x, op.y, self.fill(op)
        borders = None if x.opaque or y.opaque else self.borders(op)
        if borders is None:
            return
        plain = op.attr("mode", "constant") != "constant"
        for i in range(x.rank):
            before, after = borders.get(i, (0, 0))
            const = x.const(i) if x.any_const else None
            mask = np.zeros(x.axes[i].n, bool) if const is None else const.mask
            value = np.zeros(x.axes[i].n) if const is None else const.value
            if not plain and any(borders.get(j, (0, 0)) != (0, 0) for j in range(x.rank) if j != i):
                mask = mask & (value == fill) if fill is not None else np.zeros_like(mask)
            if before == after == 0 and y.axes[i].n == len(mask):
                y.set_const(i, mask, value)
            elif fill is not None and self._grows(op, i, before, after):
                y.set_const(
                    i,
                    np.pad(mask, (before, after), constant_values=True),
                    np.pad(value.astype(float), (before, after), constant_values=fill),
                )

    def rewrite(self, op: Op, slim: Slim) -> None:
        borders = self.borders(op)
        if borders is None or not any(
            slim.narrowed(op.y, i) and borders.get(i, (0, 0)) != (0, 0) for i in range(op.x.rank)
        ):
            return
        new = {}
        for i, (before, after) in borders.items():
            if slim.narrowed(op.y, i):
                kept = slim.slots(op.y, i)
                n = op.x.axes[i].n
                before, after = int((kept < before).sum()), int((kept >= before + n).sum())
            new[i] = (before, after)
        pads = [b for b, _ in new.values()] + [a for _, a in new.values()]
        if not any(pads):
            slim.skip(op, 0)
        elif op.version < 11:
            slim.set_attr(op, "pads", pads)
        else:
            slim.set_sliced(op, 1, np.array(pads, np.int64))


class DepthToSpace(Rule):
    """DepthToSpace: the depth of x is (block, block, c) in DCR mode, (c, block, block) in CRD mode."""

    def parts(self, op: Op) -> tuple[Tensor, Tensor]:
        """The deep tensor and the spacious one."""
        return op.x, op.y

    def relations(self, op: Op) -> Iterator[Relation]:
        deep, wide = self.parts(op)
        if deep.opaque or wide.opaque:
            yield from pin_all(op, "unknown rank")
            return
        block = int(op.attr("blocksize"))
        inner = wide.axes[1] if wide.axes[1].n > 1 else Axis(None, 0, 1)
        blocks = (Axis(None, 1, block), Axis(None, 2, block))
        yield from same(deep.axes[0], wide.axes[0])
        if deep.axes[1].n != block * block * inner.n:
            yield from pin_all(op, "unknown depth")
            return
        for axis in (*blocks, *deep.axes[2:], *wide.axes[2:]):
            if axis.n > 1:
                yield Pinned(axis, "rearranged in space")
        if block > 1:
            yield Product(deep.axes[1], (*blocks, inner) if self.depth_first(op) else (inner, *blocks))

    def depth_first(self, op: Op) -> bool:
        return bool(op.attr("mode", "DCR") == "DCR")

    def constants(self, op: Op) -> None:
        deep, wide = self.parts(op)
        if not op.x.any_const or op.x.opaque or op.y.opaque:
            return
        carry_const(op.x, op.y, [0])
        area = int(op.attr("blocksize")) ** 2
        const = op.x.const(1)
        if const is None:
            return
        if deep is op.x:
            shape = (area, -1) if self.depth_first(op) else (-1, area)
            across = 0 if self.depth_first(op) else 1
            m, v = const.mask.reshape(shape), const.value.reshape(shape)
            first = v[:1] if across == 0 else v[:, :1]
            wide.set_const(1, m.all(across) & (v == first).all(across), first.reshape(-1))
        else:
            deep.set_const(1, np.tile(const.mask, area), np.tile(const.value, area))


class SpaceToDepth(DepthToSpace):
    """SpaceToDepth: the inverse, always (block, block, c)."""

    def parts(self, op: Op) -> tuple[Tensor, Tensor]:
        return op.y, op.x

    def depth_first(self, op: Op) -> bool:
        return True


TABLE: dict[tuple[str, str], Rule] = {
    ("", "Expand"): Expand(),
    ("", "Tile"): Tile(),
    ("", "Pad"): Pad(),
    ("", "DepthToSpace"): DepthToSpace(),
    ("", "SpaceToDepth"): SpaceToDepth(),
}
