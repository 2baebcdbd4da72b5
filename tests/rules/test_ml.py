"""Classical machine learning: features that a model does not read leave its attributes, and whatever makes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxdam

Array = np.ndarray[Any, Any]
F = 6
RNG = np.random.default_rng(5)


def graph(
    *nodes: onnx.NodeProto, outputs: tuple[str, ...], dead: tuple[int, ...] = (), **weights: Array
) -> onnx.ModelProto:
    """x [N, 3] -> h = x W [N, 6] -> nodes; `dead` columns of W are zero."""
    w = RNG.standard_normal((3, F)).astype(np.float32)
    w[:, list(dead)] = 0
    arrays = {"W": w, **weights}
    made = helper.make_graph(
        [helper.make_node("MatMul", ["x", "W"], ["h"]), *nodes],
        "ml",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
        [helper.make_value_info(name, onnx.TypeProto()) if name == "label" else
         helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(a, name) for name, a in arrays.items()],
    )  # fmt: skip
    if "label" in outputs:
        made.output[outputs.index("label")].CopyFrom(helper.make_tensor_value_info("label", TensorProto.INT64, ["N"]))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(made, opset_imports=opsets, ir_version=8)


def ml(kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, outputs, domain="ai.onnx.ml", **attributes)


def narrow(model: onnx.ModelProto, width: int) -> onnx.ModelProto:
    """Slims, compares in ONNX Runtime, checks the width of W."""
    slim, _ = onnxdam.slim(model, align="none")
    x = RNG.standard_normal((7, 3)).astype(np.float32)
    for a, b in zip(*(run(m, x) for m in (model, slim)), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5)
    assert next(t for t in slim.graph.initializer if t.name == "W").dims == [3, width]
    return slim


def run(model: onnx.ModelProto, x: Array) -> list[Array]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, {"x": x}))


def floats(model: onnx.ModelProto, name: str) -> list[float]:
    return next(list(a.floats) for n in model.graph.node for a in n.attribute if a.name == name)


def coefficients(rows: int, *unread: int) -> list[float]:
    table = RNG.standard_normal((rows, F)).astype(np.float32)
    table[:, list(unread)] = 0
    return [float(v) for v in table.reshape(-1)]


def test_a_regressor_reads_the_features_of_its_coefficients() -> None:
    node = ml("LinearRegressor", ["h"], ["y"], coefficients=coefficients(2, 1, 4), intercepts=[0.5, -1.0], targets=2)
    slim = narrow(graph(node, outputs=("y",)), 4)
    assert len(floats(slim, "coefficients")) == 8


def test_constant_features_go_into_the_intercepts() -> None:
    scaler = ml("Scaler", ["h"], ["s"], offset=[0.5] * F, scale=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    node = ml("LinearRegressor", ["s"], ["y"], coefficients=coefficients(1), intercepts=[0.25])
    slim = narrow(graph(scaler, node, outputs=("y",), dead=(0, 3)), 4)
    assert len(floats(slim, "scale")) == len(floats(slim, "offset")) == 4
    assert floats(slim, "intercepts") != [0.25]


def test_a_regressor_without_intercepts_gets_some() -> None:
    scaler = ml("Scaler", ["h"], ["s"], offset=[1.0], scale=[2.0])
    node = ml("LinearRegressor", ["s"], ["y"], coefficients=coefficients(1))
    slim = narrow(graph(scaler, node, outputs=("y",), dead=(5,)), 5)
    assert len(floats(slim, "intercepts")) == 1


def test_a_classifier() -> None:
    scaler = ml("Scaler", ["h"], ["s"], offset=[1.0], scale=[2.0])
    node = ml(
        "LinearClassifier", ["s"], ["label", "p"], coefficients=coefficients(3, 2), classlabels_ints=[0, 1, 2],
        intercepts=[0.1, 0.2, 0.3], post_transform="SOFTMAX",
    )  # fmt: skip
    slim = narrow(graph(scaler, node, outputs=("label", "p"), dead=(5,)), 4)
    assert len(floats(slim, "coefficients")) == 12
    assert floats(slim, "scale") == [2.0]


@pytest.mark.parametrize(("kernel", "width"), [("LINEAR", 4), ("POLY", 4), ("SIGMOID", 4), ("RBF", 6)])
def test_support_vectors(kernel: str, width: int) -> None:
    node = ml(
        "SVMRegressor", ["h"], ["y"], coefficients=[0.5, -1.0, 2.0], support_vectors=coefficients(3, 0, 2), rho=[0.1],
        n_supports=3, kernel_type=kernel, kernel_params=[0.5, 0.1, 2.0],
    )  # fmt: skip
    slim = narrow(graph(node, outputs=("y",)), width)
    assert len(floats(slim, "support_vectors")) == 3 * width


def test_trees_read_what_their_nodes_test() -> None:
    node = ml(
        "TreeEnsembleRegressor", ["h"], ["y"], n_targets=1, nodes_treeids=[0] * 5, nodes_nodeids=[0, 1, 2, 3, 4],
        nodes_featureids=[4, 2, 0, 0, 0], nodes_modes=["BRANCH_LEQ", "BRANCH_LEQ", "LEAF", "LEAF", "LEAF"],
        nodes_values=[0.1, -0.2, 0, 0, 0], nodes_truenodeids=[1, 3, 0, 0, 0], nodes_falsenodeids=[2, 4, 0, 0, 0],
        target_treeids=[0] * 3, target_nodeids=[2, 3, 4], target_ids=[0] * 3, target_weights=[1.0, 2.0, 3.0],
    )  # fmt: skip
    slim = narrow(graph(node, outputs=("y",)), 2)
    ids = next(list(a.ints) for n in slim.graph.node for a in n.attribute if a.name == "nodes_featureids")
    assert ids == [1, 0, 0, 0, 0]


def test_extracted_columns() -> None:
    extract = ml("ArrayFeatureExtractor", ["h", "index"], ["e"])
    node = ml("LinearRegressor", ["e"], ["y"], coefficients=[1.0, 0.0, -2.0], intercepts=[0.0])
    slim = narrow(graph(extract, node, outputs=("y",), index=np.array([5, 0, 2], np.int64)), 2)
    assert len(floats(slim, "coefficients")) == 2


@pytest.mark.parametrize(("norm", "width"), [("L1", 4), ("L2", 4), ("MAX", 6)])
def test_a_norm_does_not_count_zeros(norm: str, width: int) -> None:
    node = ml("Normalizer", ["h"], ["n"], norm=norm)
    end = ml("LinearRegressor", ["n"], ["y"], coefficients=coefficients(1), intercepts=[0.0])
    narrow(graph(node, end, outputs=("y",), dead=(1, 2)), width)


def test_imputed_and_binarized_constants() -> None:
    imputer = ml("Imputer", ["h"], ["i"], imputed_value_floats=[float(i) for i in range(F)], replaced_value_float=0.0)
    binarizer = ml("Binarizer", ["i"], ["b"], threshold=2.5)
    node = ml("LinearRegressor", ["b"], ["y"], coefficients=coefficients(1), intercepts=[0.0])
    slim = narrow(graph(imputer, binarizer, node, outputs=("y",), dead=(1, 4)), 4)
    assert floats(slim, "imputed_value_floats") == [0.0, 2.0, 3.0, 5.0]
