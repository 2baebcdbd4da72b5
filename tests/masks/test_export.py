"""What is written: gates as constants, names that fit, a batch of any size, records of what was done."""

from __future__ import annotations

import importlib
import json

import pytest

torch = pytest.importorskip("torch")
import numpy as np  # noqa: E402
import onnx  # noqa: E402
import onnx_ir as ir  # noqa: E402
import onnxruntime as ort  # noqa: E402
from torch import Tensor, nn  # noqa: E402

import onnxdam  # noqa: E402
from onnxdam.errors import InputError  # noqa: E402
from onnxdam.masks import DAM, Gates, HardConcrete, Schedule, attach, export  # noqa: E402
from tests.masks.networks import mlp  # noqa: E402
from tests.masks.test_attach import Unexportable, run  # noqa: E402


@pytest.mark.parametrize("dynamo", [True, False])
def test_gates_placed_by_hand(tmp_path, dynamo):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 12, 3, bias=False), DAM(12, beta=-2.0), nn.BatchNorm2d(12), nn.ReLU(), nn.Flatten(),
        nn.Linear(12 * 16, 10), nn.ReLU(), HardConcrete(10), nn.Linear(10, 4),
    )  # fmt: skip
    with torch.no_grad():
        net[7].log_a.copy_(torch.linspace(-5, 4, 10))
        net[2].bias.uniform_(-1, 1)
    gates, x = Gates.of(net), torch.randn(5, 3, 6, 6)
    path = export(net, gates, x, tmp_path / "masked.onnx", dynamo=dynamo)
    kept = gates.kept()
    assert kept == {"1": (7, 12), "7": (7, 10)}
    assert not gates.hardened
    net.eval()
    for batch in (x, x[:1]):
        assert np.abs(run(path, batch) - net(batch).detach().numpy()).max() < 1e-5
    slim, _ = onnxdam.slim(onnx.load(path), align="none")
    assert np.abs(run(slim.SerializeToString(), x) - run(path, x)).max() < 1e-5
    assert sorted(list(i.dims) for i in slim.graph.initializer if len(i.dims) > 1) == [
        [4, 7], [7, 3, 3, 3], [7, 7 * 16],
    ]  # fmt: skip
    assert not [n for n in slim.graph.node if n.op_type == "Mul"]


def test_metadata_record_what_was_done(tmp_path):
    model, x = mlp(), torch.randn(4, 20)
    gates = attach(model, x, method="hardconcrete", target={"macs": 0.5}, schedule=Schedule(10))
    props = {p.key: p.value for p in onnx.load(export(model, gates, x, tmp_path / "m.onnx")).metadata_props}
    assert props["onnxdam.method"] == "HardConcrete"
    assert json.loads(props["onnxdam.target"]) == {"macs": 0.5}
    assert json.loads(props["onnxdam.kept"]) == {"0": [48, 48], "2": [32, 32]}


# -- names -----------------------------------------------------------------------------------------------------------
class Colliding(nn.Module):
    """An input, a parameter, a value inside and an output that would all be called alike."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.x = nn.Linear(6, 6), nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor, mul: Tensor) -> dict[str, Tensor]:
        y = self.linear(x * self.x) * mul
        return {"x": y, "mul": y + 1}


@pytest.mark.parametrize("dynamo", [True, False])
def test_names_that_collide(tmp_path, dynamo):
    model, x, mul = Colliding().eval(), torch.randn(3, 6), torch.randn(3, 6)
    path = export(model, None, (x, mul), tmp_path / "m.onnx", dynamo=dynamo)
    graph = onnx.load(path).graph
    assert [i.name for i in graph.input] == ["x_input", "mul"]
    assert [o.name for o in graph.output] == ["x_output", "mul_output"]
    session = ort.InferenceSession(path)
    found = session.run(None, {"x_input": x[:2].numpy(), "mul": mul[:2].numpy()})
    for one, expected in zip(found, model(x[:2], mul[:2]).values(), strict=True):
        torch.testing.assert_close(torch.tensor(one), expected)


def test_a_tensor_that_is_passed_twice_is_two_inputs(tmp_path):
    x = torch.randn(3, 6)
    path = export(Colliding(), None, (x, x), tmp_path / "m.onnx")
    assert [i.name for i in onnx.load(path).graph.input] == ["x_input", "mul"]


def test_names_that_do_not_fit_are_told(tmp_path):
    x = torch.randn(3, 20)
    with pytest.raises(InputError, match=r"^export: input_names: 2 names for 1 tensors$"):
        export(mlp(), None, x, tmp_path / "m.onnx", input_names=["a", "b"])
    with pytest.raises(InputError, match=r"^export: two inputs or outputs are called 'a'; give input_names and "):
        export(mlp(), None, x, tmp_path / "m.onnx", input_names=["a"], output_names=["a"])
    assert not list(tmp_path.iterdir())


# -- the batch -------------------------------------------------------------------------------------------------------
class Counting(nn.Module):
    """Asks for the number of samples in the one way that exporters do not follow."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.view(len(x), 6))


@pytest.mark.parametrize("dynamo", [True, False])
def test_a_batch_that_stays_as_it_is_is_told(tmp_path, dynamo):
    x = torch.randn(3, 2, 3)
    with pytest.warns(
        UserWarning, match=r"^export: the batch stays 3, as the network takes the number of samples for "
    ):
        path = export(Counting(), None, x, tmp_path / "m.onnx", dynamo=dynamo)
    assert ort.InferenceSession(path).get_inputs()[0].shape == [3, 2, 3]


def test_a_file_that_is_not_the_network_is_told(tmp_path, monkeypatch):
    """Exporters of torch make mistakes."""
    module = importlib.import_module("onnxdam.masks.export")
    write = module._by_dynamo

    def wrong(*arguments: object) -> tuple[ir.Model, bool]:
        model, fixed = write(*arguments)
        model.graph.initializers["4.bias"].const_value = ir.tensor(np.ones(4, np.float32))
        return model, fixed

    monkeypatch.setattr(module, "_by_dynamo", wrong)
    with pytest.warns(
        UserWarning, match=r"^export: ONNX Runtime is off by .* of torch's largest number: the exporter is wrong"
    ):
        export(mlp(), None, torch.randn(2, 20), tmp_path / "m.onnx")


def test_torch_keeps_its_affairs_to_itself(tmp_path, capfd, recwarn):
    export(nn.LSTM(4, 3), None, torch.randn(5, 2, 4), tmp_path / "m.onnx", dynamic_batch=False)
    export(mlp(), None, torch.randn(2, 20), tmp_path / "m.onnx", dynamo=False)
    with pytest.raises(InputError):
        export(nn.Sequential(nn.Linear(20, 20), Unexportable()), None, torch.randn(2, 20), tmp_path / "m.onnx")
    assert capfd.readouterr() == ("", "")
    assert not list(recwarn)
