"""Which channels of a graph are coupled, who reads them, and what they cost. No torch here: this is about the graph.

A slot leaves when nobody reads it. So a gate needs no place among the activations: closing slot i of a group means that
every weight that contracts it is zero there. The analysis that prunes tells who that is.

    group     slots that can only leave together, one component of the relations "corresponds" per gate slot
    reader    a parameter and the axis of it along which the group is multiplied and summed
    producer  a parameter whose rows make the slots, or the bias that is added to them
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnxdam.analysis.forward import Network
from onnxdam.analysis.need import Need
from onnxdam.analysis.tensor import Array, Axis, Mask, Tensor
from onnxdam.graph import functions
from onnxdam.masks.cost import Cost, Width
from onnxdam.masks.origin import along_parameter, name_of, origins
from onnxdam.rewrite.flatten import candidates, flattened
from onnxdam.rules.base import Balanced, Blocks, Contract, Follows, Op, Pinned, Product, Relation, Same

SPELT_OUT = 1 << 16  # bytes of a result that the exporter's own folding would compute: biases of zeros, above all


@dataclass(frozen=True)
class Part:
    """An axis of a parameter that runs over slots of a group.

    Attributes:
        parameter: its name.
        axis: the axis.
        index: the gate slot of each entry, -1 where it belongs to none, shape (extent,).
    """

    parameter: str
    axis: int
    index: Array


@dataclass
class Group:
    """Slots under one gate.

    Attributes:
        name: of the module that makes the channels.
        n: gate slots.
        readers: what contracts the slots.
        members: all other parameters with an axis in the group (rows of producers, scales and shifts).
        producers: those of the members that a closed slot makes zero instead of the readers; empty: the readers.
        inputs: graph input -> its axis that the slots run over.
    """

    name: str
    n: int
    readers: list[Part] = field(default_factory=list)
    members: list[Part] = field(default_factory=list)
    producers: list[Part] = field(default_factory=list)
    inputs: dict[str, int] = field(default_factory=dict)

    @property
    def masked(self) -> list[Part]:
        """What a closed slot makes zero."""
        return self.producers or self.readers


@dataclass(frozen=True)
class Use:
    """An axis of a tensor that runs over an axis of a parameter.

    Attributes:
        tensor, axis: as a node reads it.
        reads: the node multiplies and sums along it.
        parameter, along: the parameter's name, and its axis.
        entry: the parameter's entry for each slot, -1 where it comes from elsewhere.
        extent: of the parameter's axis.
    """

    tensor: Tensor
    axis: int
    reads: bool
    parameter: str
    along: int
    entry: Array
    extent: int


def uses(need: Need, parameters: Collection[str]) -> Iterator[Use]:
    """Where the nodes that run read parameters, moved or not."""
    initializers = need.network.model.graph.initializers
    for op in need.network.active():
        if op not in need.running:
            continue
        reads = {(r.weight, r.axis) for r in need.relations[op] if isinstance(r, Contract) and r.weight.is_known}
        for tensor in dict.fromkeys(t for t in op.ins if t is not None and t.is_known):
            for origin in origins(tensor):
                if origin.name not in parameters or not origin.keeps_zero:
                    continue
                shape = [int(d) for d in initializers[origin.name].const_value.shape.numpy()]  # type: ignore[union-attr]
                for i, axis in enumerate(tensor.axes):
                    where = along_parameter(tensor, i, shape, origin.places)
                    if where is not None and axis.n > 1:
                        yield Use(tensor, i, (tensor, i) in reads, origin.name, *where, shape[where[0]])


class Slots:
    """All slots of a graph, numbered; components of those that leave together.

    Args:
        need: the relations of the graph.
        found: where parameters are read: an entry that several nodes read leaves for all of them.
        inputs: whether features of the graph's inputs may leave.
        stuck: factors of merged axes that stay.
    """

    def __init__(
        self, need: Need, found: Iterable[Use] = (), *, inputs: bool = False, stuck: Collection[Axis] = ()
    ) -> None:
        self.need = need
        self.chosen: set[Axis] = set()  # factors that merged axes leave with
        self._stuck = stuck
        self._offset: dict[Axis, int] = {}
        self._edges: list[tuple[Array, Array]] = []  # that `label` does not know of yet
        self._pins: list[tuple[Array, str]] = []
        self.size = 0
        self.label = np.arange(0)
        self._share(found)
        self._relate(inputs)
        self._connect_labels()

    def of(self, axis: Axis) -> Array:
        """Numbers of the slots of an axis, shape (n,)."""
        root = axis.root
        if root not in self._offset:
            self._offset[root] = self.size
            self.size += root.n
        return self._offset[root] + np.arange(root.n)

    def roots(self) -> Iterator[tuple[Axis, Array]]:
        """Axes that are variables of their own, and the labels of their slots."""
        return ((root, self.label[start : start + root.n]) for root, start in self._offset.items())

    def pinned(self) -> dict[int, str]:
        """Labels of components that cannot leave, and why."""
        reasons: dict[int, str] = {}
        for slots, why in self._pins:
            for label in np.unique(self.label[slots]).tolist():
                reasons.setdefault(label, why)
        return reasons

    def _relate(self, inputs: bool) -> None:
        network, products = self.need.network, []
        for tensor in network.tensors.values():
            for axis in tensor.axes:
                self.of(axis)
            if tensor.pinned and not (inputs and tensor.pinned == "a graph input"):
                self._pin(tensor.axes, tensor.pinned)
        for op in network.active():
            for r in self.need.relations[op] if op in self.need.running else ():
                if isinstance(r, Product):
                    products.append(r)
                else:
                    self._connect(op, r)
        for r in products:
            self._merge(r)

    def _share(self, found: Iterable[Use]) -> None:
        first: dict[tuple[str, int], Array] = {}
        for use in found:
            slots, mine = self.of(use.tensor.axes[use.axis]), use.entry >= 0
            known = first.setdefault((use.parameter, use.along), np.full(use.extent, -1))
            entries = use.entry[mine]
            again = known[entries] >= 0
            self._join(known[entries][again], slots[mine][again])
            known[entries[~again]] = slots[mine][~again]

    def _pin(self, axes: Sequence[Axis], why: str) -> None:
        self._pins.extend((self.of(axis), why) for axis in axes)

    def _join(self, a: Array, b: Array) -> None:
        self._edges.append((a, b))

    def _connect(self, op: Op, r: Relation) -> None:
        if isinstance(r, Same):
            a, b = self.of(r.a), self.of(r.b)
            self._join(a if r.a_index is None else a[r.a_index], b if r.b_index is None else b[r.b_index])
        elif isinstance(r, Follows):
            self._join(self.of(r.a), self.of(r.b)[r.index])
        elif isinstance(r, Blocks):  # whole blocks leave, on both sides
            x, out = self.of(r.x).reshape(r.blocks, -1), self.of(r.out).reshape(r.blocks, -1)
            self._join(x[:, :1].repeat(x.shape[1], 1), x)
            self._join(x[:, :1].repeat(out.shape[1], 1), out)
        elif isinstance(r, Balanced):
            x = self.of(r.axis).reshape(r.blocks, -1)
            first = x[:, :1] if r.whole else x[:1]
            self._join(np.broadcast_to(first, x.shape), x)
        elif isinstance(r, Pinned):
            slots = self.of(r.axis)
            self._pins.append((slots if r.slots is None else slots[r.slots], f"{op.name}: {r.reason}"))
        elif isinstance(r, Contract) and not any(origin.keeps_zero for origin in origins(r.weight)):
            other = "weights that are computed from parameters" if r.weight.is_known else "other activations"
            self._pin([r.x], f"{op.name}: multiplied by {other}")

    def _merge(self, r: Product) -> None:
        """A merged axis leaves with its outermost factor that can leave; the other factors stay."""
        for axis in (r.merged, *r.factors):
            self.of(axis)
        self._connect_labels()
        fixed = np.zeros(self.size, bool)
        fixed[self.label[np.concatenate([np.ravel(slots) for slots, _ in self._pins])]] = True
        free = [f for f in r.factors if f.n > 1 and f.root not in self._stuck]
        free = [f for f in free if not fixed[self.label[self.of(f)]].all()]
        places = np.unravel_index(np.arange(r.merged.n), [f.n for f in r.factors])
        if free:
            self.chosen.add(free[0].root)
            self._join(self.of(free[0])[places[r.factors.index(free[0])]], self.of(r.merged))
        else:
            self._pin([r.merged], "all its factors stay")
        self._pin([f for f in r.factors if f.n > 1 and f not in free[:1]], "a factor of a merged axis")

    def _connect_labels(self) -> None:
        """Brings `label`, the smallest slot of the component of each slot, up to date; shape (size,)."""
        label = np.concatenate([self.label, np.arange(len(self.label), self.size)])
        if self._edges:
            a, b = (np.concatenate([np.ravel(e[side]) for e in self._edges]) for side in (0, 1))
            while (apart := label[a] != label[b]).any():
                a, b = a[apart], b[apart]
                low = np.minimum(label[a], label[b])
                np.minimum.at(label, label[a], low)
                np.minimum.at(label, label[b], low)
                while not np.array_equal(label, shorter := label[label]):
                    label = shorter
        self.label, self._edges = label, []


def owner_of(parameter: str) -> str:
    """The name of the module that has a parameter; its own name, where that is the network itself."""
    return parameter.rpartition(".")[0] or parameter


def forget_zeros(model: ir.Model, parameters: Iterable[str]) -> None:
    """Zeros in weights that will be trained (new residual branches, biases) say nothing about who reads whom.

    Args:
        model: changed in place.
        parameters: names of such weights.
    """
    draw = np.random.default_rng(0)
    for name in parameters:
        value = model.graph.initializers.get(name)
        if value is None or value.const_value is None or not value.const_value.dtype.is_floating_point():
            continue
        content = np.array(value.const_value.numpy())
        zeros = content == 0
        if zeros.any():
            content[zeros] = draw.uniform(0.01, 0.02, int(zeros.sum()))
            value.const_value = ir.tensor(content, name=name)


class Graph:
    """The groups of a graph, each proved: a closed slot does leave.

    Args:
        model: an export, nothing folded; not changed.
        parameters: names of the initializers that gates may close.
        inputs: whether features of the graph's inputs may leave.

    Attributes:
        groups: those that can be gated.
    """

    def __init__(self, model: ir.Model, parameters: Collection[str], *, inputs: bool = False) -> None:
        self._model, self._inputs = model, inputs
        self.network = self._read(functions.inline(model.clone()))
        self.need = Need(self.network)
        self._uses = list(uses(self.need, set(parameters)))
        self._choose_factors()
        read = {g for g, group in enumerate(self.groups) if group.readers}
        self._drop(set(range(len(self.groups))) - read, "no weight reads it")
        self._prove()

    def _choose_factors(self) -> None:
        """Of a merged axis the outermost factor leaves that weights read; one that they make as well, where there is
        one: units of a recurrent cell rather than its directions."""
        stuck = self._settle(set())
        if unmade := self._chosen_without("members"):
            made = self._made()
            self._settle(set(unmade))
            if self._made() <= made:
                self._settle(stuck)

    def _settle(self, stuck: set[Axis]) -> set[Axis]:
        while True:
            self._build(Slots(self.need, self._uses, inputs=self._inputs, stuck=stuck))
            fruitless = self._chosen_without("readers")
            if not fruitless:
                return stuck
            stuck |= fruitless

    def _chosen_without(self, parts: str) -> set[Axis]:
        """The factors of merged axes whose groups have no such parts."""
        have = {g for g, group in enumerate(self.groups) if getattr(group, parts)}
        return {f for f in self.slots.chosen if not have & set(self._gate[self.slots.of(f)].tolist())}

    def _made(self) -> int:
        return sum(bool(group.readers and group.members) for group in self.groups)

    def _read(self, model: ir.Model) -> Network:
        """Inputs that are flattened before anything reads them count as flat: then every element is a feature."""
        network = Network(model, small=SPELT_OUT)
        flat = candidates(network, frozenset()) if self._inputs else []
        return flattened(model, flat) if flat else network

    def _build(self, slots: Slots) -> None:
        self.slots = slots
        self.groups: list[Group] = []
        self._reasons: dict[str, str] = {}
        self._along: dict[str, int] = {}  # which axis of a parameter the reason speaks of
        self._gate = np.full(slots.size, -1)  # slot -> its group
        self._place = np.full(slots.size, -1)  # slot -> its gate slot
        self._form()
        for use in self._uses:
            self._attach(use)
        for tensor in self.network.inputs if self._inputs else ():
            self._mark(tensor)

    def _mark(self, tensor: Tensor) -> None:
        """Says of a graph input which groups its features are in, or why they are in none."""
        reasons = []
        for i, axis in enumerate(tensor.axes):
            slots = self.slots.of(axis)
            for g in np.unique(self._gate[slots]).tolist():
                if g >= 0:
                    self.groups[g].inputs[tensor.name] = i
                elif axis.n > 1:
                    reasons.append(self._why[int(self.slots.label[slots[0]])])
        if reasons and not any(tensor.name in group.inputs for group in self.groups):
            self._reasons.setdefault(tensor.name, reasons[0])

    @property
    def skipped(self) -> dict[str, str]:
        """Module (or graph input) -> why its channels cannot be gated."""
        gated = {owner_of(part.parameter) for group in self.groups for part in group.members}
        return {name: why for name, why in self._reasons.items() if name not in gated}

    def read(self) -> set[str]:
        """Names of the initializers that nodes that run are given, or what is computed from them."""
        todo = [t for op in self.network.active() if op in self.need.running for t in op.ins]
        seen: dict[Tensor, None] = {}
        while todo:
            t = todo.pop()
            if t is not None and t.is_leaf and t not in seen:
                seen[t] = None
                todo += t.maker.ins if t.maker is not None else []
        return {name_of(t) for t in seen if t.maker is None}

    def say(self, module: str, why: str) -> None:
        """A reason for a module of which the graph says nothing."""
        self._reasons.setdefault(module, why)

    # -- forming groups ----------------------------------------------------------------------------------------------
    def _form(self) -> None:
        """Components that run over the same axes are the slots of one gate."""
        label = self.slots.label
        touched: dict[int, list[int]] = defaultdict(list)
        for number, (_, labels) in enumerate(self.slots.roots()):
            for one in np.unique(labels).tolist():
                touched[one].append(number)
        pinned = self.slots.pinned()
        self._why = dict.fromkeys(touched, "its channels can only leave all together") | pinned
        flow = [axis for tensor in self.network.tensors.values() if not tensor.is_known for axis in tensor.axes]
        self._flows = set(np.unique(np.concatenate([label[self.slots.of(axis)] for axis in flow])).tolist())
        families: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for one, axes in touched.items():
            if one not in pinned:
                families[tuple(axes)].append(one)
        for members in families.values():
            if len(members) > 1:
                where = np.full(self.slots.size, -1)
                where[sorted(members)] = np.arange(len(members))
                mine = where[label] >= 0
                self._gate[mine], self._place[mine] = len(self.groups), where[label][mine]
                self.groups.append(Group("", len(members)))

    def _attach(self, use: Use) -> None:
        """Gives a part of a parameter to the groups whose slots it runs over."""
        slots, mine = self.slots.of(use.tensor.axes[use.axis]), use.entry >= 0
        owner = owner_of(use.parameter)
        for g in np.unique(self._gate[slots[mine]]).tolist():
            if g < 0:
                one = int(self.slots.label[slots[mine][0]])
                if not use.reads and one in self._flows:  # unlike rows that are looked up, or places of a kernel
                    self._along.setdefault(owner, use.along)
                    if use.along >= self._along[owner]:  # of an embedding the channels rather than the positions
                        self._along[owner], self._reasons[owner] = use.along, self._why[one]
                continue
            index = np.full(use.extent, -1)
            index[use.entry[mine]] = np.where(self._gate[slots] == g, self._place[slots], -1)[mine]
            group = self.groups[g]
            group.name = group.name or ("" if use.reads else owner)
            parts = group.readers if use.reads else group.members
            for other in [p for p in parts if p.parameter == use.parameter and p.axis == use.along]:
                index = np.where(index >= 0, index, other.index)  # read in pieces
                parts[:] = [p for p in parts if p is not other]
            parts.append(Part(use.parameter, use.along, index))

    def _drop(self, gone: Collection[int], why: str) -> None:
        for g in gone:
            if self.groups[g].name:
                self._reasons[self.groups[g].name] = why
        stay = [g for g in range(len(self.groups)) if g not in set(gone)]
        renumber = np.full(len(self.groups) + 1, -1)
        renumber[stay] = np.arange(len(stay))
        self._gate = renumber[self._gate]
        self.groups = [self.groups[g] for g in stay]
        for g, group in enumerate(self.groups):
            into = f"into {group.readers[0].parameter.rpartition('.')[0]}"
            group.name = "input" if group.inputs else group.name or into
            if any(group.name == other.name for other in self.groups[:g]):
                group.name = f"{group.name}.{g}"

    def select(self, wanted: Callable[[Group], bool], why: str) -> None:
        """Leaves the other groups ungated; `why` is said of them."""
        self._drop([g for g, group in enumerate(self.groups) if not wanted(group)], why)

    def use_producers(self) -> None:
        """Closed slots are those that nobody makes, instead of those that nobody reads: constants, as far as the graph
        behind them says so. Groups of which no slot would leave then (nobody makes inputs) stay at their readers.
        """
        for group in self.groups:
            group.producers = self._producers(group)
        keep = [np.arange(group.n) >= max(group.n // 2, 2) for group in self.groups]
        while stuck := [g for g in self._stuck(keep) if self.groups[g].producers]:
            for g in stuck:
                self.groups[g].producers = []

    def _producers(self, group: Group) -> list[Part]:
        """Weights, of two axes or more, and what else their modules have: biases. Scales and shifts behind them, those
        of a BatchNorm say, are modules of their own, and stay: the constant is what they make of zero.
        """
        ranks = {p.parameter: len(self._model.graph.initializers[p.parameter].shape or ()) for p in group.members}
        makers = {name.rpartition(".")[0] for name, rank in ranks.items() if rank > 1}
        return [p for p in group.members if p.parameter.rpartition(".")[0] in makers]

    # -- proof -------------------------------------------------------------------------------------------------------
    def closed(self, keep: Sequence[Mask], *, masked: bool = False) -> ir.Model:
        """The graph with zeros for the weights that read closed slots.

        Args:
            keep: which slots stay, for each group.
            masked: zeros are where the gates stand, which may be at the producers.
        """
        closed = self._model.clone()
        values = closed.graph.initializers
        for group, mask in zip(self.groups, keep, strict=True):
            gone = np.append(~mask, False)  # the last one is for entries of no slot
            for part in group.masked if masked else group.readers:
                value = values[part.parameter]
                assert value.const_value is not None
                content = np.array(value.const_value.numpy())
                np.moveaxis(content, part.axis, 0)[gone[part.index]] = 0
                value.const_value = ir.tensor(content, name=part.parameter)
        return functions.inline(closed)

    def _prove(self) -> None:
        """Drops the groups of which a closed slot would not leave."""
        self._drop(self._stuck([np.arange(g.n) > 0 for g in self.groups]), "an operator without weights reads it")

    def _stuck(self, keep: Sequence[Mask]) -> set[int]:
        """The groups of which no slot leaves, though some are closed.

        Args:
            keep: which slots stay, for each group.
        """
        if not self.groups:
            return set()
        need = Need(self._read(self.closed(keep, masked=True)), inputs=self._inputs)
        by_name = {t.name: t for t in need.network.tensors.values()}
        stuck = set()
        for tensor in self.network.tensors.values():
            twin = by_name.get(tensor.name)
            if twin is None or twin.rank != tensor.rank or twin not in need.alive or tensor.pinned:
                continue
            for mine, theirs in zip(tensor.axes, twin.axes, strict=True):
                if mine.n > 1 and theirs.n == mine.n:
                    slots = self.slots.of(mine)
                    stuck |= self._all_stay(self._gate[slots], self._place[slots], need.kept(theirs), keep)
        return stuck

    @staticmethod
    def _all_stay(groups: Array, places: Array, stays: Mask, keep: Sequence[Mask]) -> set[int]:
        """The groups on an axis of which all closed slots stay (one may: it carries what the others add up to)."""
        found = set()
        for g in np.unique(groups[groups >= 0]).tolist():
            closed = np.setdiff1d(places[groups == g], np.flatnonzero(keep[g]))
            if len(closed) and np.isin(closed, places[(groups == g) & stays]).all():
                found.add(g)
        return found

    # -- cost --------------------------------------------------------------------------------------------------------
    def cost(self) -> Cost:
        """What the graph costs, as a function of how many slots of each gate are open."""
        return Cost(self)

    def width(self, axis: Axis) -> Width:
        """How the width of an axis follows from the open slots of the gates."""
        if axis.n <= 1:
            return Width(1, {})
        gates = self._gate[self.slots.of(axis)]
        found = {g: float((gates == g).sum()) / self.groups[g].n for g in np.unique(gates[gates >= 0]).tolist()}
        return Width(int((gates < 0).sum()), found)
