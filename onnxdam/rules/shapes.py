"""Operators that read or write sizes: Shape, Size, ConstantOfShape, Constant, Range, arithmetic on sizes.

Static extents are constants of the original model. A Shape of a tensor that is narrowed would read other numbers, so
what it fed is either known and replaced, or the original numbers are put back behind it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from onnxdam.analysis.tensor import Array, Sym
from onnxdam.rules.base import Op, Pinned, Relation, Rule, pin_all

if TYPE_CHECKING:
    from onnxdam.rewrite.slim import Slim


class Constant(Rule):
    """Constant in all its forms; sparse ones are left alone."""

    note = "constant"

    def evaluate(self, op: Op, *arrays: Array) -> Array | None:
        attributes = op.node.attributes
        if "value" in attributes:
            return np.asarray(attributes["value"].as_tensor().numpy())
        for name, dtype in (
            ("value_float", np.float32),
            ("value_floats", np.float32),
            ("value_int", np.int64),
            ("value_ints", np.int64),
        ):
            if name in attributes:
                return np.array(attributes[name].value, dtype)
        return None


class Shape(Rule):
    """Shape: known extents are known entries."""

    shape_only = True

    def _range(self, op: Op) -> slice:
        return slice(op.attr("start", 0), op.attr("end"))

    def shapes(self, op: Op) -> None:
        if op.x.opaque:
            return
        count = len(op.x.shape[self._range(op)])
        if op.y.opaque:
            op.y.reshape([count])
        elif op.y.shape != (count,):
            op.y.set_layout(0, (count,))

    def entries(self, op: Op) -> None:
        if not op.x.opaque:
            sizes = np.empty(op.x.rank, object)
            sizes[:] = op.x.shape
            op.y.set_entries(sizes[self._range(op)])

    def relations(self, op: Op) -> Iterator[Relation]:
        yield from pin_all(op, "sizes", [op.y])
        if op.x.opaque:
            return
        for axis in op.x.axes:  # an extent that is not known but narrowed could not be told from its number
            if axis.n > 1 and isinstance(op.x.shape[axis.index], Sym):
                yield Pinned(axis, "its size is read at run time")

    def rewrite(self, op: Op, slim: Slim) -> None:
        if op.x.opaque or not slim.narrowed(op.x):
            return
        wanted, got = op.x.shape[self._range(op)], slim.shape(op.x)[self._range(op)]
        changed = {i for i, (a, b) in enumerate(zip(wanted, got, strict=True)) if a != b}
        if changed and slim.sizes.wants_original(op.y):
            slim.restore_entries(op, {i: size for i in changed if isinstance(size := wanted[i], int)})


class Size(Rule):
    """Size: a number computed from all extents."""

    shape_only = True

    def entries(self, op: Op) -> None:
        if not op.x.opaque and all(isinstance(s, int) for s in op.x.shape):
            op.y.set_entries(np.array(int(np.prod([s for s in op.x.shape if isinstance(s, int)])), object))

    def relations(self, op: Op) -> Iterator[Relation]:
        yield from pin_all(op, "its size is counted at run time")


class ConstantOfShape(Rule):
    """ConstantOfShape: one constant everywhere; the sizes are written down."""

    sizes = 0

    def shapes(self, op: Op) -> None:
        sizes = op.entries_of(0)
        if sizes is None or sizes.ndim != 1:
            return
        if op.y.opaque:
            op.y.reshape([Sym(1, (f"{op.y.name}.{i}",)) for i in range(len(sizes))])
        for i, size in enumerate(sizes.tolist()):
            if size is not None and isinstance(op.y.shape[i], Sym):
                op.y.set_layout(i, (size,))

    def relations(self, op: Op) -> Iterator[Relation]:
        yield from pin_all(op, "written-down sizes", op.ins)
        if op.y.opaque:
            yield from pin_all(op, "unknown rank")

    def constants(self, op: Op) -> None:
        if not op.y.opaque:
            value = op.node.attributes.get("value")
            op.y.set_uniform(0.0 if value is None else value.as_tensor().numpy().reshape(-1)[0])

    def rewrite(self, op: Op, slim: Slim) -> None:
        if slim.narrowed(op.y) or slim.sizes.changed(op.x):
            slim.write_sizes(op, 0, slim.shape(op.y))


def combine(kind: str, a: Array, b: Array) -> Array:
    """Entries of `a kind b`; None entries where the result is not known."""
    a, b = np.broadcast_arrays(a, b)
    out = np.empty(a.shape, object)
    for i in np.ndindex(a.shape):
        out[i] = _combine_one(kind, a[i], b[i])
    return out


def _combine_one(kind: str, a: object, b: object) -> object:
    known = isinstance(a, (int, np.integer)), isinstance(b, (int, np.integer))
    if a is None or b is None:
        return None
    if kind == "Equal":
        return int(a == b) if all(known) or a == b else 0 if _is_negative(a) or _is_negative(b) else None
    if all(known):
        x, y = int(a), int(b)  # type: ignore[call-overload]
        if kind == "Div":
            return None if y == 0 else int(x / y) if abs(x) < 2**52 else None
        return {"Add": x + y, "Sub": x - y, "Mul": x * y}[kind]
    if kind == "Mul":
        return a * b  # type: ignore[operator]
    if kind == "Div" and isinstance(a, Sym):
        return a.divide(b)  # type: ignore[arg-type]
    return None


def _is_negative(entry: object) -> bool:
    return bool(isinstance(entry, (int, np.integer)) and entry < 0)


def choose(condition: Array, a: Array, b: Array) -> Array:
    """Entries of Where; None where neither the condition is known nor both sides agree."""
    condition, a, b = np.broadcast_arrays(condition, a, b)
    out = np.empty(a.shape, object)
    for i in np.ndindex(a.shape):
        out[i] = (a[i] if a[i] == b[i] else None) if condition[i] is None else a[i] if condition[i] else b[i]
    return out


class Range(Rule):
    """Range: max(ceil((limit - start) / delta), 0) numbers, of which some may be computed at run time."""

    def shapes(self, op: Op) -> None:
        known = [op.known(i) for i in range(3)]
        if all(k is not None and k.size == 1 and k.dtype.kind in "iu" for k in known) and op.x.dtype is not None:
            start, limit, delta = (k.item() for k in known if k is not None)
            if delta:
                op.y.reshape([max(-((start - limit) // delta), 0)])
            return
        first, end, step = (None if (e := op.entries_of(i)) is None else e.reshape(-1)[0] for i in range(3))
        if first == 0 and step == 1 and isinstance(end, Sym) and not op.y.opaque:
            op.y.set_layout(0, (end,))

    def relations(self, op: Op) -> Iterator[Relation]:
        yield from pin_all(op, "a range of numbers")


TABLE: dict[tuple[str, str], Rule] = {
    ("", "Constant"): Constant(),
    ("", "Shape"): Shape(),
    ("", "Size"): Size(),
    ("", "ConstantOfShape"): ConstantOfShape(),
    ("", "Range"): Range(),
}
