"""Phases of a run, and the penalty of the papers."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from onnxdam.errors import InputError  # noqa: E402
from onnxdam.masks import DAM, Gates, Schedule  # noqa: E402


def test_phases():
    schedule = Schedule(100, cold=0.1, ramp=0.5, harden=0.8)
    assert [schedule.is_cold(s) for s in (0, 9, 10)] == [True, True, False]
    assert [schedule.progress(s) for s in (0, 10, 30, 50, 99)] == [0, 0, 0.5, 1, 1]
    assert [schedule.hardens(s) for s in (79, 80)] == [False, True]
    assert not Schedule(100, harden=None).hardens(99)
    assert Schedule(10, cold=0, ramp=0).progress(0) == 1


def test_bad_phases_are_told():
    with pytest.raises(InputError, match=r"0 <= cold <= ramp <= harden <= 1 are wanted, not 10, 0\.5, 0\.2, 0\.8"):
        Schedule(10, cold=0.5, ramp=0.2)


def two() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), DAM(8), nn.Linear(8, 6), DAM(6, beta=-3.0), nn.Linear(6, 2))


def test_fixed_lambda_is_the_loss_of_the_paper():
    gates = Gates.of(two(), weight=0.2)
    assert gates.penalty().item() == pytest.approx(0.2 * (1 - 3) / 2)


def test_cold_start_ramp_and_hardening_in_the_loop():
    net = two()
    gates = Gates.of(net, weight=1.0, schedule=Schedule(10, cold=0.2, ramp=0.6, harden=0.8))
    weights, seen = [], []
    for _ in range(10):
        weights.append(gates.penalty().item() / -1.0)
        seen.append((net[1].beta.requires_grad, gates.hardened))
        gates.step()
    assert weights == pytest.approx([0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 0, 0])
    assert [grad for grad, _ in seen] == [False] * 2 + [True] * 6 + [False] * 2
    assert [hard for _, hard in seen] == [False] * 8 + [True] * 2


def test_gates_placed_by_hand_reach_a_number_of_channels():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 30), nn.ReLU(), DAM(30), nn.Linear(30, 20), nn.ReLU(), DAM(20), nn.Linear(20, 2))
    gates = Gates.of(net, target={"channels": 0.4}, schedule=Schedule(300))
    x = torch.randn(64, 6)
    optimizer = torch.optim.Adam(net.parameters(), 2e-2)
    before = None
    for step in range(300):
        if step == 239:
            before = gates.cost()["channels"]
        optimizer.zero_grad()
        (nn.functional.mse_loss(net(x), x[:, :2] * x[:, 2:4]) + gates.penalty()).backward()
        optimizer.step()
        gates.step()
    assert sum(k for k, _ in gates.kept().values()) == 20
    assert before == pytest.approx(0.4, abs=0.06)  # steered there: hardening only rounds
