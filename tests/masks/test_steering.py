"""Steering: the gates follow their goal, however far the optimiser gets in a step, and no layer is closed."""

from __future__ import annotations

import copy
import functools

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")
from torch import nn  # noqa: E402

from onnxdam.masks import DAM, DiffPrune, Gates, GroupLasso, HardConcrete, Owned, Schedule, attach  # noqa: E402
from onnxdam.recipes.data import Classes, load_classes  # noqa: E402
from tests.masks.test_attach import METHODS  # noqa: E402

OPTIMISERS = {
    "sgd, slow": lambda p: torch.optim.SGD(p, 1e-4),
    "sgd, fast": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    "adam, slow": lambda p: torch.optim.Adam(p, 1e-4),
    "adam, fast": lambda p: torch.optim.Adam(p, 0.1),
}


STEPS = 60


@functools.cache
def digits() -> Classes:
    return load_classes()


@functools.cache
def network(method: str) -> tuple[nn.Module, Gates]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(64, 80), nn.BatchNorm1d(80), nn.ReLU(), nn.Linear(80, 50), nn.BatchNorm1d(50), nn.ReLU(),
        nn.Linear(50, 10),
    )  # fmt: skip
    example = digits().x_train[:2]
    return model, attach(model, example, method=method, target={"macs": 0.2}, schedule=Schedule(STEPS))


def train(model: nn.Module, gates: Gates, optimizer: torch.optim.Optimizer, steps: int) -> None:
    data = digits()
    for _ in range(steps):
        rows = torch.randint(len(data.x_train), (64,))
        optimizer.zero_grad()
        (nn.functional.cross_entropy(model(data.x_train[rows]), data.y_train[rows]) + gates.penalty()).backward()
        optimizer.step()
        gates.step()


@pytest.mark.parametrize("optimiser", list(OPTIMISERS))
@pytest.mark.parametrize("method", METHODS)
def test_widths_follow_the_goal_and_hardening_only_rounds(method, optimiser):
    model, gates = copy.deepcopy(network(method))
    torch.manual_seed(1)
    train(model, gates, OPTIMISERS[optimiser](model.parameters()), 47)  # of 48 with soft masks
    before = gates.cost()["macs"]
    assert before == pytest.approx(0.2, rel=0.08)
    train(model, gates, OPTIMISERS[optimiser](model.parameters()), 1)
    assert gates.hardened
    assert 0.198 <= gates.cost()["macs"] <= 0.2
    assert min(kept for kept, _ in gates.kept().values()) >= 4


@pytest.mark.parametrize("method", METHODS)
def test_a_short_run_learns_all_the_same(method):
    """Sixty steps are too few for a penalty to find its weight."""
    model, gates = copy.deepcopy(network(method))
    torch.manual_seed(1)
    train(model, gates, torch.optim.Adam(model.parameters(), 1e-2), STEPS)
    data = digits()
    assert (model.eval()(data.x_test).argmax(1) == data.y_test).float().mean() > 0.85


# -- moves -----------------------------------------------------------------------------------------------------------
def test_dam_moves_its_offset_and_keeps_the_order():
    gate = DAM(50)
    for width in (30, 41, 50, 1):
        gate.aim(width)
        assert gate.kept().tolist() == [False] * (50 - width) + [True] * width


@pytest.mark.parametrize("gate", [HardConcrete(30), DiffPrune(30), DiffPrune(30, width=0.9)], ids=str)
def test_bernoulli_slots_change_sides(gate):
    gate = copy.deepcopy(gate).eval()
    (parameter,) = gate.parameters()
    with torch.no_grad():
        parameter += torch.randn(30, generator=torch.Generator().manual_seed(0))
    before = parameter.detach().clone()
    best = torch.zeros(30, dtype=torch.bool)
    best[before.topk(9).indices] = True
    gate.aim(9)
    assert torch.equal(gate.kept(), best)
    assert torch.equal(gate.mask() > 0, best)
    assert torch.equal(parameter[best], before[best])  # who stays is left alone
    gate.aim(10)
    assert (gate.kept() & ~best).sum() == 1
    assert torch.equal(gate.kept() & best, best)
    with torch.no_grad():
        parameter.fill_(-9.0)
    gate.aim(4)
    assert gate.kept().sum() == 4


def test_shrunk_slots_close_for_good():
    weight = nn.Parameter(torch.arange(1.0, 6.0).view(1, 5))
    gate = GroupLasso(5, [Owned(lambda: weight, 1)])
    assert torch.allclose(gate.margin(), torch.arange(1.0, 6.0) / 3)
    gate.aim(3)
    assert gate.mask().tolist() == [0, 0, 1, 1, 1]
    with torch.no_grad():
        weight.fill_(1.0)  # whatever the optimiser does
    assert gate.kept().tolist() == [False, False, True, True, True]
    assert gate.margin().tolist() == [0, 0, 1, 1, 1]
    gate.aim(1)
    assert gate.kept().sum() == 1


def test_pressed_slots_lose_more_the_weaker_they_are():
    weight = nn.Parameter(torch.tensor([[0.05, 1.0, 2.0, 5.0]]))
    gate = GroupLasso(4, [Owned(lambda: weight, 1)])
    mean = float(weight.detach().mean())
    gate.press(1.5 / mean, 1)
    assert torch.allclose(weight[0], torch.tensor([0.0, 1 - 0.15, 2 - 0.15 * (1.5 / 2) ** 2, 5.0]))
    assert gate.kept().tolist() == [False, True, True, True]
    for _ in range(50):
        gate.press(9.0, 2)
    assert gate.kept().tolist() == [False, False, True, True]


@pytest.mark.parametrize("kind", [DAM, HardConcrete])
def test_a_gate_that_the_optimiser_closes_is_reopened(kind):
    net = nn.Sequential(nn.Linear(4, 30), kind(30), nn.Linear(30, 20), kind(20), nn.Linear(20, 2))
    gates = Gates.of(net, target={"channels": 0.5}, schedule=Schedule(50, cold=0))
    for _ in range(25):
        with torch.no_grad():
            next(net[1].parameters()).fill_(-20.0)
        gates.step()
        assert min(kept for kept, _ in gates.kept().values()) >= 4


def test_inputs_leave_in_a_run_of_group_lasso_only_if_they_are_weak():
    """One gate, a short run: all of it used to shrink to nothing at once."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 2)), torch.randn(512, 30)
    y = (x[:, 3] * x[:, 7] > 0).long()
    target, schedule = {"channels": 0.2}, Schedule(300)
    gates = attach(model, x[:2], method="grouplasso", inputs=True, include=["input"], target=target, schedule=schedule)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        gates.step()
    assert gates.all[0].kept()[[3, 7]].all()
    assert gates.all[0].kept().sum() == 6
    assert (model(x).argmax(1) == y).float().mean() > 0.95
