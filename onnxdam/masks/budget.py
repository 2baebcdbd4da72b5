"""Which widths a budget affords. No torch here: open slots are counted, and prices asked for.

Two questions come up. While training: below what worth must slots go, so that the rest costs no more than the goal? At
the end: how many slots of each gate, so that the target is met from below, as closely as whole slots allow?
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from onnxdam.analysis.tensor import Array
from onnxdam.masks.cost import Cost

FEW = 4  # slots that no gate falls below, or half of its fair share where that is less
CLOSE = 0.01  # how far below its target a cost may end, where slots are small enough
ROUNDING = 1e-9
GIVEN = (1, 2, 3)  # slots that a gate may give for another
TRIES = 2000  # exchanges: large networks come close without any


class Budget:
    """Widths against one kind of cost.

    Args:
        prices: what widths cost.
        kind: of the cost.
        share: of the dense cost that is to stay.

    Attributes:
        least: open slots that every gate keeps: a layer that is closed, or next to it, closes the network.
    """

    def __init__(self, prices: Cost, kind: str, share: float) -> None:
        self.prices, self.kind, self.share = prices, kind, share
        self.sizes = prices.dense
        self.least = [1] * len(self.sizes)
        self.least = [min(max(fair // 2, 1), FEW) for fair in self.evenly(self.sizes, share)]

    def ratio(self, counts: Sequence[float]) -> float:
        """The cost of these widths, but at least the least, relative to the dense one."""
        counts = [max(count, least) for count, least in zip(counts, self.least, strict=True)]
        return float(self.prices.ratio(self.kind, counts))

    def slopes(self) -> list[float]:
        """What one slot of each gate costs, in shares of the whole network.

        Taken where every gate is open: at the present widths, a layer next to one that has shrunk would get cheap, and
        the other ever dearer, until it is gone.
        """
        return self.prices.slopes(self.kind)

    # -- while training ----------------------------------------------------------------------------------------------
    def bound(self, worths: Sequence[Array], goal: float) -> float:
        """The smallest number such that the slots worth more, and the least number of each gate, cost at most the goal.

        Args:
            worths: what the slots of each gate are worth, shape (n,) each; on one scale.
            goal: share of the dense cost.

        Returns:
            A number halfway between the worths of two slots; where no bound is small enough, the largest.
        """
        ordered = [np.sort(worth) for worth in worths]
        found = np.unique(np.concatenate(ordered))
        bounds = np.concatenate([found[:1] - 1, (found[:-1] + found[1:]) / 2])
        low, high = -1, len(bounds) - 1
        while high - low > 1:
            middle = (low + high) // 2
            counts = [len(worth) - int(np.searchsorted(worth, bounds[middle], "right")) for worth in ordered]
            low, high = (low, middle) if self.ratio(counts) <= goal else (middle, high)
        return float(bounds[high])

    def evenly(self, open_: Sequence[float], goal: float) -> list[int]:
        """Widths that cost at most the goal, the same share of those given (the open slots) for every gate."""

        def counts(factor: float) -> list[int]:
            found = zip(open_, self.least, self.sizes, strict=True)
            return [min(max(int(factor * k), least), n) for k, least, n in found]

        low, high = 0.0, float(max(self.sizes))
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if self.ratio(counts(middle)) <= goal + ROUNDING else (low, middle)
        return counts(low)

    # -- at the end --------------------------------------------------------------------------------------------------
    def afford(self, open_: Sequence[int]) -> list[int]:
        """How many slots of each gate the target affords, near the same share of those that are open now."""
        return self._exchange(self._fill(self.evenly(open_, self.share)))

    def _fits(self, widths: Sequence[int]) -> bool:
        return self.ratio(widths) <= self.share + ROUNDING

    def _fill(self, widths: list[int]) -> list[int]:
        """What rounding left over, one slot at a time for each gate in turn."""
        grown = True
        while grown:
            grown = False
            for i, n in enumerate(self.sizes):
                more = [*widths[:i], widths[i] + 1, *widths[i + 1 :]]
                if widths[i] < n and self._fits(more):
                    widths, grown = more, True
        return widths

    def _exchange(self, widths: list[int]) -> list[int]:
        """Where a slot is dear (a small network, widths in blocks): gates give so that others can grow."""
        reached, before, tries = self.ratio(widths), 0.0, 0
        while reached > before:
            before = reached
            pairs = itertools.permutations(range(len(widths)), 2)
            for (giver, taker), slots in itertools.product(pairs, (*GIVEN, None)):
                tries += 1
                if reached >= (1 - CLOSE) * self.share or tries > TRIES:
                    return widths
                tried = self._give(widths, giver, taker, slots)
                if tried is not None and self.ratio(tried) > reached:
                    widths, reached = tried, self.ratio(tried)
        return widths

    def _give(self, widths: list[int], giver: int, taker: int, slots: int | None) -> list[int] | None:
        """So many slots less for the giver (None: as many as one more for the taker asks for), as many more as fit for
        the taker, and the rest for whom it is enough."""
        tried = list(widths)
        tried[taker] += 1
        tried[giver] = self._most(tried, giver, tried[giver]) if slots is None else tried[giver] - slots
        if tried[giver] < self.least[giver] or tried[taker] > self.sizes[taker] or not self._fits(tried):
            return None
        tried[taker] = self._most(tried, taker, self.sizes[taker])
        return self._fill(tried)

    def _most(self, widths: Sequence[int], gate: int, limit: int) -> int:
        """The most slots of a gate that fit beside the widths of the others; one less than its least where none do."""
        low, high = self.least[gate] - 1, limit + 1
        while high - low > 1:
            middle = (low + high) // 2
            fits = self._fits([*widths[:gate], middle, *widths[gate + 1 :]])
            low, high = (middle, high) if fits else (low, middle)
        return low
