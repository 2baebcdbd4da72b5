"""The measurement tells a difference from noise."""

from __future__ import annotations

import numpy as np
import pytest

from onnxdam.bench import BenchResult, bench, ratio_interval
from onnxdam.errors import InputError
from tests.models import mlp


def rounds(factor: float, spread: float, seed: int = 0) -> list[list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [[rng.normal(1, spread, 60), rng.normal(factor, spread, 60)] for _ in range(8)]


def result(low: float, ratio: float, high: float) -> BenchResult:
    return BenchResult(1.0, ratio, ratio, low, high, 10, {}, "cpu", 1)


def test_interval_covers_a_known_ratio() -> None:
    covered = 0
    for seed in range(40):
        ratio, low, high = ratio_interval(rounds(0.8, 0.05, seed), seed)
        assert low <= ratio <= high
        covered += low <= 0.8 <= high
    assert covered >= 35


def test_verdicts() -> None:
    assert result(0.95, 0.99, 1.02).verdict == "no significant difference"
    assert result(0.45, 0.5, 0.55).verdict == "2.00 times as fast"
    assert result(1.9, 2.0, 2.1).verdict == "2.00 times as slow"


def test_a_wider_model_is_slower() -> None:
    measured = bench(mlp(hidden=64), mlp(hidden=64, wide=60_000), seconds=0.5)
    assert measured.significant
    assert measured.ratio > 2
    assert measured.sizes == {"N": 1}
    assert measured.runs >= 10


def test_sizes_can_be_asked_for() -> None:
    assert bench(mlp(), mlp(), seconds=0.1, sizes={"N": 7}).sizes == {"N": 7}
    with pytest.raises(InputError, match="no dynamic dimension 'M'; there are: N"):
        bench(mlp(), mlp(), seconds=0.1, sizes={"M": 7})


def test_bad_provider() -> None:
    with pytest.raises(InputError, match="provider 'abacus'"):
        bench(mlp(), mlp(), provider="abacus")
