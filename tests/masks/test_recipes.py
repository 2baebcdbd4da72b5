"""The recipes run, and what they report is what the slim file has."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")
import numpy as np  # noqa: E402
import onnx  # noqa: E402
import onnxruntime as ort  # noqa: E402

import onnxdam  # noqa: E402
from models.recipes.data import load_classes  # noqa: E402
from models.recipes.lenet import train_lenet  # noqa: E402
from models.recipes.reduction import REDUCTIONS, reduce  # noqa: E402
from onnxdam.errors import InputError  # noqa: E402
from onnxdam.masks import export, narrow, parameter_plan  # noqa: E402


def test_lenet_on_digits(tmp_path):
    data = load_classes()
    got = train_lenet(data, method="dam", target={"parameters": 0.2}, epochs=60)
    assert got.gates.cost()["parameters"] == pytest.approx(0.2, rel=0.01)
    assert got.error < 15
    masked = onnx.load(export(got.network, got.gates, data.x_test[:2], tmp_path / "m.onnx"))
    slim, _ = onnxdam.slim(masked)
    session = ort.InferenceSession(slim.SerializeToString())
    found = session.run(None, {session.get_inputs()[0].name: data.x_test.numpy()})[0].argmax(1)
    assert 100 * np.mean(found != data.y_test.numpy()) == pytest.approx(got.error, abs=1e-4)
    shapes = {i.name: tuple(i.dims) for i in slim.graph.initializer}
    assert shapes["2.weight"] == (got.kept[2], got.kept[1])


@pytest.mark.parametrize("kind", list(REDUCTIONS))
def test_reduction_runs(kind):
    found = reduce(kind, steps=3)
    assert found.points.shape == (5000, 100)
    with torch.no_grad():
        found.network[1].beta.fill_(-2.0)
    slim = narrow(found.network, parameter_plan(found.network, found.points[:2]), found.points[:2])
    assert slim[:2](found.points[:3]).shape == (3, 50 - 1 - 20)


@pytest.mark.slow
def test_linear_reduction_finds_ten_dimensions():
    assert reduce("linear").kept == 10


def test_data_of_the_wrong_kind_is_told(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    with pytest.raises(InputError, match=r"a\.npz: not an \.npz with x_train"):
        load_classes(tmp_path / "a.npz")
    with pytest.raises(InputError, match="not an \\.npz"):
        load_classes(tmp_path / "missing.npz")
