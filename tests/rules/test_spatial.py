"""Pooling and resampling: channels correspond, positions stay."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.handmade.toolkit import Trap, s_
from tests.rules.single import Single

CHANNELS = {"W1": (6, 3, 1, 1), "W2": (2, 6, 1, 1)}
NARROW = {"W1": (4, 3, 1, 1), "W2": (2, 4, 1, 1)}
DEAD = {"W1": s_[[1, 4]]}
UNREAD = {"W2": s_[:, [1, 4]]}
IMAGE = "(double[N,3,8,6] x) => (double[N,2,D,E] y) { a = Conv(x, W1) "


def pooled(
    name: str, body: str, zero: object = DEAD, narrow: object = NARROW, weights: object = None, **options: object
) -> Trap:
    """One operator between two convolutions."""
    return Trap(name, IMAGE + body + " y = Conv(b, W2) }", {**CHANNELS, **(weights or {})}, zero, narrow, **options)  # type: ignore[arg-type,dict-item]


POOLS = [
    pooled("max", "b = MaxPool<kernel_shape = [3, 2], strides = [2, 2], pads = [1, 0, 1, 0]>(a)"),
    pooled(
        "max of a constant",
        "r = Sigmoid(a) b = MaxPool<kernel_shape = [3, 2], strides = [2, 2], pads = [1, 0, 1, 0]>(r)",
        extra=2,
    ),
    pooled("max whose indices nobody reads", "b, i = MaxPool<kernel_shape = [2, 2]>(a)"),
    pooled(
        "average",
        "b = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2], ceil_mode = 1>(a)",
        opset=19,
    ),
    pooled(
        "average of a constant",
        "r = Sigmoid(a) b = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(r)",
        extra=2,
    ),
    pooled("global average", "r = Sigmoid(a) b = GlobalAveragePool(r)", extra=2),
    pooled("global maximum", "r = Sigmoid(a) b = GlobalMaxPool(r)", extra=2),
    pooled("power", "b = LpPool<kernel_shape = [2, 2], p = 2>(a)", opset=18),
    pooled("power of a constant", "r = Sigmoid(a) b = LpPool<kernel_shape = [2, 2], p = 2>(r)", UNREAD, opset=18),
    pooled(
        "maximum over the channels of what is not negative",
        "r = Relu(a) m = ReduceMax<axes = [1]>(r) b = Mul(r, m)",
        opset=17,
    ),
]
SCALES = {"scales": np.array([1, 1, 2, 2], np.float32), "sizes": np.array([2, 6, 16, 3])}
RESIZES = [
    pooled(f"resize {mode} {form}", f'b = Resize<mode = "{mode}", coordinate_transformation_mode = "{form}">(a, , scales)',
           weights={"scales": np.array([1, 1, 2, 0.5], np.float32)}, opset=opset)
    for mode, form, opset in (("nearest", "asymmetric", 13), ("linear", "half_pixel", 19), ("cubic", "align_corners", 13),
                              ("linear", "pytorch_half_pixel", 18))
] + [
    pooled("resize of a constant", 'r = Sigmoid(a) b = Resize<mode = "linear">(r, , scales)', weights={"scales": SCALES["scales"]}, extra=2),
    pooled("resize axes", 'b = Resize<mode = "linear", axes = [3, 2]>(a, , , hw)', weights={"hw": np.array([5, 16])}, opset=18),
    pooled("upsample", 'b = Upsample<mode = "nearest">(a, scales)', weights={"scales": np.array([1, 1, 2, 2], np.float32)}, opset=9),
    pooled("resize by the channels", 'b = Resize<mode = "nearest">(a, , scales)', {"W1": s_[[1, 4]]}, {"W1": (6, 3, 1, 1)},
           {"scales": np.array([1, 0.5, 1, 1], np.float32), "W2": (2, 3, 1, 1)}),
    Trap("resize to sizes", "(double[2,3,8,6] x) => (double[2,2,16,3] y) { a = Conv(x, W1) "
         'b = Resize<mode = "linear">(a, , , sizes) y = Conv(b, W2) }', {**CHANNELS, "sizes": SCALES["sizes"]}, DEAD, NARROW),
    pooled("crop", "b = CenterCropPad<axes = [2, 3]>(a, hw)", weights={"hw": np.array([5, 9])}, opset=18),
]  # fmt: skip
REGIONS = [
    Trap("samples", '(double[2,3,8,6] x, double[2,5,4,2] g) => (double[2,2,5,4] y) { a = Conv(x, W1) b = GridSample<mode = "linear">(a, g) y = Conv(b, W2) }',
         CHANNELS, DEAD, NARROW, opset=20),
    Trap("samples of a constant", '(double[2,3,8,6] x, double[2,5,4,2] g) => (double[2,2,5,4] y) { a = Conv(x, W1) s = Sigmoid(a)'
         ' b = GridSample<mode = "linear">(s, g) y = Conv(b, W2) }', CHANNELS, DEAD, {}, opset=20),
]  # fmt: skip


@pytest.mark.parametrize("trap", [*POOLS, *RESIZES, *REGIONS], ids=str)
def test_spatial(trap: Trap) -> None:
    outcome = trap.check()
    assert outcome.nodes_after <= outcome.nodes_before


SINGLE = "(float[N,3,8,6] x) => (float[N,2,D,E] y) { a = Conv(x, W1) "
SINGLES = [
    Single("unpool counts channels", SINGLE + "b, i = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(a) c = MaxUnpool<kernel_shape = [2, 2], "
           "strides = [2, 2]>(b, i) y = Conv(c, W2) }", CHANNELS, DEAD, {}),
    Single("regions", "(float[1,3,8,6] x, int64[3] i) => (float[3,2,2,2] y) { a = Conv(x, W1) "
           "b = RoiAlign<output_height = 2, output_width = 2, sampling_ratio = 2>(a, r, i) y = Conv(b, W2) }",
           {**CHANNELS, "r": np.array([[0, 0, 3, 4], [1, 1, 5, 7], [2, 0, 3, 3]], np.float32)}, DEAD, NARROW, high=1),
    Single("tf crop", SINGLE + 'b = Resize<coordinate_transformation_mode = "tf_crop_and_resize", mode = "linear">(a, roi, scales) y = Conv(b, W2) }',
           {**CHANNELS, "roi": np.array([0, 0, 0.25, 0, 1, 1, 1, 1], np.float32), "scales": np.array([1, 1, 2, 2], np.float32)}, UNREAD, {}),
    Single("old resize", SINGLE + 'b = Resize<mode = "nearest">(a, scales) y = Conv(b, W2) }',
           {**CHANNELS, "scales": np.array([1, 1, 2, 2], np.float32)}, DEAD, NARROW, opset=10),
    Single("oldest upsample", SINGLE + 'b = Upsample<mode = "nearest", scales = [1.0, 1.0, 2.0, 2.0]>(a) y = Conv(b, W2) }',
           CHANNELS, DEAD, NARROW, opset=7),
    Single("samples of a constant, border", '(float[2,3,8,6] x, float[2,5,4,2] g) => (float[2,2,5,4] y) { a = Conv(x, W1) s = Sigmoid(a)'
           ' b = GridSample<mode = "linear", padding_mode = "border">(s, g) y = Conv(b, W2) }', CHANNELS, DEAD, NARROW, opset=20),
    Single("antialias", SINGLE + 'b = Resize<mode = "linear", antialias = 1>(a, , scales) y = Conv(b, W2) }',
           {**CHANNELS, "scales": np.array([1, 1, 0.5, 0.5], np.float32)}, DEAD, NARROW, opset=18),
]  # fmt: skip


@pytest.mark.parametrize("case", SINGLES, ids=str)
def test_single(case: Single) -> None:
    case.check()


def test_sizes_at_run_time() -> None:
    """A map grows to the size of another, both dynamic: the channels in the written-down sizes follow."""
    text = (
        "(float[N,3,H,V] x, float[N,1,D,E] z) => (float[N,2,D,E] y) { a = Conv(x, W1) s = Shape(a) t = Shape(z) "
        'h = Slice(s, nil, two) w = Slice(t, two, four) k = Concat<axis = 0>(h, w) b = Resize<mode = "linear">(a, , , k) y = Conv(b, W2) }'
    )
    bounds = {"nil": np.array([0]), "two": np.array([2]), "four": np.array([4])}
    case = Single("sizes at run time", text.replace("D", "V").replace("E", "H"), {**CHANNELS, **bounds}, DEAD, NARROW)
    small = case.check()
    assert len(small.graph.node) <= len(case.model().graph.node), onnx.printer.to_text(small)
