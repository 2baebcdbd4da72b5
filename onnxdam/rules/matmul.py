"""Matrix products.

MatMul   y[.., m, n] = sum over k of a[.., m, k] * b[.., k, n]      batch axes broadcast
Gemm     y[m, n] = alpha * sum over k of a'[m, k] * b'[k, n] + beta * c[m, n]
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from onnxdam.analysis.tensor import Array, Const, Sym, Tensor
from onnxdam.rules import contract
from onnxdam.rules.base import Contract, Op, Pinned, Relation, Rule, pin_all, same
from onnxdam.rules.elementwise import aligned, broadcast_size, operand_const
from onnxdam.rules.quantize import add_to_integers, integer_bias

if TYPE_CHECKING:
    from onnxdam.rewrite.slim import Slim


def contraction(
    a: Tensor, ka: int, b: Tensor, kb: int, rows_a: int, rows_b: int, absorb: str | None
) -> Iterator[Relation]:
    """Slots of a and b are multiplied and summed; whichever is known decides which of the other are read."""
    yield from same(a.axes[ka], b.axes[kb])
    if a.axes[ka].n != b.axes[kb].n or a.axes[ka].n == 1:
        return
    if a.is_known and not b.is_known:
        yield Contract(b.axes[kb], a, ka % a.rank, rows_a % a.rank, absorb)
    else:
        yield Contract(a.axes[ka], b, kb % b.rank, rows_b % b.rank, absorb)


class MatMul(Rule):
    """MatMul with vectors, matrices and batches on either side; either side may be the weight."""

    #: inputs of the two factors
    factors = (0, 1)

    def pair(self, op: Op) -> tuple[Tensor, Tensor]:
        a, b = op.tensor(self.factors[0]), op.tensor(self.factors[1])
        assert a is not None and b is not None
        return a, b

    def shapes(self, op: Op) -> None:
        a, b = self.pair(op)
        y = op.y
        if a.opaque or b.opaque or not a.rank or not b.rank:
            return
        rank = max(a.rank - 2, b.rank - 2, 0) + (a.rank > 1) + (b.rank > 1)
        if y.opaque:
            y.reshape([Sym(1, (f"{y.name}.{i}",)) for i in range(rank)])
        if a.rank > 1:
            y.adopt(-2 if b.rank > 1 else -1, a.axes[-2])
        if b.rank > 1:
            y.adopt(-1, b.axes[-1])
        for i in range(max(a.rank - 2, b.rank - 2, 0)):
            axes = [t.axes[j] for t in (a, b) if (j := i - max(a.rank, b.rank) + t.rank) >= 0]
            size = broadcast_size([x.tensor.shape[x.index] for x in axes if x.tensor], y.shape[i])
            if size != y.shape[i]:
                y.set_layout(i, (size,))
            for axis in axes:
                if len(axis.layout) > 1:
                    y.adopt(i, axis)

    def relations(self, op: Op) -> Iterator[Relation]:
        a, b = self.pair(op)
        y = op.y
        if a.opaque or b.opaque or y.opaque or not a.rank or not b.rank:
            yield from pin_all(op, "unknown rank")
            return
        yield from contraction(
            a, -1, b, -2 if b.rank > 1 else 0, -2 if a.rank > 1 else 0, -1 if b.rank > 1 else 0, self.absorb(op)
        )
        if a.rank > 1:
            yield from same(a.axes[-2], y.axes[-2 if b.rank > 1 else -1])
        if b.rank > 1:
            yield from same(b.axes[-1], y.axes[-1])
        yield from self._batch(a, b, y)

    def _batch(self, a: Tensor, b: Tensor, y: Tensor) -> Iterator[Relation]:
        depth = max(a.rank, b.rank)
        for i in range(max(depth - 2, 0)):
            out = y.axes[i]
            for t in (a, b):
                j = i - depth + t.rank
                if j < 0:
                    continue
                if t.axes[j].n > 1:
                    yield from same(t.axes[j], out)
                elif out.n > 1 and isinstance(t.shape[j], Sym):
                    yield Pinned(out, "an operand's extent is not known")

    def absorb(self, op: Op) -> str | None:
        a, b = self.pair(op)
        if a.is_known == b.is_known:
            return None
        weight = a if a.is_known else b
        if b.is_leaf and b.rank == 2 and self.following_bias(op) is not None:
            return "bias"
        return "carrier" if weight.is_leaf and weight.rank == 2 else None

    def following_bias(self, op: Op) -> tuple[Op, int] | None:
        """The Add that alone reads y and adds a known vector, and which of its inputs that vector is."""
        reader = op.sole_reader()
        if reader is None or reader.kind != "Add":
            return None
        for i, t in enumerate(reader.ins):
            if (
                t is not None
                and t.is_leaf
                and t.rank >= 1
                and t.shape[-1] == op.y.shape[-1]
                and t.content.size == t.shape[-1]
            ):
                return reader, i
        return None

    def constants(self, op: Op) -> None:
        a, b = self.pair(op)
        y = op.y
        if y.opaque or a.opaque or b.opaque or a.rank == 0 or b.rank == 0:
            return
        if b.is_known and b.rank == 2:
            live, values = contract.live_slots(a, -1)
            found = contract.constant_rows(b.content.T, live, values, 0.0)
            if found is not None:
                y.set_const(-1, found.mask, found.value)
        elif a.is_known and a.rank == 2 and b.rank > 1:
            live, values = contract.live_slots(b, -2)
            found = contract.constant_rows(a.content, live, values, 0.0)
            if found is not None:
                y.set_const(-2, found.mask, found.value)
        self._zeros(a, b, y)

    def _zeros(self, a: Tensor, b: Tensor, y: Tensor) -> None:
        """A row, column or batch that is zero in one factor is zero in the product."""
        for t, skip in ((a, a.rank - 1), (b, max(b.rank - 2, 0))):
            if not (t.any_const or t.is_known):
                continue
            for i in range(t.rank):
                if i == skip or t.axes[i].n == 1:
                    continue
                j = self._result_axis(t is a, i, a, b, y)
                zeros = t.zeros(i)
                if zeros is not None and y.axes[j].n == len(zeros):
                    y.set_const(j, zeros, np.zeros(len(zeros)))

    @staticmethod
    def _result_axis(first: bool, i: int, a: Tensor, b: Tensor, y: Tensor) -> int:
        t = a if first else b
        if first and i == a.rank - 2:
            return y.rank - (2 if b.rank > 1 else 1)
        if not first and i == b.rank - 1:
            return y.rank - 1
        return i + max(a.rank, b.rank) - t.rank

    def scaled_by(self, op: Op, axis: int, *, positive: bool) -> dict[int, int] | None:
        a, b = self.pair(op)
        if axis == op.y.rank - 1 and b.is_leaf and b.rank > 1:
            return {self.factors[1]: b.rank - 1}
        return {self.factors[0]: a.rank - 2} if axis == op.y.rank - 2 and a.is_leaf and a.rank > 1 else None

    def weight_of(self, op: Op, index: int, axis: int) -> tuple[int, int] | None:
        a, b = self.pair(op)
        if index == self.factors[0] and axis == a.rank - 1:
            return self.factors[1], max(b.rank - 2, 0)
        return (self.factors[0], a.rank - 1) if index == self.factors[1] and axis == max(b.rank - 2, 0) else None

    def rewrite(self, op: Op, slim: Slim) -> None:
        a, b = self.pair(op)
        if b.is_leaf and b.rank == 2:
            self._absorb(op, slim, a, -1, b.content.T, self.factors[1], transposed=True)
        elif a.is_leaf and a.rank == 2 and b.rank > 1:
            self._absorb(op, slim, b, -2, a.content, self.factors[0], transposed=False)

    def _absorb(self, op: Op, slim: Slim, x: Tensor, axis: int, weight: Array, index: int, *, transposed: bool) -> None:
        removed = slim.absorbed(x, axis)
        if removed is None:
            return
        if self.absorb(op) == "bias":
            found = self.following_bias(op)
            assert found is not None
            reader, i = found
            old = reader.known(i)
            assert old is not None
            shift = contract.contribution(weight, removed).reshape(old.shape)
            if not shift.any():
                return
            slim.set_known(reader, i, (slim.full_known(reader, i).astype(np.float64) + shift).astype(old.dtype))
        else:
            carrier, level = slim.carrier(x, axis)
            carried = contract.carry(weight, removed, carrier, level)
            if carried is not weight:
                slim.set_known(op, index, carried.T if transposed else carried)


class Gemm(Rule):
    """Gemm with every combination of transposes, alpha, beta and c."""

    def shapes(self, op: Op) -> None:
        if op.y.opaque or op.x.opaque:
            return
        op.y.adopt(0, op.x.axes[1 if op.attr("transA", 0) else 0])

    def relations(self, op: Op) -> Iterator[Relation]:
        a, b, c, y = op.x, op.tensor(1), op.tensor(2), op.y
        if b is None or a.opaque or b.opaque or y.opaque or (c is not None and c.opaque):
            yield from pin_all(op, "unknown rank")
            return
        ka, kb = self._contracted(op)
        yield from contraction(a, ka, b, kb, 1 - ka, 1 - kb, self.absorb(op))
        yield from same(a.axes[1 - ka], y.axes[0])
        yield from same(b.axes[1 - kb], y.axes[1])
        if c is not None:
            for i, out in enumerate(y.axes):
                axis = aligned(c, y, i)
                if axis is not None and axis.n > 1:
                    yield from same(axis, out)
                elif axis is not None and out.n > 1 and c.shape[axis.index] != 1:
                    yield Pinned(out, "an operand's extent is not known")

    @staticmethod
    def _contracted(op: Op) -> tuple[int, int]:
        return (0 if op.attr("transA", 0) else 1), (1 if op.attr("transB", 0) else 0)

    def absorb(self, op: Op) -> str | None:
        b, c = op.tensor(1), op.tensor(2)
        if op.y.rank != 2:
            return None
        if b is None or not b.is_leaf:
            plain = op.attr("alpha", 1.0) == op.attr("beta", 1.0) == 1
            return "bias" if b is not None and plain and integer_bias(op) is not None else None
        fits = c is None or (c.is_leaf and op.attr("beta", 1.0) != 0 and c.content.size in (1, op.y.shape[1]))
        return "bias" if fits and op.attr("beta", 1.0) != 0 else "carrier"

    def constants(self, op: Op) -> None:
        a, b, c, y = op.x, op.tensor(1), op.tensor(2), op.y
        if b is None or a.opaque or b.opaque or y.opaque or (c is not None and c.opaque):
            return
        ka, kb = self._contracted(op)
        for i, found in ((0, self._product(b, kb, a, ka)), (1, self._product(a, ka, b, kb))):
            if found is None or len(found.mask) != y.axes[i].n:
                continue
            mask, value = found.mask, found.value * op.attr("alpha", 1.0)
            if c is not None:
                decided, bias = operand_const(c, aligned(c, y, i), len(mask))
                mask, value = mask & decided, value + bias * op.attr("beta", 1.0)
            y.set_const(i, mask & np.isfinite(value), value)

    @staticmethod
    def _product(x: Tensor, kx: int, weight: Tensor, kw: int) -> Const | None:
        """Which rows of a factor have a constant product with the other, whatever varies there."""
        if weight.is_known:
            live, values = contract.live_slots(x, kx)
            return contract.constant_rows(weight.content if kw == 1 else weight.content.T, live, values, 0.0)
        zeros = weight.zeros(1 - kw) if weight.any_const else None
        return None if zeros is None else Const(zeros, np.zeros(len(zeros)))

    def scaled_by(self, op: Op, axis: int, *, positive: bool) -> dict[int, int] | None:
        c = op.tensor(2)
        if axis != 1 or (c is not None and not c.rank):
            return None
        return {1: 1 - self._contracted(op)[1], 2: c.rank - 1 if c is not None else 0}  # a bias may still be made

    def weight_of(self, op: Op, index: int, axis: int) -> tuple[int, int] | None:
        ka, kb = self._contracted(op)
        return (1, kb) if index == 0 and axis == ka else (0, ka) if index == 1 and axis == kb else None

    def rewrite(self, op: Op, slim: Slim) -> None:
        b = op.tensor(1)
        ka, kb = self._contracted(op)
        removed = slim.absorbed(op.x, ka) if b is not None and self.absorb(op) is not None else None
        if removed is None or b is None:
            return
        weight = b.content if kb == 1 else b.content.T
        if self.absorb(op) == "bias":
            shift = contract.contribution(weight, removed) * (op.attr("alpha", 1.0) / op.attr("beta", 1.0))
            if not shift.any():
                return
            made = None if b.is_leaf else integer_bias(op)
            if made is not None:
                add_to_integers(made, slim, shift)
                return
            old = op.known(2)
            bias = shift.astype(weight.dtype) if old is None else (old.astype(np.float64) + shift).astype(old.dtype)
            slim.set_known(op, 2, bias, like=(op.y, 1))
        else:
            carrier, level = slim.carrier(op.x, ka)
            carried = contract.carry(weight, removed, carrier, level)
            if carried is not weight:
                slim.set_known(op, 1, carried if kb == 1 else carried.T)


TABLE: dict[tuple[str, str], Rule] = {("", "MatMul"): MatMul(), ("", "Gemm"): Gemm()}
