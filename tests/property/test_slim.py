"""Masked and slim are the same function: 2,100 drawn graphs over all rules, in float64, below 1e-9.

Each family is one test, so that pytest-xdist can spread them. Examples are the same in every run (`derandomize`); the
long runs with fresh seeds are benchmarks/fuzz.py. A failing example is shrunk, printed as text with its mask, and
saved.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import onnx
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from .graphs import FAMILIES, Case, case_of_seed, cases
from .oracle import Mismatch
from .properties import check_slim, describe, finite, rounds_until_stable
from .subject import slim

GRAPHS_PER_FAMILY = 350
FIXPOINT_SEEDS = range(70_000, 70_080)


@pytest.mark.parametrize("family", FAMILIES)
def test_masked_equals_slim(family: str) -> None:
    seen: Counter[str] = Counter()

    @settings(
        max_examples=GRAPHS_PER_FAMILY,
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        print_blob=False,
    )
    @given(cases(family))
    def run(case: Case) -> None:
        if not finite(case):
            seen["not finite"] += 1
            return
        try:
            outcome = check_slim(case, slim, fixpoint=False)
        except Mismatch as error:
            path = Path(tempfile.gettempdir()) / f"onnxdam_{family}.onnx"
            onnx.save(case.model, path)
            raise Mismatch(f"{error}\nsaved as {path}\n{describe(case)}") from None
        seen["graphs"] += 1
        seen["removed"] += outcome.removed
        seen["ill-conditioned"] += outcome.ill_conditioned

    run()
    assert seen["graphs"] >= 0.95 * GRAPHS_PER_FAMILY, seen
    assert seen["ill-conditioned"] <= 0.01 * seen["graphs"], seen
    assert seen["removed"] >= 0.2 * seen["graphs"], f"slim hardly ever removes anything: {seen}"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_second_slim_finds_next_to_nothing(family: str) -> None:
    """A tensor that is constant on every slot, kept for its dynamic extents only, may shrink once more: in at most 5 % of
    these graphs (full of wholly dead layers). No chain of slims goes on for ever, and no handmade trap needs a second."""
    rounds = {}
    for seed in FIXPOINT_SEEDS:
        case = case_of_seed(seed, family)
        rounds[seed] = rounds_until_stable(slim(case.model)[0], slim)
    unstable = {seed: count for seed, count in rounds.items() if count}
    assert max(rounds.values()) <= 2, unstable
    assert len(unstable) <= 0.05 * len(rounds), unstable
