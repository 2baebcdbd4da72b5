"""The recipes run, and what they report is what the slim file has."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")
import numpy as np  # noqa: E402
import onnx  # noqa: E402
import onnxruntime as ort  # noqa: E402

import onnxdam  # noqa: E402
from onnxdam.errors import InputError  # noqa: E402
from onnxdam.masks import export, narrow, parameter_plan  # noqa: E402
from onnxdam.recipes import MODULES, find  # noqa: E402
from onnxdam.recipes.training import train  # noqa: E402


@pytest.mark.parametrize("name", MODULES)
def test_a_step(name):
    """Every recipe takes a step on what needs no download: weights and gates move, and stay finite."""
    recipe = find(name)
    assert recipe.name == name
    torch.manual_seed(0)
    data = recipe.load(None)
    settings = replace(recipe.settings, cold=0.0, ramp=0.0, batch=4)
    network = recipe.network(data)
    gates = recipe.gates(network, data, settings, settings.schedule(10))
    assert len(gates.kept()) >= 1
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    optimizer = recipe.optimizer([{"params": list(network.parameters()), "lr": 0.1, "weight_decay": 0.0}], 0.1)
    rows = next(iter(recipe.batches(data, settings.batch)))
    (recipe.loss(network.train(), data, rows) + gates.penalty()).backward()
    optimizer.step()
    after = dict(network.named_parameters())
    moved = [name for name, value in before.items() if not torch.equal(value, after[name])]
    gates.step(0.1)  # may move gates back: a target has the last word
    assert len(moved) > len(before) / 2
    assert {id(parameter) for parameter in gates.parameters()} & {id(after[name]) for name in moved}
    assert all(torch.isfinite(parameter).all() for parameter in after.values())
    with torch.no_grad():
        assert torch.isfinite(network.eval()(*recipe.example(data))).all()


def test_an_unknown_recipe_is_told():
    with pytest.raises(InputError, match=r"'LeNet-300' \(do you mean lenet-300-100.*\?\); there are digits, "):
        find("LeNet-300")


def test_lenet_on_digits(tmp_path):
    recipe = find("lenet-300-100")
    data = recipe.load(None)
    got = train(recipe, data, replace(recipe.settings, method="dam", target={"parameters": 0.2}, epochs=60))
    assert got.gates.cost()["parameters"] == pytest.approx(0.2, rel=0.01)
    assert got.test < 15
    masked = onnx.load(export(got.network, got.gates, got.example, tmp_path / "m.onnx"))
    slim, _ = onnxdam.slim(masked)
    for model in (masked, slim):
        session = ort.InferenceSession(model.SerializeToString())
        found = session.run(None, {session.get_inputs()[0].name: data.x_test.numpy()})[0].argmax(1)
        assert 100 * np.mean(found != data.y_test.numpy()) == pytest.approx(got.test, abs=1e-9)
    shapes = {i.name: tuple(i.dims) for i in slim.graph.initializer}
    assert shapes["2.weight"] == (got.kept["2"][0], got.kept["0"][0])


@pytest.mark.parametrize("name", ["linear-dr", "kernel-dr", "quadratic-dr"])
def test_reductions_narrow(name):
    recipe = find(name)
    data = recipe.load(None)
    assert data.x.shape == (5000, 100)
    got = train(recipe, data, replace(recipe.settings, epochs=1))
    with torch.no_grad():
        got.network[1].values[:21] = 0
    slim = narrow(got.network, parameter_plan(got.network, got.example), got.example)
    assert slim[:2](data.x[:3]).shape == (3, 50 - 21)


def test_reductions_learn_from_the_batch():
    recipe = find("linear-dr")
    data = recipe.load(None)
    network, rows = recipe.network(data), torch.arange(10)
    few = torch.nn.functional.mse_loss(network(data.x[:10]), data.x[:10])
    torch.testing.assert_close(recipe.loss(network, data, rows), few)


def test_reductions_take_other_methods_and_targets():
    recipe = find("linear-dr")
    settings = replace(recipe.settings, epochs=40, method="hardconcrete", target={"macs": 0.4}, harden=0.8, ramp=0.5)
    assert train(recipe, recipe.load(None), settings).kept == {"0": (20, 50)}


@pytest.mark.slow
def test_linear_reduction_finds_ten_dimensions():
    recipe = find("linear-dr")
    assert list(train(recipe, recipe.load(None)).kept.values()) == [(10, 50)]
