"""Which features of its inputs a model reads, and how much it asks for each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnxdam import api
from onnxdam.analysis.need import Need
from onnxdam.analysis.tensor import Array, Mask, Tensor
from onnxdam.errors import InputError
from onnxdam.features import demand
from onnxdam.features.demand import Arrival, Element
from onnxdam.features.files import of_model
from onnxdam.features.manifest import ANY_RANK, InputFeatures, Manifest, Shape, shown
from onnxdam.features.tables import check_names
from onnxdam.graph import io


@dataclass(frozen=True)
class Feature:
    """One feature, for a reader.

    Attributes:
        index: among all features of the input, row-major over its `axes`.
        position: its index on each of these axes.
        name: "" where it has none.
        read: see `Reading`.
        paths: see `Reading`.
        norm: see `Reading`; None where it has none.
    """

    index: int
    position: tuple[int, ...]
    name: str
    read: bool
    paths: int
    norm: float | None


@dataclass(frozen=True, eq=False)
class Reading:
    """What a model reads of one input. Arrays run over its features, row-major over `axes`.

    Attributes:
        name: of the input.
        shape: of the input, in the original where the model was pruned.
        axes: axes of `shape` that features run along: those that are narrowed or that the first weights tell apart.
            Empty: the input is read as a whole.
        names: of the features; empty where they have none.
        read: bool; whether any output depends on the feature.
        kept: bool; whether it stays when the model is pruned. More stay than are read where features leave together,
            such as whole rows and columns.
        paths: int; how often the first readers read it. From the input on, nodes that move or map elements one by one
            are followed; wherever such a way ends at a contraction, every place there where a copy of the feature
            meets a weight that is not zero counts, and so do an output, and a node that mixes features without weights.
        norm: float64; square root of the sum of squares of these first weights, each as it is stored (a factor in
            between is not in it; quantised weights count in steps). NaN where all first readers lack known weights.
        readers: the first readers: nodes as "Operator name", and "output NAME".
    """

    name: str
    shape: Shape
    axes: tuple[int, ...]
    names: tuple[str, ...]
    read: Mask
    kept: Mask
    paths: Array
    norm: Array
    readers: tuple[str, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """The extents of `axes`."""
        return tuple(int(self.shape[axis] or 0) for axis in self.axes)

    @property
    def order(self) -> Array:
        """The features from the most wanted to the least: those read first, by norm, then paths, then index."""
        norm = np.where(np.isnan(self.norm), -1.0, self.norm)
        return np.lexsort((np.arange(len(self.read)), -self.paths, -norm, ~self.read))

    def features(self, indices: Sequence[int] | Array | None = None) -> Iterator[Feature]:
        """The features of these indices; without, all in `order`."""
        for index in self.order if indices is None else indices:
            i = int(index)
            norm = None if math.isnan(self.norm[i]) else float(self.norm[i])
            position = tuple(int(p) for p in np.unravel_index(i, self.sizes))
            name = self.names[i] if self.names else ""
            yield Feature(i, position, name, bool(self.read[i]), int(self.paths[i]), norm)

    def named(self, names: Sequence[str]) -> Reading:
        """The same with names.

        Raises:
            InputError: there are not as many names as features.
        """
        if len(names) != len(self.read):
            raise InputError(f"names: {len(names)} names for {len(self.read)} features of input {self.name!r}")
        check_names(names, "names")
        return replace(self, names=tuple(names))


def rank(
    model: api.Model, *, names: Sequence[str] | Mapping[str, Sequence[str]] = (), **options: Any
) -> tuple[Reading, ...]:
    """What a model reads of its inputs, feature by feature, and what it does not.

    Of a model that was pruned with `--inputs`, all features of the original are listed, by its manifest.

    Args:
        model: a path or a model.
        names: of all features of the only input that has features, or input name -> names ("": the only one).
        **options: see `onnxdam.api.Options`.

    Returns:
        A `Reading` for every input of the original, in order.

    Raises:
        InputError: the model cannot be read, its manifest is not its own, or the names do not fit.
    """
    chosen = api.read_options({**options, "inputs": True})
    source = io.load(model, strict=chosen.strict)
    pruned = of_model(source)
    need, plan = api.decide(api.working_copy(model, source, chosen.threshold), chosen, "")
    assert plan.signature is not None
    found = _readings(need, plan.signature, pruned)
    return _with_names(found, names) if names else found


def _readings(need: Need, now: Manifest, pruned: Manifest | None) -> tuple[Reading, ...]:
    tensors = {t.name: t for t in need.network.inputs}
    found = []
    for item in pruned.inputs if pruned is not None else now.inputs:
        if item.name not in tensors:
            found.append(_nothing(item))
        elif pruned is None or pruned.keep_signature:
            found.append(_reading(need, tensors[item.name], replace(item, slim_shape=item.shape, kept={}, merged=())))
        else:
            found.append(_reading(need, tensors[item.name], item))
    return tuple(found)


def _reading(need: Need, t: Tensor, item: InputFeatures) -> Reading:
    """One input of the model, in terms of the input of the original that it was made from."""
    element = _elements(need, t, item)
    met = demand.arrivals(need, t, element) if t in need.alive else []
    kept = [need.kept(axis) if axis.n > 1 else np.ones(1, bool) for axis in t.axes]
    axes = set(item.merged or item.kept)
    for k, mask in enumerate(kept):
        axes |= set() if mask.all() else element.varies_along(k)
    for arrival in met:
        if arrival.axis is not None:
            axes |= arrival.element.varies_along(arrival.axis)
    if not axes and len(item.shape) == 2 and 1 in element.coordinates:
        axes = {1}  # a table: its columns, whoever reads them
    order = tuple(sorted(axes))
    tally = _Tally(order, [int(item.shape[axis] or 0) for axis in order])
    for arrival in met:
        tally.add(need, arrival)
    whole: Array = np.full((1,) * t.rank, t in need.alive)
    for k, mask in enumerate(kept):
        whole = whole & mask.reshape([-1 if j == k else 1 for j in range(t.rank)])
    readers = tuple(dict.fromkeys(arrival.reader for arrival in met))
    names = item.names if len(item.names) == tally.count else ()
    stays = tally.mark(element, whole)
    read = stays & (tally.paths > 0)
    return Reading(item.name, item.shape, order, names, read, stays, tally.paths, tally.norm, readers)


def _nothing(item: InputFeatures) -> Reading:
    """An input that left."""
    count = item.count or 0
    axes = item.axes if item.count is not None else ()
    none, paths, norm = np.zeros(count, bool), np.zeros(count, int), np.zeros(count)
    return Reading(item.name, item.shape, axes, item.names, none, none, paths, norm, ())


def _elements(need: Need, t: Tensor, item: InputFeatures) -> Element:
    """What of the original stands where in an input of the model, and of the network that it is seen as."""
    if t.opaque or item.shape == ANY_RANK:
        return Element({}, np.ones((1,) * t.rank, bool))
    rank = len(item.shape)
    coordinates = {
        axis: np.arange(extent).reshape([-1 if k == axis else 1 for k in range(rank)])
        for axis, extent in enumerate(item.shape)
        if isinstance(extent, int)
    }
    element = Element(coordinates, np.ones((1,) * rank, bool)).restricted(item.kept, item.merged)
    flat = need.network.flats.get(t.name)
    if flat is not None:
        element = element.restricted({flat.axes[0]: flat.order}, flat.axes)
    return element


class _Tally:
    """Adds up demand over the features along some original axes."""

    def __init__(self, axes: Sequence[int], sizes: Sequence[int]) -> None:
        self._axes, self._sizes = axes, sizes
        self.count = math.prod(sizes) if axes else 0
        self.paths = np.zeros(self.count, int)
        self._squares = np.zeros(self.count)
        self._weighted = np.zeros(self.count, bool)
        self._mixed = np.zeros(self.count, bool)

    @property
    def norm(self) -> Array:
        return np.where(self._mixed & ~self._weighted, np.nan, np.sqrt(self._squares))

    def _index(self, element: Element) -> Array:
        """The feature that stands at each place."""
        flat: Array = np.zeros((1,) * element.present.ndim, np.intp)
        for axis, size in zip(self._axes, self._sizes, strict=True):
            flat = flat * size + element.coordinates.get(axis, 0)
        return flat

    def add(self, need: Need, arrival: Arrival) -> None:
        """Adds what one reader asks for."""
        if not self.count:
            return
        index = self._index(arrival.element)
        squares = None if arrival.relation is None else demand.strength(need, arrival.relation)
        if squares is None or arrival.axis is None or len(squares) == 1:
            mixed = self.mark(arrival.element, np.ones((1,) * index.ndim, bool))
            self.paths += mixed
            self._mixed |= mixed
            return
        squares = squares.reshape([-1 if k == arrival.axis else 1 for k in range(index.ndim)])
        index, squares, present = _aligned(index, squares, arrival.element.present)
        there = present.reshape(-1)
        index, squares = index.reshape(-1)[there], squares.reshape(-1)[there]
        self._squares += np.bincount(index, squares, self.count)
        self.paths += np.bincount(index, squares > 0, self.count).astype(int)
        self._weighted[index] = True

    def mark(self, element: Element, mask: Array) -> Mask:
        """The features that stand at any place of a mask."""
        index, there, present = _aligned(self._index(element), mask, element.present)
        marked = np.zeros(self.count, bool)
        if not self.count:
            return marked
        marked[index[there & present]] = True
        return marked


def _aligned(index: Array, values: Array, present: Array) -> tuple[Array, Array, Array]:
    """All three over the same places; presence along axes that neither of the others knows is presence anywhere."""
    for k in range(index.ndim):
        if index.shape[k] == 1 and values.shape[k] == 1:
            present = np.asarray(present.any(k, keepdims=True))
    index, values, present = np.broadcast_arrays(index, values, present)
    return index, values, present


def _with_names(found: tuple[Reading, ...], names: Sequence[str] | Mapping[str, Sequence[str]]) -> tuple[Reading, ...]:
    given = dict(names) if isinstance(names, Mapping) else {"": names}
    if "" in given:
        ranked = [r for r in found if r.axes]
        if len(ranked) != 1:
            kinds = ", ".join(f"{r.name!r} {shown(r.shape)}" for r in found)
            raise InputError(f"names: {len(ranked)} inputs have features ({kinds}); say which input is meant")
        given[ranked[0].name] = given.pop("")
    unknown = [name for name in given if name not in {r.name for r in found}]
    if unknown:
        raise InputError(f"names: the model has no input {unknown[0]!r} (it has {', '.join(r.name for r in found)})")
    return tuple(r.named(given[r.name]) if r.name in given else r for r in found)
