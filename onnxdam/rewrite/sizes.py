"""Sizes computed at run time: what a Shape reads off a narrowed tensor, followed to those who use it.

A Shape of a narrowed tensor gives the narrow extents, and where these only flow into written-down sizes of values that
are narrowed alike, that is just what they should say: nothing has to be done. Where they flow into anything else, the
original numbers are put back behind the Shape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from onnxdam.analysis.need import Need
from onnxdam.analysis.tensor import Array, Size, Tensor
from onnxdam.rules.base import Op


class Sizes:
    """Follows size tensors through a decision.

    Args:
        need: which slots stay.
        shape: the extents of a tensor that remain.
    """

    def __init__(self, need: Need, shape: Callable[[Tensor], tuple[Size, ...]]) -> None:
        self._need = need
        self._shape = shape
        self._found: dict[Tensor, Array | None] = {}
        self._wanted: dict[Tensor, bool] = {}

    def entries(self, t: Tensor) -> Array | None:
        """What a size tensor holds in the slim graph (int, Sym or None each); None where nothing is known."""
        if t not in self._found:
            op = t.maker
            if op is None or t.is_known or op.folded or (op.rule.shape_only and self.wants_original(t)):
                self._found[t] = self._original(t)
            else:
                self._found[t] = self._again(op, self.entries)
        return self._found[t]

    def changed(self, t: Tensor | None) -> bool:
        """Whether a size tensor may hold other numbers than in the original graph."""
        if t is None or t.is_known or t.maker is None:
            return False
        before, after = t.entries, self.entries(t)
        if before is None:
            return False  # never reached by narrowed sizes: those who compute what is not known want original numbers
        return after is None or not _equal(before, after)

    def wants_original(self, t: Tensor) -> bool:
        """Whether somebody who reads these sizes needs the numbers of the original graph."""
        if t not in self._wanted:
            self._wanted[t] = True  # until it is known
            outside = t.pinned or t.value is None or t.value.is_graph_output()
            self._wanted[t] = bool(outside) or any(self._reader_wants(op, index) for op, index in t.readers)
        return self._wanted[t]

    def _reader_wants(self, op: Op, index: int) -> bool:
        if op not in self._need.running or op.folded or op.rule.shape_only:
            return False
        if op.rule.sizes == index and not op.bodies:
            return False  # it compares, and writes what differs
        y = op.y
        if len(op.outs) != 1 or y.opaque or y.entries is None or any(e is None for e in y.entries.reshape(-1)):
            return True
        if sum(not i.is_known for i in op.ins if i is not None) == 1:
            after = self._again(op, self._hypothetical)
            if after is not None and _equal(y.entries, after):
                return False  # it uses none of the numbers that change
        return self.wants_original(y)

    def _hypothetical(self, t: Tensor) -> Array | None:
        """What a size tensor would hold if no number were put back."""
        if t.maker is None or t.is_known or t.maker.folded:
            return self._original(t)
        return self._again(t.maker, self._hypothetical)

    @staticmethod
    def _original(t: Tensor) -> Array | None:
        if t.entries is None and t.is_known and not t.opaque and t.rank <= 1 and t.content.dtype.kind in "iu":
            return t.content.astype(object)
        return t.entries

    def _again(self, op: Op, entries: Callable[[Tensor], Array | None]) -> Array | None:
        """What the rule makes of its inputs as they are in the slim graph."""
        ins: list[Tensor | None] = []
        for t in op.ins:
            if t is None or t.is_known:
                ins.append(t)
                continue
            copy = Tensor(t.name, t.value, None if t.opaque else self._shape(t), t.dtype)
            if not op.rule.shape_only:
                copy.entries = entries(t)
            ins.append(copy)
        outs = [Tensor(y.name, y.value, None if y.opaque else y.shape, y.dtype) for y in op.outs]
        again = Op(op.node, ins, outs, op.rule, op.version, op.scope)
        op.rule.entries(again)
        return outs[0].entries

    def fit(self, t: Tensor, sizes: Sequence[Size], source: Sequence[Size] | None, beneath: Sequence[Size]) -> bool:
        """Whether a size tensor says these extents as it is.

        Args:
            sizes: the extents.
            source: extents of the input of a Reshape, where 0 copies one and -1 stands for the rest; None: neither.
            beneath: extents of the input of an Expand, for which a 1 stands, from the last axis on.
        """
        found = self.entries(t)
        if found is None or found.ndim != 1 or len(found) != len(sizes):
            return False
        if source is None:
            below = [*[1] * (len(sizes) - len(beneath)), *beneath[-len(sizes) :]]
            return all(e == s or (e == 1 and b == s) for e, s, b in zip(found, sizes, below, strict=True))
        return all(_says(entry, size, i, source) for i, (entry, size) in enumerate(zip(found, sizes, strict=True)))


def _says(entry: Any, size: Size, i: int, source: Sequence[Size]) -> bool:
    if entry is None:
        return False
    if isinstance(entry, (int, np.integer)) and entry in (0, -1):
        return bool(entry == -1 or (i < len(source) and source[i] == size))
    return bool(entry == size)


def _equal(a: Array, b: Array) -> bool:
    return a.shape == b.shape and all(
        x is not None and x == y for x, y in zip(a.reshape(-1), b.reshape(-1), strict=True)
    )
