"""Inputs and outputs that may shrink: drawn graphs with gated inputs, and networks that flatten images, in float64."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from .features import check_features, check_twice, gated, image
from .graphs import FAMILIES, Case, cases
from .oracle import Mismatch
from .properties import describe, finite

GRAPHS = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
    print_blob=False,
)


def check(case: Case, seen: Counter[str]) -> None:
    if not finite(case):
        return
    seen["graphs"] += 1
    try:
        check_features(case, seen)
    except Mismatch as error:
        raise Mismatch(f"{error}\n{describe(case)}") from None


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_not_read_leaves(family: str) -> None:
    seen: Counter[str] = Counter()

    @GRAPHS
    @given(cases(family), st.integers(0, 2**16))
    def run(case: Case, seed: int) -> None:
        check(gated(case, np.random.default_rng(seed)), seen)

    run()
    assert seen["narrowed"] >= 0.25 * seen["graphs"] > 0, seen
    assert seen["shrinks again"] <= 0.02 * seen["narrowed"], seen
    assert seen["ill-conditioned"] <= 0.02 * seen["graphs"], seen


def test_pixels_leave_one_by_one() -> None:
    seen: Counter[str] = Counter()

    @GRAPHS
    @given(st.integers(0, 2**16))
    def run(seed: int) -> None:
        check(image(seed), seen)

    run()
    assert seen["shrinks again"] == 0, seen
    assert seen["vectors"] >= 0.5 * seen["graphs"] > 0, seen  # of both modes


def test_manifests_of_models_that_were_pruned_twice() -> None:
    seen: Counter[str] = Counter()

    @GRAPHS
    @given(st.one_of(cases(), st.integers(0, 2**16).map(image)), st.integers(0, 2**16))
    def run(case: Case, seed: int) -> None:
        rng = np.random.default_rng(seed)
        case = gated(case, rng)
        if finite(case):
            check_twice(case, rng, seen)

    run()
    assert seen["twice"] >= 0.2 * GRAPHS.max_examples, seen
