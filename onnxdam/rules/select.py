"""Operators that pick, place, count or sort along some axes. Those stay; the others correspond.

ArgMax, TopK, CumSum, Trilu, Compress, ReverseSequence, Det, DFT      the axes they work on stay
GatherElements, GatherND, ScatterElements, ScatterND, TensorScatter   indexed axes stay
OneHot                                                                the new axis stays
NonZero, Unique, random numbers, strings, sequences, optionals        nothing may go
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from onnxdam.analysis.tensor import Axis, Mask, Tensor
from onnxdam.rules.base import Op, Relation, Rule, carry_const, pin, pin_all, same
from onnxdam.rules.elementwise import lower_bound


def match(*axes: Axis) -> Iterator[Relation]:
    """Slots correspond by position; all stay where the extents are not provably equal."""
    first = axes[0]
    if all(axis.layout == first.layout for axis in axes):
        for axis in axes[1:]:
            yield from same(first, axis)
    else:
        yield from pin("extents are not known to be equal", *axes)


class Along(Rule):
    """The axes it works on stay, in all tensors that have them; the others correspond.

    Args:
        note: what it does along them.
        keeps: which constants survive it on the other axes: "all", "zero" or "none".
        bounded: no element of the first output is below the lowest of x.
    """

    def __init__(self, note: str, *, keeps: str = "none", bounded: bool = False) -> None:
        self.note = note
        self.keeps = keeps
        self.bounded = bounded

    def over(self, op: Op) -> Sequence[int] | None:
        """The axes of x that it works on; None where they are not known."""
        return [op.attr("axis", -1)]

    def where(self, op: Op, over: set[int], y: Tensor) -> dict[int, int]:
        """Axis of x -> axis of y, for the axes that correspond."""
        return {i: i for i in range(op.x.rank) if i not in over}

    def alike(self, op: Op) -> dict[int, tuple[int, int]]:
        """Other inputs of one slot per slot of x: input -> (its axis, axis of x)."""
        return {}

    def _over(self, op: Op) -> set[int] | None:
        over = None if op.x.opaque or op.y.opaque else self.over(op)
        return None if over is None else {a % max(op.x.rank, 1) for a in over}

    def shapes(self, op: Op) -> None:
        over = self._over(op)
        for y in op.outs if over is not None else ():
            for i, j in self.where(op, over or set(), y).items():
                if j < y.rank:
                    y.adopt(j, op.x.axes[i])

    def relations(self, op: Op) -> Iterator[Relation]:
        over = self._over(op)
        if over is None or any(t.opaque for t in op.outs):
            yield from pin_all(op, self.note)
            return
        alike = self.alike(op)
        yield from pin_all(op, self.note, [t for i, t in enumerate(op.ins) if i > 0 and i not in alike])
        for index, (axis, of) in alike.items():
            t = op.tensor(index)
            if t is not None and not t.opaque:
                yield from match(t.axes[axis], op.x.axes[of])
        yield from pin(self.note, *(op.x.axes[i] for i in over))
        for y in op.outs:
            where = self.where(op, over, y)
            for i, j in where.items():
                yield from same(op.x.axes[i], y.axes[j])
            yield from pin(self.note, *(axis for j, axis in enumerate(y.axes) if j not in where.values()))

    def constants(self, op: Op) -> None:
        x, y, over = op.x, op.y, self._over(op)
        if self.bounded:
            y.lower = lower_bound(x)
        if over is None or self.keeps == "none" or not x.any_const:
            return
        for i, j in self.where(op, over, y).items():
            const = x.const(i)
            if const is not None and y.axes[j].n == len(const.mask):
                y.set_const(j, const.mask if self.keeps == "all" else const.mask & (const.value == 0), const.value)


class Arg(Along):
    """ArgMax, ArgMin: positions along the axis."""

    def over(self, op: Op) -> Sequence[int]:
        return [op.attr("axis", 0)]

    def where(self, op: Op, over: set[int], y: Tensor) -> dict[int, int]:
        rest = [i for i in range(op.x.rank) if i not in over]
        return {i: (i if op.attr("keepdims", 1) else k) for k, i in enumerate(rest)}

    def constants(self, op: Op) -> None:
        x, over = op.x, self._over(op)
        if not over or not x.any_const or op.attr("select_last_index", 0):
            return
        for i, j in self.where(op, over, op.y).items():  # among equals the first is chosen
            const = x.const(i)
            if const is not None and op.y.axes[j].n == len(const.mask):
                op.y.set_const(j, const.mask, np.zeros(len(const.mask), np.int64))


class CumulativeSum(Along):
    """CumSum, CumProd: the axis is an input."""

    def over(self, op: Op) -> Sequence[int] | None:
        return op.ints(1, "axis")


class Triangle(Along):
    """Trilu."""

    def over(self, op: Op) -> Sequence[int]:
        return (-2, -1)

    def constants(self, op: Op) -> None:
        super().constants(op)
        op.y.lower = min(lower_bound(op.x), 0.0)


class Determinant(Along):
    """Det."""

    def over(self, op: Op) -> Sequence[int]:
        return (-2, -1)


class Compress(Along):
    """Compress: without an axis x is flattened."""

    def over(self, op: Op) -> Sequence[int]:
        axis = op.attr("axis")
        return range(op.x.rank) if axis is None else [axis]

    def where(self, op: Op, over: set[int], y: Tensor) -> dict[int, int]:
        return super().where(op, over, y) if y.rank == op.x.rank else {}


class ReverseSequence(Along):
    """ReverseSequence: one length for each slot of the batch."""

    def over(self, op: Op) -> Sequence[int]:
        return [op.attr("time_axis", 0)]

    def alike(self, op: Op) -> dict[int, tuple[int, int]]:
        return {1: (0, op.attr("batch_axis", 1))}


class Fourier(Along):
    """DFT: the last axis holds real and imaginary parts."""

    def over(self, op: Op) -> Sequence[int] | None:
        if op.version < 20:
            return (op.attr("axis", 1), -1)
        axis = op.ints(2, "axis") if op.has(2) else (-2,)
        return None if axis is None else (*axis, -1)


class OneHot(Rule):
    """OneHot: y has a new axis, as long as the depth."""

    note = "one slot for each class"

    def relations(self, op: Op) -> Iterator[Relation]:
        x, y = op.x, op.y
        if x.opaque or y.opaque:
            yield from pin_all(op, self.note)
            return
        axis = op.attr("axis", -1) % y.rank
        yield from pin_all(op, self.note, op.ins[1:])
        yield from pin(self.note, y.axes[axis])
        for i in range(x.rank):
            yield from same(x.axes[i], y.axes[i + (i >= axis)])


class Indexed(Rule):
    """What gathers and scatters have in common."""

    note = "indexed at run time"

    @staticmethod
    def usable(op: Op, count: int) -> bool:
        """Whether the ranks of the first inputs and of the output are known."""
        tensors = [op.tensor(i) for i in range(count)]
        return not op.y.opaque and all(t is not None and not t.opaque and t.rank > 0 for t in tensors)

    @staticmethod
    def depth(index: Tensor) -> int | None:
        """How many axes an index of the ND operators speaks of."""
        size = index.shape[-1]
        return size if isinstance(size, int) else None


class GatherElements(Indexed):
    """GatherElements: y[i, j] = x[index[i, j], j], in the shape of the indices."""

    def shapes(self, op: Op) -> None:
        index = op.tensor(1)
        if index is not None and not index.opaque:
            if op.y.opaque:
                op.y.reshape(index.shape)
            for i, axis in enumerate(index.axes):
                op.y.adopt(i, axis)

    def relations(self, op: Op) -> Iterator[Relation]:
        x, index, y = op.x, op.tensor(1), op.y
        if index is None or not self.usable(op, 2):
            yield from pin_all(op, self.note)
            return
        axis = op.attr("axis", 0) % x.rank
        for i in range(x.rank):
            yield from same(index.axes[i], y.axes[i])
            yield from pin(self.note, x.axes[i]) if i == axis else match(x.axes[i], index.axes[i])

    def constants(self, op: Op) -> None:
        x, index, y = op.x, op.tensor(1), op.y
        if index is None or not self.usable(op, 2) or not (x.any_const or x.is_known):
            return
        if x.uniform is not None:
            y.set_uniform(x.uniform)
        elif x.any_const:
            axis = op.attr("axis", 0) % x.rank
            carry_const(x, y, [i for i in range(x.rank) if i != axis and x.axes[i].layout == index.axes[i].layout])


class GatherND(Indexed):
    """GatherND: y[b, i, ...] = x[b, index[b, i], ...]."""

    def relations(self, op: Op) -> Iterator[Relation]:
        x, index, y = op.x, op.tensor(1), op.y
        depth = self.depth(index) if index is not None and self.usable(op, 2) else None
        if index is None or depth is None:
            yield from pin_all(op, self.note)
            return
        batch, lead = op.attr("batch_dims", 0), index.rank - 1
        for i in range(lead):
            yield from match(index.axes[i], x.axes[i], y.axes[i]) if i < batch else same(index.axes[i], y.axes[i])
        yield from pin(self.note, index.axes[-1], *x.axes[batch : batch + depth])
        for i in range(batch + depth, x.rank):
            yield from same(x.axes[i], y.axes[i - batch - depth + lead])

    def constants(self, op: Op) -> None:
        x, index, y = op.x, op.tensor(1), op.y
        depth = self.depth(index) if index is not None and self.usable(op, 2) else None
        if index is None or depth is None or not (x.any_const or x.is_known):
            return
        if x.uniform is not None:
            y.set_uniform(x.uniform)
            return
        batch = op.attr("batch_dims", 0)
        for i in range(batch + depth, x.rank):
            const = x.const(i) if x.any_const else None
            j = i - batch - depth + index.rank - 1
            if const is not None and y.axes[j].n == len(const.mask):
                y.set_const(j, const.mask, const.value)


class Scatter(Indexed):
    """ScatterElements, ScatterND: y is x but for the places that the indices name."""

    def _axes(self, op: Op) -> tuple[set[int], dict[int, int], dict[int, int]] | None:
        """The axes of x that stay; axis of x -> axis of the updates, and -> of the indices, where they correspond."""
        raise NotImplementedError

    def relations(self, op: Op) -> Iterator[Relation]:
        x, index, updates, y = op.x, op.tensor(1), op.tensor(2), op.y
        found = self._axes(op) if self.usable(op, 3) else None
        if found is None or index is None or updates is None:
            yield from pin_all(op, self.note)
            return
        fixed, of_updates, of_index = found
        yield from pin(self.note, *(x.axes[i] for i in fixed), *(y.axes[i] for i in fixed))
        yield from pin(self.note, *(a for j, a in enumerate(updates.axes) if j not in of_updates.values()))
        yield from pin(self.note, *(a for j, a in enumerate(index.axes) if j not in of_index.values()))
        for i in set(range(x.rank)) - fixed:
            others = [updates.axes[of_updates[i]]] + ([index.axes[of_index[i]]] if i in of_index else [])
            yield from match(x.axes[i], y.axes[i], *others)

    def constants(self, op: Op) -> None:
        x, updates, y = op.x, op.tensor(2), op.y
        found = self._axes(op) if self.usable(op, 3) else None
        if found is None or updates is None or not (x.any_const or x.is_known):
            return
        for i in set(range(x.rank)) - found[0]:
            mask, value = self._agree(op, x, i, updates, found[1][i])
            if mask is not None and x.axes[i].layout == updates.axes[found[1][i]].layout and y.axes[i].n == len(mask):
                y.set_const(i, mask, value)

    @staticmethod
    def _agree(op: Op, x: Tensor, i: int, updates: Tensor, j: int) -> tuple[Mask | None, np.ndarray]:
        """Slots where x and the updates are the same constant, which putting one into the other leaves alone."""
        a, b = x.const(i), updates.const(j) if updates.any_const or updates.is_known else None
        if a is None or b is None or len(a.mask) != len(b.mask):
            return None, np.zeros(0)
        mask = a.mask & b.mask & (a.value == b.value)
        if op.attr("reduction", "none") in ("add", "mul"):
            mask = mask & (a.value == 0)
        return mask, a.value


class ScatterElements(Scatter):
    """ScatterElements, and the older Scatter."""

    def _axes(self, op: Op) -> tuple[set[int], dict[int, int], dict[int, int]]:
        axis = op.attr("axis", 0) % op.x.rank
        rest = {i: i for i in range(op.x.rank) if i != axis}
        return {axis}, rest, rest


class ScatterND(Scatter):
    """ScatterND."""

    def _axes(self, op: Op) -> tuple[set[int], dict[int, int], dict[int, int]] | None:
        index = op.tensor(1)
        depth = None if index is None else self.depth(index)
        if index is None or depth is None:
            return None
        return set(range(depth)), {i: i - depth + index.rank - 1 for i in range(depth, op.x.rank)}, {}


class TensorScatter(Indexed):
    """TensorScatter: writes new steps into a cache."""

    def relations(self, op: Op) -> Iterator[Relation]:
        x, update, y = op.x, op.tensor(1), op.y
        if update is None or not self.usable(op, 2):
            yield from pin_all(op, self.note)
            return
        axis = op.attr("axis", -2) % x.rank
        yield from pin(self.note, x.axes[axis], update.axes[axis], y.axes[axis])
        for i in range(x.rank):
            if i != axis:
                yield from match(x.axes[i], update.axes[i], y.axes[i])
        positions = op.tensor(2)
        if positions is not None and not positions.opaque:
            yield from match(positions.axes[0], x.axes[0])

    def constants(self, op: Op) -> None:
        x, update, y = op.x, op.tensor(1), op.y
        if update is None or not self.usable(op, 2) or not (x.any_const or x.is_known):
            return
        axis = op.attr("axis", -2) % x.rank
        for i in range(x.rank):
            a, b = x.const(i), update.const(i) if update.any_const or update.is_known else None
            if i != axis and a is not None and b is not None and len(a.mask) == len(b.mask) == y.axes[i].n:
                y.set_const(i, a.mask & b.mask & (a.value == b.value), a.value)


class Untouched(Rule):
    """Nothing may go, and why."""

    def __init__(self, note: str) -> None:
        self.note = note


def _untouched(note: str, names: str) -> dict[tuple[str, str], Rule]:
    return {("", name): Untouched(note) for name in names.split()}


TABLE: dict[tuple[str, str], Rule] = {
    ("", "ArgMax"): Arg("compared"),
    ("", "ArgMin"): Arg("compared"),
    ("", "TopK"): Along("sorted", keeps="all", bounded=True),
    ("", "CumSum"): CumulativeSum("added up in order", keeps="zero"),
    ("", "CumProd"): CumulativeSum("multiplied up in order"),
    ("", "Trilu"): Triangle("cut to a triangle", keeps="zero"),
    ("", "Det"): Determinant("one determinant from all of it"),
    ("", "Compress"): Compress("chosen at run time", keeps="all"),
    ("", "ReverseSequence"): ReverseSequence("turned around", keeps="all"),
    ("", "DFT"): Fourier("transformed", keeps="zero"),
    ("", "OneHot"): OneHot(),
    ("", "GatherElements"): GatherElements(),
    ("", "GatherND"): GatherND(),
    ("", "Scatter"): ScatterElements(),
    ("", "ScatterElements"): ScatterElements(),
    ("", "ScatterND"): ScatterND(),
    ("", "TensorScatter"): TensorScatter(),
    **_untouched("positions are counted", "NonZero Unique EyeLike"),
    **_untouched("signal processing", "STFT MelWeightMatrix BlackmanWindow HannWindow HammingWindow"),
    **_untouched("text", "StringNormalizer StringConcat StringSplit RegexFullMatch TfIdfVectorizer ImageDecoder"),
    **_untouched(
        "sequences are not followed",
        "SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength SequenceMap "
        "SplitToSequence ConcatFromSequence Optional OptionalGetElement OptionalHasElement",
    ),
    **_untouched("a loss counts its classes", "NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss"),
}
