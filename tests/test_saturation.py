"""Integer products are compared as they are specified, on processors that get large ones wrong, too."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from onnxdam import saturation
from onnxdam.providers import Runnable, session
from onnxdam.verify import verify

LARGEST = 2 * 255 * 127  # a sum of two products that 16 bits do not hold


def products(width: int) -> onnx.ModelProto:
    """Two products with the same weight, and the same zero point; the sum over `width` zeros and two ones besides."""
    model = parser.parse_model(
        f"""<ir_version: 8, opset_import: ["": 13]> g (uint8[1,{width}] x) => (int32[1,1] y) {{
            a = MatMulInteger(x, w, xz, wz)  b = MatMulInteger(x, w, xz, wz)  y = Add(a, b) }}"""
    )
    weight = np.zeros((width, 1), np.int8)
    weight[-2:] = 127
    tables = {"w": weight, "xz": np.uint8(0), "wz": np.int8(0)}
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in tables.items())
    return model


@pytest.mark.parametrize("level", ["off", "on"])
@pytest.mark.parametrize("width", [2, 3, 4, 5])
def test_large_products_are_exact_wherever_they_stand(width: int, level: str) -> None:
    opened = session(Runnable.of(products(width)), level=level, exact=True)
    [sums] = opened.run(None, {"x": np.full((1, width), 255, np.uint8)})
    assert sums.item() == 2 * LARGEST


def test_every_product_has_its_own_weights() -> None:
    model = products(3)
    copy = saturation.apart(model)
    first, second = copy.graph.node[:2]
    assert not set(first.input[1::2]) & set(second.input[1::2])  # w and wz, which are signed
    assert first.input[2] == second.input[2] == "xz"
    onnx.checker.check_model(copy)
    assert model == products(3)


def test_users_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in (True, False):
        monkeypatch.setattr(saturation, "_processor_saturates", lambda wrong=wrong: wrong)
        report = verify(products(3), products(3))
        assert report.passed
        assert any("8-bit products saturate" in note for note in report.notes) == wrong
