"""Random operators along random axes, between linear maps with dead columns and rows: masked equals slim in float32."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import onnxdam
from tests.rules.single import run

SEEDS, CHUNKS = 60, 8
Array = np.ndarray[Any, Any]
Dim = int | str


class Chain:
    """A graph that grows by one value: `name`, of shape `shape` ("N" is dynamic)."""

    def __init__(self, seed: int) -> None:
        self.choose = random.Random(seed)
        self.noise = np.random.default_rng(seed)
        self.opset = self.choose.choice([13, 17, 18, 21, 23])
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.shape: list[Dim] = ["N", *(self.choose.choice([2, 3, 4, 6]) for _ in range(self.choose.choice([2, 3])))]
        self.start = list(self.shape)
        self.name = "x"

    def weight(self, array: Array) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def normal(self, *shape: Dim) -> Array:
        return self.noise.normal(size=[d for d in shape if isinstance(d, int)]).astype(np.float32)

    def add(self, kind: str, *inputs: str, first: str | None = None, outputs: int = 1, **attributes: Any) -> str:
        """Appends a node that reads `first` (the chain's value) and the other inputs."""
        names = [f"v{len(self.nodes)}_{k}" for k in range(outputs)]
        self.nodes.append(helper.make_node(kind, [first or self.name, *inputs], names, **attributes))
        return names[0]

    def linear(self, *, dead_out: bool, dead_in: bool) -> None:
        """A linear map of a random static axis, some columns or rows of which are zero."""
        axis = self.choose.choice([i for i, d in enumerate(self.shape) if isinstance(d, int)])
        width = self.choose.choice([3, 4, 6])
        w = self.normal(self.shape[axis], width)
        w[:, self.noise.random(width) < 0.4 * dead_out] = 0
        w[self.noise.random(len(w)) < 0.5 * dead_in] = 0
        perm = [*(i for i in range(len(self.shape)) if i != axis), axis]
        self.name = self.add("Transpose", perm=perm)
        self.name = self.add("MatMul", self.weight(w))
        self.name = self.add("Transpose", perm=list(map(int, np.argsort(perm))))
        self.shape[axis] = width

    def model(self) -> onnx.ModelProto:
        y = self.add("Identity")
        graph = helper.make_graph(
            self.nodes, "chain", [helper.make_tensor_value_info("x", 1, self.start)],
            [helper.make_tensor_value_info(y, 1, [None] * len(self.shape))], self.weights,
        )  # fmt: skip
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)


def reduction(kind: str) -> Callable[[Chain, int], None]:
    def apply(c: Chain, axis: int) -> None:
        axes = sorted({axis, c.choose.randrange(len(c.shape))})
        keep = c.choose.randrange(2) if len(axes) + 1 < len(c.shape) else 1
        as_input = c.opset >= 18 or kind == "ReduceSum"
        extra = [c.weight(np.array(axes))] if as_input else []
        c.name = c.add(kind, *extra, keepdims=keep, **({} if as_input else {"axes": axes}))
        c.shape = [1 if i in axes else d for i, d in enumerate(c.shape) if keep or i not in axes]

    return apply


def along(kind: str) -> Callable[[Chain, int], None]:
    def apply(c: Chain, axis: int) -> None:
        c.name = c.add(kind, axis=axis)

    return apply


def root_mean_square(c: Chain, axis: int) -> None:
    x = c.name
    square = c.add("Mul", x)
    extra = [c.weight(np.array([axis]))] if c.opset >= 18 else []
    mean = c.add("ReduceMean", *extra, first=square, **({} if extra else {"axes": [axis]}))
    root = c.add("Sqrt", first=c.add("Add", c.weight(np.array(0.1, np.float32)), first=mean))
    c.name = c.add("Div", root)
    if isinstance(c.shape[-1], int) and c.choose.random() < 0.7:
        c.name = c.add("Mul", c.weight(c.normal(c.shape[-1])))


def channel_norm(c: Chain, axis: int) -> None:
    if len(c.shape) > 2 and isinstance(c.shape[1], int):
        c.name = c.add("InstanceNormalization", c.weight(c.normal(c.shape[1])), c.weight(c.normal(c.shape[1])))


def layer_norm(c: Chain, axis: int) -> None:
    if c.opset >= 17 and all(isinstance(d, int) for d in c.shape[axis:]):
        scale = c.normal(*c.shape[axis:])
        scale[dead(c, scale.shape)] = 0
        c.name = c.add("LayerNormalization", c.weight(scale), axis=axis)


def dead(c: Chain, shape: tuple[int, ...]) -> Array:
    return c.noise.random(shape) < 0.3


def largest(c: Chain, axis: int) -> None:
    c.name = c.add("Cast", first=c.add("ArgMax", axis=axis), to=1)
    c.shape[axis] = 1


def top(c: Chain, axis: int) -> None:
    size = c.shape[axis]
    if isinstance(size, int) and size > 1:
        c.name = c.add("TopK", c.weight(np.array([size - 1])), axis=axis, outputs=2)
        c.shape[axis] = size - 1


def running_sum(c: Chain, axis: int) -> None:
    c.name = c.add("CumSum", c.weight(np.array(axis)), exclusive=c.choose.randrange(2))


def rows(c: Chain, axis: int) -> None:
    if isinstance(c.shape[1], int):
        index = np.stack([np.zeros(4, np.int64), c.noise.integers(0, c.shape[1], size=4)], 1)
        c.name = c.add("GatherND", c.weight(index))
        c.shape = [4, *c.shape[2:]]


def contraction(c: Chain, axis: int) -> None:
    size = c.shape[axis]
    if isinstance(size, int):
        letters = "abcd"[: len(c.shape)]
        w = c.normal(size, 3)
        w[dead(c, (size,))] = 0
        c.name = c.add(
            "Einsum", c.weight(w), equation=f"{letters},{letters[axis]}z->{letters.replace(letters[axis], 'z')}"
        )
        c.shape[axis] = 3


STEPS: list[Callable[[Chain, int], None]] = [
    *(reduction(f"Reduce{kind}") for kind in ("Sum", "Mean", "Max", "Min", "L1", "L2", "SumSquare", "LogSumExp")),
    *(along(kind) for kind in ("Softmax", "LogSoftmax", "LpNormalization", "Hardmax")),
    root_mean_square, channel_norm, layer_norm, largest, top, running_sum, rows, contraction,
]  # fmt: skip


def draw(seed: int) -> Chain:
    c = Chain(seed)
    c.linear(dead_out=True, dead_in=False)
    if c.choose.random() < 0.4:
        c.name = c.add(c.choose.choice(["Relu", "Sigmoid", "Tanh"]))
    for _ in range(c.choose.choice([1, 1, 2, 3])):
        c.choose.choice(STEPS)(c, c.choose.randrange(len(c.shape)))
    if any(isinstance(d, int) for d in c.shape):
        c.linear(dead_out=False, dead_in=True)
    return c


def numbers(model: onnx.ModelProto) -> int:
    return sum(int(np.prod(t.dims)) for t in model.graph.initializer if t.data_type == 1)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_same_function(chunk: int) -> None:
    slimmer = 0
    for seed in range(chunk * SEEDS, (chunk + 1) * SEEDS):
        c = draw(seed)
        model = c.model()
        small, _ = onnxdam.slim(model, align="none", strict=False)
        slimmer += numbers(small) < numbers(model)
        for batch in (2, 3):
            feed = c.noise.normal(size=[d if isinstance(d, int) else batch for d in c.start]).astype(np.float32)
            (a,), (b,) = run(model, {"x": feed}), run(small, {"x": feed})
            text = f"seed {seed}\n{onnx.printer.to_text(model)}"
            assert a.shape == b.shape, text
            finite = np.isfinite(a)
            assert (finite == np.isfinite(b)).all(), text
            error = np.abs(a[finite] - b[finite]).max(initial=0) / max(np.abs(a[finite]).max(initial=0), 1e-3)
            assert error < 2e-5, (error, text)
    assert slimmer > SEEDS // 4
