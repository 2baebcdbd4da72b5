"""Values whose rank nobody knows before run time: every operator must leave them alone, and slim what is beside them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from tests.property.oracle import evaluate, relative_error
from tests.property.properties import size
from tests.property.subject import slim

# u has the shape of the runtime input `s`, here (2, 4, 3, 3); each line computes v from it.
USES = [
    "v = Slice(u, i0, i1, i1)",
    "v, w = Split<axis=1>(u, halves)",
    "v = Concat<axis=1>(u, u)",
    "f = Reshape(x, to4)  v = Concat<axis=1>(u, f)",
    "v = Gather<axis=1>(u, i1)",
    "v = Transpose<perm=[1,0,2,3]>(u)",
    "v = Transpose(u)",
    "v = ReduceSum(u, i1)",
    "v = ReduceMean<axes=[1]>(u)",
    "v = ReduceMax(u)",
    "v = Softmax<axis=1>(u)",
    "v = Flatten(u)",
    "v = Unsqueeze(u, i1)",
    "v = Tile(u, ones4)",
    "v = Expand(u, ones4)",
    "v = Pad(u, pads)",
    "v = Conv(u, K, k)",
    "v = Conv<group=2>(u, K2, k)",
    "v = ConvTranspose(u, K, k)",
    "v = BatchNormalization(u, k, k, k, one4)",
    "v = InstanceNormalization(u, k, k)",
    "v = PRelu(u, slope)",
    "v = Mul(u, slope)",
    "v = Add(slope, u)",
    "v = Where(t, u, zero)",
    "v = Clip(u, zero, zero)",
    "v = MaxPool<kernel_shape=[2,2]>(u)",
    "v = GlobalAveragePool(u)",
    "v = Reshape(u, flat)",
    "v = DepthToSpace<blocksize=2>(u)",
    "v = MatMul(u, M)",
    "v = Einsum<equation=\"...a,ab->...b\">(u, M)",
    "v = LayerNormalization(u, m3, m3)",
    "v = CumSum(u, axis1)",
    "v, w = TopK<axis=1>(u, i1)",
    "q = ArgMax<axis=1>(u)  v = Cast<to=11>(q)",
    "v = Resize<mode=\"nearest\">(u, , scales)",
    "q = Shape(u)  v = Cast<to=11>(q)",
    "v = GatherElements<axis=1>(u, zeros4)",
    "v = ScatterElements<axis=1>(u, zeros4, slope4)",
    "v = Trilu(u)",
    "v = Dropout(u)",
    "v = LpNormalization(u)",
    "v = If(t) <then_branch = a () => (double[b,c] o) { o = Relu(u) }, else_branch = e () => (double[b,c] p) { p = Neg(u) }>",
]  # fmt: skip

RNG = np.random.default_rng(0)
CONSTANTS = {
    "i0": [0], "i1": [1], "halves": [2, 2], "ones4": [1, 1, 1, 1], "pads": [0] * 8, "flat": [0, -1], "minus": [-1], "to4": [2, 4, 3, 3], "axis1": 1,
    "zeros4": np.zeros((2, 1, 3, 3), np.int64), "slope4": RNG.normal(size=(2, 1, 3, 3)), "scales": np.ones(4, np.float32),
    "K": RNG.normal(size=(4, 4, 1, 1)), "k": [0.0, 1, 0, 2], "K2": RNG.normal(size=(4, 2, 1, 1)), "one4": [1.0, 1, 1, 1], "slope": RNG.normal(size=(4, 1, 1)),
    "t": True, "zero": 0.0, "M": RNG.normal(size=(3, 3)), "m3": [0.0, 1, 1],
}  # fmt: skip
HEAD = '<ir_version: 8, opset_import: ["": 17]> trap (double[2,36] x, int64[r] s) => (double[n] z, double[2,5] y) '


@pytest.mark.parametrize("use", USES, ids=lambda use: use.split("(")[0].split("= ")[-1].split("<")[0])
def test_left_alone(use: str) -> None:
    text = (
        HEAD
        + "{ a = MatMul(x, W1)  r = Relu(a)  y = MatMul(r, W2)  u = Reshape(x, s) "
        + use
        + "  z = Reshape(v, minus) }"
    )
    model = onnx.parser.parse_model(text)
    used = {name for node in model.graph.node for name in node.input}
    w1 = RNG.normal(size=(36, 6))
    w1[:, [1, 4]] = 0
    weights = CONSTANTS | {"W1": w1, "W2": RNG.normal(size=(6, 5))}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.array(array), name) for name, array in weights.items() if name in used
    )
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                attribute.g.output[0].type.tensor_type.ClearField("shape")
    onnx.checker.check_model(model, full_check=True)
    small, _ = slim(model)
    onnx.checker.check_model(small, full_check=True)
    feeds = {"x": RNG.normal(size=(2, 36)), "s": np.array([2, 4, 3, 3])}
    for a, b in zip(evaluate(model, feeds), evaluate(small, feeds), strict=True):
        assert relative_error(a, b) < 1e-12
    assert size(model) - size(small) == 2 * 36 + 2 * 5
