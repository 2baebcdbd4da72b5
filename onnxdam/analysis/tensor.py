"""What is known about one value of the graph: shape, content, and which slots are constant.

A slot is one index along one axis of one tensor. `Axis` is a variable: axes whose slots correspond one to one are
unified (union-find), so that the decision "kept or not" is held once for all of them. Facts about constants belong to
the tensor, not to the variable: a ReLU keeps the axis but changes the constant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Union

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnxdam.rules.base import Op

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Sym:
    """A size that is not known before run time: a monomial, coefficient times named dimensions."""

    coefficient: int
    names: tuple[str, ...]

    def __mul__(self, other: Size) -> Size:
        if isinstance(other, Sym):
            return Sym(self.coefficient * other.coefficient, tuple(sorted(self.names + other.names)))
        return Sym(self.coefficient * other, self.names) if other else 0

    __rmul__ = __mul__

    def divide(self, other: Size) -> Size | None:
        """The exact quotient as a monomial, or None."""
        coefficient, names = (other.coefficient, other.names) if isinstance(other, Sym) else (other, ())
        rest = list(self.names)
        for name in names:
            if name not in rest:
                return None
            rest.remove(name)
        if coefficient == 0 or self.coefficient % coefficient:
            return None
        quotient = self.coefficient // coefficient
        return Sym(quotient, tuple(rest)) if rest else quotient


Size = Union[int, Sym]


def product(sizes: Sequence[Size]) -> Size:
    """The product of sizes, symbolic ones included."""
    total: Size = 1
    for size in sizes:
        total = size * total if isinstance(size, Sym) else total * size
    return total


def capped(size: Size, limit: int) -> Size:
    """min(size, limit), where that is a size of its own: it is known by its name, and `at_most` reads the name."""
    if isinstance(size, int):
        return min(size, limit)
    return Sym(1, (f"min({size.coefficient}{'*'.join(('', *size.names))},{limit})",))


def at_most(a: Size, b: Size) -> bool:
    """Whether a is b, or the smaller of b and some number."""
    if a == b:
        return True
    if not isinstance(a, Sym) or not isinstance(b, Sym):
        return False
    return (
        a.coefficient == 1
        and len(a.names) == 1
        and a.names[0].startswith(f"min({b.coefficient}{'*'.join(('', *b.names))},")
    )


class Axis:
    """One axis of one tensor, or a virtual one that only relates others (`tensor` is None).

    `n` counts the slots: the static extent, or the static factor of an extent such as batch * heads (`layout` then
    lists the factors). An axis of one slot carries no decision: it stays as long as its tensor does.
    """

    __slots__ = ("_parent", "index", "layout", "n", "tensor")

    def __init__(self, tensor: Tensor | None, index: int, size: Size, layout: tuple[Size, ...] | None = None) -> None:
        self.tensor = tensor
        self.index = index
        self.layout: tuple[Size, ...] = layout or (size,)
        if layout:
            self.n = math.prod(s for s in layout if isinstance(s, int))
        else:
            self.n = size if isinstance(size, int) else 1
        self._parent: Axis = self

    @property
    def root(self) -> Axis:
        """The representative of all axes unified with this one."""
        node = self._parent
        if node._parent is node:  # as good as always
            return node
        while node._parent is not node:
            node._parent = node._parent._parent
            node = node._parent
        self._parent = node
        return node

    def unify(self, other: Axis) -> None:
        """From now on both axes are one variable. They must have equally many slots."""
        a, b = self.root, other.root
        if a is not b:
            b._parent = a

    def __repr__(self) -> str:
        return f"{self.tensor.name if self.tensor else 'virtual'}:{self.index}[{self.n}]"


class Const(NamedTuple):
    """Which slots of an axis are constant, and their values (float64, or int64 for integers)."""

    mask: Mask
    value: Array

    def at(self, index: Array) -> Const:
        """The facts of the slots `index`."""
        return Const(self.mask[index], self.value[index])


class Tensor:
    """One value: what the analysis knows of it before any decision is taken."""

    __slots__ = (
        "_const",
        "_keep",
        "_known",
        "_load",
        "_pattern",
        "axes",
        "dtype",
        "entries",
        "is_leaf",
        "joint",
        "lower",
        "maker",
        "name",
        "opaque",
        "pinned",
        "readers",
        "shape",
        "value",
    )  # fmt: skip

    def __init__(self, name: str, value: ir.Value | None, shape: Sequence[Size] | None, dtype: np.dtype | None) -> None:
        self.name = name
        self.value = value
        self.dtype = dtype
        self.opaque = shape is None  # rank unknown: nothing can be said about its axes
        self.shape: tuple[Size, ...] = ()
        self.axes: list[Axis] = []
        self.entries: Array | None = None  # content of a small integer tensor, int or Sym or None each
        self.lower = -math.inf  # no element is below
        self.is_leaf = False  # an initializer, or computed from initializers alone: its content can be rewritten
        self.pinned = ""  # why all its axes stay (graph inputs and outputs, --protect)
        self.maker: Op | None = None
        self.readers: list[tuple[Op, int]] = []
        self._load: Callable[[], Array] | None = None
        self._keep = True
        self._known: Array | None = None
        self._const: dict[int, Const | None] = {}
        self._pattern: dict[int, Const] = {}
        self.joint: dict[tuple[int, ...], Const] = {}  # constant slots of several axes together: mask[i, j, ...]
        if shape is not None:
            self.reshape(shape)

    # -- shape ---------------------------------------------------------------------------------------------------
    def reshape(self, shape: Sequence[Size]) -> None:
        """Sets the shape; the axes become new variables."""
        self.opaque = False
        self.shape = tuple(shape)
        self.axes = [Axis(self, i, size) for i, size in enumerate(self.shape)]

    @property
    def rank(self) -> int:
        return len(self.shape)

    def axis(self, index: int) -> Axis:
        """The axis `index`, counted from the end when negative."""
        return self.axes[index]

    def adopt(self, index: int, source: Axis) -> None:
        """The axis has the extent of `source`: takes its size and layout when its own is not known."""
        if self.shape[index] == source.layout[0] and len(source.layout) == 1:
            return
        if isinstance(self.shape[index], Sym) and len(self.axes[index].layout) == 1:
            self.set_layout(index, source.layout)

    def set_layout(self, index: int, layout: tuple[Size, ...]) -> None:
        """The axis is a product of these factors, outermost first."""
        shape = list(self.shape)
        shape[index] = product(layout)
        self.shape = tuple(shape)
        self.axes[index] = Axis(self, index % len(shape), shape[index], layout)

    # -- content -------------------------------------------------------------------------------------------------
    def set_entries(self, entries: Array) -> None:
        """The content of a small integer tensor, each entry an int, a Sym or None."""
        if not isinstance(entries, np.ndarray):  # NumPy hands out the element itself where it drops the last axis
            scalar = np.empty((), object)
            scalar[()] = entries
            entries = scalar
        self.entries = entries
        if self.opaque or self.shape != entries.shape:  # shape inference may know less
            self.reshape(entries.shape)
        if all(isinstance(e, (int, np.integer)) for e in entries.reshape(-1)) and not self.is_known:
            array = entries.astype(self.dtype or np.int64)
            self.provide(lambda: array)
            self.is_leaf = True

    def provide(self, load: Callable[[], Array], *, keep: bool = True) -> None:
        """The whole content is known; `load` is called when it is first asked for (not `keep`: each time)."""
        self._load, self._keep = load, keep

    @property
    def is_known(self) -> bool:
        return self._load is not None

    @property
    def known(self) -> Array | None:
        """The whole content, or None."""
        if self._known is not None or self._load is None:
            return self._known
        content = self._load()
        if self._keep:
            self._known = content
        return content

    @property
    def content(self) -> Array:
        """The whole content of a tensor that is known."""
        array = self.known
        assert array is not None, self.name
        return array

    # -- constants -----------------------------------------------------------------------------------------------
    def set_const(self, axis: int, mask: Mask, value: Array) -> None:
        """Records which slots of `axis` are constant."""
        if not mask.any():
            return
        axis %= self.rank
        previous = self._const.get(axis)
        if previous is not None:
            mask, value = previous.mask | mask, np.where(previous.mask, previous.value, value)
        self._const[axis] = Const(mask, np.where(mask, value, 0))
        if mask.all() and (value == value[0]).all() and len(self._const) < self.rank:
            for other in range(self.rank):
                if other not in self._const:
                    n = self.axes[other].n
                    self._const[other] = Const(np.ones(n, bool), np.repeat(value[:1], n))

    def set_joint(self, axes: Sequence[int], mask: Mask, value: Array) -> None:
        """Records which slots of several axes together are constant, and what follows for each axis alone.

        Args:
            axes: indices of axes.
            mask: one dimension per axis; true where the slice at these slots of all of them is constant.
            value: the constants, of the same shape.
        """
        wide = tuple(k for k, axis in enumerate(axes) if self.axes[axis].n > 1)
        flat = [mask.shape[k] for k in wide]
        mask, value = mask.reshape(flat), value.reshape(flat)
        if not mask.any():
            return
        for k, place in enumerate(wide):
            rows, levels = (np.moveaxis(a, k, 0).reshape(flat[k], -1) for a in (mask, value))
            self.set_const(axes[place], rows.all(1) & (levels == levels[:, :1]).all(1), levels[:, 0])
        if len(wide) > 1:
            self.joint[tuple(axes[k] for k in wide)] = Const(mask, np.where(mask, value, 0))

    def set_uniform(self, value: Any) -> None:
        """The whole tensor is one constant."""
        wide = np.asarray(value).reshape(1)
        for axis in self.axes:
            self._const[axis.index] = Const(np.ones(axis.n, bool), np.repeat(wide, axis.n))

    def set_pattern(self, axis: int, mask: Mask, value: Array) -> None:
        """Slots that are multiples (`value`) of one slice that they share, though it varies over positions.

        An average over zero padding makes them of constants: c[i] * coverage. One of them can carry the others.
        """
        if mask.any():
            self._pattern[axis] = Const(mask, np.where(mask, value, 0))

    def pattern(self, axis: int) -> Const | None:
        """The slots that share a pattern, and their multiples."""
        return self._pattern.get(axis)

    @property
    def any_const(self) -> bool:
        """Cheap: whether a slot of a value that is computed at run time is constant."""
        return bool(self._const) and not self.is_known

    def const(self, axis: int) -> Const | None:
        """The constant slots of an axis, or None where there are none."""
        axis %= max(self.rank, 1)
        if self.is_known and axis not in self._const:
            self._const[axis] = _uniform_slices(self.content, axis)
        return self._const.get(axis)

    def zeros(self, axis: int) -> Mask | None:
        """The slots of an axis that are zero, or None where there are none."""
        if self.is_known and axis not in self._const:
            empty = ~nonzero_slots(self.content, axis % self.rank)
            return empty if empty.any() and self.content.size else None
        const = self.const(axis)
        if const is None:
            return None
        mask = const.mask & (const.value == 0)
        return mask if mask.any() else None

    @property
    def uniform(self) -> Any:
        """The constant that fills the whole tensor, or None."""
        if self.is_known:
            array = self.content
            return array.reshape(-1)[0] if array.size and (array == array.reshape(-1)[0]).all() else None
        if not self._const or self.opaque:
            return None
        const = next(iter(self._const.values()))
        if const is None or not const.mask.all() or not (const.value == const.value[0]).all():
            return None
        return const.value[0]

    def __repr__(self) -> str:
        return f"Tensor({self.name}, {self.shape})"


def any_along(mask: Mask, *axes: int) -> Mask:
    """Where anything is true over the given axes."""
    return np.asarray(mask.any(axes))


def wide(array: Array) -> Array:
    """The array in the type in which constants are computed: float64, or int64."""
    return array.astype(np.int64) if array.dtype.kind in "iub" else array.astype(np.float64)


def _uniform_slices(array: Array, axis: int) -> Const | None:
    if array.ndim == 0:
        return Const(np.ones(1, bool), wide(array).reshape(1))
    if array.dtype.kind not in "iubf" and array.dtype.name not in ("bfloat16",):
        return None
    if not array.size:
        return None
    rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
    mask = rows[:, 0] == rows[:, -1]
    mask[mask] = (rows[mask] == rows[mask][:, :1]).all(1)
    return Const(mask, np.where(mask, wide(rows[:, 0]), 0)) if mask.any() else None


def nonzero_slots(array: Array, axis: int, slots: Mask | None = None, kept: Sequence[Mask | None] = ()) -> Mask:
    """Which slots along `axis` hold something other than zero.

    Reads growing chunks and stops asking for a slot once it is found: an array that is dense costs very little.

    Args:
        array: any content.
        axis: counted from the front.
        slots: the slots in question, None: all.
        kept: what to read of each axis, None: all of it; the entry of `axis` is not used.
    """
    found = np.zeros(array.shape[axis], bool)
    if not array.size:
        return found
    others = sorted((i for i in range(array.ndim) if i != axis), key=array.shape.__getitem__, reverse=True)
    view = array.transpose(axis, *others) if others else array[:, None]
    masks = []
    for place, i in enumerate(others, 1):
        mask = kept[i] if i < len(kept) else None
        if mask is not None and not mask.all():
            masks.append((place, mask.reshape(-1, *[1] * (view.ndim - 1 - place))))
    left, start, size = np.arange(len(found)) if slots is None else np.flatnonzero(slots), 0, 4
    while start < view.shape[1] and len(left):
        chunk = slice(start, start + size)
        part = (view[:, chunk] if len(left) == len(found) else view[left, chunk]) != 0
        for place, mask in masks:
            part &= mask[chunk] if place == 1 else mask
        hit = part.reshape(len(left), -1).any(1)
        found[left[hit]] = True
        left = left[~hit]
        start, size = start + size, size * 64
    return found
