"""Quantised operators: what leaves, what stays, and that integers agree bit for bit."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxdam.api import slim
from onnxdam.rules.quantize import encode
from tests.rules.runtime_case import check, model_of, run, shapes_of

rng = np.random.default_rng(5)
START = rng.bit_generator.state


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    """Every test draws the same numbers, whichever others run."""
    rng.bit_generator.state = START


def f(value: Any) -> Any:
    return np.asarray(value, np.float32)


def u8(value: Any) -> Any:
    return np.asarray(value, np.uint8)


def i8(value: Any) -> Any:
    return np.asarray(value, np.int8)


def ints(*shape: int, low: int = -90, high: int = 90, dtype: Any = np.int8) -> Any:
    return rng.integers(low, high, shape).astype(dtype)


def gone(array: Any, index: Any, value: Any = 0) -> Any:
    """The array with this part set to a value."""
    array = array.copy()
    array[index] = value
    return array


# -- QuantizeLinear, DequantizeLinear ------------------------------------------------------------------------------------
QDQ = dict(sx=f(0.02), zx=u8(128), sr=f(0.03), zr=u8(3))


def test_qdq_convolution_per_channel() -> None:
    s1 = rng.uniform(0.01, 0.02, 6).astype("f")
    check(
        """(float[N,3,8,8] x) => (float[N,4,8,8] y) {
        xq = QuantizeLinear(x, sx, zx)  xd = DequantizeLinear(xq, sx, zx)
        wd = DequantizeLinear<axis=0>(w1, s1, z1)  bd = DequantizeLinear<axis=0>(b1, sb, zb)
        a = Conv<pads=[1,1,1,1]>(xd, wd, bd)  r = Relu(a)
        rq = QuantizeLinear(r, sr, zr)  rd = DequantizeLinear(rq, sr, zr)
        w2d = DequantizeLinear(w2, s2, z2)
        y = Conv<pads=[1,1,1,1]>(rd, w2d) }""",
        dict(
            QDQ, w1=gone(ints(6, 3, 3, 3), [1, 4]), s1=s1, z1=np.zeros(6, np.int8), s2=f(0.01), z2=i8(0),
            b1=gone(ints(6, dtype=np.int32), [1, 4]), sb=s1 * f(0.02), zb=np.zeros(6, np.int32), w2=ints(4, 6, 3, 3),
        ),
        dict(w1=(4, 3, 3, 3), s1=(4,), z1=(4,), b1=(4,), sb=(4,), zb=(4,), w2=(4, 4, 3, 3)),
        tolerance=1e-5,
    )  # fmt: skip


def test_zero_point_of_a_weight_counts_as_zero() -> None:
    """Per-channel zero points that are not zero: what is zero differs by channel."""
    z = ints(6, low=-20, high=20)
    w = ints(6, 5)
    w[2], w[3] = z[2], 0  # row 2 is zero, row 3 is not
    check(
        """(float[N,5] x) => (float[N,4] y) {
        wd = DequantizeLinear<axis=0>(w, s, z)  a = Gemm<transB=1>(x, wd)  y = MatMul(a, v) }""",
        dict(w=w, z=gone(z, 3, 7), s=rng.uniform(0.01, 0.02, 6).astype("f"), v=rng.normal(size=(6, 4)).astype("f")),
        dict(w=(5, 5), z=(5,), s=(5,), v=(5, 4)),
        tolerance=1e-5,
    )


def test_columns_that_nobody_reads() -> None:
    w = ints(5, 6)
    check(
        """(float[N,5] x) => (float[N,4] y) {
        wd = DequantizeLinear<axis=1>(w, s, z)  a = MatMul(x, wd)  v2 = DequantizeLinear(v, sv)  y = MatMul(a, v2) }""",
        dict(w=w, z=ints(6), s=rng.uniform(0.01, 0.02, 6).astype("f"), v=gone(ints(6, 4), [0, 5]), sv=f(0.1)),
        dict(w=(5, 4), z=(4,), s=(4,), v=(4, 4)),
        tolerance=1e-5,
    )


def test_constants_survive_quantisation_or_stay() -> None:
    """A channel that is 0.7 everywhere: its quantised value is followed, and absorbed into a float bias."""
    w = gone(rng.normal(size=(5, 6)).astype("f"), (slice(None), [1, 3]))
    b = gone(rng.normal(size=6).astype("f"), [1, 3], 0.7)
    check(
        """(float[N,5] x) => (float[N,4] y) { a = Gemm(x, w, b)
        q = QuantizeLinear(a, sr, zr)  d = DequantizeLinear(q, sr, zr)  y = Gemm(d, v, c) }""",
        dict(QDQ, w=w, b=b, v=rng.normal(size=(6, 4)).astype("f"), c=rng.normal(size=4).astype("f")),
        dict(w=(5, 4), b=(4,), v=(4, 4)),
        tolerance=1e-5,
    )


def test_rounding_is_to_even_and_ties_are_not_trusted() -> None:
    assert encode(f([0.0, 1.26, -1.26]), 1.0, 0, np.dtype("int8")).tolist() == [0, 1, -1]
    assert np.isnan(encode(f([0.5, 1.5, 2.5001, -0.5]), 1.0, 0, np.dtype("int8"))).all()
    assert encode(f([300, -300, 1e9]), 1.0, 5, np.dtype("int8")).tolist() == [127, -128, 127]
    assert np.isnan(encode(f([1.0]), 1.0, 0, np.dtype(ml_dtypes.float8_e4m3fn))).all()
    assert encode(f([100.0]), 1.0, 0, np.dtype(ml_dtypes.int4)).tolist() == [7]


@pytest.mark.parametrize("kind", ["int4", "uint4", "int2", "uint2"])
def test_narrow_integers(kind: str) -> None:
    if not hasattr(onnx.TensorProto, kind.upper()):
        pytest.skip(f"onnx {onnx.__version__} has no {kind}")
    dtype = getattr(ml_dtypes, kind)
    info = ml_dtypes.iinfo(dtype)
    w = rng.integers(info.min, info.max, (6, 8)).astype(np.int8)
    w[[1, 4]] = 0
    w = w.astype(dtype)
    opset = 21 if "4" in kind else 25
    model = model_of(
        """(float[N,8] x) => (float[N,4] y) {
        wd = DequantizeLinear<axis=0>(w, s)  a = Gemm<transB=1>(x, wd)  y = MatMul(a, v) }""",
        dict(w=w, s=rng.uniform(0.1, 0.2, 6).astype("f"), v=rng.normal(size=(6, 4)).astype("f")),
        opset,
    )
    small, _ = slim(model)
    shapes = {t.name.split("_slim")[0]: tuple(t.dims) for t in small.graph.initializer}
    assert shapes == {"w": (4, 8), "s": (4,), "v": (4, 4)}
    kept = next(t for t in small.graph.initializer if t.name.startswith("w"))
    assert kept.data_type == getattr(onnx.TensorProto, kind.upper())
    assert (numpy_helper.to_array(kept).astype(int) == w[[0, 2, 3, 5]].astype(int)).all()


@pytest.mark.parametrize("gone_slots, left", [(slice(0, 4), 8), ([0, 1, 5], 12), ([0, 1, 2, 3, 8], 8)])
def test_blocked_scales(gone_slots: Any, left: int) -> None:
    """Blocks of 4 slots share a scale: they leave whole."""
    check(
        """(float[N,5] x) => (float[N,3] y) {
        a = MatMul(x, u)  wd = DequantizeLinear<axis=0, block_size=4>(w, s, z)  y = MatMul(a, wd) }""",
        dict(u=gone(rng.normal(size=(5, 12)).astype("f"), (slice(None), gone_slots)), w=ints(12, 3),
             s=rng.uniform(0.1, 0.2, (3, 3)).astype("f"), z=ints(3, 3)),
        dict(u=(5, left), w=(left, 3), s=(left // 4, 3), z=(left // 4, 3)),
        opset=21, tolerance=1e-5,
    )  # fmt: skip


def test_blocks_that_do_not_divide_stay() -> None:
    check(
        """(float[N,5] x) => (float[N,3] y) {
        a = MatMul(x, u)  wd = DequantizeLinear<axis=0, block_size=4>(w, s)  y = MatMul(a, wd) }""",
        dict(u=gone(rng.normal(size=(5, 10)).astype("f"), (slice(None), slice(0, 4))), w=ints(10, 3),
             s=rng.uniform(0.1, 0.2, (3, 3)).astype("f")),
        dict(), opset=21, tolerance=1e-5,
    )  # fmt: skip


@pytest.mark.parametrize("per_channel", [False, True])
def test_qdq_grouped(per_channel: bool) -> None:
    """The integers behind a grouped convolution are sliced block by block."""
    size = (6,) if per_channel else ()
    sg = rng.uniform(0.01, 0.02, size).astype("f")
    zg = np.zeros(size, np.int8)
    small = check(
        f"""(float[N,3,6,6] x) => (float[N,4,4,4] y) {{ a = Conv(x, w)
        q = QuantizeLinear(a, sr, zr)  d = DequantizeLinear(q, sr, zr)
        gd = DequantizeLinear{"<axis=0>" if per_channel else ""}(g, sg, zg)
        b = Conv<group=3>(d, gd)  y = Conv(b, v) }}""",
        dict(QDQ, w=gone(rng.normal(size=(12, 3, 1, 1)).astype("f"), [0, 1, 2, 3, 4, 9]), g=ints(6, 4, 3, 3), sg=sg, zg=zg,
             v=rng.normal(size=(4, 6, 1, 1)).astype("f")),
        dict(w=(6, 3, 1, 1), g=(4, 3, 3, 3), v=(4, 4, 1, 1)) | (dict(sg=(4,), zg=(4,)) if per_channel else {}),
        tolerance=1e-5,
    )  # fmt: skip
    assert next(t for t in small.graph.initializer if t.name.startswith("g")).data_type == onnx.TensorProto.INT8


def constant_qdq(kind: str, bias: bool) -> tuple[str, dict[str, Any], int]:
    """A layer whose channels 1 and 3 are the constant 0.7, read by a quantised contraction."""
    w = gone(rng.normal(size=(5, 6)).astype("f"), (slice(None), [1, 3]))
    b = gone(rng.normal(size=6).astype("f"), [1, 3], 0.7)
    sw = rng.uniform(0.01, 0.02, 4).astype("f")
    v = ints(4, 6)
    head = "a = Gemm(x, w, b)"
    read = "y = Gemm<transB=1>(d, wd{c})"
    space = ""
    if kind == "conv":
        head, read, space, w, v = (
            "a = Conv(x, w, b)",
            "y = Conv(d, wd{c})",
            ",4,4",
            w.T[:, :, None, None].copy(),
            v[:, :, None, None],
        )
    weights = dict(QDQ, w=w, b=b, v=v, sv=sw, zv=np.zeros(4, np.int8))
    more = ""
    if bias:
        more = "c = DequantizeLinear<axis=0>(cq, sc)"
        weights |= dict(cq=ints(4, low=-900, high=900, dtype=np.int32), sc=sw * QDQ["sr"])
    text = f"""(float[N,5{space}] x) => (float[N,4{space}] y) {{ {head}
        q = QuantizeLinear(a, sr, zr)  d = DequantizeLinear(q, sr, zr)  wd = DequantizeLinear<axis=0>(v, sv, zv)  {more}
        {read.format(c=", c" if bias else "")} }}"""
    return text, weights, 4 if bias else 6


@pytest.mark.parametrize("kind", ["gemm", "conv"])
@pytest.mark.parametrize("bias", [True, False])
def test_constants_go_into_integer_biases(kind: str, bias: bool) -> None:
    """The scales of x, weight and bias are s, t and s t: a constant is a whole number in the bias. Without a bias it stays."""
    text, weights, left = constant_qdq(kind, bias)
    tail = (1, 1) if kind == "conv" else ()
    small = check(
        text, weights, dict(w=(left, 5, *tail) if tail else (5, left), b=(left,), v=(4, left, *tail)), tolerance=1e-5
    )
    if bias:
        kept = next(numpy_helper.to_array(t) for t in small.graph.initializer if t.name.startswith("cq"))
        assert kept.dtype == np.int32 and (kept != weights["cq"]).any()


def test_an_integer_bias_of_another_scale_takes_no_constants() -> None:
    text, weights, _ = constant_qdq("gemm", True)
    weights["sc"] = weights["sc"] * np.float32(1.01)
    check(text, weights, dict(), tolerance=1e-5)


# -- dynamic quantisation ------------------------------------------------------------------------------------------------
def test_dynamic_quantisation_loses_zeros_only() -> None:
    """Slot 1 is zero; slot 3 is a constant and slot 5 is read by nobody, but both take part in the range."""
    w = gone(rng.normal(size=(5, 6)).astype("f"), (slice(None), [1, 3]))
    b = gone(np.zeros(6, "f"), 3, 2.5)
    check(
        """(float[N,5] x) => (float[N,4] y) { m = MatMul(x, w)  a = Add(m, b)
        q, s, z = DynamicQuantizeLinear(a)  i = MatMulInteger(q, v, z, vz)
        c = Cast<to=1>(i)  t = Mul(s, sv)  y = Mul(c, t) }""",
        dict(w=w, b=b, v=gone(ints(6, 4), 5, 3), vz=i8(3), sv=f(0.02)),
        dict(w=(5, 5), b=(5,), v=(5, 4)),
    )


def test_dynamic_quantisation_of_a_gate() -> None:
    """Weight columns equal to their own zero point are zero channels, through Cast, Mul and Relu."""
    vz = ints(6, low=-5, high=5)
    v = ints(5, 6)
    v[:, [0, 4]] = vz[[0, 4]]
    check(
        """(float[N,5] x) => (float[N,3] y) { q, s, z = DynamicQuantizeLinear(x)  i = MatMulInteger(q, v, z, vz)
        c = Cast<to=1>(i)  t = Mul(s, sv)  a = Mul(c, t)  r = Relu(a)
        q2, s2, z2 = DynamicQuantizeLinear(r)  i2 = MatMulInteger(q2, u, z2)
        c2 = Cast<to=1>(i2)  y = Mul(c2, s2) }""",
        dict(v=v, vz=vz, sv=rng.uniform(0.1, 0.2, 6).astype("f"), u=ints(6, 3)),
        dict(v=(5, 4), vz=(4,), sv=(4,), u=(4, 3)),
    )


# -- integer contractions --------------------------------------------------------------------------------------------------
def test_conv_integer_of_unknown_zero_point_keeps_its_weights() -> None:
    check(
        """(uint8[N,3,6,6] x, uint8 z) => (int32[N,2,6,6] y) { a = ConvInteger<pads=[1,1,1,1]>(x, w, z, wz)
        c = Cast<to=1>(a)  q = QuantizeLinear(c, s, zq)  y = ConvInteger(q, v, zq) }""",
        dict(w=gone(ints(4, 3, 3, 3), 2, 9), wz=i8(9), s=f(500.0), zq=u8(17), v=ints(2, 4, 1, 1)),
        dict(w=(3, 3, 3, 3), v=(2, 3, 1, 1)),
    )


QOP = dict(sx=f(0.02), zx=u8(128), sy=f(0.5), zy=u8(11), s2=f(0.3), z2=u8(100))


@pytest.mark.parametrize("pad", [0, 1])
@pytest.mark.parametrize("bias", [0, 4000])
def test_qlinear_convolution(pad: int, bias: int) -> None:
    """Zero rows: with a bias the channel is a constant, which an integer bias absorbs unless there is padding."""
    wz = ints(6, low=-9, high=9)
    w = ints(6, 3, 3, 3)
    w[[1, 4]] = wz[[1, 4], None, None, None]
    b = gone(ints(6, dtype=np.int32), [1, 4], bias)
    left = 6 if pad and bias else 4
    check(
        f"""(uint8[N,3,8,8] x) => (uint8[N,4,{4 + 4 * pad},{4 + 4 * pad}] y) {{
        a = QLinearConv<pads=[{pad},{pad},{pad},{pad}]>(x, sx, zx, w, sw, wz, sy, zy, b)
        y = QLinearConv<pads=[{pad},{pad},{pad},{pad}]>(a, sy, zy, v, sv, vz, s2, z2) }}""",
        dict(QOP, w=w, sw=rng.uniform(0.01, 0.2, 6).astype("f"), wz=wz, b=b, v=ints(4, 6, 3, 3), sv=f(0.01), vz=i8(2)),
        dict(w=(left, 3, 3, 3), sw=(left,), wz=(left,), b=(left,), v=(4, left, 3, 3)),
    )


def test_widths_of_integer_convolutions_are_aligned() -> None:
    """127 channels take 1.27 times as long as 128 on AVX-512: QLinearConv is rounded up like Conv."""
    model = model_of(
        """(uint8[N,3,4,4] x) => (uint8[N,4,4,4] y) { a = QLinearConv(x, sx, zx, w, sw, wz, sy, zy)
        y = QLinearConv(a, sy, zy, v, sw, wz, s2, z2) }""",
        dict(QOP, w=gone(ints(32, 3, 1, 1), slice(3, 20)), sw=f(0.05), wz=i8(0), v=ints(4, 32, 1, 1)),
    )
    widths = {align: shapes_of(slim(model, align=align)[0])["w"][0] for align in ("none", 8)}
    assert widths == {"none": 15, 8: 16}


@pytest.mark.parametrize("multiplier", [1, 2])
def test_qlinear_depthwise(multiplier: int) -> None:
    check(
        """(uint8[N,3,8,8] x) => (uint8[N,4,6,6] y) { a = QLinearConv(x, sx, zx, w, sw, wz, sy, zy)
        d = QLinearConv<group=6, pads=[1,1,1,1]>(a, sy, zy, dw, sd, dz, sy, zy)
        y = QLinearConv(d, sy, zy, v, sv, wz, s2, z2) }""",
        dict(QOP, w=gone(ints(6, 3, 3, 3), [1, 4]), sw=f(0.05), wz=i8(0), dw=ints(6 * multiplier, 1, 3, 3), sd=rng.uniform(0.01, 0.2, 6 * multiplier).astype("f"),
             dz=np.zeros(6 * multiplier, np.int8), v=ints(4, 6 * multiplier, 1, 1), sv=f(0.01)),
        dict(w=(4, 3, 3, 3), dw=(4 * multiplier, 1, 3, 3), sd=(4 * multiplier,), dz=(4 * multiplier,), v=(4, 4 * multiplier, 1, 1)),
    )  # fmt: skip


def test_qlinear_grouped() -> None:
    """A whole group and one slot of each other group leave."""
    dead = [0, 1, 2, 3, 4, 9]
    check(
        """(uint8[N,3,8,8] x) => (uint8[N,4,6,6] y) { a = QLinearConv(x, sx, zx, w, sw, wz, sy, zy)
        d = QLinearConv<group=3, pads=[1,1,1,1]>(a, sy, zy, g, sd, gz, sy, zy)
        y = QLinearConv(d, sy, zy, v, sv, wz, s2, z2) }""",
        dict(QOP, w=gone(ints(12, 3, 3, 3), dead), sw=f(0.05), wz=i8(0), g=ints(6, 4, 3, 3), sd=f(0.03), gz=i8(5), v=ints(4, 6, 1, 1), sv=f(0.01)),
        dict(w=(6, 3, 3, 3), g=(4, 3, 3, 3), v=(4, 4, 1, 1)),
    )  # fmt: skip


@pytest.mark.parametrize("per_column", [False, True])
def test_qlinear_matmul(per_column: bool) -> None:
    wz = ints(6, low=-9, high=9) if per_column else i8(4)
    w = ints(5, 6)
    w[:, [0, 3]] = wz[[0, 3]] if per_column else wz
    size = (4,) if per_column else ()
    sw = rng.uniform(0.01, 0.02, 6).astype("f") if per_column else f(0.01)
    check(
        """(uint8[N,7,5] x) => (uint8[N,7,3] y) { a = QLinearMatMul(x, sx, zx, w, sw, wz, sy, zy)
        y = QLinearMatMul(a, sy, zy, v, sv, vz, s2, z2) }""",
        dict(QOP, w=w, wz=wz, sw=sw, v=ints(6, 3), sv=f(0.2), vz=i8(0)),
        dict(w=(5, 4), v=(4, 3)) | (dict(sw=size, wz=size) if per_column else {}),
    )


def test_qlinear_matmul_with_the_weight_on_the_left() -> None:
    """Rows of a known left factor that are its zero point are zero rows; columns of it decide what is read."""
    u, v = ints(6, 5, low=0, high=255, dtype=np.uint8), ints(4, 6, low=0, high=255, dtype=np.uint8)
    u[[0, 3]], v[:, 1] = 100, 100
    check(
        """(uint8[5,N] x) => (uint8[4,N] y) { a = QLinearMatMul(u, su, wz, x, sx, zx, sy, zy)
        y = QLinearMatMul(v, sv, wz, a, sy, zy, s2, z2) }""",
        dict(QOP, u=u, su=f(0.01), wz=u8(100), v=v, sv=f(0.2)),
        dict(u=(3, 5), v=(4, 3)),
    )


def test_qlinear_attention_of_two_activations() -> None:
    """Both factors run; a dimension that is a zero point in one of them leaves both."""
    wq = gone(ints(6, 8), (slice(None), [2, 5]))
    check(
        """(uint8[N,7,6] x) => (uint8[N,7,7] y) { q = QLinearMatMul(x, sx, zx, wq, sw, wz, sy, zy)
        k = QLinearMatMul(x, sx, zx, wk, sw, wz, sy, zy)  t = Transpose<perm=[0,2,1]>(k)
        y = QLinearMatMul(q, sy, zy, t, sy, zy, s2, z2) }""",
        dict(QOP, wq=wq, wk=ints(6, 8), sw=f(0.03), wz=i8(0)),
        dict(wq=(6, 6), wk=(6, 6)),
    )


@pytest.mark.parametrize("floats", [False, True])
@pytest.mark.parametrize("bias", [0, 7000])
def test_qgemm(floats: bool, bias: int) -> None:
    b = gone(ints(6, dtype=np.int32), [1, 4], bias)
    out, tail = ("float", "") if floats else ("uint8", ", s2, z2")
    weights = dict(
        QOP,
        w=gone(ints(6, 5), [1, 4], 3),
        sw=f(0.01),
        wz=i8(3),
        b=b,
        v=ints(6, 3),
        sv=f(0.2),
        vz=i8(0),
        c=ints(3, dtype=np.int32),
    )
    if floats:
        del weights["s2"], weights["z2"]
    check(
        f"""(uint8[N,5] x) => ({out}[N,3] y) {{ a = com.microsoft.QGemm<transB=1, alpha=1.0>(x, sx, zx, w, sw, wz, b, sy, zy)
        y = com.microsoft.QGemm(a, sy, zy, v, sv, vz, c{tail}) }}""",
        weights, dict(w=(4, 5), b=(4,), v=(4, 3)), tolerance=1e-6,
    )  # fmt: skip


# -- contrib ---------------------------------------------------------------------------------------------------------------
def test_qlinear_elementwise() -> None:
    """Add, Mul, LeakyRelu, Sigmoid and pooling keep channels apart."""
    check(
        """(uint8[N,3,8,8] x) => (uint8[N,4,1,1] y) { a = QLinearConv(x, sx, zx, w, sw, wz, sy, zy)
        l = com.microsoft.QLinearLeakyRelu<alpha=0.1>(a, sy, zy, s2, z2)
        m = com.microsoft.QLinearAdd(l, s2, z2, a, sy, zy, s2, z2)
        g = com.microsoft.QLinearGlobalAveragePool(m, s2, z2, s2, z2)
        h = com.microsoft.QLinearMul(g, s2, z2, k, sk, zk, s2, z2)
        y = QLinearConv(h, s2, z2, v, sv, wz, s2, z2) }""",
        dict(QOP, w=gone(ints(6, 3, 3, 3), [1, 4]), sw=f(0.05), wz=i8(0), v=ints(4, 6, 1, 1), sv=f(0.01),
             k=gone(ints(6, 1, 1, low=1, high=255, dtype=np.uint8), 0, 7), sk=f(0.01), zk=u8(7)),
        dict(w=(3, 3, 3, 3), v=(4, 3, 1, 1), k=(3, 1, 1)),
    )  # fmt: skip


def test_qlinear_concat() -> None:
    """A piece of zeros leaves with its parameters; others get narrower."""
    check(
        """(uint8[N,3,4,4] x) => (uint8[N,4,4,4] y) { a = QLinearConv(x, sx, zx, w1, sw, wz, sy, zy)
        b = QLinearConv(x, sx, zx, w2, sw, wz, s2, z2)  c = QLinearConv(x, sx, zx, w3, sw, wz, s2, z2)
        j = com.microsoft.QLinearConcat<axis=1>(s2, z2, a, sy, zy, b, s2, z2, c, s2, z2)
        y = QLinearConv(j, s2, z2, v, sv, wz, s2, z2) }""",
        dict(QOP, w1=gone(ints(4, 3, 1, 1), 2), w2=gone(ints(2, 3, 1, 1), [0, 1]), w3=gone(ints(3, 3, 1, 1), 0), sw=f(0.05), wz=i8(0),
             v=ints(4, 9, 1, 1), sv=f(0.01)),
        dict(w1=(3, 3, 1, 1), w2=(), w3=(2, 3, 1, 1), v=(4, 5, 1, 1)),
    )  # fmt: skip


def test_qlinear_average_pool_gives_its_shape() -> None:
    check(
        """(uint8[N,3,8,8] x) => (uint8[N,4,4,4] y) { a = QLinearConv(x, sx, zx, w, sw, wz, sy, zy)
        p = com.microsoft.QLinearAveragePool<kernel_shape=[2,2], strides=[2,2]>(a, sy, zy, s2, z2)
        j = com.microsoft.QLinearConcat<axis=1>(s2, z2, p, s2, z2, p, s2, z2)
        y = QLinearConv(j, s2, z2, v, sv, wz, s2, z2) }""",
        dict(QOP, w=gone(ints(6, 3, 1, 1), [1, 4]), sw=f(0.05), wz=i8(0), v=ints(4, 12, 1, 1), sv=f(0.01)),
        dict(w=(4, 3, 1, 1), v=(4, 8, 1, 1)),
    )


def test_dynamic_quantize_matmul_and_integer_to_float() -> None:
    check(
        """(float[N,5] x) => (float[N,3] y) { a = com.microsoft.DynamicQuantizeMatMul(x, w, sw, wz, b)  r = Relu(a)
        q, s, z = DynamicQuantizeLinear(r)  y = com.microsoft.MatMulIntegerToFloat(q, v, s, sv, z, vz, c) }""",
        dict(w=gone(ints(5, 6), (slice(None), [1, 4]), 2), sw=rng.uniform(0.1, 0.2, 6).astype("f"), wz=np.full(6, 2, np.int8),
             b=gone(rng.normal(size=6).astype("f"), [1, 4], [0, -3]), v=ints(6, 3), sv=f(0.1), vz=i8(0), c=rng.normal(size=3).astype("f")),
        dict(w=(5, 4), sw=(4,), wz=(4,), b=(4,), v=(4, 3)), tolerance=1e-5,
    )  # fmt: skip


def test_matmul_nbits_loses_outputs() -> None:
    n, blocks = 6, 2
    check(
        """(float[N,32] x) => (float[N,3] y) {
        a = com.microsoft.MatMulNBits<K=32, N=6, bits=4, block_size=16>(x, w, s)  y = MatMul(a, v) }""",
        dict(w=rng.integers(0, 255, (n, blocks, 8)).astype(np.uint8), s=rng.uniform(0.1, 0.2, n * blocks).astype("f"),
             v=gone(rng.normal(size=(6, 3)).astype("f"), [0, 3])),
        dict(w=(4, 2, 8), s=(8,), v=(4, 3)), tolerance=1e-5,
    )  # fmt: skip


def test_nothing_masked_is_left_alone() -> None:
    """Integers are what they were: the run is bit for bit the same without a mask."""
    model = model_of(
        "(uint8[N,5] x) => (uint8[N,3] y) { y = QLinearMatMul(x, sx, zx, w, sw, wz, sy, zy) }",
        dict(sx=f(0.1), zx=u8(3), w=ints(5, 3), sw=f(0.1), wz=i8(0), sy=f(1), zy=u8(9)),
    )
    small, _ = slim(model)
    assert [t.SerializeToString() for t in small.graph.initializer] == [
        t.SerializeToString() for t in model.graph.initializer
    ]
    feeds = {"x": ints(3, 5, low=0, high=255, dtype=np.uint8)}
    assert (run(model, feeds, optimise=True)[0] == run(small, feeds, optimise=True)[0]).all()
