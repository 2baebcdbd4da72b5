"""Operators that regroup axes: Reshape, Flatten, Squeeze, Unsqueeze.

Elements keep their row-major order, so the axes fall into groups of equal products, and inside a group both sides have
a common refinement into atoms:   (6, 4) -> (2, 12)   has the atoms   2, 3, 4   with   6 = 2 x 3,  12 = 3 x 4.
An axis of several atoms is their product: a merged slot stays if and only if all of its atoms' slots do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxdam.analysis.tensor import Array, Axis, Mask, Size, Sym, Tensor, product
from onnxdam.rules.base import Op, Pinned, Product, Relation, Rule, Same, pin_all

if TYPE_CHECKING:
    from onnxdam.rewrite.slim import Slim


@dataclass(frozen=True)
class Group:
    """Axes of x and of y with the same elements; `atoms` is None where they have no common refinement."""

    ins: tuple[int, ...]
    outs: tuple[int, ...]
    atoms: tuple[Size, ...] | None
    in_atoms: tuple[tuple[int, ...], ...] = ()  # per axis of `ins`, which atoms it is made of
    out_atoms: tuple[tuple[int, ...], ...] = ()


def divide(a: Size, b: Size) -> Size | None:
    """a / b where that is exact, else None."""
    if a == b:
        return 1
    if isinstance(a, Sym):
        return a.divide(b)
    return a // b if isinstance(b, int) and b and a % b == 0 else None


def _match(ins: list[Size], outs: list[Size]) -> list[tuple[int, int]]:
    """How many axes on each side make up each group, from the left, as far as it is certain."""
    found: list[tuple[int, int]] = []
    i, j = 0, 0
    while i < len(ins) and j < len(outs):
        p, q = i + 1, j + 1
        a, b = ins[i], outs[j]
        while a != b:
            if divide(b, a) is not None and p < len(ins):
                a, p = product((a, ins[p])), p + 1
            elif divide(a, b) is not None and q < len(outs):
                b, q = product((b, outs[q])), q + 1
            elif isinstance(a, int) and isinstance(b, int) and a < b and p < len(ins):
                a, p = product((a, ins[p])), p + 1
            elif isinstance(a, int) and isinstance(b, int) and b < a and q < len(outs):
                b, q = product((b, outs[q])), q + 1
            else:
                return found
        found.append((p - i, q - j))
        i, j = p, q
    return found


def _refine(ins: Sequence[tuple[Size, ...]], outs: Sequence[tuple[Size, ...]]) -> tuple[Any, ...] | None:
    """Common refinement of two factorisations: atoms, and which of them each axis is made of."""
    left = [(size, k) for k, layout in enumerate(ins) for size in layout if size != 1]
    right = [(size, k) for k, layout in enumerate(outs) for size in layout if size != 1]
    atoms: list[Size] = []
    owners: tuple[list[list[int]], list[list[int]]] = ([[] for _ in ins], [[] for _ in outs])
    while left and right:
        (a, i), (b, j) = left.pop(0), right.pop(0)
        if a == b:
            atom = a
        elif (rest := divide(a, b)) is not None:
            atom = b
            left.insert(0, (rest, i))
        elif (rest := divide(b, a)) is not None:
            atom = a
            right.insert(0, (rest, j))
        else:
            return None
        owners[0][i].append(len(atoms))
        owners[1][j].append(len(atoms))
        atoms.append(atom)
    if left or right:
        return None
    return tuple(atoms), tuple(map(tuple, owners[0])), tuple(map(tuple, owners[1]))


def groups(x: Tensor, y: Tensor) -> list[Group]:
    """The groups of a reshape of x into y; extents of 1 belong to none."""
    ins = [i for i in range(x.rank) if x.shape[i] != 1]
    outs = [j for j in range(y.rank) if y.shape[j] != 1]
    pairs = _match([x.shape[i] for i in ins], [y.shape[j] for j in outs])
    a, b = sum(p for p, _ in pairs), sum(q for _, q in pairs)
    back = _match([x.shape[i] for i in ins[a:]][::-1], [y.shape[j] for j in outs[b:]][::-1])
    c, d = len(ins) - sum(p for p, _ in back), len(outs) - sum(q for _, q in back)
    cuts = [*pairs, (c - a, d - b), *back[::-1]]
    result, i, j = [], 0, 0
    for p, q in cuts:
        if p or q:
            result.append(_group(x, y, tuple(ins[i : i + p]), tuple(outs[j : j + q])))
        i, j = i + p, j + q
    return result


def _group(x: Tensor, y: Tensor, ins: tuple[int, ...], outs: tuple[int, ...]) -> Group:
    refined = _refine([x.axes[i].layout for i in ins], [y.axes[j].layout for j in outs])
    return Group(ins, outs, None) if refined is None else Group(ins, outs, *refined)


def adopt_layouts(x: Tensor, y: Tensor) -> None:
    """Extents of y that are not known before run time learn which static factors they hold (batch * heads)."""
    for group in groups(x, y):
        if group.atoms is None:
            if len(group.outs) == 1 and isinstance(y.shape[group.outs[0]], Sym):
                whole = product([x.shape[i] for i in group.ins])
                if whole == y.shape[group.outs[0]]:
                    y.set_layout(group.outs[0], tuple(s for i in group.ins for s in x.axes[i].layout if s != 1))
            continue
        for j, atoms in zip(group.outs, group.out_atoms, strict=True):
            if isinstance(y.shape[j], Sym) and len(atoms) > 1:
                y.set_layout(j, tuple(group.atoms[a] for a in atoms))


def regroup(x: Tensor, y: Tensor) -> Iterator[Relation]:
    """The relations of a reshape of x into y."""
    for group in groups(x, y):
        if group.atoms is None:
            for axis in [*(x.axes[i] for i in group.ins), *(y.axes[j] for j in group.outs)]:
                if axis.n > 1:
                    yield Pinned(axis, "regrouped in a way that mixes slots")
            continue
        yield from _relate(group, [x.axes[i] for i in group.ins], [y.axes[j] for j in group.outs])


def _relate(group: Group, ins: list[Axis], outs: list[Axis]) -> Iterator[Relation]:
    assert group.atoms is not None
    members = [*zip(ins, group.in_atoms, strict=True), *zip(outs, group.out_atoms, strict=True)]
    variables: dict[int, Axis] = {}
    for axis, atoms in members:  # an axis that is one atom serves as its variable
        static = [a for a in atoms if isinstance(group.atoms[a], int)]
        if len(static) == 1 and axis.n == group.atoms[static[0]]:
            if static[0] in variables:
                yield Same(variables[static[0]], axis)
            variables.setdefault(static[0], axis)
    for a, size in enumerate(group.atoms):
        if isinstance(size, int):
            variables.setdefault(a, Axis(None, a, size))
    for axis, atoms in members:
        factors = tuple(variables[a] for a in atoms if isinstance(group.atoms[a], int))
        if axis.n != int(np.prod([f.n for f in factors])):  # the static factors are not visible on this side
            for each in (*factors, axis):
                if each.n > 1:
                    yield Pinned(each, "merged into an extent that is not known")
        elif len(factors) > 1:
            yield Product(axis, factors)


def regroup_constants(x: Tensor, y: Tensor) -> None:
    """Constant slots of x, read off in the axes of y."""
    if not x.any_const and not x.joint:
        return
    if x.uniform is not None:
        y.set_uniform(x.uniform)
        return
    parts = groups(x, y)
    place = {g.ins[0]: g.outs[0] for g in parts if len(g.ins) == len(g.outs) == 1}
    for axes, const in x.joint.items():
        if set(axes) <= place.keys() and all(x.axes[a].n == y.axes[place[a]].n for a in axes):
            y.set_joint([place[a] for a in axes], const.mask, const.value)
    for group in parts:
        together = any(set(axes) <= set(group.ins) for axes in x.joint)
        if group.atoms is not None and (together or any(x.const(i) is not None for i in group.ins)):
            _group_constants(group, x, y)


def _group_constants(group: Group, x: Tensor, y: Tensor) -> None:
    assert group.atoms is not None
    sizes = [a if isinstance(a, int) else 1 for a in group.atoms]
    mask, value = np.zeros(sizes, bool), np.zeros(sizes)
    for i, atoms in zip(group.ins, group.in_atoms, strict=True):
        const = x.const(i)
        if const is None:
            continue
        shape = [s if a in atoms else 1 for a, s in enumerate(sizes)]
        if len(const.mask) != int(np.prod(shape)):
            continue
        one, level = const.mask.reshape(shape), const.value.reshape(shape)
        value = np.where(mask, value, np.broadcast_to(level, sizes))
        mask = mask | one
    for axes, const in x.joint.items():
        if set(axes) <= set(group.ins):
            one, level = (_spread(group, axes, facts, sizes) for facts in (const.mask, const.value))
            value = np.where(mask, value, np.broadcast_to(level, sizes))
            mask = mask | one
    for j, atoms in zip(group.outs, group.out_atoms, strict=True):
        n = int(np.prod([sizes[a] for a in atoms]))
        order = [*atoms, *(a for a in range(len(sizes)) if a not in atoms)]
        m, v = mask.transpose(order).reshape(n, -1), value.transpose(order).reshape(n, -1)
        y.set_const(j, m.all(1) & (v == v[:, :1]).all(1), v[:, 0])
    _joint_constants(group, y, mask, value)


def _joint_constants(group: Group, y: Tensor, mask: Mask, value: Array) -> None:
    """What is known of the axes of y together beyond each alone; `mask` and `value` run over the atoms."""
    wide = [(j, atoms) for j, atoms in zip(group.outs, group.out_atoms, strict=True) if y.axes[j].n > 1]
    if len(wide) < 2 or mask.size != int(np.prod([y.axes[j].n for j, _ in wide])):
        return
    shape = [y.axes[j].n for j, _ in wide]
    order = [a for _, atoms in wide for a in atoms] + [a for a in range(mask.ndim) if mask.shape[a] == 1]
    order = list(dict.fromkeys(order))
    together = mask.transpose(order).reshape(shape)
    alone = np.zeros(shape, bool)
    for k, (j, _) in enumerate(wide):
        const = y.const(j)
        if const is not None:
            alone |= const.mask.reshape([-1 if i == k else 1 for i in range(len(shape))])
    if (together & ~alone).any():
        y.set_joint([j for j, _ in wide], together, value.transpose(order).reshape(shape))


def _spread(group: Group, axes: Sequence[int], facts: Array, sizes: Sequence[int]) -> Array:
    """What is known of the slots of some axes together, over the atoms of the group."""
    atoms = [a for axis in axes for a in group.in_atoms[group.ins.index(axis)]]
    parts = facts.reshape([sizes[a] for a in atoms])
    order = sorted(range(parts.ndim), key=lambda place: atoms[place])
    return parts.transpose(order).reshape([s if a in atoms else 1 for a, s in enumerate(sizes)])


class Regroup(Rule):
    """Any operator that only regroups axes."""

    def evaluate(self, op: Op, *arrays: Array) -> Array | None:
        static = not op.y.opaque and all(isinstance(s, int) for s in op.y.shape)
        return arrays[0].reshape(op.y.shape) if static else None  # type: ignore[arg-type]

    def moves(self, op: Op, source: Array) -> Array | None:
        if op.y.opaque:
            return None
        like = dict(zip(op.x.shape, source.shape, strict=True))
        sizes = [size if isinstance(size, int) else like.get(size, -1) for size in op.y.shape]
        rest = math.prod(size for size in sizes if size != -1)
        fits = sizes.count(-1) < 2 and (source.size % rest == 0 if -1 in sizes else source.size == rest)
        return source.reshape(sizes) if fits else None

    def shapes(self, op: Op) -> None:
        if not op.y.opaque and not op.x.opaque:
            adopt_layouts(op.x, op.y)

    def entries(self, op: Op) -> None:
        if op.x.entries is not None and not op.y.opaque and all(isinstance(s, int) for s in op.y.shape):
            op.y.set_entries(op.x.entries.reshape([s for s in op.y.shape if isinstance(s, int)]))

    def relations(self, op: Op) -> Iterator[Relation]:
        if op.x.opaque or op.y.opaque:
            yield from pin_all(op, "unknown rank")
        else:
            yield from regroup(op.x, op.y)

    def constants(self, op: Op) -> None:
        op.y.lower = op.x.lower
        if not op.x.opaque and not op.y.opaque:
            regroup_constants(op.x, op.y)


class Reshape(Regroup):
    """Reshape: the sizes are written down in the second input."""

    sizes = 1

    def shapes(self, op: Op) -> None:
        x, y = op.x, op.y
        sizes = op.entries_of(1)
        if sizes is not None and sizes.ndim == 1:
            target = self._resolve(op, x, sizes)
            if y.opaque:
                y.reshape([Sym(1, (f"{y.name}.{i}",)) if s is None else s for i, s in enumerate(target)])
            for i, size in enumerate(target):
                if size is not None and isinstance(y.shape[i], Sym):
                    y.set_layout(i, (size,))
        super().shapes(op)

    @staticmethod
    def _resolve(op: Op, x: Tensor, sizes: Array) -> list[Size | None]:
        """The extents of y; None where nothing is known."""
        target: list[Size | None] = []
        for i, size in enumerate(sizes.tolist()):
            if size == 0 and not op.attr("allowzero", 0):
                target.append(x.shape[i] if not x.opaque and i < x.rank else None)
            else:
                target.append(None if size == -1 else size)
        rest = [t for t in target if t is not None]
        if list(sizes).count(-1) == 1 and len(rest) == len(target) - 1 and not x.opaque:
            target[list(sizes).index(-1)] = divide(product(x.shape), product(rest))
        return target

    def relations(self, op: Op) -> Iterator[Relation]:
        shape = op.tensor(1)
        if shape is not None:
            yield from pin_all(op, "written-down sizes", [shape])
        yield from super().relations(op)

    def rewrite(self, op: Op, slim: Slim) -> None:
        if slim.narrowed(op.x) or slim.narrowed(op.y) or slim.sizes.changed(op.tensor(1)):
            if slim.shape(op.x) == slim.shape(op.y):
                slim.skip(op, 0)
            else:
                slim.write_sizes(op, 1, slim.shape(op.y), source=slim.shape(op.x))


class Flatten(Regroup):
    """Flatten into two axes. Nothing is written down but the axis."""

    def shapes(self, op: Op) -> None:
        x = op.x
        if not x.opaque:
            axis = op.attr("axis", 1)
            axis += x.rank if axis < 0 else 0
            sizes = (product(x.shape[:axis]), product(x.shape[axis:]))
            if op.y.opaque:
                op.y.reshape(sizes)
            for i, size in enumerate(sizes):
                if isinstance(op.y.shape[i], Sym):
                    op.y.set_layout(i, (size,))
        super().shapes(op)


class Squeeze(Regroup):
    """Squeeze and Unsqueeze: extents of 1 come or go."""

    def relations(self, op: Op) -> Iterator[Relation]:
        if op.has(1):
            yield from pin_all(op, "written-down axes", [op.tensor(1)])
        yield from super().relations(op)

    def shapes(self, op: Op) -> None:
        axes = op.ints(1, "axes")
        if axes is not None and not op.x.opaque:
            sizes = self._sizes(op, axes)
            if op.y.opaque:
                op.y.reshape(sizes)
            for i, size in enumerate(sizes):
                if isinstance(op.y.shape[i], Sym):
                    op.y.set_layout(i, (size,))
        super().shapes(op)

    def _sizes(self, op: Op, axes: tuple[int, ...]) -> list[Size]:
        drop = {a % op.x.rank for a in axes}
        return [s for i, s in enumerate(op.x.shape) if i not in drop]

    def rewrite(self, op: Op, slim: Slim) -> None:
        x = op.x
        if op.kind != "Squeeze" or op.has(1) or "axes" in op.node.attributes or x.opaque or not slim.narrowed(x):
            return
        ones = [
            i for i, size in enumerate(x.shape) if size == 1
        ]  # without axes, it would take what is narrowed to 1, too
        if op.version < 13:
            slim.set_attr(op, "axes", ones)
        else:
            slim.set_sliced(op, 1, np.array(ones, np.int64))


class Unsqueeze(Squeeze):
    def _sizes(self, op: Op, axes: tuple[int, ...]) -> list[Size]:
        rank = op.x.rank + len(axes)
        new = {a % rank for a in axes}
        rest = iter(op.x.shape)
        return [1 if i in new else next(rest) for i in range(rank)]


TABLE: dict[tuple[str, str], Rule] = {
    ("", "Reshape"): Reshape(),
    ("", "Flatten"): Flatten(),
    ("", "Squeeze"): Squeeze(),
    ("", "Unsqueeze"): Unsqueeze(),
}
