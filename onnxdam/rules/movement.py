"""Operators that move slots without changing them: every slot of y is a slot of x, or a constant.

    Transpose   y.axes[i] = x.axes[perm[i]]         Concat   y[offset + i] = x_k[i]
    Split       y_k[i] = x[offset + i]              Slice    y[i] = x[start + step * i]
    Gather      y[i] = x[index[i]]                  Tile     y[i] = x[i mod n]
    Expand      y[i] = x[0]                         Pad      y[before + i] = x[i], else a constant
    DepthToSpace, SpaceToDepth                      c = (block, block, c') or (c', block, block)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from onnxdam.analysis.tensor import Array, Axis, Size, Sym, Tensor, at_most, capped, product
from onnxdam.rules.base import (
    Follows,
    Op,
    Pinned,
    Product,
    Relation,
    Rule,
    Same,
    adopt_shape,
    carry_const,
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

    def evaluate(self, op: Op, x: Array) -> Array:
        return x.transpose(self.perm(op))

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
            if axis in picks:
                mask, value = mask.take(picks[axis], k), value.take(picks[axis], k)
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
            elif n > 1:
                yield Pinned(t.axes[axis], "joined with a piece of unknown extent")
            others = [i for i in range(op.y.rank) if i != axis]
            if t.is_leaf or not fixed or not self._read_in_part(op):
                yield from same_axes(t, op.y, others)
            else:  # a piece that nobody reads must not widen the others
                whole = [np.arange(t.axes[i].n) for i in others]
                yield from (Same(t.axes[i], op.y.axes[i], index, index, lazy=True)
                            for i, index in zip(others, whole, strict=True) if t.axes[i].n == op.y.axes[i].n > 1)
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
                parts = [(np.zeros(t.axes[i].n, bool), np.zeros(t.axes[i].n)) if c is None else (c.mask, c.value)
                         for c, t in zip(facts, pieces, strict=True)]
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
        if op.y.opaque:
            return
        axis, offset = self.axis(op), 0
        gone = []
        for i, t in enumerate(op.ins):
            n = t.axes[axis].n if t is not None else 0
            if op.y.axes[axis].n > 1 and not slim.need.kept(op.y.axes[axis])[offset : offset + n].any():
                gone.append(i)
            offset += n
        if gone:
            slim.drop_inputs(op, gone)
            if len(op.ins) == 1:
                slim.skip(op, 0)


class Split(Rule):
    """Split into equal or unequal pieces."""

    def axis(self, op: Op) -> int:
        return int(op.attr("axis", 0)) % op.x.rank

    def shapes(self, op: Op) -> None:
        if not op.x.opaque:
            for y in op.outs:
                if not y.opaque:
                    adopt_shape(op.x, y, [i for i in range(op.x.rank) if i != self.axis(op)])

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


class Slice(Rule):
    """Slice with any step. Rewritten as a Slice where what stays is evenly spaced, else as a Gather."""

    def entries(self, op: Op) -> None:
        x = op.entries_of(0)
        plan = None if x is None or op.x.opaque else self._plan(op)
        if x is not None and plan is not None and x.ndim == 1 and 0 in plan and plan[0] is not None:
            op.y.set_entries(x[plan[0]])

    @staticmethod
    def _plan(op: Op) -> dict[int, slice | None] | None:
        """Axis -> slice; None for an axis whose bounds are not known; None altogether where the axes are not."""
        x = op.x
        starts, ends = op.ints(1, "starts"), op.ints(2, "ends")
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
            size = x.shape[axis]
            if isinstance(size, int):
                lower, upper = (starts[t], ends[t])
                plan[axis] = _clamped(lower, upper, steps[t], size)
            else:
                plan[axis] = None
        return plan

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
        return capped(size, end) if isinstance(end, (int, np.integer)) and end >= 0 and isinstance(size, Sym) else None

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

    def _patch(self, op: Op, slim: Slim, plan: dict[int, slice | None], bounds: dict[int, tuple[int, int, int]]) -> None:
        """Some bounds are computed at run time: those that are known are overwritten in place."""
        for index in (1, 2):
            old = op.known(index)
            if old is None:
                raise NotImplementedError("bounds partly computed at run time")  # excluded: such axes are pinned
            new = old.copy()
            for t, axis in enumerate(plan):
                if axis in bounds:
                    new[t] = bounds[axis][index - 1]
                elif plan[axis] is not None:
                    new[t] = (0, np.iinfo(old.dtype).max)[index - 1]
            slim.set_sliced(op, index, new)


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
            slim.write_sizes(op, 1, slim.shape(op.y)[-count:])


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
        new = [slim.count(op.y, i) if op.x.shape[i] == 1 and op.y.axes[i].n > 1 else int(times) for i, times in enumerate(repeats)]
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
        return None if value is None or value.dtype.kind not in "fiub" else float(value.reshape(-1)[0]) if value.size else 0.0

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
        return fixed and op.attr("mode", "constant") == "constant" and min(before, after) >= 0 and b.n == before + a.n + after

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
                y.set_const(i, np.pad(mask, (before, after), constant_values=True), np.pad(value.astype(float), (before, after), constant_values=fill))

    def rewrite(self, op: Op, slim: Slim) -> None:
        borders = self.borders(op)
        if borders is None or not any(slim.narrowed(op.y, i) and borders.get(i, (0, 0)) != (0, 0) for i in range(op.x.rank)):
            return
        new = {}
        for i, (before, after) in borders.items():
            if before or after:
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
    ("", "Transpose"): Transpose(),
    ("", "Concat"): Concat(),
    ("", "Split"): Split(),
    ("", "Slice"): Slice(),
    ("", "Gather"): Gather(),
    ("", "Expand"): Expand(),
    ("", "Tile"): Tile(),
    ("", "Pad"): Pad(),
    ("", "DepthToSpace"): DepthToSpace(),
    ("", "SpaceToDepth"): SpaceToDepth(),
}
