"""Makes models/demo_masked.onnx: a small residual network for 32x32 images, most of its channels masked by gates.

    python models/make_demo.py [OUT.onnx]

The form is the pre-activation ResNet with the gates of discriminative masking: in every block, a vector that is exactly
zero for the masked channels multiplies the features before BatchNorm, so that a masked channel is not zero afterwards
but the constant ReLU(BN(0)). The weights are random (seeded): the point is the function, not its accuracy. Needs numpy
and onnx only.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

WIDTHS = (32, 64, 128)  # channels of the three stages, at 32x32, 16x16 and 8x8
BLOCKS = 1  # per stage
MASKED = 0.6  # share of the gated channels that is masked
CLASSES = 10
OPSET = 17


class _Builder:
    """Nodes and weights of the network under construction."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def add(self, op: str, inputs: list[str], name: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def weight(self, name: str, array: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def conv(self, x: str, name: str, c_in: int, c_out: int, size: int, stride: int = 1) -> str:
        scale = np.sqrt(2 / (c_in * size * size))
        w = self.weight(f"{name}.weight", self.rng.normal(0, scale, (c_out, c_in, size, size)))
        pad = [size // 2] * 4
        return self.add("Conv", [x, w], name, kernel_shape=[size, size], pads=pad, strides=[stride, stride])

    def norm_relu(self, x: str, name: str, channels: int) -> str:
        content = {
            "weight": self.rng.uniform(0.5, 1.5, channels),
            "bias": self.rng.normal(0, 0.3, channels),
            "mean": self.rng.normal(0, 0.3, channels),
            "var": self.rng.uniform(0.5, 1.5, channels),
        }
        names = [self.weight(f"{name}.{key}", array) for key, array in content.items()]
        return self.add("Relu", [self.add("BatchNormalization", [x, *names], name)], f"{name}.relu")

    def gate(self, x: str, name: str, channels: int) -> str:
        gates = self.rng.uniform(0.5, 1.0, channels)
        gates[self.rng.permutation(channels)[: round(MASKED * channels)]] = 0
        return self.add("Mul", [x, self.weight(f"{name}.mask", gates.reshape(1, channels, 1, 1))], name)

    def block(self, x: str, name: str, c_in: int, c_out: int, stride: int) -> str:
        active = self.norm_relu(x, f"{name}.norm1", c_in)
        inner = self.conv(active, f"{name}.conv1", c_in, c_out, 3, stride)
        inner = self.norm_relu(self.gate(inner, f"{name}.gate", c_out), f"{name}.norm2", c_out)
        inner = self.conv(inner, f"{name}.conv2", c_out, c_out, 3)
        if c_in != c_out:
            x = self.conv(active, f"{name}.shortcut", c_in, c_out, 1, stride)
        return self.add("Add", [x, inner], f"{name}.add")


def make(seed: int = 0) -> onnx.ModelProto:
    """The masked network; the batch is dynamic."""
    net = _Builder(seed)
    x, channels = net.conv("image", "stem", 3, WIDTHS[0], 3), WIDTHS[0]
    for stage, width in enumerate(WIDTHS):
        for number in range(BLOCKS):
            stride = 2 if stage and not number else 1
            x, channels = net.block(x, f"stage{stage}.block{number}", channels, width, stride), width
    x = net.norm_relu(x, "head.norm", channels)
    x = net.add("Flatten", [net.add("GlobalAveragePool", [x], "head.pool")], "head.flat")
    w = net.weight("head.weight", net.rng.normal(0, 0.1, (CLASSES, channels)))
    net.add("Gemm", [x, w, net.weight("head.bias", net.rng.normal(0, 0.1, CLASSES))], "scores", transB=1)
    graph = helper.make_graph(
        net.nodes,
        "masked_preresnet",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["batch", 3, 32, 32])],
        [helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, ["batch", CLASSES])],
        net.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    model.producer_name = "onnxdam models/make_demo.py"
    onnx.checker.check_model(model, full_check=True)
    return model


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("demo_masked.onnx")
    onnx.save(make(), target)
    print(f"{target}: {target.stat().st_size:,} bytes")
