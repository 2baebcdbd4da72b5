"""The second fixpoint: which slots stay, backwards from the outputs.

Kept bits only ever grow. They grow by demand (a kept slot reads another one times something that is not zero) and by
consistency (corresponding slots agree). When nothing is demanded any more, the loose ends are closed: a tensor that
runs keeps a slot on every axis, constants under padding keep a carrier, blocks balance, widths align. Each of these is
one more reason to keep, so the result is sound whatever the order.

Every growth is logged with its reason: `explain` reads the log backwards.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from onnxdam.analysis.asks import absorbable, carries, constant_columns, is_identity, significant, silent, watched
from onnxdam.analysis.forward import Network
from onnxdam.analysis.tensor import Array, Axis, Const, Mask, Tensor, any_along, nonzero_slots
from onnxdam.rules.base import Balanced, Blocked, Blocks, Contract, Follows, Op, Packed, Pinned, Product, Relation, Same


class Event(NamedTuple):
    """Slots of an axis that became kept, and why.

    Attributes:
        axis: the axis (of its tensor) that the reason speaks of.
        slots: the slots.
        op: the node that asked, None for pinned tensors.
        reason: in words.
        source: the axis whose kept slots caused it, None where it is a beginning.
        back: maps a slot of `axis` to the slots of `source` that may have caused it; None: any kept one.
    """

    axis: Axis
    slots: Mask
    op: Op | None
    reason: str
    source: Axis | None = None
    back: Callable[[int], Array] | None = None


@dataclass(eq=False, slots=True)
class Constraint:
    """A relation at work: fires again whenever an axis it watches grows."""

    op: Op
    relation: Relation
    queued: bool = False


class Need:
    """Runs the fixpoint. Afterwards `kept(axis)` and `alive` hold the decision.

    Args:
        network: the facts.
        align: widths of blocked axes are rounded up to a multiple of this.
        protect: tensors all of whose slots stay.
        preset: slots that stay from the beginning (a plan made earlier): value name -> axis -> indices.
        inputs: features of graph inputs may leave; else all of them stay.
        outputs: constant slots of graph outputs may leave; else all slots stay.
    """

    def __init__(
        self,
        network: Network,
        *,
        align: int = 1,
        protect: frozenset[str] = frozenset(),
        preset: Mapping[str, Mapping[int, tuple[int, ...]]] | None = None,
        inputs: bool = False,
        outputs: bool = False,
    ) -> None:
        self.network = network
        self.align = align
        self.inputs, self.outputs = inputs, outputs
        self.events: list[tuple[Axis, Event]] = []  # root, event
        self.aligned: list[tuple[Axis, Mask]] = []
        self.alive: dict[Tensor, None] = {}  # dicts: the order decides ties, and must not change from run to run
        self.running: dict[Op, None] = {}
        self.relations: dict[Op, list[Relation]] = {}
        self._kept: dict[Axis, Mask] = {}
        self._watch: dict[Axis, list[Constraint]] = {}
        self._constraints: dict[Op, list[Constraint]] = {}
        self._waiting: dict[Op, list[tuple[int, Tensor]]] = {}
        self._waits_on: dict[Axis, dict[Op, None]] = {}
        self._pieces: dict[Tensor, list[Constraint]] = {}  # indexed Sames by the tensors they speak of
        self._starting: deque[Op] = deque()
        self._queue: deque[Constraint] = deque()
        self._operands: deque[Op] = deque()
        self._blocked: list[Axis] = []
        self._relate()
        if preset is not None:
            self._preset(preset)
        self._start(protect)
        self._run()

    # -- reading the result ----------------------------------------------------------------------------------------
    def kept(self, axis: Axis) -> Mask:
        """Which slots of the axis stay."""
        root = axis.root
        mask = self._kept.get(root)
        if mask is None:
            mask = self._kept[root] = np.zeros(root.n, bool)
        return mask

    def reads(self, r: Contract | Blocks, slots: Mask) -> Mask:
        """Which of some slots of x what stays of the weight reads with something other than zero."""
        if not slots.any() or (isinstance(r, Contract) and not r.weight.is_known):
            return slots
        return (self._block_reads(r) if isinstance(r, Blocks) else self._contract_reads(r))(slots)

    # -- setting up ------------------------------------------------------------------------------------------------
    def _relate(self) -> None:
        claimed = {other for op in self.network.active() for other in op.rule.claims(op)}
        for op in self.network.active():
            found = [] if op in claimed else list(op.rule.relations(op))
            self.relations[op] = found
            self._constraints[op] = constraints = []
            for r in found:
                if is_identity(r):
                    r.a.unify(r.b)
                else:
                    constraints.append(Constraint(op, r))
        for constraints in self._constraints.values():
            for constraint in constraints:
                for axis in watched(constraint.relation):
                    self._watch.setdefault(axis.root, []).append(constraint)
                if isinstance(constraint.relation, Same):
                    for tensor in (constraint.relation.a.tensor, constraint.relation.b.tensor):
                        if tensor is not None:
                            self._pieces.setdefault(tensor, []).append(constraint)
                if isinstance(constraint.relation, Blocked):
                    self._blocked.append(constraint.relation.axis)

    def _preset(self, kept: Mapping[str, Mapping[int, tuple[int, ...]]]) -> None:
        """Starts from the kept slots of a plan; axes that it does not list keep everything."""
        for tensor in self.network.tensors.values():
            if not tensor.name:  # an output that is left away: no plan can speak of it
                continue
            axes = kept.get(tensor.name, {})
            for i, axis in enumerate(tensor.axes):
                if axis.n > 1:
                    mask = np.ones(axis.n, bool) if i not in axes else np.zeros(axis.n, bool)
                    mask[list(axes.get(i, ()))] = True
                    self.keep(axis, mask, Event(axis, mask, None, "the plan keeps it"))

    def _start(self, protect: frozenset[str]) -> None:
        for tensor in self.network.tensors.values():
            if tensor.name in protect:
                self._keep_all(tensor, "protected")
        for tensor in () if self.inputs else self.network.inputs:
            self._keep_all(tensor, "a graph input")
        for tensor in self.network.outputs:
            self._keep_all(tensor, "a graph output", constant_columns(tensor) if self.outputs else {})
            self.revive(tensor)

    def _keep_all(self, tensor: Tensor, reason: str, besides: Mapping[int, Const] | None = None) -> None:
        for axis in tensor.axes:
            if axis.n > 1:
                const = (besides or {}).get(axis.index)
                mask = np.ones(axis.n, bool) if const is None else ~const.mask
                self.keep(axis, mask, Event(axis, mask, None, reason))

    # -- growing ---------------------------------------------------------------------------------------------------
    def keep(self, axis: Axis, slots: Mask, why: Event) -> None:
        """These slots of the axis stay."""
        root, mask = axis.root, self.kept(axis)
        new = slots > mask
        if not new.any():
            return
        mask |= new
        self.events.append((root, Event(axis, new, why.op, why.reason, why.source, why.back)))
        self._wake(self._watch.get(root, ()))
        self._operands.extend(self._waits_on.pop(root, ()))

    def _wake(self, constraints: Iterable[Constraint]) -> None:
        for constraint in constraints:
            if not constraint.queued and constraint.op in self.running:
                constraint.queued = True
                self._queue.append(constraint)

    def revive(self, tensor: Tensor) -> None:
        """The tensor is computed in the slim graph."""
        if tensor in self.alive or tensor.is_leaf:
            return
        self.alive[tensor] = None
        for axis in tensor.axes:  # a single slot stays with its tensor, and so does what it was taken from
            if axis.n == 1 and axis.root in self._watch:
                self._keep_one(axis, 0, "the tensor runs", tensor.maker)
        self._wake(self._pieces.get(tensor, ()))
        if tensor.maker is not None and tensor.maker not in self.running:
            self.running[tensor.maker] = None
            self._starting.append(tensor.maker)

    def _start_op(self, op: Op) -> None:
        for body in op.bodies.values():
            for tensor in (*body.ins, *body.outs, *op.outs):
                self.revive(tensor)
        mode = op.rule.operands
        waiting = [(i, t) for i, t in enumerate(op.ins) if t is not None and not t.is_leaf]
        if mode == "all":
            for index, tensor in waiting:
                if index not in op.rule.zeros:
                    self.revive(tensor)
            waiting = [(i, t) for i, t in waiting if i in op.rule.zeros]
        if waiting:
            self._waiting[op] = waiting
            self._operands.append(op)
        self._wake(self._constraints.get(op, ()))

    def _check_operands(self, op: Op) -> None:
        """Operands that a rule may leave out run only once they are seen to matter."""
        left = []
        for index, tensor in self._waiting.get(op, ()):
            if tensor in self.alive:
                continue
            if self._matters(op, index, tensor):
                self.revive(tensor)
            else:
                left.append((index, tensor))
        self._waiting[op] = left
        for _, tensor in left:
            for axis in (*tensor.axes, *op.y.axes):
                if axis.n:
                    self._waits_on.setdefault(axis.root, {})[op] = None

    def _matters(self, op: Op, index: int, tensor: Tensor) -> bool:
        if tensor.opaque or tensor in op.outs or op.y.opaque:
            return True
        if op.rule.operands == "pieces":
            joint = op.rule.axis(op)
            if not isinstance(tensor.shape[joint], int):
                return True
            if op.y.axes[joint].n > 1:  # what the result keeps of it; more of it may stay with others of its kind
                start = sum(t.axes[joint].n for i, t in op.rule.pieces(op) if i < index)
                return bool(self.kept(op.y.axes[joint])[start : start + tensor.axes[joint].n].any())
            return all(self.kept(a).any() for a in tensor.axes if a.n > 1)
        if op.rule.operands == "all":
            return not self.is_zero(tensor)
        return tensor.dtype is None or self.constant_axis(tensor) is None

    def is_zero(self, tensor: Tensor) -> bool:
        """Whether what stays of the tensor is zero."""
        for i, axis in enumerate(tensor.axes):
            zeros = tensor.zeros(i)
            if zeros is not None and (zeros[self.kept(axis)] if axis.n > 1 else zeros).all():
                return True
        return False

    def _extents(self) -> None:
        """An operand that is constant runs all the same where the result would not have its extents without it."""
        for op, waiting in list(self._waiting.items()):
            if op.rule.operands == "varying" and op in self.running:
                for _, tensor in waiting:
                    if tensor not in self.alive and not self._replaceable(op, tensor):
                        self.revive(tensor)

    def _replaceable(self, op: Op, tensor: Tensor) -> bool:
        """Whether the operands that run, and the constants themselves, give the result its extents."""
        along = self.constant_axis(tensor)
        others = [t for t in op.ins if t is not None and t in self.alive]
        for i, size in enumerate(tensor.shape):
            if size == 1 or (tensor.axes[i].n > 1 and i == along):
                continue
            if not any((j := i - tensor.rank + t.rank) >= 0 and t.shape[j] == size for t in others):
                return False
        return bool(others)

    def constant_axis(self, tensor: Tensor) -> int | None:
        """An axis along which every kept slot is a constant, None where there is none."""
        for i, axis in enumerate(tensor.axes):
            const = tensor.const(i) if tensor.any_const else None
            if const is None or not (const.mask[self.kept(axis)].all() if axis.n > 1 else const.mask.all()):
                continue
            if axis.n > 1 and not isinstance(tensor.shape[i], int):  # (N * 48): 48 slots, but not 48 entries
                values = const.value[self.kept(axis)]
                if values.size and (values != values[0]).any():
                    continue
            return i
        return None

    # -- the fixpoint ----------------------------------------------------------------------------------------------
    def _run(self) -> None:
        steps = (self._extents, self._at_least_one, self._carriers, self._balance, self._align)
        progress = True
        while progress:
            self._drain()
            before = len(self.events), len(self.alive)
            for step in steps:
                step()
                progress = (len(self.events), len(self.alive)) != before
                if progress:
                    break

    def _drain(self) -> None:
        while self._starting or self._queue or self._operands:
            if self._starting:
                self._start_op(self._starting.popleft())
            elif self._queue:
                constraint = self._queue.popleft()
                constraint.queued = False
                _FIRE[type(constraint.relation)](self, constraint)
            else:
                self._check_operands(self._operands.popleft())

    def _at_least_one(self) -> None:
        readers = [op for op in self.running if op.rule.operands != "pieces"]
        weights = [t for op in readers for t in op.ins if t is not None and t.is_leaf]
        seen: set[Axis] = set()
        for tensor in [*self.alive, *weights]:
            for axis in tensor.axes:
                if axis.n <= 1 or axis.root in seen:
                    continue
                seen.add(axis.root)
                if not self.kept(axis).any():
                    first = int((self._cost(axis) + 3 * self._strays(axis)).argmin())
                    self._keep_one(axis, first, "a tensor that runs keeps one slot on every axis", tensor.maker)
                    self._drain()  # it may serve others too

    def _strays(self, axis: Axis) -> Array:
        """How many factors of a merged axis would have to keep more for a slot: another head, say."""
        strays = np.zeros(axis.n, int)
        for constraint in self._watch.get(axis.root, ()):
            r = constraint.relation
            if not isinstance(r, Product) or r.merged.root is not axis.root:
                continue
            for k, slots in enumerate(np.unravel_index(np.arange(axis.n), [f.n for f in r.factors])):
                kept = self.kept(r.factors[k])
                if kept.any():
                    strays += ~kept[slots]
        return strays

    def _keep_one(self, axis: Axis, slot: int, reason: str, op: Op | None) -> None:
        mask = np.zeros(axis.n, bool)
        mask[slot] = True
        self.keep(axis, mask, Event(axis, mask, op, reason))

    def _carriers(self) -> None:
        for op in list(self.running):
            for r in self.relations.get(op, ()):
                if isinstance(r, Contract) and r.absorb and r.weight.is_known:
                    assert r.x.tensor is not None
                    if r.absorb == "carrier" and r.x.tensor.any_const:
                        self._carrier(op, r.x, r.x.tensor.const(r.x.index), self._contract_reads(r), 0, r.x.n)
                    if carries(r):
                        self._carrier(op, r.x, r.x.tensor.pattern(r.x.index), self._contract_reads(r), 0, r.x.n)
                elif (
                    isinstance(r, Blocks) and r.absorb == "carrier" and r.x.tensor is not None and r.x.tensor.any_const
                ):
                    per = r.x.n // r.blocks
                    reads = self._block_reads(r)
                    for b in range(r.blocks):
                        self._carrier(op, r.x, r.x.tensor.const(r.x.index), reads, b * per, (b + 1) * per)

    def _carrier(
        self, op: Op, x: Axis, const: Const | None, reads: Callable[[Mask], Mask], low: int, high: int
    ) -> None:
        """One constant that is not zero stays to stand for those that leave."""
        if const is None:
            return
        inside = np.zeros(x.n, bool)
        inside[low:high] = True
        hot = const.mask & (const.value != 0) & inside
        kept = self.kept(x)
        if not (hot & ~kept).any() or not reads(hot & ~kept).any():
            return
        strength = np.where(hot, np.abs(const.value), 0)
        if strength[kept].max(initial=0) < strength.max() * 1e-2:
            self._keep_one(x, int(strength.argmax()), "carries the constants that leave, under zero padding", op)

    def _balance(self) -> None:
        for op in list(self.running):
            for r in self.relations.get(op, ()):
                if isinstance(r, Blocks):
                    stay = self._fill_blocks(op, r.x, r.blocks, None)
                    stay |= self._fill_blocks(op, r.out, r.blocks, None)
                    for axis in (r.x, r.out):
                        self._fill_blocks(op, axis, r.blocks, stay)
                elif isinstance(r, Balanced):
                    stay = self._fill_blocks(op, r.axis, r.blocks, None)
                    self._fill_blocks(op, r.axis, r.blocks, stay, r.whole)
                elif isinstance(r, Packed):
                    self._pack(op, r)

    def _pack(self, op: Op, r: Packed) -> None:
        """As many places stay as the fullest block has slots, and every block that stays fills them."""
        units, places = self.kept(r.units).reshape(r.blocks.n, -1), self.kept(r.places)
        goal = max(int(units.sum(1).max()), int(places.sum()))
        extra = np.zeros(r.places.n, bool)
        extra[np.flatnonzero(~places)[: goal - int(places.sum())]] = True
        self.keep(r.places, extra, Event(r.places, extra, op, "blocks have equally many slots"))
        self._fill_blocks(op, r.units, r.blocks.n, self.kept(r.blocks), goal=goal)

    def _fill_blocks(
        self, op: Op, axis: Axis, blocks: int, stay: Mask | None, whole: bool = False, goal: int = 1
    ) -> Mask:
        """Blocks that stay get as many slots as the fullest one. `stay` None: only tells which blocks stay."""
        kept = self.kept(axis).reshape(blocks, -1)
        if stay is None:
            return any_along(kept, 1)
        counts = kept.sum(1)
        goal = kept.shape[1] if whole and stay.any() else max(int(counts.max(initial=0)), goal)
        extra = np.zeros_like(kept)
        cost = self._cost(axis).reshape(blocks, -1)
        for b in np.flatnonzero(stay & (counts < goal)):
            free = np.flatnonzero(~kept[b])
            order = free[np.argsort(cost[b, free], kind="stable")]
            extra[b, order[: goal - counts[b]]] = True
        if extra.any():
            flat = extra.reshape(-1)
            self.keep(axis, flat, Event(axis, flat, op, "blocks have equally many slots"))
        return stay

    def _cost(self, axis: Axis) -> Array:
        """How much it costs to keep a slot that nobody asks for: constants ask for nothing themselves."""
        cost = np.full(axis.n, 2)
        tensor = axis.tensor
        const = tensor.const(axis.index) if tensor is not None and tensor.any_const else None
        if const is not None:
            cost[const.mask] = np.where(const.value[const.mask] == 0, 0, 1)
        return cost

    def _align(self) -> None:
        if self.align <= 1:
            return
        fed = {axis.root for tensor in self.network.inputs if self.inputs for axis in tensor.axes}
        for axis in self._blocked:
            if axis.root in fed:
                continue  # data that nobody reads is not fed for speed
            kept = self.kept(axis)
            count, n = int(kept.sum()), axis.n
            goal = min(-(-count // self.align) * self.align, n)
            if axis.tensor not in self.alive or not count or goal <= count:
                continue
            free = np.flatnonzero(~kept)
            extra = np.zeros(n, bool)
            extra[free[np.argsort(self._cost(axis)[free], kind="stable")][: goal - count]] = True
            self.aligned.append((axis, extra))
            self.keep(axis, extra, Event(axis, extra, None, f"a width of {goal} runs faster than {count}"))

    # -- relations at work -----------------------------------------------------------------------------------------
    def _fire_same(self, c: Constraint) -> None:
        r = c.relation
        assert isinstance(r, Same)
        ways = ((r.a, r.b, r.a_index, r.b_index), (r.b, r.a, r.b_index, r.a_index))
        for source, target, s_index, t_index in ways:
            if source.tensor is not None and source.tensor not in self.alive and not source.tensor.is_leaf:
                continue  # nobody reads it: what its other relations keep of it is no reason
            if r.lazy and target.tensor is not None and target.tensor not in self.alive and not target.tensor.is_leaf:
                continue
            mask = self.kept(source) if s_index is None else self.kept(source)[s_index]
            if t_index is not None:
                chosen, mask = t_index[mask], np.zeros(target.n, bool)
                mask[chosen] = True

            def back(slot: int, s: Array | None = s_index, t: Array | None = t_index) -> Array:
                places = np.array([slot]) if t is None else np.flatnonzero(t == slot)
                return places if s is None else s[places]

            self.keep(target, mask, Event(target, mask, c.op, "corresponds", source, back))

    def _fire_follows(self, c: Constraint) -> None:
        r = c.relation
        assert isinstance(r, Follows)
        mask = np.zeros(r.b.n, bool)
        mask[r.index[self.kept(r.a)]] = True
        self.keep(r.b, mask, Event(r.b, mask, c.op, "selected", r.a, lambda slot: np.flatnonzero(r.index == slot)))

    def _fire_product(self, c: Constraint) -> None:
        r = c.relation
        assert isinstance(r, Product)
        sizes = [f.n for f in r.factors]
        merged = self.kept(r.merged).reshape(sizes)
        for i, factor in enumerate(r.factors):
            mask = any_along(merged, *(j for j in range(len(sizes)) if j != i))

            def back(slot: int, i: int = i) -> Array:
                return np.flatnonzero(np.unravel_index(np.arange(r.merged.n), sizes)[i] == slot)

            self.keep(factor, mask, Event(factor, mask, c.op, "a slot of the merged axis needs it", r.merged, back))
        whole = self.kept(r.factors[0])
        for factor in r.factors[1:]:
            whole = np.logical_and.outer(whole, self.kept(factor))
        mask = whole.reshape(-1)

        def first(slot: int) -> Array:
            return np.array([np.unravel_index(slot, sizes)[0]])

        self.keep(r.merged, mask, Event(r.merged, mask, c.op, "the merged axis is a product", r.factors[0], first))

    def _fire_pinned(self, c: Constraint) -> None:
        r = c.relation
        assert isinstance(r, Pinned)
        mask = np.ones(r.axis.n, bool) if r.slots is None else r.slots
        self.keep(r.axis, mask, Event(r.axis, mask, c.op, r.reason))

    def _fire_contract(self, c: Constraint) -> None:
        r = c.relation
        assert isinstance(r, Contract)
        wanted = ~self.kept(r.x) & ~absorbable(r.x, r.absorb, r.zero)
        shared = r.x.tensor.pattern(r.x.index) if r.x.tensor is not None and carries(r) else None
        if shared is not None:
            wanted &= ~shared.mask
        if not wanted.any():
            return
        if not r.weight.is_known:
            zeros = silent(r)
            mask = wanted if zeros is None else wanted & ~zeros
        else:
            mask = self._contract_reads(r)(wanted)
        rows = r.weight.axes[r.rows]
        back = None
        if r.weight.is_known and r.rows != r.axis:

            def back(slot: int, r: Contract = r) -> Array:
                plane = np.moveaxis(significant(r), (r.rows, r.axis), (0, 1))[:, slot]
                return np.flatnonzero(plane.reshape(len(plane), -1).any(1))

        self.keep(r.x, mask, Event(r.x, mask, c.op, "is read with a weight other than zero", rows, back))

    def _contract_reads(self, r: Contract) -> Callable[[Mask], Mask]:
        """Tells which of some slots of x the kept part of the weight reads with something other than zero."""

        def reads(slots: Mask) -> Mask:
            count = [self.kept(a) if a.n > 1 else None for a in r.weight.axes]
            for axis, mask in r.summed:
                count[axis] = mask
            return nonzero_slots(significant(r), r.axis, slots, count)

        return reads

    def _fire_blocks(self, c: Constraint) -> None:
        r = c.relation
        assert isinstance(r, Blocks)
        wanted = ~self.kept(r.x) & ~absorbable(r.x, r.absorb, r.zero)
        if wanted.any():
            mask = self._block_reads(r)(wanted)
            per_x, per_y = r.x.n // r.blocks, r.out.n // r.blocks
            self.keep(
                r.x,
                mask,
                Event(
                    r.x,
                    mask,
                    c.op,
                    "is read with a weight other than zero",
                    r.out,
                    lambda slot: np.arange(per_y) + slot // per_x * per_y,
                ),
            )

    def _block_reads(self, r: Blocks) -> Callable[[Mask], Mask]:
        def reads(slots: Mask) -> Mask:
            rows = np.flatnonzero(self.kept(r.out))
            per_x, per_y = r.x.n // r.blocks, r.out.n // r.blocks
            mask = np.zeros((r.blocks, per_x), bool)
            if r.weight is None:
                mask[np.unique(rows // per_y)] = True
            elif len(rows):
                used = significant(r)[rows].reshape(len(rows), per_x, -1).astype(bool).any(2)
                np.logical_or.at(mask, rows // per_y, used)
            return mask.reshape(-1) & slots

        return reads

    def _fire_packed(self, c: Constraint) -> None:
        r = c.relation
        assert isinstance(r, Packed)
        mask = any_along(self.kept(r.units).reshape(r.blocks.n, -1), 1)
        per = r.units.n // r.blocks.n
        self.keep(
            r.blocks,
            mask,
            Event(
                r.blocks,
                mask,
                c.op,
                "one of its slots stays",
                r.units,
                lambda slot: np.arange(slot * per, (slot + 1) * per),
            ),
        )

    def _fire_nothing(self, c: Constraint) -> None:
        """Balanced and Blocked act only when the rest is done."""


_FIRE: dict[type, Callable[[Need, Constraint], None]] = {
    Same: Need._fire_same,
    Follows: Need._fire_follows,
    Product: Need._fire_product,
    Pinned: Need._fire_pinned,
    Contract: Need._fire_contract,
    Blocks: Need._fire_blocks,
    Balanced: Need._fire_nothing,
    Packed: Need._fire_packed,
    Blocked: Need._fire_nothing,
}
