"""Gates in all kinds of training loops: they are parameters and buffers like others, and know only their own step."""

from __future__ import annotations

import copy
import functools

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from onnxdam.masks import Gates, Schedule, attach  # noqa: E402
from tests.masks.networks import mlp  # noqa: E402
from tests.masks.test_attach import METHODS  # noqa: E402

GATED = [method for method in METHODS if method != "slimming"]  # there is no BatchNorm here
STEPS = 40
SHARE = 0.4


def data() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(64, 20, generator=torch.Generator().manual_seed(1))
    return x, (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0).long()


@functools.cache
def attached(method: str) -> tuple[nn.Module, Gates]:
    torch.manual_seed(0)
    model = mlp()
    return model, attach(model, data()[0][:2], method=method, target={"macs": SHARE}, schedule=Schedule(STEPS))


def start(method: str) -> tuple[nn.Module, Gates, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model, gates = copy.deepcopy(attached(method))
    return model, gates, torch.optim.Adam(model.parameters(), 1e-2)


def train(model: nn.Module, gates: Gates, optimizer: torch.optim.Optimizer, steps: int, parts: int = 1) -> None:
    x, y = data()
    for _ in range(steps):
        optimizer.zero_grad()
        for a, b in zip(x.chunk(parts), y.chunk(parts), strict=True):
            ((nn.functional.cross_entropy(model(a), b) + gates.penalty()) / parts).backward()
        optimizer.step()
        gates.step()


def ended(gates: Gates) -> bool:
    return gates.hardened and SHARE * 0.98 <= gates.cost()["macs"] <= SHARE


@pytest.mark.parametrize("method", GATED)
@pytest.mark.parametrize("when", [3, 17, 35])  # in the cold start, on the ramp, with binary masks
def test_a_saved_run_goes_on_in_the_same_bits(method, when):
    model, gates, optimizer = start(method)
    train(model, gates, optimizer, when)
    saved = copy.deepcopy((model.state_dict(), gates.state_dict(), optimizer.state_dict(), torch.get_rng_state()))
    train(model, gates, optimizer, STEPS - when)
    again, twins, other = start(method)
    for part, state in zip((again, twins, other), saved, strict=False):
        part.load_state_dict(state)
    torch.set_rng_state(saved[3])
    train(again, twins, other, STEPS - when)
    assert ended(twins)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


@pytest.mark.parametrize("method", GATED)
def test_a_copy_is_a_run_of_its_own(method):
    model, gates, optimizer = start(method)
    train(model, gates, optimizer, 17)
    again, twins = copy.deepcopy((model, gates))
    before = [p.detach().clone() for p in model.parameters()]
    train(again, twins, torch.optim.Adam(again.parameters(), 1e-2), STEPS - 17)
    assert ended(twins)
    assert int(gates.steps) == 17
    assert not gates.hardened
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("method", ["dam", "diffprune", "grouplasso"])  # hard concrete draws once per pass
def test_gradients_are_gathered_over_several_passes(method):
    found = []
    for parts in (1, 4):
        model, gates, optimizer = start(method)
        model.double()
        x, y = (t.double() if t.is_floating_point() else t for t in data())
        for _ in range(12):
            optimizer.zero_grad()
            for a, b in zip(x.chunk(parts), y.chunk(parts), strict=True):
                ((nn.functional.cross_entropy(model(a), b) + gates.penalty()) / parts).backward()
            optimizer.step()
            gates.step()
        found.append([p.detach() for p in model.parameters()])
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("method", GATED)
def test_clipped_gradients_half_precision_and_two_optimisers(method):
    model, gates, _ = start(method)
    mine = set(gates.parameters())
    optimizers = [torch.optim.SGD([p for p in model.parameters() if p not in mine], 0.1, momentum=0.9)]
    if mine:
        optimizers.append(torch.optim.Adam(mine, 3e-2))
    x, y = data()
    for _ in range(STEPS):
        for optimizer in optimizers:
            optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = nn.functional.cross_entropy(model(x), y) + gates.penalty()
        loss.backward()
        assert all(p.grad is None or p.grad.dtype == torch.float32 for p in model.parameters())
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        for optimizer in optimizers:
            optimizer.step()
        gates.step()
    assert ended(gates)
    assert torch.isfinite(model(x)).all()


@pytest.mark.slow
@pytest.mark.parametrize("method", GATED)
def test_a_compiled_network_goes_through_all_phases(method):
    torch._dynamo.reset()
    model, gates, optimizer = start(method)
    fast, (x, _) = torch.compile(model, backend="aot_eager"), data()
    for steps in (3, 20, STEPS - 23):
        train(fast, gates, optimizer, steps)
        assert torch.allclose(fast.eval()(x), model(x), atol=1e-5)
        model.train()
    assert ended(gates)
