"""The vocabulary in which operators are described, and the base class of a rule.

A rule tells, for one node, how the slots of its axes are related. Two analyses and one rewriter interpret the
relations; none of them knows operator names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Union

import numpy as np

from onnxdam.analysis.tensor import Array, Axis, Mask, Sym, Tensor

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnxdam.rewrite.slim import Slim


# -- relations ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False, slots=True)
class Same:
    """Slots correspond: `a[a_index[t]]` stays if and only if `b[b_index[t]]` does (no index: all, in order).

    Attributes:
        lazy: only where both tensors run (with an index).
    """

    a: Axis
    b: Axis
    a_index: Array | None = None
    b_index: Array | None = None
    lazy: bool = False


@dataclass(frozen=True, eq=False, slots=True)
class Follows:
    """One way: where slot j of `a` stays, slot `index[j]` of `b` stays (a selection that can be re-written)."""

    a: Axis
    b: Axis
    index: Array


@dataclass(frozen=True, eq=False, slots=True)
class Product:
    """`merged` runs over `factors`, row-major: a merged slot stays if and only if all its factor slots do."""

    merged: Axis
    factors: tuple[Axis, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Pinned:
    """All slots of the axis stay as long as the node does (or those of `slots`)."""

    axis: Axis
    reason: str
    slots: Mask | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Contract:
    """Slots of `x` are multiplied with those of `weight` along `axis`, and summed.

    A slot of `x` is demanded when a kept part of the weight reads it with something other than zero, unless it is a
    constant that can be absorbed: zero always, others as `absorb` says ("bias": for free; "carrier": one constant slot
    stays and carries all others; None: never). `x` and `weight.axes[axis]` are unified by the rule.

    Attributes:
        weight: known content decides; a tensor computed at run time demands every slot that is not zero on its side.
        rows: the axis of the weight that has most output slots, for speed only.
        zero: the number that counts as zero on the x side (zero point of quantised tensors).
        weight_zero: the content of the weight that counts as zero, broadcastable to it.
        summed: other axes of the weight that are summed, and their slots that count. Which of them are kept does not
            matter: two contractions of one weight would wait for each other.
    """

    x: Axis
    weight: Tensor
    axis: int
    rows: int = 0
    absorb: str | None = None
    zero: float = 0
    weight_zero: Array | None = None
    summed: tuple[tuple[int, Mask], ...] = ()


@dataclass(frozen=True, eq=False, slots=True)
class Blocks:
    """A grouped contraction: `blocks` equal blocks of `x` feed as many equal blocks of `out`.

    A block stays on both sides or on neither; the blocks that stay have equally many slots. `weight` has shape
    (slots of out, slots of x per block, ...): slot k of a block is demanded when a kept slot of its block reads it
    (without a weight: when its block stays at all). `zero` and `weight_zero` are those of `Contract`.
    """

    x: Axis
    out: Axis
    blocks: int
    weight: Tensor | None = None
    absorb: str | None = None
    zero: float = 0
    weight_zero: Array | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Balanced:
    """`blocks` equal blocks of the axis: those that stay have equally many slots. `whole`: they stay whole."""

    axis: Axis
    blocks: int
    whole: bool = False


@dataclass(frozen=True, eq=False, slots=True)
class Packed:
    """Every block stores its own selection of `units` (block, slot) at the same places.

    A block with a slot that stays, stays; all blocks that do have equally many slots, and as many `places` stay.
    """

    units: Axis
    blocks: Axis
    places: Axis


@dataclass(frozen=True, eq=False, slots=True)
class Blocked:
    """A kernel runs over the axis in blocks: its width is worth aligning."""

    axis: Axis


# -- nodes -------------------------------------------------------------------------------------------------------------
Relation = Union[Same, Follows, Product, Pinned, Contract, Blocks, Balanced, Packed, Blocked]


@dataclass(frozen=True, eq=False, slots=True)
class Body:
    """A subgraph of a node (If, Loop, Scan): its own inputs and outputs. Captured values are the outer tensors.

    Attributes:
        assumed: the axes (input, axis) whose extent its rule assumed in `enter`.
    """

    ins: list[Tensor]
    outs: list[Tensor]
    assumed: set[tuple[int, int]] = field(default_factory=set)


class Op:
    """A node as a rule sees it: tensors instead of values, attributes as Python numbers."""

    __slots__ = ("bodies", "folded", "ins", "node", "outs", "rule", "scope", "version")

    def __init__(
        self, node: ir.Node, ins: list[Tensor | None], outs: list[Tensor], rule: Rule, version: int, scope: str
    ) -> None:
        self.node = node
        self.ins = ins
        self.outs = outs
        self.rule = rule
        self.version = version  # opset of the operator's domain
        self.scope = scope
        self.bodies: dict[str, Body] = {}
        self.folded = False  # all outputs are computed ahead of time

    @property
    def name(self) -> str:
        """The node's name, or what it writes where it has none."""
        return self.scope + (self.node.name or f"{self.node.op_type}({self.outs[0].name if self.outs else ''})")

    @property
    def kind(self) -> str:
        return self.node.op_type

    @property
    def x(self) -> Tensor:
        """The first input."""
        tensor = self.ins[0]
        assert tensor is not None
        return tensor

    @property
    def y(self) -> Tensor:
        """The first output."""
        return self.outs[0]

    def tensor(self, index: int) -> Tensor | None:
        """Input `index`, None where it is absent."""
        return self.ins[index] if index < len(self.ins) else None

    def known(self, index: int) -> Array | None:
        """Content of input `index`, None where it is absent or computed at run time."""
        tensor = self.tensor(index)
        return None if tensor is None else tensor.known

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute's value, lists as tuples; defaults are single precision, as attributes are."""
        attribute = self.node.attributes.data.get(name)
        if attribute is None:
            return float(np.float32(default)) if isinstance(default, float) else default
        value = attribute.value
        return tuple(value) if isinstance(value, (list, tuple)) else value

    def ints(self, index: int, name: str) -> tuple[int, ...] | None:
        """Integers that older opsets write as attribute `name`, newer ones as input `index`; None if not known."""
        if name in self.node.attributes:
            value = self.attr(name)
            return (value,) if isinstance(value, int) else value
        content = self.known(index)
        return None if content is None else tuple(int(i) for i in np.atleast_1d(content))

    def has(self, index: int) -> bool:
        return self.tensor(index) is not None

    def entries_of(self, index: int) -> Array | None:
        """The entries (int, Sym or None) of a small integer input, None where nothing is known of them."""
        tensor = self.tensor(index)
        if tensor is None:
            return None
        if (
            tensor.entries is None
            and tensor.is_known
            and tensor.content.size <= 64
            and tensor.content.dtype.kind in "iub"
        ):
            tensor.entries = tensor.content.astype(object)
        return tensor.entries

    def length(self, index: int) -> int | None:
        """Number of entries of a one-dimensional input, None where it is not known."""
        tensor = self.tensor(index)
        if tensor is None or tensor.opaque or tensor.rank != 1:
            return None
        size = tensor.shape[0]
        return size if isinstance(size, int) else None

    def sole_reader(self) -> Op | None:
        """The one node that reads the first output, None where there are several or it is a graph output."""
        value = self.node.outputs[0]
        if len(value.uses()) != 1 or self.y.pinned or len(self.y.readers) != 1:
            return None
        return self.y.readers[0][0]


# -- rules -------------------------------------------------------------------------------------------------------------
class Rule:
    """One operator. The defaults pin everything and know nothing: an operator without a rule is untouched."""

    #: inputs that may be left out: "varying" (a broadcast operand: replaced by its constants), "pieces" (Concat)
    operands: str = "all"
    #: never compute the output ahead of time even where every input is known (quantised weights stay quantised)
    folds: bool = True
    #: what it writes is what it reads, under another name
    renames: bool = False
    #: what it writes is drawn at random
    draws: bool = False
    #: the node reads its inputs' sizes only, not their content
    shape_only: bool = False
    #: the input that holds extents of the output, written again through `Slim.write_sizes` where they differ
    sizes: int | None = None
    #: the input that is added to every slot of axis 1 of the output, made where it is absent; None: there is none
    bias_input: int | None = None
    #: a product: a known vector with zeros as one operand is a gate
    gates: bool = False
    #: inputs whose absence means zero: they are taken out where what stays of them is zero
    zeros: tuple[int, ...] = ()
    #: what the report says when the rule pins an axis
    note: str = "no rule for this operator"

    def axis(self, op: Op) -> int:
        """The axis that a node works along, where it has one (the one that pieces are joined on)."""
        raise NotImplementedError(op.kind)

    def pieces(self, op: Op) -> list[tuple[int, Tensor]]:
        """Of a node that joins tensors: which inputs those are, in order."""
        return [(i, t) for i, t in enumerate(op.ins) if t is not None]

    def evaluate(self, op: Op, *arrays: Array) -> Array | None:
        """The first output from the content of the inputs, where that is a plain view or cheap; None: the ONNX
        reference implementation computes it."""
        return None

    def moves(self, op: Op, source: Array) -> Array | None:
        """Where every element of the first output comes from; None: it is not just a movement of the first input.

        Args:
            source: where every element of the first input comes from; extents not known before run time are any number.
        """
        return None

    def beside(self, op: Op, index: int) -> Sequence[int] | None:
        """Inputs that are broadcast against input `index`, where every element of the first output follows from those
        in its place (and scalars); None: it is not such an operator."""
        return None

    def shapes(self, op: Op) -> None:
        """Refines the shapes of the outputs beyond ONNX shape inference."""

    def enter(self, op: Op, name: str, ins: list[Tensor]) -> set[tuple[int, int]]:
        """Records what can be assumed of the inputs of body `name` before its nodes are looked at.

        `op.bodies[name]`, if there is one, is what came out of assuming more. Returns the axes (input, axis) whose
        extents were assumed.
        """
        return set()

    def holds(self, op: Op, name: str) -> bool:
        """Whether what was assumed of the inputs of body `name` is true again after it ran."""
        return True

    def entries(self, op: Op) -> None:
        """Follows the content of small integer tensors, entry by entry (shape arithmetic)."""

    def relations(self, op: Op) -> Iterable[Relation]:
        """How the slots of the node's axes are related."""
        return pin_all(op, self.note)

    def constants(self, op: Op) -> None:
        """Records the constant slots of the outputs (`Tensor.set_const`)."""

    def claims(self, op: Op) -> Iterable[Op]:
        """Other nodes whose relations this node's `relations` speak of instead."""
        return ()

    def scaled_by(self, op: Op, axis: int, *, positive: bool) -> dict[int, int] | None:
        """Which inputs to scale, along which axes of theirs, to scale the output along `axis`; None: impossible.

        Args:
            positive: no factor is negative.
        """
        return None

    def affine(self, op: Op) -> tuple[int, Array, Array] | None:
        """(axis, scale, shift) where y = scale x + shift per slot of that axis, known ahead of time; else None."""
        return None

    def weight_of(self, op: Op, index: int, axis: int) -> tuple[int, int] | None:
        """The input (and its axis) whose scaling does the same as scaling input `index` along `axis`."""
        return None

    def rewrite(self, op: Op, slim: Slim) -> None:
        """Rewrites the sizes that the node writes down, absorbs constants. Known inputs are sliced already."""


def pin_all(op: Op, reason: str, tensors: Sequence[Tensor | None] | None = None) -> Iterator[Relation]:
    """Every axis of every tensor of the node stays."""
    if tensors is None:
        tensors = [*op.ins, *op.outs, *(t for body in op.bodies.values() for t in (*body.ins, *body.outs))]
    for tensor in tensors:
        if tensor is not None:
            for axis in tensor.axes:
                if axis.n > 1:
                    yield Pinned(axis, reason)


def pin(reason: str, *axes: Axis) -> Iterator[Relation]:
    """All slots of these axes stay."""
    return (Pinned(axis, reason) for axis in axes if axis.n > 1)


def same(a: Axis, b: Axis) -> Iterator[Relation]:
    """All slots correspond in order; where the extents are not provably equal both axes are pinned."""
    if a.n == b.n:
        if a.n > 1:
            yield Same(a, b)
    else:
        for axis in (a, b):
            if axis.n > 1:
                yield Pinned(axis, "extents are not known to be equal")


def same_axes(x: Tensor, y: Tensor, axes: Iterable[int] | None = None) -> Iterator[Relation]:
    """Axis i of x corresponds to axis i of y, for all axes or those given."""
    for i in range(x.rank) if axes is None else axes:
        yield from same(x.axes[i], y.axes[i])


def adopt_shape(x: Tensor, y: Tensor, axes: Iterable[int] | None = None) -> None:
    """y has the extents of x on these axes (all: y gets a shape even where inference gave none)."""
    if x.opaque:
        return
    if y.opaque:
        if axes is None:
            y.reshape(x.shape)
        else:
            return
    for i in range(x.rank) if axes is None else axes:
        y.adopt(i, x.axes[i])


def unknown_shape(t: Tensor, rank: int) -> None:
    """t has this rank, and extents that nobody knows; where its rank is known already nothing is done."""
    if t.opaque:
        t.reshape([Sym(1, (f"{t.name}.{i}",)) for i in range(rank)])


def carry_const(x: Tensor, y: Tensor, axes: Iterable[int] | None = None) -> None:
    """Constant slots of x are the same constants in y."""
    if not x.any_const and not x.is_known:
        return
    for i in range(x.rank) if axes is None else axes:
        const = x.const(i)
        if const is not None and y.axes[i].n == len(const.mask):
            y.set_const(i, const.mask, const.value)
