"""Which parameter a tensor of the graph comes from, and how its entries were moved (or scaled) on the way."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

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
    """

    name: str
    size: int
    places: Array


def name_of(t: Tensor) -> str:
    """The name of a tensor in the file (the analysis may tell the readers of one initializer apart)."""
    return (t.value.name if t.value is not None else None) or t.name


def origins(t: Tensor, prefer: Collection[str] = ()) -> list[Origin]:
    """The initializers that a known tensor is put together from, where every number is that of one place in them.

    Args:
        t: the tensor.
        prefer: names of initializers to follow, where numbers are made of two: a weight rather than its scale.
    """
    begins: dict[str, tuple[int, int]] = {}
    codes = _codes(t, begins, prefer)
    if codes is None:
        return []
    found = []
    for name, (begin, size) in begins.items():
        mine = (codes >= begin) & (codes < begin + size)
        if mine.any():
            found.append(Origin(name, size, np.where(mine, codes - begin, -1)))
    return found


def sources(t: Tensor) -> list[Origin]:
    """The initializers that a known tensor re-arranges, every number of theirs once; none where there is more to it."""
    found = origins(t)
    whole = len(found) == 1 and t.maker is None
    if sum(origin.size for origin in found) != t.content.size if found else True:
        return []
    if not whole and any((np.bincount(o.places[o.places >= 0]) > 1).any() for o in found):
        return []  # numbers that are there twice
    return found


def _codes(t: Tensor, begins: dict[str, tuple[int, int]], prefer: Collection[str]) -> Array | None:
    """A number for each entry that says where it comes from: positions, pushed through the operators themselves."""
    if not t.is_known:
        return None
    if t.maker is None:
        if not t.rank or not t.is_leaf:
            return None
        before = sum(size for _, size in begins.values())
        begin, _ = begins.setdefault(name_of(t), (before, t.content.size))
        return begin + np.arange(t.content.size).reshape(t.content.shape)
    if any(x is None or not x.is_known for x in t.maker.ins):
        return None
    ins = [x for x in t.maker.ins if x is not None]
    codes = [
        _codes(x, begins, prefer) if x is t.maker.x or x.dtype is None or x.dtype.kind == "f" else None for x in ins
    ]
    moved = _moved(t.maker, ins, codes)
    if moved is not None:
        return moved
    liked = [range(begin, begin + size) for name, (begin, size) in begins.items() if name in prefer]
    places = [i for i, code in enumerate(codes) if code is not None and code.shape == t.content.shape]
    places.sort(key=lambda i: not any(int(codes[i].flat[0]) in these for these in liked))  # type: ignore[union-attr]
    return next((codes[i] for i in places if _is_scaled(t, t.maker, ins, i)), None)


def _moved(op: Op, ins: Sequence[Tensor], codes: Sequence[Array | None]) -> Array | None:
    """The codes of the result, where all that the node does is to move numbers."""
    first: list[Array | None] = [x.content if code is None else code for x, code in zip(ins, codes, strict=True)]
    second: list[Array | None] = [
        x.content if code is None else 3 * code + 7 for x, code in zip(ins, codes, strict=True)
    ]
    moved, again = compute(op, first), compute(op, second)
    if moved is None or again is None:
        return None
    with np.errstate(over="ignore"):  # ends of slices are as large as numbers get
        if not np.array_equal(3 * moved[0] + 7, again[0]):
            return None
    if moved[0].dtype.kind == "f" and np.abs(again[0]).max(initial=0) >= EXACT:
        return None
    return moved[0].astype(np.int64, copy=False)


def _is_scaled(t: Tensor, op: Op, ins: Sequence[Tensor], place: int) -> bool:
    """Whether each number of a tensor is made of the one in the same place of an input, and zero of zero: weights that
    are scaled, masked, quantised. Found by trying: half of the numbers, then the others, are set to zero."""
    half = np.random.default_rng(0).random(t.content.shape) < 0.5
    for zero in (half, ~half):
        args: list[Array | None] = [x.content for x in ins]
        args[place] = _without(ins[place].content, zero)
        found = compute(op, args)
        if found is None or not np.array_equal(found[0], _without(t.content, zero)):
            return False
    return True


def _without(content: Array, zero: Array) -> Array:
    return np.where(zero, np.zeros((), content.dtype), content)


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
