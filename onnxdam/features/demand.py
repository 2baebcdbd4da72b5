"""From an input to the first weights that read it, feature by feature.

Every element of a tensor behind the input is an element of the input, or none of it, as long as nodes only move or map
elements one by one. Where that is so follows from the relations of a node, read from its output to its input: a slot of
the output says which slot of the input it came from. `Element` holds the result for a whole tensor: one array of
original coordinates for each original axis, broadcast along the axes that it does not vary with.

The walk ends at a contraction, whose weights are the demand, or at a node that mixes elements without weights of its
own (a softmax, a maximum over features): that is a reader without a norm.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxdam.analysis.need import Need
from onnxdam.analysis.tensor import Array, Axis, Tensor
from onnxdam.rules.base import Blocks, Contract, Follows, Op, Pinned, Product, Relation, Same

LARGEST = 1 << 24  # elements of a tensor through which positions are pushed
WAYS = 64  # of one tensor into one node
MOST = 4096  # ways through the graph; what lies behind is a reader without a norm


@dataclass(frozen=True, eq=False)
class Element:
    """Which element of the original input stands where in a tensor.

    Attributes:
        coordinates: original axis -> its index, broadcast over the slots of the tensor.
        present: whether anything of the input stands there, broadcast likewise.
    """

    coordinates: dict[int, Array]
    present: Array

    def varies_along(self, axis: int) -> frozenset[int]:
        """The original axes whose index depends on the slot of an axis of the tensor."""
        return frozenset(k for k, index in self.coordinates.items() if index.shape[axis] > 1)

    def matters_along(self, axis: int) -> bool:
        """Whether it is not the same for all slots of an axis of the tensor."""
        return bool(self.varies_along(axis)) or self.present.shape[axis] > 1

    def restricted(self, kept: Mapping[int, Sequence[int] | Array], merged: Sequence[int] = ()) -> Element:
        """After some indices of some axes were taken; `merged` axes became one, and count as the first of them."""
        first, end = (merged[0], merged[-1] + 1) if merged else (0, 0)
        parts = [*self.coordinates.values(), self.present]
        sizes = np.broadcast_shapes(*(part.shape for part in parts))[first:end]

        def taken(part: Array) -> Array:
            for axis, indices in kept.items():
                if part.shape[axis] > 1 and not (merged and axis == first):
                    part = np.take(part, indices, axis)
            if merged:
                front, back = part.shape[:first], part.shape[end:]
                varies = max(part.shape[first:end]) > 1
                part = np.broadcast_to(part, (*front, *sizes, *back)) if varies else part
                part = part.reshape((*front, -1, *back))
                part = np.take(part, kept[first], first) if varies and first in kept else part
            return part

        return Element({k: taken(index) for k, index in self.coordinates.items()}, taken(self.present))

    def key(self) -> tuple[object, ...]:
        """Equal for equal elements."""
        parts = [(k, v.shape, v.tobytes()) for k, v in sorted(self.coordinates.items())]
        return (*parts, self.present.shape, self.present.tobytes())


@dataclass(frozen=True, eq=False)
class Arrival:
    """Where elements of an input are read.

    Attributes:
        reader: the node, "Operator name", or "output NAME".
        element: what stands where in the tensor that it reads.
        axis: the axis of that tensor along which its weights differ; None: it has none.
        relation: the contraction, None for a node that mixes elements otherwise (and may be followed all the same).
    """

    reader: str
    element: Element
    axis: int | None = None
    relation: Contract | Blocks | None = None


def arrivals(need: Need, start: Tensor, element: Element) -> list[Arrival]:
    """All first readers of an input.

    Args:
        need: the decision; nodes that it removes read nothing.
        start: the input.
        element: what stands where in it.
    """
    if not element.coordinates:
        return []  # nothing to tell apart
    single = not any(map(element.varies_along, range(start.rank)))
    found: list[Arrival] = []
    seen: set[tuple[object, ...]] = set()
    waiting = [(start, element)]
    while waiting:
        t, element = waiting.pop()
        key = (id(t), element.key())
        if key in seen:
            continue
        seen.add(key)
        if t in need.network.outputs:
            found.append(Arrival(f"output {t.name}", element))
        for op in dict.fromkeys(op for op, _ in t.readers):
            if op not in need.running or op.rule.shape_only:
                continue
            read = list(_contractions(need, op, t, element))
            onward = [] if read or len(seen) > MOST else list(_onward(need, op, t, element, single))
            mixes = not read and (not onward or _is_pinned(need, op, t, element))
            found.extend([Arrival(_name(op), element)] if mixes else read)
            waiting.extend(onward)
    return found


def _contractions(need: Need, op: Op, t: Tensor, element: Element) -> Iterator[Arrival]:
    for r in need.relations.get(op, ()):
        if isinstance(r, Contract | Blocks):
            axis = next((i for i, a in enumerate(t.axes) if a.n > 1 and _is_read(op, r.x, a)), None)
            if axis is not None and element.matters_along(axis):
                yield Arrival(_name(op), element, axis, r)


def _name(op: Op) -> str:
    return f"{op.kind} {op.name}"


def _is_read(op: Op, contracted: Axis, axis: Axis) -> bool:
    """Whether it is this axis that is contracted; an axis of no tensor stands for all that it is unified with."""
    if contracted.tensor in op.ins:
        return contracted is axis
    return contracted.tensor is None and contracted.root is axis.root


def _is_pinned(need: Need, op: Op, t: Tensor, element: Element) -> bool:
    """Whether the node needs all features whatever it writes, as a normalisation does."""
    varying = {axis.root for i, axis in enumerate(t.axes) if element.matters_along(i)}
    pinned = (r.axis for r in need.relations.get(op, ()) if isinstance(r, Pinned))
    needs = any(axis.root in varying and axis.tensor in (t, *op.outs) for axis in pinned)
    return needs and _positions(op, t) is None


def _onward(need: Need, op: Op, t: Tensor, element: Element, single: bool) -> Iterator[tuple[Tensor, Element]]:
    relations = need.relations.get(op, ())
    lost = single and not any(map(element.matters_along, range(t.rank)))  # in the whole tensor: nothing is told apart
    for target in (*op.outs, *(inner for body in op.bodies.values() for inner in body.ins)):
        if target in need.alive and not target.opaque and not (lost and not _passes(relations, op, t, target)):
            found = _moved(relations, t, target, element) or _pushed(op, t, target, element)
            yield from ((target, moved) for moved in found)


def _passes(relations: Sequence[Relation], op: Op, x: Tensor, y: Tensor) -> bool:
    """Whether the only feature of x is one element of y; relations rarely speak of axes of one slot."""
    if [axis.n for axis in x.axes] == [axis.n for axis in y.axes] or (op.ins[0] is x and _positions(op, x) is not None):
        return True
    pairs = [{r.a.tensor, r.b.tensor} for r in relations if isinstance(r, Same | Follows) and 1 in (r.a.n, r.b.n)]
    return {x, y} in pairs


# ------------------------------------------------------------------------------------------------------ movement


def _moved(relations: Sequence[Relation], x: Tensor, y: Tensor, element: Element) -> list[Element]:
    """The elements in y, once for every way into it (Concat may join x to itself); none if they cannot be told."""
    ways: list[list[Array]] = []
    for i, axis in enumerate(x.axes):
        found = _ways(relations, axis, y)
        if not found and element.matters_along(i):
            return []
        ways.append(found or [np.zeros((1,) * y.rank, np.intp)])
    return [_placed(element, places, y.rank) for places in itertools.islice(itertools.product(*ways), WAYS)]


def _placed(element: Element, places: Sequence[Array], rank: int) -> Element:
    """The elements of a tensor of this rank, each of which stands at these places of another."""
    there = np.array(True).reshape((1,) * rank)
    for slots in places:
        if (slots < 0).any():
            there = there & (slots >= 0)
    coordinates = {k: _take(index, places, rank) for k, index in element.coordinates.items()}
    return Element(coordinates, there & _take(element.present, places, rank))


def _pushed(op: Op, x: Tensor, y: Tensor, element: Element) -> list[Element]:
    """The elements in y, by pushing positions through a node that does nothing but move; none where it does more."""
    index = _positions(op, x) if op.ins[0] is x and y is op.outs[0] else None
    if index is None or list(index.shape) != [axis.n for axis in y.axes]:
        return []
    sizes = [axis.n for axis in x.axes]

    def pushed(part: Array) -> Array:
        part = np.broadcast_to(part, sizes).reshape(-1)[index]
        for axis in range(part.ndim):
            first = part.take([0], axis)
            part = first if (part == first).all() else part
        return part

    return [Element({k: pushed(part) for k, part in element.coordinates.items()}, pushed(element.present))]


def _positions(op: Op, x: Tensor) -> Array | None:
    """Where the elements of the output stand in x, None where the node does more than moving them."""
    sizes = [axis.n for axis in x.axes]
    return op.rule.moves(op, np.arange(math.prod(sizes)).reshape(sizes)) if math.prod(sizes) <= LARGEST else None


def _take(array: Array, places: Sequence[Array], rank: int) -> Array:
    """array[places], where `array` is as long as the axis or 1; the result has this rank, as small as it can be."""
    single = np.zeros((1,) * rank, np.intp)
    used = [slots if size > 1 else single for size, slots in zip(array.shape, places, strict=True)]
    return np.asarray(array[tuple(used)]) if used else array.reshape((1,) * rank)


def _ways(relations: Sequence[Relation], axis: Axis, y: Tensor, path: tuple[Axis, ...] = ()) -> list[Array]:
    """The slot of an axis, for every slot of the axes of y, -1 where there is none: every answer that follows."""
    for j, own in enumerate(y.axes):
        if own is axis:
            return [np.arange(axis.n).reshape([-1 if k == j else 1 for k in range(y.rank)])]
    found: list[Array] = []
    for r in relations:
        slots = _across(relations, r, axis, y, (*path, axis))
        if slots is not None and not any(np.array_equal(slots, other) for other in found):
            found.append(slots)
    single = axis.n == 1 and (not path or axis.tensor is None)  # that of another tensor says nothing of y
    return [np.zeros((1,) * y.rank, np.intp)] if single and not found else found


def _across(relations: Sequence[Relation], r: Relation, axis: Axis, y: Tensor, path: tuple[Axis, ...]) -> Array | None:
    """The slot of an axis by way of one relation that speaks of it."""

    def known(other: Axis) -> Array | None:
        ways = [] if any(other is a for a in path) else _ways(relations, other, y, path)
        return ways[0] if ways else None

    if isinstance(r, Same):
        for here, there, to, by in ((r.a, r.b, r.a_index, r.b_index), (r.b, r.a, r.b_index, r.a_index)):
            if here is axis and (slots := known(there)) is not None:
                return slots if to is None and by is None else _looked_up(_inverse(to, by, there.n), slots)
    elif isinstance(r, Follows):
        if r.b is axis and (slots := known(r.a)) is not None:
            return _looked_up(r.index, slots)
    elif isinstance(r, Product):
        sizes = [factor.n for factor in r.factors]
        if r.merged is axis:
            parts = [known(factor) for factor in r.factors]
            strides = np.cumprod([1, *sizes[:0:-1]])[::-1]
            if all(part is not None for part in parts):
                present = [part >= 0 for part in parts if part is not None]
                total = sum(part * int(stride) for part, stride in zip(parts, strides, strict=True) if part is not None)
                return np.where(np.logical_and.reduce(np.broadcast_arrays(*present)), total, -1)
        elif any(factor is axis for factor in r.factors) and (slots := known(r.merged)) is not None:
            k = next(k for k, factor in enumerate(r.factors) if factor is axis)
            return np.where(slots >= 0, np.unravel_index(np.maximum(slots, 0), sizes)[k], -1)
    return None


def _inverse(to: Array | None, by: Array | None, n: int) -> Array:
    """Which slot of one axis corresponds to each of the n slots of another; -1: none."""
    by = np.arange(n) if by is None else by
    index = np.full(n, -1, np.intp)
    index[by] = np.arange(len(by)) if to is None else to
    return index


def _looked_up(index: Array, slots: Array) -> Array:
    return np.where(slots >= 0, index[np.maximum(slots, 0)], -1)


# ------------------------------------------------------------------------------------------------------- weights


def strength(need: Need, r: Contract | Blocks) -> Array | None:
    """Sum of squares of the weights that read each slot of the contracted axis, None where they are not known.

    Only weights of outputs that stay count. Quantised weights count from their zero point, in steps.
    """
    if r.weight is None or not r.weight.is_known:
        return None
    weight = r.weight.content
    if weight.dtype.kind not in "iubf":
        weight = weight.astype(np.float32)  # bfloat16 and the like
    if r.weight_zero is not None:
        weight = weight.astype(np.float64) - r.weight_zero
    if isinstance(r, Contract):
        count = {k: need.kept(axis) for k, axis in enumerate(r.weight.axes) if axis.n > 1 and k != r.axis}
        for k, mask in (count | dict(r.summed)).items():
            weight = weight if mask.all() else np.compress(mask, weight, k)
        rows = np.moveaxis(weight, r.axis, 0).reshape(weight.shape[r.axis], -1)
        return np.einsum("ij,ij->i", rows, rows, dtype=np.float64, casting="unsafe")
    kept = need.kept(r.out) if r.out.n > 1 else np.ones(1, bool)
    each = np.square(weight.astype(np.float64)).reshape(*weight.shape[:2], -1).sum(2) * kept[:, None]
    return np.asarray(each.reshape(r.blocks, -1, weight.shape[1]).sum(1).reshape(-1))
