"""Operators that treat every element alike, with broadcasting.

    y[i] = f(a[i], b[i], ...)        slots of equal extents correspond; an extent of 1 repeats for all

A slot of y is constant where it is constant in every operand, or where an operand is zero and zero absorbs (Mul, And).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxdam.analysis.tensor import Array, Axis, Mask, Size, Sym, Tensor, at_most
from onnxdam.rules.base import Op, Pinned, Relation, Rule, Same, pin_all
from onnxdam.rules.shapes import choose, combine

if TYPE_CHECKING:
    from onnxdam.rewrite.slim import Slim

Function = Callable[..., Array]


def aligned(tensor: Tensor, y: Tensor, axis: int) -> Axis | None:
    """The axis of an operand that lies under axis `axis` of the result; None where the operand repeats."""
    index = axis - y.rank + tensor.rank
    return tensor.axes[index] if index >= 0 else None


def broadcast_size(sizes: Iterable[Size], inferred: Size) -> Size:
    """The extent that operands of these extents have together."""
    if isinstance(inferred, int):
        return inferred
    sizes = list(sizes)
    others = {s for s in sizes if s != 1}
    if sizes and not others:
        return 1
    static = [s for s in others if isinstance(s, int)]
    if static:
        return static[0]
    for size in others:  # all others are equal to it, or at most it and so 1 where they differ
        if all(at_most(other, size) for other in others):
            return size
    return inferred


class Elementwise(Rule):
    """y = f(operands), broadcast.

    Args:
        function: f on constants, called with the op and one array per operand; None: constants are not followed.
        absorbing: a zero in any operand makes the result zero.
        neutral: a constant operand of this value changes nothing (on either side; `right` only on the second).
        lower: a number that no element of the result is below.
    """

    operands = "varying"
    note = "elementwise"

    def __init__(
        self,
        function: Function | None,
        *,
        absorbing: bool = False,
        neutral: float | None = None,
        right: bool = False,
        lower: float | None = None,
        homogeneous: bool = False,
    ) -> None:
        self.function = function
        self.absorbing = absorbing
        self.neutral = neutral
        self.right = right
        self.lower = lower
        self.homogeneous = homogeneous  # f(s x) = s f(x) for s > 0: a scale may move through it

    def sources(self, op: Op) -> list[Tensor]:
        """The operands that are broadcast against each other."""
        return [t for t in op.ins if t is not None]

    def results(self, op: Op) -> list[Tensor]:
        """The outputs that have the operands' shape."""
        return op.outs[:1]

    def shapes(self, op: Op) -> None:
        sources = self.sources(op)
        if any(t.opaque for t in sources):
            return
        rank = max(t.rank for t in sources)
        for y in self.results(op):
            if y.opaque or y.rank != rank:  # a file may declare nonsense
                y.reshape([Sym(1, (f"{y.name}.{i}",)) for i in range(rank)])
            for i in range(rank):
                axes = [a for t in sources if (a := aligned(t, y, i)) is not None]
                size = broadcast_size([a.tensor.shape[a.index] for a in axes if a.tensor], y.shape[i])
                if size != y.shape[i]:
                    y.set_layout(i, (size,))
                structured = [a for a in axes if len(a.layout) > 1]
                if structured:
                    y.adopt(i, structured[0])

    def beside(self, op: Op, index: int) -> Sequence[int] | None:
        broadcast = [i for i, t in enumerate(op.ins) if t is not None and any(t is s for s in self.sources(op))]
        opaque = any(t is None or t.opaque for t in (op.ins[i] for i in broadcast))
        return [i for i in broadcast if i != index] if index in broadcast and not opaque else None

    def evaluate(self, op: Op, *arrays: Array) -> Array | None:
        """Real numbers go through the rule's own function, in double precision."""
        real = op.y.dtype is not None and op.y.dtype.kind == "f" and all(a.dtype == op.y.dtype for a in arrays)
        if self.function is None or not real or not len(arrays) == len(op.ins) == len(self.sources(op)):
            return None
        with np.errstate(all="ignore"):
            return np.asarray(self.function(op, *(a.astype(np.float64) for a in arrays))).astype(op.y.dtype)

    def entries(self, op: Op) -> None:
        if len(op.ins) == 1 and op.kind in ("Identity", "Cast") and op.entries_of(0) is not None:
            op.y.set_entries(op.ins[0].entries)  # type: ignore[union-attr, arg-type]
        elif op.kind in ("Add", "Sub", "Mul", "Div", "Equal", "Where"):
            parts = [e for i in range(len(op.ins)) if (e := op.entries_of(i)) is not None]
            if len(parts) == len(op.ins) and op.y.dtype is not None and op.y.dtype.kind in "iub":
                op.y.set_entries(choose(*parts) if op.kind == "Where" else combine(op.kind, *parts))

    def relations(self, op: Op) -> Iterator[Relation]:
        sources = self.sources(op)
        if any(t.opaque for t in [*sources, *self.results(op)]):
            yield from pin_all(op, "unknown rank")
            return
        for y in self.results(op):
            for i, out in enumerate(y.axes):
                yield from self._align(out, [a for t in sources if (a := aligned(t, y, i)) is not None])

    def _align(self, out: Axis, axes: list[Axis]) -> Iterator[Relation]:
        sizes = [a.tensor.shape[a.index] for a in axes if a.tensor]
        # an operand of unknown extent may turn out to be 1 or n at run time
        loose = any(isinstance(s, Sym) and a.n != out.n for s, a in zip(sizes, axes, strict=True))
        for axis in axes:
            if axis.n == out.n and axis.n > 1:
                yield Same(axis, out)
            elif axis.n > 1:
                yield Pinned(axis, "extents are not known to be equal")
        if out.n > 1 and loose:
            yield Pinned(out, "an operand's extent is not known")

    def constants(self, op: Op) -> None:
        sources = self.sources(op)
        y = self.y(op)
        if y.opaque or any(t.opaque for t in sources):
            return
        self._bound(op, y)
        if not self.absorbing and not all(t.any_const or t.is_known for t in sources):
            return
        for i, out in enumerate(y.axes):
            if out.n > 1:
                self._constants_along(op, y, i, sources)
        if y.rank == 0 or all(axis.n == 1 for axis in y.axes):
            values = [t.uniform for t in sources]
            if self.function is not None and all(v is not None for v in values):
                self._constants_whole(op, y, values)

    def y(self, op: Op) -> Tensor:
        return op.outs[0]

    def _bound(self, op: Op, y: Tensor) -> None:
        if self.lower is not None:
            y.lower = max(y.lower, self.lower)

    def _constants_along(self, op: Op, y: Tensor, i: int, sources: list[Tensor]) -> None:
        n = y.axes[i].n
        if not self.absorbing and any(_varies(t, aligned(t, y, i), n) for t in sources):
            return
        mask: Mask | None = None
        values: list[Array] = []
        zero = np.zeros(n, bool)
        for t in sorted(sources, key=lambda t: t.is_known):  # cheap facts first
            axis = aligned(t, y, i)
            if self.absorbing:
                zeros = t.zeros(axis.index) if axis is not None and axis.n == n else None
                if zeros is not None:
                    zero |= zeros
                elif axis is None or axis.n == 1:
                    zero |= t.uniform == 0
        if zero.any() and not all(_finite(t) for t in sources):  # zero times infinity is not zero
            zero[:] = False
        for t in sources:
            axis = aligned(t, y, i)
            one, value = operand_const(t, axis, n)
            mask = one if mask is None else mask & one
            values.append(value)
            if not mask.any():
                break
        result = np.zeros(n)
        if mask is not None and mask.any() and self.function is not None:
            with np.errstate(all="ignore"):
                result = np.broadcast_to(self.function(op, *values), (n,)).copy()
            mask = mask & np.isfinite(result.astype(np.float64))
        else:
            mask = np.zeros(n, bool)
        mask, result = mask | zero, np.where(zero, 0, result)
        y.set_const(i, mask, result)

    def _constants_whole(self, op: Op, y: Tensor, values: list[Any]) -> None:
        with np.errstate(all="ignore"):
            result = self.function(op, *(np.asarray([v]) for v in values)) if self.function else np.array([np.nan])
        if np.isfinite(np.asarray(result, float)).all():
            y.set_uniform(result[0])

    def scaled_by(self, op: Op, axis: int, *, positive: bool) -> dict[int, int] | None:
        real = op.x.dtype is not None and op.x.dtype == op.y.dtype  # a Cast rounds
        return {0: axis} if self.homogeneous and positive and real and len(op.ins) == 1 else None

    def rewrite(self, op: Op, slim: Slim) -> None:
        slim.fill_operands(op)
        if self.neutral is not None and slim.touched(op):
            slim.skip_neutral(op, self.neutral, right_only=self.right)


def _finite(t: Tensor) -> bool:
    """Whether a known operand holds finite numbers only; what is computed at run time is taken to be finite."""
    return not t.is_known or t.content.dtype.kind != "f" or bool(np.isfinite(t.content).all())


def _varies(t: Tensor, axis: Axis | None, n: int) -> bool:
    """Whether no slot of an operand is constant along a result axis of n slots."""
    return axis is not None and axis.n == n > 1 and t.const(axis.index) is None


def operand_const(t: Tensor, axis: Axis | None, n: int) -> tuple[Mask, Array]:
    """Constant slots of an operand as seen from a result axis of n slots."""
    if axis is not None and axis.n == n and n > 1:
        const = t.const(axis.index)
        return (const.mask, const.value) if const is not None else (np.zeros(n, bool), np.zeros(n))
    value = t.uniform
    return (np.zeros(n, bool), np.zeros(n)) if value is None else (np.ones(n, bool), np.repeat(np.asarray(value), n))


class Parametric(Elementwise):
    """An activation of the first input alone; the other inputs are scalars that parametrise it (Clip, CastLike)."""

    def sources(self, op: Op) -> list[Tensor]:
        return [op.x]


class Dropout(Parametric):
    """The identity at inference; the optional second output is a mask of the same shape."""

    def relations(self, op: Op) -> Iterator[Relation]:
        if (op.known(2) is not None and bool(op.known(2))) or (op.has(2) and op.known(2) is None):
            yield from pin_all(op, "training mode")
        else:
            yield from super().relations(op)

    def results(self, op: Op) -> list[Tensor]:
        return op.outs


class ScalarBound(Parametric):
    """Clip: also records the lower bound."""

    def _bound(self, op: Op, y: Tensor) -> None:
        low = op.attr("min") if op.version < 11 else op.known(1)
        if low is not None:
            y.lower = max(y.lower, float(low))


class Addition(Elementwise):
    """Add and Sum: lower bounds add up."""

    def scaled_by(self, op: Op, axis: int, *, positive: bool) -> dict[int, int] | None:
        axes = {i: axis - op.y.rank + t.rank for i, t in enumerate(op.ins) if t is not None}
        return axes if all(a >= 0 for a in axes.values()) else None

    def _bound(self, op: Op, y: Tensor) -> None:
        y.lower = sum(lower_bound(t) for t in self.sources(op))


class Multiplication(Elementwise):
    """Mul: a square is never negative, nor is the product of two that are not."""

    gates = True

    def scaled_by(self, op: Op, axis: int, *, positive: bool) -> dict[int, int] | None:
        for i, t in enumerate(op.ins):
            if t is not None and t.shape == op.y.shape and not t.is_leaf:
                return {i: axis}
        return None

    def _bound(self, op: Op, y: Tensor) -> None:
        a, b = (*op.ins, None)[:2]
        if a is b or (a is not None and b is not None and min(lower_bound(a), lower_bound(b)) >= 0):
            y.lower = 0.0


class Copy(Elementwise):
    """Identity."""

    renames = True

    def evaluate(self, op: Op, *arrays: Array) -> Array:
        return arrays[0]

    def moves(self, op: Op, source: Array) -> Array:
        return source


class Choice(Elementwise):
    """Where: slots for which a known condition chooses are those of the operand that it chooses."""

    def _bound(self, op: Op, y: Tensor) -> None:
        y.lower = min(lower_bound(t) for t in self.sources(op)[1:])

    def constants(self, op: Op) -> None:
        super().constants(op)
        sources, y = self.sources(op), op.y
        if y.opaque or any(t.opaque for t in sources) or not (sources[0].any_const or sources[0].is_known):
            return
        for i, out in enumerate(y.axes):
            if out.n > 1:
                (decided, choice), *sides = (operand_const(t, aligned(t, y, i), out.n) for t in sources)
                mask = decided & np.where(choice != 0, sides[0][0], sides[1][0])
                value = np.where(choice != 0, sides[0][1], sides[1][1])
                mask &= np.isfinite(value.astype(np.float64))
                if mask.any():
                    y.set_const(i, mask, np.where(mask, value, 0))


class Division(Elementwise):
    """Div: zero over something positive is zero."""

    def _constants_along(self, op: Op, y: Tensor, i: int, sources: list[Tensor]) -> None:
        a, b = sources
        axis = aligned(a, y, i)
        if lower_bound(b) > 0 and axis is not None and axis.n == y.axes[i].n:
            zeros = a.zeros(axis.index)
            if zeros is not None:
                y.set_const(i, zeros, np.zeros(len(zeros)))
        super()._constants_along(op, y, i, sources)

    def constants(self, op: Op) -> None:
        super().constants(op)
        a, b = op.ins[0], op.ins[1]
        if a is None or b is None:
            return
        if min(lower_bound(a), lower_bound(b)) >= 0:
            y = op.y
            y.lower = 0.0
        if (a.any_const or a.is_known) and lower_bound(b) > 0 and not op.y.opaque:
            for i, out in enumerate(op.y.axes):
                if out.n > 1:
                    self._constants_along(op, op.y, i, self.sources(op))


class Extreme(Elementwise):
    """Max and Min: so are lower bounds."""

    def __init__(self, function: Callable[[Array, Array], Any], bound: Callable[[Iterable[float]], float]) -> None:
        super().__init__(_fold(function))
        self.bound = bound

    def _bound(self, op: Op, y: Tensor) -> None:
        y.lower = self.bound(lower_bound(t) for t in self.sources(op))


class Conversion(Elementwise):
    """Cast: rounding keeps the order, so a lower bound is rounded; whole numbers may wrap where there are fewer."""

    def _bound(self, op: Op, y: Tensor) -> None:
        low, source, to = lower_bound(op.x), op.x.dtype, y.dtype
        if source is None or to is None or not math.isfinite(low):
            return
        if to.kind == "f":
            with np.errstate(over="ignore"):
                y.lower = float(np.float64(low).astype(to))
        elif low >= 0 and (to.kind not in "iu" or (source.kind in "biu" and np.can_cast(source, to))):
            y.lower = low if to.kind in "iu" else 0.0


class Power(Elementwise):
    """Pow: even powers are never negative."""

    def _bound(self, op: Op, y: Tensor) -> None:
        exponent = op.ins[1].uniform if op.ins[1] is not None and op.ins[1].is_known else None
        if exponent is not None and float(exponent) % 2 == 0:
            y.lower = 0.0


class SquareRoot(Elementwise):
    """Sqrt keeps a positive bound positive."""

    def _bound(self, op: Op, y: Tensor) -> None:
        y.lower = math.sqrt(max(lower_bound(op.x), 0.0))


def lower_bound(t: Tensor) -> float:
    """A number that no element is below."""
    if t.is_known and t.content.dtype.kind in "iuf" and t.content.size:
        return float(t.content.min()) if t.content.size <= 65536 else -math.inf
    return max(t.lower, 0.0) if t.dtype is not None and t.dtype.kind in "bu" else t.lower


def _gelu(op: Op, x: Array) -> Array:
    if op.attr("approximate", "none") == "tanh":
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + _erf(x / math.sqrt(2)))


def _erf(x: Array) -> Array:
    return np.array([math.erf(v) for v in np.asarray(x, float).ravel()]).reshape(np.shape(x))


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-np.asarray(x, float)))


def _clip(op: Op, x: Array) -> Array:
    low, high = (op.attr("min"), op.attr("max")) if op.version < 11 else (op.known(1), op.known(2))
    if op.version >= 11 and ((op.has(1) and low is None) or (op.has(2) and high is None)):
        return np.full(np.shape(x), np.nan)
    return np.clip(x, -np.inf if low is None else low, np.inf if high is None else high)


def _cast(op: Op, x: Array) -> Array:
    import onnx_ir as ir

    to = (
        ir.DataType(op.attr("to"))
        if "to" in op.node.attributes
        else (op.outs[0].value.dtype if op.outs[0].value else None)
    )
    if to is None or to == ir.DataType.STRING or to.bitwidth < 8 or "FLOAT8" in to.name:
        return np.full(np.shape(x), np.nan)
    from onnxdam.analysis.tensor import wide

    return wide(np.asarray(x).astype(to.numpy()))


def _div(op: Op, a: Array, b: Array) -> Array:
    if np.asarray(a).dtype.kind in "iu" and np.asarray(b).dtype.kind in "iu":
        safe = np.where(b == 0, 1, b)
        return np.where(b == 0, np.nan, np.trunc(a / safe))
    return a / b


def _elu(op: Op, x: Array) -> Array:
    return np.where(x > 0, x, op.attr("alpha", 1.0) * np.expm1(np.minimum(x, 0)))


def _celu(op: Op, x: Array) -> Array:
    alpha = op.attr("alpha", 1.0)
    return np.maximum(x, 0) + np.minimum(0, alpha * np.expm1(x / alpha))


def _selu(op: Op, x: Array) -> Array:
    alpha, gamma = op.attr("alpha", 1.67326319217681884765625), op.attr("gamma", 1.05070102214813232421875)
    return gamma * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _shrink(op: Op, x: Array) -> Array:
    bias, limit = op.attr("bias", 0.0), op.attr("lambd", 0.5)
    return np.where(x < -limit, x + bias, np.where(x > limit, x - bias, 0))


def _hard_sigmoid(op: Op, x: Array) -> Array:
    return np.clip(op.attr("alpha", 0.2) * x + op.attr("beta", 0.5), 0, 1)


def _mod(op: Op, a: Array, b: Array) -> Array:
    return np.fmod(a, b) if op.attr("fmod", 0) else np.mod(a, b)


def _fold(function: Callable[[Array, Array], Any]) -> Function:
    def variadic(op: Op, *values: Array) -> Array:
        total = values[0]
        for value in values[1:]:
            total = function(total, value)
        return np.asarray(total)

    return variadic


def _plain(function: Callable[..., Any]) -> Function:
    return lambda op, *values: np.asarray(function(*values))


def _unary(function: Callable[..., Any], **options: Any) -> Elementwise:
    return Elementwise(_plain(function), **options)


def _compare(function: Callable[..., Any]) -> Elementwise:
    return Elementwise(lambda op, a, b: np.asarray(function(a, b)).astype(np.int64))


TABLE: dict[tuple[str, str], Rule] = {
    # activations
    ("", "Relu"): _unary(lambda x: np.maximum(x, 0), lower=0.0, homogeneous=True),
    ("", "LeakyRelu"): Elementwise(lambda op, x: np.where(x < 0, op.attr("alpha", 0.01) * x, x), homogeneous=True),
    ("", "PRelu"): Elementwise(lambda op, x, slope: np.where(x < 0, slope * x, x)),
    ("", "Elu"): Elementwise(_elu),
    ("", "Celu"): Elementwise(_celu),
    ("", "Selu"): Elementwise(_selu),
    ("", "Sigmoid"): _unary(_sigmoid, lower=0.0),
    ("", "HardSigmoid"): Elementwise(_hard_sigmoid, lower=0.0),
    ("", "HardSwish"): _unary(lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    ("", "Tanh"): _unary(np.tanh, lower=-1.0),
    ("", "Softplus"): _unary(lambda x: np.logaddexp(0, x), lower=0.0),
    ("", "Softsign"): _unary(lambda x: x / (1 + np.abs(x)), lower=-1.0),
    ("", "ThresholdedRelu"): Elementwise(lambda op, x: np.where(x > op.attr("alpha", 1.0), x, 0)),
    ("", "Gelu"): Elementwise(_gelu),
    ("", "Mish"): _unary(lambda x: x * np.tanh(np.logaddexp(0, x))),
    ("", "Swish"): Elementwise(lambda op, x: x * _sigmoid(op.attr("alpha", 1.0) * x)),
    ("", "Shrink"): Elementwise(_shrink),
    ("", "Clip"): ScalarBound(_clip),
    ("", "Dropout"): Dropout(_plain(lambda x: x), homogeneous=True),
    ("", "Identity"): Copy(_plain(lambda x: x), homogeneous=True),
    ("com.microsoft", "Gelu"): Elementwise(_gelu),
    ("com.microsoft", "QuickGelu"): Elementwise(lambda op, x: x * _sigmoid(op.attr("alpha", 1.702) * x)),
    ("com.microsoft", "FastGelu"): Elementwise(
        lambda op, x, b=0.0: 0.5 * (x + b) * (1 + np.tanh(0.7978845608028654 * ((x + b) + 0.044715 * (x + b) ** 3)))
    ),
    ("com.microsoft", "BiasGelu"): Elementwise(lambda op, x, b: 0.5 * (x + b) * (1 + _erf((x + b) / math.sqrt(2)))),
    # types
    ("", "Cast"): Conversion(_cast, homogeneous=True),
    ("", "CastLike"): Parametric(_cast),
    # arithmetic
    ("", "Abs"): _unary(np.abs, lower=0.0, homogeneous=True),
    ("", "Neg"): _unary(np.negative, homogeneous=True),
    ("", "Sqrt"): SquareRoot(_plain(np.sqrt)),
    ("", "Exp"): _unary(np.exp, lower=0.0),
    ("", "Log"): _unary(np.log),
    ("", "Erf"): _unary(_erf, lower=-1.0),
    ("", "Reciprocal"): _unary(lambda x: 1 / np.asarray(x, float)),
    ("", "Sign"): _unary(np.sign),
    ("", "Floor"): _unary(np.floor),
    ("", "Ceil"): _unary(np.ceil),
    ("", "Round"): _unary(np.rint),
    **{
        ("", name): _unary(function)
        for name, function in {
            "Sin": np.sin,
            "Cos": np.cos,
            "Tan": np.tan,
            "Asin": np.arcsin,
            "Acos": np.arccos,
            "Atan": np.arctan,
            "Sinh": np.sinh,
            "Cosh": np.cosh,
            "Asinh": np.arcsinh,
            "Acosh": np.arccosh,
            "Atanh": np.arctanh,
        }.items()
    },
    ("", "IsNaN"): _unary(lambda x: np.isnan(x).astype(np.int64)),
    ("", "IsInf"): Elementwise(None),
    ("", "Add"): Addition(_fold(np.add), neutral=0.0),
    ("", "Sub"): Elementwise(_plain(np.subtract), neutral=0.0, right=True),
    ("", "Mul"): Multiplication(_fold(np.multiply), absorbing=True, neutral=1.0),
    ("", "Div"): Division(_div, neutral=1.0, right=True),
    ("", "Pow"): Power(_plain(lambda a, b: np.power(np.asarray(a, float), b))),
    ("", "Mod"): Elementwise(_mod),
    ("", "Sum"): Addition(_fold(np.add)),
    ("", "Mean"): Elementwise(lambda op, *values: _fold(np.add)(op, *values) / len(values)),
    ("", "Min"): Extreme(np.minimum, min),
    ("", "Max"): Extreme(np.maximum, max),
    # logic; booleans are carried as 0 and 1
    ("", "And"): Elementwise(lambda op, a, b: (a != 0) & (b != 0), absorbing=True),
    ("", "Or"): Elementwise(lambda op, a, b: (a != 0) | (b != 0)),
    ("", "Xor"): Elementwise(lambda op, a, b: (a != 0) ^ (b != 0)),
    ("", "Not"): _unary(lambda x: (x == 0).astype(np.int64)),
    ("", "Equal"): _compare(np.equal),
    ("", "Greater"): _compare(np.greater),
    ("", "GreaterOrEqual"): _compare(np.greater_equal),
    ("", "Less"): _compare(np.less),
    ("", "LessOrEqual"): _compare(np.less_equal),
    ("", "Where"): Choice(lambda op, c, a, b: np.asarray(np.where(c != 0, a, b))),
    **{("", name): Elementwise(None) for name in ("BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseNot")},
}
