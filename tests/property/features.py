"""What slim owes where inputs and outputs may shrink: what is read decides, and nothing else does.

The slim model on the features that it takes gives what the masked model gives on all of them; and so does the masked
model itself when every feature that left is noise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import onnxdam
from onnxdam import features
from onnxdam.errors import InputError
from onnxdam.graph.io import fingerprint, load
from onnxdam.interface import Interface

from .builder import SIZES, Case
from .oracle import NOISE_FACTOR, TOLERANCE, Array, Mismatch, evaluate, noise_of, relative_error, rounding_of
from .properties import require

FLOATS = (TensorProto.DOUBLE, TensorProto.FLOAT)


def gated(case: Case, rng: np.random.Generator, suffix: str = "") -> Case:
    """The case with some features of every float input times zero: along one axis, or element by element.

    New names end in `suffix`.
    """
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    stored = {tensor.name for tensor in model.graph.initializer}
    gates, masks = [], []
    for value in model.graph.input:
        kind = value.type.tensor_type
        if value.name in stored or kind.elem_type not in FLOATS or rng.random() < 0.2:
            continue
        shape = [d.dim_value if d.HasField("dim_value") else 1 for d in kind.shape.dim]
        if rng.random() < 0.5:  # else every element of the fixed axes has its own
            axis = int(rng.integers(len(shape)))
            shape = [n if i == axis else 1 for i, n in enumerate(shape)]
        mask = (rng.random(shape) < 0.6).astype(helper.tensor_dtype_to_np_dtype(kind.elem_type))
        model.graph.initializer.append(numpy_helper.from_array(mask, f"{value.name}_mask{suffix}"))
        if model.ir_version < 4:
            masks.append(helper.make_tensor_value_info(f"{value.name}_mask{suffix}", kind.elem_type, shape))
        _rename(model.graph, value.name, f"{value.name}_gated{suffix}")
        gates.append(
            helper.make_node("Mul", [value.name, f"{value.name}_mask{suffix}"], [f"{value.name}_gated{suffix}"])
        )
    model.graph.input.extend(masks)
    nodes = [*gates, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return Case(model, case.ranges, f"{case.description}, gated inputs", case.seed, case.constructs)


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name == old:
                node.input[i] = new
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rename(attribute.g, old, new)


def image(seed: int) -> Case:
    """A network that flattens its inputs after elementwise nodes and movements, and reads some elements only."""
    rng = np.random.default_rng(seed)
    model = onnx.parser.parse_model('<ir_version: 8, opset_import: ["" : 17]> images () => (double[N, 3] y) { }')
    graph, parts, width = model.graph, [], 0
    for k in range(int(rng.integers(1, 3))):
        shape: list[int | str] = [
            ["N", "N", 2][int(rng.integers(3))],
            *map(int, rng.integers(1, 5, rng.integers(2, 4))),
        ]
        if k == 1:
            shape[0] = graph.input[0].type.tensor_type.shape.dim[0].dim_param or 2
        graph.input.append(helper.make_tensor_value_info(f"x{k}", TensorProto.DOUBLE, shape))
        for _ in range(int(rng.integers(1, 3))):  # readers
            name, size = _walk(graph, rng, f"x{k}", [1 if isinstance(n, str) else n for n in shape])
            parts.append(name)
            width += size
    w = rng.normal(size=(width, 3)) * (rng.random((width, 1)) < 0.5)
    graph.initializer.append(numpy_helper.from_array(w, "w"))
    graph.node.append(helper.make_node("Concat", parts, ["joined"], axis=1))
    graph.node.append(helper.make_node("MatMul", ["joined", "w"], ["y"]))
    graph.output[0].type.tensor_type.shape.dim[0].CopyFrom(graph.input[0].type.tensor_type.shape.dim[0])
    return Case(model, {}, f"images, seed {seed}", seed)


def _walk(graph: onnx.GraphProto, rng: np.random.Generator, name: str, shape: list[int]) -> tuple[str, int]:
    """Nodes that end in a flattened value; its name and width. The first extent is the batch."""

    def constant(content: Array) -> str:
        graph.initializer.append(numpy_helper.from_array(content, f"c{len(graph.initializer)}"))
        return graph.initializer[-1].name

    def add(kind: str, *more: str, **attributes: object) -> None:
        nonlocal name
        fresh = f"v{len(graph.node)}"
        graph.node.append(helper.make_node(kind, [name, *more], [fresh], **attributes))
        name = fresh

    for _ in range(int(rng.integers(0, 5))):
        kind = rng.choice(["Sub", "Mul", "Div", "Relu", "Tanh", "BatchNormalization", "Transpose", "Slice", "Reshape"])
        axis = int(rng.integers(1, len(shape)))
        if kind in ("Sub", "Mul", "Div"):
            wide = [n if rng.random() < 0.5 else 1 for n in shape[1:]]
            add(kind, constant(rng.uniform(0.5, 2, wide) * ((rng.random(wide) < 0.8) if kind == "Mul" else 1)))
        elif kind == "BatchNormalization":
            add(kind, *(constant(rng.uniform(0.5, 2, shape[1])) for _ in range(4)))
        elif kind == "Transpose":
            perm = [0, *(1 + rng.permutation(len(shape) - 1)).tolist()]
            add(kind, perm=perm)
            shape = [shape[p] for p in perm]
        elif kind == "Slice" and shape[axis] > 1:
            start = int(rng.integers(shape[axis]))
            add(kind, *(constant(np.array([n])) for n in (start, shape[axis], axis)))
            shape = [n - start if i == axis else n for i, n in enumerate(shape)]
        elif kind == "Reshape" and len(shape) > 2:
            shape = [shape[0], shape[1] * shape[2], *shape[3:]]
            add(kind, constant(np.array([0, *shape[1:]])))
        elif kind in ("Relu", "Tanh"):
            add(str(kind))
    if rng.random() < 0.3:  # the batch is asked for at run time
        extents, first, sizes = (f"{part}{len(graph.node)}" for part in ("extents", "first", "sizes"))
        graph.node.append(helper.make_node("Shape", [name], [extents]))
        graph.node.append(helper.make_node("Gather", [extents, constant(np.array([0]))], [first]))
        graph.node.append(helper.make_node("Concat", [first, constant(np.array([-1]))], [sizes], axis=0))
        add("Reshape", sizes)
    else:
        add("Flatten")
    return name, int(np.prod(shape[1:]))


def check_features(case: Case, seen: Counter[str]) -> None:
    """All of it on one case; `seen` counts what happened.

    Raises:
        Mismatch: it does not hold.
    """
    before = case.model.SerializeToString(deterministic=True)
    for mode in (True, "keep-signature"):
        try:
            small, plan = onnxdam.slim(case.model, inputs=mode, outputs=True, align="none")
        except InputError as error:
            require("no input can shrink" in str(error), f"slim refused: {error}")
            seen["nothing leaves"] += 1
            return
        except Exception as error:
            raise Mismatch(f"slim raised {type(error).__name__}: {error}") from error
        require(case.model.SerializeToString(deterministic=True) == before, "slim changed its input")
        _check(case, small, seen)
        seen["shrinks again"] += mode is True and shrinks(small)
        again = onnxdam.apply(case.model, onnxdam.Plan.from_json(plan.to_json()))
        require(again.SerializeToString(deterministic=True) == small.SerializeToString(deterministic=True), "apply")
    seen["narrowed"] += 1


def shrinks(model: onnx.ModelProto) -> bool:
    """Whether an input can shrink."""
    try:
        return bool(onnxdam.plan(model, inputs=True, align="none").signature.shrinks)
    except InputError:
        return False


def _check(case: Case, small: onnx.ModelProto, seen: Counter[str]) -> None:
    try:
        onnx.checker.check_model(small, full_check=True)
    except Exception as error:
        raise Mismatch(f"onnx.checker refuses the slim model: {error}") from error
    manifest = features.load(small)
    interface = Interface(manifest)
    seen["vectors"] += any(item.merged for item in manifest.inputs)
    seen["outputs"] += any(item.kept for item in manifest.outputs)
    seen["inputs that left"] += any(item.left for item in manifest.inputs)
    names = [value.name for value in case.model.graph.output]
    for kind, sizes in enumerate(SIZES):
        feeds = case.feeds(sizes, kind)
        wanted = evaluate(case.model, feeds)
        try:
            found = evaluate(small, features.select(feeds, manifest))
        except Exception as error:
            raise Mismatch(f"the slim model does not run: {type(error).__name__}: {error}") from error
        _compare(case, feeds, names, wanted, interface.results(names, list(found)), "slim", seen)
        other = case.feeds(sizes, kind + 7)
        noisy = {
            n: np.where(interface.read(n, x.shape), x, other[n]) if n in interface else x for n, x in feeds.items()
        }
        _compare(case, feeds, names, wanted, evaluate(case.model, noisy), "noise in what left", seen)


def _compare(
    case: Case, feeds: Mapping[str, Array], names: list[str], wanted: list[Array], found: list[object], what: str,
    seen: Counter[str],
) -> None:  # fmt: skip
    for name, a, b in zip(names, wanted, found, strict=True):
        error = relative_error(a, np.asarray(b))
        if error > TOLERANCE:
            noise = max(noise_of(case.model, dict(feeds), wanted), rounding_of(case.model, dict(feeds), a))
            if error <= NOISE_FACTOR * noise and np.isfinite(error):
                seen["ill-conditioned"] += 1
                continue
            raise Mismatch(f"{what}: output {name!r} is off by {error:.3g} (noise {noise:.3g}):\n{a}\n{b}")


def check_twice(case: Case, rng: np.random.Generator, seen: Counter[str]) -> None:
    """A slim model that is masked further and pruned again: its manifest speaks of the first original.

    Raises:
        Mismatch: data selected by it, or results completed by it, are not those of the two steps.
    """
    modes = [True, "keep-signature"]
    first, second = (modes[int(rng.integers(2))] for _ in range(2))
    try:
        once, plan = onnxdam.slim(case.model, inputs=first, outputs=True, align="none")
        masked = gated(replace(case, model=once), rng, "_again").model
        before = _signed(masked)
        twice, _ = onnxdam.slim(masked, inputs=second, outputs=True, align="none")
    except InputError as error:
        require("no input can shrink" in str(error), f"slim refused: {error}")
        return
    after = features.load(twice)
    names = [value.name for value in case.model.graph.output]
    for kind, sizes in enumerate(SIZES):
        feeds = case.feeds(sizes, kind)
        between = features.select(feeds, before)
        wanted = list(evaluate(masked, between))
        whole = after.source == plan.fingerprint  # else its inputs are those of the model in between
        found = list(evaluate(twice, features.select(feeds if whole else between, after)))
        wanted = Interface(before).results(names, wanted) if whole else wanted
        _compare(case, feeds, names, wanted, Interface(after).results(names, found), "pruned twice", seen)
    seen["twice"] += 1


def _signed(model: onnx.ModelProto) -> features.Manifest:
    """Makes the manifest in the metadata that of the model as it is now."""
    entry = next(entry for entry in model.metadata_props if entry.key == features.METADATA_KEY)
    manifest = replace(features.Manifest.from_json(entry.value), model=fingerprint(load(model)))
    entry.value = manifest.to_json()
    return manifest
