"""What slim computes ahead of time is what the graph would compute: operators on known tensors, in every opset's own meaning.

The reference evaluator of onnx is wrong for several of these (tests/property/reference_ops.py lists them), so a rewriter that
folds with it would be, too. The truth here is that evaluator with its faults corrected, which is itself compared with ONNX
Runtime in tests/property/test_oracle.py.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from tests.property.oracle import evaluate, relative_error
from tests.property.subject import slim

RNG = np.random.default_rng(0)
# opset, nodes that compute c from weights, the weights
FOLDED = [
    (11, "c = Softmax<axis=1>(a)", {"a": RNG.normal(size=(2, 3, 4))}),
    (11, "c = Softmax(a)", {"a": RNG.normal(size=(2, 3, 4))}),
    (11, "c = LogSoftmax<axis=0>(a)", {"a": RNG.normal(size=(2, 3, 4))}),
    (11, "c = Hardmax<axis=1>(a)", {"a": RNG.normal(size=(2, 3, 4))}),
    (13, "c = Softmax(a)", {"a": RNG.normal(size=(2, 3, 4))}),
    (9, "c = BatchNormalization(a, s, b, m, v)", {"a": RNG.normal(size=(2, 3, 4)), "s": RNG.normal(size=3),
                                                  "b": RNG.normal(size=3), "m": RNG.normal(size=3), "v": RNG.random(3) + 1}),
    (15, "c = BatchNormalization(a, s, b, m, v)", {"a": RNG.normal(size=(2, 3, 4)), "s": RNG.normal(size=3),
                                                   "b": RNG.normal(size=3), "m": RNG.normal(size=3), "v": RNG.random(3) + 1}),
    (13, "c = GlobalMaxPool(a)", {"a": RNG.normal(size=(2, 3, 4))}),
    (13, "c = GlobalMaxPool(a)", {"a": RNG.normal(size=(2, 3, 4, 3, 2))}),
    (13, "c = MaxPool<kernel_shape=[2,3,2], pads=[0,1,0,0,1,0]>(a)", {"a": RNG.normal(size=(1, 2, 4, 3, 3))}),
    (13, "c = ConvTranspose<group=2, strides=[2]>(a, w)", {"a": RNG.normal(size=(1, 4, 3)), "w": RNG.normal(size=(4, 2, 2))}),
    (13, "c = GatherElements<axis=0>(a, i)", {"a": RNG.normal(size=(4, 3)), "i": np.array([[2], [0]])}),
    (13, "c = Pad(a, p)", {"a": RNG.normal(size=(4, 3)), "p": np.array([0, -1, 1, 0])}),
    (13, "c = Mean(b, a)", {"a": RNG.normal(size=(4, 3)), "b": RNG.normal(size=(1, 3))}),
    (13, "c = Sum(b, a)", {"a": RNG.normal(size=(4, 3)), "b": RNG.normal(size=(1, 3))}),
    (13, "c = Erf(a)", {"a": RNG.normal(size=(4, 3))}),
    (20, "c = Gelu(a)", {"a": RNG.normal(size=(4, 3))}),
    (20, "c = Gelu<approximate=\"tanh\">(a)", {"a": RNG.normal(size=(4, 3))}),
    (14, "c = HardSwish(a)", {"a": RNG.normal(size=(4, 3))}),
    (13, "c = HardSigmoid(a)", {"a": RNG.normal(size=(4, 3))}),
    (13, "c = Selu(a)", {"a": RNG.normal(size=(4, 3))}),
    (13, "c = LeakyRelu(a)", {"a": RNG.normal(size=(4, 3))}),
    (13, "d = DequantizeLinear(q, s)  c = Cast<to=11>(d)", {"q": np.array([-3, 7, 100], np.int8), "s": np.float32(0.1)}),
    (13, "d = DequantizeLinear<axis=0>(q, s, o)  c = Cast<to=11>(d)",
     {"q": np.array([[-3, 7], [100, 1]], np.int8), "s": np.array([0.1, 0.3], np.float32), "o": np.array([1, -2], np.int8)}),
    (13, "c = CumSum<exclusive=1, reverse=1>(a, i)", {"a": RNG.normal(size=(4, 3)), "i": np.array(0)}),
    (13, "c = ReduceMean(a)", {"a": RNG.normal(size=(4, 3))}),
    (13, "c = Slice(a, i, j, k, l)", {"a": RNG.normal(size=(4, 3)), "i": np.array([-1]), "j": np.array([-(2**31)]),
                                      "k": np.array([0]), "l": np.array([-2])}),
    (13, "c = ScatterND(a, i, u)", {"a": RNG.normal(size=(4, 3)), "i": np.array([[1], [3]]), "u": RNG.normal(size=(2, 3))}),
    (13, "c = Mod<fmod=1>(a, b)", {"a": RNG.normal(size=(4, 3)), "b": RNG.normal(size=(4, 3))}),
    (13, "d = Div(i, j)  c = Cast<to=11>(d)", {"i": np.array([-7, 7, 8]), "j": np.array([2, -2, 3])}),
    (13, "c = Round(a)", {"a": np.array([0.5, 1.5, -0.5, 2.5])}),
    (13, "d = Cast<to=7>(a)  c = Cast<to=11>(d)", {"a": np.array([-1.7, 1.7, 2.5])}),
    (13, "d = Cast<to=1>(a)  c = Cast<to=11>(d)", {"a": RNG.normal(size=5)}),
    (13, "c = LRN<size=3>(a)", {"a": RNG.normal(size=(1, 4, 2, 2))}),
    (13, "c = InstanceNormalization(a, s, s)", {"a": RNG.normal(size=(2, 3, 4)), "s": RNG.normal(size=3)}),
    (13, "c = DepthToSpace<blocksize=2, mode=\"CRD\">(a)", {"a": RNG.normal(size=(1, 8, 2, 2))}),
]  # fmt: skip


@pytest.mark.parametrize(("opset", "nodes", "weights"), FOLDED, ids=[f"{o}-{n[4:30]}" for o, n, _ in FOLDED])
def test_folded_as_computed(opset: int, nodes: str, weights: dict[str, np.ndarray]) -> None:  # type: ignore[type-arg]
    header = f'<ir_version: 8, opset_import: ["": {opset}]> trap '
    text = header + "(double[N,5] x) => (double[M] z, double[N,2] y) {" + nodes
    text += "  f = Reshape(c, minus)  s0 = ReduceSum<keepdims=0>(x)  z = Add(f, s0)  g = MatMul(x, W1)  r = Relu(g)  y = MatMul(r, W2) }"
    model = onnx.parser.parse_model(text)
    w1 = RNG.normal(size=(5, 6))
    w1[:, [0, 3]] = 0
    arrays = weights | {"minus": np.array([-1]), "W1": w1, "W2": RNG.normal(size=(6, 2))}
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), n) for n, a in arrays.items())
    onnx.checker.check_model(model, full_check=True)
    small, _ = slim(model)
    feeds = {"x": RNG.normal(size=(3, 5))}
    for wanted, found in zip(evaluate(model, feeds), evaluate(small, feeds), strict=True):
        assert relative_error(wanted, found) < 1e-12
