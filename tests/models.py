"""Small models that several tests share, made from text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'


def parsed(text: str, header: str = HEADER, **weights: np.ndarray) -> onnx.ModelProto:
    """A model from ONNX text; `weights` become initializers."""
    model = onnx.parser.parse_model(header + text)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    return model


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """Standard normal float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def mlp(masked: int = 3, hidden: int = 8, wide: int = 0) -> onnx.ModelProto:
    """x[N, 4] -> Gemm -> Relu -> Gemm -> y[N, 2]; the first `masked` hidden units are zero."""
    w1, b1 = normal(4, hidden + wide), normal(hidden + wide, seed=1)
    w1[:, :masked] = 0
    b1[:masked] = 0
    text = "g (float[N, 4] x) => (float[N, 2] y) { h = Gemm(x, w1, b1)  r = Relu(h)  y = Gemm(r, w2, b2) }"
    return parsed(text, w1=w1, b1=b1, w2=normal(hidden + wide, 2, seed=2), b2=normal(2, seed=3))


def saved(model: onnx.ModelProto, folder: Path, name: str = "model.onnx", external: bool = False) -> Path:
    """Writes a model, its weights in NAME.data if `external`."""
    path = folder / name
    onnx.save(model, path, save_as_external_data=external, location=f"{name}.data", size_threshold=0)
    return path
