"""Which parameter a tensor of the graph comes from, and what became of its entries on the way."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from onnxdam.analysis.forward import compute
from onnxdam.analysis.tensor import Array, Tensor
from onnxdam.rules.base import Op

EXACT = 1 << 24  # positions up to here survive a conversion to single precision


@dataclass(frozen=True)
class Origin:
    """A parameter that entries of a tensor come from.

    Attributes:
        name: of the initializer.
        size: how many numbers it has.
        places: for each entry of the tensor its flat position there, -1 where it comes from elsewhere.
        keeps_zero: a zero there is a zero here: moved, scaled, masked, rounded numbers, not 1 + w or exp(w).
    """

    name: str
    size: int
    places: Array
    keeps_zero: bool


class _Coding(NamedTuple):
    """A number for each entry of a tensor that says where it comes from."""

    codes: Array
    keeps_zero: bool


def name_of(t: Tensor) -> str:
    """The name of a tensor in the file (the analysis may tell the readers of one initializer apart)."""
    return (t.value.name if t.value is not None else None) or t.name


def origins(t: Tensor) -> list[Origin]:
    """The initializers that a known tensor is made of, where every number is made of one place in them.

    Numbers may be made of several initializers, weights of a norm and its variance: then each is told.
    """
    begins: dict[str, tuple[int, int]] = {}
    found: dict[str, Origin] = {}
    for codes, keeps_zero in _codings(t, begins):
        for name, (begin, size) in begins.items():
            mine = (codes >= begin) & (codes < begin + size)
            if name not in found and mine.any():
                found[name] = Origin(name, size, np.where(mine, codes - begin, -1), keeps_zero)
    return list(found.values())


def _codings(t: Tensor, begins: dict[str, tuple[int, int]]) -> list[_Coding]:
    """All ways to say it: positions, pushed through the operators themselves."""
    if not t.is_known:
        return []
    if t.maker is None:
        if not t.rank or not t.is_leaf:
            return []
        before = sum(size for _, size in begins.values())
        begin, _ = begins.setdefault(name_of(t), (before, t.content.size))
        return [_Coding(begin + np.arange(t.content.size).reshape(t.content.shape), True)]
    ins = [x for x in t.maker.ins if x is not None]
    if len(ins) < len(t.maker.ins) or not all(x.is_known for x in ins):
        return []
    inputs = [_codings(x, begins) if x is t.maker.x or x.dtype is None or x.dtype.kind == "f" else [] for x in ins]
    first = [codings[0] if codings else None for codings in inputs]
    found = [] if not any(first) else [_moved(t, t.maker, ins, first)]
    if found and found[0] is None:
        return [one for place, codings in enumerate(inputs) for one in _pointwise(t, t.maker, ins, place, codings)]
    for place, codings in enumerate(inputs):
        found += [_moved(t, t.maker, ins, [*first[:place], one, *first[place + 1 :]]) for one in codings[1:]]
    return [one for one in found if one is not None]


def _moved(t: Tensor, op: Op, ins: Sequence[Tensor], codings: Sequence[_Coding | None]) -> _Coding | None:
    """The codes of a result, where all that the node does is to move numbers."""
    pairs = list(zip(ins, codings, strict=True))
    moved = _result(t, op, [x.content if coding is None else coding.codes for x, coding in pairs])
    again = _result(t, op, [x.content if coding is None else 3 * coding.codes + 7 for x, coding in pairs])
    if moved is None or again is None:
        return None
    with np.errstate(over="ignore"):  # ends of slices are as large as numbers get
        if not np.array_equal(3 * moved + 7, again):
            return None
    if moved.dtype.kind == "f" and np.abs(again).max(initial=0) >= EXACT:
        return None
    return _Coding(moved.astype(np.int64, copy=False), all(c.keeps_zero for c in codings if c is not None))


def _pointwise(t: Tensor, op: Op, ins: Sequence[Tensor], place: int, codings: list[_Coding]) -> list[_Coding]:
    """The codes of an input, where each number of the result is made of the one in the same place there."""
    content, shape = ins[place].content, t.content.shape
    sizes = zip(reversed(content.shape), reversed(shape), strict=False)
    if not codings or content.ndim > len(shape) or any(mine not in (1, n) for mine, n in sizes):
        return []
    half = np.random.default_rng(0).random(content.shape) < 0.5
    zeros = [_changed(t, op, ins, place, np.zeros((), content.dtype), mask) for mask in (half, ~half)]
    if all(zero is not None and (zero == 0).all() for zero in zeros):
        keeps_zero = True
    elif all(_changed(t, op, ins, place, np.roll(content, 1) + 1, mask) is not None for mask in (half, ~half)):
        keeps_zero = False
    else:
        return []
    return [_Coding(np.broadcast_to(c.codes, shape), c.keeps_zero and keeps_zero) for c in codings]


def _changed(t: Tensor, op: Op, ins: Sequence[Tensor], place: int, value: Array, mask: Array) -> Array | None:
    """What becomes of the entries of a result under a mask when an input has other values there; None where more than
    these entries change."""
    args: list[Array | None] = [x.content for x in ins]
    args[place] = np.where(mask, value.astype(ins[place].content.dtype), ins[place].content)
    found = _result(t, op, args)
    wide = np.broadcast_to(mask, t.content.shape)
    if found is None or found.shape != t.content.shape or not np.array_equal(found[~wide], t.content[~wide]):
        return None
    return found[wide]


def _result(t: Tensor, op: Op, arrays: Sequence[Array | None]) -> Array | None:
    """One of the outputs of a node from any content of its inputs."""
    found = compute(op, list(arrays))
    return None if found is None else found[next(i for i, out in enumerate(op.outs) if out.value is t.value)]


def along_parameter(t: Tensor, axis: int, shape: Sequence[int], places: Array) -> tuple[int, Array] | None:
    """The axis of the parameter that corresponds to an axis of the tensor, and its entry for each slot, -1 for none.

    A slot may hold numbers of other parameters, too: a unit of a recurrent cell, in weights that stack two directions.
    """
    return next(_runs_over(t, axis, shape, places, one_to_one=True), None)


def all_along_parameter(t: Tensor, axis: int, shape: Sequence[int], places: Array) -> Iterator[tuple[int, Array]]:
    """As `along_parameter`; where axes of the parameter were merged into one, all of them."""
    return _runs_over(t, axis, shape, places, one_to_one=False)


def _runs_over(
    t: Tensor, axis: int, shape: Sequence[int], places: Array, one_to_one: bool
) -> Iterator[tuple[int, Array]]:
    n = places.shape[axis]
    if t.maker is None:
        yield axis, np.arange(n)
        return
    lines = np.moveaxis(places, axis, 0).reshape(n, -1)
    inside = lines >= 0
    mine = inside.any(1)
    if not mine.all():
        lines, inside = lines[mine], inside[mine]
    if not len(lines):
        return
    begin = lines[np.arange(len(lines)), inside.argmax(1)]
    for i, extent in enumerate(shape):
        stride = math.prod(shape[i + 1 :])
        first = begin // stride % extent
        if (one_to_one and len(np.unique(first)) < len(lines)) or (extent == 1 and n > 1):
            continue
        if ((lines // stride % extent == first[:, None]) | ~inside).all():
            entry = np.full(n, -1)
            entry[mine] = first
            yield i, entry
