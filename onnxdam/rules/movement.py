"""Operators that move slots without changing them: every slot of y is a slot of x.

Transpose   y.axes[i] = x.axes[perm[i]]
Concat      y[offset + i] = x_k[i]
Split       y_k[i] = x[offset + i]
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from onnxdam.analysis.tensor import Array, Axis, Sym, Tensor
from onnxdam.rules.base import (
    Op,
    Pinned,
    Relation,
    Rule,
    Same,
    adopt_shape,
    carry_const,
    pin,
    pin_all,
    same,
    same_axes,
)

if TYPE_CHECKING:
    from onnxdam.rewrite.slim import Slim


class Transpose(Rule):
    """Transpose."""

    @staticmethod
    def perm(op: Op) -> tuple[int, ...]:
        """Axis i of y is axis perm[i] of x."""
        return tuple(op.attr("perm", tuple(range(op.x.rank))[::-1]))

    def evaluate(self, op: Op, *arrays: Array) -> Array:
        return arrays[0].transpose(self.perm(op))

    def moves(self, op: Op, source: Array) -> Array:
        return source.transpose(self.perm(op))

    def shapes(self, op: Op) -> None:
        if op.x.opaque:
            return
        perm = self.perm(op)
        if op.y.opaque:
            op.y.reshape([op.x.shape[p] for p in perm])
        for i, p in enumerate(perm):
            op.y.adopt(i, op.x.axes[p])

    def relations(self, op: Op) -> Iterator[Relation]:
        if op.x.opaque:
            yield from pin_all(op, "unknown rank")
            return
        for i, p in enumerate(self.perm(op)):
            yield from same(op.x.axes[p], op.y.axes[i])

    def constants(self, op: Op) -> None:
        op.y.lower = op.x.lower
        if op.x.opaque or not (op.x.any_const or op.x.joint):
            return
        for i, p in enumerate(self.perm(op)):
            const = op.x.const(p)
            if const is not None:
                op.y.set_const(i, const.mask, const.value)
        place = {p: i for i, p in enumerate(self.perm(op))}
        op.y.joint = {tuple(place[i] for i in axes): const for axes, const in op.x.joint.items()}


def pick_joint(x: Tensor, y: Tensor, picks: dict[int, Array | None], *, gone: bool = False) -> None:
    """Facts about several axes of x together, where y takes slots of some axes.

    Args:
        picks: axis -> the slots that y takes of it, None where they are not known.
        gone: y does not have the axes that are picked from.
    """
    for axes, const in x.joint.items():
        if any(axis in axes and slots is None for axis, slots in picks.items()):
            continue
        mask, value = const.mask, const.value
        for k, axis in enumerate(axes):
            slots = picks.get(axis)
            if slots is not None:
                mask, value = mask.take(slots, k), value.take(slots, k)
        lost = [k for k, axis in enumerate(axes) if gone and axis in picks]
        stay = [axis for axis in axes if not (gone and axis in picks)]
        places = [axis - sum(p < axis for p in picks) if gone else axis for axis in stay]
        mask, value = (np.squeeze(a, tuple(lost)) for a in (mask, value))
        if places and all(y.axes[p].n == n for p, n in zip(places, mask.shape, strict=True)):
            y.set_joint(places, mask, value)


class Concat(Rule):
    """Concat. Pieces of which nothing stays are left out."""

    operands = "pieces"

    def entries(self, op: Op) -> None:
        parts = [op.entries_of(i) for i in range(len(op.ins))]
        if all(p is not None and p.ndim == 1 for p in parts):
            op.y.set_entries(np.concatenate([p for p in parts if p is not None]))

    def axis(self, op: Op) -> int:
        return int(op.attr("axis", 1)) % op.y.rank

    def shapes(self, op: Op) -> None:
        pieces = [t for t in op.ins if t is not None]
        if any(t.opaque for t in pieces):
            return
        if op.y.opaque:
            op.y.reshape([Sym(1, (f"{op.y.name}.{i}",)) for i in range(pieces[0].rank)])
        axis = self.axis(op)
        sizes = [t.shape[axis] for t in pieces]
        if all(isinstance(s, int) for s in sizes):
            op.y.adopt(axis, Axis(None, 0, sum(s for s in sizes if isinstance(s, int))))
        for i in range(op.y.rank):
            if i != axis:
                for t in pieces:
                    op.y.adopt(i, t.axes[i])

    def relations(self, op: Op) -> Iterator[Relation]:
        pieces = [t for t in op.ins if t is not None]
        if op.y.opaque or any(t.opaque for t in pieces):
            yield from pin_all(op, "unknown rank")
            return
        axis = self.axis(op)
        fixed = all(isinstance(t.shape[axis], int) for t in pieces)
        offset = 0
        for t in pieces:
            n = t.axes[axis].n
            if fixed and op.y.axes[axis].n > 1:
                yield Same(t.axes[axis], op.y.axes[axis], None, np.arange(offset, offset + n))
                offset += n
            else:
                yield from pin("joined with a piece of unknown extent", t.axes[axis], op.y.axes[axis])
            others = [i for i in range(op.y.rank) if i != axis]
            if t.is_leaf or not fixed or not self._read_in_part(op):
                yield from same_axes(t, op.y, others)
            else:  # a piece that nobody reads must not widen the others
                whole = [np.arange(t.axes[i].n) for i in others]
                yield from (
                    Same(t.axes[i], op.y.axes[i], index, index, lazy=True)
                    for i, index in zip(others, whole, strict=True)
                    if t.axes[i].n == op.y.axes[i].n > 1
                )
                yield from (r for i in others if t.axes[i].n != op.y.axes[i].n for r in same(t.axes[i], op.y.axes[i]))

    def _read_in_part(self, op: Op) -> bool:
        """Whether a reader may want some pieces only."""
        return any(use.node.op_type in ("Gather", "Slice", "Split") for use in op.node.outputs[0].uses())

    def constants(self, op: Op) -> None:
        pieces = [t for t in op.ins if t is not None]
        if op.y.opaque or any(t.opaque for t in pieces):
            return
        if not any(t.any_const or (t.is_known and t.content.size < 65536) for t in pieces):
            return
        axis = self.axis(op)
        for i, out in enumerate(op.y.axes):
            facts = [t.const(i) for t in pieces]
            if i == axis and out.n > 1:
                parts = [
                    (np.zeros(t.axes[i].n, bool), np.zeros(t.axes[i].n)) if c is None else (c.mask, c.value)
                    for c, t in zip(facts, pieces, strict=True)
                ]
                mask, value = (np.concatenate(p) for p in zip(*parts, strict=True))
                if len(mask) == out.n:
                    op.y.set_const(i, mask, value)
            elif i != axis and all(c is not None and len(c.mask) == out.n for c in facts):
                known = [c for c in facts if c is not None]
                mask = np.logical_and.reduce([c.mask & (c.value == known[0].value) for c in known])
                op.y.set_const(i, mask, known[0].value)
            if i != axis and out.n > 1 and any(facts) and self._read_in_part(op):
                self._together(op, pieces, axis, i)

    @staticmethod
    def _together(op: Op, pieces: list[Tensor], axis: int, i: int) -> None:
        """Slots of axis i that are constant in some pieces only."""
        n = op.y.axes[i].n
        if any(t.axes[i].n != n or not isinstance(t.shape[axis], int) for t in pieces):
            return
        rows = [(np.zeros(n, bool), np.zeros(n)) if (c := t.const(i)) is None else (c.mask, c.value) for t in pieces]
        lengths = [t.axes[axis].n for t in pieces]
        mask, value = (np.repeat(np.stack(facts), lengths, 0) for facts in zip(*rows, strict=True))
        op.y.set_joint((axis, i), mask, value)

    def rewrite(self, op: Op, slim: Slim) -> None:
        if op.y.opaque or any(t is not None and t.opaque for t in op.ins):
            return
        axis = self.axis(op)
        if any(t is not None and not isinstance(t.shape[axis], int) for t in op.ins):
            return
        gone = unread_pieces(op, axis, slim)
        if gone:
            slim.drop_inputs(op, gone)
            if len(op.ins) == 1:
                slim.skip(op, 0)


def unread_pieces(op: Op, axis: int, slim: Slim) -> list[int]:
    """The inputs of an operator that joins tensors of which the result keeps nothing."""
    gone, offset = [], 0
    for i, t in op.rule.pieces(op):
        n = t.axes[axis].n
        if op.y.axes[axis].n > 1 and not slim.need.kept(op.y.axes[axis])[offset : offset + n].any():
            gone.append(i)
        offset += n
    return gone


class Split(Rule):
    """Split into equal or unequal pieces."""

    def axis(self, op: Op) -> int:
        return int(op.attr("axis", 0)) % op.x.rank

    def entries(self, op: Op) -> None:
        x, offset = op.entries_of(0), 0
        if x is None or x.ndim != 1 or any(y.opaque or not isinstance(y.shape[0], int) for y in op.outs):
            return
        for y in op.outs:
            n = y.axes[0].n
            y.set_entries(x[offset : offset + n])
            offset += n

    def shapes(self, op: Op) -> None:
        if op.x.opaque:
            return
        axis, sizes = self.axis(op), self._sizes(op)
        for k, y in enumerate(op.outs):
            if not y.opaque:
                adopt_shape(op.x, y, [i for i in range(op.x.rank) if i != axis])
                if sizes is not None and not isinstance(y.shape[axis], int):
                    y.set_layout(axis, (sizes[k],))

    def _sizes(self, op: Op) -> tuple[int, ...] | None:
        """The extents of the pieces, None where they are not known or, in a branch that is never taken, do not fit."""
        whole, count = op.x.shape[self.axis(op)], len(op.outs)
        if op.has(1) or "split" in op.node.attributes:
            sizes = op.ints(1, "split")
        elif isinstance(whole, int):
            piece = -(-whole // count)
            sizes = tuple(min(piece, whole - k * piece) for k in range(count))
        else:
            return None
        if sizes is None or len(sizes) != count or min(sizes) < 0 or (isinstance(whole, int) and sum(sizes) != whole):
            return None
        return sizes

    def relations(self, op: Op) -> Iterator[Relation]:
        x = op.x
        if op.has(1):
            yield from pin_all(op, "written-down sizes", [op.tensor(1)])
        if x.opaque or any(y.opaque for y in op.outs):
            yield from pin_all(op, "unknown rank")
            return
        axis = self.axis(op)
        fixed = all(isinstance(y.shape[axis], int) for y in op.outs) and isinstance(x.shape[axis], int)
        offset = 0
        for y in op.outs:
            n = y.axes[axis].n
            if fixed and x.axes[axis].n > 1:
                yield Same(y.axes[axis], x.axes[axis], None, np.arange(offset, offset + n))
                offset += n
            elif not fixed:
                yield from (Pinned(a, "piece of unknown extent") for a in (x.axes[axis], y.axes[axis]) if a.n > 1)
            yield from same_axes(x, y, [i for i in range(x.rank) if i != axis])

    def constants(self, op: Op) -> None:
        if op.x.opaque or not (op.x.any_const or op.x.joint) or any(y.opaque for y in op.outs):
            return
        axis, offset = self.axis(op), 0
        const = op.x.const(axis)
        for y in op.outs:
            carry_const(op.x, y, [i for i in range(op.x.rank) if i != axis])
            n = y.axes[axis].n
            if const is not None and isinstance(y.shape[axis], int) and offset + n <= len(const.mask):
                y.set_const(axis, const.mask[offset : offset + n], const.value[offset : offset + n])
            if isinstance(y.shape[axis], int):
                pick_joint(op.x, y, {axis: np.arange(offset, offset + n)})
            offset += n

    def rewrite(self, op: Op, slim: Slim) -> None:
        if op.x.opaque:
            return
        axis = self.axis(op)
        if not slim.narrowed(op.x, axis):
            return
        ends = np.cumsum([y.axes[axis].n for y in op.outs])  # a piece that nobody reads is what stays of it in x
        counts = np.diff(np.searchsorted(slim.slots(op.x, axis), ends), prepend=0)
        stay = np.flatnonzero(counts).tolist()
        sizes = [int(counts[k]) for k in stay]
        if len(stay) == 1:
            slim.skip(op, 0, stay[0])
            return
        slim.keep_outputs(op, stay)
        if op.version < 13:
            slim.set_attr(op, "split", sizes)
        else:
            slim.set_attr(op, "num_outputs", None)
            slim.set_sliced(op, 1, np.array(sizes, np.int64))


TABLE: dict[tuple[str, str], Rule] = {
    ("", "Transpose"): Transpose(),
    ("", "Concat"): Concat(),
    ("", "Split"): Split(),
}
