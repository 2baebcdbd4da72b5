"""What a graph costs, as a function of how many slots of each gate are open.

    width of an axis = slots that stay anyway + sum over gates of (its slots per gate slot) * (open gate slots)

Parameters and multiply-accumulates are counted on those widths, which may be any numbers: tensors with gradients too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnxdam.analysis.tensor import Array, Sym, Tensor
from onnxdam.masks.origin import name_of, origins
from onnxdam.rules.macs import macs

if TYPE_CHECKING:
    from onnxdam.bench import BenchResult
    from onnxdam.masks.groups import Graph


@dataclass(frozen=True)
class Width:
    """fixed + sum of share * (open slots), over gates."""

    fixed: int
    shares: dict[int, float]

    def at(self, counts: Sequence[Any]) -> Any:
        total: Any = self.fixed
        for gate, share in self.shares.items():
            total = total + share * counts[gate]
        return total


class Cost:
    """Channels, parameters and multiply-accumulates at given numbers of open slots."""

    KINDS: tuple[str, ...] = ("channels", "parameters", "macs")

    def __init__(self, graph: Graph) -> None:
        self.dense = [group.n for group in graph.groups]
        self._macs: list[tuple[Any, dict[str, list[Width]]]] = []
        self._weights: list[tuple[float, list[Width]]] = []
        weights = _Weights()
        for op in graph.network.active():
            if op not in graph.need.running:
                continue
            tensors = [t for t in (*op.ins, *op.outs) if t is not None and not t.opaque]
            widths = {name_of(t): [extent(graph, t, i) for i in range(t.rank)] for t in tensors}
            node = ir.serde.serialize_node(op.node)
            if macs(node, {name: tuple(w.at(self.dense) for w in axes) for name, axes in widths.items()}):
                self._macs.append((node, widths))
            for t in op.ins:
                if t is not None and t.is_known and t.dtype is not None and t.dtype.kind == "f":
                    weights.count(t, widths[name_of(t)])
        self._weights = weights.shares()

    def at(self, kind: str, counts: Sequence[Any]) -> Any:
        """The cost of a kind; `counts` may be numbers or scalars with gradients, one per gate."""
        if kind == "channels":
            return sum(counts)
        if kind == "parameters":
            return sum(share * product(w.at(counts) for w in axes) for share, axes in self._weights)
        total: Any = 0
        for node, widths in self._macs:
            total = total + macs(node, {name: tuple(w.at(counts) for w in axes) for name, axes in widths.items()})
        return total

    def measure(self, counts: Sequence[int]) -> BenchResult | None:
        """What these widths really cost, where that is for the provider to say; later answers take it into account."""
        return None

    def slopes(self, kind: str) -> list[float]:
        """What one slot of each gate costs, in shares of the whole network, where every gate is open."""
        import torch

        widths = [torch.tensor(float(n), dtype=torch.float64, requires_grad=True) for n in self.dense]
        return [float(s) for s in torch.autograd.grad(self.ratio(kind, widths), widths)]

    def ratio(self, kind: str, counts: Sequence[Any]) -> Any:
        """The cost relative to that of the graph with every gate open."""
        return self.at(kind, counts) / self.at(kind, self.dense)


class _Weights:
    """Counts every number of the initializers once, as part of the first tensor that shows it."""

    def __init__(self) -> None:
        self._seen: dict[str, Array] = {}
        self._parts: list[tuple[str, float, list[Width]]] = []

    def count(self, t: Tensor, widths: list[Width]) -> None:
        for origin in origins(t):
            seen = self._seen.setdefault(origin.name, np.zeros(origin.size, bool))
            mine = origin.places[origin.places >= 0]
            before = int(seen.sum())
            seen[mine] = True
            if new := int(seen.sum()) - before:
                self._parts.append((origin.name, new / max(origin.places.size, 1), widths))

    def shares(self) -> list[tuple[float, list[Width]]]:
        """What is counted, in shares of tensors; numbers that are never looked at (positions beyond the example's)
        leave like the others of their initializer."""
        return [
            (share * seen.size / seen.sum(), axes)
            for name, share, axes in self._parts
            if (seen := self._seen[name]).any()
        ]


def extent(graph: Graph, tensor: Tensor, axis: int) -> Width:
    """How the extent of an axis follows from the open slots of the gates."""
    size = tensor.shape[axis]
    if tensor.axes[axis].n > 1:
        return graph.width(tensor.axes[axis])
    return Width(size.coefficient if isinstance(size, Sym) else int(size), {})


def product(numbers: Iterator[Any]) -> Any:
    """Of numbers or scalars with gradients."""
    total: Any = 1
    for number in numbers:
        total = total * number
    return total
