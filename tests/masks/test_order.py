"""DAM's order of leaving: by index, or by what the loss felt in the cold start."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from onnxdam.errors import InputError  # noqa: E402
from onnxdam.masks import DAM, Gates, Schedule, attach  # noqa: E402


def train(order: str | None, steps: int = 150, until: int | None = None):
    """Only the first three of twelve features matter: by index they would be the first to leave."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 1))
    options = {} if order is None else {"order": order}
    schedule = Schedule(steps, cold=0.3)
    gates = attach(
        model,
        torch.randn(2, 12),
        inputs=True,
        include=["input"],
        target={"channels": 0.25},
        schedule=schedule,
        **options,
    )
    x = torch.randn(256, 12)
    y = x[:, :1] - 2 * x[:, 1:2] * x[:, 2:3]
    optimizer = torch.optim.Adam(model.parameters(), 2e-2)
    for _ in range(steps if until is None else until):
        optimizer.zero_grad()
        (nn.functional.mse_loss(model(x), y) + gates.penalty()).backward()
        optimizer.step()
        gates.step()
    return model, gates


def test_inputs_leave_by_saliency_unless_asked_otherwise():
    assert train(None)[1].all[0].kept().nonzero().flatten().tolist() == [0, 1, 2]
    assert train("index")[1].all[0].kept().nonzero().flatten().tolist() == [9, 10, 11]


def test_hidden_units_leave_by_index_unless_asked_otherwise():
    model = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 1))
    gates = attach(model, torch.randn(2, 12), inputs=True)
    assert {name: gate.order for name, gate in zip(gates.names, gates.all, strict=True)} == {
        "input": "saliency",
        "0": "index",
    }
    gates.detach()
    assert attach(model, torch.randn(2, 12), order="saliency").all[0].order == "saliency"


def test_the_order_and_what_it_is_made_of_are_saved():
    model, gates = train(None, until=20)  # in the middle of the cold start
    (gate,) = gates.all
    assert gate.saliency.any()
    assert torch.equal(gate.mu, 5 * torch.arange(12) / 12)
    other, twins = train(None, until=0)
    other.load_state_dict(model.state_dict())
    assert torch.equal(twins.all[0].saliency, gate.saliency)
    model, gates = train(None, until=60)
    other.load_state_dict(model.state_dict())
    assert torch.equal(twins.all[0].mu, gates.all[0].mu)
    assert not torch.equal(gates.all[0].mu, gate.mu)


def test_nothing_is_gathered_in_evaluation_or_after_the_cold_start():
    model, gates = train(None, until=60)
    (gate,) = gates.all
    before = gate.saliency.clone()
    model(torch.randn(4, 12)).sum().backward()
    assert torch.equal(gate.saliency, before)
    assert gate.mask().requires_grad


def test_gates_placed_by_hand():
    net = nn.Sequential(DAM(4, order="saliency"), nn.Linear(4, 1, bias=False))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[1.0, -4.0, 3.0, 2.0]]))
    gates = Gates.of(net, schedule=Schedule(10, cold=0.2))
    for _ in range(2):
        net(torch.ones(3, 4)).sum().backward()
        gates.step()
    assert net[0].mu.tolist() == [0.0, 3.75, 2.5, 1.25]


def test_without_a_cold_start_the_order_is_that_of_the_index():
    net = nn.Sequential(DAM(4, order="saliency"), nn.Linear(4, 1))
    gates = Gates.of(net, schedule=Schedule(10, cold=0))
    net(torch.randn(3, 4)).sum().backward()
    gates.step()
    assert net[0].mu.tolist() == [0.0, 1.25, 2.5, 3.75]
    with pytest.raises(InputError, match="order 'size' is none of index, saliency"):
        DAM(4, order="size")
