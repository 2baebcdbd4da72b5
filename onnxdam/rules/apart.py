"""Bidirectional cells whose directions lose different hidden units.

The units of a direction may be stored in any order, so unit 3 of one direction can share a place with unit 5 of the
other. That is possible where every output is read through a Reshape that merges directions and units, as networks do:

    Y [T, D, N, H]  ->  [T, N, D, H]  ->  [T, N, D * H]

Then each direction is a cell of its own with slots (direction, unit) on the merged axis, and the places on the last
axis of Y only have to be as many as each direction keeps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from onnxdam.analysis.tensor import Mask, Tensor
from onnxdam.rules.base import Op, Product, Relation
from onnxdam.rules.movement import Transpose
from onnxdam.rules.reshape import Regroup, regroup


@dataclass(frozen=True)
class Merge:
    """A Reshape that merges directions and units.

    Attributes:
        op: the node.
        axis: the merged axis of its output.
    """

    op: Op
    axis: int


def merges(t: Tensor, directions: int, units: int) -> list[Merge] | None:
    """The Reshapes through which all readers see a tensor; None where one sees it otherwise.

    Args:
        t: the tensor.
        directions: its axis of directions.
        units: its axis of units.
    """
    if t.pinned or (t.value is not None and t.value.is_graph_output()):
        return None
    found: list[Merge] = []
    for op, index in t.readers:
        inner: list[Merge] | None = None
        if isinstance(op.rule, Transpose) and not op.bodies and not op.folded:
            perm = op.rule.perm(op)
            inner = merges(op.y, perm.index(directions), perm.index(units))
        elif isinstance(op.rule, Regroup) and index == 0:
            axis = _merged(op, t, directions, units)
            inner = None if axis is None else [Merge(op, axis)]
        if inner is None:
            return None
        found += inner
    return found


def _merged(op: Op, t: Tensor, directions: int, units: int) -> int | None:
    """The axis of the output that is (direction, unit), row-major, and nothing else."""
    if op.y.opaque:
        return None
    for r in regroup(t, op.y):
        if (
            isinstance(r, Product)
            and r.merged.tensor is op.y
            and len(r.factors) == 2
            and all(factor is t.axes[axis] for factor, axis in zip(r.factors, (directions, units), strict=True))
        ):
            return r.merged.index
    return None


def merge_relations(merge: Merge) -> Iterator[Relation]:
    """What the Reshape says of everything but the merged axis."""
    merged = merge.op.y.axes[merge.axis]
    yield from (r for r in merge.op.rule.relations(merge.op) if not (isinstance(r, Product) and r.merged is merged))


def slice_of(t: Tensor, direction: int) -> Tensor:
    """The part of a known weight that belongs to one direction, as a weight of its own."""
    part = Tensor(f"{t.name}.{direction}", None, t.shape[1:], t.dtype)
    part.provide(lambda: t.content[direction])
    part.is_leaf = True
    return part


def state(name: str, zero: Mask) -> Tensor:
    """The units of the network as the recurrence reads them, with those that are always zero."""
    t = Tensor(name, None, zero.shape, np.dtype(np.float64))
    t.is_leaf = True
    t.set_const(0, zero, np.zeros(len(zero)))
    return t
