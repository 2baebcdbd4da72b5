"""Networks with narrow inputs, and the three steps of induced feature selection."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from torch import Tensor, nn  # noqa: E402

from onnxdam.errors import InputError  # noqa: E402
from onnxdam.features import select  # noqa: E402
from onnxdam.masks import Gates, Schedule, attach, induce, narrow, parameter_plan  # noqa: E402
from onnxdam.plan import Plan  # noqa: E402
from tests.masks.networks import Residual, mlp  # noqa: E402


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(6, 8), nn.Linear(5, 8), nn.Linear(16, 3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(torch.relu(torch.cat([self.left(a), self.right(b)], 1)))


def flat() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 5, 24), nn.ReLU(), nn.Linear(24, 4))


@pytest.mark.parametrize(
    ("make", "shapes", "slim_shapes"),
    [
        (mlp, [(3, 20)], [(3, 7)]),
        (flat, [(3, 3, 4, 5)], [(3, 20)]),  # pixels
        (Residual, [(3, 3, 6, 6)], [(3, 1, 6, 6)]),  # channels
        (TwoInputs, [(3, 6), (3, 5)], [(3, 2), (3, 2)]),
    ],
)
def test_the_narrow_network_takes_the_features_that_are_read(make, shapes, slim_shapes):
    torch.manual_seed(0)
    model, args = make().eval(), tuple(torch.randn(s) for s in shapes)
    gates = attach(model, args, inputs=True)
    assert len(gates.input_gates) == len(shapes)
    for gate in gates.all:
        gate.harden(torch.arange(gate.n) % 3 == 0)
    plan = parameter_plan(model, args, inputs=True)
    assert Plan.from_json(plan.to_json()) == plan
    slim = narrow(model, plan, args)
    assert plan.signature is not None
    names = [item.name for item in plan.signature.inputs]
    taken = [select(a, plan.signature, name) for a, name in zip(args, names, strict=True)]
    assert [tuple(t.shape) for t in taken] == slim_shapes
    assert torch.allclose(slim(*taken), model(*args), atol=1e-5)
    noise = [torch.randn_like(a) for a in args]  # where nobody reads, anything may stand
    for wild, a, item in zip(noise, args, plan.signature.inputs, strict=True):
        if item.merged:
            wild.flatten(1)[:, list(item.kept[1])] = a.flatten(1)[:, list(item.kept[1])]
        else:
            wild[:, list(item.kept[1])] = a[:, list(item.kept[1])]
    assert torch.allclose(model(*noise), model(*args), atol=1e-5)


def test_inputs_stay_unless_asked_for():
    model, x = mlp(), torch.randn(3, 20)
    for gate in attach(model, x, inputs=True).all:
        gate.harden(torch.arange(gate.n) % 2 == 0)
    plan = parameter_plan(model, x)
    assert plan.signature is None
    assert narrow(model, plan, x)[0].in_features == 20
    with pytest.raises(
        InputError, match=r"^the network \(Sequential\) fails on the example inputs, \(3, 20\), \(3, 20\): "
    ):
        narrow(model, parameter_plan(model, x, inputs=True), (x, x))


@pytest.mark.parametrize("method", ["dam", "hardconcrete", "grouplasso"])
def test_the_three_steps_find_the_features_that_matter(method):
    torch.manual_seed(0)
    x = torch.randn(512, 20)
    y = (x[:, 3:4] - x[:, 11:12] * 2 + x[:, 17:18]).detach()
    model, steps = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 1)), 300
    widths = []

    def fit(network: nn.Module, data: Tensor, gates: Gates | None) -> None:
        widths.append(data.shape[1])
        optimizer = torch.optim.Adam(network.parameters(), 1e-2)
        network.train()
        for _ in range(steps):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(network(data), y)
            (loss if gates is None else loss + gates.penalty()).backward()
            optimizer.step()
            if gates is not None:
                gates.step(1e-2)

    found = induce(model, x, fit, method=method, target={"channels": 0.15}, schedule=Schedule(steps), include=["input"])
    assert found.manifest.inputs[0].kept == {1: (3, 11, 17)}
    assert widths == [20, 3]
    assert found.network[0].in_features == 3
    assert found.select(x).shape == (512, 3)
    assert nn.functional.mse_loss(found.network(found.select(x)), y) < 0.05
    assert not found.network.training
    assert found.gates.hardened


def test_what_cannot_be_done_is_told():
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x.softmax(1))

    def fit(network: nn.Module, data: Tensor, gates: Gates | None) -> None:
        raise AssertionError("not to be called")

    with pytest.raises(InputError, match=r"nothing can be gated \(layer: a graph output; x: node_softmax: "):
        induce(Wide(), torch.randn(4, 12), fit)
    deep = nn.Sequential(nn.LayerNorm(12), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(InputError, match="no gate sits on an input"):
        induce(deep, torch.randn(4, 12), fit)
    assert type(deep[3]) is nn.Linear  # as it was
