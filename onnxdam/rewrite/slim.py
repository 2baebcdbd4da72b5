"""The rewrite: one pass over the nodes that run.

Every value becomes the restriction of the original to its kept slots, so most nodes need nothing but narrower weights.
Rules rewrite the sizes that their nodes write down and absorb constants, through the methods of `Slim`; whatever is
read by nobody afterwards is removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import onnx_ir as ir

from onnxdam.analysis.forward import Network
from onnxdam.analysis.need import Need
from onnxdam.analysis.tensor import Array, Size, Sym, Tensor
from onnxdam.rewrite.dead import idle_nodes, names, remove_dead, unspoilt
from onnxdam.rewrite.gates import find_gates
from onnxdam.rewrite.kept import Kept
from onnxdam.rewrite.sizes import Sizes
from onnxdam.rules.base import Op

#: weights from this size on are sliced while they are written, not before
LAZY = 1 << 20

#: for every axis of a rewritten input: the tensor and axis it is narrowed like, None where it has its final width
Likes = list[tuple[Tensor, int] | None]


class Slim(Kept):
    """Executes a decision on the model that `network` was made of, in place.

    Args:
        network: the facts.
        need: which slots stay.
        simplify: nodes whose results follow from the weights alone, and nodes that nobody reads, go too.
    """

    def __init__(self, network: Network, need: Need, *, simplify: bool = True) -> None:
        super().__init__(need)
        self.network = network
        self.simplify = simplify
        self.model = network.model
        self.gates = find_gates(need)
        self._full: dict[Op, dict[int, tuple[Array, Likes]]] = {}
        self._filled: set[Op] = set()
        self._sliced: dict[tuple[ir.Value | None, tuple[bytes | None, ...]], ir.Value] = {}
        self._computed: dict[tuple[ir.DataType, tuple[int, ...], bytes], ir.Value] = {}
        self._stale: dict[Tensor, bool] = {}
        self._patched: dict[tuple[ir.Value, tuple[tuple[int, int], ...]], ir.Value] = {}
        self._names = {v.name for t in network.tensors.values() if (v := t.value) is not None}
        self.sizes = Sizes(need, self.shape)
        self._wanted: list[tuple[ir.Value, str]] = []  # new initializers, and the names they should have
        self._idle = frozenset() if simplify else idle_nodes(self.model.graph)  # read by nobody from the beginning

    def has_work(self) -> bool:
        """Whether anything leaves: slots of what runs or of what it reads, or a weight that nobody reads."""
        need = self.need
        read = {
            t
            for op in need.running
            for t in (*op.ins, *(t for b in op.bodies.values() for t in b.outs))
            if t and t.is_leaf
        }
        if any(self.narrowed(t) for t in (*need.alive, *read)):
            return True
        made = {*read, *self.network.outputs}
        todo = list(made)
        while todo:  # what is computed ahead of time from a weight is read for it
            maker = todo.pop().maker
            new = {t for t in maker.ins if t is not None} - made if maker is not None else set()
            made |= new
            todo += new
        if any(t.is_leaf and t.maker is None and t.rank and t not in made for t in self.network.tensors.values()):
            return True
        return any(
            t is not None and not t.is_leaf and t not in self.need.alive
            for op in self.network.active()
            if op in self.need.running and op.rule.operands == "varying"
            for t in op.ins
        )

    def run(self) -> ir.Model:
        """Rewrites the model and returns it."""
        for op in self.network.active():
            if op in self.gates.gone:
                self.skip(op, self.gates.gone[op])
            elif op in self.need.running:
                op.rule.rewrite(op, self)
                self._scale(op)
                self._slice_weights(op)
        for op in self.need.running:  # others stay as they are, or not at all
            for tensor in op.outs:
                self.write_shape(tensor)
        still = (op for op in self.network.ops if op not in self.need.running)
        remove_dead(self.model.graph, spare=unspoilt(self._idle, still, self._is_spoilt))
        self._restore_names()
        return self.model

    def _is_spoilt(self, t: Tensor) -> bool:
        """Whether a tensor is not what it was: narrower, be it as what a node that runs makes besides, or an input that
        leaves."""
        if t in self.need.alive or t.maker in self.need.running:
            return self.narrowed(t)
        return self.need.inputs and t in self.network.inputs

    def _restore_names(self) -> None:
        """Rewritten weights take the names of the originals that are gone."""
        initializers = self.model.graph.initializers
        taken = set(names(self.model.graph))
        for value, name in self._wanted:
            if name not in taken and value.name in initializers:
                taken.add(name)
                value.name = name

    def _scale(self, op: Op) -> None:
        """Multiplies inputs by the scales of gates that were folded into them, and shifts the bias."""
        for index in range(max(len(op.ins), 3)):
            scales = self.gates.scales.get((op, index), ())
            content, axes = self._content(op, index) if scales else (None, [])
            if content is None:
                continue
            scaled = self._cut(content, axes).astype(np.float64)
            for axis, factors in scales:
                like = axes[axis]
                kept = factors if like is None else factors[self.slots(*like)]
                scaled *= kept.reshape([-1 if i == axis else 1 for i in range(content.ndim)])
            self.set_sliced(op, index, scaled.astype(content.dtype))
        shift, place = self.gates.shifts.get(op), op.rule.bias_input
        if shift is not None and place is not None:
            bias = self.final_known(op, place) if self._content(op, place)[0] is not None else 0.0
            self.set_sliced(op, place, (bias + shift[self.slots(op.y, 1)]).astype(self.full_known(op, 1).dtype))

    def touched(self, op: Op) -> bool:
        """Whether anything about the node changes."""
        return op in self._filled or any(t is not None and self.narrowed(t) for t in (*op.ins, *op.outs))

    # -- inputs ------------------------------------------------------------------------------------------------------
    def full_known(self, op: Op, index: int) -> Array:
        """Content of a known input as rewritten so far, at full width."""
        if index in self._full.get(op, ()):
            return self._full[op][index][0]
        content = op.known(index)
        assert content is not None
        return content

    def final_known(self, op: Op, index: int) -> Array:
        """Content of a known input as rewritten so far, at its final width."""
        content, axes = self._content(op, index)
        assert content is not None
        return self._cut(content, axes)

    def _content(self, op: Op, index: int) -> tuple[Array | None, Likes]:
        """Content of an input as rewritten so far, and what each of its axes is narrowed like."""
        if index in self._full.get(op, ()):
            return self._full[op][index]
        t = op.tensor(index)
        return (None, []) if t is None else (t.known, [(t, i) for i in range(t.rank)])

    def _cut(self, content: Array, axes: Likes) -> Array:
        for axis, like in enumerate(axes):
            if like is not None and self.narrowed(*like) and content.shape[axis] == like[0].axes[like[1]].n:
                content = content.take(self.slots(*like), axis)
        return content

    def set_known(self, op: Op, index: int, content: Array, like: tuple[Tensor, int] | None = None) -> None:
        """Replaces a known input by `content` at full width; it is narrowed like the input it replaces.

        Args:
            like: the axis that a one-dimensional input is narrowed along where there was none before.
        """
        old = op.tensor(index)
        axes: Likes = [(old, i) for i in range(old.rank)] if old is not None else [like]
        if old is not None and old.shape != content.shape:
            axes = [like if content.ndim == 1 or i == content.ndim - 1 else None for i in range(content.ndim)]
        self._full.setdefault(op, {})[index] = (content, axes)

    def set_sliced(self, op: Op, index: int, content: Array) -> None:
        """Replaces an input by `content`, which has its final width; axes as wide as the input's are the input's."""
        t = op.tensor(index)
        axes: Likes = [None] * content.ndim
        if t is not None and t.rank == content.ndim:
            axes = [(t, i) if n == self.count(t, i) else None for i, n in enumerate(content.shape)]
        self._full.setdefault(op, {})[index] = (content, axes)

    def finish(self, op: Op) -> None:
        """Writes the inputs of a node that was rewritten already and is rewritten again."""
        self._slice_weights(op)

    def _slice_weights(self, op: Op) -> None:
        full = self._full.get(op, {})
        for index, tensor in enumerate(op.ins):
            if tensor is None or not tensor.is_leaf or index in full:
                continue
            if self.narrowed(tensor) or self._is_stale(tensor) or (self.simplify and _is_computed(tensor)):
                op.node.replace_input_with(index, self._narrow(tensor))
        for index, (content, axes) in full.items():
            old = op.tensor(index)
            name = (old.value.name if old is not None and old.value is not None else None) or f"{op.y.name}.{index}"
            self._put(op, index, self.initializer(name, self._cut(content, axes)))

    def _is_stale(self, t: Tensor) -> bool:
        """Whether what the graph computes for a known tensor would change, as a size that it is made of is narrowed."""
        if t not in self._stale:
            op = t.maker
            self._stale[t] = op is not None and (
                self.narrowed(op.x) if op.rule.shape_only else any(i is not None and self._is_stale(i) for i in op.ins)
            )
        return self._stale[t]

    def _put(self, op: Op, index: int, value: ir.Value) -> None:
        if index >= len(op.node.inputs):
            op.node.resize_inputs(index + 1)
        op.node.replace_input_with(index, value)

    def _narrow(self, t: Tensor) -> ir.Value:
        """The initializer that holds the kept part of a known tensor, shared by all who read it."""
        picks = [self.slots(t, i) if self.narrowed(t, i) else None for i in range(t.rank)]
        while t.maker is not None and t.maker.rule.renames and t.maker.x.is_leaf:
            t = t.maker.x  # exporters write equal weights once, with an Identity for each further use
        if t.maker is None and t.value is not None and all(p is None for p in picks):
            return t.value
        key = (t.value, tuple(None if p is None else p.tobytes() for p in picks))
        if key not in self._sliced:
            shape = [t.shape[i] if p is None else len(p) for i, p in enumerate(picks)]
            source = t.value.const_value if t.value is not None else None
            window = self.network.window
            load = (lambda: window.read(source)) if source is not None else lambda: t.content

            def cut() -> Array:
                array = load()
                for axis, pick in enumerate(picks):
                    if pick is not None:
                        array = array.take(pick, axis)
                return np.asarray(array, order="C")

            assert t.value is not None
            name = t.value.name or "weight"
            dtype = source.dtype if source is not None else ir.DataType.from_numpy(t.dtype)  # type: ignore[arg-type]
            if source is not None and source.nbytes >= LAZY:
                fresh = self.fresh(f"{name}_slim")
                tensor: ir.TensorProtocol = ir.LazyTensor(
                    lambda: ir.Tensor(cut(), dtype=dtype, name=fresh),
                    dtype=dtype,
                    shape=ir.Shape(int(n) for n in shape if isinstance(n, int)),
                    name=fresh,
                )
                self._sliced[key] = self._register(name, tensor)
            elif (
                t.maker is not None and t.maker.ins
            ):  # computed ahead of time, perhaps from the same weights elsewhere too
                content = cut()
                same = (dtype, content.shape, content.tobytes())
                if same not in self._computed:
                    self._computed[same] = self.initializer(name, content, dtype)
                self._sliced[key] = self._computed[same]
            else:
                self._sliced[key] = self.initializer(name, cut(), dtype)
        return self._sliced[key]

    def initializer(self, wanted: str, content: Array, dtype: ir.DataType | None = None) -> ir.Value:
        """A new initializer of the main graph; it takes the name `wanted` if that is free in the end."""
        name = self.fresh(f"{wanted}_slim")
        return self._register(wanted, ir.Tensor(np.asarray(content, order="C"), dtype=dtype, name=name))

    def _register(self, wanted: str, tensor: ir.TensorProtocol) -> ir.Value:
        value = ir.Value(
            name=tensor.name, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        self.model.graph.register_initializer(value)
        if self.model.ir_version < 4:  # weights had to be listed among the inputs
            self.model.graph.inputs.append(value)
        self._wanted.append((value, wanted))
        return value

    def fresh(self, name: str) -> str:
        """A name nobody has."""
        candidate, k = name, 1
        while candidate in self._names:
            candidate, k = f"{name}_{k}", k + 1
        self._names.add(candidate)
        return candidate

    # -- nodes -------------------------------------------------------------------------------------------------------
    def set_attr(self, op: Op, name: str, value: int | float | Sequence[int] | Sequence[float] | None) -> None:
        """Writes an attribute; None removes it."""
        if value is None:
            op.node.attributes.pop(name, None)
        elif isinstance(value, float):
            op.node.attributes.add(ir.AttrFloat32(name, value))
        elif isinstance(value, int):
            op.node.attributes.add(ir.AttrInt64(name, value))
        elif value and isinstance(value[0], float):
            op.node.attributes.add(ir.AttrFloat32s(name, value))
        else:
            op.node.attributes.add(ir.AttrInt64s(name, [int(v) for v in value]))

    def drop_inputs(self, op: Op, gone: Sequence[int]) -> None:
        """Leaves inputs out of a node with a list of inputs."""
        stay = [i for i in range(len(op.ins)) if i not in set(gone)]
        self._slice_weights(op)
        values = [op.node.inputs[i] for i in stay]
        op.node.resize_inputs(len(stay))
        for i, value in enumerate(values):
            op.node.replace_input_with(i, value)
        op.ins = [op.ins[i] for i in stay]

    def omit(self, op: Op) -> None:
        """Takes out inputs that are zero, where their absence says the same; their places stay empty."""
        for index in op.rule.zeros:
            t = op.tensor(index)
            if t is not None and self.need.is_zero(t):
                op.node.replace_input_with(index, None)
                op.ins[index] = None
        while op.node.inputs and op.node.inputs[-1] is None:
            op.node.resize_inputs(len(op.node.inputs) - 1)
            op.ins.pop()

    def keep_outputs(self, op: Op, stay: Sequence[int]) -> None:
        """Leaves outputs out of a node with a list of outputs."""
        if len(stay) == len(op.outs):
            return
        values = [op.node.outputs[i] for i in stay]
        node = ir.Node(
            op.node.domain, op.node.op_type, list(op.node.inputs), list(op.node.attributes.values()),
            num_outputs=len(stay), name=op.node.name,
        )  # fmt: skip
        assert op.node.graph is not None
        op.node.graph.insert_after(op.node, node)
        for old, new in zip(values, node.outputs, strict=True):
            new.name, new.shape, new.type = old.name, old.shape, old.type
            old.replace_all_uses_with(new, replace_graph_outputs=True)
            tensor = self.network.of(old)
            tensor.value = new
            self.network.tensors[id(new)] = tensor
        op.outs = [op.outs[i] for i in stay]
        op.node = node

    def skip(self, op: Op, index: int, output: int = 0) -> None:
        """The node changes nothing any more: its readers read input `index` instead."""
        t = op.tensor(index)
        if t is not None and t.is_leaf and index not in self._full.get(op, ()) and self.narrowed(t):
            op.node.replace_input_with(index, self._narrow(t))
        source, target = op.node.inputs[index], op.node.outputs[output]
        assert source is not None
        if target.is_graph_output() and not self._rename(source, target):
            self.set_identity(op, index)
            return
        target.replace_all_uses_with(source, replace_graph_outputs=True)

    def _rename(self, source: ir.Value, target: ir.Value) -> bool:
        """Gives `source` the name, type and place of the graph output `target`, where it is free to take them."""
        if source.is_graph_output() or source.is_graph_input() or source.is_initializer() or source.producer() is None:
            return False
        producer, skipped = source.producer(), target.producer()
        if producer is None or skipped is None or producer.graph is not skipped.graph:
            return False
        name = target.name
        target.name = self.fresh(f"{name}_gone")
        source.name, source.shape, source.type = name, target.shape, target.type
        return True

    def set_identity(self, op: Op, index: int) -> None:
        """The node becomes an Identity of its input `index`."""
        value = op.node.inputs[index]
        self._forget(op)
        op.node.op_type, op.node.domain = "Identity", ""
        op.node.attributes.clear()
        op.node.resize_inputs(1)
        op.node.replace_input_with(0, value)

    def _forget(self, op: Op) -> None:
        """The node becomes another: what was decided about its inputs does not hold any more."""
        self._full.pop(op, None)
        op.ins = []

    def insert_before(self, op: Op, kind: str, inputs: Iterable[ir.Value], name: str, like: ir.Value) -> ir.Value:
        """A new node in front of `op` whose output is typed like `like`."""
        node = ir.Node("", kind, list(inputs), num_outputs=1, name=self.fresh(f"{op.node.name or op.kind}_{kind}"))
        assert op.node.graph is not None
        op.node.graph.insert_before(op.node, node)
        value = node.outputs[0]
        value.name, value.type = self.fresh(name), like.type
        return value

    def follow(self, op: Op, kind: str, constant: Array) -> None:
        """A new node behind `op` that combines its first output with a constant; all readers read that instead."""
        y = op.node.outputs[0]
        node = ir.Node(
            "", kind, [y, self.initializer(f"{y.name}_{kind}", constant)], num_outputs=1,
            name=self.fresh(f"{op.node.name or op.kind}_{kind}"),
        )  # fmt: skip
        assert op.node.graph is not None
        op.node.graph.insert_after(op.node, node)
        out = node.outputs[0]
        out.name, out.shape, out.type = self.fresh(f"{y.name}_{kind}"), y.shape, y.type
        if y.is_graph_output():
            y.name, out.name = out.name, y.name
        y.replace_all_uses_with(out, replace_graph_outputs=True)
        node.replace_input_with(0, y)

    def known_output(self, body: ir.Graph, index: int, t: Tensor) -> None:
        """A body hands out the kept part of a known tensor."""
        node = ir.Node("", "Identity", [self._narrow(t)], num_outputs=1, name=self.fresh(f"{t.name}_Identity"))
        old, new = body.outputs[index], node.outputs[0]
        new.name, new.type = self.fresh(f"{old.name}_narrow"), old.type
        new.shape = ir.Shape([s if isinstance(s, int) else None for s in self.shape(t)])
        body.append(node)
        body.outputs[index] = new

    # -- constant operands ---------------------------------------------------------------------------------------------
    def fill_operands(self, op: Op) -> None:
        """Operands that do not run are replaced by the constants they hold."""
        for index, t in enumerate(op.ins):
            if t is None or t.is_leaf or t in self.need.alive:
                continue
            along = self.need.constant_axis(t)
            const = t.const(along) if along is not None else None
            assert const is not None and along is not None, f"{op.name}: operand {t.name} neither runs nor is constant"
            shape = [1] * t.rank
            values = const.value[:1]
            if t.axes[along].n > 1:
                values = const.value[self.slots(t, along)]
                alike = len(values) > 0 and bool((values == values[0]).all())
                if isinstance(t.shape[along], int) and not (alike and self._has_extent(op, t, along)):
                    shape[along] = len(values)
                else:
                    values = values[:1]
            self._filled.add(op)
            self.set_sliced(op, index, values.astype(t.dtype).reshape(shape))

    def _has_extent(self, op: Op, t: Tensor, axis: int) -> bool:
        """Whether another operand that runs gives the result its extent where `t` has this axis."""
        back = axis - t.rank
        others = [o for o in op.ins if o is not None and o in self.need.alive and o.rank >= -back]
        return any(o.axes[back].root is t.axes[axis].root for o in others)

    def skip_neutral(self, op: Op, neutral: float, *, right_only: bool) -> None:
        """Skips a node with two operands one of which changes nothing."""
        if len(op.ins) != 2:
            return
        for index in (1,) if right_only else (1, 0):
            t, other = op.ins[index], op.ins[1 - index]
            if t is None or other is None or not self._is_filled_with(op, index, t, neutral):
                continue
            if other.shape == op.y.shape and other.dtype == op.y.dtype:
                self._slice_weights(op)
                self.skip(op, 1 - index)
                return

    def _is_filled_with(self, op: Op, index: int, t: Tensor, number: float) -> bool:
        if index not in self._full.get(op, ()) and not t.is_leaf:
            return False
        content = self.final_known(op, index)
        return bool(content.size and (content == number).all())

    # -- written-down sizes --------------------------------------------------------------------------------------------
    def write_sizes(
        self,
        op: Op,
        index: int,
        sizes: Sequence[Size],
        source: Sequence[Size] | None = None,
        beneath: Sequence[Size] = (),
    ) -> None:
        """Writes the extents of the output into the input that holds them.

        Args:
            sizes: the extents.
            source: extents of the input of a Reshape, where 0 copies one and -1 stands for the rest; None: neither.
            beneath: extents of the input of an Expand, for which a 1 stands.
        """
        known = op.known(index)
        if known is not None:
            old = known.reshape(-1).tolist()
            dims = [
                o if (o in (0, -1) and source is not None and isinstance(s, Sym)) else s
                for o, s in zip(old, sizes, strict=True)
            ]
            if source is None:
                dims = [o if o == 1 and not isinstance(s, int) else s for o, s in zip(old, sizes, strict=True)]
            written = [o if isinstance(d, Sym) else d for o, d in zip(old, dims, strict=True)]
            self.set_sliced(op, index, np.array(written, np.int64))
            return
        if source is not None:
            plain = _plain_sizes(sizes, source)
            if plain is not None and not (op.attr("allowzero", 0) and -1 in plain):
                self.set_attr(op, "allowzero", None)  # a zero now copies the extent, which may itself be zero
                self.set_sliced(op, index, np.array(plain, np.int64))
                return
        if source is None and all(isinstance(s, int) for s in sizes):
            self.set_sliced(op, index, np.array(sizes, np.int64))
            return
        t = op.tensor(index)
        if t is None or not self.sizes.fit(t, sizes, source, beneath):
            says = None if t is None else self.sizes.entries(t)
            numbers = {i: s for i, s in enumerate(sizes) if isinstance(s, int) and (says is None or says[i] != s)}
            if numbers:
                self._patch(op, index, numbers, len(sizes))

    def _patch(self, op: Op, index: int, numbers: dict[int, int], length: int) -> None:
        """Overwrites entries of a size tensor that is computed at run time."""
        old = op.node.inputs[index]
        assert old is not None
        joined = self._patch_concat(op.tensor(index), old, numbers)
        if joined is not None:
            op.node.replace_input_with(index, joined)
            return
        mask, new = np.zeros(length, bool), np.zeros(length, np.int64)
        for i, number in numbers.items():
            mask[i], new[i] = True, number
        value = self.insert_before(
            op,
            "Where",
            [self.initializer("sizes_known", mask), self.initializer("sizes", new), old],
            f"{old.name}_slim",
            old,
        )
        op.node.replace_input_with(index, value)

    def _patch_concat(self, t: Tensor | None, old: ir.Value, numbers: dict[int, int]) -> ir.Value | None:
        """Sizes joined by a Concat: another Concat in which the pieces that hold the numbers are written down."""
        maker, node = None if t is None else t.maker, old.producer()
        key = (old, tuple(sorted(numbers.items())))
        if key in self._patched or maker is None or node is None or node.op_type != "Concat" or node.graph is None:
            return self._patched.get(key)
        values, offset = list(node.inputs), 0
        for i, piece in enumerate(maker.ins):
            if piece is None or piece.opaque or piece.rank != 1 or not isinstance(piece.shape[0], int):
                return None
            inside = range(offset, offset := offset + piece.shape[0])
            if all(k in numbers for k in inside):
                values[i] = self.initializer("sizes", np.array([numbers[k] for k in inside], np.int64))
            elif any(k in numbers for k in inside):
                return None
        fresh = ir.Node(
            "", "Concat", values, [ir.AttrInt64("axis", 0)], num_outputs=1, name=self.fresh(f"{node.name}_slim")
        )
        node.graph.insert_after(node, fresh)
        fresh.outputs[0].name, fresh.outputs[0].type = self.fresh(f"{old.name}_slim"), old.type
        self._patched[key] = fresh.outputs[0]
        return fresh.outputs[0]

    def restore_entries(self, op: Op, numbers: dict[int, int]) -> None:
        """Puts numbers of the original model back into what a Shape reads off the narrowed tensor."""
        y = op.node.outputs[0]
        length = op.y.shape[0]
        assert isinstance(length, int) and op.node.graph is not None
        mask, new = np.zeros(length, bool), np.zeros(length, np.int64)
        for i, number in numbers.items():
            mask[i], new[i] = True, number
        node = ir.Node(
            "", "Where", [self.initializer("sizes_known", mask), self.initializer("sizes", new), y], num_outputs=1
        )
        node.name = self.fresh(f"{op.node.name or 'Shape'}_original")
        node.outputs[0].name, node.outputs[0].type = self.fresh(f"{y.name}_original"), y.type
        op.node.graph.insert_after(op.node, node)
        for user, slot in list(y.uses()):
            if user is not node:
                user.replace_input_with(slot, node.outputs[0])

    def become_gather(self, op: Op, axis: int, picks: Array) -> None:
        """The node becomes a Gather of `picks` (positions in the narrowed input) along an axis."""
        value = op.node.inputs[0]
        self._forget(op)
        op.node.op_type, op.node.domain = "Gather", ""
        op.node.attributes.clear()
        op.node.resize_inputs(2)
        op.node.replace_input_with(0, value)
        op.node.attributes.add(ir.AttrInt64("axis", axis))
        self._put(op, 1, self.initializer(f"{op.y.name}_picks", picks.astype(np.int64)))

    def write_shape(self, t: Tensor) -> None:
        """Writes the extents that remain where the file declares the shape."""
        value = t.value
        if value is None or t.opaque or value.shape is None or not self.narrowed(t):
            return
        if t.pinned or t.is_leaf:  # what is computed ahead of time keeps its width where the graph computes it
            return
        sizes = self.shape(t)
        if len(value.shape) == len(sizes):
            before = zip(sizes, t.shape, value.shape, strict=True)  # one name must not stand for two numbers
            value.shape = ir.Shape([s if isinstance(s, int) else old if s == was else None for s, was, old in before])


def _plain_sizes(sizes: Sequence[Size], source: Sequence[Size]) -> list[int] | None:
    """Sizes for a Reshape in numbers, 0 and one -1; None where that is not enough."""
    plain: list[int | None] = []
    for i, size in enumerate(sizes):
        if isinstance(size, int):
            plain.append(size)
        else:
            plain.append(0 if i < len(source) and source[i] == size else None)
    if plain.count(None) > 1 or 0 in [s for s in sizes if isinstance(s, int)]:
        return None
    return [-1 if p is None else p for p in plain]


def _is_computed(t: Tensor) -> bool:
    """Whether the content of a known tensor is computed by nodes, other than a Constant."""
    return t.maker is not None and bool(t.maker.ins)
