"""Cost per node of slimming graphs of 200 and of 20,000 nodes, whose channels are masked at random.

    python benchmarks/scaling.py [--sizes 200,2000,20000] [--repeats 3] [--topologies chain,dense,...]

chain      Conv, Relu, Conv, Relu ...: every width of its own
residual   x = x + Conv(Relu(Conv(x))): one residual stream, coupled through the whole graph
dense      blocks of Concats of everything before (12 layers a block), then a transition, as in DenseNet
split      Split in four, one Conv on each piece, Concat
fanout     one stream that every branch reads and that one Sum collects

The time is that of `onnxdam.slim` on a model in memory (load, analysis, plan, rewrite); processor time of the process,
best of the repeats. Needs nothing but onnxdam. Exits with 1 when the cost per node grows more than twofold.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

import onnxdam

WIDTH = 8
LAYERS = 12  # of a dense block
LIMIT = 2.0


class Builder:
    """A graph under construction; some output channels of every inner convolution are zero."""

    def __init__(self, seed: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._drawn = np.random.default_rng(seed)

    def node(self, kind: str, inputs: list[str], outputs: int = 1, **attributes: object) -> list[str]:
        names = [f"{kind}{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, name=f"n{len(self.nodes)}", **attributes))
        return names

    def conv(self, x: str, reads: int, makes: int, *, masked: bool = True) -> str:
        """A 1x1 convolution; half of its output channels are zero where `masked`."""
        weight = self._drawn.normal(size=(makes, reads, 1, 1)).astype(np.float32)
        if masked:
            weight[self._drawn.permutation(makes)[: makes // 2]] = 0
        name = f"w{len(self.nodes)}"
        self.weights.append(numpy_helper.from_array(weight, name))
        return self.node("Conv", [x, name])[0]

    def relu(self, x: str) -> str:
        return self.node("Relu", [x])[0]

    def model(self, result: str, width: int) -> ir.Model:
        last = self.node("Conv", [result, "head"])[0]
        self.weights.append(numpy_helper.from_array(np.ones((2, width, 1, 1), np.float32), "head"))
        graph = helper.make_graph(
            self.nodes, "scaling",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", WIDTH, 4, 4])],
            [helper.make_tensor_value_info(last, TensorProto.FLOAT, ["N", 2, 4, 4])],
            self.weights,
        )  # fmt: skip
        return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))


def chain(b: Builder, nodes: int) -> tuple[str, int]:
    x = "x"
    while len(b.nodes) < nodes:
        x = b.relu(b.conv(x, WIDTH, WIDTH))
    return x, WIDTH


def residual(b: Builder, nodes: int) -> tuple[str, int]:
    x = b.conv("x", WIDTH, WIDTH, masked=False)
    while len(b.nodes) < nodes:
        inner = b.conv(b.relu(b.conv(x, WIDTH, WIDTH)), WIDTH, WIDTH)
        x = b.node("Add", [x, inner])[0]
    return x, WIDTH


def dense(b: Builder, nodes: int) -> tuple[str, int]:
    x = "x"
    while len(b.nodes) < nodes:
        pieces = [x]
        for _ in range(LAYERS):
            whole = pieces[0] if len(pieces) == 1 else b.node("Concat", pieces, axis=1)[0]
            pieces.append(b.relu(b.conv(whole, WIDTH * len(pieces), WIDTH)))
        x = b.conv(b.node("Concat", pieces, axis=1)[0], WIDTH * len(pieces), WIDTH)
    return x, WIDTH


def split(b: Builder, nodes: int) -> tuple[str, int]:
    x = b.conv("x", WIDTH, WIDTH, masked=False)
    while len(b.nodes) < nodes:
        parts = b.node("Split", [x], outputs=4, axis=1)
        made = [b.conv(part, WIDTH // 4, WIDTH // 4, masked=i % 2 == 0) for i, part in enumerate(parts)]
        x = b.node("Concat", made, axis=1)[0]
    return x, WIDTH


def fanout(b: Builder, nodes: int) -> tuple[str, int]:
    stem = b.conv("x", WIDTH, WIDTH)
    branches = []
    while len(b.nodes) < nodes - 1:
        branches.append(b.conv(b.relu(b.conv(stem, WIDTH, WIDTH)), WIDTH, WIDTH, masked=False))
    return b.node("Sum", branches)[0], WIDTH


TOPOLOGIES: dict[str, Callable[[Builder, int], tuple[str, int]]] = {
    f.__name__: f for f in (chain, residual, dense, split, fanout)
}


def seconds(topology: str, nodes: int, repeats: int, seed: int) -> tuple[float, int, int, int]:
    """Processor seconds of `slim`, nodes, and the weights before and after."""
    builder = Builder(seed)
    model = builder.model(*TOPOLOGIES[topology](builder, nodes))
    best, after = float("inf"), 0
    for _ in range(repeats):
        start = time.process_time()
        slimmed, _ = onnxdam.slim(model, align="none")
        best = min(best, time.process_time() - start)
        after = _weights(slimmed)
    return best, len(builder.nodes), _weights(model), after


def _weights(model: ir.Model) -> int:
    return sum(v.const_value.size for v in model.graph.initializers.values() if v.const_value is not None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="200,2000,20000", help="nodes of the graphs, the first is compared with")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--topologies", default=",".join(TOPOLOGIES))
    args = parser.parse_args()
    print("| topology | nodes | weights before | after | slim, s | µs per node | growth |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    worst = 0.0
    for topology in args.topologies.split(","):
        seconds(topology, 50, 1, args.seed)  # imports and caches
        first = 0.0
        for size in map(int, args.sizes.split(",")):
            repeats = args.repeats * (10 if size < 1000 else 1)
            spent, nodes, before, after = seconds(topology, size, repeats, args.seed)
            cost = spent / nodes * 1e6
            first = first or cost
            worst = max(worst, cost / first)
            row = f"| {topology} | {nodes:,} | {before:,} | {after:,} | {spent:.3f} | {cost:.0f} | {cost / first:.2f} |"
            print(row, flush=True)
    print(f"\n{'PASSED' if worst <= LIMIT else 'FAILED'}: cost per node grows at most {worst:.2f}-fold (limit {LIMIT})")
    return worst > LIMIT


if __name__ == "__main__":
    sys.exit(main())
