"""Latency as a cost: what a slim model of given widths takes on a provider, as a share of the dense one's time.

    t(w) / t(dense) = r_0 + r_1 (elements written) + sum over nodes of r_node (multiply-accumulates of the node)

each term as a share of its value in the dense network, so that the r are times. Whole numbers of open slots are rounded
up to the widths that run fast first, as slimming does; between those the formula is linear, which is what steering by
expected (broken) numbers sees. The r, none below 0 (so the model is monotone), are fitted to measurements: slim models
with all gates at the same share, and with one gate at a time halved, each measured in turn with the dense one by
`onnxdam.bench`, batch 1. With few measurements there are many r: they are drawn towards times in proportion to the
multiply-accumulates. At the end the widths that are chosen are measured themselves (`Gates`), and count most.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxdam import api
from onnxdam.analysis.tensor import Array
from onnxdam.analysis.width import fast_multiple
from onnxdam.bench import BenchResult, bench
from onnxdam.errors import InputError
from onnxdam.masks.cost import Cost, Width, extent, product
from onnxdam.masks.groups import Graph
from onnxdam.masks.schedule import is_whole
from onnxdam.providers import check_provider
from onnxdam.rules.base import Blocked
from onnxdam.rules.macs import macs

SHARES = (0.75, 0.5, 0.25, 0.1)  # of all gates at once
ALONE = 8  # gates that are measured one by one: those that cost most
RIDGE = 0.05  # how strongly the r are drawn towards the multiply-accumulates
CHOSEN = 10.0  # weight of a measurement at the widths that were chosen


class Latency(Cost):
    """Cost of kind "latency", beside the others.

    Args:
        graph: with the groups that have gates.
        provider: "cpu", "cuda" or "tensorrt".
        threads: intra-operator threads.
        seconds: how long to measure each pair of models.

    Raises:
        InputError: the provider is missing.
    """

    KINDS = (*Cost.KINDS, "latency")

    def __init__(self, graph: Graph, *, provider: str = "cpu", threads: int = 1, seconds: float = 0.5) -> None:
        check_provider(provider)
        super().__init__(graph)
        self._graph, self._provider, self._threads, self._seconds = graph, provider, threads, seconds
        self._written = [
            [extent(graph, t, i) for i in range(t.rank)]
            for op in graph.network.active()
            if op in graph.need.running
            for t in op.outs
            if t is not None and not t.opaque
        ]
        self._steps = self._fast_steps()
        self._whole = self._terms(self.dense)
        self._rows: list[tuple[Array, float, float]] = [(self._shares(self.dense), 1.0, 1.0)]
        self._dense = api.slim(graph.closed([np.ones(n, bool) for n in self.dense]), provider=provider)[0]
        self._rates = self._fit()
        for counts in self._samples():
            self.measure(counts, weight=1.0)

    def at(self, kind: str, counts: Sequence[Any]) -> Any:
        if kind != "latency":
            return super().at(kind, counts)
        return float(self._shares(counts) @ self._rates)

    def slopes(self, kind: str) -> list[float]:
        """For latency, halfway down: a slot more or less often costs nothing."""
        if kind != "latency":
            return super().slopes(kind)
        halves = [self._half(g) for g in range(len(self.dense))]
        whole = self.ratio(kind, self.dense)
        return [(whole - self.ratio(kind, h)) / max(self.dense[g] - h[g], 1) for g, h in enumerate(halves)]

    def measure(self, counts: Sequence[int], weight: float = CHOSEN) -> BenchResult:
        """Measures the slim model of these widths, next to the dense one, and learns from it."""
        keep = [np.arange(n) < count for n, count in zip(self.dense, counts, strict=True)]
        slim, _ = api.slim(self._graph.closed(keep), provider=self._provider)
        found = bench(self._dense, slim, provider=self._provider, threads=self._threads, seconds=self._seconds)
        self._rows.append((self._shares(counts), found.ratio, weight))
        self._rates = self._fit()
        return found

    # -- the formula -------------------------------------------------------------------------------------------------
    def _terms(self, counts: Sequence[Any]) -> Array:
        """1, elements written, multiply-accumulates of each node."""
        if all(isinstance(c, int) for c in counts):
            counts = [min(-(-c // step) * step, n) for c, step, n in zip(counts, self._steps, self.dense, strict=True)]
        written = sum(product(w.at(counts) for w in axes) for axes in self._written)
        sums = [macs(node, {k: tuple(w.at(counts) for w in axes) for k, axes in ws.items()}) for node, ws in self._macs]
        return np.array([1.0, float(written), *(float(s or 0) for s in sums)])

    def _shares(self, counts: Sequence[Any]) -> Array:
        return self._terms(counts) / np.maximum(self._whole, 1)

    def _fit(self) -> Array:
        """Least squares on relative errors, weighted, drawn to the multiply-accumulates; what turns negative is 0."""
        x, y, weight = (np.array(column) for column in zip(*self._rows, strict=True))
        scale = np.sqrt(weight) / np.maximum(y, 0.01)
        goal = self._whole / max(self._whole[2:].sum(), 1)
        goal[:2] = 0
        pull = np.sqrt(RIDGE * len(y) / np.maximum(goal, 1 / len(goal)))
        free = np.ones(len(goal), bool)
        while True:
            rows = np.concatenate([x * scale[:, None], np.diag(pull)])[:, free]
            rates = np.zeros(len(goal))
            rates[free] = np.linalg.lstsq(rows, np.concatenate([y * scale, goal * pull]), rcond=None)[0]
            if (rates >= 0).all():
                return rates
            free &= rates > 0

    # -- what is measured --------------------------------------------------------------------------------------------
    def _fast_steps(self) -> list[int]:
        """How many slots of each gate make a step from one fast width to the next."""
        multiple = fast_multiple("auto", self._provider)
        steps = [1] * len(self.dense)
        for op in self._graph.network.active():
            for r in self._graph.need.relations[op] if op in self._graph.need.running else ():
                width = self._graph.width(r.axis) if isinstance(r, Blocked) else Width(0, {})
                if len(width.shares) == 1 and not width.fixed:
                    ((gate, share),) = width.shares.items()
                    steps[gate] = max(steps[gate], math.ceil(multiple / share))
        return steps

    def _samples(self) -> list[list[int]]:
        uniform = [[max(round(share * n), 1) for n in self.dense] for share in SHARES]
        halves = [self._half(g) for g in range(len(self.dense))]
        dear = sorted(range(len(self.dense)), key=lambda g: self.at("macs", halves[g]))[:ALONE]
        return uniform + ([halves[g] for g in dear] if len(self.dense) > 1 else [])

    def _half(self, gate: int) -> list[int]:
        return [max(n // 2, 1) if g == gate else n for g, n in enumerate(self.dense)]


def latency(graph: Graph, target: Mapping[str, Any]) -> Latency:
    """The cost that a target of latency asks for.

    Args:
        graph: with the groups that have gates.
        target: {"latency": share, "provider": ..., "threads": ...}.

    Raises:
        InputError: another key, or the provider is missing.
    """
    options = {key: value for key, value in target.items() if key != "latency"}
    for key in options:
        if key not in ("provider", "threads"):
            raise InputError(f"target: latency takes provider and threads, not {key!r}")
    threads = options.get("threads", 1)
    if not is_whole(threads) or threads < 1:
        raise InputError(f"target: threads is a number from 1 on, not {threads!r}")
    return Latency(graph, **options)
