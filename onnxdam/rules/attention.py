"""Attention as one operator: per head h, with query heads in groups that share a key-value head,

    y[s, h, e] = sum over t of softmax_t(scale * sum over d of q[s, h, d] * k[t, h, d]) * v[t, h, e]

A hidden axis is the product of heads and dimensions. Three decisions are taken, each once for all that it touches:

    heads       leave in units of q, k, v and y; those of a group are balanced over the key-value heads
    d of q, k   a dimension leaves where q or k is zero in every head that stays; 1 / sqrt(D) is then written down
    e of v, y   a dimension leaves where no head that stays is asked for it

Caches of past keys and values share the axes, and being graph inputs and outputs they pin them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from onnxdam.analysis.tensor import Array, Axis, Mask, Sym, Tensor
from onnxdam.rules import contract
from onnxdam.rules.base import Blocks, Contract, Op, Pinned, Product, Relation, Rule, Same, adopt_shape, pin_all, same

if TYPE_CHECKING:
    from onnxdam.rewrite.slim import Slim


@dataclass(frozen=True)
class Place:
    """Where a role lives: in a hidden axis of a tensor from an offset on, or (axis None) in axes 1 and 3 of four."""

    role: str  # "q", "k", "v" or "y"
    tensor: Tensor
    axis: int | None = None
    offset: int = 0


@dataclass
class Form:
    """The sizes of an attention node and where its roles live.

    Attributes:
        heads, groups: query heads, and key-value heads.
        depth, width: dimensions of q and k, and of v and y.
        ins: what q, k and v are made of (sums: query and bias; pieces: past and new keys).
        outs: results.
        per_head: axes that count query heads (masks, sinks).
        pinned: why dimensions of heads stay, "" where they need not.
        scaled: why those of q and k stay.
        tied: q, k and v have the same dimensions, as kernels for caches ask.
    """

    heads: int
    groups: int
    depth: int
    width: int
    ins: list[Place] = field(default_factory=list)
    outs: list[Place] = field(default_factory=list)
    per_head: list[Axis] = field(default_factory=list)
    pinned: str = ""
    scaled: str = ""
    tied: bool = False

    def sizes(self, role: str) -> tuple[int, int]:
        """Heads and dimensions of a role."""
        return (self.heads if role in "qy" else self.groups), (self.depth if role in "qk" else self.width)

    def first(self, role: str) -> Place:
        return next(p for p in (*self.ins, *self.outs) if p.role == role)

    def fits(self) -> bool:
        """Whether every place has the extents it should have."""
        if min(self.heads, self.groups, self.depth, self.width) < 1 or self.heads % self.groups:
            return False
        for p in (*self.ins, *self.outs):
            h, d = self.sizes(p.role)
            if p.tensor.opaque:
                return False
            if p.axis is None:
                if p.tensor.rank != 4 or p.tensor.shape[1] != h or p.tensor.shape[3] != d:
                    return False
            elif not isinstance(p.tensor.shape[p.axis], int) or p.tensor.axes[p.axis].n < p.offset + h * d:
                return False
        return all(
            a.n in (1, self.heads) and a.tensor and isinstance(a.tensor.shape[a.index], int) for a in self.per_head
        )


def merge(axis: Axis, heads: Axis, dims: Axis) -> Iterator[Relation]:
    """`axis` runs over heads and dims."""
    if heads.n > 1 and dims.n > 1:
        yield Product(axis, (heads, dims))
    elif axis.n > 1:
        yield Same(axis, heads if dims.n == 1 else dims)


def present(op: Op, index: int) -> Tensor | None:
    """Output `index`, None where it is left out."""
    return op.outs[index] if index < len(op.outs) and op.node.outputs[index].name else None


def known_tensor(content: Array) -> Tensor:
    """A tensor outside the graph: a table that a relation reads."""
    table = Tensor("table", None, content.shape, content.dtype)
    table.provide(lambda: content)
    return table


class Attention(Rule):
    """What all attention operators share. Subclasses say where q, k, v and y live, and what is written down."""

    note = "attention of a form that is not known"

    def form(self, op: Op) -> Form | None:
        """The form of the node, None where it is not one that the rule understands."""
        raise NotImplementedError

    def checked(self, op: Op) -> Form | None:
        results = [present(op, i) for i in range(len(op.outs))]
        if any(t is not None and t.opaque for t in (*op.ins, *results)) or results[0] is None:
            return None
        form = self.form(op)
        if form is None or not form.fits():
            return None
        default = 1 / math.sqrt(form.depth)  # its root is what q and k are multiplied by
        if (
            not op.attr("scale", 0.0)
            and op.x.dtype == np.float64
            and float(np.sqrt(np.float32(default))) ** 2 != default
        ):
            form.scaled = "the attribute `scale` is too short for their scale in float64"
        return form

    # -- relations -------------------------------------------------------------------------------------------------
    def relations(self, op: Op) -> Iterator[Relation]:
        form = self.checked(op)
        if form is None:
            yield from pin_all(op, self.note)
            return
        heads = Axis(None, 0, form.heads)
        groups = heads if form.groups == form.heads else Axis(None, 0, form.groups)
        depth = Axis(None, 0, form.depth)
        width = depth if form.tied and form.width == form.depth else Axis(None, 0, form.width)
        axes = {"q": (heads, depth), "k": (groups, depth), "v": (groups, width), "y": (heads, width)}
        merged = {role: Axis(None, 0, h.n * d.n) for role, (h, d) in axes.items()}
        covered: list[Axis] = list(form.per_head)
        for role, pair in axes.items():
            yield from merge(merged[role], *pair)
        if heads.n == 1:
            yield Pinned(heads, "the only head")
        for p in (*form.ins, *form.outs):
            yield from self._place(p, merged[p.role], *axes[p.role])
            covered += [p.tensor.axes[i] for i in ((1, 3) if p.axis is None else (p.axis,))]
        for axis in form.per_head:
            yield from same(axis, heads) if axis.n > 1 else ()
        if groups is not heads:
            yield Blocks(groups, heads, form.groups)
        yield Blocks(merged["q"], heads, form.heads, known_tensor(self._significant(form)))
        for axis, reason in ((depth, form.pinned or form.scaled), (width, form.pinned)):
            if reason and axis.n > 1:
                yield Pinned(axis, reason)
        yield from self.extra(op, form)
        taken = {id(a) for a in covered}
        for t in (*op.ins, *op.outs):
            for axis in t.axes if t is not None and not t.opaque else ():
                if id(axis) not in taken and axis.n > 1 and not self.handles(op, axis):
                    yield Pinned(axis, "attended over")

    @staticmethod
    def _place(p: Place, merged: Axis, heads: Axis, dims: Axis) -> Iterator[Relation]:
        if p.axis is None:
            yield from same(p.tensor.axes[1], heads)
            yield from same(p.tensor.axes[3], dims)
        elif p.tensor.axes[p.axis].n == merged.n:
            yield from same(p.tensor.axes[p.axis], merged)
        elif merged.n == 1:  # one slot stays as long as the node does
            mask = np.zeros(p.tensor.axes[p.axis].n, bool)
            mask[p.offset] = True
            yield Pinned(p.tensor.axes[p.axis], "the only head", mask)
        else:
            yield Same(merged, p.tensor.axes[p.axis], None, np.arange(p.offset, p.offset + merged.n))

    def extra(self, op: Op, form: Form) -> Iterator[Relation]:
        """Relations beyond those of heads and dimensions."""
        return iter(())

    def handles(self, op: Op, axis: Axis) -> bool:
        """Whether `extra` speaks of the axis, so that it need not be pinned."""
        return False

    @staticmethod
    def zero_table(form: Form, role: str) -> Array:
        """Which (head, dimension) of a role are zero: in everything it is made of."""
        h, d = form.sizes(role)
        table = np.ones((h, d), bool)
        for p in (p for p in form.ins if p.role == role):
            if p.axis is None:
                one, other = p.tensor.zeros(1), p.tensor.zeros(3)
                table &= (False if one is None else one[:, None]) | (False if other is None else other[None, :])
            else:
                mask = p.tensor.zeros(p.axis)
                table &= False if mask is None else mask[p.offset : p.offset + h * d].reshape(h, d)
        return table

    def _significant(self, form: Form) -> Array:
        """Which (query head, dimension) take part in the scores."""
        shared = self.zero_table(form, "k").repeat(form.heads // form.groups, 0)
        return ~(self.zero_table(form, "q") | shared)

    # -- constants -------------------------------------------------------------------------------------------------
    def constants(self, op: Op) -> None:
        form = self.checked(op)
        if form is None:
            return
        table = self.zero_table(form, "v").repeat(form.heads // form.groups, 0)
        if op.y.rank == 4:
            self._zero(op.y, 1, np.asarray(table.all(1)))
            self._zero(op.y, 3, np.asarray(table.all(0)))
        else:
            self._zero(op.y, 2, table.reshape(-1))

    @staticmethod
    def _zero(y: Tensor, axis: int, mask: Mask) -> None:
        y.set_const(axis, mask, np.zeros(len(mask)))

    # -- rewriting -------------------------------------------------------------------------------------------------
    @staticmethod
    def kept(slim: Slim, form: Form, role: str) -> tuple[int, int]:
        """Heads and dimensions of a role that stay."""
        p = form.first(role)
        h, d = form.sizes(role)
        if p.axis is None:
            return slim.count(p.tensor, 1), slim.count(p.tensor, 3)
        slots = slim.slots(p.tensor, p.axis)
        slots = slots[(slots >= p.offset) & (slots < p.offset + h * d)] - p.offset
        heads = len(np.unique(slots // d))
        return heads, len(slots) // max(heads, 1)

    def rewrite(self, op: Op, slim: Slim) -> None:
        form = self.checked(op)
        if form is None:
            return
        (heads, depth), (groups, _) = self.kept(slim, form, "q"), self.kept(slim, form, "k")
        if depth != form.depth and not op.attr("scale", 0.0):
            slim.set_attr(op, "scale", 1 / math.sqrt(form.depth))
        self.write(op, slim, form, heads, groups)

    def write(self, op: Op, slim: Slim, form: Form, heads: int, groups: int) -> None:
        """Writes the numbers of heads where they are written down."""
        for name, count in (("num_heads", heads), ("q_num_heads", heads), ("kv_num_heads", groups)):
            if op.attr(name, 0) and op.attr(name) != count:
                slim.set_attr(op, name, count)


def _extent(t: Tensor, axis: int) -> int:
    """A static extent, 0 where it is not."""
    size = t.shape[axis]
    return size if isinstance(size, int) else 0


def mask_heads(mask: Tensor | None) -> list[Axis]:
    """The axis of an additive mask (batch, heads, queries, keys) that counts heads, if it has one."""
    return [mask.axes[-3]] if mask is not None and not mask.opaque and mask.rank >= 3 else []


class StandardAttention(Attention):
    """Attention of opsets 23 to 25: q, k, v of three axes (batch, sequence, hidden) or of four."""

    def shapes(self, op: Op) -> None:
        q, v, y = op.x, op.tensor(2), op.y
        if v is None or q.opaque or v.opaque:
            return
        if q.rank == 4:
            if y.opaque:
                y.reshape([*q.shape[:3], v.shape[3]])
        elif op.attr("kv_num_heads") and op.attr("q_num_heads") and y.opaque:
            width = _extent(v, 2) // op.attr("kv_num_heads") * op.attr("q_num_heads")
            y.reshape([*q.shape[:2], width or Sym(1, (f"{y.name}.2",))])
        adopt_shape(q, y, [0, 1])

    def form(self, op: Op) -> Form | None:
        q, k, v = op.x, op.tensor(1), op.tensor(2)
        if k is None or v is None or not q.rank == k.rank == v.rank == op.y.rank or q.rank not in (3, 4):
            return None
        if q.rank == 4:
            form, axis = Form(_extent(q, 1), _extent(k, 1), _extent(q, 3), _extent(v, 3)), None
        else:
            heads, groups = op.attr("q_num_heads", 0), op.attr("kv_num_heads", 0)
            if not heads or not groups:
                return None
            form, axis = Form(heads, groups, _extent(q, 2) // heads, _extent(v, 2) // groups), 2
        form.ins = [Place(role, t, axis) for role, t in (("q", q), ("k", k), ("v", v))]
        form.ins += [Place(role, t) for role, i in (("k", 4), ("v", 5)) if (t := op.tensor(i)) is not None]
        form.outs = [Place("y", op.y, axis)]
        form.outs += [Place(role, t) for role, i in (("k", 1), ("v", 2)) if (t := present(op, i)) is not None]
        scores = present(op, 3)
        form.per_head = mask_heads(op.tensor(3)) + ([] if scores is None or scores.opaque else [scores.axes[1]])
        return form


class MultiHeadAttention(Attention):
    """MultiHeadAttention of com.microsoft: query (batch, sequence, hidden), keys and values alike or of four axes."""

    def shapes(self, op: Op) -> None:
        q, v, y = op.x, op.tensor(2), op.y
        y.dtype = y.dtype or op.x.dtype
        if v is None or q.opaque or v.opaque or not y.opaque or q.rank != 3:
            return
        y.reshape([*q.shape[:2], v.shape[2] if v.rank == 3 else _extent(v, 1) * _extent(v, 3)])
        head = (q.shape[0], int(op.attr("num_heads")), Sym(1, (f"{y.name}.present",)))
        for i, t in ((1, op.tensor(1)), (2, v)):
            out = present(op, i)
            if out is not None and out.opaque and t is not None and t.rank in (3, 4):
                out.reshape([*head, _extent(t, 3) if t.rank == 4 else _extent(t, 2) // head[1]])
                out.dtype = out.dtype or op.x.dtype

    def form(self, op: Op) -> Form | None:
        q, k, v, bias = op.x, op.tensor(1), op.tensor(2), op.tensor(3)
        if k is None or v is None or q.rank != 3 or k.rank not in (3, 4) or v.rank not in (3, 4) or op.has(9):
            return None
        n = int(op.attr("num_heads"))
        width = _extent(v, 3) if v.rank == 4 else _extent(v, 2) // n
        form = Form(n, n, _extent(q, 2) // n, width, tied=k.rank == 4 or op.has(6) or op.has(7))
        form.ins = [
            Place("q", q, 2),
            Place("k", k, 2 if k.rank == 3 else None),
            Place("v", v, 2 if v.rank == 3 else None),
        ]
        if bias is not None:
            hidden = n * form.depth
            form.ins += [Place("q", bias, 0), Place("k", bias, 0, hidden), Place("v", bias, 0, 2 * hidden)]
        form.ins += [Place(role, t) for role, i in (("k", 6), ("v", 7)) if (t := op.tensor(i)) is not None]
        form.outs = [Place("y", op.y, 2)]
        form.outs += [Place(role, t) for role, i in (("k", 1), ("v", 2)) if (t := present(op, i)) is not None]
        scores = present(op, 3)
        form.per_head = mask_heads(op.tensor(5)) + ([] if scores is None or scores.opaque else [scores.axes[1]])
        return form


class PackedAttention(Attention):
    """Attention of com.microsoft: x times weights (input, q k v side by side) plus bias, then attention."""

    def _hidden(self, op: Op) -> tuple[int, int, int]:
        w = op.tensor(1)
        sizes = op.attr("qkv_hidden_sizes")
        whole = 0 if w is None or w.opaque or w.rank != 2 else _extent(w, 1)
        return tuple(sizes) if sizes else (whole // 3,) * 3

    def shapes(self, op: Op) -> None:
        x, y = op.x, op.y
        y.dtype = y.dtype or op.x.dtype
        if x.opaque or x.rank != 3:
            return
        if y.opaque:
            y.reshape([*x.shape[:2], self._hidden(op)[2] or Sym(1, (f"{y.name}.2",))])
        cache, heads = present(op, 1), int(op.attr("num_heads"))
        if cache is not None and cache.opaque:
            cache.reshape([2, x.shape[0], heads, Sym(1, (f"{y.name}.present",)), self._hidden(op)[2] // heads])
            cache.dtype = cache.dtype or x.dtype

    def form(self, op: Op) -> Form | None:
        w, bias = op.tensor(1), op.tensor(2)
        if w is None or w.rank != 2 or op.x.rank != 3:
            return None
        n, (hq, hk, hv) = int(op.attr("num_heads")), self._hidden(op)
        if hq != hk:
            return None
        form = Form(n, n, hq // n, hv // n)
        offsets = {"q": 0, "k": hq, "v": hq + hk}
        form.ins = [Place(role, w, 1, offset) for role, offset in offsets.items()]
        if bias is not None:
            form.ins += [Place(role, bias, 0, offset) for role, offset in offsets.items()]
        form.outs = [Place("y", op.y, 2)]
        form.per_head = mask_heads(op.tensor(5))
        if op.attr("do_rotary", 0):
            form.pinned = "rotated in pairs"
        elif op.has(4) or present(op, 1) is not None:
            form.pinned = "the cache has one depth"
        return form

    def handles(self, op: Op, axis: Axis) -> bool:
        w, cache = op.tensor(1), present(op, 1)
        return (
            axis is op.x.axes[2]
            or (w is not None and axis is w.axes[0])
            or (cache is not None and axis is cache.axes[2])
        )

    def absorb(self, op: Op) -> str | None:
        w, bias = op.tensor(1), op.tensor(2)
        return "bias" if w is not None and w.is_leaf and bias is not None and bias.is_leaf else None

    def extra(self, op: Op, form: Form) -> Iterator[Relation]:
        w = op.tensor(1)
        assert w is not None
        yield from same(op.x.axes[2], w.axes[0])
        if op.x.axes[2].n == w.axes[0].n > 1:
            yield Contract(op.x.axes[2], w, 0, 1, self.absorb(op))
        heads = Axis(None, 0, form.heads)  # caches: (2, batch, heads, past, depth)
        for t in (op.tensor(4), present(op, 1)):
            if t is not None and not t.opaque and t.axes[2].n == form.heads > 1:
                for role in ("q", "k", "v"):
                    place, (_, d) = form.first(role), form.sizes(role)
                    slots = np.arange(form.heads) * d + place.offset  # dimensions stay: slot 0 of a head speaks for it
                    yield Same(heads, place.tensor.axes[1], None, slots)
                yield from same(t.axes[2], heads)

    def rewrite(self, op: Op, slim: Slim) -> None:
        w, form = op.tensor(1), self.checked(op)
        if w is None or form is None:
            return
        removed, shared, weight = slim.absorbed(op.x, 2), slim.shared(op.x, 2), w.known
        if self.absorb(op) == "bias" and shared is not None and weight is not None:
            weight = contract.carry(weight.T, *shared).T
            slim.set_known(op, 1, weight)
        if self.absorb(op) == "bias" and removed is not None and weight is not None:
            bias = slim.full_known(op, 2)
            shift = contract.contribution(weight.T, removed)
            slim.set_known(op, 2, (bias.astype(np.float64) + shift).astype(bias.dtype))
        super().rewrite(op, slim)

    def write(self, op: Op, slim: Slim, form: Form, heads: int, groups: int) -> None:
        super().write(op, slim, form, heads, groups)
        sizes = [h * d for h, d in (self.kept(slim, form, role) for role in ("q", "k", "v"))]
        if sizes != list(self._hidden(op)):
            slim.set_attr(op, "qkv_hidden_sizes", sizes if op.attr("qkv_hidden_sizes") or len(set(sizes)) > 1 else None)


class GroupQueryAttention(Attention):
    """GroupQueryAttention of com.microsoft: the head size is fixed by its kernels and its cache, heads may leave."""

    def shapes(self, op: Op) -> None:
        q, y = op.x, op.y
        y.dtype = y.dtype or q.dtype
        size = self._size(op)
        if q.opaque or q.rank != 3 or not size:
            return
        heads, groups = int(op.attr("num_heads")), int(op.attr("kv_num_heads"))
        if y.opaque:
            y.reshape([*q.shape[:2], heads * size])
        for i in (1, 2):
            out = present(op, i)
            if out is not None and out.opaque:
                out.reshape([q.shape[0], groups, Sym(1, (f"{y.name}.present",)), size])
                past = op.tensor(3)
                out.dtype = out.dtype or (q.dtype if past is None else past.dtype)

    @staticmethod
    def _size(op: Op) -> int:
        """Dimensions of a head."""
        q, heads, groups = op.x, int(op.attr("num_heads")), int(op.attr("kv_num_heads"))
        if q.opaque or q.rank != 3:
            return 0
        return _extent(q, 2) // (heads if op.has(1) else heads + 2 * groups)

    def form(self, op: Op) -> Form | None:
        q, k, v, size = op.x, op.tensor(1), op.tensor(2), self._size(op)
        if q.rank != 3 or op.has(12) or op.has(13) or (k is None) != (v is None):  # quantised caches
            return None
        heads, groups = int(op.attr("num_heads")), int(op.attr("kv_num_heads"))
        form = Form(heads, groups, size, size, pinned="the kernels ask for this head size")
        if k is None or v is None:
            form.ins = [Place("q", q, 2), Place("k", q, 2, heads * size), Place("v", q, 2, (heads + groups) * size)]
        elif k.rank != 3 or v.rank != 3:
            return None
        else:
            form.ins = [Place("q", q, 2), Place("k", k, 2), Place("v", v, 2)]
        form.ins += [
            Place(role, t) for role, i in (("k", 3), ("v", 4)) if (t := op.tensor(i)) is not None and t.rank == 4
        ]
        form.outs = [Place("y", op.y, 2)]
        form.outs += [Place(role, t) for role, i in (("k", 1), ("v", 2)) if (t := present(op, i)) is not None]
        sink, scores = op.tensor(11), present(op, 3)
        form.per_head = mask_heads(op.tensor(10)) + ([sink.axes[0]] if sink is not None and sink.rank == 1 else [])
        form.per_head += [] if scores is None or scores.opaque else [scores.axes[1]]
        return form


class RotaryEmbedding(Rule):
    """Rotates pairs of dimensions of every head: both of a pair leave, with their column of the tables, or neither.

    Args:
        tables: inputs of the cosines and sines.
    """

    note = "rotated"

    def __init__(self, *tables: int) -> None:
        self.tables = tables

    def shapes(self, op: Op) -> None:
        adopt_shape(op.x, op.y)
        op.y.dtype = op.y.dtype or op.x.dtype

    def split(self, op: Op) -> tuple[int, int, int] | None:
        """Heads, dimensions of a head, and how many of those are rotated; None where that is not known."""
        x, table = op.x, op.tensor(self.tables[0])
        if table is None or table.opaque or x.opaque or op.y.opaque or x.rank not in (3, 4):
            return None
        half, rotated = _extent(table, -1), int(op.attr("rotary_embedding_dim", 0))
        if x.rank == 4:
            heads, size = _extent(x, 1), _extent(x, 3)
        else:
            heads = int(op.attr("num_heads", 0)) or _extent(x, 2) // max(2 * half, 1)
            size = _extent(x, 2) // max(heads, 1)
        if heads * size == 0 or not half or (rotated or size) != 2 * half or size < 2 * half:
            return None
        return heads, size, 2 * half

    def partner(self, op: Op, rotated: int) -> Array:
        """Which column of the tables rotates a dimension."""
        return np.arange(rotated) // 2 if op.attr("interleaved", 0) else np.arange(rotated) % (rotated // 2)

    def relations(self, op: Op) -> Iterator[Relation]:
        found, x, y = self.split(op), op.x, op.y
        if found is None:
            yield from pin_all(op, "rotated in a way that is not known")
            return
        heads, size, rotated = found
        h, d = (x.axes[1], x.axes[3]) if x.rank == 4 else (Axis(None, 0, heads), Axis(None, 0, size))
        for i in range(x.rank):
            yield from same(x.axes[i], y.axes[i])
        if x.rank == 3:
            yield from merge(x.axes[2], h, d)
        tables = [t for i in self.tables if (t := op.tensor(i)) is not None]
        for i, t in enumerate(op.ins[1:], 1):
            for axis in t.axes if t is not None else ():
                if axis.n > 1 and not (i in self.tables and axis is t.axes[-1]):  # type: ignore[union-attr]
                    yield Pinned(axis, "positions")
        if rotated < size or d.n == 1:
            yield from (Pinned(a, "rotated in part") for a in (d, *(t.axes[-1] for t in tables)) if a.n > 1)
            return
        for t in tables:
            if t.axes[-1].n == rotated // 2 > 1:
                yield Same(d, t.axes[-1], None, self.partner(op, rotated))
            else:
                yield from (Pinned(a, "rotated in part") for a in (d, t.axes[-1]) if a.n > 1)

    def constants(self, op: Op) -> None:
        found, x, y = self.split(op), op.x, op.y
        if found is None or not x.any_const:
            return
        _, size, rotated = found
        zeros = x.zeros(x.rank - 1)
        if zeros is not None:
            table = zeros.reshape(-1, size)
            column = self.partner(op, rotated)
            for c in range(rotated // 2):
                pair = np.flatnonzero(column == c)
                table[:, pair] = table[:, pair].all(1, keepdims=True)
            y.set_const(x.rank - 1, table.reshape(-1), np.zeros(len(zeros)))
        for i in range(x.rank - 1):
            zeros = x.zeros(i)
            if zeros is not None:
                y.set_const(i, zeros, np.zeros(len(zeros)))

    def rewrite(self, op: Op, slim: Slim) -> None:
        found = self.split(op)
        if found is None or not slim.narrowed(op.x):
            return
        if op.x.rank == 4:
            heads, size = slim.count(op.x, 1), slim.count(op.x, 3)
        else:
            slots = slim.slots(op.x, 2)
            heads = len(np.unique(slots // found[1]))
            size = len(slots) // max(heads, 1)
        if op.attr("num_heads", 0):
            slim.set_attr(op, "num_heads", heads)
        if op.attr("rotary_embedding_dim", 0) and found[2] == found[1]:
            slim.set_attr(op, "rotary_embedding_dim", size)


TABLE: dict[tuple[str, str], Rule] = {
    ("", "Attention"): StandardAttention(),
    ("", "RotaryEmbedding"): RotaryEmbedding(1, 2),
    ("com.microsoft", "RotaryEmbedding"): RotaryEmbedding(2, 3),
    ("com.microsoft", "MultiHeadAttention"): MultiHeadAttention(),
    ("com.microsoft", "Attention"): PackedAttention(),
    ("com.microsoft", "GroupQueryAttention"): GroupQueryAttention(),
}
