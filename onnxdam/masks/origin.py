"""Which parameter a tensor of the graph comes from, and how its entries were moved on the way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxdam.analysis.tensor import Array, Tensor


def name_of(t: Tensor) -> str:
    """The name of a tensor in the file (the analysis may tell the readers of one initializer apart)."""
    return (t.value.name if t.value is not None else None) or t.name


def source(t: Tensor) -> tuple[str, Array] | None:
    """The initializer that a known tensor is a re-arrangement of, and the flat position of each entry in it."""
    if not t.is_leaf:
        return None
    if t.maker is None:
        return (name_of(t), np.arange(t.content.size).reshape(t.content.shape)) if t.rank else None
    op = t.maker
    inner = source(op.x) if op.ins and op.ins[0] is not None else None
    rest = [i.content for i in op.ins[1:] if i is not None and i.is_known]
    if inner is None or len(rest) != len(op.ins) - 1:
        return None
    moved = op.rule.evaluate(op, inner[1], *rest)  # positions pushed through the operator itself
    if moved is None or not np.array_equal(np.sort(moved, axis=None), np.arange(inner[1].size)):
        return None  # more than a re-arrangement
    return inner[0], moved


def along_parameter(t: Tensor, axis: int, shape: Sequence[int], positions: Array) -> tuple[int, Array] | None:
    """The axis of the parameter that corresponds to an axis of a re-arrangement of it, and its entry for each slot."""
    lines = np.moveaxis(positions, axis, 0).reshape(positions.shape[axis], -1)
    places = np.unravel_index(lines, shape)
    for i, place in enumerate(places):
        if shape[i] == t.axes[axis].n and (place == place[:, :1]).all() and len(np.unique(place[:, 0])) == shape[i]:
            return i, place[:, 0]
    return None
