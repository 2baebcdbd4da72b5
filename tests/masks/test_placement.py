"""The paper's placement: gates on what makes the channels, before BatchNorm; closed ones are constants behind it."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
import numpy as np  # noqa: E402
import onnx  # noqa: E402
from torch import Tensor, nn  # noqa: E402

import onnxdam  # noqa: E402
from onnxdam.errors import InputError, UnsupportedError  # noqa: E402
from onnxdam.masks import AttachedGates, Schedule, attach, export, narrow, parameter_plan  # noqa: E402
from tests.masks.networks import Attention, Residual, mlp  # noqa: E402
from tests.masks.test_attach import run, train  # noqa: E402

IMAGE = (6, 3, 8, 8)


class PreActivation(nn.Module):
    """BatchNorm and ReLU before each convolution, so that the stream itself has several producers and no activation."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm1": nn.BatchNorm2d(width),
                    "conv1": nn.Conv2d(width, 10, 3, padding=1, bias=False),
                    "norm2": nn.BatchNorm2d(10),
                    "conv2": nn.Conv2d(10, width, 3, padding=1, bias=False),
                }
            )
            for _ in range(2)
        )
        self.norm, self.head = nn.BatchNorm2d(width), nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            y = block["conv1"](torch.relu(block["norm1"](x)))
            x = x + block["conv2"](torch.relu(block["norm2"](y)))
        return self.head(torch.relu(self.norm(x)).mean((2, 3)))


def randomise(model: nn.Module) -> None:
    """Numbers as after training: no shift is zero, so closed channels are constants of all kinds."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean):
                tensor.normal_()
            module.running_var.uniform_(0.5, 2)


def sigmoids() -> nn.Sequential:
    return nn.Sequential(nn.Linear(20, 16), nn.Sigmoid(), nn.Linear(16, 4))


def close(gates: AttachedGates) -> None:
    """Every third slot."""
    for gate in gates.all:
        gate.harden(torch.arange(gate.n) % 3 != 1)


NETWORKS = {
    "mlp": (mlp, (6, 20), {"0.weight": 32, "2.weight": 21}, 0),
    "sigmoids": (sigmoids, (6, 20), {"0.weight": 11}, 0),
    "preactivation": (PreActivation, IMAGE, {"stem.weight": 8, "blocks.0.conv1.weight": 7}, 2),  # carriers stay
    "residual": (Residual, (6, 3, 6, 6), {"stem.weight": 11, "conv1.weight": 16, "pointwise.weight": 8}, 1),
    "attention": (Attention, (6, 5, 16), {"up.bias": 16, "qkv.bias": 36}, 0),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_closed_channels_are_constants_that_leave_exactly(name, tmp_path):
    torch.manual_seed(0)
    make, shape, kept, carriers = NETWORKS[name]
    model, x = make().eval(), torch.randn(shape)
    randomise(model)
    gates = attach(model, x[:2], placement="producers")
    close(gates)
    path = export(model, gates, x, tmp_path / "masked.onnx")
    slim, _ = onnxdam.slim(onnx.load(path), align="none")
    y = run(path, x)
    assert np.abs(y - model(x).detach().numpy()).max() < 1e-5
    assert np.abs(run(slim.SerializeToString(), x) - y).max() < 1e-5
    wide = {i.name: i.dims[0] for i in slim.graph.initializer if i.dims}
    assert all(n <= wide[weight] <= n + carriers for weight, n in kept.items()), wide
    assert name == "attention" or not [n for n in slim.graph.node if n.op_type == "Mul"]


def test_layers_that_add_to_one_stream_share_what_is_closed():
    torch.manual_seed(0)
    model, x = PreActivation().eval(), torch.randn(IMAGE)
    randomise(model)
    gates = attach(model, x[:2], placement="producers")
    close(gates)
    closed = ~gates.all[gates.names.index("stem")].kept()
    for layer in (model.stem, *(block["conv2"] for block in model.blocks)):
        assert (layer.weight[closed] == 0).all()
        assert (layer.weight[~closed].flatten(1).abs().sum(1) > 0).all()
    assert type(model.norm) is nn.BatchNorm2d  # what scales and shifts them is as it was
    assert type(model.head) is nn.Linear  # and who reads them


def test_biases_are_closed_with_their_weights():
    torch.manual_seed(0)
    model, x = mlp().eval(), torch.randn(6, 20)
    gates = attach(model, x, placement="producers")
    close(gates)
    closed = ~gates.all[0].kept()
    assert (model[0](x)[:, closed] == 0).all()
    y = model(x)
    assert narrow(model, parameter_plan(model, x), x)[0].out_features == 32  # zeros behind a ReLU: nothing is folded
    bare = gates.bake()
    assert type(bare[0]) is nn.Linear
    assert torch.equal(bare(x), y)


def test_wide_layers_without_biases_have_their_gates_at_the_producers():
    block = [nn.Conv2d(3, 200, 1, bias=False), nn.BatchNorm2d(200), nn.ReLU(), nn.Conv2d(200, 80, 1, bias=False)]
    model = nn.Sequential(*block, nn.BatchNorm2d(80), nn.ReLU(), nn.Conv2d(80, 4, 3, padding=1))
    gates = attach(model, torch.randn(IMAGE), placement="producers")
    close(gates)
    assert (model[0].weight[1::3] == 0).all()
    assert (model[3].weight[1::3] == 0).all()
    assert (model[3].weight[::3] != 0).all()
    assert (model[6].weight != 0).all()


def test_what_nobody_makes_is_closed_for_its_readers():
    gates = attach(mlp(), torch.randn(6, 20), placement="producers", inputs=True)
    assert list(gates.kept()) == ["input", "0", "2"]
    gates.all[gates.names.index("input")].harden(torch.arange(20) < 7)
    model = gates._model[0]
    assert (model[0].weight[:, 7:] == 0).all()


@pytest.mark.parametrize("method", ["dam", "grouplasso"])
def test_training_ends_at_its_target(method, tmp_path):
    torch.manual_seed(0)
    model, x = PreActivation(), torch.randn(16, 3, 8, 8)
    options = {"placement": "producers", "target": {"macs": 0.5}, "schedule": Schedule(40)}
    gates = attach(model, x[:2], method=method, **options)
    train(model, gates, x, 40)
    assert gates.hardened
    assert 0.45 < gates.cost()["macs"] <= 0.5
    path = export(model, gates, x, tmp_path / "masked.onnx")
    slim, _ = onnxdam.slim(onnx.load(path), align="none")
    y = model(x).detach().numpy()
    assert np.abs(run(path, x) - y).max() < 1e-4
    assert np.abs(run(slim.SerializeToString(), x) - y).max() < 1e-4


def test_what_cannot_be_is_told():
    x = torch.randn(6, 20)
    with pytest.raises(InputError, match="placement 'middle' is none of readers, producers"):
        attach(mlp(), x, placement="middle")
    with pytest.raises(InputError, match="network slimming closes BatchNorm scales, and has no placement"):
        attach(mlp(), x, method="slimming", placement="producers")
    model = sigmoids().eval()
    close(attach(model, x, placement="producers"))
    with pytest.raises(UnsupportedError, match="not zero but constants"):
        narrow(model, parameter_plan(model, x), x)
