"""The check must be able to fail: equal models pass, and every kind of perturbed model does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from onnxdam import tolerance
from onnxdam.errors import InputError, UnsupportedError
from onnxdam.graph import io
from onnxdam.plan import Plan
from onnxdam.verify import Report, float_kinds, verify
from tests.models import HEADER, mlp, normal, parsed, saved


def changed(model: onnx.ModelProto, name: str, edit: Callable[[np.ndarray], np.ndarray]) -> onnx.ModelProto:
    """The model with one weight edited."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    tensor = next(t for t in copy.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(edit(numpy_helper.to_array(tensor).copy()), name))
    return copy


def narrow(model: onnx.ModelProto, keep: list[int]) -> onnx.ModelProto:
    """`mlp` with some hidden units only."""
    slim = changed(model, "w1", lambda w: w[:, keep])
    slim = changed(slim, "b1", lambda b: b[keep])
    return changed(slim, "w2", lambda w: w[keep])


# ------------------------------------------------------------------------------------------------------ the verdict


def test_equal_models_pass_at_two_sizes_and_both_levels() -> None:
    report = verify(mlp(masked=3), narrow(mlp(masked=3), [3, 4, 5, 6, 7]))
    assert report.passed
    assert {case.level for case in report.cases} == {"off", "on"}
    assert len({case.sizes["N"] for case in report.cases}) >= 2
    assert {case.inputs for case in report.cases} >= {"normal", "positive"}
    assert 0 <= report.worst < 1e-5


@pytest.mark.parametrize("size", [1e-3, 1e-2, 1.0])
@pytest.mark.parametrize("name", ["w1", "b1", "w2", "b2"])
def test_any_perturbed_weight_fails(name: str, size: float) -> None:
    def edit(weight: np.ndarray) -> np.ndarray:
        weight.reshape(-1)[np.argmax(np.abs(weight))] += size
        return weight

    report = verify(mlp(masked=0), changed(mlp(masked=0), name, edit))
    assert not report.passed
    assert report.worst > 1e-5
    assert report.diverging is not None
    assert report.diverging.op_type == "Gemm"
    assert report.diverging.value == {"1": "h", "2": "y"}[name[1]]


def test_a_channel_too_many_removed_fails() -> None:
    assert not verify(mlp(masked=3), narrow(mlp(masked=3), [4, 5, 6, 7])).passed


def test_diverging_node_is_found_behind_narrow_tensors_with_the_plan() -> None:
    model = parsed(
        "g (float[N, 4] x) => (float[N, 2] y)"
        " { h = Gemm(x, w1, b1)  r = Relu(h)  t = Gemm(r, w2, b2)  u = Sigmoid(t)  y = Gemm(u, w3) }",
        **{t.name: numpy_helper.to_array(t) for t in mlp().graph.initializer},
        w3=normal(2, 2),
    )
    keep = [3, 4, 5, 6, 7]
    wrong = changed(narrow(model, keep), "b2", lambda b: b + 1)
    plan = Plan("", kept={"h": {1: tuple(keep)}, "r": {1: tuple(keep)}})
    report = verify(model, wrong, plan=plan)
    assert report.diverging is not None
    assert (report.diverging.op_type, report.diverging.value) == ("Gemm", "t")
    assert "first diverging node: Gemm 't', value 't'" in report.text


def test_a_scale_that_is_undone_later_is_not_the_diverging_node() -> None:
    """Gates are folded into weights: what lies between may differ, and is not to blame."""
    text = "g (float[N, 4] x) => (float[N, 4] y) { a = MatMul(x, w1)  b = MatMul(a, w2)  c = Relu(b)  y = Add(c, d) }"
    weights = {"w1": normal(4, 4), "w2": normal(4, 4, seed=1), "d": normal(4)}
    wrong = parsed(text, w1=weights["w1"] * 2, w2=weights["w2"] / 2, d=weights["d"] + 1)
    report = verify(parsed(text, **weights), wrong)
    assert report.diverging is not None
    assert report.diverging.value == "y"


def test_a_model_that_does_not_run_is_never_a_pass() -> None:
    wrong = changed(mlp(), "w2", lambda w: w[:-1])  # shapes do not fit: it cannot even be loaded
    assert not verify(mlp(), wrong).passed


def test_interface_must_stay() -> None:
    for edit, text in (
        (lambda m: setattr(m.graph.output[0], "name", "z"), "outputs: ['y'] became ['z']"),
        (lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_param", "M"), "float[N, 4] became"),
        (lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 1), "float[N, 4] became"),
    ):
        wrong = mlp()
        edit(wrong)
        for node in wrong.graph.node:
            node.output[:] = [wrong.graph.output[0].name if o == "y" else o for o in node.output]
        report = verify(mlp(), wrong)
        assert not report.passed
        assert text in report.text


def test_invalid_file_fails_unless_the_reference_is_the_same() -> None:
    wrong = mlp()
    wrong.graph.node.append(onnx.helper.make_node("Relu", ["nobody"], ["z"]))
    assert "onnx.checker" in verify(mlp(), wrong).text
    shapeless = mlp()
    shapeless.graph.output[0].type.tensor_type.ClearField("shape")
    report = verify(shapeless, shapeless)
    assert report.passed
    assert "refuses both models" in report.text


def test_report_of_nothing_is_not_a_pass() -> None:
    assert not Report(False).passed
    assert np.isnan(Report(False).worst)


# ------------------------------------------------------------------------------------------------------- the inputs


def test_paths_protos_and_ir_models(tmp_path: Path) -> None:
    path = saved(mlp(wide=600), tmp_path, external=True)
    assert verify(path, mlp(wide=600)).passed
    assert verify(mlp(wide=600), io.load(path)).passed
    wrong = io.load(path)
    value = wrong.graph.initializers["b2"]
    value.const_value = ir.tensor(normal(2, seed=9), name="b2")
    report = verify(path, wrong)
    assert not report.passed
    assert report.diverging is not None
    assert report.diverging.value == "y"


def test_integers_stay_inside_the_table_they_index() -> None:
    model = parsed("g (int64[N, S] ids) => (float[N, S, 3] y) { y = Gather(table, ids) }", table=normal(7, 3))
    assert verify(model, model).passed
    used = changed(model, "table", lambda t: t + np.eye(7, 3, dtype=np.float32))
    assert not verify(model, used).passed


def test_equal_names_are_equal_sizes_and_sums_follow() -> None:
    text = "g (float[batch, past] a, float[batch, now] b, float[batch, both] c) => (float[batch, D] y)"
    model = parsed(text + " { d = Concat <axis = 1> (a, b)  y = Add(c, d) }")
    for value, names in zip(
        model.graph.input, (["batch", "past"], ["batch", "now"], ["batch", "past + now"]), strict=True
    ):
        for dim, name in zip(value.type.tensor_type.shape.dim, names, strict=True):
            dim.dim_param = name
    report = verify(model, model)
    assert report.passed
    assert {frozenset(case.sizes) for case in report.cases} == {frozenset({"batch", "past", "now"})}


def test_a_size_that_cannot_vary_is_said() -> None:
    model = parsed("g (float[N, M] x) => (float[A, B] y) { y = MatMul(x, w) }", w=normal(5, 3))
    report = verify(model, model)
    assert report.passed
    assert "only one size tried" in report.text
    assert "M = 5" in report.text
    assert len({case.sizes["N"] for case in report.cases}) >= 2


def test_a_reference_that_takes_nothing_is_an_error_not_a_pass() -> None:
    model = parsed("g (float[N, M] x) => (float[A, B] y) { y = MatMul(x, w) }", w=normal(4711, 3))
    with pytest.raises(UnsupportedError, match="refuses all random inputs"):
        verify(model, model)
    report = verify(model, model, data={"x": normal(20, 4711)})
    assert report.passed
    assert {case.sizes["N"] for case in report.cases} == {3, 16}


def test_custom_operators_cannot_be_checked() -> None:
    model = parsed(
        "g (float[N] x) => (float[N] y) { y = my.own.Thing(x) }",
        header='<ir_version: 8, opset_import: ["" : 17, "my.own" : 1]>\n',
    )
    with pytest.raises(UnsupportedError, match="ONNX Runtime does not load it"):
        verify(model, model)


def test_data_decides_what_is_seen(tmp_path: Path) -> None:
    wrong = changed(mlp(masked=0), "w1", lambda w: w * np.array([[1], [1], [1], [2]], np.float32))
    blind = normal(8, 4) * np.array([1, 1, 1, 0], np.float32)
    np.savez(tmp_path / "blind.npz", x=blind)
    np.savez(tmp_path / "wrong_name.npz", z=blind)
    np.savez(tmp_path / "wrong_shape.npz", x=blind[:, :3])
    assert verify(mlp(masked=0), wrong, data=tmp_path / "blind.npz").passed
    assert not verify(mlp(masked=0), wrong, data={"x": normal(8, 4)}).passed
    for name, text in (
        ("wrong_name", "no array for input 'x'"),
        ("wrong_shape", r"has shape \[8, 3\], the model takes \[N, 4\]"),
        ("missing", "no such file"),
    ):
        with pytest.raises(InputError, match=text):
            verify(mlp(), mlp(), data=tmp_path / f"{name}.npz")
    (tmp_path / "text.npz").write_text("no")
    with pytest.raises(InputError, match=r"is not an \.npz file"):
        verify(mlp(), mlp(), data=tmp_path / "text.npz")


def test_strings_bools_and_masks() -> None:
    model = parsed(
        "g (string[N] s, bool[N] b, int64[N, 3] attention_mask) => (string[N] t, bool[N] c, int64[N, 1] m)"
        " { t = Identity(s)  c = Not(b)  m = ReduceMax <axes = [1]> (attention_mask) }"
    )
    assert verify(model, model).passed


def test_sequences_are_declined_in_one_line() -> None:
    model = parsed("g (seq(float[2]) s) => (float[A] y) { y = ConcatFromSequence <axis = 0> (s) }")
    with pytest.raises(UnsupportedError, match="input 's' is a sequence"):
        verify(model, model)


def test_provider_that_is_not_there() -> None:
    with pytest.raises(InputError, match="not one of cpu, cuda, tensorrt"):
        verify(mlp(), mlp(), provider="abacus")
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(InputError, match="needs CUDAExecutionProvider"):
            verify(mlp(), mlp(), provider="cuda")


# ------------------------------------------------------------------------------------------------ random operators


def test_random_outputs_are_said_and_left_out() -> None:
    text = "g (float[N, 4] x) => (float[N, 4] y, float[N, 4] z) { r = RandomNormalLike(x)  y = Add(x, r)  z = Neg(x) }"
    report = verify(parsed(text), parsed(text))
    assert report.passed
    assert "not compared, random (RandomNormalLike): y" in report.text
    assert not verify(parsed(text), parsed(text.replace("Neg", "Abs"))).passed


def test_nothing_but_random_outputs() -> None:
    model = parsed("g (float[N, 4] x) => (float[N, 4] y) { y = RandomNormalLike(x) }")
    with pytest.raises(UnsupportedError, match="every output is random"):
        verify(model, model)


# ------------------------------------------------------------------------------------------------------- tolerance


def test_reordered_sums_pass() -> None:
    """The same sum in another order: what slimming does to rounding."""
    order = np.random.default_rng(1).permutation(4096)
    text = "g (float[N, 4096] x) => (float[N, 8] y) { p = Gather <axis = 1> (x, order)  y = MatMul(p, w) }"
    w = normal(4096, 8)
    straight = parsed(text, w=w, order=np.arange(4096))
    report = verify(straight, parsed(text, w=w[order], order=order))
    assert report.passed
    assert report.worst > 0


def test_ill_conditioned_models_are_held_against_themselves() -> None:
    """y = (1e6 x - 1e6 x) + ...: rounding alone moves the result by far more than 1e-5."""
    text = "g (float[N, 64] x) => (float[N, 8] y) { a = MatMul(x, u)  b = MatMul(x, v)  y = Sub(a, b) }"
    u = normal(64, 8) * 1e4
    v = u + normal(64, 8, seed=1)
    order = np.arange(64)[::-1].copy()
    other = text.replace("a = MatMul(x, u)", "p = Gather <axis = 1> (x, order)  a = MatMul(p, u)")
    report = verify(parsed(text, u=u, v=v), parsed(other, u=u[order], v=v, order=order))
    assert report.passed
    assert "ill-conditioned" in report.text
    assert not verify(parsed(text, u=u, v=v), parsed(other, u=u[order], v=v, order=order), rtol=1e-6).passed
    assert not verify(parsed(text, u=u, v=v), parsed(text, u=u, v=v * 1.01)).passed


def test_small_results_of_sigmoid_are_grainy_and_nothing_else_is() -> None:
    """sigmoid(-13) is about 2e-6, evaluated by the runtime to 6e-8: one grain is 3 % of it."""
    sigmoid = (
        "g (float[N, 1] x) => (float[N, 1, 1] y) { c = Clip(x, low, high)  s = Sigmoid(c)  y = Unsqueeze(s, two) }"
    )
    shifted = sigmoid.replace("Sigmoid(c)", "Sigmoid(d)").replace(
        "Clip(x, low, high)", "Clip(x, low, high)  d = Add(c, e)"
    )

    def model(text: str, **more: np.ndarray) -> onnx.ModelProto:
        limits = {"low": np.float32(-13.0), "high": np.float32(-13.0), "two": np.array([2])}
        return parsed(text, **{name: np.asarray(array) for name, array in (limits | more).items()})

    grain = verify(model(sigmoid), model(shifted, e=np.float32([0.03])))
    assert grain.passed
    assert not verify(model(sigmoid), model(shifted, e=np.float32([0.3]))).passed
    linear = "g (float[N, 4] x) => (float[N, 4] y) { y = Mul(x, w) }"
    assert not verify(parsed(linear, w=np.float32([1e-6])), parsed(linear, w=np.float32([1.03e-6]))).passed


def test_ties_may_flip_and_nothing_else() -> None:
    text = "g (float[N, 64] x) => (int64[N, 1] y) { h = MatMul(x, w)  y = ArgMax <axis = 1> (h) }"
    w = normal(64, 2)
    w[:, 1] = w[::-1, 0]  # equal in exact arithmetic on the symmetric inputs below
    order = np.random.default_rng(0).permutation(64)
    other = text.replace("h = MatMul(x, w)", "p = Gather <axis = 1> (x, order)  h = MatMul(p, w)")
    half = normal(16, 32)
    data = {"x": np.concatenate([half, half[:, ::-1]], axis=1)}
    report = verify(parsed(text, w=w), parsed(other, w=w[order], order=order), data=data)
    assert report.passed
    flipped = w[:, ::-1].copy()
    assert not verify(parsed(text, w=w), parsed(text, w=flipped)).passed


def test_nan_and_infinity_must_agree() -> None:
    text = "g (float[N, 4] x) => (float[N, 4] y) { y = Log(x) }"
    other = "g (float[N, 4] x) => (float[N, 4] y) { a = Abs(x)  y = Log(a) }"
    assert verify(parsed(text), parsed(text)).passed
    assert not verify(parsed(text), parsed(other)).passed


def test_half_precision_is_judged_as_such() -> None:
    half = HEADER
    text = "g (float16[N, 64] x) => (float16[N, 8] y) { p = Gather <axis = 1> (x, order)  y = MatMul(p, w) }"
    w, order = normal(64, 8).astype(np.float16), np.random.default_rng(0).permutation(64)
    model = parsed(text, half, w=w, order=np.arange(64))
    assert verify(model, parsed(text, half, w=w[order], order=order)).passed
    assert not verify(model, parsed(text, half, w=(w * 1.1).astype(np.float16), order=np.arange(64))).passed
    assert float_kinds(model) == {"float16"}


def test_double_precision_is_judged_as_such() -> None:
    text = "g (double[N, 8] x) => (double[N, 3] y) { y = MatMul(x, w) }"
    w = normal(8, 3).astype(np.float64)
    assert verify(parsed(text, w=w), parsed(text, w=w)).passed
    assert not verify(parsed(text, w=w), parsed(text, w=w * (1 + 1e-8))).passed


@pytest.mark.parametrize(
    ("a", "b", "error"),
    [
        (np.array([1.0, 2.0]), np.array([1.0, 2.0]), 0.0),
        (np.array([1.0, 2.0]), np.array([1.0, 2.2]), 0.1),
        (np.array([1.0, np.nan]), np.array([1.0, np.nan]), 0.0),
        (np.array([1.0, np.nan]), np.array([1.0, 1.0]), np.inf),
        (np.array([np.inf]), np.array([-np.inf]), np.inf),
        (np.array([np.inf, 1.0]), np.array([np.inf, 1.0]), 0.0),
        (np.array([0.0]), np.array([1e-9]), np.inf),
        (np.array([1, 2]), np.array([1, 3]), np.inf),
        (np.array([1.0]), np.array([1.0, 1.0]), np.inf),
        (np.array([1.0]), np.array([1.0], np.float32), np.inf),
        (np.array(["a"], object), np.array(["a"], object), 0.0),
        (np.array(["a"], object), np.array(["b"], object), np.inf),
        ([np.array([1.0])], [np.array([1.1])], 0.1),
        ([{0: 1.0}], [{0: 2.0}], 1.0),
        ([{0: 1.0}], [{1: 1.0}], np.inf),
        (np.zeros((0, 3)), np.zeros((0, 3)), 0.0),
    ],
)
def test_difference(a: object, b: object, error: float) -> None:
    assert tolerance.difference(a, b).error == pytest.approx(error)


def test_tolerance_follows_the_coarsest_type() -> None:
    assert tolerance.rtol({"float32", "float16"}) == tolerance.RTOL["float16"]
    assert tolerance.rtol(set()) == tolerance.RTOL["float32"] <= 1e-5
