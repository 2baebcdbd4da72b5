"""Convolutions: y[n, o, ...] = b[o] + sum over k and taps of x[n, k, ...] * w[o, k, taps].

Conv            w has shape (o, k / group, taps...)
ConvTranspose   w has shape (k, o / group, taps...)
depthwise       one input slot a group: slot o of y reads only slot o of x, so x, w and y share the axis
grouped         blocks: each block of x feeds one block of y; what stays is balanced over the blocks
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from onnxdam.analysis.tensor import Array, Const, Mask, Sym, Tensor, any_along
from onnxdam.rules import contract
from onnxdam.rules.base import (
    Blocked,
    Blocks,
    Contract,
    Op,
    Pinned,
    Relation,
    Rule,
    Same,
    adopt_shape,
    pin_all,
    same,
    unknown_shape,
)
from onnxdam.rules.quantize import add_to_integers, integer_bias, integer_weight, quantised_weight
from onnxdam.rules.windows import slide

if TYPE_CHECKING:
    from onnxdam.rewrite.slim import Slim


class Conv(Rule):
    """Conv 1-d, 2-d, 3-d, grouped, depthwise, dilated, with every kind of padding."""

    operands = "all"
    transposed = False
    bias_input = 2

    def shapes(self, op: Op) -> None:
        x, y, w = op.x, op.y, op.tensor(1)
        if (
            w is not None and not w.opaque and x.opaque
        ):  # behind an operator that nobody knows the weight tells the rank
            unknown_shape(x, w.rank)
            size = w.shape[0] if self.transposed else w.shape[1]
            if isinstance(size, int):
                x.set_layout(1, (size if self.transposed else size * self.group(op),))
        if not y.opaque and not x.opaque:
            adopt_shape(x, y, [0])
        channels = None if w is None or w.opaque else w.shape[1] * self.group(op) if self.transposed else w.shape[0]
        if not y.opaque and isinstance(channels, int) and isinstance(y.shape[1], Sym):
            y.set_layout(1, (channels,))
        if w is not None and not w.opaque and not self.transposed:
            slide(op, w.shape[2:])

    def relations(self, op: Op) -> Iterator[Relation]:
        x, y, w = op.x, op.y, op.tensor(1)
        if w is None or x.opaque or y.opaque or w.opaque or isinstance(x.shape[1], Sym) or isinstance(y.shape[1], Sym):
            yield from pin_all(op, "unknown rank or channels")
            return
        group = self.group(op)
        channels = (x.shape[1], y.shape[1]) if not self.transposed else (y.shape[1], x.shape[1])
        if channels != (w.shape[1] * group, w.shape[0]):
            yield from pin_all(op, "channels and weights that do not go together")
            return
        yield from same(x.axes[0], y.axes[0])
        for tensor in (x, y, w):
            for axis in tensor.axes[2:]:
                if axis.n > 1 and tensor is not w:
                    yield Pinned(axis, "convolved over")
                elif axis.n > 1:
                    yield Pinned(axis, "kernel taps")
        bias = op.tensor(2)
        if bias is not None:
            yield from same(bias.axes[0], y.axes[1])
        yield from (Blocked(axis) for axis in (x.axes[1], y.axes[1]) if axis.n > 1)
        yield from self._channels(op, x, y, w, group)

    def _channels(self, op: Op, x: Tensor, y: Tensor, w: Tensor, group: int) -> Iterator[Relation]:
        k, o = (0, 1) if self.transposed else (1, 0)
        if group == 1:
            yield from same(w.axes[o], y.axes[1])
            yield from same(x.axes[1], w.axes[k])
            yield Contract(x.axes[1], w, k, rows=o, absorb=self.absorb(op))
        elif group == x.axes[1].n == y.axes[1].n:
            yield from same(x.axes[1], y.axes[1])
            yield from same(w.axes[0], y.axes[1])
        elif not w.is_leaf and (self.transposed or integer_weight(op) is None):
            yield from (
                Pinned(a, "blocks of weights computed at run time") for a in (x.axes[1], y.axes[1], *w.axes[:2])
            )
        else:
            yield Same(w.axes[0], x.axes[1] if self.transposed else y.axes[1])
            if w.axes[1].n > 1:
                yield Pinned(w.axes[1], "sliced block by block")
            yield Blocks(x.axes[1], y.axes[1], group, self.by_output(w, group), self.absorb(op))

    def by_output(self, w: Tensor, group: int) -> Tensor:
        """A grouped weight as (slots of y, slots of x per block, taps...)."""
        if not self.transposed:
            return w
        rows, columns, *taps = (s for s in w.shape if isinstance(s, int))
        turned = Tensor(w.name, None, (group * columns, rows // group, *taps), w.dtype)
        turned.provide(lambda: _turn(w.content, group))
        return turned

    def group(self, op: Op) -> int:
        return int(op.attr("group", 1))

    def absorb(self, op: Op) -> str | None:
        """How constants of x that are not zero can leave."""
        w, bias = op.tensor(1), op.tensor(2)
        if not self.padded(op):
            if quantised_weight(op) and (bias is None or not bias.is_leaf):
                return "bias" if integer_bias(op) is not None and self.group(op) == 1 else None
            return "bias" if bias is None or bias.is_leaf else None
        return "carrier" if w is not None and w.is_leaf else None

    def padded(self, op: Op) -> bool:
        """Whether zeros are put around x."""
        mode = op.attr("auto_pad", "NOTSET")
        w = op.tensor(1)
        taps = w.shape[2:] if w is not None else ()
        if mode in ("SAME_UPPER", "SAME_LOWER"):
            return any(t != 1 for t in taps)
        return mode == "NOTSET" and any(op.attr("pads", ()))

    def bias(self, op: Op) -> Array | float | None:
        """The bias where it is known, 0 where there is none, None where it is computed."""
        return op.known(2) if op.has(2) else 0.0

    def constants(self, op: Op) -> None:
        w, bias = op.tensor(1), self.bias(op)
        if w is None or bias is None or w.opaque or op.y.opaque or op.x.opaque:
            return
        if not w.is_known:
            self._zero_outputs(op, w, bias)
            return
        if op.x.axes[1].n != w.shape[0 if self.transposed else 1] * (1 if self.transposed else self.group(op)):
            return  # the channels are not known to be as many
        live, values = contract.live_slots(op.x, 1, padded=self.padded(op) or self.transposed)
        found = self._constant_outputs(op, w.content, live, values, bias)
        if found is not None:
            op.y.set_const(1, found.mask, found.value)

    def _zero_outputs(self, op: Op, w: Tensor, bias: Array | float) -> None:
        """Channels that a weight computed at run time makes of nothing are their bias."""
        if self.transposed and self.group(op) > 1:
            return
        zeros = w.zeros(1 if self.transposed else 0) if w.any_const else None
        if zeros is not None and len(zeros) == op.y.axes[1].n:
            op.y.set_const(1, zeros, np.zeros(len(zeros)) + np.asarray(bias, np.float64))

    def _constant_outputs(self, op: Op, w: Array, live: Mask, values: Array, bias: Array | float) -> Const | None:
        group = self.group(op)
        if self.transposed:
            w = _turn(w, group)
        if group == 1:
            return contract.constant_rows(w, live, values, bias)
        per_x, per_y = len(live) // group, w.shape[0] // group
        block = np.repeat(np.arange(group), per_y)
        alive = live.reshape(group, per_x)[block]
        taps = w.reshape(*w.shape[:2], -1)
        mask = ~any_along(taps.astype(bool).any(2) & alive, 1)
        level = (taps.astype(np.float64).sum(2) * values.reshape(group, per_x)[block]).sum(1)
        return Const(mask, np.where(mask, level + np.asarray(bias, np.float64), 0))

    def scaled_by(self, op: Op, axis: int, *, positive: bool) -> dict[int, int] | None:
        if axis != 1 or (self.transposed and self.group(op) > 1):
            return None
        return {1: 1 if self.transposed else 0, 2: 0}

    def weight_of(self, op: Op, index: int, axis: int) -> tuple[int, int] | None:
        return (1, 0 if self.transposed else 1) if index == 0 and axis == 1 and self.group(op) == 1 else None

    def rewrite(self, op: Op, slim: Slim) -> None:
        x, group = op.x, self.group(op)
        w = op.tensor(1)
        assert w is not None
        if x.opaque or op.y.opaque:
            return
        if group > 1:
            self._rewrite_groups(op, slim, group)
            return
        removed, shared = slim.absorbed(x, 1) if self.absorb(op) else None, slim.shared(x, 1)
        if not w.is_known or (removed is None and shared is None):
            return
        weight = w.content.swapaxes(0, 1) if self.transposed else w.content
        if shared is not None:
            weight = contract.carry(weight, *shared)
            slim.set_known(op, 1, weight.swapaxes(0, 1) if self.transposed else weight)
        if removed is not None:
            self._absorb(op, slim, weight, removed)

    def _absorb(self, op: Op, slim: Slim, weight: Array, removed: Array) -> None:
        if self.padded(op) or self.transposed:
            carrier, level = slim.carrier(op.x, 1)
            carried = contract.carry(weight, removed, carrier, level)
            slim.set_known(op, 1, carried.swapaxes(0, 1) if self.transposed else carried)
        else:
            self.add_bias(op, slim, contract.contribution(weight, removed))

    def add_bias(self, op: Op, slim: Slim, shift: Array) -> None:
        """Adds `shift` (full width) to the bias, which is made where there is none."""
        if op.y.axes[1].n > 1:
            shift = np.where(slim.need.kept(op.y.axes[1]), shift, 0)
        if not shift.any():
            return
        made = integer_bias(op)
        if made is not None:
            add_to_integers(made, slim, shift)
            return
        old = op.known(2)
        w = op.known(1)
        assert w is not None
        bias = shift.astype(w.dtype) if old is None else (old.astype(np.float64) + shift).astype(old.dtype)
        slim.set_known(op, 2, bias, like=(op.y, 1))

    def _rewrite_groups(self, op: Op, slim: Slim, group: int) -> None:
        x, y, w = op.x, op.y, op.tensor(1)
        assert w is not None
        kept = slim.slots(x, 1)
        if len(kept) == x.axes[1].n and len(slim.slots(y, 1)) == y.axes[1].n:
            return
        per_x = x.axes[1].n // group
        made = integer_weight(op)
        if (per_x > 1 or self.transposed) and (w.is_leaf or made is not None):
            removed = slim.absorbed(x, 1) if self.absorb(op) is not None else None
            weight = self.by_output(w, group).content
            if removed is not None:
                weight = self._absorb_groups(op, slim, group, removed)
            rows = slim.slots(y, 1)
            per_y = y.axes[1].n // group
            blocks = kept // per_x
            columns = [kept[blocks == row // per_y] % per_x for row in rows]
            if made is not None:
                weight = made.x.content
            pieces = np.stack([weight[row][c] for row, c in zip(rows, columns, strict=True)])
            if self.transposed:
                pieces = _turn(pieces, len(np.unique(blocks)))
            slim.set_sliced(op if made is None else made, 1 if made is None else 0, pieces)
            if made is not None:
                slim.finish(made)
        slim.set_attr(op, "group", len(np.unique(kept // per_x)))

    def _absorb_groups(self, op: Op, slim: Slim, group: int, removed: Array) -> Array:
        weight = op.known(1)
        assert weight is not None
        per_x, per_y = len(removed) // group, weight.shape[0] // group
        own = removed.reshape(group, per_x)[np.repeat(np.arange(group), per_y)]
        taps = weight.astype(np.float64)
        if not self.padded(op):
            self.add_bias(op, slim, (taps.reshape(*taps.shape[:2], -1).sum(2) * own).sum(1))
            return weight
        kept = slim.slots(op.x, 1)
        for block in range(group):
            constants = removed[block * per_x : (block + 1) * per_x]
            rows = slice(block * per_y, (block + 1) * per_y)
            if constants.any() and weight[rows][:, constants != 0].any() and (kept // per_x == block).any():
                carrier, level = slim.carrier(op.x, 1, block * per_x, (block + 1) * per_x)
                weight = weight.copy()
                weight[rows] = contract.carry(weight[rows], constants, carrier - block * per_x, level)
        return weight


def _turn(weight: Array, group: int) -> Array:
    """Exchanges rows and columns of each block: (blocks * a, b, ...) becomes (blocks * b, a, ...)."""
    rows, columns, *taps = weight.shape
    blocks = weight.reshape(group, rows // group, columns, *taps).swapaxes(1, 2)
    return blocks.reshape(group * columns, rows // group, *taps)


class ConvTranspose(Conv):
    """ConvTranspose: the weight's first axis is contracted, its second is the output's."""

    transposed = True

    def absorb(self, op: Op) -> str | None:
        w = op.tensor(1)
        return "carrier" if w is not None and w.is_leaf and self.group(op) == 1 else None


TABLE: dict[tuple[str, str], Rule] = {("", "Conv"): Conv(), ("", "ConvTranspose"): ConvTranspose()}
