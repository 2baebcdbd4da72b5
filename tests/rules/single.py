"""Rules of operators that exist in single precision only: masked against slim in ONNX Runtime, and the narrow shapes.

Single("name", "(float[N,3,4,5] x) => (float[N,2,4,5] y) { ... }", weights, zero, narrow)     as in tests.handmade
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
from onnx import numpy_helper

import onnxdam

SIZES = ({"N": 2, "T": 3, "H": 4, "V": 5}, {"N": 3, "T": 5, "H": 6, "V": 3})
DTYPES = {1: np.float32, 7: np.int64, 6: np.int32, 9: np.bool_}


@dataclass(frozen=True)
class Single:
    """One graph in float32, its mask, and what must be left of it.

    Attributes:
        text: the graph in the ONNX text syntax.
        weights: shapes, filled with random numbers, or arrays.
        zero: initializer -> index (or list of indices) that the mask zeroes.
        narrow: initializer -> shape that must be left; the others keep theirs.
        high: integer inputs are drawn below this number.
    """

    name: str
    text: str
    weights: Mapping[str, Any] = field(default_factory=dict)
    zero: Mapping[str, Any] = field(default_factory=dict)
    narrow: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    opset: int = 17
    high: int = 3
    least: float = 0.0

    def __str__(self) -> str:
        return self.name

    def model(self) -> onnx.ModelProto:
        """The masked model."""
        rng = np.random.default_rng(3)
        header = f'<ir_version: 8, opset_import: ["": {self.opset}, "com.microsoft": 1]> single '
        model = onnx.parser.parse_model(header + self.text)
        for name, given in self.weights.items():
            is_shape = isinstance(given, tuple) and all(isinstance(d, int) for d in given)
            array = rng.normal(size=given).astype(np.float32) if is_shape else np.array(given)
            for index in [self.zero[name]] if name in self.zero else []:
                array[index] = 0
            model.graph.initializer.append(numpy_helper.from_array(array, name))
        return model

    def check(self) -> onnx.ModelProto:
        """Equal at two sizes of every dynamic dimension, and as narrow as expected."""
        model = self.model()
        small, _ = onnxdam.slim(model, align="none", strict=False)
        left = {t.name: tuple(t.dims) for t in small.graph.initializer}
        for tensor in model.graph.initializer:
            wanted = self.narrow.get(tensor.name, tuple(tensor.dims))
            if tensor.data_type == 1 and wanted != ():
                assert left.get(tensor.name) == wanted, f"{tensor.name}: {left}\n{onnx.printer.to_text(small)}"
        for kind, sizes in enumerate(SIZES):
            feeds = self.feeds(model, sizes, kind)
            for a, b in zip(run(model, feeds), run(small, feeds), strict=True):
                assert a.shape == b.shape
                assert np.isfinite(a.astype(float)).all()
                error = np.abs(a.astype(float) - b.astype(float)).max(initial=0)
                assert error <= 1e-5 * max(np.abs(a.astype(float)).max(initial=0), 1e-3), (
                    error,
                    onnx.printer.to_text(small),
                )
        return small

    def feeds(self, model: onnx.ModelProto, sizes: Mapping[str, int], seed: int) -> dict[str, Any]:
        rng = np.random.default_rng(seed)
        found = {}
        for value in model.graph.input:
            kind = value.type.tensor_type
            shape = [d.dim_value or sizes[d.dim_param] for d in kind.shape.dim]
            dtype = DTYPES[kind.elem_type]
            floats = np.maximum(rng.normal(size=shape), self.least) if self.least else rng.normal(size=shape)
            array = floats if dtype is np.float32 else rng.integers(0, self.high, size=shape)
            found[value.name] = array.astype(dtype)
        return found


def run(model: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    """Outputs in ONNX Runtime, without its graph optimisations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))
