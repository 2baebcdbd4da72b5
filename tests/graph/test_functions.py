"""Model-local functions: inlined, the same function, and slimmed like the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

import onnxdam
from onnxdam.graph.functions import inline

HEADER = '<ir_version: 8, opset_import: ["": 17, "local": 1]> g '
LOCAL = '<domain: "local", opset_import: ["": 17]> '
ONE = "(double[N,4] x) => (double[N,4] y) "
CALL = ONE + "{ y = local.f(x) } "
CHOICE = "(double[N,4] x, bool c) => (double[N,4] y) "

CASES = {
    "two calls": ONE + "{ t = local.f(x) y = local.f(t) } " + LOCAL + "f (a) => (b) { t = Relu(a) b = Neg(t) }",
    "an input is an output": "(double[N,4] x) => (double[N,4] y, double[N,4] z) { y, z = local.f(x) } "
    + LOCAL + "f (a) => (a, b) { b = Neg(a) }",
    "an argument is left out": CALL + LOCAL + "f (a, m) => (b) { b = Clip(a, m) }",
    "functions call functions": CALL + '<domain: "local", opset_import: ["": 17, "local": 1]> '
    "f (a) => (b) { t = local.h(a) b = local.h(t) } " + LOCAL + "h (a) => (b) { t = Relu(a) b = Exp(t) }",
    "attributes": ONE + "{ t = local.f<k = 0.5>(x) y = local.f(t) } "
    + LOCAL + "f <k: float = 0.3> (a) => (b) { b = LeakyRelu<alpha: float = @k>(a) }",
    "a branch in a function": CHOICE + "{ u = Relu(x) t = local.f(u, c) y = local.f(t, c) } "
    + LOCAL + "f (a, c) => (b) { k = Exp(a) "
    "b = If(c) <then_branch = g1 () => (t) { t = Neg(k) }, else_branch = g2 () => (u) { u = Abs(a) }> }",
    "a call in a branch, with names that clash": CHOICE + "{ s = local.f(x) y = If(c) <"
    "then_branch = g1 () => (double[N,4] q) { q = local.f(s) }, "
    "else_branch = g2 () => (double[N,4] v) { t = Abs(s) v = Neg(t) }> } "
    + LOCAL + "f (a) => (b) { t = Relu(a) v = Exp(t) b = Neg(v) }",
    "an older opset that says the same": CALL + '<domain: "local", opset_import: ["": 15]> f (a) => (b) { t = Relu(a) b = Neg(t) }',
}  # fmt: skip


def parse(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(HEADER + text)


def run(model: onnx.ModelProto) -> list[Any]:
    rng = np.random.default_rng(0)
    feeds: dict[str, Any] = {"x": rng.normal(size=(3, 4))}
    if any(i.name == "c" for i in model.graph.input):
        feeds["c"] = np.array(True)
    if model.functions and model.functions[0].output[0] in model.functions[0].input:  # ONNX Runtime refuses it
        return list(ReferenceEvaluator(model).run(None, feeds))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


@pytest.mark.parametrize("name", CASES)
def test_inlined_model_is_the_same_function(name: str) -> None:
    model = parse(CASES[name])
    flat = ir.to_proto(inline(ir.from_proto(model)))
    onnx.checker.check_model(flat, full_check=True)
    assert not flat.functions
    for end in ("input", "output"):
        assert [v.name for v in getattr(flat.graph, end)] == [v.name for v in getattr(model.graph, end)]
    for a, b in zip(run(model), run(flat), strict=True):
        np.testing.assert_array_equal(a, b)


def test_names_stay_unique_in_bodies() -> None:
    flat = ir.from_proto(ir.to_proto(inline(ir.from_proto(parse(CASES["a call in a branch, with names that clash"])))))
    names = [v.name for node in flat.graph.all_nodes() for v in node.outputs]
    assert len(names) == len(set(names))


def test_a_function_of_another_opset_stays() -> None:
    model = parse(
        CALL + '<domain: "local", opset_import: ["": 12]> f (a) => (b) { t = ReduceSum<axes = [1]>(a) b = Add(a, t) }'
    )
    flat = inline(ir.from_proto(model))
    assert [node.op_type for node in flat.graph] == ["f"]
    assert len(flat.functions) == 1


def test_a_model_without_calls_is_left_alone() -> None:
    model = ir.from_proto(parse(ONE + "{ y = Relu(x) } " + LOCAL + "f (a) => (b) { b = Neg(a) }"))
    assert len(inline(model).functions) == 1


def test_channels_leave_through_functions() -> None:
    model = parse(
        "(double[N,4] x) => (double[N,2] y) { a = local.dense(x, W1) y = local.dense(a, W2) } "
        + LOCAL
        + "dense (a, w) => (b) { t = MatMul(a, w) b = Relu(t) }"
    )
    rng = np.random.default_rng(1)
    w1, w2 = rng.normal(size=(4, 6)), rng.normal(size=(6, 2))
    w1[:, [1, 4]] = 0
    model.graph.initializer.extend([numpy_helper.from_array(w1, "W1"), numpy_helper.from_array(w2, "W2")])
    small, _ = onnxdam.slim(model, align="none")
    assert {t.name: tuple(t.dims) for t in small.graph.initializer} == {"W1": (4, 4), "W2": (4, 2)}
    np.testing.assert_allclose(run(small)[0], run(model)[0], rtol=1e-12)


def test_nothing_to_prune_nothing_changes() -> None:
    model = parse(
        "(double[N,4] x) => (double[N,2] y) { y = local.dense(x, W) } "
        + LOCAL
        + "dense (a, w) => (b) { t = MatMul(a, w) b = Relu(t) }"
    )
    model.graph.initializer.append(numpy_helper.from_array(np.ones((4, 2)), "W"))
    small, _ = onnxdam.slim(model, align="none")
    assert [f.name for f in small.functions] == ["dense"]
    assert [n.op_type for n in small.graph.node] == ["dense"]
