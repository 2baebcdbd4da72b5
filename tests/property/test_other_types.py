"""The same drawn graphs in float32 and float16: numbers that slim writes have the type of the tensor they stand for.

float32 runs in ONNX Runtime, with graph optimisations off and on; float16 is checked by onnx.checker and in the reference
evaluator. Tolerances are those of the type; graphs with operators that amplify rounding are left out.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from .builder import SIZES, Case
from .graphs import FAMILIES, case_of_seed
from .oracle import evaluate, relative_error
from .properties import Slim, check_interface
from .subject import slim
from .test_oracle import FRAGILE, in_type

ort = pytest.importorskip("onnxruntime")
Levels = ort.GraphOptimizationLevel
SEEDS = range(50_000, 50_070)


def run_ort(model: onnx.ModelProto, feeds: dict[str, np.ndarray], level: object) -> list[np.ndarray]:  # type: ignore[type-arg]
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = level
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kept = {i.name for i in session.get_inputs()}
    return list(session.run(None, {k: v for k, v in feeds.items() if k in kept}))


def drawn(family: str, dtype: int) -> list[Case]:
    cases = []
    for seed in SEEDS:
        case = case_of_seed(seed, family)
        if not case.constructs & FRAGILE:
            cases.append(Case(in_type(case.model, dtype), case.ranges, f"seed {seed}: {case.description}", case.seed))
    return cases


def worst_error(case: Case, small: onnx.ModelProto) -> float | None:
    """Largest error over both optimisation levels and batch sizes; None where the masked model does not run."""
    worst = 0.0
    for kind, sizes in enumerate(SIZES):
        feeds = case.feeds(sizes, 0 * kind)
        try:
            wanted = run_ort(case.model, feeds, Levels.ORT_DISABLE_ALL)
        except Exception:
            return None
        for level in (Levels.ORT_DISABLE_ALL, Levels.ORT_ENABLE_ALL):
            found = run_ort(small, feeds, level)
            worst = max([worst, *[relative_error(a, b) for a, b in zip(wanted, found, strict=True)]])
    return worst


def slimmed(case: Case, function: Slim) -> onnx.ModelProto:
    small, _ = function(case.model)
    onnx.checker.check_model(small, full_check=True)
    check_interface(case.model, small)
    return small


@pytest.mark.parametrize("family", FAMILIES)
def test_float32_in_onnxruntime(family: str) -> None:
    compared, refused, wrong = 0, 0, []
    for case in drawn(family, TensorProto.FLOAT):
        try:
            error = worst_error(case, slimmed(case, slim))
        except Exception as failure:
            wrong.append(f"{case.description}: {type(failure).__name__}: {failure}")
            continue
        if error is None:
            refused += 1
            continue
        compared += 1
        if error > 2e-4:
            wrong.append(f"{case.description}: relative error {error:.2g}")
    assert not wrong, "\n".join(wrong[:5])
    assert compared > refused, (compared, refused)


@pytest.mark.parametrize("family", ["conv", "sequence"])
def test_float16(family: str) -> None:
    compared, wrong = 0, []
    for case in drawn(family, TensorProto.FLOAT16):
        try:
            onnx.checker.check_model(case.model, full_check=True)
            feeds = case.feeds(SIZES[0], 0)
            wanted = evaluate(case.model, feeds)
        except Exception:
            continue  # an operator that does not take float16
        if not all(np.isfinite(a).all() for a in wanted):
            continue
        try:
            found = evaluate(slimmed(case, slim), feeds)
            error = max(relative_error(a, b) for a, b in zip(wanted, found, strict=True))
        except Exception as failure:
            wrong.append(f"{case.description}: {type(failure).__name__}: {failure}")
            continue
        compared += 1
        if error > 0.1:
            wrong.append(f"{case.description}: relative error {error:.2g}")
    assert not wrong, "\n".join(wrong[:5])
    assert compared > 10, compared
