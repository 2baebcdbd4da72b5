"""A narrow network inside a wide one, both quantised by ONNX Runtime: slim finds the narrow one again, bit for bit.

The wide network has channels that are zero. Quantised statically (QDQ and operators, per channel) and dynamically it
must come back with as many numbers as the narrow network quantised alone, and with the same outputs.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

from onnxdam.api import slim
from tests.rules.runtime_case import model_of, run

TEXT = """(float[N,3,12,12] x) => (float[N,5] y) {
    a = Conv<pads=[1,1,1,1]>(x, w1, b1)  r = Relu(a)
    d = Conv<pads=[1,1,1,1], group=GROUP>(r, wd, bd)  e = Relu(d)
    c = Conv(e, w2, b2)  s = Add(c, r)  j = Concat<axis=1>(s, e)  m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(j)
    k = Conv<pads=[1,1,1,1]>(m, w3, b3)  g = Relu(k)  p = GlobalAveragePool(g)  f = Flatten<axis=1>(p)  y = Gemm(f, w4, b4) }"""
STEM, LAST = ([0, 2, 3, 6, 7, 9], 12), ([1, 4, 5, 8], 10)  # kept slots, width


def networks() -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The wide network with zero channels, and the narrow one."""
    rng = np.random.default_rng(2)
    (stem, wide), (last, far) = STEM, LAST
    narrow: dict[str, Any] = dict(
        w1=rng.normal(size=(6, 3, 3, 3)), b1=rng.normal(size=6), wd=rng.normal(size=(6, 1, 3, 3)), bd=rng.normal(size=6),
        w2=rng.normal(size=(6, 6, 1, 1)), b2=rng.normal(size=6), w3=rng.normal(size=(4, 12, 3, 3)), b3=rng.normal(size=4),
        w4=rng.normal(size=(4, 5)), b4=rng.normal(size=5),
    )  # fmt: skip
    narrow = {k: (v / np.sqrt(v[0].size)).astype("f") for k, v in narrow.items()}
    both = [*stem, *(wide + i for i in stem)]
    places: dict[str, tuple[tuple[int, ...], tuple[Any, ...]]] = dict(
        w1=((wide, 3, 3, 3), (stem,)), b1=((wide,), (stem,)), wd=((wide, 1, 3, 3), (stem,)), bd=((wide,), (stem,)),
        w2=((wide, wide, 1, 1), np.ix_(stem, stem)), b2=((wide,), (stem,)), w3=((far, 2 * wide, 3, 3), np.ix_(last, both)),
        b3=((far,), (last,)), w4=((far, 5), (last,)), b4=((5,), (slice(None),)),
    )  # fmt: skip
    big = {}
    for name, (shape, index) in places.items():
        big[name] = np.zeros(shape, "f")
        big[name][index] = narrow[name]
    return model_of(TEXT.replace("GROUP", str(wide)), big), model_of(TEXT.replace("GROUP", "6"), narrow)


class Calibration(CalibrationDataReader):
    def __init__(self) -> None:
        rng = np.random.default_rng(4)
        self.batches = iter([{"x": rng.standard_normal((2, 3, 12, 12)).astype("f")} for _ in range(3)])

    def get_next(self) -> Any:
        return next(self.batches, None)


def quantised(model: onnx.ModelProto, style: str, folder: Path, name: str) -> onnx.ModelProto:
    source, target = folder / f"{name}.onnx", folder / f"{name}_{style}.onnx"
    onnx.save(model, source)
    logging.disable(logging.WARNING)
    try:
        if style == "dynamic":
            quantize_dynamic(source, target, per_channel=True)
        else:
            form = QuantFormat.QDQ if style.startswith("qdq") else QuantFormat.QOperator
            kind = QuantType.QInt8 if style.endswith("signed") else QuantType.QUInt8
            quantize_static(
                source, target, Calibration(), form, activation_type=kind, weight_type=QuantType.QInt8, per_channel=True
            )
    finally:
        logging.disable(logging.NOTSET)
    return onnx.load(target)


def numbers(model: onnx.ModelProto) -> int:
    """Weights, scales and zero points; sizes of reshapes (int64) may be computed ahead of time."""
    return sum(int(np.prod(t.dims)) for t in model.graph.initializer if t.data_type != onnx.TensorProto.INT64)


@pytest.mark.parametrize("style", ["qdq", "qdq_signed", "operators", "dynamic"])
def test_the_narrow_network_is_found(style: str, tmp_path: Path) -> None:
    wide, narrow = networks()
    masked, goal = quantised(wide, style, tmp_path, "wide"), quantised(narrow, style, tmp_path, "narrow")
    small, _ = slim(masked, align="none")
    assert numbers(small) == numbers(goal) < numbers(masked)
    assert len(small.graph.node) <= len(goal.graph.node)
    x = np.random.default_rng(9).standard_normal((3, 3, 12, 12)).astype("f")
    for optimise in (False, True):
        a, b = run(masked, {"x": x}, optimise=optimise)[0], run(small, {"x": x}, optimise=optimise)[0]
        assert np.abs(a - b).max() <= 1e-6 * np.abs(a).max()
    assert np.abs(a).max() > 1e-2
