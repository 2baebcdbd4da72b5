"""Inputs of several axes that the graph merges: declared as merged, so that their elements can leave one by one.

An image that a network flattens is read pixel by pixel, but a tensor can only lose whole rows, columns and channels.
Here the flattening moves to the front: x[N, C, H, W] becomes v[N, P], if everything between the input and the merged
values (the exits) moves elements or works on each by itself. Movements are told by pushing positions through them, so
nothing is left of them but an order; parameters of elementwise operators are spread over the elements.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnxdam.analysis.forward import Flat, Network
from onnxdam.analysis.need import Need
from onnxdam.analysis.tensor import Array, Size, Sym, Tensor
from onnxdam.rewrite.dead import idle_nodes, names, remove_dead
from onnxdam.rules.base import Op

LARGEST = 1 << 24  # elements of an input that is looked at


@dataclass(frozen=True)
class _Hop:
    """A node between the input and an exit.

    Attributes:
        op: the node.
        place: the input that is the data.
        index: positions of the graph input that its output shows.
        moves: it does nothing else than moving elements.
    """

    op: Op
    place: int
    index: Array
    moves: bool


@dataclass(frozen=True)
class _Step:
    """A node on the way to an exit that does something to every element.

    Attributes:
        op: the node.
        place: the input that is the data.
        operands: other inputs, as they are spread over the merged axis.
        scale: with `shift`, what it does where it is an affine map.
    """

    op: Op
    place: int
    operands: dict[int, Array]
    scale: Array | None = None
    shift: Array | None = None


@dataclass(frozen=True)
class _Exit:
    """A value with the merged axis.

    Attributes:
        tensor: the value.
        order: positions of the input that its slots show.
        steps: what happens on the way.
        sizes: for a Reshape, where the other axes are not those of the input; None: they are.
    """

    tensor: Tensor
    order: Array
    steps: tuple[_Step, ...]
    sizes: tuple[int, ...] | None


@dataclass
class _Front:
    """The search for the exits of an input, with axes [first, last) merged."""

    x: Tensor
    first: int
    last: int
    loose: bool  # exits may have the other axes in another form
    protect: Collection[str]
    exits: list[_Exit] = field(default_factory=list)
    shapes: list[Op] = field(default_factory=list)
    blocker: Op | None = None  # who reads it in another way
    complete: bool = False

    def __post_init__(self) -> None:
        numbers: dict[Size, int] = {}
        for size in self.x.shape:
            if isinstance(size, Sym):
                numbers.setdefault(size, 2 + len(numbers))
        self.sizes = [size if isinstance(size, int) else numbers[size] for size in self.x.shape]
        self.outer, self.run, self.inner = (
            self.sizes[: self.first],
            self.sizes[self.first : self.last],
            self.sizes[self.last :],
        )

    def search(self) -> None:
        """Finds the exits, and whether everything that reads the input goes through one."""
        index = np.arange(math.prod(self.sizes)).reshape(self.sizes)
        self.complete = self._follow(self.x, index, ()) and bool(self.exits)

    def _follow(self, t: Tensor, index: Array, path: tuple[_Hop, ...]) -> bool:
        if t.name in self.protect or t.value is None or t.value.is_graph_output():
            return False
        good = [self._read(op, place, index, path) for op, place in t.readers]  # all of them: who flattens it matters
        return all(good)

    def _read(self, op: Op, place: int, index: Array, path: tuple[_Hop, ...]) -> bool:
        if op.rule.shape_only and op.scope == "" and self._tells(op):
            self.shapes.append(op)
            return True
        hop = None if op.scope or place < 0 else self._through(op, place, index)
        if hop is None or any(t.readers or t.pinned for t in op.outs[1:]):
            self.blocker = self.blocker or op
            return False
        path = (*path, hop)
        order = self._order(hop.index)
        if order is None:
            return self._follow(op.y, hop.index, path)
        steps, sizes = self._steps(path), self._sizes(op.y, len(order))
        if steps is None or (sizes is not None and sizes.count(-1) > 1) or op.y.pinned or op.y.name in self.protect:
            return False
        self.exits.append(_Exit(op.y, order, steps, sizes))
        return True

    def _sizes(self, y: Tensor, slots: int) -> tuple[int, ...] | None:
        """The extents of an exit as a Reshape of the merged input writes them; None: it has them already."""
        merged = (*self.x.shape[: self.first], slots, *self.x.shape[self.last :])
        if y.shape == merged:
            return None
        alike = [merged[place : place + 1] == (size,) for place, size in enumerate(y.shape)]
        return tuple(n if isinstance(n, int) else 0 if copy else -1 for n, copy in zip(y.shape, alike, strict=True))

    def _tells(self, op: Op) -> bool:
        """Whether what a node says about sizes is known from the axes that stay, and can be put together again."""
        if op.y.entries is None or op.version < 9:  # there is no Where
            return False
        rest = {*self.x.shape[: self.first], *self.x.shape[self.last :]}
        return all(e in rest if isinstance(e, Sym) else e is not None for e in op.y.entries.flat)

    def _through(self, op: Op, place: int, index: Array) -> _Hop | None:
        """The way through a node, None where it does anything but move or map elements."""
        if place == 0 and (moved := op.rule.moves(op, index)) is not None:
            return _Hop(op, place, moved, True)
        if any(t is not None and not t.is_known for i, t in enumerate(op.ins) if i != place):
            return None
        beside = op.rule.beside(op, place)
        if beside is None:
            return _Hop(op, place, index, False) if place == 0 and op.rule.affine(op) is not None else None
        contents = [op.known(i) for i in beside]
        try:
            same = np.broadcast_shapes(index.shape, *(c.shape for c in contents if c is not None)) == index.shape
        except ValueError:  # an extent that is not known
            return None
        return _Hop(op, place, index, False) if same else None

    def _order(self, index: Array) -> Array | None:
        """The order of the slots of the merged axis, if the tensor has one that runs over the whole run."""
        outer, inner, total = math.prod(self.outer), math.prod(self.inner), math.prod(self.run)
        for axis, m in enumerate(index.shape):
            before, after = index.shape[:axis], index.shape[axis + 1 :]
            exact = [*before] == self.outer and [*after] == self.inner
            if not (exact or (self.loose and math.prod(before) == outer and math.prod(after) == inner)):
                continue
            cube = index.reshape(outer, m, inner)
            order: Array = cube[0, :, 0] // inner
            places = (np.arange(outer)[:, None, None] * total + order[:, None]) * inner + np.arange(inner)
            if np.array_equal(cube, places):
                return order
        return None

    def _steps(self, path: tuple[_Hop, ...]) -> tuple[_Step, ...] | None:
        """What happens to every element on the way to an exit."""
        steps = []
        for k, hop in enumerate(path):
            if hop.moves:
                continue
            places: Array | None = np.arange(hop.index.size).reshape(hop.index.shape)  # as the exit shows them
            for later in path[k + 1 :]:
                places = later.op.rule.moves(later.op, places) if later.moves and places is not None else places
            step = None if places is None else self._step(hop.op, hop.place, hop.index.shape, places)
            if step is None:
                return None
            steps.append(step)
        return tuple(steps)

    def _step(self, op: Op, place: int, shape: tuple[int, ...], places: Array) -> _Step | None:
        beside = op.rule.beside(op, place)
        if beside is not None:
            operands = {i: self._spread(op.ins[i].content, shape, places) for i in beside}  # type: ignore[union-attr]
            known = {i: operand for i, operand in operands.items() if operand is not None}
            return _Step(op, place, known) if len(known) == len(operands) else None
        found = op.rule.affine(op)
        assert found is not None
        axis, *maps = found
        wide = [1] * len(shape)
        wide[axis] = -1
        scale, shift = (self._spread(m.astype(op.x.dtype).reshape(wide), shape, places) for m in maps)
        return None if scale is None or shift is None else _Step(op, place, {}, scale, shift)

    def _spread(self, operand: Array, shape: tuple[int, ...], places: Array) -> Array | None:
        """An operand over the slots of the merged axis (and the axes behind it, where it differs there)."""
        if operand.size == 1:
            return operand.reshape(())
        inner = math.prod(self.inner)
        cube = np.broadcast_to(operand, shape).reshape(-1)[places].reshape(math.prod(self.outer), -1, inner)
        if not (cube == cube[:1]).all():
            return None
        slots = cube[0]
        if (slots == slots[:1, :1]).all():
            return slots[0, 0].reshape(())
        if (slots == slots[:, :1]).all():
            return slots[:, 0].reshape([-1, *(1 for _ in self.inner)])
        fixed = all(isinstance(n, int) for n in self.x.shape[self.last :])
        return slots.reshape([-1, *self.inner]) if fixed else None


def _fronts(x: Tensor, protect: Collection[str]) -> Iterator[_Front]:
    """The ways in which axes of an input could be merged, the best first; each was searched for exits."""
    if x.opaque or x.value is None or x.value.shape is None or math.prod(a.n for a in x.axes) > LARGEST:
        return
    runs = [(i, j) for i in range(x.rank) for j in range(x.rank, i + 1, -1)]
    for loose in (False, True):
        for first, last in sorted(runs, key=lambda run: run[0] - run[1]):
            fixed = all(isinstance(n, int) for n in x.shape[first:last])
            if fixed and sum(a.n > 1 for a in x.axes[first:last]) > 1:
                front = _Front(x, first, last, loose, protect)
                front.search()
                yield front


def _front(x: Tensor, protect: Collection[str]) -> _Front | None:
    """How an input can be declared with merged axes; None: something reads it in another way."""
    return next((front for front in _fronts(x, protect) if front.complete), None)


def candidates(network: Network, protect: Collection[str]) -> list[str]:
    """Inputs whose elements are read one by one."""
    return [x.name for x in network.inputs if _front(x, protect) is not None]


def blockers(network: Network) -> Iterator[tuple[str, Op]]:
    """Inputs some readers of which flatten them, and a node because of which they cannot be declared so."""
    for x in network.inputs:
        half = next((front for front in _fronts(x, ()) if front.exits and front.blocker is not None), None)
        if half is not None and half.blocker is not None and _front(x, ()) is None:
            yield x.name, half.blocker


def flattened(model: ir.Model, chosen: Collection[str]) -> Network:
    """The model, rewritten in place so that these inputs have their merged axes, and what is known of it."""
    network = Network(model)
    spare = idle_nodes(model.graph)
    edits, flats = [], {}
    for x in network.inputs:
        if x.name in chosen:
            front = _front(x, ())
            assert front is not None, x.name
            edits.append(_Edit(network, front))
            flats[x.name] = edits[-1].run()
    remove_dead(model.graph, spare)
    for edit in edits:
        for op in edit.front.shapes:
            if any(v.uses() or v.is_graph_output() for v in op.node.outputs):
                edit.tell_sizes(op)
    remove_dead(model.graph, spare)
    again = Network(model)
    again.flats = flats
    return again


def smallest_inputs(network: Network, protect: Collection[str], need_of: Callable[[Network], Need]) -> Need:
    """The decision with those inputs as vectors of which more can leave then than whole rows, columns and channels.

    Args:
        network: the model as it is.
        protect: tensors that stay as they are.
        need_of: takes the decision.
    """
    names = candidates(network, protect)
    if not names:
        return need_of(network)
    vectors = need_of(flattened(network.model.clone(), names))
    apart = [name for name in names if _is_scattered(vectors, name)]
    if apart == names:
        return vectors
    images = need_of(flattened(network.model.clone(), apart) if apart else network)
    fewer = [name for name in names if name in apart or _elements(vectors, name) < _elements(images, name)]
    return images if fewer == apart else need_of(flattened(network.model.clone(), fewer))


def _is_scattered(need: Need, name: str) -> bool:
    """Whether an input loses elements which are not whole rows, columns or channels."""
    flat, x = need.network.flats[name], need.network.input(name)
    return x in need.alive and not flat.is_block(np.flatnonzero(need.kept(x.axes[flat.axes[0]])))


def _elements(need: Need, name: str) -> int:
    """How many elements of an input are read, for one of everything whose extent is not known."""
    x = need.network.input(name)
    return math.prod(int(need.kept(axis).sum()) for axis in x.axes if axis.n > 1) if x in need.alive else 0


# -- the edit ----------------------------------------------------------------------------------------------------------
@dataclass
class _Edit:
    """Declares one input anew and rewrites what lies between it and the exits."""

    network: Network
    front: _Front

    def __post_init__(self) -> None:
        self.graph = self.network.model.graph
        self.names = {*names(self.graph), *(node.name for node in self.graph.all_nodes())}

    def run(self) -> Flat:
        front, total = self.front, math.prod(self.front.run)
        value = front.x.value
        assert value is not None and value.shape is not None
        order = front.exits[0].order
        alike = all(np.array_equal(e.order, order) for e in front.exits) and len(np.unique(order)) == len(order)
        order = order if alike else np.arange(total)
        before = ir.Shape(list(value.shape), frozen=False)
        value.shape = ir.Shape([*before[: front.first], len(order), *before[front.last :]])
        for found in front.exits:
            self._rebuild(value, order, found)
        return Flat(front.x.name, before, tuple(range(front.first, front.last)), order)

    def _rebuild(self, value: ir.Value, order: Array, found: _Exit) -> None:
        """Computes an exit from the merged input."""
        old, maker = found.tensor.value, found.tensor.maker
        assert old is not None and maker is not None
        current = value
        if not np.array_equal(order, found.order):
            picks = self._constant(f"{value.name}_order", found.order.astype(np.int64))
            current = self._node(maker.node, "Gather", [current, picks], value, axis=self.front.first)
        for step in found.steps:
            current = self._step(maker.node, step, current)
        if found.sizes is not None:
            sizes = self._constant(f"{old.name}_shape", np.array(found.sizes, np.int64))
            current = self._node(maker.node, "Reshape", [current, sizes], old)
        old.replace_all_uses_with(current)
        if current is value:
            return
        name, old.name = old.name, self._fresh(f"{old.name}_gone")
        current.name, current.type, current.shape = name, old.type, old.shape

    def _step(self, before: ir.Node, step: _Step, current: ir.Value) -> ir.Value:
        node, like = step.op.node, step.op.node.outputs[0]
        if step.scale is not None and step.shift is not None:
            scaled = self._node(before, "Mul", [current, self._constant(f"{like.name}_scale", step.scale)], like)
            return self._node(before, "Add", [scaled, self._constant(f"{like.name}_shift", step.shift)], like)
        inputs = list(node.inputs)
        inputs[step.place] = current
        for i, operand in step.operands.items():
            inputs[i] = self._constant(f"{like.name}_operand", operand)
        clone = ir.Node(node.domain, node.op_type, inputs, list(node.attributes.values()), num_outputs=1)
        clone.name = node.name
        return self._insert(before, clone, like)

    def _node(
        self, before: ir.Node, kind: str, inputs: list[ir.Value], like: ir.Value, axis: int | None = None
    ) -> ir.Value:
        attributes = [] if axis is None else [ir.AttrInt64("axis", axis)]
        node = ir.Node("", kind, inputs, attributes, num_outputs=1, name=self._fresh(f"{like.name}_{kind}"))
        return self._insert(before, node, like)

    def _insert(self, before: ir.Node, node: ir.Node, like: ir.Value) -> ir.Value:
        value = node.outputs[0]
        value.name, value.type = self._fresh(f"{like.name}_flat"), like.type
        self.graph.insert_before(before, node)
        return value

    def _constant(self, name: str, content: Array) -> ir.Value:
        tensor = ir.Tensor(np.asarray(content, order="C"), name=self._fresh(name))
        value = ir.Value(
            name=tensor.name, shape=ir.Shape(content.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        self.graph.register_initializer(value)
        if self.network.model.ir_version < 4:  # weights had to be listed among the inputs
            self.graph.inputs.append(value)
        return value

    def _fresh(self, name: str) -> str:
        candidate, k = name, 1
        while candidate in self.names:
            candidate, k = f"{name}_{k}", k + 1
        self.names.add(candidate)
        return candidate

    def tell_sizes(self, op: Op) -> None:
        """A Shape of the input says what it said before its axes were merged."""
        entries, front = op.y.entries, self.front
        value, old = front.x.value, op.node.outputs[0]
        assert entries is not None and value is not None
        places = {size: i for i, size in enumerate(front.x.shape[: front.first])}
        places |= {size: front.first + 1 + i for i, size in enumerate(front.x.shape[front.last :])}
        flat = list(entries.flat)
        known = np.array([not isinstance(e, Sym) for e in flat]).reshape(entries.shape)
        numbers = np.array([0 if isinstance(e, Sym) else e for e in flat], np.int64).reshape(entries.shape)
        picks = np.array([places.get(e, 0) for e in flat], np.int64).reshape(entries.shape)
        sizes = self._node(op.node, "Shape", [value], old)
        found = self._node(op.node, "Gather", [sizes, self._constant("places", picks)], old)
        mask, content = self._constant("sizes_known", known), self._constant("sizes", numbers)
        found = self._node(op.node, "Where", [mask, content, found], old)
        found.shape = old.shape
        if old.is_graph_output():
            old.name, found.name = self._fresh(f"{old.name}_gone"), old.name
        old.replace_all_uses_with(found, replace_graph_outputs=True)
