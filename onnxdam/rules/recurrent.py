"""Recurrent cells. Gates are stacked in rows of W [D, gates * H, I], R [D, gates * H, H], B [D, 2 * gates * H] and
P [D, 3 * H]; hidden unit h owns row h of every gate, and is read by the others through column h of R.

    RNN    h' = f(W x + R h + b)                                                            gates: h
    GRU    h' = (1 - z) n + z h,   n = g(Wn x + Rn (r h) + bn)                              gates: z, r, n
           or, with linear_before_reset,   n = g(Wn x + Wbn + r (Rn h + Rbn))
    LSTM   c' = f c + i g(Wg x + Rg h + bg),   h' = o k(c')                                 gates: i, o, f, g

A unit is zero at every step when it starts at zero and its candidate (RNN h, GRU n, LSTM g) is: its rows of that one
gate read nothing that varies, their bias is zero, and the activation maps 0 to 0. By induction over the steps this
holds for all units that only read each other. The other gates of such a unit do not matter.

An RNN unit whose rows read nothing has the output f(b) at every step, but starts at something else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnxdam.analysis.tensor import Array, Axis, Const, Mask, Sym, Tensor
from onnxdam.rules import contract
from onnxdam.rules.apart import Merge, merge_relations, merges, slice_of, state
from onnxdam.rules.base import Contract, Op, Packed, Pinned, Product, Relation, Rule, Same, pin_all, same

if TYPE_CHECKING:
    from onnxdam.rewrite.slim import Slim

#: activations that map 0 to 0 whatever their parameters
ODD = {"tanh", "relu", "leakyrelu", "scaledtanh", "elu", "softsign"}
#: activations without parameters, for constants other than zero
PLAIN: dict[str, Callable[[Array], Array]] = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}
X, W, R, B, LENGTHS, H0, C0, P = range(8)


class Recurrent(Rule):
    """What the cells share.

    Args:
        count: how many gates.
        candidate: the gate that decides whether a unit can leave zero.
        defaults: the activations of one direction.
        odd: which of the activations have to map 0 to 0 for that.
    """

    zeros = (H0, C0)

    def __init__(self, count: int, candidate: int, defaults: tuple[str, ...], odd: tuple[int, ...]) -> None:
        self.count = count
        self.candidate = candidate
        self.defaults = defaults
        self.odd = odd

    # -- layout ------------------------------------------------------------------------------------------------------
    @staticmethod
    def _places(op: Op, t: Tensor) -> tuple[int, int]:
        """The axes of directions and of the batch in a state (rank 3) or in Y (rank 4)."""
        if t.rank == 4:
            return (2, 0) if op.attr("layout", 0) else (1, 2)
        return (1, 0) if op.attr("layout", 0) else (0, 1)

    def _states(self, op: Op) -> list[Tensor]:
        """Everything that has one slot per hidden unit on its last axis, R left out."""
        initial = [op.tensor(i) for i in self.zeros]
        # a state of zeros may be shared: it would tie layers to each other
        return [*op.outs, *(t for t in initial if t is not None and not t.opaque and t.uniform != 0)]

    def _understood(self, op: Op) -> bool:
        w, r = op.tensor(W), op.tensor(R)
        if op.x.opaque or w is None or r is None or any(t is not None and t.opaque for t in (*op.ins, *op.outs)):
            return False
        ranks = (op.x.rank, w.rank, r.rank)
        if ranks != (3, 3, 3) or not all(isinstance(s, int) for s in (*w.shape, *r.shape)):
            return False
        hidden = r.axes[2].n
        return all(t.shape[1] == self.count * hidden for t in (w, r)) and all(
            t.axes[-1].n == hidden for t in self._states(op)
        )

    def shapes(self, op: Op) -> None:
        w, r = op.tensor(W), op.tensor(R)
        if op.x.opaque or op.x.rank != 3 or w is None or r is None or w.opaque or r.opaque or r.rank != 3:
            return
        batch, steps = (0, 1) if op.attr("layout", 0) else (1, 0)
        for i, y in enumerate(op.outs):
            rank = 3 if i else 4
            if y.opaque:
                y.reshape([Sym(1, (f"{y.name or op.name}.{i}.{k}",)) for k in range(rank)])
            if y.dtype is None:
                y.dtype = w.dtype
            d, n = self._places(op, y)
            for axis, source in ((d, r.axes[0]), (n, op.x.axes[batch]), (rank - 1, r.axes[2])):
                y.adopt(axis, source)
            if rank == 4:
                y.adopt(1 if op.attr("layout", 0) else 0, op.x.axes[steps])

    # -- relations -----------------------------------------------------------------------------------------------------
    def relations(self, op: Op) -> Iterator[Relation]:
        if not self._understood(op):
            yield from pin_all(op, "unknown rank or sizes")
            return
        w, r = op.tensor(W), op.tensor(R)
        assert w is not None
        assert r is not None
        yield from self._directions(op, w, r)
        yield from self._steps(op)
        found = self._apart(op)
        if found is not None:
            yield from self._units_apart(op, w, r, found)
            return
        yield from self._units(op, w, r)
        yield from same(op.x.axes[2], w.axes[2])
        if op.x.axes[2].n == w.axes[2].n > 1:
            yield Contract(op.x.axes[2], w, 2, rows=1, absorb=self.absorb(op))

    def _units(self, op: Op, w: Tensor, r: Tensor) -> Iterator[Relation]:
        hidden = r.axes[2]
        for t in self._states(op):
            yield from same(t.axes[-1], hidden)
        b, p = op.tensor(B), op.tensor(P)
        stacked = [(w.axes[1], self.count), (r.axes[1], self.count)]
        stacked += [(b.axes[1], 2 * self.count)] if b is not None else []
        stacked += [(p.axes[1], 3)] if p is not None else []
        for axis, blocks in stacked:
            yield from self._stack(axis, blocks, hidden)
        if hidden.n > 1:
            yield Contract(op.y.axes[-1], r, 2, rows=1, weight_zero=self._unread(op, r))

    # -- directions that lose different units --------------------------------------------------------------------------
    def claims(self, op: Op) -> Iterator[Op]:
        yield from (merge.op for merge in self._apart(op) or ())

    def _apart(self, op: Op) -> list[Merge] | None:
        """The Reshapes that merge directions and units, where each direction can select units of its own."""
        if not self._understood(op):
            return None
        w, r = op.tensor(W), op.tensor(R)
        weights = [t for t in (w, r, op.tensor(B), op.tensor(P)) if t is not None]
        if r is None or r.shape[0] != 2 or r.shape[2] == 1 or not all(t.is_leaf for t in weights):
            return None
        if op.attr("activation_alpha") or op.attr("activation_beta") or self._states(op) != list(op.outs):
            return None
        found: list[Merge] = []
        for y in op.outs:
            merged = merges(y, self._places(op, y)[0], y.rank - 1)
            if merged is None:
                return None
            found += merged
        return found or None

    def _units_apart(self, op: Op, w: Tensor, r: Tensor, found: list[Merge]) -> Iterator[Relation]:
        n, count = r.axes[2].n, w.axes[0].n
        zero = self._zero_units(op)
        zero = np.zeros((count, n), bool) if zero is None else zero
        units = state(f"{op.name}.units", zero.reshape(-1))
        for merge in found:
            yield from merge_relations(merge)
            yield Same(units.axes[0], merge.op.y.axes[merge.axis])
        places = op.y.axes[-1]
        yield from (r for y in op.outs[1:] for r in same(y.axes[-1], places))
        yield Packed(units.axes[0], w.axes[0], places)
        for t in (w, r, op.tensor(B), op.tensor(P)):
            yield from () if t is None else (Pinned(t.axes[1], "selected direction by direction"),)
        yield Pinned(r.axes[2], "selected direction by direction")
        yield from same(op.x.axes[2], w.axes[2])
        for d in range(count):
            one = state(f"{op.name}.{d}", zero[d])
            yield Same(units.axes[0], one.axes[0], np.arange(d * n, (d + 1) * n), np.arange(n))
            for t, x, absorb in ((w, op.x.axes[2], self.absorb(op)), (r, one.axes[0], None)):
                part = slice_of(t, d)
                yield from self._stack(part.axes[0], self.count, one.axes[0])
                if x.n == part.axes[1].n > 1:
                    yield from same(part.axes[1], x)
                    yield Contract(x, part, 1, rows=0, absorb=absorb)

    def _rewrite_apart(self, op: Op, slim: Slim, merge: Merge, biases: Array | None) -> None:
        """Each direction keeps its own rows and columns."""
        w, r = op.tensor(W), op.tensor(R)
        assert w is not None
        assert r is not None
        n = r.axes[2].n
        slots = slim.slots(merge.op.y, merge.axis)
        chosen = [slots[slots // n == d] % n for d in slim.slots(w, 0)]
        for index, blocks in ((W, self.count), (R, self.count), (B, 2 * self.count), (P, 3)):
            content = biases if index == B and biases is not None else op.known(index)
            if content is None:
                continue
            content = content[slim.slots(w, 0)]
            rows = [np.concatenate([k * n + units for k in range(blocks)]) for units in chosen]
            parts = [one[picks] for one, picks in zip(content, rows, strict=True)]
            if index == W:
                parts = [part[:, slim.slots(w, 2)] for part in parts]
            if index == R:
                parts = [part[:, units] for part, units in zip(parts, chosen, strict=True)]
            slim.set_sliced(op, index, np.stack(parts))

    @staticmethod
    def _stack(axis: Axis, blocks: int, hidden: Axis) -> Iterator[Relation]:
        if hidden.n == 1 or axis.n != blocks * hidden.n:
            yield Pinned(axis, "gates")
        elif blocks == 1:
            yield Same(axis, hidden)
        else:
            gates = Axis(None, 0, blocks)
            yield Pinned(gates, "gates")
            yield Product(axis, (gates, hidden))

    def _unread(self, op: Op, r: Tensor) -> Array | None:
        """Columns of R that read a unit which is zero in one direction only: they count as zero."""
        zero = self._zero_units(op)
        if zero is None or len(zero) == 1 or (zero.all(0) == zero.any(0)).all():
            return None
        unread: Array = np.where(zero[:, None, :], r.content, 0)
        return unread

    def _directions(self, op: Op, w: Tensor, r: Tensor) -> Iterator[Relation]:
        if w.axes[0].n == 1:
            return
        others = [t.axes[0] for t in (r, op.tensor(B), op.tensor(P)) if t is not None]
        others += [t.axes[self._places(op, t)[0]] for t in self._states(op)]
        if op.attr("activation_alpha") or op.attr("activation_beta"):  # consumed in order: not told apart
            yield from (Pinned(axis, "activation parameters of both directions") for axis in (w.axes[0], *others))
        for axis in others:
            yield from same(axis, w.axes[0])

    def _steps(self, op: Op) -> Iterator[Relation]:
        batch, steps = (0, 1) if op.attr("layout", 0) else (1, 0)
        along = [op.x.axes[steps], op.y.axes[1 if op.attr("layout", 0) else 0]]
        yield from (Pinned(axis, "steps follow each other") for axis in along if axis.n > 1)
        lengths = op.tensor(LENGTHS)
        for axis in [t.axes[self._places(op, t)[1]] for t in self._states(op)] + ([lengths.axes[0]] if lengths else []):
            yield from same(op.x.axes[batch], axis)

    def absorb(self, op: Op) -> str | None:
        """Constants of x go into the bias of W."""
        w, b = op.tensor(W), op.tensor(B)
        return "bias" if w is not None and w.is_leaf and (b is None or b.is_leaf) else None

    def weight_of(self, op: Op, index: int, axis: int) -> tuple[int, int] | None:
        return (W, 2) if index == X and axis == 2 else None

    # -- constants -----------------------------------------------------------------------------------------------------
    def constants(self, op: Op) -> None:
        if not self._understood(op):
            return
        zero = self._zero_units(op)
        if zero is None:
            return
        self._set(op, zero, np.zeros(zero.shape))

    def _set(self, op: Op, mask: Mask, value: Array) -> None:
        """Records constant units; both are (direction, unit)."""
        for y in op.outs:
            y.set_const(-1, mask.all(0) & (value == value[0]).all(0), value[0])
            if len(mask) > 1:
                d = self._places(op, y)[0]
                y.set_const(d, mask.all(1) & (value == value[:, :1]).all(1), value[:, 0])
                if mask.any():
                    y.joint[d, y.rank - 1] = Const(mask, np.where(mask, value, 0))

    def _zero_units(self, op: Op) -> Mask | None:
        """Which units (direction, unit) are zero before and after every step; None where that is not known."""
        r = op.known(R)
        quiet = self._quiet(op)
        if r is None or quiet is None:
            return None
        mask, level = quiet
        zero = mask & (level == 0) & self._starts_at_zero(op, mask.shape) & self._stays(op, len(mask))[:, None]
        return self._closed(zero, self._candidate_rows(r))

    @staticmethod
    def _closed(zero: Mask, rows: Array) -> Mask:
        """The largest subset of `zero` whose rows (direction, unit, unit) read only each other."""
        for d in range(len(zero)):
            picks = np.flatnonzero(zero[d])
            while len(picks):
                others = np.ones(zero.shape[1], bool)
                others[picks] = False
                stay = ~rows[d][picks][:, others].astype(bool).any(1)
                if stay.all():
                    break
                picks = picks[stay]
            zero[d] = False
            zero[d, picks] = True
        return zero

    def _candidate_rows(self, rows: Array) -> Array:
        """The candidate's part of (direction, gates * unit, ...)."""
        n = rows.shape[1] // self.count
        return rows[:, self.candidate * n : (self.candidate + 1) * n]

    def _quiet(self, op: Op) -> tuple[Mask, Array] | None:
        """Units whose candidate reads nothing of x that varies, and what it is without R. Both (direction, unit)."""
        w, b = op.known(W), op.known(B)
        if w is None or (b is None and op.has(B)) or op.x.axes[2].n != w.shape[2]:
            return None
        live, values = contract.live_slots(op.x, 2)
        rows = self._candidate_rows(w)
        mask = np.stack([contract.silent_rows(one, live) for one in rows])
        level = np.zeros(mask.shape)
        if b is not None:
            n = mask.shape[1]
            first, second = (b[:, k + self.candidate * n :][:, :n] for k in (0, self.count * n))
            level = self._bias(op, first, second)
        hot = np.flatnonzero(values)
        if len(hot):
            read = rows[:, :, hot].astype(bool).any(2)
            level = level + rows[:, :, hot].astype(np.float64) @ values[hot]
            mask &= ~read | (level != 0)  # what cancels to zero in one precision may not in another
        return mask, level

    def _bias(self, op: Op, first: Array, second: Array) -> Array:
        """The biases of W and of R together; not zero where they only cancel after other terms came in between."""
        total: Array = first.astype(np.float64) + second.astype(np.float64)
        return total

    def _starts_at_zero(self, op: Op, shape: tuple[int, ...]) -> Mask:
        mask = np.ones(shape, bool)
        for t in (op.tensor(H0), op.tensor(C0)):
            if t is None:
                continue
            units, directions = t.zeros(t.rank - 1), None
            if shape[0] > 1:
                directions = t.zeros(self._places(op, t)[0])
            known = np.zeros(shape, bool)
            known |= False if units is None else units
            known |= False if directions is None else directions[:, None]
            mask &= known
        return mask

    def _activations(self, op: Op, directions: int) -> list[tuple[str, ...]]:
        """Names of the activations of each direction, lower case; ("?", ...) where they are not understood."""
        names = tuple(str(n.decode() if isinstance(n, bytes) else n).lower() for n in op.attr("activations", ()))
        per = len(self.defaults)
        if not names:
            return [self.defaults] * directions
        if len(names) != per * directions:
            return [("?",) * per] * directions
        return [names[d * per : (d + 1) * per] for d in range(directions)]

    def _stays(self, op: Op, directions: int) -> Mask:
        """Directions in which a candidate of 0 gives a state of 0."""
        return np.array([all(names[i] in ODD for i in self.odd) for names in self._activations(op, directions)])

    # -- rewriting -----------------------------------------------------------------------------------------------------
    def rewrite(self, op: Op, slim: Slim) -> None:
        slim.omit(op)
        w = op.tensor(W)
        if w is None or not self._understood(op):
            return
        if slim.narrowed(op.y, -1) and op.attr("hidden_size") is not None:
            slim.set_attr(op, "hidden_size", slim.count(op.y, -1))
        biases, found = self._biases(op, slim, w), self._apart(op)
        if found is not None and slim.narrowed(found[0].op.y, found[0].axis):
            self._rewrite_apart(op, slim, found[0], biases)
        elif biases is not None and op.has(B):
            slim.set_known(op, B, biases)
        elif biases is not None:
            rows = np.concatenate([slim.slots(w, 1), slim.slots(w, 1) + w.axes[1].n])
            slim.set_sliced(op, B, biases[slim.slots(w, 0)][:, rows])
        if slim.narrowed(w, 0):
            self._one_direction(op, slim, int(slim.slots(w, 0)[0]))

    def _one_direction(self, op: Op, slim: Slim, stays: int) -> None:
        op.node.attributes.add(ir.AttrString("direction", ("forward", "reverse")[stays]))
        names, per = op.attr("activations", ()), len(self.defaults)
        if names:
            op.node.attributes.add(ir.AttrStrings("activations", list(names[stays * per : (stays + 1) * per])))

    def _biases(self, op: Op, slim: Slim, w: Tensor) -> Array | None:
        """The biases at full width with the constants of x that leave; None where there is nothing to add."""
        removed = slim.absorbed(op.x, 2) if self.absorb(op) else None
        if removed is None:
            return None
        shift = np.stack([contract.contribution(one, removed) for one in w.content])
        if not shift.any():
            return None
        shift = np.concatenate([shift, np.zeros_like(shift)], 1)
        old = op.known(B)
        return (shift if old is None else old.astype(np.float64) + shift).astype(w.content.dtype)


class LSTM(Recurrent):
    """LSTM: zero units need candidate and output activation to keep 0; peepholes do not reach the candidate."""

    def __init__(self) -> None:
        super().__init__(4, 3, ("sigmoid", "tanh", "tanh"), (1, 2))


class GRU(Recurrent):
    """GRU, with the reset gate before or behind the recurrent product."""

    def __init__(self) -> None:
        super().__init__(3, 2, ("sigmoid", "tanh"), (1,))

    def _bias(self, op: Op, first: Array, second: Array) -> Array:
        if op.attr("linear_before_reset", 0):  # first + r * second is zero for every r only if both are
            return np.where(second == 0, first, np.nan).astype(np.float64)
        return super()._bias(op, first, second)


class RNN(Recurrent):
    """RNN: also units that are a constant other than zero."""

    def __init__(self) -> None:
        super().__init__(1, 0, ("tanh",), (0,))

    def constants(self, op: Op) -> None:
        super().constants(op)
        r = op.known(R)
        quiet = self._quiet(op) if self._understood(op) else None
        if r is None or quiet is None or op.has(LENGTHS):
            return
        mask, level = quiet
        zero = self._zero_units(op)
        assert zero is not None
        names = [one[0] for one in self._activations(op, len(mask))]
        if not all(name in PLAIN for name in names):
            return
        silent = ~(r.astype(bool) & ~zero[:, None, :]).any(2)
        limit = op.attr("clip", np.inf) or np.inf
        value = np.stack([PLAIN[name](np.clip(row, -limit, limit)) for name, row in zip(names, level, strict=True)])
        # a level of zero that is not counted as zero state starts elsewhere: the recurrence must not take it for zero
        found = mask & silent & (value != 0)
        self._set(op, zero | found, np.where(zero, 0, value))


TABLE: dict[tuple[str, str], Rule] = {("", "LSTM"): LSTM(), ("", "GRU"): GRU(), ("", "RNN"): RNN()}
