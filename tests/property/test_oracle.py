"""The oracle against ONNX Runtime: the same drawn graphs in float32, so that a fault of the evaluator is not taken for
truth.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from .builder import SIZES, Case
from .graphs import FAMILIES, case_of_seed
from .oracle import evaluate, relative_error

ort = pytest.importorskip("onnxruntime")
FRAGILE = {"Cast", "ArgMax", "Hardmax", "OneHot", "TopK", "Floor", "Ceil", "Round", "Sign", "QuantizeLinear",
           "DynamicQuantizeLinear", "Greater"}  # fmt: skip


NUMPY = {TensorProto.FLOAT: np.float32, TensorProto.FLOAT16: np.float16}


def in_type(model: onnx.ModelProto, to: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """The model with every double replaced by another type."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    retype_graph(copy.graph, to)
    return copy


def retype_tensor(tensor: onnx.TensorProto, to: int) -> None:
    if tensor.data_type == TensorProto.DOUBLE:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(NUMPY[to]), tensor.name))


def retype_graph(graph: onnx.GraphProto, to: int) -> None:
    for info in [*graph.input, *graph.output, *graph.value_info]:
        if info.type.tensor_type.elem_type == TensorProto.DOUBLE:
            info.type.tensor_type.elem_type = to
    for tensor in graph.initializer:
        retype_tensor(tensor, to)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                retype_tensor(attribute.t, to)
            elif attribute.type == onnx.AttributeProto.GRAPH:
                retype_graph(attribute.g, to)
            elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.DOUBLE:
                attribute.i = to


def run_ort(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:  # type: ignore[type-arg]
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def error_against_ort(case: Case) -> float | None:
    """Largest relative error between the two runtimes, or None where ONNX Runtime cannot run the graph."""
    model, feeds = in_type(case.model), case.feeds(SIZES[0], 0)
    feeds = {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in feeds.items()}
    try:
        found = run_ort(model, feeds)
    except Exception:
        return None
    wanted = evaluate(case.model, {k: v.astype(np.float64) if v.dtype == np.float32 else v for k, v in feeds.items()})
    return max(
        (relative_error(a.astype(np.float64), np.asarray(b, np.float64)) for a, b in zip(wanted, found, strict=False)
         if np.issubdtype(a.dtype, np.floating)),
        default=0.0,
    )  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_evaluator_agrees_with_onnxruntime(family: str) -> None:
    """Graphs without operators that amplify rounding agree to 1e-3; at least half of all graphs can be compared."""
    compared, refused, wrong = 0, 0, []
    for seed in range(10_000, 10_200):
        case = case_of_seed(seed, family)
        if case.constructs & FRAGILE:
            continue
        error = error_against_ort(case)
        if error is None:
            refused += 1
            continue
        compared += 1
        if error > 1e-3:
            wrong.append((seed, error))
    assert not wrong, wrong
    assert compared >= refused, (compared, refused)
