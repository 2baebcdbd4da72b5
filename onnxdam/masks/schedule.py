"""When training does what: cold start, ramp, hardening.

0 ......... cold ............ ramp ............ harden ............ 1      (share of all steps)
gates frozen, pressure rises   full pressure     masks are binary: fine-tuning
no penalty    from 0 to 1
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real

from onnxdam.errors import InputError


def is_number(value: object) -> bool:
    """Whether an argument is a finite number, of whatever library."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def is_whole(value: object) -> bool:
    """Whether an argument is a whole number, of whatever library."""
    return isinstance(value, Integral) and not isinstance(value, bool)


@dataclass(frozen=True)
class Schedule:
    """The phases of a training run.

    Attributes:
        steps: how many optimiser steps the run has.
        cold: share of the steps at the start in which gates are frozen and not penalised (the papers' cold start).
        ramp: share of the steps after which the penalty is at full weight, and a target at its final value.
        harden: share of the steps after which masks are frozen and binary; None: only when asked for.
    """

    steps: int
    cold: float = 0.1
    ramp: float = 0.6
    harden: float | None = 0.8

    def __post_init__(self) -> None:
        numbers = (self.steps, self.cold, self.ramp, 1.0 if self.harden is None else self.harden)
        if not is_whole(self.steps) or not all(map(is_number, numbers)):
            raise InputError(f"schedule: a number of steps and shares of them are wanted, not {numbers}")
        last = 1.0 if self.harden is None else self.harden
        if self.steps < 1 or not 0 <= self.cold <= self.ramp <= last <= 1:
            raise InputError(
                f"schedule: steps >= 1 and 0 <= cold <= ramp <= harden <= 1 are wanted, not "
                f"{self.steps}, {self.cold}, {self.ramp}, {self.harden}"
            )

    def bounds(self) -> tuple[int, ...]:
        """The first step after the cold start, and the first with binary masks."""
        return tuple(math.ceil(share * self.steps) for share in (self.cold, self.harden) if share is not None)

    def is_cold(self, step: int) -> bool:
        """Whether the gates are still frozen at that step (counted from 0)."""
        return step < self.cold * self.steps

    def progress(self, step: int) -> float:
        """How far the ramp is: 0 at the end of the cold start, 1 at full pressure."""
        start, end = self.cold * self.steps, self.ramp * self.steps
        return 1.0 if step >= end else max(0.0, (step - start) / (end - start))

    def pull(self, step: int) -> float:
        """How far a second, later ramp is: from the middle of the first to halfway between its end and hardening."""
        start, end = (self.cold + self.ramp) / 2, (self.ramp + (1.0 if self.harden is None else self.harden)) / 2
        share = step / self.steps
        return 1.0 if share >= end else max(0.0, (share - start) / (end - start))

    def hardens(self, step: int) -> bool:
        """Whether masks are binary from that step on."""
        return self.harden is not None and step >= self.harden * self.steps
