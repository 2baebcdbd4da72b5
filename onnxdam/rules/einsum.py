"""Einsum: letters are axes.

    "bij,kj->bik"     a letter of the result corresponds in all terms that have it
                      a letter that is summed is contracted: a zero in any term frees the slot of all others

With one known term of two, the known one decides which slots of the other are read, as in any contraction. Terms that
repeat a letter (diagonals) keep that letter whole; so does a result that repeats one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxdam.analysis.tensor import Array, Axis, Mask, Sym, Tensor
from onnxdam.rules import contract
from onnxdam.rules.base import Contract, Op, Pinned, Relation, Rule, pin, pin_all, same
from onnxdam.rules.elementwise import broadcast_size

if TYPE_CHECKING:
    from onnxdam.rewrite.slim import Slim

Term = tuple[str, ...]


@dataclass(frozen=True)
class Equation:
    """The letters of each axis. The axes of an ellipsis are called "...1", "...2" from the right."""

    terms: tuple[Term, ...]
    result: Term

    @property
    def letters(self) -> list[str]:
        """All letters, in order of appearance."""
        return list(dict.fromkeys(letter for term in (*self.terms, self.result) for letter in term))

    @property
    def repeated(self) -> set[str]:
        """Letters that occur twice in one term or in the result."""
        return {letter for term in (*self.terms, self.result) for letter in term if term.count(letter) > 1}

    def holders(self, letter: str) -> list[int]:
        """The terms that have a letter."""
        return [k for k, term in enumerate(self.terms) if letter in term]


def parse(text: str, ranks: list[int]) -> Equation | None:
    """Reads an equation for operands of these ranks; None where they do not fit."""
    text = "".join(text.split())
    left, arrow, right = text.partition("->")
    parts = left.split(",")
    if len(parts) != len(ranks):
        return None
    depth = [rank - len(part.replace("...", "")) for part, rank in zip(parts, ranks, strict=True)]
    if any(d < 0 or (d > 0 and "..." not in part) for part, d in zip(parts, depth, strict=True)):
        return None
    terms = tuple(_spell(part, d) for part, d in zip(parts, depth, strict=True))
    if arrow:
        return Equation(terms, _spell(right, max(depth) if "..." in left else 0))
    letters = left.replace(",", "").replace("...", "")
    once = sorted(letter for letter in set(letters) if letters.count(letter) == 1)
    return Equation(terms, (*_dots(max(depth)), *once))


def _dots(count: int) -> Term:
    return tuple(f"...{i}" for i in range(count, 0, -1))


def _spell(part: str, depth: int) -> Term:
    head, dots, tail = part.partition("...")
    return (*head, *(_dots(depth) if dots else ()), *tail)


class Einsum(Rule):
    """Einsum with any number of operands."""

    def equation(self, op: Op) -> Equation | None:
        """The equation, None where a rank is unknown or does not fit."""
        tensors = [t for t in op.ins if t is not None]
        if any(t.opaque for t in tensors):
            return None
        found = parse(str(op.attr("equation", "")), [t.rank for t in tensors])
        return found if found is not None and (op.y.opaque or len(found.result) == op.y.rank) else None

    def shapes(self, op: Op) -> None:
        found, y = self.equation(op), op.y
        if found is None:
            return
        if y.opaque:
            y.reshape([Sym(1, (f"{y.name}.{i}",)) for i in range(len(found.result))])
        for j, letter in enumerate(found.result):
            axes = self._axes(op, found, letter)
            size = broadcast_size([a.tensor.shape[a.index] for a in axes if a.tensor], y.shape[j])
            if size != y.shape[j]:
                y.set_layout(j, (size,))
            for axis in axes:
                if len(axis.layout) > 1:
                    y.adopt(j, axis)

    @staticmethod
    def _axes(op: Op, found: Equation, letter: str) -> list[Axis]:
        """The axes of the operands that are called by a letter."""
        pairs = zip((t for t in op.ins if t is not None), found.terms, strict=True)
        return [t.axes[i] for t, term in pairs for i, c in enumerate(term) if c == letter]

    def relations(self, op: Op) -> Iterator[Relation]:
        found = self.equation(op)
        if found is None or op.y.opaque:
            yield from pin_all(op, "unknown rank")
            return
        for letter in found.letters:
            yield from self._letter(op, found, letter)

    def _letter(self, op: Op, found: Equation, letter: str) -> Iterator[Relation]:
        results = [op.y.axes[j] for j, c in enumerate(found.result) if c == letter]
        axes = [*self._axes(op, found, letter), *results]
        wide = [axis for axis in axes if axis.n > 1]
        if letter in found.repeated or any(axis.n == 1 and axis.layout != (1,) for axis in axes):
            yield from pin("repeated letter, or an extent that is not known", *wide)
            return
        for axis in wide[1:]:
            yield from same(wide[0], axis)
        if not results and wide and all(axis.n == wide[0].n for axis in wide):
            yield from self._summed(op, found, letter, wide)

    def _summed(self, op: Op, found: Equation, letter: str, axes: list[Axis]) -> Iterator[Relation]:
        pair = self._weighted(op, found, letter)
        if pair is not None:
            x, weight = pair
            tensors = [t for t in op.ins if t is not None]
            k, term = tensors.index(weight), found.terms[tensors.index(weight)]
            rows = [i for i, c in enumerate(term) if c in found.result and weight.axes[i].n > 1]
            along = term.index(letter)
            most = max(rows, key=lambda i: weight.axes[i].n, default=along)
            contracted = x.axes[found.terms[1 - k].index(letter)]
            summed = self._also_summed(found, letter, x, weight, tensors)
            yield Contract(contracted, weight, along, most, "carrier" if weight.is_leaf else None, summed=summed)
            return
        demanded = np.ones(axes[0].n, bool)
        for axis in axes:
            assert axis.tensor is not None
            zeros = axis.tensor.zeros(axis.index)
            if zeros is not None:
                demanded &= ~zeros
        yield Pinned(axes[0], "is summed", demanded)

    @staticmethod
    def _also_summed(
        found: Equation, letter: str, x: Tensor, weight: Tensor, tensors: list[Tensor]
    ) -> tuple[tuple[int, Mask], ...]:
        """The other axes of the weight that are summed, and their slots for which x is not zero."""
        x_term, term = (found.terms[tensors.index(t)] for t in (x, weight))
        summed = []
        for i, other in enumerate(term):
            if other not in found.result and other != letter and weight.axes[i].n > 1:
                zeros = x.zeros(x_term.index(other)) if other in x_term and x.any_const else None
                fits = zeros is not None and len(zeros) == weight.axes[i].n
                summed.append((i, ~zeros if zeros is not None and fits else np.ones(weight.axes[i].n, bool)))
        return tuple(summed)

    @staticmethod
    def _weighted(op: Op, found: Equation, letter: str) -> tuple[Tensor, Tensor] | None:
        """The operand computed at run time, and the known one, where there are these two and both have the letter."""
        tensors = [t for t in op.ins if t is not None]
        if len(tensors) != 2 or found.holders(letter) != [0, 1] or tensors[0].is_known == tensors[1].is_known:
            return None
        x, weight = sorted(tensors, key=lambda t: t.is_known)
        widths = {t.axes[found.terms[tensors.index(t)].index(letter)].n for t in tensors}
        return (x, weight) if len(widths) == 1 and not found.repeated else None

    def constants(self, op: Op) -> None:
        found = self.equation(op)
        if found is None or op.y.opaque or found.repeated:
            return
        tensors = [t for t in op.ins if t is not None]
        for j, letter in enumerate(found.result):
            n = op.y.axes[j].n
            mask = np.zeros(n, bool)
            for t, term in zip(tensors, found.terms, strict=True):
                zeros = self._zeros(t, term.index(letter)) if letter in term else self._nil(t, n)
                if zeros is not None and len(zeros) == n:
                    mask |= zeros
            if mask.any():
                op.y.set_const(j, mask, np.zeros(n))
        self._silent(op, found, tensors)

    @staticmethod
    def _zeros(t: Tensor, axis: int) -> Array | None:
        return t.zeros(axis) if t.is_known or t.any_const else None

    @staticmethod
    def _nil(t: Tensor, n: int) -> Array | None:
        return np.ones(n, bool) if t.any_const and t.uniform == 0 else None

    def _silent(self, op: Op, found: Equation, tensors: list[Tensor]) -> None:
        """A slot of the result is zero where the known operand reads only zeros for it."""
        if len(tensors) != 2 or tensors[0].is_known == tensors[1].is_known:
            return
        x, weight = sorted(tensors, key=lambda t: t.is_known)
        if not x.any_const:
            return
        x_term, term = (found.terms[tensors.index(t)] for t in (x, weight))
        content = weight.content
        for i, letter in enumerate(term):
            zeros = x.zeros(x_term.index(letter)) if letter in x_term and letter not in found.result else None
            if zeros is not None and len(zeros) == content.shape[i]:
                content = np.compress(~zeros, content, axis=i)
        for j, letter in enumerate(found.result):
            if letter in term and op.y.axes[j].n == content.shape[term.index(letter)]:
                rows = np.moveaxis(content, term.index(letter), 0)
                mask: Mask = np.logical_not(rows.reshape(len(rows), -1).astype(bool).any(1))
                op.y.set_const(j, mask, np.zeros(len(mask)))

    def rewrite(self, op: Op, slim: Slim) -> None:
        found = self.equation(op)
        if found is None or op.y.opaque:
            return
        tensors = [t for t in op.ins if t is not None]
        for letter in found.letters:
            pair = self._weighted(op, found, letter) if letter not in found.result else None
            if pair is None or not pair[1].is_leaf:
                continue
            x, weight = pair
            axis = found.terms[tensors.index(x)].index(letter)
            removed = slim.absorbed(x, axis)
            if removed is not None:
                self._carry(op, slim, x, axis, weight, found.terms[tensors.index(weight)].index(letter), removed)

    @staticmethod
    def _carry(op: Op, slim: Slim, x: Tensor, axis: int, weight: Tensor, along: int, removed: Array) -> None:
        index = next(i for i, t in enumerate(op.ins) if t is weight)
        carrier, level = slim.carrier(x, axis)
        rows = np.moveaxis(slim.full_known(op, index), along, 0)[None]
        carried = contract.carry(rows, removed, carrier, level)[0]
        slim.set_known(op, index, np.moveaxis(carried, 0, along))


TABLE: dict[tuple[str, str], Rule] = {("", "Einsum"): Einsum()}
