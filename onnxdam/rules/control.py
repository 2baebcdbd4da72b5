"""Control flow: bodies are graphs of their own, and captured values are simply the outer ones.

    If     y = then() or else()                         slots of y correspond to those of both branches
    Loop   state, s = body(i, go_on, state)             state: node input = body input = body output = node output
           y[i] = s                                     scan outputs: one axis more in front
    Scan   state, s = body(state, x.take(i, axis))      scan inputs lose the scanned axis, scan outputs gain it

A slot of a state is constant if it is at the beginning, and the body makes the same constant of it, given that. So the
body is analysed with the beginning assumed, and again with what came out, until that holds from step to step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from onnxdam.analysis.tensor import Size, Sym, Tensor
from onnxdam.rules.base import Body, Op, Pinned, Relation, Rule, pin_all, same

if TYPE_CHECKING:
    from onnxdam.rewrite.slim import Slim


@dataclass
class Wiring:
    """How values pass between a node and its body.

    Attributes:
        states: (node input, body input, body output, node output).
        taken: (node input, body input, axis that is scanned).
        stacked: (body output, node output, axis that is added).
        inner: body inputs and outputs that only the node knows (step, condition).
        outer: node inputs likewise.
    """

    states: list[tuple[Tensor, Tensor, Tensor, Tensor]] = field(default_factory=list)
    taken: list[tuple[Tensor, Tensor, int]] = field(default_factory=list)
    stacked: list[tuple[Tensor, Tensor, int]] = field(default_factory=list)
    inner: list[Tensor] = field(default_factory=list)
    outer: list[Tensor | None] = field(default_factory=list)


def tie(tensors: list[Tensor], axes: list[list[int]]) -> Iterator[Relation]:
    """Axes correspond across the tensors, row by row of `axes`; those of unlike extents are pinned."""
    for row in axes:
        linked = [t.axes[a] for t, a in zip(tensors, row, strict=True)]
        if len({(t.shape[a], t.axes[a].layout) for t, a in zip(tensors, row, strict=True)}) == 1:
            for axis in linked[1:]:
                yield from same(linked[0], axis)
        else:
            yield from (Pinned(axis, "its extent changes, or is not known") for axis in linked if axis.n > 1)


def tie_all(op: Op, tensors: list[Tensor]) -> Iterator[Relation]:
    """All axes of the tensors correspond in order."""
    if any(t.opaque for t in tensors) or len({t.rank for t in tensors}) > 1:
        yield from pin_all(op, "unknown rank", tensors)
    else:
        yield from tie(tensors, [[i] * len(tensors) for i in range(tensors[0].rank)])


def without(axis: int, rank: int) -> list[int]:
    """The axes of a tensor of this rank but one."""
    return [i for i in range(rank) if i != axis % rank]


class If(Rule):
    """If: both branches stay, whatever the condition."""

    def _pairs(self, op: Op) -> list[list[Tensor]]:
        """For every output: what the branches make of it, and itself."""
        bodies = list(op.bodies.values())
        return [[*(body.outs[i] for body in bodies), y] for i, y in enumerate(op.outs)]

    def shapes(self, op: Op) -> None:
        for *made, y in self._pairs(op):
            if any(t.opaque for t in made) or len({t.rank for t in made}) > 1:
                continue
            if y.opaque:
                y.reshape([Sym(1, (f"{y.name}.{i}",)) for i in range(made[0].rank)])
            for i in range(min(y.rank, made[0].rank)):
                if len({t.shape[i] for t in made}) == 1:
                    y.adopt(i, made[0].axes[i])

    def relations(self, op: Op) -> Iterator[Relation]:
        yield from pin_all(op, "the condition", op.ins)
        for tensors in self._pairs(op):
            yield from tie_all(op, tensors)

    def constants(self, op: Op) -> None:
        for *made, y in self._pairs(op):
            if any(t.opaque or t.rank != y.rank for t in made) or y.opaque or not y.rank:
                continue
            for i, axis in enumerate(y.axes):
                facts = [t.const(i) for t in made]
                first = facts[0]
                if first is None or any(c is None or len(c.mask) != axis.n for c in facts):
                    continue
                mask = np.logical_and.reduce([c.mask & (c.value == first.value) for c in facts if c is not None])
                y.set_const(i, mask, first.value)

    def rewrite(self, op: Op, slim: Slim) -> None:
        close_bodies(op, slim)


class Repeated(Rule):
    """What Loop and Scan share: a body that runs again on its own outputs."""

    def wiring(self, op: Op, body: Body) -> Wiring | None:
        """How the body is connected, None where that is not understood."""
        raise NotImplementedError

    @staticmethod
    def body(op: Op) -> Body | None:
        return next(iter(op.bodies.values()), None)

    def _wired(self, op: Op) -> Wiring | None:
        body = self.body(op)
        return None if body is None else self.wiring(op, body)

    # -- what is assumed of the body -----------------------------------------------------------------------------------
    def enter(self, op: Op, name: str, ins: list[Tensor]) -> set[tuple[int, int]]:
        before = op.bodies.get(name)
        wiring = self.wiring(op, Body(ins, [] if before is None else before.outs))
        if wiring is None:
            return set()
        assumed: set[tuple[int, int]] = set()
        for source, inside, axis in wiring.taken:
            self._take(source, inside, axis)
        for k, t in enumerate(ins):
            for source, inside, outcome, _ in wiring.states:
                if inside is t:
                    tried = None if before is None else (before.ins[k], outcome)
                    assumed |= {(k, axis) for axis in _assume(source, inside, tried)}
        return assumed

    @staticmethod
    def _take(source: Tensor, inside: Tensor, axis: int) -> None:
        """One slice of the source, along `axis`."""
        if source.opaque or not source.rank:
            return
        rest = without(axis, source.rank)
        if inside.opaque:
            inside.reshape([source.shape[i] for i in rest])
        if inside.rank != len(rest):
            return
        for i, j in enumerate(rest):
            inside.adopt(i, source.axes[j])
            const = source.const(j)
            if const is not None and len(const.mask) == inside.axes[i].n:
                inside.set_const(i, const.mask, const.value)

    def holds(self, op: Op, name: str) -> bool:
        body = op.bodies[name]
        wiring = self.wiring(op, body)
        if wiring is None:
            return True
        place = {id(t): k for k, t in enumerate(body.ins)}
        return all(
            _again(inside, outcome, {a for k, a in body.assumed if k == place[id(inside)]})
            for _, inside, outcome, _ in wiring.states
        )

    # -- the node ------------------------------------------------------------------------------------------------------
    def shapes(self, op: Op) -> None:
        wiring = self._wired(op)
        if wiring is None:
            return
        for _, inside, outcome, y in wiring.states:
            if not inside.opaque and not outcome.opaque and inside.rank == outcome.rank:
                if y.opaque:
                    y.reshape([Sym(1, (f"{y.name}.{i}",)) for i in range(inside.rank)])
                for i in range(min(inside.rank, y.rank)):
                    if inside.shape[i] == outcome.shape[i]:
                        y.adopt(i, inside.axes[i])
        for piece, y, axis in wiring.stacked:
            if piece.opaque:
                continue
            if y.opaque:
                sizes: list[Size] = list(piece.shape)
                sizes.insert(axis % (piece.rank + 1), Sym(1, (f"{y.name}.steps",)))
                y.reshape(sizes)
            elif y.rank == piece.rank + 1:
                for i, j in enumerate(without(axis, y.rank)):
                    y.adopt(j, piece.axes[i])

    def relations(self, op: Op) -> Iterator[Relation]:
        wiring = self._wired(op)
        if wiring is None:
            yield from pin_all(op, "a body that is not understood")
            return
        yield from pin_all(op, "decides how often the body runs", [*wiring.inner, *wiring.outer])
        for state in wiring.states:
            yield from tie_all(op, list(state))
        for whole, piece, axis in [*wiring.taken, *((y, t, axis) for t, y, axis in wiring.stacked)]:
            if whole.opaque or piece.opaque or whole.rank != piece.rank + 1:
                yield from pin_all(op, "unknown rank", [whole, piece])
                continue
            if whole.axes[axis].n > 1:
                yield Pinned(whole.axes[axis], "one slice a step")
            yield from tie([whole, piece], [[j, i] for i, j in enumerate(without(axis, whole.rank))])

    def constants(self, op: Op) -> None:
        wiring = self._wired(op)
        if wiring is None:
            return
        for _, inside, _, y in wiring.states:  # what holds at the beginning and from step to step
            if not y.opaque and not inside.opaque and y.rank == inside.rank:
                _carry(inside, y, range(y.rank))
        for piece, y, axis in wiring.stacked:
            if not y.opaque and not piece.opaque and y.rank == piece.rank + 1:
                _carry(piece, y, without(axis, y.rank))

    def rewrite(self, op: Op, slim: Slim) -> None:
        close_bodies(op, slim)


def _carry(x: Tensor, y: Tensor, places: range | list[int]) -> None:
    """Constant slots of axis i of x are constant in axis places[i] of y."""
    for i, j in enumerate(places):
        const = x.const(i)
        if const is not None and len(const.mask) == y.axes[j].n:
            y.set_const(j, const.mask, const.value)


def _assume(source: Tensor, inside: Tensor, tried: tuple[Tensor, Tensor] | None) -> list[int]:
    """A state is what it was at the beginning, as far as it came out of the last trial as it went in.

    Returns:
        The axes whose extents were assumed.
    """
    if source.opaque or (tried is not None and (tried[1].opaque or tried[0].rank != tried[1].rank)):
        return []
    assumed = []
    if inside.opaque:
        inside.reshape([Sym(1, (f"{inside.name}.{i}",)) for i in range(source.rank)])
    if inside.rank != source.rank:
        return []
    for i in range(source.rank):
        if tried is None or tried[0].shape[i] == tried[1].shape[i]:
            before = inside.shape[i]
            inside.adopt(i, source.axes[i])
            if inside.shape[i] != before:
                assumed.append(i)
        const = source.const(i)
        if const is None or len(const.mask) != inside.axes[i].n:
            continue
        mask = const.mask
        if tried is not None:
            old, new = tried[0].const(i), tried[1].const(i)
            if old is None or new is None or not len(old.mask) == len(new.mask) == len(mask):
                continue
            mask = mask & old.mask & new.mask & (old.value == new.value)
        inside.set_const(i, mask, const.value)
    return assumed


def _again(inside: Tensor, outcome: Tensor, assumed: set[int]) -> bool:
    """Whether a state comes out with the extents and constants that it was assumed to go in with."""
    if inside.opaque or (not assumed and not inside.any_const):
        return True
    if outcome.opaque or outcome.rank != inside.rank or any(inside.shape[i] != outcome.shape[i] for i in assumed):
        return False
    for i in range(inside.rank):
        const, made = inside.const(i), outcome.const(i)
        if const is not None and const.mask.any():
            if made is None or len(made.mask) != len(const.mask):
                return False
            if not (made.mask & (made.value == const.value))[const.mask].all():
                return False
    return True


class Loop(Repeated):
    """Loop: trip count, condition and states in; condition, states and scan outputs out of the body."""

    def wiring(self, op: Op, body: Body) -> Wiring | None:
        n = len(op.ins) - 2
        if len(body.ins) != n + 2 or len(op.outs) < n or any(t is None for t in op.ins[2:]):
            return None
        outs = body.outs or [*body.ins[1:2], *body.ins[2:]]
        if body.outs and len(outs) != len(op.outs) + 1:
            return None
        return Wiring(
            [(op.ins[2 + i], body.ins[2 + i], outs[1 + i], op.outs[i]) for i in range(n)],  # type: ignore[misc]
            [],
            [(t, y, 0) for t, y in zip(outs[1 + n :], op.outs[n:], strict=False)],
            [*body.ins[:2], *outs[:1]],
            op.ins[:2],
        )


class Scan(Repeated):
    """Scan from opset 9 on."""

    def wiring(self, op: Op, body: Body) -> Wiring | None:
        m = int(op.attr("num_scan_inputs", 0))
        n = len(op.ins) - m
        if op.version < 9 or n < 0 or len(body.ins) != len(op.ins) or any(t is None for t in op.ins):
            return None
        if len(op.outs) < n or (body.outs and len(body.outs) != len(op.outs)):
            return None
        outs = body.outs or body.ins[:n]
        taken, stacked = op.attr("scan_input_axes", (0,) * m), op.attr("scan_output_axes", (0,) * (len(op.outs) - n))
        return Wiring(
            [(op.ins[i], body.ins[i], outs[i], op.outs[i]) for i in range(n)],  # type: ignore[misc]
            [(op.ins[n + k], body.ins[n + k], axis) for k, axis in enumerate(taken)],  # type: ignore[misc]
            [(t, y, axis) for t, y, axis in zip(outs[n:], op.outs[n:], stacked, strict=False)],
        )


def close_bodies(op: Op, slim: Slim) -> None:
    """Declared shapes of body inputs become narrow, and so do body outputs that are known ahead of time."""
    for name, body in op.bodies.items():
        for t in body.ins:
            slim.write_shape(t)
        for index, t in enumerate(body.outs):
            if t.is_leaf and slim.narrowed(t):
                slim.known_output(op.node.attributes[name].as_graph(), index, t)


TABLE: dict[tuple[str, str], Rule] = {("", "If"): If(), ("", "Loop"): Loop(), ("", "Scan"): Scan()}
