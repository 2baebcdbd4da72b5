"""Operators of classical machine learning (domain ai.onnx.ml), whose weights are attributes.

    Scaler, Imputer, Binarizer     y[j] = f(x[j]; numbers of j)         slots of the last axis correspond
    LinearClassifier, -Regressor   y = C x + b                          a feature whose column of C is zero is not read
    SVMClassifier, -Regressor      y = sum_i a_i k(v_i, x) + rho        the same with the vectors, where k is a product
    TreeEnsemble...                                                     a feature that no node tests is not read
    ArrayFeatureExtractor          y[j] = x[index[j]]
    Normalizer                     y = x / norm(x)                      zero slots neither count nor come out otherwise

Scores and labels come out whole: their axes stay. A feature that is constant leaves as well, into the intercepts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from onnxdam.analysis.tensor import Array, Mask
from onnxdam.rules.base import (
    Follows,
    Op,
    Pinned,
    Relation,
    Rule,
    adopt_shape,
    carry_const,
    pin_all,
    same,
    same_axes,
)

if TYPE_CHECKING:
    from onnxdam.rewrite.slim import Slim

Function = Callable[..., Array]


def _numbers(op: Op, name: str) -> Array:
    """A list attribute as an array, empty where it is absent."""
    return np.asarray(op.attr(name, ()), np.float64)


# -- feature by feature ------------------------------------------------------------------------------------------------
class PerFeature(Rule):
    """y[..., j] = f(x[..., j], parameters of j): each attribute holds one number for every slot, or one for all.

    Args:
        function: f on constants.
        parameters: attribute -> what it is where it is absent.
    """

    def __init__(self, function: Function, parameters: Mapping[str, float]) -> None:
        self.function = function
        self.parameters = parameters

    def shapes(self, op: Op) -> None:
        if op.x.rank > 1:
            adopt_shape(op.x, op.y)

    def relations(self, op: Op) -> Iterator[Relation]:
        if op.x.rank < 2 or op.y.rank != op.x.rank:
            yield from pin_all(op, "unknown rank")
        else:
            yield from same_axes(op.x, op.y)

    def constants(self, op: Op) -> None:
        x, y = op.x, op.y
        if x.rank < 2 or y.rank != x.rank or y.axes[-1].n == 1:
            return
        const, n = x.const(-1) if x.any_const else None, y.axes[-1].n
        known = [self._parameter(op, name, n) for name in self.parameters]
        if const is None or len(const.mask) != n or any(p is None for p in known):
            return
        with np.errstate(all="ignore"):
            value = np.broadcast_to(self.function(const.value, *known), (n,))
        y.set_const(-1, const.mask & np.isfinite(value), np.where(np.isfinite(value), value, 0))

    def _parameter(self, op: Op, name: str, n: int) -> Array | None:
        given = np.atleast_1d(np.asarray(op.attr(name, self.parameters[name]), np.float64))
        return given if len(given) in (1, n) else None

    def rewrite(self, op: Op, slim: Slim) -> None:
        if op.x.rank < 2 or not slim.narrowed(op.x, -1):
            return
        kept, n = slim.slots(op.x, -1), op.x.axes[-1].n
        for name in self.parameters:
            given = op.attr(name)
            if isinstance(given, tuple) and len(given) == n:
                slim.set_attr(op, name, [given[j] for j in kept])


def _scaled(x: Array, offset: Array, scale: Array) -> Array:
    return (x - offset) * scale


def _imputed(x: Array, found: Array, value: Array) -> Array:
    return np.where((x == found) | (np.isnan(x) & np.isnan(found)), value, x)


# -- models ------------------------------------------------------------------------------------------------------------
class FeatureReader(Rule):
    """Reads the features along the last axis of x, as `read` says; everything else stays."""

    def read(self, op: Op, n: int) -> Mask | None:
        """Which of n features matter; None: that cannot be told."""
        raise NotImplementedError

    def narrow(self, op: Op, slim: Slim, n: int, kept: Array) -> None:
        """Rewrites the attributes for the features that are kept."""
        raise NotImplementedError

    def absorbs(self, op: Op, n: int) -> bool:
        """Whether constant features need not stay: `absorb` takes them in."""
        return False

    def absorb(self, op: Op, slim: Slim, n: int, constants: Array) -> None:
        """Takes in features (n numbers, 0 where a feature stays) that are constant and leave."""

    def relations(self, op: Op) -> Iterator[Relation]:
        x = op.x
        read = self.read(op, x.axes[-1].n) if x.rank and isinstance(x.shape[-1], int) and x.axes[-1].n > 1 else None
        if read is None:
            yield from pin_all(op, "features cannot be told apart")
            return
        yield from pin_all(op, "read row by row", op.outs)
        yield from (Pinned(axis, "read row by row") for axis in x.axes[:-1] if axis.n > 1)
        const = x.const(-1) if x.any_const and self.absorbs(op, x.axes[-1].n) else None
        yield Pinned(x.axes[-1], "read by the model's own numbers", read if const is None else read & ~const.mask)

    def rewrite(self, op: Op, slim: Slim) -> None:
        x = op.x
        if not x.rank or not slim.narrowed(x, -1):
            return
        n, kept = x.axes[-1].n, slim.slots(x, -1)
        const = x.const(-1) if x.any_const and self.absorbs(op, n) else None
        if const is not None:
            gone = const.mask.copy()
            gone[kept] = False
            self.absorb(op, slim, n, np.where(gone, const.value, 0))
        self.narrow(op, slim, n, kept)


class Table(FeatureReader):
    """Attributes that are tables with a column for each feature, row by row: C x is all that is computed with them.

    Args:
        bias: the attribute that is added to C x, "" for none.
    """

    def __init__(self, bias: str = "") -> None:
        self.bias = bias

    def attribute(self, op: Op) -> str:
        """Which attribute is the table."""
        return "coefficients"

    def table(self, op: Op, n: int) -> Array | None:
        numbers = _numbers(op, self.attribute(op))
        return numbers.reshape(-1, n) if len(numbers) and len(numbers) % n == 0 else None

    def read(self, op: Op, n: int) -> Mask | None:
        table = self.table(op, n)
        return None if table is None else np.asarray((table != 0).any(0))

    def narrow(self, op: Op, slim: Slim, n: int, kept: Array) -> None:
        table = self.table(op, n)
        assert table is not None
        slim.set_attr(op, self.attribute(op), [float(v) for v in table[:, kept].reshape(-1)])

    def absorbs(self, op: Op, n: int) -> bool:
        table = self.table(op, n)
        return bool(self.bias) and table is not None and len(_numbers(op, self.bias)) in (0, len(table))

    def absorb(self, op: Op, slim: Slim, n: int, constants: Array) -> None:
        table = self.table(op, n)
        assert table is not None
        shift, old = table @ constants, _numbers(op, self.bias)
        if shift.any():
            slim.set_attr(op, self.bias, [float(v) for v in (old + shift if len(old) else shift)])


class SupportVectors(Table):
    """SVMs: with a kernel of x . v, a feature that is zero in every vector is not read. Without vectors: linear."""

    PRODUCTS = ("LINEAR", "POLY", "SIGMOID")

    def attribute(self, op: Op) -> str:
        return "support_vectors" if op.attr("support_vectors") else "coefficients"

    def table(self, op: Op, n: int) -> Array | None:
        return super().table(op, n) if op.attr("kernel_type", "LINEAR") in self.PRODUCTS else None


class Trees(FeatureReader):
    """Decision trees: nodes name the features they test by number.

    Args:
        leaves: leaves are nodes as well, of mode LEAF.
    """

    def __init__(self, *, leaves: bool) -> None:
        self.leaves = leaves

    def _tests(self, op: Op) -> tuple[Array, Mask]:
        """The feature of each node, and which nodes test one."""
        features = np.asarray(op.attr("nodes_featureids", ()), np.int64)
        if not self.leaves:
            return features, np.ones(len(features), bool)
        modes = op.attr("nodes_modes", ())
        return features, np.array([mode != "LEAF" for mode in modes], bool)

    def read(self, op: Op, n: int) -> Mask | None:
        features, tests = self._tests(op)
        used = features[tests] if len(features) == len(tests) else features
        if len(features) != len(tests) or not ((used >= 0) & (used < n)).all():
            return None
        read = np.zeros(n, bool)
        read[used] = True
        return read

    def narrow(self, op: Op, slim: Slim, n: int, kept: Array) -> None:
        features, tests = self._tests(op)
        new = np.searchsorted(kept, features)
        slim.set_attr(op, "nodes_featureids", np.where(tests, new, 0).tolist())


# -- the rest ----------------------------------------------------------------------------------------------------------
class ArrayFeatureExtractor(Rule):
    """y[..., j] = x[..., index[j]]."""

    def shapes(self, op: Op) -> None:
        x, index = op.x, op.known(1)
        if x.rank > 1 and index is not None and op.y.opaque:
            op.y.reshape([*x.shape[:-1], index.size])
            adopt_shape(x, op.y, range(x.rank - 1))

    def _picks(self, op: Op) -> Array | None:
        index = op.known(1)
        fits = op.x.rank > 1 and op.y.rank == op.x.rank and isinstance(op.x.shape[-1], int)
        if index is None or not fits or op.x.axes[-1].n == 1 or index.size == 0 or index.min() < 0:
            return None
        return index.reshape(-1) if op.y.axes[-1].n == index.size else None

    def relations(self, op: Op) -> Iterator[Relation]:
        picks, index = self._picks(op), op.tensor(1)
        if picks is None or index is None:
            yield from pin_all(op, "indexed at run time")
            return
        yield from same_axes(op.x, op.y, range(op.x.rank - 1))
        if len(picks) > 1:
            yield from same(index.axes[-1], op.y.axes[-1])
            yield Follows(op.y.axes[-1], op.x.axes[-1], picks)
        else:
            yield Pinned(op.x.axes[-1], "selected by index", np.isin(np.arange(op.x.axes[-1].n), picks))

    def constants(self, op: Op) -> None:
        picks = self._picks(op)
        if picks is None or not op.x.any_const:
            return
        carry_const(op.x, op.y, range(op.x.rank - 1))
        const = op.x.const(-1)
        if const is not None and len(picks) > 1:
            op.y.set_const(-1, const.mask[picks], const.value[picks])

    def rewrite(self, op: Op, slim: Slim) -> None:
        picks, index = self._picks(op), op.known(1)
        if picks is not None and index is not None and slim.narrowed(op.x, -1):
            kept = slim.slots(op.x, -1)
            place = np.searchsorted(kept, picks).clip(0, len(kept) - 1)
            slim.set_known(op, 1, place.astype(index.dtype).reshape(index.shape))


class Normalizer(Rule):
    """y = x / |x| along the last axis, the norm L1 or L2: zero slots may leave."""

    def shapes(self, op: Op) -> None:
        if op.x.rank > 1:
            adopt_shape(op.x, op.y)

    def _zeros(self, op: Op) -> Mask | None:
        return op.x.zeros(-1) if op.x.any_const and op.attr("norm", "MAX") in ("L1", "L2") else None

    def relations(self, op: Op) -> Iterator[Relation]:
        x, y = op.x, op.y
        if x.rank < 2 or y.rank != x.rank:
            yield from pin_all(op, "unknown rank")
            return
        yield from same_axes(x, y)
        if x.axes[-1].n > 1:
            zeros = self._zeros(op)
            yield Pinned(x.axes[-1], "normalised over", None if zeros is None else ~zeros)

    def constants(self, op: Op) -> None:
        zeros = self._zeros(op) if op.x.rank > 1 and op.y.rank == op.x.rank else None
        if zeros is not None and not zeros.all() and op.y.axes[-1].n == len(zeros):
            op.y.set_const(-1, zeros, np.zeros(len(zeros)))


ML = "ai.onnx.ml"
TABLE: dict[tuple[str, str], Rule] = {
    (ML, "Scaler"): PerFeature(_scaled, {"offset": 0.0, "scale": 1.0}),
    (ML, "Imputer"): PerFeature(_imputed, {"replaced_value_float": 0.0, "imputed_value_floats": 0.0}),
    (ML, "Binarizer"): PerFeature(lambda x, threshold: (x > threshold).astype(np.float64), {"threshold": 0.0}),
    (ML, "LinearRegressor"): Table(bias="intercepts"),
    (ML, "LinearClassifier"): Table(bias="intercepts"),
    (ML, "SVMRegressor"): SupportVectors(),
    (ML, "SVMClassifier"): SupportVectors(),
    (ML, "TreeEnsembleRegressor"): Trees(leaves=True),
    (ML, "TreeEnsembleClassifier"): Trees(leaves=True),
    (ML, "TreeEnsemble"): Trees(leaves=False),
    (ML, "ArrayFeatureExtractor"): ArrayFeatureExtractor(),
    (ML, "Normalizer"): Normalizer(),
}
