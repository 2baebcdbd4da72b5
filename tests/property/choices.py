"""Where a drawn graph gets its decisions from: Hypothesis (which can shrink them) or a seed (which is fast).

The grammar asks a `Choices` object for integers and knows nothing else, so one grammar serves both the test run and the
100,000-graph script. Zero is always the simplest choice: that is the direction in which Hypothesis shrinks.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from hypothesis import strategies as st

T = TypeVar("T")


class Choices:
    """A source of decisions on top of one primitive, `integer`."""

    def __init__(self, integer: Callable[[int, int], int]) -> None:
        self.integer = integer

    def chance(self, percent: int) -> bool:
        """True with the given probability; False is the simpler outcome."""
        return self.integer(0, 99) >= 100 - percent

    def pick(self, options: Sequence[T]) -> T:
        """One of the options; put the simplest first."""
        return options[self.integer(0, len(options) - 1)] if len(options) > 1 else options[0]

    def subset(self, options: Sequence[T], percent: int) -> list[T]:
        """Each option independently with the given probability."""
        return [option for option in options if self.chance(percent)]

    def permutation(self, n: int) -> list[int]:
        """A permutation of 0 .. n-1."""
        rest, perm = list(range(n)), []
        while rest:
            perm.append(rest.pop(self.integer(0, len(rest) - 1)))
        return perm


def seeded(seed: int) -> Choices:
    """Decisions from a seed: the same seed draws the same graph on every machine."""
    return Choices(random.Random(seed).randint)


def hypothesis_choices(draw: Callable[[Any], Any]) -> Choices:
    """Decisions from a Hypothesis `draw`."""
    return Choices(lambda low, high: draw(st.integers(low, high)))
