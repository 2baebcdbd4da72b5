"""Latency as a target: the formula, what it learns from measurements, and a network that ends there."""

from __future__ import annotations

import dataclasses
import itertools
import warnings

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
import numpy as np  # noqa: E402
import onnx_ir as ir  # noqa: E402
from torch import nn  # noqa: E402

from onnxdam.bench import BenchResult  # noqa: E402
from onnxdam.errors import InputError  # noqa: E402
from onnxdam.graph.count import count  # noqa: E402
from onnxdam.masks import Schedule, attach, latency  # noqa: E402
from onnxdam.masks.attach import find_groups  # noqa: E402

RESULT = BenchResult(1.0, 1.0, 1.0, 1.0, 1.0, 1, {}, "cpu", 1)


def chain() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 48, 3, padding=1), nn.ReLU(), nn.Conv2d(48, 64, 3, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(64 * 36, 50), nn.ReLU(), nn.Linear(50, 4),
    )  # fmt: skip


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Time passes as multiply-accumulates do, and a tenth of it always."""
    measured: list[float] = []

    def bench(dense: ir.Model, slim: ir.Model, **options: object) -> BenchResult:
        a, b = (count(ir.serde.serialize_model(m)).macs for m in (dense, slim))
        measured.append(0.1 + 0.9 * b / a)
        return dataclasses.replace(RESULT, ratio=measured[-1])

    monkeypatch.setattr(latency, "bench", bench)
    monkeypatch.setattr(latency, "fast_multiple", lambda align, provider: 16)
    monkeypatch.setattr("onnxdam.api.fast_multiple", lambda align, provider: 16)
    return measured


@pytest.fixture
def costs(clock: list[float]) -> latency.Latency:
    model = chain()
    return latency.Latency(find_groups(model, (torch.randn(2, 3, 6, 6),)))


def test_what_was_measured_is_what_is_said(costs, clock):
    assert costs.ratio("latency", costs.dense) == pytest.approx(1, abs=0.01)
    for counts in ([16, 32, 20], [48, 16, 50], [32, 64, 5]):
        said = costs.ratio("latency", counts)
        assert said == pytest.approx(costs.measure(counts).ratio, abs=0.04)
        assert costs.ratio("latency", counts) == pytest.approx(clock[-1], abs=0.01)  # after it was measured


def test_latency_never_falls_as_widths_grow_and_comes_in_steps(costs):
    for gate, n in enumerate(costs.dense):
        rows = [[w if g == gate else 16 for g in range(3)] for w in range(1, n + 1)]
        found = np.array([costs.ratio("latency", row) for row in rows])
        assert (np.diff(found) >= -1e-12).all()
        if gate < 2:  # convolutions: every width costs as much as the next multiple of 16
            assert [len(set(group)) for _, group in itertools.groupby(found.round(9))] == [1] * -(-n // 16)
        between = costs.ratio("latency", [w + 0.5 for w in rows[n // 2]])
        assert between <= costs.ratio("latency", [w + 1 for w in rows[n // 2]])
    assert all(slope > 0 for slope in costs.slopes("latency"))
    assert costs.slopes("macs") != costs.slopes("latency")


def test_training_ends_at_the_target_and_the_result_is_measured(clock, monkeypatch):
    for where in ("onnxdam.masks.latency.fast_multiple", "onnxdam.api.fast_multiple"):
        monkeypatch.setattr(where, lambda align, provider: 4)  # else steps are larger than 1 %
    torch.manual_seed(0)
    model, x = chain(), torch.randn(16, 3, 6, 6)
    gates = attach(model, x[:2], target={"latency": 0.5, "provider": "cpu"}, schedule=Schedule(60))
    optimizer = torch.optim.Adam(model.parameters(), 3e-2)
    for _ in range(60):
        optimizer.zero_grad()
        (nn.functional.cross_entropy(model(x), torch.arange(16) % 4) + gates.penalty()).backward()
        optimizer.step()
        gates.step()
    assert gates.hardened
    assert gates.cost()["latency"] == pytest.approx(0.5, rel=0.01)
    assert gates.measured is not None
    assert gates.measured.ratio == clock[-1] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(("slower", "met"), [(1.1, True), (4.0, False)])
def test_the_target_is_met_as_measured_when_masks_become_binary_or_it_is_told(clock, monkeypatch, slower, met):
    """Since `attach` measured, the machine has become slower for the slim network."""
    gates = attach(chain(), torch.randn(2, 3, 6, 6), target={"latency": 0.5}, schedule=Schedule(10))
    before = latency.bench

    def bench(*models: ir.Model, **options: object) -> BenchResult:
        found = before(*models, **options)
        return dataclasses.replace(found, ratio=slower * found.ratio)

    monkeypatch.setattr(latency, "bench", bench)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        gates.harden()
    assert (gates.measured.ratio <= 0.5) == met
    assert [str(w.message)[:21] for w in told] == ([] if met else ["target: latency is 0."])


@pytest.mark.slow
def test_in_onnx_runtime():
    costs = latency.Latency(find_groups(chain(), (torch.randn(2, 3, 6, 6),)), seconds=0.1)
    small = costs.measure([16, 16, 10])
    assert small.provider == "cpu"
    assert 0 < costs.ratio("latency", [16, 16, 10]) < costs.ratio("latency", costs.dense)


def test_bad_targets_are_told(clock):
    model, x = chain(), torch.randn(2, 3, 6, 6)
    for target, message in (
        ({"latency": 0.5, "provider": "abacus"}, "provider 'abacus' is not one of cpu"),
        ({"latency": 0.5, "batch": 3}, "latency takes provider and threads, not 'batch'"),
        ({"latency": 0.05}, r"latency cannot be 0\.05 of the whole; the closest that can be reached is 0\.[12]"),
        ({"latency": 1.5}, r"latency cannot be 1\.5 of the whole; the closest that can be reached is 1$"),
        ({"latency": "half"}, "the share of latency that is to stay is a number, not 'half'"),
    ):
        with pytest.raises(InputError, match=message):
            attach(model, x, target=target, schedule=Schedule(10))
