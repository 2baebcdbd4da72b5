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
from tests.masks.networks import Attention, Residual, mlp  # noqa: E402


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


def test_a_width_written_into_a_forward_function_is_told():
    model, x = Attention().eval(), torch.randn(2, 5, 16)
    half(attach(model, x))
    plan = parameter_plan(model, x)
    with pytest.raises(UnsupportedError, match=r"forward function of the network \(Attention\) does not follow"):
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
