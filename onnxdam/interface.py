"""Two models side by side of which one takes fewer features: what to feed it, and how to read its results.

The proof that nobody reads what left: the original on data in which every feature that left is noise gives what it
gives on the data itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx

from onnxdam import features
from onnxdam.errors import InputError
from onnxdam.features import Manifest
from onnxdam.features.manifest import Shape
from onnxdam.graph import io
from onnxdam.inputs import NORMAL, Feed, Input, random_feed
from onnxdam.providers import Runnable

#: magnitudes of the noise, by turns; one at which the original overflows is replaced by the next
AMPLITUDES = (1e6, 1e-4, 1e3, 1.0)


def between(
    first: Runnable, second: Runnable, source: io.AnyModel, manifest: Manifest | None = None
) -> tuple[Interface | None, list[str]]:
    """What the interfaces of two models have to do with each other, and how they differ beyond that.

    Args:
        first: a model.
        second: the same, or a slim version of it.
        source: what `first` was made of, to tell whether a manifest speaks of it.
        manifest: of `second`; None: the one that it has, if any.

    Raises:
        InputError: the manifest is damaged, or belongs to another model than these.
    """
    changed = _differences(first.skeleton.graph, second.skeleton.graph)
    if manifest is None:
        manifest = _manifest_of(second, source, differs=bool(changed))
    if manifest is None:
        return None, changed
    interface = Interface(manifest)
    return interface, _differences(interface.expected(first.skeleton.graph), second.skeleton.graph)


def _manifest_of(model: Runnable, source: io.AnyModel, *, differs: bool) -> Manifest | None:
    """The manifest of a model in terms of `source`, None where it has none."""
    held = model.path is not None and features.manifest_path(model.path).exists()
    if not held and not any(entry.key == features.METADATA_KEY for entry in model.skeleton.metadata_props):
        return None
    found = features.load(model.path if model.path is not None else model.skeleton)
    if found.source == io.fingerprint(io.load(source, strict=False)):
        return found
    if differs:
        raise InputError(f"{model.name}: was made from another model, says its manifest; check it against that one")
    return None


@dataclass(frozen=True)
class Interface:
    """What the manifest says, put to work.

    Attributes:
        manifest: of the slim model.
    """

    manifest: Manifest

    def expected(self, graph: onnx.GraphProto) -> onnx.GraphProto:
        """Inputs and outputs that the slim model must have, from those of the original."""
        wanted = onnx.GraphProto()
        inputs = {item.name: item for item in self.manifest.inputs}
        outputs = {item.name: item for item in self.manifest.outputs}
        for value in graph.input:
            item = inputs.get(value.name)
            if item is None or self.manifest.keep_signature:
                wanted.input.append(value)
            elif item.slim_shape is not None:
                wanted.input.append(_resized(value, item.slim_shape, item.merged))
        for value in graph.output:
            wanted.output.append(_resized(value, outputs[value.name].slim_shape) if value.name in outputs else value)
        return wanted

    def feed(self, feed: Feed) -> Feed:
        """What the slim model takes, from what the original takes."""
        named = {item.name for item in self.manifest.inputs}
        return features.select({name: array for name, array in feed.items() if name in named}, self.manifest)

    def results(self, names: list[str], results: list[object]) -> list[object]:
        """What the original gives, from what the slim model gives: dropped columns are put back."""
        changed = {item.name: item for item in self.manifest.outputs if item.kept}
        return [
            features.expand_outputs({name: result}, self.manifest)[name] if name in changed else result
            for name, result in zip(names, results, strict=True)
        ]

    def __contains__(self, name: str) -> bool:
        """Whether anything of an input left."""
        return any(item.name == name and (item.left or item.kept) for item in self.manifest.inputs)

    def read(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Which entries of an input of this shape are read, broadcastable to it."""
        item = self.manifest.input(name)
        mask = np.array(not item.left)
        for axis, indices in item.kept.items():
            run = item.merged if item.merged and axis == item.merged[0] else (axis,)
            sizes = [shape[a] for a in run]
            part = np.zeros(math.prod(sizes), bool)
            part[list(indices)] = True
            mask = mask & part.reshape([1] * axis + sizes + [1] * (len(shape) - run[-1] - 1))
        return mask

    def noisy(
        self, feed: Feed, described: list[Input], sizes: Mapping[str, int], seed: int, amplitude: float, small: bool
    ) -> Feed:
        """The data, with other numbers in every feature that left: floats times `amplitude`, integers in their range.

        Args:
            feed: what the original takes.
            described: its inputs.
            sizes: of the dynamic dimensions.
            seed: of the noise.
            amplitude: deviation of the noise.
            small: integers that index nothing we know of stay in {0, 1}.
        """
        nameless = [replace(item, name=str(k)) for k, item in enumerate(described)]  # a mask gets numbers as others do
        drawn = random_feed(nameless, sizes, NORMAL, seed, small)
        other = {item.name: drawn[str(k)] for k, item in enumerate(described)}
        noisy = self.swapped(feed)
        for name, array in feed.items():
            if name not in self or array.dtype.kind not in "fiub":
                continue  # a text that it was never taught may stop a model
            noise = other[name] if other[name].shape == array.shape else np.resize(other[name], array.shape)
            if array.dtype.kind == "f":
                limit = float(np.finfo(array.dtype).max) / 16
                noise = np.clip(noise.astype(np.float64) * amplitude, -limit, limit).astype(array.dtype)
            noisy[name] = np.where(self.read(name, array.shape), array, noise)
        return noisy

    def swapped(self, feed: Feed) -> Feed:
        """The data, with that of the row before in every feature that left."""
        return {
            name: np.where(self.read(name, array.shape), array, np.roll(array, 1, 0))
            if name in self and array.ndim
            else array
            for name, array in feed.items()
        }


def _resized(value: onnx.ValueInfoProto, shape: Shape, merged: tuple[int, ...] = ()) -> onnx.ValueInfoProto:
    """A declaration with the numbers of `shape`; symbols stay as they are written."""
    copy = onnx.ValueInfoProto()
    copy.CopyFrom(value)
    if shape == features.ANY_RANK:
        return copy
    dims = copy.type.tensor_type.shape.dim
    if not copy.type.tensor_type.HasField("shape"):
        dims.extend(onnx.TensorShapeProto.Dimension() for _ in shape)
    for axis in reversed(merged[1:]):
        del dims[axis]
    for dim, size in zip(dims, shape, strict=True):
        if isinstance(size, int) and dim.dim_value != size:
            dim.dim_value = size
    return copy


def _differences(a: onnx.GraphProto, b: onnx.GraphProto) -> list[str]:
    """How the inputs and outputs of b are not those of a; inputs may be missing."""
    wrong = []
    if [o.name for o in a.output] != [o.name for o in b.output]:
        wrong.append(f"outputs: {[o.name for o in a.output]} became {[o.name for o in b.output]}")
    given = {value.name: value for value in a.input}
    stored = {tensor.name for tensor in b.initializer}
    extra = [value.name for value in b.input if value.name not in given and value.name not in stored]
    if extra:
        wrong.append(f"inputs: {extra} are new")
    for kind, pairs in (
        ("input", [(given[v.name], v) for v in b.input if v.name in given and v.name not in stored]),
        ("output", [] if wrong else list(zip(a.output, b.output, strict=True))),
    ):
        wrong += [
            f"{kind} {x.name!r}: type {_type_text(x)} became {_type_text(y)}"
            for x, y in pairs
            if x.type.SerializeToString(deterministic=True) != y.type.SerializeToString(deterministic=True)
        ]
    return wrong


def _type_text(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        return str(value.type.WhichOneof("value"))
    dims = [d.dim_param or (str(d.dim_value) if d.HasField("dim_value") else "?") for d in tensor.shape.dim]
    return f"{onnx.TensorProto.DataType.Name(tensor.elem_type).lower()}[{', '.join(dims)}]"
