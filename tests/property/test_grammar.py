"""The grammar itself: its graphs are valid, run, have the shapes it believes, and reach every construct it promises."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest

from .builder import SIZES, Case, extent
from .graphs import FAMILIES, case_of_seed
from .oracle import Mismatch, compare, evaluate
from .properties import check_slim, describe, finite, identity

PROMISED = [
    "Abs",
    "Acos",
    "Add",
    "ArgMax",
    "Asin",
    "Asinh",
    "Atan",
    "Attention",
    "AveragePool",
    "BatchNormalization",
    "Cast",
    "Ceil",
    "Clip",
    "Concat",
    "Conv",
    "ConvInteger",
    "ConvTranspose",
    "Cos",
    "CumSum",
    "DepthToSpace",
    "DequantizeLinear",
    "Div",
    "Dropout",
    "DynamicQuantizeLinear",
    "Einsum",
    "Elu",
    "Erf",
    "Exp",
    "Expand",
    "Flatten",
    "Floor",
    "GRU",
    "Gather",
    "GatherElements",
    "GatherND",
    "Gelu",
    "Gemm",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "Greater",
    "GroupNormalization",
    "HardSigmoid",
    "HardSwish",
    "Hardmax",
    "Identity",
    "If",
    "InstanceNormalization",
    "LRN",
    "LSTM",
    "LayerNormalization",
    "LeakyRelu",
    "Log",
    "LogSoftmax",
    "Loop",
    "LpNormalization",
    "LpPool",
    "MatMul",
    "MatMulInteger",
    "Max",
    "MaxPool",
    "Mean",
    "Min",
    "Mish",
    "Mlp",
    "Mul",
    "Neg",
    "Not",
    "OneHot",
    "PRelu",
    "Pad",
    "Pow",
    "QLinearConv",
    "QLinearMatMul",
    "QuantizeLinear",
    "RMSNormalization",
    "RNN",
    "Reciprocal",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
    "Relu",
    "Reshape",
    "Resize",
    "Round",
    "Scan",
    "ScatterElements",
    "ScatterND",
    "Selu",
    "Shape",
    "Shrink",
    "Sigmoid",
    "Sign",
    "Sin",
    "Slice",
    "Softmax",
    "Softplus",
    "Softsign",
    "SpaceToDepth",
    "Split",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Sum",
    "Swish",
    "Tanh",
    "ThresholdedRelu",
    "Tile",
    "TopK",
    "Transpose",
    "Trilu",
    "Unsqueeze",
    "Upsample",
    "Where",
]


def problem(case: Case) -> str:
    """What is wrong with a case, or nothing."""
    try:
        onnx.checker.check_model(case.model, full_check=True)
        onnx.shape_inference.infer_shapes(case.model, check_type=True, strict_mode=True)
    except Exception as error:
        return f"invalid: {error}"
    for kind, sizes in enumerate(SIZES):
        try:
            outputs = evaluate(case.model, case.feeds(sizes, kind))
        except Exception as error:
            return f"does not run: {error}"
        for info, output in zip(case.model.graph.output, outputs, strict=False):
            dims = [d.dim_value if d.HasField("dim_value") else extent(d.dim_param, sizes)
                    for d in info.type.tensor_type.shape.dim]  # fmt: skip
            if list(output.shape) != dims:
                return f"{info.name} is {output.shape}, declared {dims}"
            if output.dtype != onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type):
                return f"{info.name} is {output.dtype}"
    return ""


@pytest.mark.parametrize("family", FAMILIES)
def test_graphs_are_valid(family: str) -> None:
    failures, infinite = [], 0
    for seed in range(250):
        case = case_of_seed(seed, family)
        found = problem(case)
        if found:
            failures.append(f"seed {seed}: {found}")
        elif not finite(case):
            infinite += 1
    assert not failures, failures[:5]
    assert infinite <= 3


def test_every_promised_construct_is_drawn() -> None:
    seen: Counter[str] = Counter()
    for seed in range(6000):
        seen.update(case_of_seed(seed).constructs)
    missing = [op for op in PROMISED if seen[op] < 5]
    assert not missing, {op: seen[op] for op in missing}


def test_masks_really_mask() -> None:
    """A good share of the drawn models has whole rows of zeros in a matrix."""
    masked = 0
    for seed in range(300):
        arrays = [onnx.numpy_helper.to_array(t) for t in case_of_seed(seed).model.graph.initializer]
        matrices = [a for a in arrays if a.ndim >= 2 and a.dtype == np.float64]
        masked += any((~a.reshape(a.shape[0], -1).any(1)).any() or (~a.any(0)).any() for a in matrices)
    assert masked > 150, masked


def test_same_seed_same_graph() -> None:
    for seed in (0, 1, 2):
        assert describe(case_of_seed(seed)) == describe(case_of_seed(seed))


def test_identity_passes_every_property() -> None:
    for seed in range(60):
        case = case_of_seed(seed)
        if finite(case):
            outcome = check_slim(case, identity)
            assert not outcome.removed
            assert outcome.error == 0


def test_perturbed_model_fails() -> None:
    """The comparison can fail: one weight off by 1e-6 is noticed wherever that weight matters."""
    noticed = tried = 0
    for seed in range(60):
        case = case_of_seed(seed, "conv")
        moved, _ = identity(case.model)
        for tensor in moved.graph.initializer:
            array = onnx.numpy_helper.to_array(tensor)
            if array.dtype == np.float64 and array.ndim >= 2:
                tensor.CopyFrom(onnx.numpy_helper.from_array(array * (1 + 1e-6), tensor.name))
        tried += 1
        try:
            compare(case.model, moved, case.feeds(SIZES[0], 0))
        except Mismatch:
            noticed += 1
    assert noticed > 0.5 * tried, (noticed, tried)
