"""The interface of a slim model: which inputs it takes and how wide, which columns of its outputs it gives.

`describe` says it in terms of the original, as a manifest; `rewrite` brings the graph's inputs and outputs to it;
`compose` joins two manifests where a slim model was made slimmer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from onnxdam.analysis.asks import constant_columns
from onnxdam.analysis.explain import Reasons
from onnxdam.analysis.need import Need
from onnxdam.analysis.tensor import Tensor
from onnxdam.errors import InputError
from onnxdam.features.manifest import ANY_RANK, Dim, InputFeatures, Manifest, OutputFeatures, Shape
from onnxdam.rewrite.slim import Slim

#: stands for the fingerprint of a model that is not made yet
PLANNED = "planned"
#: what Options.inputs is where the slim model takes the original inputs
KEEP_SIGNATURE = "keep-signature"


# -- what it will be -------------------------------------------------------------------------------------------------
def describe(need: Need, source: str, *, keep_signature: bool) -> Manifest:
    """The manifest of a decision; its `model` is `PLANNED`.

    Args:
        need: the decision.
        source: fingerprint of the original.
        keep_signature: the slim model takes the original inputs and selects by itself.
    """
    network = need.network
    left = unread(need)
    return Manifest(
        model=PLANNED,
        source=source,
        inputs=tuple(_input(need, t, t in left) for t in network.inputs),
        outputs=tuple(_output(need, t) for t in dict.fromkeys(network.outputs)),
        keep_signature=keep_signature,
    )


def unread(need: Need) -> list[Tensor]:
    """Inputs that no output depends on. If that is all of them, the first is not listed: a model needs an input."""
    inputs = need.network.inputs
    found = [t for t in inputs if t not in need.alive]
    return found[1:] if len(found) == len(inputs) else found


def features_read(need: Need) -> list[dict[int, tuple[int, ...]] | None]:
    """Of every input: the features of its narrowed axes that stay, None where nothing is read."""
    return [_kept(need, t) if t in need.alive else None for t in need.network.inputs]


def dims(value: ir.Value | None) -> Shape:
    """The extents that the file declares; those of what a sequence holds are not its own."""
    if value is None or value.shape is None or isinstance(value.type, ir.SequenceType | ir.OptionalType):
        return ANY_RANK
    return dims_of(value.shape)


def dims_of(shape: ir.Shape) -> Shape:
    """Extents as a manifest writes them."""
    return tuple((d if d >= 0 else None) if isinstance(d, int) else d.value for d in shape)


def _kept(need: Need, t: Tensor) -> dict[int, tuple[int, ...]]:
    if t.opaque or t not in need.alive:
        return {}
    masks = {i: need.kept(axis) for i, axis in enumerate(t.axes) if axis.n > 1}
    return {i: tuple(np.flatnonzero(mask).tolist()) for i, mask in masks.items() if not mask.all()}


def _narrow(shape: Shape, kept: dict[int, tuple[int, ...]]) -> Shape:
    return tuple(len(kept[i]) if i in kept else dim for i, dim in enumerate(shape))


def _input(need: Need, t: Tensor, left: bool) -> InputFeatures:
    shape, kept = dims(t.value), _kept(need, t)
    flat = need.network.flats.get(t.name)
    if left:
        return InputFeatures(t.name, shape if flat is None else dims_of(flat.shape), None, {})
    if flat is None:
        return InputFeatures(t.name, shape, _narrow(shape, kept), kept)
    first = flat.axes[0]
    slots = list(kept.get(first, range(t.axes[first].n)))
    outside = {axis + (axis > first) * (len(flat.axes) - 1): picks for axis, picks in kept.items() if axis != first}
    positions = tuple(flat.order[slots].tolist())
    whole = {} if positions == tuple(range(math.prod(flat.sizes))) else {first: positions}
    return InputFeatures(t.name, dims_of(flat.shape), _narrow(shape, kept), outside | whole, flat.axes)


def _output(need: Need, t: Tensor) -> OutputFeatures:
    shape, kept = dims(t.value), _kept(need, t)
    if kept:  # the file may declare less than is known
        declared = [None] * t.rank if shape == ANY_RANK else shape
        shape = tuple(t.axes[axis].n if axis in kept else dim for axis, dim in enumerate(declared))
    facts = constant_columns(t)
    gone = {axis: np.setdiff1d(np.arange(t.axes[axis].n), picks) for axis, picks in kept.items()}
    constants = {axis: {int(i): facts[axis].value[i].item() for i in slots} for axis, slots in gone.items()}
    return OutputFeatures(t.name, shape, _narrow(shape, kept), kept, constants)


def named(manifest: Manifest, names: Sequence[str] | Mapping[str, Sequence[str]]) -> Manifest:
    """The manifest with feature names: those of the only input, or by input ("" is the only one).

    Raises:
        InputError: there is no such input, or they are not as many as its features, each once.
    """
    for name, given in (names if isinstance(names, Mapping) else {"": names}).items():
        manifest = manifest.named(tuple(given), name or None)
    return manifest


def remarks(need: Need, manifest: Manifest) -> Iterator[str]:
    """What the user should know, a line for each input and output that changes."""
    for t, item in zip(need.network.inputs, manifest.inputs, strict=True):
        if item.left:
            yield f"input {item.name!r}: no output depends on it" + (
                "; it stays declared" if manifest.keep_signature else "; it left"
            )
        elif t not in need.alive:
            yield f"input {item.name!r}: no output depends on it; it stays, as a model needs an input"
        for axis, indices in item.kept.items():
            where = f"features of axis {axis}"
            if axis in item.merged:
                where = f"elements of axes {item.merged[0]} to {item.merged[-1]}"
            yield f"input {item.name!r}: {len(indices)} of {item.extent(axis)} {where} are read"
    for output in manifest.outputs:
        for axis, constants in output.constants.items():
            yield f"output {output.name!r}: {len(constants)} constant slots of axis {axis} left"


def require_change(need: Need, manifest: Manifest) -> None:
    """Raises InputError where no input shrinks, naming what reads them."""
    if manifest.shrinks or not all(t in need.alive for t in need.network.inputs):
        return
    reasons = Reasons(need)
    why = [f"{t.name!r}: {_reader(reasons, t)}" for t in need.network.inputs]
    raise InputError(f"inputs: no input can shrink: {'; '.join(why) or 'there are none'}")


def _reader(reasons: Reasons, t: Tensor) -> str:
    """Who asks for the features of an input, for one of them."""
    asked = (reasons.asks(axis, 0) for axis in [*t.axes[1:], *t.axes[:1]] if axis.n > 1)
    step = next((step for step in asked if step is not None), None)
    if step is None and any(isinstance(size, int) for size in t.shape[1:]):
        step = next(reasons.whole(t), None)
    if step is None:
        return "has no axis of known extent"
    return step.reason + (f" ({step.operator} {step.node})" if step.node else "")


# -- the graph ---------------------------------------------------------------------------------------------------------
def rewrite(slim: Slim, manifest: Manifest) -> None:
    """Brings the inputs and outputs of a graph that was made slim to what the manifest says."""
    graph = slim.model.graph
    values = {v.name: v for v in graph.inputs}
    for item in manifest.inputs:
        value = values[item.name]
        if item.left:
            flat = slim.network.flats.get(item.name)
            if flat is not None:
                value.shape = flat.shape
            if not manifest.keep_signature and not value.uses():
                graph.inputs.remove(value)
        elif (item.kept or item.merged) and manifest.keep_signature:
            _select(slim, value, item)
        elif item.kept:
            value.shape = _resized(value, item.slim_shape)
    for value in graph.outputs:
        found = next((o for o in manifest.outputs if o.name == value.name), None)
        if found is not None and found.kept:
            value.shape = _resized(value, found.slim_shape)


def _resized(value: ir.Value, shape: Shape | None) -> ir.Shape:
    assert shape is not None
    old = [None] * len(shape) if value.shape is None else list(value.shape)
    return ir.Shape([dim if isinstance(dim, int) else old[i] for i, dim in enumerate(shape)])


def _select(slim: Slim, value: ir.Value, item: InputFeatures) -> None:
    """The input is what it was; its kept features are selected in front of all who read it."""
    uses, shape = list(value.uses()), _resized(value, item.slim_shape)
    flat = slim.network.flats.get(item.name)
    current, made = value, []  # type: ir.Value, list[ir.Node]
    taken = {node.name for node in slim.model.graph.all_nodes()}

    def add(kind: str, content: list[int], attributes: list[ir.Attr]) -> None:
        nonlocal current
        operand = slim.initializer(f"{item.name}_{kind}", np.array(content, np.int64))
        node = ir.Node("", kind, [current, operand], attributes, num_outputs=1)
        node.name = slim.fresh(f"{item.name}_{kind}")
        while node.name in taken:
            node.name = slim.fresh(f"{item.name}_{kind}")
        current = node.outputs[0]
        current.name, current.type = slim.fresh(f"{item.name}_read"), value.type
        made.append(node)

    for axis, indices in item.kept.items():
        if flat is None or axis != flat.axes[0]:
            add("Gather", list(indices), [ir.AttrInt64("axis", axis)])
    if flat is not None:
        value.shape, first, last = flat.shape, flat.axes[0], flat.axes[-1]
        behind = [len(item.kept[a]) if a in item.kept else dim for a, dim in enumerate(item.shape)][last + 1 :]
        if sum(not isinstance(dim, int) for dim in behind) > 1:
            raise InputError(f"inputs: keep-signature cannot flatten {item.name!r} with two dynamic axes at its end")
        sizes = [*(0 for _ in range(first)), math.prod(flat.sizes)]
        add("Reshape", sizes + [dim if isinstance(dim, int) else -1 for dim in behind], [])
        add("Gather", list(item.kept.get(first, range(math.prod(flat.sizes)))), [ir.AttrInt64("axis", first)])
    current.shape = shape
    for user, slot in uses:
        user.replace_input_with(slot, current)
    slim.model.graph.insert_before(next(iter(slim.model.graph)), made)


# -- a slim model made slimmer -----------------------------------------------------------------------------------------
def compose(first: Manifest, second: Manifest) -> Manifest:
    """The manifest of a model that was pruned twice, in terms of the first original.

    Args:
        first: of the model that was pruned again.
        second: of what came out, in terms of that model.

    Raises:
        InputError: the slim model would take inputs that are neither those of the original nor narrowed ones.
    """
    if second.keep_signature and not first.keep_signature and first.shrinks:
        return second  # it takes what the model in between took
    inner = {item.name: item for item in second.inputs}
    outer = {item.name: item for item in second.outputs}
    inputs = tuple(_after(item, inner.get(item.name), first.keep_signature) for item in first.inputs)
    outputs = tuple(_columns(item, outer[item.name]) for item in first.outputs)
    return Manifest(second.model, first.source, inputs, outputs, second.keep_signature)


def _after(one: InputFeatures, two: InputFeatures | None, whole: bool) -> InputFeatures:
    """One input after both; `whole`: the model in between took all of it."""
    if one.left and not whole:
        return one
    if two is None or two.left:
        return InputFeatures(one.name, one.shape, None, {}, (), one.names)
    if whole or one.shape == ANY_RANK:
        return replace(two, names=one.names or two.names)
    if two.names and not one.names:
        raise InputError(f"feature names: input {one.name!r} was narrowed before; name its features when that is done")
    kept: dict[int, tuple[int, ...]] = {}
    shape: list[Dim] = []
    merged: tuple[int, ...] = ()
    groups = _groups(len(one.shape), one.merged)
    for run in _groups(len(groups), two.merged):
        axes = tuple(axis for k in run for axis in groups[k])
        sizes = [one.extent(groups[k][0]) for k in run]
        if not all(isinstance(size, int) for size in sizes):
            shape.append(sizes[0])
            continue
        index = np.arange(math.prod(sizes)).reshape(sizes)  # type: ignore[arg-type]
        for place, k in enumerate(run):
            if groups[k][0] in one.kept:
                index = index.take(one.kept[groups[k][0]], place)
        places: list[int] = index.reshape(-1)[list(two.kept.get(run[0], range(index.size)))].tolist()
        if places != [*range(math.prod(sizes))]:  # type: ignore[arg-type]
            kept[axes[0]] = tuple(places)
        merged = axes if len(axes) > 1 else merged
        shape.append(len(places))
    return InputFeatures(one.name, one.shape, tuple(shape), kept, merged, one.names)


def _groups(rank: int, merged: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The axes of a narrowed input, each as the original axes that it is made of."""
    return [merged if axis in merged else (axis,) for axis in range(rank) if axis not in merged[1:]]


def _columns(one: OutputFeatures, two: OutputFeatures) -> OutputFeatures:
    """One output after both."""
    kept, constants = dict(one.kept), {axis: dict(values) for axis, values in one.constants.items()}
    for axis, indices in two.kept.items():
        before = kept.get(axis) or tuple(range(len(indices) + len(two.constants[axis])))
        kept[axis] = tuple(before[i] for i in indices)
        constants.setdefault(axis, {}).update({before[i]: value for i, value in two.constants[axis].items()})
    return OutputFeatures(one.name, one.shape, two.slim_shape, kept, constants)
