"""Widths against a budget: bounds while training, whole slots at the end."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

pytest.importorskip("torch")

from onnxdam.masks.budget import FEW, Budget
from onnxdam.masks.gates import ChannelCost


class Chain(ChannelCost):
    """Multiply-accumulates of layers in a row, 16 features in and 10 out."""

    def at(self, kind: str, counts: Sequence[float]) -> float:
        widths = [16, *counts, 10]
        return sum(a * b for a, b in itertools.pairwise(widths))


def chain(share: float, *widths: int) -> Budget:
    return Budget(Chain(list(widths)), "macs", share)


@pytest.mark.parametrize("goal", [0.9, 0.5, 0.2])
def test_the_bound_is_the_smallest_that_meets_the_goal(goal):
    budget, rng = chain(0.1, 40, 30, 50), np.random.default_rng(0)
    worths = [rng.normal(size=n) for n in budget.sizes]
    bound = budget.bound(worths, goal)

    def cost(at: float) -> float:
        return budget.ratio([int((worth > at).sum()) for worth in worths])

    below = max(w for worth in worths for w in worth if w < bound)  # the slot that went last
    assert cost(bound) <= goal < cost(below - 1e-9)
    assert budget.bound(worths, 1.0) < min(worth.min() for worth in worths)


@pytest.mark.parametrize("share", [0.04, 0.1, 0.33, 0.7, 0.95, 1.0])
@pytest.mark.parametrize("open_", [(100, 80, 120), (1, 80, 60), (0, 0, 0)])
def test_what_it_affords_is_within_one_per_cent(share, open_):
    budget = chain(share, 100, 80, 120)
    widths = budget.afford(open_)
    assert 0.99 * share <= budget.ratio(widths) <= share + 1e-8
    assert all(least <= width <= n for least, width, n in zip(budget.least, widths, budget.sizes, strict=True))


class Blocks(Chain):
    """Widths cost as much as the next multiple of 8."""

    def at(self, kind: str, counts: Sequence[float]) -> float:
        return super().at(kind, [-(-count // 8) * 8 for count in counts])


@pytest.mark.parametrize(("prices", "sizes"), [(Chain, (8, 6, 6)), (Chain, (24, 40, 16)), (Blocks, (24, 40, 16))])
@pytest.mark.parametrize("share", [0.4, 0.5, 0.7])
def test_where_slots_are_dear_it_is_next_to_the_best_there_is(prices, sizes, share):
    budget = Budget(prices(list(sizes)), "macs", share)
    widths = itertools.product(*(range(least, n + 1) for least, n in zip(budget.least, sizes, strict=True)))
    best = max(ratio for w in widths if (ratio := budget.ratio(w)) <= share + 1e-9)
    assert budget.ratio(budget.afford(sizes)) >= 0.97 * best


def test_no_gate_falls_below_a_few_slots():
    assert chain(0.3, 100, 80).least == [FEW, FEW]
    assert chain(0.3, 5, 80).least == [1, FEW]
    assert chain(0.3, 1, 1).least == [1, 1]
    tight = chain(0.0027, 100, 80)  # next to the smallest there is
    assert tight.least == [1, 1]
    assert chain(0.3, 100, 80).ratio([0, 80]) == chain(0.3, 100, 80).ratio([FEW, 80])
