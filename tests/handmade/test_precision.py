"""Gates in half precision: a scale is folded only where the weight can hold the product."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

import onnxdam

GRAPH = """<ir_version: 8, opset_import: ["" : 17]> g (float16[N,3] x) => (float16[N,2] y)
<float16[3,4] w, float16[4] gate, float16[4,2] v> { a = MatMul(x, w) b = Mul(a, gate) y = MatMul(b, v) }"""


@pytest.mark.parametrize(("weight", "scale", "folds"), [(0.5, 0.5, True), (300.0, 300.0, False), (1e-4, 1e-4, False)])
def test_gate_folds_where_the_weight_can_hold_it(weight: float, scale: float, folds: bool) -> None:
    model = parser.parse_model(GRAPH)
    gate = np.array([scale, 0, scale, 0], np.float16)
    arrays = {"w": np.full((3, 4), weight, np.float16), "gate": gate, "v": np.full((4, 2), weight, np.float16)}
    del model.graph.initializer[:]
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    slim, _ = onnxdam.slim(model, align="none")
    kinds = [node.op_type for node in slim.graph.node]
    assert ("Mul" not in kinds) == folds
    stored = [numpy_helper.to_array(t) for t in slim.graph.initializer]
    assert all(np.isfinite(array).all() and array.all() for array in stored)
    assert onnx.numpy_helper.to_array(next(t for t in slim.graph.initializer if t.name == "w")).shape == (3, 2)
