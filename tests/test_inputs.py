"""`inputs` and `outputs`: what nobody reads leaves the signature, whatever lies between, and the check proves it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper, parser

import onnxdam
from onnxdam import features
from onnxdam.errors import InputError, UnsupportedError

Array = np.ndarray[Any, Any]
Shape = tuple[int | str | None, ...]


def weights(*shape: int, dead: Any = (), axis: int = 0, seed: int = 0) -> Array:
    """Random numbers with zeros at some places of an axis."""
    array = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    array[(slice(None),) * axis + (list(dead),)] = 0
    return array


def model(text: str, *, opset: int = 17, ir: int = 8, **arrays: Array) -> onnx.ModelProto:
    made = parser.parse_model(f'<ir_version: {ir}, opset_import: ["" : {opset}]> g {text}')
    made.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    if ir < 4:
        made.graph.input.extend(
            onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in made.graph.initializer
        )
    onnx.checker.check_model(made, full_check=True)
    return made


def shapes(made: onnx.ModelProto) -> dict[str, tuple[int | str, ...]]:
    stored = {t.name for t in made.graph.initializer}
    return {
        v.name: tuple(d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim)
        for v in (*made.graph.input, *made.graph.output)
        if v.name not in stored
    }


@dataclass(frozen=True)
class Example:
    """A graph, and what its inputs and outputs become."""

    name: str
    text: str
    narrow: dict[str, Shape]
    arrays: dict[str, Array] = field(default_factory=dict)
    opset: int = 17
    ir: int = 8
    operators: str | None = None  # of the slim model

    def __str__(self) -> str:
        return self.name

    def model(self) -> onnx.ModelProto:
        return model(self.text, opset=self.opset, ir=self.ir, **self.arrays)


PIXELS = np.random.default_rng(3).choice(60, 25, replace=False)
EXAMPLES = [
    Example(
        "columns of a table",
        "(float[N,6] x) => (float[N,2] y) { y = MatMul(x, w) }",
        {"x": ("N", 4)},
        {"w": weights(6, 2, dead=[1, 4])},
        operators="MatMul",
    ),
    Example(
        "a vector without batch",
        "(float[6] x) => (float[2] y) { y = MatMul(x, w) }",
        {"x": (4,)},
        {"w": weights(6, 2, dead=[1, 4])},
    ),
    Example(
        "columns of every step of a sequence",
        "(float[N,T,6] x) => (float[N,T,2] y) { a = Tanh(x) y = MatMul(a, w) }",
        {"x": ("N", "T", 3)},
        {"w": weights(6, 2, dead=[0, 1, 5])},
    ),
    Example(
        "normalisation by constants, of each column",
        "(float[N,4] x) => (float[N,2] y) { a = Sub(x, m) b = Div(a, s) y = Gemm(b, w, c) }",
        {"x": ("N", 3)},
        {"m": weights(4), "s": weights(4) ** 2 + 1, "w": weights(4, 2, dead=[2]), "c": weights(2)},
        operators="Sub Div Gemm",
    ),
    Example(
        "columns times zero",
        "(float[N,4] x) => (float[N,2] y) { a = Mul(x, m) b = Add(a, s) y = Gemm(b, w, c) }",
        {"x": ("N", 2)},
        {"m": np.array([1, 0, 2, 0], np.float32), "s": weights(4), "w": weights(4, 2), "c": weights(2)},
    ),
    Example(
        "integer columns and a Cast",
        "(int64[N,5] x) => (float[N,2] y) { a = Cast<to=1>(x) y = MatMul(a, w) }",
        {"x": ("N", 4)},
        {"w": weights(5, 2, dead=[3])},
    ),
    Example(
        "two inputs joined",
        "(float[N,3] x, float[N,4] z) => (float[N,2] y) { c = Concat<axis=1>(x, z) y = MatMul(c, w) }",
        {"x": ("N", 2), "z": ("N", 3)},
        {"w": weights(7, 2, dead=[2, 3])},
    ),
    Example(
        "a whole input in a Concat",
        "(float[N,3] x, float[N,4] z) => (float[N,2] y) { c = Concat<axis=1>(x, z) y = MatMul(c, w) }",
        {"x": ("N", 3)},
        {"w": weights(7, 2, dead=range(3, 7))},
        operators="MatMul",
    ),
    Example(
        "an input that nobody reads",
        "(float[N,3] x, float[N,4] z) => (float[N,2] y) { y = MatMul(x, w) }",
        {"x": ("N", 3)},
        {"w": weights(3, 2)},
    ),
    Example(
        "one of two one-hot blocks",
        "(int64[N] a, int64[N] b) => (float[N,2] y) { p = OneHot(a, depth, values) q = OneHot(b, depth, values)"
        " c = Concat<axis=1>(p, q) y = MatMul(c, w) }",
        {"b": ("N",)},
        {"depth": np.array(3), "values": np.array([0, 1], np.float32), "w": weights(6, 2, dead=range(3))},
    ),
    Example(
        "Slice, Gather, Split and Concat",
        "(float[N,8] x) => (float[N,2] y) { a = Slice(x, one, six, one) b = Gather<axis=1>(a, picks)"
        " p, q = Split<axis=1>(b, sizes) c = Concat<axis=1>(q, p) y = MatMul(c, w) }",
        {"x": ("N", 3)},  # columns 5, 2 and 3
        {
            "one": np.array([1]),
            "six": np.array([6]),
            "picks": np.array([4, 1, 3, 2]),
            "sizes": np.array([1, 3]),
            "w": weights(4, 2, dead=[1]),
        },
    ),
    Example(
        "channels of an image",
        "(float[N,4,H,W] x) => (float[N,5,H,W] y) { y = Conv<pads=[1,1,1,1]>(x, w, b) }",
        {"x": ("N", 2, "H", "W")},
        {"w": weights(5, 4, 3, 3, dead=[0, 2], axis=1), "b": weights(5)},
    ),
    Example(
        "channels of an image, channels last",
        "(float[N,H,W,4] x) => (float[N,5,H,W] y) { t = Transpose<perm=[0,3,1,2]>(x) y = Conv<pads=[1,1,1,1]>(t, w) }",
        {"x": ("N", "H", "W", 3)},
        {"w": weights(5, 4, 3, 3, dead=[2], axis=1)},
    ),
    Example(
        "channels of a signal",
        "(float[N,6,T] x) => (float[N,3] y) { a = Conv<pads=[1,1]>(x, w) r = Relu(a) g = GlobalAveragePool(r)"
        " y = Flatten(g) }",
        {"x": ("N", 4, "T")},
        {"w": weights(3, 6, 3, dead=[1, 5], axis=1)},
    ),
    Example(
        "groups of channels",
        "(float[N,6,T] x) => (float[N,2,T] y) { a = Conv<group=3>(x, v) y = Conv(a, w) }",
        {"x": ("N", 4, "T")},
        {"v": weights(6, 2, 1), "w": weights(2, 6, 1, dead=[2, 3], axis=1)},
    ),
    Example(
        "features of a recurrent input",
        "(float[T,N,5] x) => (float[T,1,N,3] y) { y = LSTM<hidden_size=3>(x, w, r) }",
        {"x": ("T", "N", 3)},
        {"w": weights(1, 12, 5, dead=[0, 4], axis=2), "r": weights(1, 12, 3)},
    ),
    Example(
        "the same feature of every step, in a table",
        "(float[N,8] x) => (float[4,1,N,3] y) { s = Reshape(x, steps) t = Transpose<perm=[1,0,2]>(s)"
        " y = LSTM<hidden_size=3>(t, w, r) }",
        {"x": ("N", 4)},
        {"steps": np.array([0, 4, 2]), "w": weights(1, 12, 2, dead=[1], axis=2), "r": weights(1, 12, 3)},
    ),
    Example(
        "an embedding and a table",
        "(int64[N] i, float[N,4] x) => (float[N,2] y) { e = Gather(table, i) c = Concat<axis=1>(e, x) y = MatMul(c, w) }",
        {"i": ("N",), "x": ("N", 3)},
        {"table": weights(9, 3), "w": weights(7, 2, dead=[1, 5])},
    ),
    Example(
        "a fixed size without batch",
        "(float[2,5] x) => (float[2,3] y) { y = MatMul(x, w) }",
        {"x": (2, 4)},
        {"w": weights(5, 3, dead=[0])},
    ),
    Example(
        "weights that are listed among the inputs",
        "(float[N,6] x) => (float[N,2] y) { y = MatMul(x, w) }",
        {"x": ("N", 4)},
        {"w": weights(6, 2, dead=[1, 4])},
        opset=8,
        ir=3,
    ),
    Example(
        "an input read in a branch",
        "(float[N,6] x, bool c) => (float[N,2] y) { y = If(c) <"
        "then_branch = t () => (float[N,2] a) { a = MatMul(x, w) },"
        "else_branch = e () => (float[N,2] b) { b = MatMul(x, v) }> }",
        {"x": ("N", 4), "c": ()},
        {"w": weights(6, 2, dead=[1, 2, 4]), "v": weights(6, 2, dead=[0, 1, 4])},
    ),
    Example(
        "its size only",
        "(float[N,6] x, float[M,2] z) => (float[N,2] y) { s = Shape(x) n = Gather(s, first) c = Concat<axis=0>(n, two)"
        " m = ReduceMean<axes=[0]>(z) y = Expand(m, c) }",
        {"x": ("N", 1), "z": ("M", 2)},
        {"first": np.array([0]), "two": np.array([2])},
    ),
    Example(
        "all features times zero: one stays",
        "(float[N,4] x, float[N,2] z) => (float[N,2] y) { a = MatMul(x, w) b = Add(a, z) s = Shape(x)"
        " o = Slice(s, zero, one) r = Concat<axis=0>(o, two) y = Reshape(b, r) }",
        {"x": ("N", 1), "z": ("N", 2)},
        {"w": weights(4, 2, dead=range(4)), "zero": np.array([0]), "one": np.array([1]), "two": np.array([2])},
    ),
    Example(
        "pixels of an image that is flattened",
        "(float[N,3,4,5] x) => (float[N,6] y) { h = Flatten(x) y = MatMul(h, w) }",
        {"x": ("N", 35)},
        {"w": weights(60, 6, dead=PIXELS)},
        operators="MatMul",
    ),
    Example(
        "pixels, normalised by channel, channels last",
        "(uint8[N,4,5,3] x) => (float[N,6] y) { c = Cast<to=1>(x) t = Transpose<perm=[0,3,1,2]>(c) a = Sub(t, m)"
        " b = Div(a, s) h = Reshape(b, flat) y = MatMul(h, w) }",
        {"x": ("N", 35)},
        {
            "m": weights(3, 1, 1),
            "s": weights(3, 1, 1) ** 2 + 1,
            "flat": np.array([-1, 60]),
            "w": weights(60, 6, dead=PIXELS),
        },
        operators="Cast Sub Div MatMul",
    ),
    Example(
        "pixels behind a batch normalisation",
        "(float[N,3,4,5] x) => (float[N,6] y) { b = BatchNormalization(x, s, o, m, v) h = Flatten(b) y = MatMul(h, w) }",
        {"x": ("N", 35)},
        {
            **{name: weights(3, seed=k) for k, name in enumerate("som")},
            "v": weights(3) ** 2 + 0.5,
            "w": weights(60, 6, dead=PIXELS),
        },
    ),
    Example(
        "pixels, the batch asked for at run time",
        "(float[N,3,4,5] x) => (float[N,6] y) { s = Shape(x) n = Gather(s, zero) r = Concat<axis=0>(n, rest)"
        " h = Reshape(x, r) y = MatMul(h, w) }",
        {"x": ("N", 35)},
        {"zero": np.array([0]), "rest": np.array([-1]), "w": weights(60, 6, dead=PIXELS)},
        operators="MatMul",
    ),
    Example(
        "pixels that two layers read in their own order",
        "(float[N,3,4,5] x) => (float[N,6] y, float[N,2] z) { h = Flatten(x) y = MatMul(h, w)"
        " t = Transpose<perm=[0,2,3,1]>(x) k = Flatten(t) z = MatMul(k, v) }",
        {"x": ("N", 35)},
        {
            "w": weights(60, 6, dead=PIXELS),
            "v": weights(60, 2, dead=np.argsort(np.arange(60).reshape(3, 4, 5).transpose(1, 2, 0).reshape(-1))[PIXELS]),
        },
    ),
    Example(
        "pixels of every frame of a film",
        "(float[N,T,4,5] x) => (float[N,T,6] y) { h = Reshape(x, flat) y = MatMul(h, w) }",
        {"x": ("N", "T", 12)},
        {"flat": np.array([0, 0, 20]), "w": weights(20, 6, dead=[0, 3, 4, 7, 9, 12, 15, 19])},
    ),
    Example(
        "pixels of a film, with an axis more",
        "(float[N,T,4,5] x) => (float[N,T,6,1] y) { h = Reshape(x, flat) t = Transpose<perm=[0,1,3,2]>(h)"
        " m = MatMul(t, w) y = Transpose<perm=[0,1,3,2]>(m) }",
        {"x": ("N", "T", 12)},
        {"flat": np.array([0, 0, 20, 1]), "w": weights(20, 6, dead=[0, 3, 4, 7, 9, 12, 15, 19])},
    ),
    Example(
        "pixels of all frames in one batch",
        "(float[N,T,4,5] x) => (float[M,6] y) { h = Reshape(x, flat) y = MatMul(h, w) }",
        {"x": ("N", "T", 12)},
        {"flat": np.array([-1, 20]), "w": weights(20, 6, dead=[0, 3, 4, 7, 9, 12, 15, 19])},
    ),
    Example(
        "a band of every channel, over time",
        "(float[N,3,4,T] x) => (float[N,6,T] y) { h = Reshape(x, flat) y = Conv<pads=[1,1]>(h, w) }",
        {"x": ("N", 9, "T")},
        {"flat": np.array([0, 12, -1]), "w": weights(6, 12, 3, dead=[0, 5, 10], axis=1)},
    ),
    Example(
        "whole channels of an image that is flattened: it stays an image",
        "(float[N,3,4,5] x) => (float[N,6] y) { h = Flatten(x) y = MatMul(h, w) }",
        {"x": ("N", 2, 4, 5)},
        {"w": weights(60, 6, dead=range(20, 40))},
    ),
    Example(
        "pixels, in an old file",
        "(float[N,3,4,5] x) => (float[N,6] y) { a = PRelu(x, s) b = Sub(c, a) h = Flatten(b) y = Gemm(h, w, o) }",
        {"x": ("N", 35)},
        {
            "s": weights(3, 1, 1),
            "c": weights(3, 4, 5),
            "o": weights(6),
            "w": weights(60, 6, dead=PIXELS),
        },
        opset=8,
        ir=3,
        operators="PRelu Sub Gemm",
    ),
    Example(
        "pixels without a batch, the size asked for as an output",
        "(float[4,5] x) => (float[1,6] y, int64[2] s) { h = Reshape(x, flat) y = MatMul(h, w) s = Shape(x) }",
        {"x": (12,)},
        {"flat": np.array([1, 20]), "w": weights(20, 6, dead=[0, 3, 4, 7, 9, 12, 15, 19])},
    ),
    Example(
        "rows of an image that is regrouped across rows: only as a vector",
        "(float[N,4,6] x) => (float[N,2] y) { t = Transpose<perm=[0,2,1]>(x) r = Reshape(t, odd) h = Flatten(r)"
        " y = MatMul(h, w) }",
        {"x": ("N", 12)},
        {"odd": np.array([0, 8, 3]), "w": weights(24, 2, dead=[i for i in range(24) if i % 4 > 1])},
        operators="MatMul",
    ),
    Example(
        "an image that a convolution reads too: only channels may leave",
        "(float[N,3,4,5] x) => (float[N,6] y, float[N,2,4,5] z) { h = Flatten(x) y = MatMul(h, w) z = Conv(x, v) }",
        {"x": ("N", 2, 4, 5)},
        {"w": weights(60, 6, dead=[1, *range(20, 40)]), "v": weights(2, 3, 1, 1, dead=[1], axis=1)},
    ),
]


@pytest.mark.parametrize("mode", [True, "keep-signature"])
@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_what_nobody_reads_leaves(example: Example, mode: bool | str) -> None:
    original = example.model()
    before, text = shapes(original), original.SerializeToString()
    slim, plan = onnxdam.slim(original, inputs=mode)
    assert original.SerializeToString() == text
    onnx.checker.check_model(slim, full_check=True)
    outputs = {v.name: before[v.name] for v in original.graph.output}
    assert shapes(slim) == (before if mode == "keep-signature" else {**example.narrow, **outputs})
    if example.operators is not None and mode is True:
        assert [node.op_type for node in slim.graph.node] == example.operators.split()
    manifest = features.load(slim)
    assert manifest.keep_signature == (mode == "keep-signature")
    assert {i.name: i.slim_shape for i in manifest.inputs if not i.left} == example.narrow
    report = onnxdam.verify(original, slim)
    assert report.passed, report.text
    assert {case.inputs for case in report.cases} >= {"normal", "normal, noise"}
    again = onnxdam.apply(original, onnxdam.Plan.from_json(plan.to_json()))
    assert again.SerializeToString(deterministic=True) == slim.SerializeToString(deterministic=True)


def table(dead: Any = (1, 4)) -> onnx.ModelProto:
    return model("(float[N,6] x) => (float[N,2] y) { y = MatMul(x, w) }", w=weights(6, 2, dead=dead))


def test_without_the_options_nothing_changes() -> None:
    original = table()
    slim, plan = onnxdam.slim(original)
    assert slim.SerializeToString() == original.SerializeToString()
    assert plan.signature is None and "signature" not in plan.to_json() and "inputs" not in plan.options


def test_the_only_input_stays_though_nobody_reads_it() -> None:
    original = model("(float[N,6] x) => (float[2] y) { y = Identity(c) }", c=weights(2))
    slim, plan = onnxdam.slim(original, inputs=True)
    assert shapes(slim) == {"x": ("N", 6), "y": (2,)}
    assert any("no output depends on it; it stays" in note for note in plan.notes)


def test_text_stays_where_it_is_read() -> None:
    original = model(
        "(string[N,2] s, float[N,3] x) => (string[N,2] t, float[N,2] y) { t = Identity(s) y = MatMul(x, w) }",
        w=weights(3, 2, dead=[1]),
    )
    slim, _ = onnxdam.slim(original, inputs=True)
    assert shapes(slim) == {"s": ("N", 2), "x": ("N", 2), "t": ("N", 2), "y": ("N", 2)}


@pytest.mark.parametrize(
    ("text", "arrays", "why"),
    [
        ("(float[N,3] x) => (float[N,2] y) { y = MatMul(x, w) }", {"w": weights(3, 2)}, "MatMul"),
        ("(float[N,3] x) => (float[N,3] y) { y = Softmax(x) }", {}, "Softmax"),
        ("(float[N,F] x) => (float[N,F] y) { y = Relu(x) }", {}, "no axis of known extent"),
    ],
)
def test_inputs_that_cannot_shrink_are_an_error_that_says_who_reads_them(
    text: str, arrays: dict[str, Array], why: str
) -> None:
    for verb in (onnxdam.plan, onnxdam.slim):
        with pytest.raises(InputError, match=f"no input can shrink: .x..*{why}"):
            verb(model(text, **arrays), inputs=True)


def test_protected_inputs_stay() -> None:
    original = model(
        "(float[N,3,4] x, float[N,3] z) => (float[N,2] y) { h = Flatten(x) c = Concat<axis=1>(h, z) y = MatMul(c, w) }",
        w=weights(15, 2, dead=[1, 6, 12]),
    )
    assert shapes(onnxdam.slim(original, inputs=True)[0]) == {"x": ("N", 10), "z": ("N", 2), "y": ("N", 2)}
    slim, _ = onnxdam.slim(original, inputs=True, protect=["x"])
    assert shapes(slim) == {"x": ("N", 3, 4), "z": ("N", 2), "y": ("N", 2)}


def test_alignment_keeps_no_channel_of_an_input() -> None:
    original = model("(float[N,6,T] x) => (float[N,3,T] y) { y = Conv(x, w) }", w=weights(3, 6, 1, dead=[1, 5], axis=1))
    assert shapes(onnxdam.slim(original, inputs=True, align=16)[0])["x"] == ("N", 4, "T")


# -- outputs -----------------------------------------------------------------------------------------------------------
def embedding(dead: Any = (0, 3)) -> onnx.ModelProto:
    w = weights(6, 5, dead=dead, axis=1)
    return model(
        "(float[N,6] x) => (float[N,5] e, float[N,2] y)"
        " { a = MatMul(x, w) b = Add(a, c) e = Relu(b) y = Gemm(e, v, d) }",
        w=w, c=np.abs(weights(5)), v=weights(5, 2), d=weights(2),
    )  # fmt: skip


def test_constant_columns_leave_the_outputs() -> None:
    original = embedding()
    slim, plan = onnxdam.slim(original, outputs=True)
    assert shapes(slim) == {"x": ("N", 6), "e": ("N", 3), "y": ("N", 2)}
    columns = features.load(slim).output("e")
    bias = numpy_helper.to_array(original.graph.initializer[1])
    assert columns.kept == {1: (1, 2, 4)}
    assert columns.constants[1] == pytest.approx({0: bias[0], 3: bias[3]})
    report = onnxdam.verify(original, slim)
    assert report.passed, report.text
    assert any("2 constant slots" in note for note in plan.notes)


def test_an_output_that_is_constant_keeps_one_column() -> None:
    slim, _ = onnxdam.slim(embedding(range(5)), outputs=True)
    assert shapes(slim)["e"] == ("N", 1)
    assert onnxdam.verify(embedding(range(5)), slim).passed


def test_the_first_axis_of_an_output_stays() -> None:
    original = model(
        "(float[2,6] x) => (float[2,4] y) { a = MatMul(x, w) y = Add(a, c) }",
        w=weights(6, 4, dead=range(6)),
        c=weights(4),
    )
    slim, _ = onnxdam.slim(original, outputs=True)
    assert shapes(slim) == {"x": (2, 6), "y": (2, 1)}
    assert shapes(onnxdam.slim(slim, outputs=True)[0]) == {"x": (2, 6), "y": (2, 1)}
    assert onnxdam.verify(original, slim).passed


def test_both_ends() -> None:
    original = model("(float[N,6] x) => (float[N,4] y) { y = MatMul(x, w) }", w=weights(6, 4, dead=[2]))
    original.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(weights(6, 4, dead=[2]) * np.array([1, 0, 1, 1], np.float32), "w")
    )
    slim, _ = onnxdam.slim(original, inputs=True, outputs=True)
    assert shapes(slim) == {"x": ("N", 5), "y": ("N", 3)}
    assert onnxdam.verify(original, slim).passed


# -- the manifest ------------------------------------------------------------------------------------------------------
def test_data_is_selected_by_the_manifest() -> None:
    example = next(e for e in EXAMPLES if e.name.startswith("pixels, normalised"))
    original = example.model()
    slim, _ = onnxdam.slim(original, inputs=True)
    x = np.random.default_rng(1).integers(0, 256, (7, 4, 5, 3)).astype(np.uint8)
    chosen = features.select(x, features.load(slim))
    wanted, found = (
        ort.InferenceSession(m.SerializeToString()).run(None, {"x": data})[0]
        for m, data in ((original, x), (slim, chosen))
    )
    assert chosen.shape == (7, 35)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_names_go_into_the_manifest() -> None:
    slim, plan = onnxdam.slim(table(), inputs=True, feature_names=list("abcdef"))
    assert features.load(slim).input("x").names == tuple("abcdef")
    again = onnxdam.apply(table(), onnxdam.Plan.from_json(plan.to_json()))
    assert features.load(again).input("x").names == tuple("abcdef")
    with pytest.raises(InputError, match="5 names for 6 features"):
        onnxdam.slim(table(), inputs=True, feature_names=list("abcde"))
    with pytest.raises(InputError, match="no input 'z'"):
        onnxdam.slim(table(), inputs=True, feature_names={"z": list("abcdef")})


def twice(first: onnx.ModelProto, dead: dict[str, Any], mode: bool | str = True) -> onnx.ModelProto:
    """A slim model, masked further and pruned again."""
    once, _ = onnxdam.slim(first, inputs=mode, outputs=True)
    for tensor in once.graph.initializer:
        if tensor.name in dead:
            array = numpy_helper.to_array(tensor).copy()
            array[dead[tensor.name]] = 0
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    manifest = features.Manifest.from_json(once.metadata_props[0].value)
    from onnxdam.graph import io

    signed = replace(manifest, model=io.fingerprint(io.load(once)))
    once.metadata_props[0].value = signed.to_json()
    return onnxdam.slim(once, inputs=mode, outputs=True)[0]


def test_a_slim_model_pruned_again_speaks_of_the_first_original() -> None:
    slim = twice(table(), {"w": [0, 3]})
    manifest = features.load(slim)
    assert shapes(slim)["x"] == ("N", 2) and manifest.input("x").kept == {1: (2, 3)}
    assert manifest.source == features.load(onnxdam.slim(table(), inputs=True)[0]).source
    masked = table((0, 1, 4, 5))
    assert onnxdam.verify(masked, slim, manifest=manifest).passed


@pytest.mark.parametrize("mode", [True, "keep-signature"])
def test_pixels_of_pixels(mode: bool | str) -> None:
    example = next(e for e in EXAMPLES if e.name.startswith("pixels of an image"))
    slim = twice(example.model(), {"w": [0, 9, 20]}, mode)
    item = features.load(slim).input("x")
    left = np.delete(np.setdiff1d(np.arange(60), PIXELS), [0, 9, 20])
    assert item.shape == ("N", 3, 4, 5) and item.merged == (1, 2, 3) and item.kept == {1: tuple(left.tolist())}
    masked = replace(example, arrays={"w": weights(60, 6, dead=np.setdiff1d(np.arange(60), left))}).model()
    assert onnxdam.verify(masked, slim, manifest=features.load(slim)).passed


def test_channels_then_pixels() -> None:
    """Whole channels leave first, so that the image stays one; then single pixels of it do."""
    text = "(float[N,3,4,5] x) => (float[N,6] y) { h = Flatten(x) y = MatMul(h, w) }"
    slim = twice(model(text, w=weights(60, 6, dead=range(20, 40))), {"w": [3, 25]})
    item = features.load(slim).input("x")
    assert item.merged == (1, 2, 3) and shapes(slim)["x"] == ("N", 38)
    assert item.kept == {1: tuple(i for i in range(60) if i not in (3, 45) and not 20 <= i < 40)}


def test_outputs_of_outputs() -> None:
    original = embedding()
    once, _ = onnxdam.slim(original, outputs=True)
    assert features.load(onnxdam.slim(once, outputs=True)[0]).output("e").kept == {1: (1, 2, 4)}


def test_a_plain_prune_carries_the_manifest() -> None:
    text = "(float[N,6] x) => (float[N,2] y) { a = MatMul(x, w) r = Relu(a) y = MatMul(r, v) }"
    once, _ = onnxdam.slim(model(text, w=weights(6, 4, dead=[1]), v=weights(4, 2, dead=[2])), inputs=True, align=4)
    for k, tensor in enumerate(once.graph.initializer):
        if tensor.name == "v":
            array = numpy_helper.to_array(tensor).copy()
            array[0] = 0
            once.graph.initializer[k].CopyFrom(numpy_helper.from_array(array, "v"))
    with pytest.raises(InputError, match="changed since its manifest was made"):
        onnxdam.slim(once)


# -- what the file does not declare ------------------------------------------------------------------------------------
@pytest.mark.parametrize("declared", [None, ["N", "M"], [None, None]])
def test_constant_columns_of_an_output_of_undeclared_extent(declared: list[str | None] | None) -> None:
    original = model("(float[N,4] x) => (float[N,3] y) { h = MatMul(x, w)  y = Relu(h) }", w=weights(3, 4, dead=[1]).T)
    del original.graph.output[:]
    original.graph.output.append(helper.make_tensor_value_info("y", 1, declared))
    slim, plan = onnxdam.slim(original, outputs=True)
    assert plan.signature is not None and plan.signature.outputs[0].constants == {1: {1: 0.0}}
    assert shapes(slim)["y"][1] == 2
    assert onnxdam.verify(original, slim, plan=plan).passed
    x = np.ones((2, 4), np.float32)
    whole = ort.InferenceSession(original.SerializeToString()).run(None, {"x": x})
    given = ort.InferenceSession(slim.SerializeToString()).run(None, {"x": x})
    np.testing.assert_allclose(features.expand_outputs(given, plan.signature)[0], whole[0], rtol=1e-5)


def test_sequences_beside_a_table_go_as_they_are() -> None:
    original = model(
        "(float[N,4] x, seq(float[N,2]) s) => (float[N,2] y, seq(float[N,2]) t) { y = MatMul(x, w)  t = Identity(s) }",
        w=weights(4, 2, dead=[1]),
    )
    slim, plan = onnxdam.slim(original, inputs=True, outputs=True)
    assert plan.signature is not None
    with pytest.raises(UnsupportedError, match="input 's' is a sequence: no random data"):
        onnxdam.verify(original, slim, plan=plan, manifest=plan.signature)
    x, parts = np.ones((3, 4), np.float32), [np.ones((3, 2), np.float32)] * 2
    chosen = features.select({"x": x, "s": parts}, plan.signature)
    assert chosen["x"].shape == (3, 3) and chosen["s"] is parts
    results = ort.InferenceSession(slim.SerializeToString()).run(None, chosen)
    expanded = features.expand_outputs(results, plan.signature)
    assert expanded[1] is results[1] and expanded[0].shape == (3, 2)


# -- codes and texts ---------------------------------------------------------------------------------------------------
def encoded(kind: int, codes: dict[str, Any], unread: bool) -> onnx.ModelProto:
    """A column of codes, all others of which stop the model; whether anything reads it."""
    w = weights(5, 2, dead=[0, 1, 2] if unread else [])
    node = helper.make_node
    nodes = [
        node("OneHotEncoder", ["c"], ["o"], domain="ai.onnx.ml", zeros=0, **codes),
        node("Reshape", ["o", "shape"], ["f"]),
        node("Concat", ["f", "x"], ["k"], axis=1),
        node("MatMul", ["k", "w"], ["y"]),
    ]
    declared = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [declared("c", kind, ["N", 1]), declared("x", 1, ["N", 2])],
        [declared("y", 1, ["N", 2])],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(np.array([0, 3]), "shape")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@pytest.mark.parametrize(
    ("kind", "codes", "known"),
    [
        (onnx.TensorProto.INT64, {"cats_int64s": [30, 7, 9]}, [30, 7, 9]),
        (onnx.TensorProto.STRING, {"cats_strings": ["u", "v", "w"]}, ["u", "v", "w"]),
    ],
)
def test_codes_that_may_not_be_noise(kind: int, codes: dict[str, Any], known: list[Any], tmp_path: Path) -> None:
    """Rows are swapped where noise stops the original, and that tells a column that is read."""
    rng = np.random.default_rng(0)
    data = tmp_path / "x.npz"
    np.savez(data, c=np.array(known * 3)[:, None], x=rng.standard_normal((9, 2)).astype(np.float32))
    original = encoded(kind, codes, unread=True)
    slim, plan = onnxdam.slim(original, inputs=True)
    assert shapes(slim)["x"] == ("N", 2) and "c" not in shapes(slim)
    report = onnxdam.verify(original, slim, manifest=plan.signature, data=data)
    assert report.passed
    assert any("rows were swapped" in note for note in report.notes) == (kind == onnx.TensorProto.INT64)
    report = onnxdam.verify(encoded(kind, codes, unread=False), slim, manifest=plan.signature, data=data)
    assert any("noise" in case.inputs and case.error > 1e-3 for case in report.cases)


# -- the check can fail ------------------------------------------------------------------------------------------------
def test_a_feature_that_is_read_may_not_leave() -> None:
    """A slim model that forgets a feature which matters little is found by its values, or by noise in that feature."""
    w = weights(6, 2, dead=[1])
    w[4] = 1e-9
    original = model("(float[N,6] x) => (float[N,2] y) { y = MatMul(x, w) }", w=w)
    masked = weights(6, 2, dead=[1, 4])
    slim, plan = onnxdam.slim(model("(float[N,6] x) => (float[N,2] y) { y = MatMul(x, w) }", w=masked), inputs=True)
    report = onnxdam.verify(original, slim, manifest=plan.signature)
    assert not report.passed
    assert all("noise" in case.inputs for case in report.cases if not case.passed)  # else it is below the tolerance


def test_the_wrong_features_are_found() -> None:
    original = table()
    slim, plan = onnxdam.slim(original, inputs=True)
    assert plan.signature is not None
    wrong = replace(plan.signature, inputs=(replace(plan.signature.inputs[0], kept={1: (0, 2, 5, 3)}),))
    report = onnxdam.verify(original, slim, manifest=wrong)
    assert not report.passed and any(c.inputs == "normal" and not c.passed for c in report.cases)


def test_a_wrong_constant_is_found() -> None:
    slim, plan = onnxdam.slim(embedding(), outputs=True)
    assert plan.signature is not None
    e, y = plan.signature.outputs
    wrong = replace(plan.signature, outputs=(replace(e, constants={1: {**e.constants[1], 3: 5.0}}), y))
    assert not onnxdam.verify(embedding(), slim, manifest=wrong).passed


def test_a_wrong_weight_is_found_and_named() -> None:
    original = embedding()
    slim, plan = onnxdam.slim(original, outputs=True)
    for k, tensor in enumerate(slim.graph.initializer):
        if tensor.name == "w":
            slim.graph.initializer[k].CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 1.01, "w"))
    report = onnxdam.verify(original, slim, plan=plan, manifest=plan.signature)
    assert not report.passed and report.diverging is not None and report.diverging.op_type == "MatMul"


def test_a_manifest_of_another_model_is_refused() -> None:
    slim, _ = onnxdam.slim(table(), inputs=True)
    with pytest.raises(InputError, match="made from another model"):
        onnxdam.verify(table((0, 2)), slim)
    changed = onnx.ModelProto()
    changed.CopyFrom(slim)
    changed.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights(4, 2, seed=5), "w"))
    with pytest.raises(InputError, match="belongs to another model"):
        onnxdam.verify(table(), changed)
    del slim.metadata_props[:]
    report = onnxdam.verify(table(), slim)
    assert not report.passed and "type float[N, 6] became float[N, 4]" in report.text


def test_models_in_files(tmp_path: Path) -> None:
    onnx.save(table(), tmp_path / "m.onnx")
    slim, _ = onnxdam.slim(tmp_path / "m.onnx", inputs=True)
    assert features.of_model(slim) is not None
    report = onnxdam.verify(tmp_path / "m.onnx", slim)
    assert report.passed, report.text


def test_nodes_that_nobody_reads_go_with_the_inputs_that_they_read() -> None:
    original = model(
        "(float[N,6] x, float z, float[N,2] u) => (float[N,2] y)"
        " { y = MatMul(x, w) i = MatMul(x, w) j = Neg(z) k = Neg(y) l = Neg(u) }",
        w=weights(6, 2, dead=[2]),
    )
    assert len(onnxdam.slim(original, simplify=False)[0].graph.node) == 5
    slim, _ = onnxdam.slim(original, inputs=True, simplify=False)
    assert shapes(slim) == {"x": ("N", 5), "y": ("N", 2)}
    assert [node.output[0] for node in slim.graph.node] == ["y", "k"]
    assert onnxdam.verify(original, slim).passed


def test_both_models_are_measured_on_what_they_take() -> None:
    original = table()
    slim, _ = onnxdam.slim(original, inputs=True)
    assert onnxdam.bench(original, slim, seconds=0.2).runs > 0
