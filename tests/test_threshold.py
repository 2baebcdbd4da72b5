"""`threshold`: small weights become zero, what follows is exact and checked against that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper, parser

import onnxdam
from onnxdam.cli.main import main
from onnxdam.errors import InputError

GRAPH = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,3] x) => (float[N,2] y)
<float[3,4] w, float[4,2] v> { a = MatMul(x, w) b = Relu(a) y = MatMul(b, v) }"""


def nearly_masked() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    w, v = rng.uniform(0.5, 1, (3, 4)), rng.uniform(0.5, 1, (4, 2))
    w[:, 1] = 1e-3
    w[0, 0] = 1e-3  # small, in a channel that stays
    model = parser.parse_model(GRAPH)
    del model.graph.initializer[:]
    model.graph.initializer.append(numpy_helper.from_array(w.astype(np.float32), "w"))
    model.graph.initializer.append(numpy_helper.from_array(v.astype(np.float32), "v"))
    return model


def test_small_channels_leave_and_it_is_said() -> None:
    model = nearly_masked()
    before = model.SerializeToString()
    assert onnxdam.slim(model)[0].SerializeToString() == before
    slim, plan = onnxdam.slim(model, threshold=1e-2)
    assert {t.name: tuple(t.dims) for t in slim.graph.initializer} == {"w": (3, 3), "v": (3, 2)}
    assert any("lossy" in note for note in plan.notes)
    assert model.SerializeToString() == before


@pytest.mark.parametrize("threshold", [-1.0, float("nan"), float("inf")])
def test_thresholds_that_are_none(threshold: float) -> None:
    with pytest.raises(InputError, match="threshold"):
        onnxdam.slim(nearly_masked(), threshold=threshold)


def test_command_checks_against_the_zeroed_model(tmp_path: Path) -> None:
    onnx.save(nearly_masked(), tmp_path / "m.onnx")
    arguments = ["prune", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "s.onnx"), "--threshold", "0.01"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "lossy" in result.output and "PASSED" in result.output
