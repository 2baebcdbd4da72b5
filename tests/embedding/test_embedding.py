"""Slimming a wide network with a narrow one embedded in it finds the narrow one: weight for weight, node for node."""

from __future__ import annotations

import pathlib
import zlib
from collections.abc import Iterator

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch", reason="embedding pairs are PyTorch modules")
pytest.importorskip("transformers", reason="embedding pairs use transformers' configurations")
pytest.importorskip("onnxscript", reason="torch.onnx.export needs onnxscript")

import onnx_ir as ir  # noqa: E402
import onnxruntime as ort  # noqa: E402

import onnxdam  # noqa: E402

from . import hf, own, vision  # noqa: E402, F401  (registers the pairs)
from .embed import Death, Label, embed  # noqa: E402
from .pairs import REGISTRY, Pair, export  # noqa: E402

pytestmark = pytest.mark.torch

FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16}
QUICK_DYNAMO = {"attention_sdpa", "conformer_conv", "speech_stem", "multihead_attention_heads"}


def cases() -> Iterator[object]:
    """Every pair, death and exporter; the slow exporter only for a few pairs unless `-m slow` asks for the rest."""
    for name, entry in REGISTRY.items():
        for exporter in entry.exporters:
            for death in entry.deaths:
                quick = exporter == "torchscript" or (name in QUICK_DYNAMO and death is Death.MIXED)
                yield pytest.param(
                    name,
                    death,
                    exporter,
                    id=f"{name}-{death.value}-{exporter}",
                    marks=() if quick else (pytest.mark.slow,),
                )


def tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Initializers and tensors of Constant nodes, subgraphs included."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("g"):
                yield from tensors(attribute.g)


def weights(model: onnx.ModelProto) -> int:
    """Number of floating-point numbers in a model, scalars aside: a scale may be computed in one file, stored in another."""
    return sum(n for t in tensors(model.graph) if t.data_type in FLOATS and (n := int(np.prod(t.dims))) > 1)


def run(path: pathlib.Path, feeds: dict[str, np.ndarray]) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(None, feeds)[0]


def feeds(pair: Pair, grow: int) -> dict[str, np.ndarray]:
    """Random inputs whose dynamic axes are `grow` larger than the example's."""
    rng = np.random.default_rng(grow)
    out = {}
    for name, example in pair.inputs.items():
        shape = [n + (grow if axis in pair.dynamic.get(name, {}) else 0) for axis, n in enumerate(example.shape)]
        if name == "attention_mask":
            out[name] = (np.arange(shape[1]) < shape[1] - 1).astype(np.int64) * np.ones((shape[0], 1), np.int64)
        elif example.is_floating_point():
            out[name] = rng.standard_normal(shape).astype(np.float32)
        else:
            out[name] = rng.integers(0, 11, shape)
    return out


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Largest difference, relative to the largest value; infinite if the shapes differ or a value is not finite."""
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("inf")
    return float(np.abs(a - b).max() / np.abs(a).max())


def build(name: str, death: Death) -> Pair:
    torch.manual_seed(zlib.crc32(f"{name}-{death.value}".encode()))
    return REGISTRY[name].build(death)


@pytest.mark.parametrize(("name", "death", "exporter"), list(cases()))
def test_slim_finds_the_narrow_network(name: str, death: Death, exporter: str, tmp_path: pathlib.Path) -> None:
    pair = build(name, death)
    wide, narrow, slim = (tmp_path / f"{n}.onnx" for n in ("wide", "narrow", "slim"))
    export(pair.wide, pair, wide, exporter)
    export(pair.narrow, pair, narrow, exporter)
    small = feeds(pair, 0)
    if pair.equal:  # the pair itself is right
        assert distance(run(narrow, small), run(wide, small)) < 1e-5
    else:
        assert distance(run(narrow, small), run(wide, small)) > 1e-3
    goal = onnx.load(narrow)
    assert weights(onnx.load(wide)) > weights(goal)

    model, _ = onnxdam.slim(wide, align="none")
    ir.save(model, slim)

    for grow in (0, 2) if pair.dynamic else (0,):
        data = feeds(pair, grow)
        assert distance(run(wide, data), run(slim, data)) < 2e-5
    found = onnx.load(slim)
    assert 0 <= weights(found) - weights(goal) <= pair.slack, wider(found, goal)
    assert len(found.graph.node) <= len((goal if pair.same_nodes else onnx.load(wide)).graph.node)


def wider(found: onnx.ModelProto, goal: onnx.ModelProto) -> str:
    """The shapes of weights that only one of the two models has."""

    def shapes(model: onnx.ModelProto) -> list[tuple[int, ...]]:
        return sorted(tuple(t.dims) for t in tensors(model.graph) if t.data_type in FLOATS)

    have, want = shapes(found), shapes(goal)
    for shape in list(have):
        if shape in want:
            have.remove(shape)
            want.remove(shape)
    return f"slim has {have}, the narrow network {want}"


class TestEmbed:
    """The library of pairs checks its own specs."""

    def test_a_parameter_without_spec_raises(self) -> None:
        with pytest.raises(KeyError, match="no axis spec for parameter 'bias'"):
            embed(torch.nn.Linear(2, 3), torch.nn.Linear(2, 3), {"weight": "3 2"}, {})

    def test_a_spec_that_does_not_describe_the_shape_raises(self) -> None:
        labels = {"a": Label(2, 4, Death.PRODUCER)}
        with pytest.raises(ValueError, match=r"weight: spec '3 \+a' has shape \[3, 4\], not \[3, 5\]"):
            embed(torch.nn.Linear(2, 3, bias=False), torch.nn.Linear(5, 3, bias=False), {"weight": "3 +a"}, labels)

    def test_dead_slots_are_zero_on_their_side_only(self) -> None:
        labels = {"a": Label(2, 4, Death.PRODUCER), "b": Label(1, 3, Death.CONSUMER)}
        narrow, wide = torch.nn.Linear(1, 2), torch.nn.Linear(3, 4)
        embed(narrow, wide, {"weight": "+a -b", "bias": "+a"}, labels)
        alive_a, alive_b = labels["a"].alive, labels["b"].alive
        assert (wide.weight[~alive_a] == 0).all()
        assert (wide.weight[:, ~alive_b] == 0).all()
        assert torch.equal(wide.weight[alive_a][:, alive_b], narrow.weight)
        labels["b"].death = Death.PRODUCER  # consumed here, so nothing to zero on this side
        embed(narrow, wide, {"weight": "+a -b", "bias": "+a"}, labels)
        assert (wide.weight[alive_a][:, ~alive_b] != 0).all()

    def test_sections_and_products(self) -> None:
        labels = {"h": Label(1, 2, Death.PRODUCER), "d": Label(2, 3, Death.PRODUCER)}
        labels["h"].place(torch.tensor([1]))
        labels["d"].place(torch.tensor([0, 2]))
        narrow, wide = torch.nn.Linear(1, 2 + 1, bias=False), torch.nn.Linear(1, 6 + 2, bias=False)
        embed(narrow, wide, {"weight": "+h*+d|+h 1"}, labels)
        alive = [i for i, row in enumerate(wide.weight) if row.abs().sum() > 0]
        assert alive == [3, 5, 7]  # head 1 of dims 0 and 2; then head 1 alone
