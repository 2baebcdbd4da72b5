"""If, Loop and Scan: slots leave inside bodies, around them, and through captured values and states."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import helper, numpy_helper

import onnxdam
from tests.handmade.toolkit import Trap, s_

D = {"W1": (4, 6), "W2": (6, 2)}
SLIM = {"W1": (4, 4), "W2": (4, 2)}
COLUMNS, ROWS = s_[:, [1, 2]], s_[[1, 2]]


def chosen(name: str, then: str, otherwise: str, head: str = "y = MatMul(r, W2)", **options: Any) -> Trap:
    """a = x W1, then a branch of six slots."""
    text = (
        f"(double[N,4] x, bool c) => (double[N,2] y) {{ a = MatMul(x, W1) r = If(c) <then_branch = t () => (double[N,6] u) "
        f"{{ {then} }}, else_branch = e () => (double[N,6] v) {{ {otherwise} }}> {head} }}"
    )
    options["weights"] = D | options.get("weights", {})
    options.setdefault("narrow", SLIM)
    return Trap(name, text, **options)


IFS = [
    chosen("zero in both branches", "u = Relu(a)", "v = Tanh(a)", zero={"W1": COLUMNS}),
    chosen("unread in both branches", "u = Relu(a)", "v = Sigmoid(a)", zero={"W2": ROWS}),
    chosen("a constant of its own in each branch", "u = Exp(a)", "v = Tanh(a)", zero={"W1": COLUMNS}, narrow=D),
    chosen("the same constant in both branches", "u = Exp(a)", "v = Cosh(a)", "m = MatMul(r, W2) y = Add(m, b)",
           weights={"b": (2,)}, zero={"W1": COLUMNS}),
    chosen("weights used in a branch", "u = Relu(a)", "v = MatMul(x, W3)", weights={"W3": (4, 6)}, zero={"W2": ROWS},
           narrow=SLIM | {"W3": (4, 4)}),
    chosen("a parameter per channel in a branch", "u = Mul(a, g)", "k = Add(a, h) v = Relu(k)",
           weights={"g": (6,), "h": (6,)}, zero={"W2": ROWS}, narrow=SLIM | {"g": (4,), "h": (4,)}),
    chosen("a branch that is known", "u = Relu(a)", "v = Identity(k)", weights={"k": (1, 6)}, zero={"W2": ROWS},
           narrow=SLIM | {"k": (1, 4)}),
    chosen("a constant made in a branch", "u = Relu(a)", "v = Constant<value = double[1,6] {1,2,3,4,5,6}>()",
           zero={"W2": ROWS}, narrow=None),
    chosen("both branches are known", "u = Identity(k)", "v = Constant<value = double[1,6] {1,2,3,4,5,6}>()",
           weights={"k": (1, 6)}, zero={"W2": ROWS}, narrow=None),
    chosen("a branch in a branch", "u = Relu(a)", "v = If(c) <then_branch = t2 () => (double[N,6] u2) { u2 = Neg(a) }, "
           "else_branch = e2 () => (double[N,6] v2) { v2 = Mul(a, g) }>", weights={"g": (6,)}, zero={"W1": COLUMNS},
           narrow=SLIM | {"g": (4,)}),
    chosen("a branch keeps what the other does not", "u = Relu(a)", "v = Softmax<axis = -1>(a)",
           zero={"W1": COLUMNS, "W2": ROWS}, narrow=D),
    chosen("a dead addition at the end of a branch", "k = MatMul(x, W3) u = Add(k, a)", "v = MatMul(x, W3)",
           weights={"W3": (4, 6)}, zero={"W1": s_[:]}, narrow={"W1": (), "W2": (6, 2), "W3": (4, 6)}),
    chosen("nobody reads the result", "u = Relu(a)", "v = MatMul(x, W3)", "z = Mul(r, nil) m = MatMul(x, W4) y = Add(m, b)",
           weights={"W3": (4, 6), "W4": (4, 2), "b": (2,), "nil": (6,)}, zero={"nil": s_[:]}, kept=False,
           narrow={"W1": (), "W2": (), "W3": (), "nil": (), "W4": (4, 2), "b": (2,)}, no_ops="If"),
    chosen("dead nodes in a branch", "dead = MatMul(a, W5) u = Relu(a)", "v = Tanh(a)", weights={"W5": (6, 3)},
           zero={"W1": COLUMNS}, narrow=SLIM | {"W5": ()}),
    chosen("sizes written down in a branch", "k = Reshape(a, to) u = Flatten(k)", "v = Tanh(a)",
           weights={"to": np.array([0, 2, 3])}, zero={"W1": s_[:, 3:]}, narrow={"W1": (4, 3), "W2": (3, 2)}),
]  # fmt: skip


@pytest.mark.parametrize("trap", IFS, ids=str)
def test_if(trap: Trap) -> None:
    trap.check()


CELL = {"W": (4, 6), "R": (6, 6), "V": (6, 2), "Q": (6, 2)}
CELL_SLIM = {"W": (4, 4), "R": (4, 4), "V": (4, 2), "Q": (4, 2)}
CELL_DEAD = {"W": COLUMNS, "R": COLUMNS}
CELL_UNREAD = {"R": ROWS, "V": ROWS, "Q": ROWS}
STEP = "p = MatMul(i, W) q = MatMul(s, R) w = Add(p, q) n = Tanh(w) o = Identity(n)"


def scan(
    name: str,
    step: str = STEP,
    inside: str = "num_scan_inputs = 1",
    start: str = "h = MatMul(x0, W0)",
    *,
    x: str = "T,3,4",
    z: str = "T,3,2",
    tail: str = "y = MatMul(e, V) z = MatMul(a, Q)",
    **options: Any,
) -> Trap:
    """A cell of six units over the steps of x: e is its last state, a all of them."""
    text = (
        f"(double[{x}] x, double[3,4] x0) => (double[3,2] y, double[{z}] z) {{ {start} "
        f"e, a = Scan<{inside}, body = b (double[3,6] s, double[3,4] i) => (double[3,6] n, double[3,6] o) {{ {step} }}>(h, x) "
        f"{tail} }}"
    )
    options["weights"] = CELL | {"W0": (4, 6)} | options.get("weights", {})
    options.setdefault("narrow", CELL_SLIM | {"W0": (4, 4)})
    return Trap(name, text, **options)


SCANS = [
    scan("zero at first and in every step", zero=CELL_DEAD | {"W0": COLUMNS}),
    scan("unread", zero=CELL_UNREAD),
    scan("zero at first only", zero={"W0": COLUMNS}, narrow=CELL | {"W0": (4, 6)}, kept=True),
    scan("zero in every step but the first", zero=CELL_DEAD, narrow=CELL | {"W0": (4, 6)}, kept=True),
    scan("units that only read each other", zero={"W": COLUMNS, "W0": COLUMNS, "R": [s_[0, 1:3], s_[3:, 1:3]]}),
    scan("a body makes zero of anything", "p = MatMul(i, W) q = MatMul(s, R) w = Add(p, q) g = Mul(w, m) n = Tanh(g) "
         "o = Identity(n)", weights={"m": (6,)}, zero={"m": s_[1:3], "W0": COLUMNS},
         narrow=CELL_SLIM | {"W0": (4, 4), "m": ()}),
    scan("a state that keeps its constant", "p = MatMul(i, W) o = Mul(p, s) n = Sqrt(s)", start="k = MatMul(x0, W0) h = Exp(k)",
         tail="m = MatMul(e, V) y = Add(m, v) z = MatMul(a, Q)", weights={"v": (2,)}, zero={"W0": COLUMNS, "W": COLUMNS},
         narrow=CELL_SLIM | {"W0": (4, 4), "R": ()}),
    scan("a constant that changes", "p = MatMul(i, W) o = Mul(p, s) n = Add(s, s)", start="k = MatMul(x0, W0) h = Exp(k)",
         zero={"W0": COLUMNS}, narrow=CELL | {"W0": (4, 6), "R": ()}),
    scan("the initial state is known", start="", weights={"h": (3, 6)}, zero=CELL_DEAD | {"h": COLUMNS},
         narrow=CELL_SLIM | {"h": (3, 4), "W0": ()}),
    scan("a step that is skipped afterwards", "p = MatMul(i, W) q = MatMul(s, R) w = Add(p, q) n = Tanh(w) o = Add(n, t)",
         weights={"t": np.zeros((3, 6))}, zero=CELL_UNREAD, narrow=CELL_SLIM | {"W0": (4, 4), "t": ()}),
]  # fmt: skip


AXES = [
    scan("scanned along the middle", inside="num_scan_inputs = 1, scan_input_axes = [1]", x="3,T,4",
         zero=CELL_DEAD | {"W0": COLUMNS}),
    scan("scanned along the end, backwards", inside="num_scan_inputs = 1, scan_input_axes = [-1], scan_input_directions = [1], "
         "scan_output_directions = [1], scan_output_axes = [-2]", x="3,4,T", z="3,T,2", zero=CELL_DEAD | {"W0": COLUMNS}),
    scan("stacked along the end", inside="num_scan_inputs = 1, scan_output_axes = [2]", z="3,2,T",
         tail="y = MatMul(e, V) f = Transpose<perm = [0, 2, 1]>(a) g = MatMul(f, Q) z = Transpose<perm = [0, 2, 1]>(g)",
         zero=CELL_UNREAD),
]  # fmt: skip


@pytest.mark.parametrize("trap", AXES, ids=str)
def test_scan_axes(trap: Trap) -> None:
    """In ONNX Runtime: the reference evaluator scans along axis 0 only."""
    case = trap.case()
    small, _ = onnxdam.slim(case.model, align="none")
    assert widths(small) == trap.narrow
    for steps in (1, 4):
        rng = np.random.default_rng(steps)
        shape = [d.dim_value or steps for d in case.model.graph.input[0].type.tensor_type.shape.dim]
        feeds = {"x": rng.normal(size=shape), "x0": rng.normal(size=(3, 4))}
        for a, b in zip(run(case.model, feeds), run(small, feeds), strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-12)


def widths(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    return {t.name: tuple(t.dims) for t in model.graph.initializer}


def run(model: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


@pytest.mark.parametrize("trap", SCANS, ids=str)
def test_scan(trap: Trap) -> None:
    trap.check()


def loop(
    name: str,
    body: str,
    states: str = "h",
    *,
    start: str = "h = MatMul(x, W0)",
    ins: str = "double[3,6] s",
    outs: str = "double[3,6] n, double[3,6] o",
    results: str = "e, a",
    limit: str = "k",
    z: str = "T,3,2",
    tail: str = "y = MatMul(e, V) z = MatMul(a, Q)",
    **options: Any,
) -> Trap:
    text = (
        f"(double[3,4] x, int64 k) => (double[3,2] y, double[{z}] z) {{ go = Constant<value = bool {{1}}>() {start} "
        f"{results} = Loop({limit}, go, {states}) <body = b (int64 j, bool g, {ins}) => (bool g2, {outs}) {{ {body} }}> {tail} }}"
    )
    options["weights"] = CELL | {"W0": (4, 6)} | options.get("weights", {})
    options.setdefault("narrow", CELL_SLIM | {"W0": (4, 4)})
    return Trap(name, text, ranges={"k": (3, 4)}, **options)


TURN = "g2 = Identity(g) p = MatMul(x, W) q = MatMul(s, R) w = Add(p, q) n = Tanh(w) o = Identity(n)"
LOOPS = [
    loop("zero at first and in every turn", TURN, zero=CELL_DEAD | {"W0": COLUMNS}),
    loop("unread", TURN, zero=CELL_UNREAD),
    loop("zero at first only", TURN, zero={"W0": COLUMNS}, kept=True, narrow=CELL | {"W0": (4, 6)}),
    loop("the body stops the loop", "m = ReduceMax<keepdims = 0>(s) g2 = Less(m, top) p = MatMul(x, W) q = MatMul(s, R) "
         "w = Add(p, q) n = Tanh(w) o = Identity(n)", weights={"top": np.array(0.999)}, zero=CELL_DEAD | {"W0": COLUMNS},
         narrow=None),
    loop("two states, one of them swapped", "g2 = Identity(g) p = MatMul(x, W) q = MatMul(s, R) w = Add(p, q) u = Tanh(w) "
         "n = Identity(t) n2 = Identity(u) o = Add(s, t)", "h, h2", ins="double[3,6] s, double[3,6] t",
         outs="double[3,6] n, double[3,6] n2, double[3,6] o", results="e, e2, a", start="h = MatMul(x, W0) h2 = Relu(h)",
         zero=CELL_DEAD | {"W0": COLUMNS}),
    loop("two states, one of them grows", "g2 = Identity(g) p = MatMul(x, W) q = MatMul(s, R) w = Add(p, q) n = Tanh(w) "
         "n2 = Concat<axis = 0>(t, n) o = Identity(n)", "h, h2", ins="double[3,6] s, double[L,6] t",
         outs="double[3,6] n, double[M,6] n2, double[3,6] o", results="e, e2, a", start="h = MatMul(x, W0) h2 = Relu(h)",
         tail="y = MatMul(e, V) f = ReduceMean<axes = [0], keepdims = 0>(e2) b = Add(a, f) z = MatMul(b, Q)",
         zero=CELL_DEAD | {"W0": COLUMNS}),
    loop("a loop in a loop", "g2 = Identity(g) p = MatMul(x, W) s1 = Loop(j, g, s) <body = b2 (int64 j2, bool g3, double[3,6] s3) "
         "=> (bool g4, double[3,6] n3) { g4 = Identity(g3) q = MatMul(s3, R) w = Add(p, q) n3 = Tanh(w) }> "
         "n = Tanh(s1) o = Identity(n)", zero=CELL_DEAD | {"W0": COLUMNS}),
    loop("a branch in a loop", "g2 = Identity(g) p = MatMul(x, W) q = MatMul(s, R) w = Add(p, q) two = Constant<value = int64 {2}>() "
         "low = Less(j, two) n = If(low) <then_branch = t1 () => (double[3,6] u) { u = Tanh(w) }, "
         "else_branch = e1 () => (double[3,6] v) { v = Relu(w) }> o = Identity(n)", zero=CELL_DEAD | {"W0": COLUMNS}),
    loop("nobody reads the last state", TURN, tail="y = MatMul(x, U) z = MatMul(a, Q)", weights={"U": (4, 2)},
         zero=CELL_DEAD | {"W0": COLUMNS}, narrow=CELL_SLIM | {"W0": (4, 4), "V": ()}),
    loop("nobody reads anything", TURN, tail="b = ReduceSum<keepdims = 0>(a) d = Mul(b, nil) y = MatMul(x, U) f = Expand(U, to) "
         "z = Add(f, d)", z="3,4,2", weights={"U": (4, 2), "nil": np.array(0.0), "to": np.array([3, 4, 2])}, narrow=None),
]  # fmt: skip


@pytest.mark.parametrize("trap", LOOPS, ids=str)
def test_loop(trap: Trap) -> None:
    trap.check()


def without_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Bodies as PyTorch exports them: no shape is declared inside."""
    for node in model.graph.node:
        for attribute in node.attribute:
            for value in (*attribute.g.input, *attribute.g.output):
                if value.type.tensor_type.elem_type == onnx.TensorProto.DOUBLE:
                    value.type.tensor_type.ClearField("shape")
    return model


def test_loop_without_shapes() -> None:
    """The extents of the state are those at first, if the body keeps them."""
    trap = LOOPS[0]
    model = without_shapes(trap.case().model)
    small, _ = onnxdam.slim(model, align="none")
    assert widths(small) == trap.narrow
    for k in (1, 3):
        feeds = {"x": np.random.default_rng(1).normal(size=(3, 4)), "k": np.array(k)}
        for a, b in zip(run(model, feeds), run(small, feeds), strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-12)


def test_loop_without_shapes_that_grows() -> None:
    """A state that is not of one extent in every turn is left alone."""
    trap = loop(
        "grows",
        "g2 = Identity(g) p = MatMul(x, W) n = Concat<axis = 1>(s, p) o = Identity(p)",
        ins="double[P,Q] s",
        outs="double[U,V] n, double[3,6] o",
        tail="f = ReduceMean<axes = [1]>(e) d = MatMul(x, U) y = Add(d, f) z = MatMul(a, Q)",
        weights={"U": (4, 2)},
        zero={"W0": COLUMNS, "Q": ROWS},
    )
    model = without_shapes(trap.case().model)
    small, _ = onnxdam.slim(model, align="none")
    assert widths(small)["W0"] == (4, 6)
    feeds = {"x": np.random.default_rng(1).normal(size=(3, 4)), "k": np.array(3)}
    for a, b in zip(run(model, feeds), run(small, feeds), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-12)


def test_optional_keeps_everything() -> None:
    text = (
        "(double[N,4] x) => (double[M,2] y) { a = MatMul(x, W1) q = Optional(a) h = OptionalHasElement(q) "
        "e = OptionalGetElement(q) k = Cast<to = 11>(h) r = Mul(e, k) y = MatMul(r, W2) }"
    )
    case = Trap("optional", text, weights=D, zero={"W1": COLUMNS, "W2": ROWS}, opset=18).case()
    small, _ = onnxdam.slim(case.model, align="none")
    assert widths(small) == D


SEQUENCES = {
    "built and taken apart": "q = SequenceConstruct(a, b) z = Constant<value = int64 {1}>() r = SequenceAt(q, z) y = MatMul(r, W2)",
    "joined": "q = SequenceConstruct(a, b) r = ConcatFromSequence<axis = 0>(q) y = MatMul(r, W2)",
    "split": "q = SplitToSequence<axis = 1, keepdims = 1>(a, three) z = Constant<value = int64 {0}>() r = SequenceAt(q, z) "
             "s = Concat<axis = 1>(r, r) y = MatMul(s, W2)",
    "filled in a loop": "q = SequenceEmpty<dtype = 11>() n = Constant<value = int64 {3}>() go = Constant<value = bool {1}>() "
             "f = Loop(n, go, q) <body = l (int64 i, bool g, seq(double[N,6]) s) => (bool h, seq(double[N,6]) t) "
             "{ h = Identity(g) u = Relu(a) t = SequenceInsert(s, u) }> "
             "r = ConcatFromSequence<axis = 0>(f) y = MatMul(r, W2)",
    "mapped": "q = SequenceConstruct(a, b) f = SequenceMap<body = l (double[N,6] i) => (double[N,6] o) { o = Relu(i) }>(q) "
              "r = ConcatFromSequence<axis = 0>(f) y = MatMul(r, W2)",
}  # fmt: skip


@pytest.mark.parametrize("name", SEQUENCES)
def test_sequences_keep_everything(name: str) -> None:
    text = f"(double[N,4] x) => (double[M,2] y) {{ a = MatMul(x, W1) b = Neg(a) {SEQUENCES[name]} }}"
    Trap(
        name, text, weights=D | {"three": np.array([3, 3])}, zero={"W1": COLUMNS, "W2": ROWS}, opset=18, narrow=D
    ).check()


def with_initializers_in_a_branch() -> onnx.ModelProto:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (double[N,4] x, bool c) => (double[N,2] y) { a = MatMul(x, W1) '
        "r = If(c) <then_branch = t () => (double[N,6] u) { u = Mul(a, g) }, "
        "else_branch = e () => (double[N,6] v) { v = Add(a, g) }> y = MatMul(r, W2) }"
    )
    rng = np.random.default_rng(0)
    w1, w2 = rng.normal(size=(4, 6)), rng.normal(size=(6, 2))
    w2[[1, 2]] = 0
    model.graph.initializer.extend([numpy_helper.from_array(w1, "W1"), numpy_helper.from_array(w2, "W2")])
    for attribute in next(n for n in model.graph.node if n.op_type == "If").attribute:
        attribute.g.initializer.append(numpy_helper.from_array(rng.normal(size=6), "g"))
    return model


def test_initializers_of_a_branch() -> None:
    model = with_initializers_in_a_branch()
    onnx.checker.check_model(model, full_check=True)
    small, _ = onnxdam.slim(model, align="none")
    onnx.checker.check_model(small, full_check=True)
    branches = [a.g for n in small.graph.node if n.op_type == "If" for a in n.attribute]
    left = [*small.graph.initializer, *(t for g in branches for t in g.initializer)]
    assert sorted(tuple(t.dims) for t in left) == [(4,), (4,), (4, 2), (4, 4)]
    for c in (True, False):
        feeds = {"x": np.random.default_rng(1).normal(size=(3, 4)), "c": np.array(c)}
        wanted, found = (onnx.reference.ReferenceEvaluator(m).run(None, feeds)[0] for m in (model, small))
        np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_the_other_branch_too() -> None:
    """The traps feed random conditions; here each branch is run for certain."""
    for trap in IFS:
        case = trap.case()
        small, _ = onnxdam.slim(case.model, align="none")
        for c in (True, False):
            feeds = {"x": np.random.default_rng(1).normal(size=(3, 4)), "c": np.array(c)}
            wanted, found = (onnx.reference.ReferenceEvaluator(m).run(None, feeds)[0] for m in (case.model, small))
            np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12, err_msg=trap.name)


def test_no_turn_at_all() -> None:
    """A state that the body changes is what it was at first when the loop does not run."""
    for trap in LOOPS:
        case = trap.case()
        small, _ = onnxdam.slim(case.model, align="none")
        for k in (0, 1, 5):
            feeds = {"x": np.random.default_rng(1).normal(size=(3, 4)), "k": np.array(k)}
            for a, b in zip(run(case.model, feeds), run(small, feeds), strict=True):
                np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-12, err_msg=trap.name)


def test_old_scan_is_left_alone() -> None:
    """Opset 8 had a batch axis and lengths."""
    body = helper.make_graph(
        [helper.make_node("Add", ["s", "i"], ["n"]), helper.make_node("Identity", ["n"], ["o"])], "b",
        [helper.make_tensor_value_info(n, 1, [6]) for n in ("s", "i")],
        [helper.make_tensor_value_info(n, 1, [6]) for n in ("n", "o")],
    )  # fmt: skip
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "W"], ["a"]), helper.make_node("Scan", ["", "h", "a"], ["e", "y"], body=body, num_scan_inputs=1)],
        "g", [helper.make_tensor_value_info("x", 1, [1, 5, 4]), helper.make_tensor_value_info("h", 1, [1, 6])],
        [helper.make_tensor_value_info("y", 1, [1, 5, 6])],
        [numpy_helper.from_array(np.zeros((4, 6), np.float32), "W")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 8)], ir_version=3)
    small, _ = onnxdam.slim(model, align="none", strict=False)
    assert [tuple(t.dims) for t in small.graph.initializer] == [(4, 6)]


# fmt: off
BORDERS = [
    Trap("lstm in scan",
         "(double[4,T,N,3] x) => (double[4,N,2] z) { h0 = Constant<value = double[1] {0}>() e, a = "
         "Scan<num_scan_inputs = 1, body = b (double[1] s, double[T,N,3] i) => (double[1] n, double[1,N,5] o) "
         "{ n = Identity(s) q, o = GRU<hidden_size = 5>(i, W, R, B) }>(h0, x) f = Squeeze(a, one) z = "
         "MatMul(f, V) }",
         weights={"W": (1, 15, 3), "R": (1, 15, 5), "B": (1, 30), "V": (5, 2), "one": np.array([1])},
         zero={"W": s_[:, [1, 3, 6, 8, 11, 13]], "R": s_[:, [1, 3, 6, 8, 11, 13]],
               "B": s_[:, [1, 3, 6, 8, 11, 13, 16, 18, 21, 23, 26, 28]]},
         narrow={"W": (1, 9, 3), "R": (1, 9, 3), "B": (1, 18), "V": (3, 2)}, extra=1),
    Trap("conv in if",
         "(double[N,3,4,4] x, bool c) => (double[N,2,4,4] y) { a = Conv(x, W1) r = If(c) <then_branch = t () "
         "=> (double[N,6,4,4] u) { k = Conv<pads=[1,1,1,1]>(a, W3) u = Add(k, a) }, else_branch = e () => "
         "(double[N,6,4,4] v) { v = BatchNormalization(a, s, b, m, var) }> y = Conv(r, W2) }",
         weights={"W1": (6, 3, 1, 1), "W3": (6, 6, 3, 3), "W2": (2, 6, 1, 1), "s": (6, ), "b": (6, ), "m": (6, ), "var": (6, )},
         zero={"W2": s_[:, [1, 2]], "W3": s_[:, [1, 2]]},
         narrow={"W1": (4, 3, 1, 1), "W3": (4, 4, 3, 3), "W2": (2, 4, 1, 1), "s": (4, ), "b": (4, ), "m": (4, ), "var": (4, )}),
    Trap("gate in body",
         "(double[N,4] x, bool c) => (double[N,2] y) { a = MatMul(x, W1) r = If(c) <then_branch = t () => "
         "(double[N,6] u) { k = MatMul(x, W3) u = Mul(k, g) }, else_branch = e () => (double[N,6] v) { v = "
         "Mul(a, g) }> y = MatMul(r, W2) }",
         weights={"W1": (4, 6), "W3": (4, 6), "W2": (6, 2), "g": np.array([1., 0, 2, 0, 1, 3])},
         narrow=None),
    Trap("bias absorbed across a body border",
         "(double[N,4] x, bool c) => (double[N,2] y) { a = MatMul(x, W1) p = Add(a, b1) q = Relu(p) k = "
         "MatMul(q, W3) r = If(c) <then_branch = t () => (double[N,6] u) { u = Add(k, b) }, else_branch = e () "
         "=> (double[N,6] v) { v = Neg(q) }> y = MatMul(r, W2) }",
         weights={"W1": (4, 6), "b1": np.array([1., 2, .5, .2, .1, .7]), "W3": (6, 6), "W2": (6, 2), "b": (6, )},
         zero={"W1": s_[:, [0, 1]]},
         narrow=None),
    Trap("output of a body that others read",
         "(double[N,4] x, bool c) => (double[N,2] y) { r, r2 = If(c) <then_branch = t () => (double[N,6] u, "
         "double[N,6] u2) { k = MatMul(x, W3) u = Add(k, b) u2 = Mul(k, u) }, else_branch = e () => "
         "(double[N,6] v, double[N,6] v2) { v = MatMul(x, W1) v2 = Mul(v, g) }> s = Add(r, r2) y = MatMul(s, "
         "W2) }",
         weights={"W1": (4, 6), "W3": (4, 6), "b": (6, ), "W2": (6, 2), "g": np.array([1., 0, 2, 0, 1, 3])},
         zero={"W3": s_[:, [1, 3]]},
         narrow=None),
    Trap("gate after a body output",
         "(double[N,4] x, bool c) => (double[N,2] y, double[N,2] z) { r, r2 = If(c) <then_branch = t () => "
         "(double[N,6] u, double[N,6] u2) { u = MatMul(x, W3) u2 = Mul(u, g) }, else_branch = e () => "
         "(double[N,6] v, double[N,6] v2) { v = MatMul(x, W1) v2 = Mul(v, g) }> y = MatMul(r, W2) z = "
         "MatMul(r2, W4) }",
         weights={"W1": (4, 6), "W3": (4, 6), "W2": (6, 2), "W4": (6, 2), "g": np.array([1., 0, 2, 0, 1, 3])},
         zero={"W2": s_[[1, 3]]},
         narrow=None),
    Trap("reduce mean over a body axis",
         "(double[3,4] x, double[5,3,4] q) => (double[3,1] y) { h = MatMul(x, W0) e = Scan<num_scan_inputs = "
         "1, body = b (double[3,6] s, double[3,4] i) => (double[3,6] n) { p = MatMul(i, W) m = "
         "ReduceMean<axes=[1]>(s) w = Add(p, m) n = Mul(w, g) }>(h, q) y = ReduceMean<axes=[1]>(e) }",
         weights={"W0": (4, 6), "W": (4, 6), "g": np.array([1., 0, 2, 0, 1, 3])},
         zero={"W0": s_[:, [1, 3]]},
         narrow=None),
]
# fmt: on


@pytest.mark.parametrize("trap", BORDERS, ids=str)
def test_across_the_border_of_a_body(trap: Trap) -> None:
    trap.check()
