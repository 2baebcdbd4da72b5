"""Fused operators of ONNX Runtime (com.microsoft): each is a standard operator with something behind it.

FusedConv                   y = activation(Conv(x, w, b) + z)
FusedMatMul                 y = alpha * a' b', transposes of the last two axes, or of the batch axes to the back
FusedGemm                   y = activation(Gemm(a, b, c))
BiasAdd                     y = x + b + skip
SkipLayerNormalization      y = LayerNormalization(x + skip + b), and the sum as the last output
SkipSimplified...           the same with RMSNormalization
EmbedLayerNormalization     LayerNormalization of a sum of embeddings
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxdam.analysis.infer import infer_node
from onnxdam.analysis.tensor import Array, Tensor
from onnxdam.rules import contract
from onnxdam.rules.base import Op, Pinned, Relation, Rule, adopt_shape, pin_all, same, same_axes
from onnxdam.rules.conv import Conv
from onnxdam.rules.elementwise import Elementwise, aligned, operand_const
from onnxdam.rules.matmul import Gemm, contraction

if TYPE_CHECKING:
    from onnxdam.rewrite.slim import Slim

OPSET = 17  # of the standard operators whose shape inference is used


# -- activations -------------------------------------------------------------------------------------------------------
def _hard_sigmoid(x: Array, alpha: float = 0.2, beta: float = 0.5) -> Array:
    return np.clip(alpha * x + beta, 0, 1)


#: activation attribute -> function of the number and of `activation_params`
ACTIVATIONS: dict[str, Callable[..., Array]] = {
    "": lambda x: x,
    "Relu": lambda x: np.maximum(x, 0),
    "Tanh": lambda x: np.tanh(x),
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "LeakyRelu": lambda x, alpha=0.01: np.where(x < 0, alpha * x, x),
    "Clip": lambda x, low=-math.inf, high=math.inf: np.clip(x, low, high),
    "HardSigmoid": _hard_sigmoid,
    "Elu": lambda x, alpha=1.0: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))),
    "Softplus": lambda x: np.logaddexp(0, x),
    "Softsign": lambda x: x / (1 + np.abs(x)),
    "ThresholdedRelu": lambda x, alpha=1.0: np.where(x > alpha, x, 0),
}


def activated(op: Op, value: Array) -> Array:
    """What the node's activation makes of constants; NaN where it is not known."""
    function = ACTIVATIONS.get(op.attr("activation", ""))
    parameters = op.attr("activation_params")
    if parameters is None:
        named = (op.attr("activation_alpha"), op.attr("activation_beta"), op.attr("activation_gamma"))
        parameters = tuple(p for p in named if p is not None)
    if function is None:
        return np.full(np.shape(value), np.nan)
    try:
        with np.errstate(all="ignore"):
            return np.asarray(function(np.asarray(value, np.float64), *parameters))
    except TypeError:  # more parameters than the activation takes
        return np.full(np.shape(value), np.nan)


def activate(op: Op, constants: Callable[[Op], None], residual: Tensor | None = None) -> None:
    """Records the constants of activation(f + residual); `constants` records those of f in the first output."""
    y, outs = op.y, op.outs
    if y.opaque:
        return
    sums = Tensor(y.name, None, y.shape, y.dtype)
    op.outs = [sums]
    try:
        constants(op)
    finally:
        op.outs = outs
    for axis in range(y.rank):
        const = sums.const(axis)
        if const is None:
            continue
        mask, value = const.mask, const.value
        if residual is not None:
            known, more = operand_const(residual, residual.axes[axis], len(mask))
            mask, value = mask & known, value + more
        value = activated(op, value)
        mask = mask & np.isfinite(value)
        y.set_const(axis, mask, np.where(mask, value, 0))


# -- contractions ------------------------------------------------------------------------------------------------------
class FusedConv(Conv):
    """FusedConv: Conv, an optional residual (left out where what stays of it is zero), an activation."""

    zeros = (3,)

    def shapes(self, op: Op) -> None:
        infer_node(op, "Conv", 3, OPSET)
        op.y.dtype = op.y.dtype or op.x.dtype
        super().shapes(op)

    def relations(self, op: Op) -> Iterator[Relation]:
        z, y = op.tensor(3), op.y
        if z is not None and (z.opaque or y.opaque or z.rank != y.rank):
            yield from pin_all(op, "unknown rank")
            return
        yield from super().relations(op)
        if z is not None:
            yield from same_axes(z, y)

    def scaled_by(self, op: Op, axis: int, *, positive: bool) -> dict[int, int] | None:
        plain = op.attr("activation", "") in ("", "Relu", "LeakyRelu") and not op.has(3)
        return super().scaled_by(op, axis, positive=positive) if plain and positive else None

    def constants(self, op: Op) -> None:
        z = op.tensor(3)
        if z is None or not (z.opaque or z.rank != op.y.rank):
            activate(op, super().constants, z)

    def rewrite(self, op: Op, slim: Slim) -> None:
        super().rewrite(op, slim)
        slim.omit(op)


class FusedGemm(Gemm):
    """FusedGemm: Gemm and an activation."""

    def shapes(self, op: Op) -> None:
        infer_node(op, "Gemm", 3, OPSET)
        op.y.dtype = op.y.dtype or op.x.dtype
        super().shapes(op)

    def scaled_by(self, op: Op, axis: int, *, positive: bool) -> dict[int, int] | None:
        plain = op.attr("activation", "") in ("", "Relu", "LeakyRelu")
        return super().scaled_by(op, axis, positive=positive) if plain and positive else None

    def constants(self, op: Op) -> None:
        activate(op, super().constants)


class FusedMatMul(Rule):
    """FusedMatMul: MatMul with a factor and transposes of either side."""

    @staticmethod
    def order(op: Op, index: int) -> list[int]:
        """Which axis of input `index` serves as each axis of the factor (batch ..., row, column)."""
        t = op.tensor(index)
        assert t is not None
        order, side = list(range(t.rank)), "AB"[index]
        if op.attr(f"transBatch{side}", 0) and t.rank > 2:
            order = [*order[1:-1], 0, order[-1]]
        if op.attr(f"trans{side}", 0) and t.rank > 1:
            order[-2:] = order[:-3:-1]
        return order

    def shapes(self, op: Op) -> None:
        a, b, y = op.x, op.tensor(1), op.y
        y.dtype = y.dtype or a.dtype
        if b is None or a.opaque or b.opaque or not y.opaque or min(a.rank, b.rank) < 2:
            return
        left, right = ([t.shape[i] for i in self.order(op, k)] for k, t in enumerate((a, b)))
        batch = [s if s != 1 else t for s, t in _pad(left[:-2], right[:-2])]
        y.reshape([*batch, left[-2], right[-1]])

    def relations(self, op: Op) -> Iterator[Relation]:
        a, b, y = op.x, op.tensor(1), op.y
        if b is None or a.opaque or b.opaque or y.opaque or min(a.rank, b.rank) < 2:
            yield from pin_all(op, "unknown rank, or a vector")
            return
        left, right = self.order(op, 0), self.order(op, 1)
        yield from contraction(a, left[-1], b, right[-2], left[-2], right[-1], self.absorb(op))
        yield from same(a.axes[left[-2]], y.axes[-2])
        yield from same(b.axes[right[-1]], y.axes[-1])
        for t, order in ((a, left), (b, right)):
            for i, axis in enumerate(order[:-2]):
                out = y.axes[i + y.rank - t.rank]
                if t.axes[axis].n > 1:
                    yield from same(t.axes[axis], out)
                elif out.n > 1 and t.shape[axis] != 1:
                    yield Pinned(out, "an operand's extent is not known")

    def absorb(self, op: Op) -> str | None:
        b = op.tensor(1)
        return "carrier" if b is not None and b.is_leaf and b.rank == 2 and not op.x.is_known else None

    def _rows(self, op: Op) -> Array | None:
        """A known right factor of two axes, output slots first."""
        b = op.tensor(1)
        if b is None or not b.is_known or b.rank != 2:
            return None
        return b.content if op.attr("transB", 0) else b.content.T

    def constants(self, op: Op) -> None:
        a, b, y, rows = op.x, op.tensor(1), op.y, self._rows(op)
        if b is None or y.opaque or a.opaque or b.opaque or min(a.rank, b.rank) < 2:
            return
        if rows is not None:
            live, values = contract.live_slots(a, self.order(op, 0)[-1])
            found = contract.constant_rows(rows, live, values * float(op.attr("alpha", 1.0)), 0.0)
            if found is not None:
                y.set_const(-1, found.mask, found.value)
        for index, t in enumerate((a, b)):
            order = self.order(op, index)
            for i, axis in enumerate(order):  # a row, column or batch that is zero in one factor is zero in the product
                out = y.axes[i + y.rank - t.rank]
                zeros = t.zeros(axis) if i != len(order) - 1 - index and t.axes[axis].n == out.n > 1 else None
                if zeros is not None:
                    y.set_const(out.index, zeros, np.zeros(len(zeros)))

    def rewrite(self, op: Op, slim: Slim) -> None:
        rows, axis = self._rows(op), self.order(op, 0)[-1]
        if rows is None or self.absorb(op) is None:
            return
        removed, shared = slim.absorbed(op.x, axis), slim.shared(op.x, axis)
        if removed is None and shared is None:
            return
        if shared is not None:
            rows = contract.carry(rows, *shared)
        if removed is not None:
            rows = contract.carry(rows, removed, *slim.carrier(op.x, axis))
        slim.set_known(op, 1, rows if op.attr("transB", 0) else rows.T)


def _pad(a: list[Any], b: list[Any]) -> Iterator[tuple[Any, Any]]:
    n = max(len(a), len(b))
    return zip([1] * (n - len(a)) + a, [1] * (n - len(b)) + b, strict=True)


# -- normalisations ----------------------------------------------------------------------------------------------------
class SkipNormalization(Rule):
    """SkipLayerNormalization and SkipSimplifiedLayerNormalization.

    The last axis of LayerNormalization stays. That of RMSNormalization loses slots of the sum that are zero, as
    RMSNormalization does: eps' = eps n / n', scale' = scale sqrt(n / n').

    Args:
        simplified: no mean, no beta.
    """

    note = "normalised over"

    def __init__(self, *, simplified: bool) -> None:
        self.simplified = simplified

    def parameters(self, op: Op) -> list[Tensor]:
        """The vectors along the last axis."""
        return [t for t in op.ins[2:] if t is not None]

    def terms(self, op: Op) -> list[Tensor]:
        """What is added up."""
        terms = [*op.ins[:2], op.tensor(3 if self.simplified else 4)]
        return [t for t in terms if t is not None]

    def results(self, op: Op) -> list[Tensor]:
        """Outputs of the shape of x: the first, and the sum."""
        return [op.y, *(t for t in op.outs[3:4] if op.node.outputs[3].name)]

    def shapes(self, op: Op) -> None:
        for t in self.results(op):
            adopt_shape(op.x, t)
            t.dtype = t.dtype or op.x.dtype

    def relations(self, op: Op) -> Iterator[Relation]:
        x = op.x
        if any(t.opaque for t in (x, *self.terms(op), *self.parameters(op), *self.results(op))):
            yield from pin_all(op, "unknown rank")
            return
        for t in (*self.terms(op), *self.parameters(op), *self.results(op)):
            for i, out in enumerate(x.axes):
                axis = aligned(t, x, i)
                if axis is None or t is x:
                    continue
                if axis.n > 1:
                    yield from same(axis, out)
                elif out.n > 1 and t.shape[axis.index] != 1:
                    yield Pinned(out, "an operand's extent is not known")
        if x.axes[-1].n > 1:
            zeros = self._silent(op)
            yield Pinned(x.axes[-1], self.note, None if zeros is None else ~zeros)
        yield from pin_all(op, self.note, op.outs[1:3])

    def _silent(self, op: Op) -> Array | None:
        """Slots of the last axis that may leave: zero in every term."""
        if (
            not self.simplified
            or not self.parameters(op)[0].is_leaf
            or any(t.readers or t.pinned for t in op.outs[1:3])
        ):
            return None
        zeros = np.ones(op.x.axes[-1].n, bool)
        for t in self.terms(op):
            mask = t.zeros(t.rank - 1)
            zeros &= False if mask is None or len(mask) != len(zeros) else mask
        return zeros

    def constants(self, op: Op) -> None:
        x, y, terms = op.x, op.y, self.terms(op)
        if any(t.opaque for t in (*terms, *self.results(op))) or not x.rank or x.axes[-1].n == 1:
            return
        for total in self.results(op)[1:]:
            for i, out in enumerate(total.axes):
                parts = [operand_const(t, aligned(t, x, i), out.n) for t in terms]
                if out.n > 1 and all(m.any() for m, _ in parts):
                    total.set_const(i, np.logical_and.reduce([m for m, _ in parts]), np.sum([v for _, v in parts], 0))
        gamma, beta = op.known(2), None if self.simplified else op.tensor(3)
        if gamma is None or gamma.shape != x.shape[-1:] or (beta is not None and not beta.is_known):
            return
        mask = gamma == 0
        if self.simplified and op.attr("epsilon", 1e-12) > 0:
            silent = np.logical_and.reduce([_zeros(t, x) for t in terms])
            mask = mask | silent
        y.set_const(-1, mask, np.zeros(len(mask)) if beta is None else beta.content.astype(np.float64))

    def rewrite(self, op: Op, slim: Slim) -> None:
        if not self.simplified or not slim.narrowed(op.x, op.x.rank - 1):
            return
        ratio = op.x.axes[-1].n / slim.count(op.x, op.x.rank - 1)
        scale = slim.full_known(op, 2)
        slim.set_attr(op, "epsilon", float(op.attr("epsilon", 1e-12)) * ratio)
        slim.set_known(op, 2, (scale.astype(np.float64) * math.sqrt(ratio)).astype(scale.dtype))


def _zeros(t: Tensor, x: Tensor) -> Array:
    mask = t.zeros(t.rank - 1) if t.rank else None
    return np.zeros(x.axes[-1].n, bool) if mask is None or len(mask) != x.axes[-1].n else mask


# -- operators of which only the shapes are known ----------------------------------------------------------------------
class Shaped(Rule):
    """An operator whose axes stay; its outputs have the shapes that `extents` gives, so that what follows is free.

    Args:
        extents: called with the op; the shapes of the outputs, None where one is not known.
    """

    note = "fused operator whose axes stay"

    def __init__(self, extents: Callable[[Op], list[Any]]) -> None:
        self.extents = extents

    def shapes(self, op: Op) -> None:
        if any(t is not None and t.opaque for t in op.ins):
            return
        for t, shape in zip(op.outs, self.extents(op), strict=False):
            if t.opaque and shape is not None:
                t.reshape(shape)
        op.y.dtype = op.y.dtype or next(
            (t.dtype for t in op.ins if t is not None and t.dtype and t.dtype.kind == "f"), None
        )


def _like_first(op: Op) -> list[Any]:
    return [op.x.shape]


def _embedded(op: Op) -> list[Any]:
    word = op.tensor(2)
    whole = None if word is None else (*op.x.shape, word.shape[1])
    return [whole, op.x.shape[:1], whole]


def _packed(op: Op) -> list[Any]:
    w = op.tensor(1)
    third = w.shape[1] if w is not None and w.rank == 2 else None
    return [(*op.x.shape[:2], third // 3) if isinstance(third, int) and not op.attr("qkv_hidden_sizes") else None]


def _sum(op: Op, *values: Array) -> Array:
    return np.asarray(sum(values))


TABLE: dict[tuple[str, str], Rule] = {
    ("com.microsoft", "FusedConv"): FusedConv(),
    ("com.microsoft", "FusedGemm"): FusedGemm(),
    ("com.microsoft", "FusedMatMul"): FusedMatMul(),
    ("com.microsoft", "TransposeMatMul"): FusedMatMul(),
    ("com.microsoft", "BiasAdd"): Elementwise(_sum),
    ("com.microsoft", "SkipLayerNormalization"): SkipNormalization(simplified=False),
    ("com.microsoft", "SkipSimplifiedLayerNormalization"): SkipNormalization(simplified=True),
    ("com.microsoft", "EmbedLayerNormalization"): Shaped(_embedded),
    ("com.microsoft", "QAttention"): Shaped(_packed),
    ("com.microsoft", "DecoderMaskedMultiHeadAttention"): Shaped(_like_first),
    ("com.microsoft", "BiasSoftmax"): Shaped(_like_first),
    ("com.microsoft", "Trilu"): Shaped(_like_first),
    ("com.microsoft", "GroupNorm"): Shaped(_like_first),
    ("com.microsoft", "Inverse"): Shaped(_like_first),
}
