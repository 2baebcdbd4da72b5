"""Graphs whose nodes ONNX knows, on operands that do not go together."""

from __future__ import annotations

import warnings

import numpy as np
import onnx
import pytest

import onnxdam
from onnxdam.errors import InputError
from onnxdam.graph import io
from tests.models import normal, parsed

X = "g (float[N, 4] x) => (float[N, 8] y) { h = MatMul(x, w) "
W = normal(4, 8)


@pytest.mark.parametrize(
    ("rest", "weights"),
    [
        ("y = MatMul(h, v) }", dict(v=normal(9, 2))),
        ("y = Add(h, b) }", dict(b=normal(7))),
        ("y = Add(h, b) }", dict(b=np.arange(8))),
        ("y = Softmax <axis = 5> (h) }", {}),
        ("y = Transpose <perm = [0, 2, 1]> (h) }", {}),
        ("y = Squeeze(h, a) }", dict(a=np.array([1]))),
        ('y = Einsum <equation = "ni,jk->nk"> (x, w, w) }', {}),
    ],
)
def test_operands_that_do_not_go_together(rest: str, weights: dict[str, np.ndarray]) -> None:
    """The large weights are not copied for this, and --no-strict is a way around."""
    model = parsed(X + rest, w=W, **weights)
    with pytest.raises(InputError, match=r"invalid graph \(.*Inference"):
        io.load(model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        io.load(model, strict=False)
    assert "invalid graph" in str(caught[0].message)


@pytest.mark.parametrize("declared", ["float[N, 9] y", "float[N, 8, 1] y", "float[7] y"])
def test_shapes_that_are_only_declared_wrongly(declared: str) -> None:
    """Every runtime goes by what it infers itself."""
    model = parsed(X.replace("float[N, 8] y", declared) + "y = Relu(h) }", w=W)
    io.load(model)
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("h", onnx.TensorProto.FLOAT, [3, 3, 3]))
    io.load(model)


def test_operators_that_onnx_infers_by_their_function() -> None:
    """Inference in the body of MeanVarianceNormalization fails (onnx 1.23), whatever it is given."""
    io.load(parsed("g (float[N, 4, 3, 3] x) => (float[N, 4, 3, 3] y) { y = MeanVarianceNormalization(x) }"))


@pytest.mark.parametrize("opset", [7, 8, 9, 21])
def test_integers_in_a_constant(opset: int) -> None:
    text = "g (float[N, 4] x) => (float[N, 2] y) { c = Constant <value = int64[2] {0, 1}> ()  y = Gather <axis = 1> (x, c) }"
    io.load(parsed(text, header=f'<ir_version: 8, opset_import: ["" : {opset}]>\n'))


@pytest.mark.parametrize(
    "text",
    [
        "g (float[N, 4, 8, 8] x) => (float[N, 8, 8, 8] y) { h = Conv(x, w)  y = Conv <group = 3> (h, v) }",
        "g (float[N, 4, 8, 8] x) => (float[N, 8, 8, 8] y) { h = Conv(x, w)  y = Conv <group = 2> (h, v) }",
        "g (float[N, 4, 8, 8] x) => (float[N, 8, 8, 8] y) { h = Conv(x, w)  y = ConvTranspose(h, u) }",
        "g (float[N, 4] x) => (float[N, 8] y) { y = Gemm(x, m, b) }",
    ],
)
def test_what_inference_does_not_see_is_left_alone(text: str) -> None:
    """No runtime takes these models; they must not look like errors of ours."""
    w = normal(8, 4, 1, 1)
    w[:3] = 0
    weights = dict(w=w, v=normal(8, 2, 1, 1), u=normal(7, 8, 1, 1), m=normal(4, 8) * (np.arange(8) > 2), b=normal(9))
    used = {name: array for name, array in weights.items() if f" {name}" in text.split("{")[1]}
    slim, _ = onnxdam.slim(parsed(text, **{k: v.astype(np.float32) for k, v in used.items()}), align="none")
    assert {t.name: list(t.dims) for t in slim.graph.initializer} == {k: list(v.shape) for k, v in used.items()}
