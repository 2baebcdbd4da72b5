"""A decision as the rewriter reads it: which slots stay, how wide a tensor becomes, which constants left."""

from __future__ import annotations

import numpy as np

from onnxdam.analysis.need import Need
from onnxdam.analysis.tensor import Array, Axis, Const, Size, Sym, Tensor, product


class Kept:
    """Answers about a finished `Need`.

    Args:
        need: which slots stay.
    """

    def __init__(self, need: Need) -> None:
        self.need = need
        self._slots: dict[Axis, Array] = {}
        self._narrowed: dict[Tensor, bool] = {}

    # -- what stays --------------------------------------------------------------------------------------------------
    def slots(self, t: Tensor, axis: int) -> Array:
        """Indices of the kept slots of an axis, ascending."""
        a = t.axes[axis]
        if a.n <= 1:
            return np.arange(a.n)
        root = a.root
        if root not in self._slots:
            self._slots[root] = np.flatnonzero(self.need.kept(root))
        return self._slots[root]

    def count(self, t: Tensor, axis: int) -> int:
        return len(self.slots(t, axis))

    def narrowed(self, t: Tensor, axis: int | None = None) -> bool:
        """Whether slots of the axis (of any axis) leave."""
        if axis is None:
            if t not in self._narrowed:
                self._narrowed[t] = any(self.narrowed(t, i) for i in range(t.rank))
            return self._narrowed[t]
        return not t.opaque and t.axes[axis].n > 1 and self.count(t, axis) < t.axes[axis].n

    def shape(self, t: Tensor) -> tuple[Size, ...]:
        """The extents that remain."""
        sizes: list[Size] = []
        for i, size in enumerate(t.shape):
            n, k = t.axes[i].n, self.count(t, i)
            if n <= 1 or k == n:
                sizes.append(size)
            elif isinstance(size, Sym):
                rest = size.divide(n)
                sizes.append(size if rest is None else product((rest, k)))
            else:
                sizes.append(k)
        return tuple(sizes)

    # -- constants ---------------------------------------------------------------------------------------------------
    def absorbed(self, t: Tensor, axis: int) -> Array | None:
        """The constants of the slots that leave (0 elsewhere), None where all of them are zero."""
        const = t.const(axis) if t.any_const else None
        if const is None or not self.narrowed(t, axis):
            return None
        values = np.where(const.mask & ~self.need.kept(t.axes[axis]), const.value, 0).astype(np.float64)
        return values if values.any() else None

    def shared(self, t: Tensor, axis: int) -> tuple[Array, int, float] | None:
        """Slots that leave and share a pattern with one that stays: their multiples, that slot, its multiple."""
        const = t.pattern(axis)
        if const is None or not self.narrowed(t, axis):
            return None
        values = np.where(const.mask & ~self.need.kept(t.axes[axis]), const.value, 0).astype(np.float64)
        if not values.any() or not (const.mask & self.need.kept(t.axes[axis])).any():
            return None
        return values, *self._strongest(t, axis, const, 0, None)

    def carrier(self, t: Tensor, axis: int, low: int = 0, high: int | None = None) -> tuple[int, float]:
        """The kept constant slot that stands for those that leave: its index in [low, high), and its constant."""
        const = t.const(axis)
        assert const is not None
        return self._strongest(t, axis, const, low, high)

    def _strongest(self, t: Tensor, axis: int, const: Const, low: int, high: int | None) -> tuple[int, float]:
        strength = np.where(const.mask & self.need.kept(t.axes[axis]), np.abs(const.value.astype(np.float64)), 0)
        high = len(strength) if high is None else high
        index = low + int(strength[low:high].argmax())
        return index, float(const.value[index])
