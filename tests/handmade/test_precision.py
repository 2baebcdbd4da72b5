"""Gates in half precision: a scale is folded only where the weight can hold the product."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from onnx.reference import ReferenceEvaluator

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


def test_an_rms_norm_in_float64_does_not_suffer_from_its_float32_epsilon() -> None:
    """Where the squares are no larger than epsilon, rounding epsilon * 4 / 3 to float32 would show."""
    model = parser.parse_model(
        '<ir_version: 11, opset_import: ["" : 23]> g (double[N,3] x) => (double[N,2] y) '
        "<double[3,4] w, double[4] s, double[4,2] v> "
        "{ a = MatMul(x, w) b = RMSNormalization<epsilon = 0.001>(a, s) y = MatMul(b, v) }"
    )
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal(shape) for name, shape in (("w", (3, 4)), ("s", (4,)), ("v", (4, 2)))}
    arrays["w"][:, 1] = 0
    del model.graph.initializer[:]
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    slim, _ = onnxdam.slim(model, align="none")
    assert next(t for t in slim.graph.initializer if t.name == "w").dims == [3, 3]
    x = 1e-3 * rng.standard_normal((5, 3))
    masked, narrow = (ReferenceEvaluator(m).run(None, {"x": x})[0] for m in (model, slim))
    np.testing.assert_allclose(narrow, masked, rtol=1e-13)
