"""Reductions: y = f(x) over some axes; the others correspond.

    Sum, L1, L2, SumSquare, LogSum    slots that are zero add nothing: they may leave
    Mean                              so may they here; sum / n = (sum / n') * (n' / n), the factor moves into constants
    Max                               a constant slot that no element is below never wins
    Prod                              slots that are one
    Min, LogSumExp                    every slot counts

The factor f = n / n' by which a mean over n' slots is too large travels with the value until a constant takes it up:

    f y + c = f (y + c / f ...)       Add scales its constant         sqrt(f y) = sqrt(f) sqrt(y)
    x / (f y) = (x / y) / f           (f y) * gamma = y * (f gamma)   Mul, Div and MatMul by a constant end it

which is what makes a decomposed RMSNorm exact: eps' = eps n / n', gamma' = gamma sqrt(n / n'). Where no constant takes
it up, one Mul puts it right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from onnxdam.analysis.tensor import Array, Mask, Tensor, product
from onnxdam.rules.base import Op, Pinned, Relation, Rule, pin_all, same
from onnxdam.rules.elementwise import lower_bound

if TYPE_CHECKING:
    from onnxdam.rewrite.slim import Slim

#: what a reduction makes of the last axis of an array each of whose elements occurs so many times
Function = Callable[[Array, float], Array]
#: which slots of an axis add nothing
Free = Callable[[Tensor, int], "Mask | None"]


def axes_of(op: Op) -> tuple[int, ...] | None:
    """The reduced axes, counted from the front and sorted; None where they are not known."""
    rank = op.x.rank
    if "axes" not in op.node.attributes and op.has(1) and op.known(1) is None:
        return None
    axes = op.ints(1, "axes")
    if not axes:
        return () if op.attr("noop_with_empty_axes", 0) else tuple(range(rank))
    return tuple(sorted({a % rank for a in axes}))


def places(op: Op, axes: tuple[int, ...]) -> dict[int, int]:
    """Axis of x -> axis of y, for the axes that are not reduced."""
    kept = [i for i in range(op.x.rank) if i not in axes]
    return {i: (i if op.attr("keepdims", 1) else k) for k, i in enumerate(kept)}


class Reduce(Rule):
    """One of the Reduce operators.

    Args:
        function: the reduction of constants.
        free: the slots that may leave a reduced axis.
        bound: a lower bound of y from one of x.
        mean: divides by the number of slots.
    """

    note = "reduced over"

    def __init__(
        self,
        function: Function,
        *,
        free: Free | None = None,
        bound: Callable[[float], float] | None = None,
        mean: bool = False,
    ) -> None:
        self.function = function
        self.free = free
        self.bound = bound
        self.mean = mean

    def entries(self, op: Op) -> None:
        entries = op.entries_of(0)
        if op.kind != "ReduceProd" or entries is None or entries.ndim != 1 or axes_of(op) != (0,):
            return
        if any(e is None for e in entries):
            return
        whole = np.empty(1 if op.attr("keepdims", 1) else (), object)
        whole[...] = product(list(entries))
        op.y.set_entries(whole)

    def shapes(self, op: Op) -> None:
        x, y = op.x, op.y
        axes = None if x.opaque else axes_of(op)
        if axes is None:
            return
        where = places(op, axes)
        if y.opaque:
            y.reshape([1 if i in axes else s for i, s in enumerate(x.shape) if i in where or op.attr("keepdims", 1)])
        for i, j in where.items():
            y.adopt(j, x.axes[i])

    def relations(self, op: Op) -> Iterator[Relation]:
        x, y = op.x, op.y
        yield from pin_all(op, "written-down axes", op.ins[1:])
        axes = None if x.opaque or y.opaque else axes_of(op)
        if axes is None:
            yield from pin_all(op, "reduced over axes that are not known")
            return
        for i, j in places(op, axes).items():
            yield from same(x.axes[i], y.axes[j])
        for i in axes:
            if x.axes[i].n > 1:
                free = self.free(x, i) if self.free is not None and (is_float(x) or not self.mean) else None
                yield Pinned(x.axes[i], self.note, None if free is None else ~free)

    def constants(self, op: Op) -> None:
        x, y = op.x, op.y
        if self.bound is not None and not x.opaque:
            y.lower = max(y.lower, self.bound(lower_bound(x)))
        axes = None if x.opaque or y.opaque or not x.any_const else axes_of(op)
        if not axes:
            return
        for i, j in places(op, axes).items():
            const = x.const(i)
            if const is not None and y.axes[j].n == len(const.mask):
                value, valid = self._reduced(x, const.value[:, None], axes)
                y.set_const(j, const.mask & valid, value)
        for i in axes:
            const = x.const(i)
            if const is not None and const.mask.all():  # the same for every position, whatever the slot
                value, valid = self._reduced(x, const.value[None], axes, i)
                if valid.all():
                    y.set_uniform(value[0])

    def _reduced(self, x: Tensor, values: Array, axes: tuple[int, ...], along: int | None = None) -> tuple[Array, Mask]:
        """The reduction of `values` (their last axis stands for axis `along` of x), and where it is certain."""
        times = 1.0
        certain = True
        for i in axes:
            size = x.shape[i]
            if i == along:
                size = size if isinstance(size, int) and size == values.shape[-1] else -1
                certain &= size != -1
            elif isinstance(size, int):
                times *= size
            else:
                certain = False
        with np.errstate(all="ignore"):
            result = np.asarray(self.function(values, times))
            valid = np.isfinite(result)
            if not certain:  # only what does not depend on how many there are
                valid = valid & (self.function(values, 1.0) == result) & (self.function(values, 2.0 * times) == result)
                valid = valid & (values == values[..., :1]).all(-1)
        if values.dtype.kind in "iu":
            valid = valid & (result == np.rint(result)) & (np.abs(result) < 2**31)
            result = np.where(valid, result, 0).astype(np.int64)
        return result, valid

    def rewrite(self, op: Op, slim: Slim) -> None:
        axes = axes_of(op) if self.mean and not op.x.opaque else None
        if not axes or not any(slim.narrowed(op.x, i) for i in axes):
            return
        factor = math.prod(op.x.axes[i].n / slim.count(op.x, i) for i in axes)
        scale(op, slim, factor)


def scale(op: Op, slim: Slim, factor: float) -> None:
    """The first output has become `factor` times too large: constants that follow take it up, or else a Mul."""
    targets = takers(op, 1.0, slim, set())
    if targets is None:
        slim.follow(op, "Mul", np.array(1 / factor, op.y.dtype))
        return
    for reader, index, power in targets:
        old = slim.full_known(reader, index)
        slim.set_known(reader, index, (old.astype(np.float64) * factor**power).astype(old.dtype))


Taker = tuple[Op, int, float]

#: readers through which a factor travels unchanged
_TRANSPARENT = {"Identity", "Cast", "Squeeze", "Unsqueeze", "Reshape", "Expand", "Transpose", "Flatten"}


def takers(op: Op, power: float, slim: Slim, seen: set[Op]) -> list[Taker] | None:
    """The constants (node, input, power of the factor) that take up a factor**power on the first output of `op`.

    None where one of its readers can pass the factor neither on nor to a constant.
    """
    y = op.y
    if y.pinned or not y.readers or not is_float(y) or y.value is None or y.value.is_graph_output() or _any_level(y):
        return None
    found: list[Taker] = []
    for reader, index in y.readers:
        if reader not in slim.need.running:
            continue
        if reader in seen or len(reader.outs) != 1 or reader.node.domain not in ("", "ai.onnx"):
            return None
        seen.add(reader)
        more = _taken(reader, index, power, slim, seen)
        if more is None:
            return None
        found += more
    return found


def is_float(t: Tensor) -> bool:
    """Whether it holds floating-point numbers (bfloat16 included)."""
    return t.dtype is not None and t.dtype.kind in "fV"


def _any_level(t: Tensor) -> bool:
    """Whether a slot is a constant other than zero: facts that a factor would make wrong."""
    facts = [t.const(i) for i in range(t.rank)] if t.any_const else []
    return any(const is not None and bool((const.value[const.mask] != 0).any()) for const in facts)


def _weight(op: Op, index: int) -> int | None:
    """The known input that this one is multiplied with, if it is read nowhere else."""
    t = op.tensor(index)
    places = [op.rule.weight_of(op, index, axis) for axis in range(t.rank)] if t is not None else []
    for found in places:
        weight = op.tensor(found[0]) if found is not None else None
        if found is not None and weight is not None and weight.is_leaf and len(weight.readers) == 1:
            return found[0]
    return None


def _taken(op: Op, index: int, power: float, slim: Slim, seen: set[Op]) -> list[Taker] | None:
    if (op.kind in _TRANSPARENT and index == 0) or op in slim.gates.gone:
        return takers(op, power, slim, seen)
    weight = _weight(op, index)
    if weight is not None:
        return [(op, weight, -power)]
    if op.kind == "Sqrt":
        return takers(op, power / 2, slim, seen)
    if op.kind == "Reciprocal":
        return takers(op, -power, slim, seen)
    other = op.tensor(1 - index) if len(op.ins) == 2 else None
    if other is None:
        return None
    if op.kind == "Pow" and index == 0:
        exponent = other.uniform if other.is_leaf else None
        return None if exponent is None else takers(op, power * float(exponent), slim, seen)
    if op.kind == "Add" and other.is_leaf:
        rest = takers(op, power, slim, seen)
        return None if rest is None else [(op, 1 - index, power), *rest]
    if op.kind not in ("Mul", "Div"):
        return None
    result = -power if op.kind == "Div" and index == 1 else power
    if other.is_leaf and not (op.kind == "Div" and index == 1):  # (f y) * c, (f y) / c
        return [(op, 1 - index, -power if op.kind == "Mul" else power)]
    before = set(seen)
    passed = takers(op, result, slim, seen)
    if passed is None and other.is_leaf:  # c / (f y)
        seen.intersection_update(before)
        return [(op, 0, power)]
    return passed


# -- which slots add nothing -------------------------------------------------------------------------------------------
def _zero(x: Tensor, axis: int) -> Mask | None:
    return x.zeros(axis) if x.any_const else None


def _lowest(x: Tensor, axis: int) -> Mask | None:
    const = x.const(axis) if x.any_const else None
    return None if const is None else const.mask & (const.value <= x.lower)


def _one(x: Tensor, axis: int) -> Mask | None:
    const = x.const(axis) if x.any_const else None
    return None if const is None else const.mask & (const.value == 1)


def _mean(v: Array, times: float) -> Array:
    return np.where((v == v[..., :1]).all(-1), v[..., 0], v.mean(-1))


def _not_negative(low: float) -> float:
    return 0.0 if low >= 0 else -math.inf


def _nil(low: float) -> float:
    return 0.0


def _as_it_is(low: float) -> float:
    return low


TABLE: dict[tuple[str, str], Rule] = {
    ("", "ReduceSum"): Reduce(lambda v, m: v.sum(-1) * m, free=_zero, bound=_not_negative),
    ("", "ReduceMean"): Reduce(_mean, free=_zero, bound=_as_it_is, mean=True),
    ("", "ReduceMax"): Reduce(lambda v, m: v.max(-1), free=_lowest, bound=_as_it_is),
    ("", "ReduceMin"): Reduce(lambda v, m: v.min(-1), bound=_as_it_is),
    ("", "ReduceProd"): Reduce(lambda v, m: np.prod(v.astype(float), -1) ** m, free=_one, bound=_not_negative),
    ("", "ReduceL1"): Reduce(lambda v, m: np.abs(v).sum(-1) * m, free=_zero, bound=_nil),
    ("", "ReduceL2"): Reduce(lambda v, m: np.sqrt(np.square(v.astype(float)).sum(-1) * m), free=_zero, bound=_nil),
    ("", "ReduceSumSquare"): Reduce(lambda v, m: np.square(v).sum(-1) * m, free=_zero, bound=_nil),
    ("", "ReduceLogSum"): Reduce(lambda v, m: np.log(v.sum(-1) * m), free=_zero),
    ("", "ReduceLogSumExp"): Reduce(lambda v, m: _log_sum_exp(v.astype(float)) + np.log(m)),
}


def _log_sum_exp(v: Array) -> Array:
    top = v.max(-1, keepdims=True)
    return np.asarray(np.log(np.exp(v - top).sum(-1)) + top[..., 0])
