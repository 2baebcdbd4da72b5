"""The slim torch module, and the slim state_dict."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
import onnx  # noqa: E402
from torch import nn  # noqa: E402

import onnxdam  # noqa: E402
from onnxdam.errors import InputError, UnsupportedError  # noqa: E402
from onnxdam.masks import DAM, attach, export, narrow, narrow_state, parameter_plan  # noqa: E402
from onnxdam.plan import Plan  # noqa: E402
from tests.masks.networks import Residual, mlp  # noqa: E402


def half(gates):
    """Closes every other slot of every gate."""
    for gate in gates.all:
        gate.harden(torch.arange(gate.n) % 2 == 0)
    return gates


def randomised(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -1, 1)
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    return model.eval()


def test_the_slim_module_is_the_same_function_with_fewer_parameters(tmp_path):
    torch.manual_seed(0)
    model, x = randomised(Residual()), torch.randn(3, 3, 6, 6)
    gates = half(attach(model, x))
    slim = narrow(model, parameter_plan(model, x), x)
    assert torch.allclose(slim(x), model(x), atol=1e-5)
    assert (slim.stem.out_channels, slim.norm0.num_features, slim.conv1.in_channels, slim.conv1.out_channels) == (
        8,
        8,
        8,
        12,
    )
    assert (slim.depthwise.groups, slim.depthwise.in_channels, slim.depthwise.out_channels) == (8, 8, 8)
    assert (slim.hidden.in_features, slim.hidden.out_features, slim.head.in_features) == (14 * 4, 10, 10)
    assert str(slim.conv1).startswith("Conv2d(8, 12,")
    assert type(slim.conv1) is nn.Conv2d

    written, _ = onnxdam.slim(onnx.load(export(model, gates, x, tmp_path / "m.onnx")), align="none")
    shapes = {i.name: tuple(i.dims) for i in written.graph.initializer}
    state = slim.state_dict()
    assert all(tuple(state[name].shape) == shape for name, shape in shapes.items() if name in state and len(shape) > 1)


def test_a_bare_state_dict():
    torch.manual_seed(0)
    model, x = mlp(), torch.randn(3, 20)
    gates = half(attach(model, x))
    plan = parameter_plan(model, x)
    y = model(x)
    state = narrow_state(gates.bake().state_dict(), plan)
    bare = nn.Sequential(nn.Linear(20, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 4))
    bare.load_state_dict(state)
    assert torch.allclose(bare(x), y, atol=1e-5)
    again = narrow_state(model.state_dict(), Plan.from_json(plan.to_json()))
    assert all(torch.equal(a, b) for a, b in zip(again.values(), state.values(), strict=True))


def test_a_slim_module_trains_on():
    model, x = mlp(), torch.randn(3, 20)
    half(attach(model, x))
    slim = narrow(model, parameter_plan(model, x), x)
    slim(x).sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in slim.parameters())


class Heads(nn.Module):
    """Attention that keeps its numbers for itself, and looks up positions of which an example needs a few."""

    def __init__(self, width: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.all_head_size = heads, width // heads, width
        self.positions = nn.Embedding(32, width)
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.positions(torch.arange(x.shape[1]))
        y = self.norm(x)
        q, k, v = (
            f(y).view(len(x), -1, self.num_heads, self.head_dim).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        y = (q @ k.mT * self.head_dim**-0.5).softmax(-1) @ v
        return x + self.out(y.transpose(1, 2).reshape(len(x), -1, self.all_head_size))


def test_numbers_that_modules_keep_for_themselves_follow():
    torch.manual_seed(0)
    model, x = nn.Sequential(Heads(), Heads()).eval(), torch.randn(2, 5, 16)
    gates = half(attach(model, x))
    assert gates.kept() == {"0.q": (2, 4), "1.q": (2, 4)}
    slim = narrow(model, parameter_plan(model, x), x)
    assert [(m.num_heads, m.head_dim, m.all_head_size) for m in slim] == [(2, 4, 8)] * 2
    assert slim[0].positions.num_embeddings == 32
    longer = torch.randn(3, 9, 16)
    assert torch.allclose(slim(longer), model(longer), atol=1e-6)


def test_a_width_written_into_a_forward_function_is_told():
    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(6, 12), nn.Linear(4, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x).relu().view(len(x), 3, 4)).sum(1)

    model, x = Written(), torch.randn(2, 6)
    half(attach(model, x))
    plan = parameter_plan(model, x)
    with pytest.raises(UnsupportedError, match=r"forward function of the network \(Written\) does not follow"):
        narrow(model, plan, x)


def test_constants_that_would_have_to_be_folded_are_told():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), DAM(8, beta=-2.0), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten()
    )
    net[2].bias.data.fill_(1)
    x = torch.randn(2, 3, 6, 6)
    with pytest.raises(UnsupportedError, match="not zero but constants"):
        narrow(net, parameter_plan(net, x), x)


def test_a_plan_of_another_network_is_told():
    with pytest.raises(InputError, match="names no parameter of this network"):
        narrow(mlp(), Plan("", {}, {"somewhere.weight": {0: (1, 2)}}))
    with pytest.raises(InputError, match=r"does not fit 0\.weight of shape \(48, 20\)"):
        narrow(mlp(), Plan("", {}, {"0.weight": {0: (1, 99)}}))


def test_numbers_that_are_none_are_a_difference():
    from onnxdam.masks.example import distance

    nan, inf = float("nan"), float("inf")
    whole = {"y": torch.tensor([1.0, 2.0])}
    assert distance(whole, {"y": torch.tensor([1.0, nan])}) == inf
    assert distance({"y": torch.tensor([nan, 2.0])}, {"y": torch.tensor([nan, 2.0])}) == 0
    assert distance({"y": torch.tensor([nan, inf])}, {"y": torch.tensor([nan, inf])}) == 0
