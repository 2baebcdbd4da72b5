"""What a model reads of its inputs: against the weights written out, and against the function itself."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

import onnxdam
from onnxdam import features
from onnxdam.errors import InputError
from onnxdam.features import Reading
from onnxdam.features.heatmap import UNREAD, pixels
from tests.models import normal, parsed, saved
from tests.property.builder import SIZES, Case
from tests.property.features import gated, image
from tests.property.graphs import FAMILIES, case_of_seed
from tests.property.oracle import evaluate, relative_error


def ranked(text: str, **weights: Any) -> Reading:
    """What a model of one input reads."""
    (reading,) = features.rank(parsed(f"g {text}", **weights))
    return reading


def norms(weight: np.ndarray) -> np.ndarray:
    """Norm over all axes but the first."""
    return np.sqrt(np.square(weight.astype(np.float64)).reshape(len(weight), -1).sum(1))


def columns(count: int, outputs: int = 3, unread: tuple[int, ...] = ()) -> np.ndarray:
    """A weight (count, outputs) some of whose rows are zero."""
    weight = normal(count, outputs)
    weight[list(unread)] = 0
    return weight


# --------------------------------------------------------------------------------------------------------- the walk


def test_a_table() -> None:
    w = columns(5, unread=(1, 4))
    r = ranked("(float[N, 5] x) => (float[N, 3] y) { y = MatMul(x, w) }", w=w)
    assert (r.name, r.shape, r.axes, r.sizes) == ("x", ("N", 5), (1,), (5,))
    assert r.read.tolist() == [True, False, True, True, False]
    assert r.paths.tolist() == [1, 0, 1, 1, 0]
    np.testing.assert_allclose(r.norm, norms(w))
    assert r.readers == ("MatMul MatMul(y)",)
    assert r.order[:3].tolist() == sorted([0, 2, 3], key=lambda i: -r.norm[i])
    assert r.order[3:].tolist() == [1, 4]


def test_weights_that_no_output_sees_do_not_count() -> None:
    """Hidden unit 0 is masked behind the ReLU: what it reads is not read."""
    w, v = columns(4, 3), columns(3, 2, unread=(0,))
    w[2, 1:] = 0
    r = ranked("(float[N, 4] x) => (float[N, 2] y) { h = MatMul(x, w)  a = Relu(h)  y = MatMul(a, v) }", w=w, v=v)
    assert r.read.tolist() == [True, True, False, True]
    np.testing.assert_allclose(r.norm, norms(w[:, 1:]))


def test_pixels_of_a_flattened_image() -> None:
    w = columns(24, unread=(0, 7))
    text = "(float[N, 2, 3, 4] x) => (float[N, 3] y) { t = Transpose<perm = [0, 3, 1, 2]>(x)  f = Flatten(t)  y = MatMul(f, w) }"
    r = ranked(text, w=w)
    assert (r.axes, r.sizes) == ((1, 2, 3), (2, 3, 4))
    back = norms(w).reshape(4, 2, 3).transpose(1, 2, 0).reshape(-1)
    np.testing.assert_allclose(r.norm, back)
    assert (r.paths == (back > 0)).all()


def test_ways_that_part_and_join() -> None:
    """A residual is one way; the two pieces of a Concat are two."""
    w = columns(4, unread=(3,))
    r = ranked("(float[N, 4] x) => (float[N, 3] y) { a = Relu(x)  s = Add(a, x)  y = MatMul(s, w) }", w=w)
    assert r.paths.tolist() == [1, 1, 1, 0]
    np.testing.assert_allclose(r.norm, norms(w))
    w = columns(8, unread=(3,))
    text = "(float[N, 4] x) => (float[N, 3] y) { a = Abs(x)  s = Concat<axis = 1>(a, x)  y = MatMul(s, w) }"
    r = ranked(text, w=w)
    assert r.paths.tolist() == [2, 2, 2, 1]
    np.testing.assert_allclose(r.norm, np.hypot(norms(w)[:4], norms(w)[4:]))
    text = "(float[N, 4] x) => (float[N, 3] y, float[N, 3] z) { y = MatMul(x, v)  z = MatMul(x, w) }"
    v, w = columns(4, unread=(0, 1)), columns(4, unread=(1,))
    r = ranked(text, v=v, w=w)
    assert r.paths.tolist() == [1, 0, 2, 2]
    np.testing.assert_allclose(r.norm, np.hypot(norms(v), norms(w)))
    assert set(r.readers) == {"MatMul MatMul(y)", "MatMul MatMul(z)"}


def test_two_inputs_joined() -> None:
    w = columns(7, unread=(0, 6))
    text = "g (float[N, 3] a, float[N, 4] b) => (float[N, 3] y) { c = Concat<axis = 1>(a, b)  y = MatMul(c, w) }"
    a, b = features.rank(parsed(text, w=w))
    np.testing.assert_allclose(a.norm, norms(w)[:3])
    np.testing.assert_allclose(b.norm, norms(w)[3:])
    assert (a.read.tolist(), b.read.tolist()) == ([False, True, True], [True, True, True, False])


def test_inputs_of_one_column() -> None:
    """As sklearn pipelines have them."""
    w = columns(6, unread=(1,))
    text = """g (float[N, 1] a, float[N, 1] b, int64[N, 1] code, float[N, 1] d) => (float[N, 3] y) {
        e = Gather(table, code)  f = Flatten(e)  c = Concat<axis = 1>(a, b, f, d)  r = Relu(c)  y = MatMul(r, w) }"""
    a, b, code, d = features.rank(parsed(text, w=w, table=normal(5, 3)))
    assert [r.read.tolist() for r in (a, b, code, d)] == [[True], [False], [True], [True]]
    assert [r.readers for r in (a, b, code)] == [("MatMul MatMul(y)",), (), ("Gather Gather(e)",)]
    assert np.isnan(code.norm).all()
    np.testing.assert_allclose([*a.norm, *d.norm], norms(w)[[0, 5]])
    (x,) = features.rank(
        parsed("g (float[N, 1] x) => (float[N, 3] y) { h = MatMul(x, v)  y = MatMul(h, w) }", v=normal(1, 6), w=w)
    )
    assert x.read.all() and x.readers == ("MatMul MatMul(h)",)


def test_selections() -> None:
    text = "(float[N, 5] x) => (float[N, 3] y) { p = Gather<axis = 1>(x, picks)  y = MatMul(p, w) }"
    w = columns(3)
    r = ranked(text, w=w, picks=np.array([4, 0, 4]))
    assert (r.read.tolist(), r.paths.tolist()) == ([True, False, False, False, True], [1, 0, 0, 0, 2])
    np.testing.assert_allclose(r.norm, [norms(w)[1], 0, 0, 0, np.hypot(norms(w)[0], norms(w)[2])])


def test_channels_of_convolutions() -> None:
    w = normal(4, 3, 2, 2)
    w[:, 1] = 0
    r = ranked("(float[N, 3, 6, 6] x) => (float[N, 4, 5, 5] y) { y = Conv(x, w) }", w=w)
    assert (r.axes, r.read.tolist()) == ((1,), [True, False, True])
    np.testing.assert_allclose(r.norm, norms(w.swapaxes(0, 1)), rtol=1e-6)
    w = normal(4, 2, 2, 2)
    w[2:, 1] = 0
    r = ranked("(float[N, 4, 6, 6] x) => (float[N, 4, 5, 5] y) { y = Conv<group = 2>(x, w) }", w=w)
    wanted = np.concatenate([norms(w[:2].swapaxes(0, 1)), norms(w[2:].swapaxes(0, 1))])
    np.testing.assert_allclose(r.norm, wanted, rtol=1e-6)
    assert r.paths.tolist() == [1, 1, 1, 0]


def test_features_of_a_recurrent_input() -> None:
    w = normal(1, 8, 3)
    w[:, :, 2] = 0
    text = "(float[T, N, 3] x) => (float[T, 1, N, 2] y) { y = LSTM<hidden_size = 2>(x, w, r) }"
    r = ranked(text, w=w, r=normal(1, 8, 2, seed=1))
    assert (r.axes, r.read.tolist()) == ((2,), [True, True, False])
    np.testing.assert_allclose(r.norm, norms(w[0].T), rtol=1e-6)


def test_quantised_weights_count_from_their_zero_point() -> None:
    w = np.array([[3, 5], [3, 3], [4, 1]], np.uint8)
    text = "(uint8[N, 3] x) => (int32[N, 2] y) { y = MatMulInteger(x, w, zx, zw) }"
    r = ranked(text, w=w, zx=np.array(0, np.uint8), zw=np.array(3, np.uint8))
    np.testing.assert_allclose(r.norm, [2, 0, np.sqrt(5)])
    assert r.paths.tolist() == [1, 0, 1]


def test_nodes_that_mix_have_no_norm() -> None:
    r = ranked("(float[N, 4] x) => (float[N, 1] y) { y = ReduceMax<axes = [1]>(x) }")
    assert r.axes == (1,) and r.read.all() and np.isnan(r.norm).all()
    assert r.paths.tolist() == [1] * 4
    assert r.readers == ("ReduceMax ReduceMax(y)",)
    assert [f.norm for f in r.features()] == [None] * 4


def test_inputs_without_features() -> None:
    words, scale = features.rank(
        parsed(
            "g (int64[N, T] words, float scale) => (float[N, T, 3] y) { e = Gather(table, words)  y = Mul(e, scale) }",
            table=normal(9, 3),
        )
    )
    assert (words.axes, len(words.read), len(scale.read)) == ((), 0, 0)


def test_an_input_that_nobody_reads() -> None:
    text = "g (float[N, 3] a, float[N, 4] b) => (float[N, 3] y) { z = Mul(b, zero)  s = MatMul(z, w)  t = Add(a, s)  y = Relu(t) }"
    model = parsed(text, zero=np.zeros(4, np.float32), w=columns(4))
    a, b = features.rank(model)
    assert a.read.all()
    assert b.axes == (1,) and not b.read.any() and not b.paths.any()
    slim, _ = onnxdam.slim(model, inputs=True)
    assert [i.name for i in slim.graph.input] == ["a"]
    again = features.rank(slim)[1]
    assert (again.name, again.axes, again.read.tolist(), again.readers) == ("b", (1,), [False] * 4, ())


STEPS = {
    "transpose": "Transpose<perm = [0, 2, 1]>",
    "negate": "Neg",
    "flip": "Slice",
    "pad": "Pad",
    "fold": "Reshape",
}


@pytest.mark.parametrize("seed", range(12))
def test_random_moves_against_the_function(seed: int) -> None:
    """A linear function of moved features: the norm is that of the column of its matrix."""
    rng = np.random.default_rng(seed)
    shape, lines, value, weights = [3, 4], [], "x", {}
    for k in range(6):
        kind = rng.choice(list(STEPS))
        new, name = f"v{k}", f"c{k}"
        if kind == "transpose":
            shape = shape[::-1]
        elif kind == "flip":
            axis = int(rng.integers(1, 3))
            for part, number in zip("beat", (shape[axis - 1] - 1, -99, axis, -1), strict=True):
                weights[f"{part}{k}"] = np.array([number])
            lines.append(f"{new} = Slice({value}, b{k}, e{k}, a{k}, t{k})")
        elif kind == "pad":
            weights[name] = np.array([0, 1, 0, 0, 0, 1])
            shape = [shape[0] + 1, shape[1] + 1]
            lines.append(f"{new} = Pad({value}, {name})")
        elif kind == "fold":
            total = shape[0] * shape[1]
            first = int(rng.choice([d for d in range(2, total) if total % d == 0]))
            shape = [first, total // first]
            weights[name] = np.array([-1, *shape])
            lines.append(f"{new} = Reshape({value}, {name})")
        if kind in ("transpose", "negate"):
            lines.append(f"{new} = {STEPS[kind]}({value})")
        value = new
    count = shape[0] * shape[1]
    weights["w"] = normal(count, 2, seed=seed) * (rng.random((count, 1)) < 0.7).astype(np.float32)
    body = "  ".join([*lines, f"f = Flatten({value})", "y = MatMul(f, w)"])
    model = parsed(f"g (float[N, 3, 4] x) => (float[N, 2] y) {{ {body} }}", **weights)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    matrix = session.run(None, {"x": np.eye(12, dtype=np.float32).reshape(12, 3, 4)})[0]
    (r,) = features.rank(model)
    assert r.axes == (1, 2)
    np.testing.assert_allclose(r.norm, norms(matrix), rtol=1e-6)
    assert ((r.norm > 0) == r.read).all()
    assert (r.kept >= r.read).all()


def drawn(seed: int) -> Case:
    """A graph with gated inputs, or one that flattens them."""
    if seed % 2:
        return image(seed)
    return gated(case_of_seed(seed, FAMILIES[seed // 2 % len(FAMILIES)]), np.random.default_rng(seed))


TRAPS = (144, 1485, 1507, 1510, 2257, 2351)  # grouped, joined to itself, pieces of one


def test_what_is_not_read_may_be_anything() -> None:
    """Noise in place of the features that are not read changes nothing, in graphs of all kinds."""
    seen = 0
    for seed in (*range(60), *TRAPS):
        case = drawn(seed)
        found = [r for r in features.rank(case.model, strict=False) if r.axes and not r.read.all()]
        seen += bool(found)
        for kind, sizes in enumerate(SIZES if found else ()):
            feeds, noise = case.feeds(sizes, kind), case.feeds(sizes, kind + 7)
            other = dict(feeds)
            for r in found:
                x = feeds[r.name]
                assert (r.kept >= r.read).all()
                read = r.read.reshape(r.sizes).reshape([n if k in r.axes else 1 for k, n in enumerate(x.shape)])
                other[r.name] = np.where(read, x, noise[r.name])
            for a, b in zip(evaluate(case.model, feeds), evaluate(case.model, other), strict=True):
                assert relative_error(a, np.asarray(b)) < 1e-6, f"seed {seed}, {case.description}"
    assert seen > 30


# ------------------------------------------------------------------------------------------------- models made slim


@pytest.mark.parametrize("inputs", [True, "keep-signature"])
def test_a_pruned_model_is_read_in_terms_of_the_original(inputs: bool | str, tmp_path: Path) -> None:
    w = columns(5, unread=(1, 4))
    model = parsed("g (float[N, 5] x) => (float[N, 3] y) { y = MatMul(x, w) }", w=w)
    names = tuple("abcde")
    slim, _ = onnxdam.slim(model, inputs=inputs, feature_names=names)
    (before,) = features.rank(model)
    for it in (slim, saved(slim, tmp_path)):
        (after,) = features.rank(it)
        assert (after.shape, after.axes, after.names) == (("N", 5), (1,), names)
        assert after.read.tolist() == before.read.tolist()
        assert after.paths.tolist() == before.paths.tolist()
        np.testing.assert_allclose(after.norm, np.where(before.read, before.norm, after.norm))
        assert [f.name for f in after.features() if f.read] == [names[i] for i in before.order[:3]]


def test_a_pruned_image_is_read_in_terms_of_the_original() -> None:
    w = columns(24, unread=(0, 7, 8, 23))
    model = parsed("g (float[N, 2, 3, 4] x) => (float[N, 3] y) { f = Flatten(x)  y = MatMul(f, w) }", w=w)
    slim, plan = onnxdam.slim(model, inputs=True)
    assert plan.signature is not None and plan.signature.inputs[0].merged == (1, 2, 3)
    (before,), (after,) = features.rank(model), features.rank(slim)
    assert (after.shape, after.axes) == (("N", 2, 3, 4), (1, 2, 3))
    assert after.read.tolist() == before.read.tolist() == (norms(w) > 0).tolist()
    np.testing.assert_allclose(after.norm[after.read], before.norm[before.read])


def test_a_manifest_of_another_model_is_refused() -> None:
    model = parsed("g (float[N, 5] x) => (float[N, 3] y) { y = MatMul(x, w) }", w=columns(5, unread=(1,)))
    slim, _ = onnxdam.slim(model, inputs=True)
    slim.graph.node[0].name = "other"
    tensor = slim.graph.initializer[0]
    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * 2, tensor.name))
    with pytest.raises(InputError, match="the manifest belongs to another model"):
        features.rank(slim)


# ----------------------------------------------------------------------------------------------------------- names


def two_inputs() -> onnx.ModelProto:
    text = "g (float[N, 3] a, float[N, 4] b) => (float[N, 3] y) { c = Concat<axis = 1>(a, b)  y = MatMul(c, w) }"
    return parsed(text, w=columns(7))


def test_names() -> None:
    a, b = features.rank(two_inputs(), names={"b": ("p", "q", "r", "s")})
    assert (a.names, b.names) == ((), ("p", "q", "r", "s"))
    assert {f.name for f in b.features([0, 3])} == {"p", "s"}


@pytest.mark.parametrize(
    "names, says",
    [
        ({"b": ("p", "q")}, "names: 2 names for 4 features of input 'b'"),
        ({"b": ("p", "q", "p", "s")}, "the name 'p' is there twice, at 0 and 2"),
        ({"c": ("p",)}, r"names: the model has no input 'c' \(it has a, b\)"),
        (("p", "q", "r"), r"names: 2 inputs have features \('a' \[N, 3\], 'b' \[N, 4\]\); say which"),
    ],
)
def test_names_that_do_not_fit(names: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        features.rank(two_inputs(), names=names)


# --------------------------------------------------------------------------------------------------------- pictures


def image_reading() -> Reading:
    """Two channels of 3 x 4 pixels; pixel (0, 1) is not read, pixel (2, 3) of channel 0 neither."""
    w = columns(24, unread=(1, 13, 11))
    return ranked("(float[N, 2, 3, 4] x) => (float[N, 3] y) { f = Flatten(x)  y = MatMul(f, w) }", w=w)


def test_pixels_join_channels() -> None:
    reading = image_reading()
    norm, read = pixels(reading)
    assert norm.shape == read.shape == (3, 4)
    assert np.argwhere(~read).tolist() == [[0, 1]]
    np.testing.assert_allclose(norm, np.hypot(*reading.norm.reshape(2, 3, 4)))


def test_a_vector_is_an_image_if_it_is_said_to_be() -> None:
    reading = ranked("(float[N, 12] x) => (float[N, 3] y) { y = MatMul(x, w) }", w=columns(12, unread=(5,)))
    with pytest.raises(InputError, match=r"input 'x' \[N, 12\] is not an image; if it is a flattened one"):
        pixels(reading)
    assert np.argwhere(~pixels(reading, (3, 4))[1]).tolist() == [[1, 1]]
    assert pixels(reading, (2, 2, 3))[1].shape == (2, 2)
    with pytest.raises(InputError, match="an image of 3 x 5 has 15 pixels, but there are 12 features"):
        pixels(reading, (3, 5))


def test_images_with_channels_last() -> None:
    text = "(float[N, 5, 6, 3] x) => (float[N, 3] y) { f = Flatten(x)  y = MatMul(f, w) }"
    assert pixels(ranked(text, w=columns(90)))[1].shape == (5, 6)


def test_channels_that_leave_whole_are_no_picture() -> None:
    reading = ranked("(float[N, 3, 6, 6] x) => (float[N, 4, 5, 5] y) { y = Conv(x, w) }", w=normal(4, 3, 2, 2))
    with pytest.raises(InputError, match=r"single pixels are not told apart .* run along: axis 1"):
        pixels(reading)


def test_the_picture(tmp_path: Path) -> None:
    path = tmp_path / "heat.png"
    features.picture(image_reading(), path)
    with Image.open(path) as drawn:
        image = np.asarray(drawn.convert("RGB"))
    factor = 140  # 560 / 4
    centres = image[32 + factor // 2 : 32 + 3 * factor : factor, 12 + factor // 2 : 12 + 4 * factor : factor]
    assert centres.shape == (3, 4, 3)
    grey = (centres == np.array(UNREAD)).all(-1)
    assert np.argwhere(grey).tolist() == [[0, 1]]
    norm, read = pixels(image_reading())
    light = centres.astype(int).sum(-1)[read]
    assert (np.argsort(light) == np.argsort(norm[read])).all()  # lighter where the norm is higher
    assert [p.name for p in tmp_path.iterdir()] == ["heat.png"]


def test_without_pillow_one_line_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(InputError, match=r"a picture needs Pillow: pip install 'onnxdam\[report\]'"):
        features.picture(image_reading(), tmp_path / "heat.png")
    assert list(tmp_path.iterdir()) == []
