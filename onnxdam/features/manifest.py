"""The manifest: what a pruned model takes and gives, in terms of the model that it came from.

It lies beside the model as NAME.features.json, and inside it as a metadata entry of the same text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from onnxdam.errors import InputError

SCHEMA = 1
#: key of the model's metadata_props that holds the manifest
METADATA_KEY = "onnxdam.features"
#: the shape of a tensor of unknown rank
ANY_RANK = ("...",)

Dim: TypeAlias = int | str | None
Shape: TypeAlias = tuple[Dim, ...]
Number: TypeAlias = int | float | bool


@dataclass(frozen=True)
class InputFeatures:
    """What a pruned model reads of one input of its original.

    Attributes:
        name: of the input, in both models.
        shape: of the original: numbers, symbols, None for what has neither; `ANY_RANK` where the rank is unknown.
        slim_shape: what is read: the input of the pruned model (or, where that keeps the signature, what its Gather
            lets through). None: nothing is read, the whole input left.
        kept: original axis -> original indices, in the order of the pruned model. Axes that keep all are not listed.
        merged: consecutive original axes that became one. `kept[merged[0]]` are row-major positions over them.
        names: of all original features along `axes`; empty where they have none.
    """

    name: str
    shape: Shape
    slim_shape: Shape | None
    kept: Mapping[int, tuple[int, ...]]
    merged: tuple[int, ...] = ()
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        where = f"input {self.name!r}"
        _require(bool(self.name), "an input has no name")
        if self.merged:
            first, last = self.merged[0], self.merged[-1]
            _require(
                len(self.merged) > 1 and self.merged == tuple(range(first, last + 1)),
                f"{where}: merged axes {list(self.merged)} are not consecutive",
            )
            _require(
                first >= 0 and last < len(self.shape) and all(isinstance(self.shape[a], int) for a in self.merged),
                f"{where}: merged axes {list(self.merged)} are no axes of fixed size of {shown(self.shape)}",
            )
        for axis, indices in self.kept.items():
            _require(
                axis not in self.merged[1:], f"{where}: axis {axis} is merged into axis {self.merged[:1]}, not kept"
            )
            _check_indices(where, axis, indices, self.extent(axis))
        if self.slim_shape is None:
            _require(not self.kept and not self.merged, f"{where}: it left, so it can keep no features")
        else:
            wanted = _slim_shape(self.shape, self.kept, self.merged)
            _require(
                self.slim_shape == wanted,
                f"{where}: slim shape {shown(self.slim_shape)}, but the kept features make {shown(wanted)}",
            )
        _check_names(self)

    @property
    def left(self) -> bool:
        """Whether nothing of the input is read."""
        return self.slim_shape is None

    @property
    def axes(self) -> tuple[int, ...]:
        """The original axes that features run along, and their names: those merged, else the narrowed one.

        Where nothing is narrowed: axis 1 (axis 0 of a vector). Empty where several axes are narrowed, or none exist.
        """
        if self.merged:
            return self.merged
        if len(self.kept) == 1:
            return tuple(self.kept)
        if self.kept or not self.shape or self.shape == ANY_RANK:
            return ()
        return (min(1, len(self.shape) - 1),)

    @property
    def count(self) -> int | None:
        """How many original features there are along `axes`, None where no number is known."""
        sizes = [self.shape[axis] for axis in self.axes]
        return math.prod(s for s in sizes if isinstance(s, int)) if sizes and _fixed(sizes) else None

    @property
    def indices(self) -> tuple[int, ...] | None:
        """Original indices along `axes` that are read, in the order of the pruned model; None: there is no count."""
        if self.count is None:
            return None
        return () if self.left else self.kept.get(self.axes[0], tuple(range(self.count)))

    @cached_property
    def picks(self) -> dict[int, np.ndarray]:
        """`kept` as arrays, made once: requests are many."""
        return {axis: np.array(indices, np.intp) for axis, indices in self.kept.items()}

    def extent(self, axis: int) -> Dim:
        """The size of an original axis, or of all merged ones together."""
        if self.merged and axis == self.merged[0]:
            return math.prod(int(self.shape[a] or 0) for a in self.merged)
        return self.shape[axis] if 0 <= axis < len(self.shape) and self.shape != ANY_RANK else None


@dataclass(frozen=True)
class OutputFeatures:
    """What a pruned model gives of one output of its original.

    Attributes:
        name: of the output, in both models.
        shape: of the original, as in `InputFeatures`.
        slim_shape: of the pruned model.
        kept: original axis -> original indices, in the order of the pruned model. Axes that keep all are not listed.
        constants: original axis -> index -> the number that this slice always is; these are not computed any more.
    """

    name: str
    shape: Shape
    slim_shape: Shape
    kept: Mapping[int, tuple[int, ...]]
    constants: Mapping[int, Mapping[int, Number]]

    def __post_init__(self) -> None:
        where = f"output {self.name!r}"
        _require(bool(self.name), "an output has no name")
        for axis, indices in self.kept.items():
            known = self.shape != ANY_RANK and 0 <= axis < len(self.shape)
            extent = self.shape[axis] if known else None
            _check_indices(where, axis, indices, extent)
            dropped = set(range(extent)) - set(indices) if isinstance(extent, int) else set()
            constants = set(self.constants.get(axis, ()))
            _require(
                dropped == constants,
                f"{where}: axis {axis} must have a constant for every index that is not kept, and for no other "
                f"(it differs at {sorted(dropped ^ constants)[:5]})",
            )
        extra = set(self.constants) - set(self.kept)
        _require(not extra, f"{where}: constants on axes {sorted(extra)}, which keep everything")
        wanted = _slim_shape(self.shape, self.kept, ())
        _require(
            self.slim_shape == wanted,
            f"{where}: slim shape {shown(self.slim_shape)}, but the kept columns make {shown(wanted)}",
        )


@dataclass(frozen=True)
class Manifest:
    """What a pruned model takes and gives. Immutable; `to_json` and `from_json` are inverse.

    Attributes:
        model: fingerprint of the pruned model (`onnxdam.graph.io.fingerprint`, which metadata is no part of).
        source: fingerprint of the original.
        inputs: all inputs of the original, in order.
        outputs: all outputs, in order.
        keep_signature: the pruned model takes the original inputs and selects by itself; `kept` says what it reads.

    Raises:
        InputError: anything in it contradicts anything else; the message says what.
    """

    model: str
    source: str
    inputs: tuple[InputFeatures, ...]
    outputs: tuple[OutputFeatures, ...]
    keep_signature: bool = False

    def __post_init__(self) -> None:
        for kind, names in (("input", [i.name for i in self.inputs]), ("output", [o.name for o in self.outputs])):
            twice = [name for k, name in enumerate(names) if name in names[:k]]
            _require(not twice, f"{kind} {twice[0]!r} is listed twice" if twice else "")

    @property
    def shrinks(self) -> bool:
        """Whether any feature of any input is not read."""
        return any(item.left or item.kept for item in self.inputs)

    def input(self, name: str | None = None) -> InputFeatures:
        """One input; without a name, the only one.

        Raises:
            InputError: there is no such input, or several and no name.
        """
        return _one("input", self.inputs, name)

    def output(self, name: str | None = None) -> OutputFeatures:
        """One output; without a name, the only one.

        Raises:
            InputError: there is no such output, or several and no name.
        """
        return _one("output", self.outputs, name)

    def named(self, names: tuple[str, ...], input: str | None = None) -> Manifest:
        """The manifest with feature names for an input (without a name: the only one).

        Raises:
            InputError: as many names as features, each once, are wanted.
        """
        chosen = self.input(input)
        inputs = tuple(replace(i, names=tuple(names)) if i is chosen else i for i in self.inputs)
        return replace(self, inputs=inputs)

    def to_json(self) -> str:
        """The manifest as JSON text, stable byte for byte; numbers that JSON lacks are "inf", "-inf" and "nan"."""
        data = {
            "schema": SCHEMA,
            "model": self.model,
            "source": self.source,
            "keep_signature": self.keep_signature,
            "inputs": [_input_to_dict(item) for item in self.inputs],
            "outputs": [_output_to_dict(item) for item in self.outputs],
        }
        return json.dumps(data, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str, where: str = "manifest") -> Manifest:
        """Reads what `to_json` wrote.

        Args:
            text: the JSON text.
            where: names its origin in errors.

        Raises:
            InputError: it is not JSON, not a manifest, of another schema, or contradicts itself.
        """
        try:
            return _read(cls, text)
        except InputError as error:
            raise InputError(f"{where}: {error}; make it again with `onnxdam prune --inputs`") from None


def shown(shape: Shape) -> str:
    """[N, 3, 8, 8]"""
    return "[" + ", ".join("?" if dim is None else str(dim) for dim in shape) + "]"


# -------------------------------------------------------------------------------------------------------- checks


def _require(true: bool, otherwise: str) -> None:
    if not true:
        raise InputError(otherwise)


def _one(kind: str, items: tuple[Any, ...], name: str | None) -> Any:
    names = ", ".join(repr(item.name) for item in items)
    if name is None:
        _require(len(items) == 1, f"manifest: the model has {len(items)} {kind}s; say which one ({names})")
        return items[0]
    found = [item for item in items if item.name == name]
    _require(bool(found), f"manifest: the model has no {kind} {name!r} (it has {names})")
    return found[0]


def _check_indices(where: str, axis: int, indices: tuple[int, ...], extent: Dim) -> None:
    _require(isinstance(extent, int), f"{where}: axis {axis} is no axis of fixed size, so it cannot keep a part")
    assert isinstance(extent, int)
    _require(bool(indices), f"{where}: axis {axis} keeps nothing")
    beyond = [i for i in indices if not 0 <= i < extent]
    _require(not beyond, f"{where}: axis {axis} has {extent} features, but feature {beyond[:1]} is kept")
    twice = len(indices) - len(set(indices))
    _require(not twice, f"{where}: axis {axis} keeps {twice} features twice")


def _check_names(item: InputFeatures) -> None:
    if not item.names:
        return
    where = f"input {item.name!r}"
    _require(
        item.count is not None,
        f"{where}: names are given, but {shown(item.shape)} has no single axis of features"
        + (f" (axes {sorted(item.kept)} are narrowed)" if item.kept else ""),
    )
    _require(len(item.names) == item.count, f"{where}: {len(item.names)} names for {item.count} features")
    twice = [name for name, times in _times(item.names).items() if times > 1]
    _require(not twice, f"{where}: the name {twice[:1]} is there twice")


def _times(names: tuple[str, ...]) -> dict[str, int]:
    times: dict[str, int] = {}
    for name in names:
        times[name] = times.get(name, 0) + 1
    return times


def _fixed(sizes: list[Dim]) -> bool:
    return all(isinstance(size, int) for size in sizes)


def _slim_shape(shape: Shape, kept: Mapping[int, tuple[int, ...]], merged: tuple[int, ...]) -> Shape:
    narrow: list[Dim] = [len(kept[axis]) if axis in kept else dim for axis, dim in enumerate(shape)]
    if merged:
        whole = math.prod(int(shape[a] or 0) for a in merged)
        narrow[merged[0] : merged[-1] + 1] = [len(kept[merged[0]]) if merged[0] in kept else whole]
    return tuple(narrow)


# ---------------------------------------------------------------------------------------------------------- JSON


def _input_to_dict(item: InputFeatures) -> dict[str, Any]:
    return {
        "name": item.name,
        "shape": list(item.shape),
        "slim_shape": None if item.slim_shape is None else list(item.slim_shape),
        "kept": {str(axis): list(indices) for axis, indices in item.kept.items()},
        "merged": list(item.merged),
        "names": list(item.names),
    }


def _output_to_dict(item: OutputFeatures) -> dict[str, Any]:
    constants = {
        str(axis): {str(i): _to_plain(value) for i, value in values.items()} for axis, values in item.constants.items()
    }
    return {
        "name": item.name,
        "shape": list(item.shape),
        "slim_shape": list(item.slim_shape),
        "kept": {str(axis): list(indices) for axis, indices in item.kept.items()},
        "constants": constants,
    }


def _to_plain(value: Number) -> Number | str:
    return value if isinstance(value, bool | int) or math.isfinite(value) else str(float(value))


def _read(cls: type[Manifest], text: str) -> Manifest:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError("is not JSON") from None
    _require(isinstance(data, dict) and "schema" in data, "is not a manifest of onnxdam")
    _require(data["schema"] == SCHEMA, f"has schema {data['schema']!r}, this version of onnxdam reads {SCHEMA}")
    fields = _Fields(data, "", {"schema", "model", "source", "keep_signature", "inputs", "outputs"})
    return cls(
        model=fields.text("model"),
        source=fields.text("source"),
        keep_signature=fields.flag("keep_signature"),
        inputs=tuple(_read_input(item, k) for k, item in enumerate(fields.list("inputs"))),
        outputs=tuple(_read_output(item, k) for k, item in enumerate(fields.list("outputs"))),
    )


def _read_input(data: Any, k: int) -> InputFeatures:
    fields = _Fields(data, f"input {k}: ", {"name", "shape", "slim_shape", "kept", "merged", "names"})
    return InputFeatures(
        name=fields.text("name"),
        shape=fields.shape("shape"),
        slim_shape=None if data["slim_shape"] is None else fields.shape("slim_shape"),
        kept=fields.kept(),
        merged=tuple(fields.list("merged", int)),
        names=tuple(fields.list("names", str)),
    )


def _read_output(data: Any, k: int) -> OutputFeatures:
    fields = _Fields(data, f"output {k}: ", {"name", "shape", "slim_shape", "kept", "constants"})
    return OutputFeatures(
        name=fields.text("name"),
        shape=fields.shape("shape"),
        slim_shape=fields.shape("slim_shape"),
        kept=fields.kept(),
        constants=fields.constants(),
    )


class _Fields:
    """Reads the fields of a JSON object; InputError names the one that is wrong."""

    def __init__(self, data: Any, where: str, names: set[str]) -> None:
        _require(isinstance(data, dict), f"{where}is not an object")
        different = sorted(names ^ set(data))
        if different:
            raise InputError(f"{where}{'lacks' if different[0] in names else 'has an unknown'} field {different[0]!r}")
        self.data, self.where = data, where

    def _is(self, true: bool, name: str, kind: str) -> None:
        _require(true, f"{self.where}{name!r} is not {kind}")

    def text(self, name: str) -> str:
        value = self.data[name]
        self._is(isinstance(value, str) and bool(value), name, "a text")
        return str(value)

    def flag(self, name: str) -> bool:
        self._is(isinstance(self.data[name], bool), name, "true or false")
        return bool(self.data[name])

    def list(self, name: str, kind: type = object) -> list[Any]:
        value = self.data[name]
        self._is(isinstance(value, list) and all(_is_a(v, kind) for v in value), name, f"a list of {_PLURAL[kind]}")
        return list(value)

    def shape(self, name: str) -> Shape:
        dims = self.list(name)
        fits = all(dim is None or _is_a(dim, str) or (_is_a(dim, int) and dim >= 0) for dim in dims)
        self._is(fits, name, "a shape")
        return tuple(dims)

    def _by_axis(self, name: str) -> dict[int, Any]:
        value = self.data[name]
        self._is(isinstance(value, dict) and all(map(_is_index, value)), name, "an object of axes")
        return {int(axis): part for axis, part in value.items()}

    def kept(self) -> dict[int, tuple[int, ...]]:
        axes = self._by_axis("kept")
        for part in axes.values():
            self._is(isinstance(part, list) and all(_is_a(i, int) for i in part), "kept", "lists of indices")
        return {axis: tuple(part) for axis, part in axes.items()}

    def constants(self) -> dict[int, dict[int, Number]]:
        axes = self._by_axis("constants")
        for part in axes.values():
            fits = isinstance(part, dict) and all(map(_is_index, part)) and all(map(_is_number, part.values()))
            self._is(fits, "constants", "numbers by index")
        return {
            axis: {int(i): float(c) if isinstance(c, str) else c for i, c in part.items()}
            for axis, part in axes.items()
        }


_PLURAL = {int: "whole numbers", str: "texts", object: "entries"}


def _is_a(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def _is_index(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or value in ("inf", "-inf", "nan")
