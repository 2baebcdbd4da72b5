"""Operators that pick slots.

Slice    y[i] = x[start + step * i]
Gather   y[i] = x[index[i]]
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from onnxdam.analysis.tensor import Array, Size, Sym, capped
from onnxdam.rules.base import (
    Follows,
    Op,
    Pinned,
    Relation,
    Rule,
    Same,
    adopt_shape,
    carry_const,
    pin_all,
    same,
)
from onnxdam.rules.movement import pick_joint

if TYPE_CHECKING:
    from onnxdam.rewrite.slim import Slim


class Slice(Rule):
    """Slice with any step. Rewritten as a Slice where what stays is evenly spaced, else as a Gather."""

    def entries(self, op: Op) -> None:
        x = op.entries_of(0)
        plan = None if x is None or op.x.opaque else self._plan(op)
        if x is not None and plan is not None and x.ndim == 1 and 0 in plan and plan[0] is not None:
            op.y.set_entries(x[plan[0]])

    @staticmethod
    def _plan(op: Op) -> dict[int, slice | None] | None:
        """Axis -> slice; None for an axis whose bounds are not known; None altogether where the axes are not.

        Where bounds of one axis are computed at run time, those of another can be read, but not written: it counts only
        where all of it is taken.
        """
        x = op.x
        starts, ends = _numbers(op, 1, "starts"), _numbers(op, 2, "ends")
        written = op.ints(1, "starts") is not None and op.ints(2, "ends") is not None
        bounds = op.node.attributes.get("starts") is not None or op.version < 10
        count = len(starts) if starts is not None else op.length(1)
        axes = op.ints(3, "axes") if (bounds and "axes" in op.node.attributes) or op.has(3) else None
        if axes is None:
            if op.has(3) or count is None:
                return None
            axes = tuple(range(count))
        steps: tuple[int, ...] | None = (1,) * len(axes)
        if op.has(4):
            steps = op.ints(4, "steps")
        plan: dict[int, slice | None] = {}
        for t, axis in enumerate(axes):
            axis %= max(x.rank, 1)
            if starts is None or ends is None or steps is None:
                plan[axis] = None
                continue
            size, lower, upper = x.shape[axis], starts[t], ends[t]
            plan[axis] = None
            if isinstance(size, int) and lower is not None and upper is not None:
                cut = _clamped(lower, upper, steps[t], size)
                if written or range(size)[cut] == range(size):
                    plan[axis] = cut
        return plan

    def moves(self, op: Op, source: Array) -> Array | None:
        plan = None if op.x.opaque else self._plan(op)
        if plan is None or any(cut is None for cut in plan.values()):
            return None
        return source[tuple(plan.get(i) or slice(None) for i in range(source.ndim))]

    def relations(self, op: Op) -> Iterator[Relation]:
        x, y = op.x, op.y
        yield from pin_all(op, "written-down bounds", op.ins[1:])
        plan = None if x.opaque or y.opaque else self._plan(op)
        if plan is None:
            yield from pin_all(op, "bounds not known")
            return
        for i in range(x.rank):
            cut = plan.get(i, slice(None))
            if i in plan and cut is None:
                yield from (Pinned(a, "bounds not known") for a in (x.axes[i], y.axes[i]) if a.n > 1)
            elif i not in plan:
                yield from same(x.axes[i], y.axes[i])
            elif x.axes[i].n > 1:
                index = np.arange(x.axes[i].n)[cut]
                if y.axes[i].n == len(index):
                    yield Same(y.axes[i], x.axes[i], None, index)
                else:
                    yield from (Pinned(a, "bounds not known") for a in (x.axes[i], y.axes[i]) if a.n > 1)

    def shapes(self, op: Op) -> None:
        x, y = op.x, op.y
        plan = None if x.opaque else self._plan(op)
        if plan is None:
            return
        if y.opaque:
            y.reshape([Sym(1, (f"{y.name}.{i}",)) for i in range(x.rank)])
        adopt_shape(x, y, [i for i in range(x.rank) if i not in plan])
        for i, cut in plan.items():
            size = x.shape[i]
            if cut is not None and isinstance(size, int) and isinstance(y.shape[i], Sym):
                y.set_layout(i, (len(range(size)[cut]),))
            elif cut is None and isinstance(y.shape[i], Sym):
                head = self._head(op, list(plan).index(i), size)
                if head is not None:
                    y.set_layout(i, (head,))

    @staticmethod
    def _head(op: Op, t: int, size: Size) -> Size | None:
        """The extent of x[0:end], where `end` is a size."""
        starts, ends, steps = op.ints(1, "starts"), op.entries_of(2), op.ints(4, "steps") if op.has(4) else None
        if starts is None or ends is None or starts[t] != 0 or (op.has(4) and (steps is None or steps[t] != 1)):
            return None
        end = ends.reshape(-1)[t]
        if end == size:
            return size
        if isinstance(end, Sym) and isinstance(size, int):
            return capped(end, size)
        return (
            capped(size, int(end))
            if isinstance(end, (int, np.integer)) and end >= 0 and isinstance(size, Sym)
            else None
        )

    def constants(self, op: Op) -> None:
        x, y = op.x, op.y
        if x.opaque or y.opaque or not (x.any_const or x.joint):
            return
        plan = self._plan(op)
        if plan is None:
            return
        pick_joint(x, y, {i: None if cut is None else np.arange(x.axes[i].n)[cut] for i, cut in plan.items()})
        carry_const(x, y, [i for i in range(x.rank) if i not in plan])
        for i, cut in plan.items():
            const = x.const(i)
            if cut is not None and const is not None and y.axes[i].n == len(const.mask[cut]):
                y.set_const(i, const.mask[cut], const.value[cut])

    def rewrite(self, op: Op, slim: Slim) -> None:
        plan = None if op.x.opaque else self._plan(op)
        if plan is None or not any(slim.narrowed(op.x, i) for i in plan):
            return
        bounds: dict[int, tuple[int, int, int]] = {}
        for i, cut in plan.items():
            if cut is None:
                continue
            kept = slim.slots(op.x, i)
            wanted = np.arange(op.x.axes[i].n)[cut]
            where = np.searchsorted(kept, wanted[np.isin(wanted, kept)])
            steps = np.unique(np.diff(where))
            if len(where) == len(kept) and (len(where) < 2 or (steps == 1).all()):
                continue  # nothing is cut any more
            if len(steps) > 1:
                slim.become_gather(op, i, where)
                return
            step = int(steps[0]) if len(steps) else 1
            end = int(where[-1]) + (1 if step > 0 else -1)
            bounds[i] = (int(where[0]), end if end >= 0 else np.iinfo(np.int64).min + 1, step)
        unknown = [i for i, cut in plan.items() if cut is None]
        if unknown:
            self._patch(op, slim, plan, bounds)
        elif not bounds:
            slim.skip(op, 0)
        else:
            self._write(op, slim, bounds)

    @staticmethod
    def _write(op: Op, slim: Slim, bounds: dict[int, tuple[int, int, int]]) -> None:
        axes = sorted(bounds)
        columns = [[bounds[a][k] for a in axes] for k in range(3)]
        if op.version < 10:
            slim.set_attr(op, "starts", columns[0])
            slim.set_attr(op, "ends", columns[1])
            slim.set_attr(op, "axes", axes)
            return
        for index, content in ((1, columns[0]), (2, columns[1]), (3, axes), (4, columns[2])):
            if index < 4 or any(step != 1 for step in content):
                slim.set_sliced(op, index, np.array(content, np.int64))
            elif op.has(4):
                slim.set_sliced(op, 4, np.array(content, np.int64))

    def _patch(
        self, op: Op, slim: Slim, plan: dict[int, slice | None], bounds: dict[int, tuple[int, int, int]]
    ) -> None:
        """Some bounds are computed at run time: those that are known are overwritten in place."""
        for index in (1, 2):
            old = op.known(index)
            if old is None:
                continue  # then all is taken of the axes that are not pinned
            new = old.copy()
            for t, axis in enumerate(plan):
                if axis in bounds:
                    new[t] = bounds[axis][index - 1]
                elif plan[axis] is not None:
                    new[t] = (0, np.iinfo(old.dtype).max)[index - 1]
            slim.set_sliced(op, index, new)


def _numbers(op: Op, index: int, name: str) -> tuple[int | None, ...] | None:
    """Bounds, None for one that is not known; None altogether where not even their number is."""
    known, entries = op.ints(index, name), op.entries_of(index)
    if known is not None or entries is None:
        return known
    return tuple(int(e) if isinstance(e, int | np.integer) else None for e in entries.reshape(-1))


def _clamped(start: int, end: int, step: int, size: int) -> slice:
    """ONNX bounds as a Python slice of an axis of `size`."""
    lower, upper = (0, size) if step > 0 else (-1, size - 1)
    start = min(max(start + size if start < 0 else start, max(lower, 0)), upper)
    end = min(max(end + size if end < 0 else end, lower), upper if step > 0 else size - 1)
    return slice(start, end if end >= 0 else None, step)


class Gather(Rule):
    """Gather: known indices are a selection; indices computed at run time pin the axis they index."""

    def entries(self, op: Op) -> None:
        x, index = op.entries_of(0), op.known(1)
        if x is not None and index is not None and x.ndim == 1:
            op.y.set_entries(np.take(x, index))

    def axis(self, op: Op) -> int:
        return int(op.attr("axis", 0)) % op.x.rank

    def moves(self, op: Op, source: Array) -> Array | None:
        index = op.tensor(1)
        static = index is not None and index.is_known and isinstance(op.x.shape[self.axis(op)], int)
        return source.take(index.content, self.axis(op)) if index is not None and static else None

    def shapes(self, op: Op) -> None:
        x, index = op.x, op.tensor(1)
        if x.opaque or index is None or index.opaque:
            return
        axis = self.axis(op)
        if op.y.opaque:
            op.y.reshape([*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]])
        for i, source in enumerate([*x.axes[:axis], *index.axes, *x.axes[axis + 1 :]]):
            op.y.adopt(i, source)

    def relations(self, op: Op) -> Iterator[Relation]:
        x, index, y = op.x, op.tensor(1), op.y
        if x.opaque or index is None or index.opaque or y.opaque:
            yield from pin_all(op, "unknown rank")
            return
        axis = self.axis(op)
        for i, source in enumerate([*x.axes[:axis], *index.axes, *x.axes[axis + 1 :]]):
            yield from same(source, y.axes[i])
        if x.axes[axis].n == 1:
            return
        if not index.is_leaf or not isinstance(x.shape[axis], int):
            yield Pinned(x.axes[axis], "indexed at run time")
            return
        picks = np.mod(index.content.reshape(-1), x.axes[axis].n)
        if index.rank == 1 and index.axes[0].n > 1:
            yield Follows(y.axes[axis], x.axes[axis], picks)
        else:
            read = np.zeros(x.axes[axis].n, bool)
            read[picks] = True
            yield Pinned(x.axes[axis], "selected by index", read)
            yield from pin_all(op, "selected by index", [index])

    def constants(self, op: Op) -> None:
        x, index, y = op.x, op.tensor(1), op.y
        if x.opaque or index is None or index.opaque or y.opaque or not (x.any_const or x.is_known or x.joint):
            return
        axis, shift = self.axis(op), index.rank - 1
        if index.is_known and index.rank <= 1:
            pick_joint(x, y, {axis: np.mod(index.content.reshape(-1), max(x.axes[axis].n, 1))}, gone=index.rank == 0)
        for i in range(x.rank):
            if i != axis and (x.any_const or x.axes[i].n > 1):
                const = x.const(i)
                if const is not None and y.axes[i + (shift if i > axis else 0)].n == len(const.mask):
                    y.set_const(i + (shift if i > axis else 0), const.mask, const.value)
        const = x.const(axis) if index.is_known and x.axes[axis].n > 1 else None
        if const is None:
            return
        picks = np.mod(index.content.reshape(-1), x.axes[axis].n)
        if index.rank == 1 and len(picks) == y.axes[axis].n:
            y.set_const(axis, const.mask[picks], const.value[picks])
        elif index.rank == 0 and const.mask[picks[0]] and y.rank:
            y.set_uniform(const.value[picks[0]])

    def rewrite(self, op: Op, slim: Slim) -> None:
        x, index = op.x, op.tensor(1)
        axis = 0 if x.opaque else self.axis(op)
        if x.opaque or index is None or not index.is_leaf or not slim.narrowed(x, axis):
            return
        kept = slim.slots(x, axis)
        picks = np.mod(index.content, x.axes[axis].n)
        place = np.searchsorted(kept, picks).clip(0, len(kept) - 1)
        slim.set_known(op, 1, place.astype(index.content.dtype).reshape(index.content.shape))
        if index.rank == 1:
            new = place[slim.slots(op.y, axis)] if op.y.axes[axis].n > 1 else place
            if len(new) == len(kept) and (new == np.arange(len(kept))).all():
                slim.skip(op, 0)


TABLE: dict[tuple[str, str], Rule] = {
    ("", "Slice"): Slice(),
    ("", "Gather"): Gather(),
}
