"""A graph as text, its weights, and what must be left of them; masked and slim run in ONNX Runtime.

    check("(float[N,6] x) => (float[N,3] y) { h = MatMul(x, W1)  y = MatMul(h, W2) }",
          {"W1": w1, "W2": w2}, narrow={"W1": (6, 4), "W2": (4, 3)})

For operators that only ONNX Runtime knows. Optimisations off and on; `exact` outputs must agree bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper

from onnxdam.api import slim
from onnxdam.providers import Runnable, session

Array = np.ndarray[Any, Any]
DIMS = {"N": 3, "M": 3, "S": 5, "T": 4, "P": 2}


def model_of(text: str, weights: Mapping[str, Array], opset: int = 17) -> onnx.ModelProto:
    """The model that the text describes."""
    ir_version = 10 if opset >= 21 else 8
    if opset > 23:
        ir_version = 11
    model = onnx.parser.parse_model(
        f'<ir_version: {ir_version}, opset_import: ["": {opset}, "com.microsoft": 1]> case {text}'
    )
    for name, array in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(array, order="C"), name))
    onnx.checker.check_model(model)
    return model


def feeds_of(model: onnx.ModelProto, seed: int = 0, scale: float = 1.0) -> dict[str, Array]:
    """Random inputs; integers are drawn from 0 and 1 unless 8 bits wide."""
    rng = np.random.default_rng(seed)
    feeds: dict[str, Array] = {}
    known = {t.name for t in model.graph.initializer}
    for value in model.graph.input:
        if value.name in known:
            continue
        kind = value.type.tensor_type
        shape = [d.dim_value or DIMS[d.dim_param] for d in kind.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        if dtype.kind == "f":
            feeds[value.name] = (rng.standard_normal(shape) * scale).astype(dtype)
        elif dtype.itemsize == 1 and dtype.kind in "iu":
            info = np.iinfo(dtype)
            feeds[value.name] = rng.integers(info.min, info.max, shape, endpoint=True).astype(dtype)
        else:
            feeds[value.name] = rng.integers(0, 2, shape).astype(dtype)
    return feeds


def run(model: onnx.ModelProto, feeds: Mapping[str, Array], *, optimise: bool) -> list[Array]:
    """The outputs in ONNX Runtime, on one thread."""
    opened = session(Runnable.of(model), level="on" if optimise else "off", threads=1, exact=True)
    results: list[Array] = opened.run(None, dict(feeds))
    return results


def shapes_of(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes of the initializers by their original names."""
    return {t.name.split("_slim")[0]: tuple(t.dims) for t in model.graph.initializer}


def check(
    text: str,
    weights: Mapping[str, Array],
    narrow: Mapping[str, tuple[int, ...]] | None = None,
    *,
    opset: int = 17,
    tolerance: float = 2e-6,
    scale: float = 1.0,
    feeds: Mapping[str, Array] | None = None,
    optimised: bool = True,
) -> onnx.ModelProto:
    """Slims the model and compares it with itself; `narrow` lists the initializers that must have changed, () is gone.

    Returns:
        The slim model.
    """
    model = model_of(text, weights, opset)
    small, _ = slim(model, align="none")
    onnx.checker.check_model(small)
    for seed in (0, 1):
        data = dict(feeds) if feeds is not None else feeds_of(model, seed, scale)
        for optimise in (False, True) if optimised else (False,):
            for name, a, b in zip(
                [o.name for o in model.graph.output],
                run(model, data, optimise=optimise),
                run(small, data, optimise=optimise),
                strict=True,
            ):
                assert a.shape == b.shape and a.dtype == b.dtype, name
                if a.dtype.kind in "iub":
                    assert (a == b).all(), f"{name}: {(a != b).sum()} of {a.size} integers differ"
                else:
                    size = max(float(np.abs(a).max()), 1e-6)
                    assert np.abs(a.astype(np.float64) - b).max() <= tolerance * size, (
                        name,
                        np.abs(a - b).max() / size,
                    )
    if narrow is not None:
        found = shapes_of(small)
        for name, array in weights.items():
            want = narrow.get(name, array.shape)
            assert found.get(name, ()) == want or (want == () and name not in found), (
                f"{name}: {found.get(name)} instead of {want} in {[n.op_type for n in small.graph.node]}"
            )
    return small
