"""Masks on weights and on their inputs: the same function and slopes as the plain formulation, in every walk of life."""

from __future__ import annotations

import copy
import functools

import pytest

torch = pytest.importorskip("torch")
from torch import Tensor, nn  # noqa: E402
from torch.func import functional_call  # noqa: E402

from onnxdam.masks import attach, export, narrow, parameter_plan  # noqa: E402
from onnxdam.masks.gate import along  # noqa: E402
from onnxdam.masks.norms import spread  # noqa: E402
from onnxdam.masks.reading import original, scale, take_off  # noqa: E402
from tests.masks.networks import Attention, Residual, mlp  # noqa: E402

NETWORKS = {
    "mlp": (mlp, (5, 20)),
    "residual": (Residual, (3, 3, 6, 6)),
    "attention": (Attention, (2, 5, 16)),
}


@functools.cache
def attached(name: str, method: str):
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    model = make()
    gates = attach(model, torch.randn(shape), method=method)
    with torch.no_grad():
        for parameter in gates.parameters():
            parameter.copy_(torch.randn(parameter.shape) if parameter.dim() else torch.tensor(-1.3))
    return model.double(), gates


def gated(name: str, method: str = "dam", batch: int = 3):
    """A network in double precision with gates that are neither open nor closed, and an input."""
    model, gates = copy.deepcopy(attached(name, method))
    torch.manual_seed(1)
    return model, gates, torch.randn(batch, *NETWORKS[name][1][1:], dtype=torch.double)


def plainly(model: nn.Module, gates, x: Tensor) -> Tensor:
    """The network's output with every weight replaced by weight * mask, by autograd alone."""
    weights: dict[str, Tensor] = {}
    for part, gate in gates._parts:
        value = weights.get(part.parameter, original(model, part.parameter))
        mask = spread(gate.mask().double(), torch.from_numpy(part.index))
        weights[part.parameter] = value * along(mask, value.dim(), part.axis)
    bare = copy.deepcopy(model)
    take_off(bare, masked=False)
    return functional_call(bare, weights, (x,))


def slopes(loss: Tensor, model: nn.Module, gates) -> list[Tensor]:
    wanted = [p for p in gates.parameters() if p.requires_grad]
    wanted += [original(model, part.parameter) for part, _ in gates._parts]
    return list(torch.autograd.grad(loss, wanted, allow_unused=True))


@pytest.mark.parametrize("name", list(NETWORKS))
@pytest.mark.parametrize("method", ["dam", "hardconcrete", "diffprune"])
@pytest.mark.parametrize("batch", [1, 64])  # inputs smaller than weights, and larger
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_function_and_slopes_are_those_of_masked_weights(name, method, batch, mode):
    model, gates, x = gated(name, method, batch)
    getattr(model, mode)()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()  # one sample has no variance
    y = model(x)
    wanted = plainly(model, gates, x)
    assert torch.allclose(y, wanted, rtol=1e-12, atol=1e-12)
    weights = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)
    for mine, theirs in zip(
        slopes((y * weights).sum(), model, gates), slopes((wanted * weights).sum(), model, gates), strict=True
    ):
        assert (mine is None) == (theirs is None)
        assert mine is None or torch.allclose(mine, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("shape", "axis"), [((3, 4), 1), ((3, 4), 0), ((3, 4, 2, 2), 1), ((4, 3), 0), ((2, 3, 4), 2)])
def test_slopes_of_scaling(shape, axis):
    x = torch.randn(shape, dtype=torch.double, requires_grad=True)
    mask = torch.randn(shape[axis], dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: scale(a, b, axis), (x, mask))
    assert torch.autograd.gradgradcheck(lambda a, b: scale(a, b, axis), (x, mask))


def test_two_passes_and_accumulation_in_one_step():
    model, gates, x = gated("residual", "hardconcrete", 8)
    model.eval()
    (model(x[:4]).sum() + model(x[4:]).sum()).backward()  # both graphs alive at once
    once = [p.grad.clone() for p in gates.parameters()]
    model.zero_grad()
    for part in (x[:4], x[4:]):
        model(part).sum().backward()
    assert all(torch.allclose(a, p.grad) for a, p in zip(once, gates.parameters(), strict=True))


@pytest.mark.parametrize("early", [True, False])
def test_optimisers_made_before_and_after(early):
    torch.manual_seed(0)
    model, x = mlp(), torch.randn(16, 20)
    optimizer = torch.optim.SGD(model.parameters(), 0.1) if early else None
    gates = attach(model, x)
    if optimizer is None:
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
    else:
        optimizer.add_param_group({"params": list(gates.parameters())})
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    model(x).square().sum().backward()
    optimizer.step()
    assert all(not torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_the_network_gets_its_own_parameters_back_in_their_order():
    model, x = mlp(), torch.randn(3, 20)
    before = list(model.named_parameters())
    gates = attach(model, x)
    twin = copy.deepcopy(model)
    y = twin(x)
    gates.detach()
    after = list(model.named_parameters())
    assert [n for n, _ in after] == [n for n, _ in before]
    assert all(a is b for (_, a), (_, b) in zip(after, before, strict=True))
    assert type(model[2]) is nn.Linear
    assert torch.equal(twin(x), y)  # a copy made meanwhile keeps its gates


def test_a_part_of_the_network_is_gated_too():
    model, _, x = gated("mlp")
    assert torch.allclose(model[2:](model[:2](x)), model(x))


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(6, 8)
        self.left, self.right = nn.Linear(8, 5), nn.Linear(8, 5)
        self.right.weight = self.left.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.left(torch.relu(self.first(x))) * self.right(torch.relu(self.second(x)))


def test_weights_that_layers_share():
    torch.manual_seed(0)
    model, x = Tied().eval(), torch.randn(3, 6)
    gates = attach(model, x)
    assert gates.kept() == {"first": (8, 8)}  # closed for one, closed for both: there is one gate
    assert original(model, "left.weight") is original(model, "right.weight")
    gates.all[0].harden((torch.arange(8) % 2 == 0) & (torch.arange(8) < 6))
    y, plan = model(x), parameter_plan(model, x)
    assert plan.kept["left.weight"] == plan.kept["right.weight"] == {1: (0, 2, 4)}
    assert torch.allclose(narrow(model, plan)(x), y, atol=1e-6)
    assert torch.allclose(gates.bake()(x), y, atol=1e-6)
    assert model.right.weight is model.left.weight
    assert (model.right.weight[:, [1, 3, 5, 6, 7]] == 0).all()


@pytest.mark.parametrize("batch", [1, 256])
def test_autocast(batch):
    model, gates, x = gated("mlp", batch=batch)
    model, x = model.float(), x.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = model(x)
        y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert torch.allclose(y.float(), model(x), atol=0.05)
    assert all(torch.isfinite(p.grad).all() and p.grad.dtype == torch.float32 for p in gates.parameters())


def test_a_wrong_input_is_told_by_the_layer():
    model, _, _ = gated("mlp")
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        model[2](torch.randn(3, 1, dtype=torch.double))


@pytest.mark.slow
def test_compiled(tmp_path):
    model, gates, x = gated("mlp", batch=64)
    y = model(x)
    wanted = slopes(y.square().sum(), model, gates)
    fast = torch.compile(model, backend="aot_eager")
    z = fast(x)
    assert torch.allclose(z, y)
    found = slopes(z.square().sum(), model, gates)
    assert all(torch.allclose(a, b) for a, b in zip(found, wanted, strict=True))
    gates.harden()
    assert torch.allclose(fast(x), model(x))
    export(model.float(), gates, x.float(), tmp_path / "m.onnx")
