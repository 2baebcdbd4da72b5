"""Why a value stays that has no axes to speak of."""

from __future__ import annotations

import numpy as np
import pytest

import onnxdam
from onnxdam.errors import InputError
from tests.models import normal, parsed

SCALARS = parsed(
    """g (float[N, 4] x, float s, float u) => (float[N, 2] y, float t)
    { h = MatMul(x, w)  d = Mul(s, two)  y = Mul(h, d)  t = ReduceSum <keepdims = 0> (y)  q = Neg(u) }""",
    w=normal(4, 2),
    two=np.float32(2),
)


def said(model: object, where: str) -> list[str]:
    return [str(step) for step in onnxdam.explain(model, where)]  # type: ignore[arg-type]


def test_single_numbers() -> None:
    """The chain goes on through values with axes, down to an output."""
    behind = ["d stays: read as a whole [Mul Mul(y)]", "y:1:0 stays: a graph output"]
    assert said(SCALARS, "d") == behind
    assert said(SCALARS, "s") == ["s stays: read as a whole [Mul Mul(d)]", *behind]
    assert said(SCALARS, "two") == ["two stays: read as a whole [Mul Mul(d)]", *behind]
    assert said(SCALARS, "t") == ["t stays: a graph output"]
    assert said(SCALARS, "q") == said(SCALARS, "u") == []


def test_axes_of_one_slot() -> None:
    model = parsed(
        "g (float[N, 4] x) => (float[N, 2] y) { h = ReduceMean <axes = [1]> (x)  r = Relu(h)  y = Mul(r, w) }",
        w=normal(2),
    )
    behind = ["r stays: read as a whole [Mul Mul(y)]", "y:1:0 stays: a graph output"]
    assert said(model, "r:1:0") == behind
    assert said(model, "h") == ["h stays: read as a whole [Relu Relu(r)]", *behind]


def test_unknown_rank() -> None:
    model = parsed("g (float[N, 4] x, int64[K] k) => (float[N] y) { h = Reshape(x, k)  y = Relu(h) }")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    assert said(model, "h") == ["h stays: read as a whole [Relu Relu(y)]", "y stays: a graph output"]
    with pytest.raises(InputError, match="h:0: the rank of the value is not known; ask without an axis"):
        said(model, "h:0")


def test_axes_that_are_not_there() -> None:
    with pytest.raises(InputError, match="d:0: the value is a single number; ask without an axis"):
        said(SCALARS, "d:0")
    with pytest.raises(InputError, match="y:2: the value has 2 axes"):
        said(SCALARS, "y:2")
