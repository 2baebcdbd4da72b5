"""Integer products that this processor gets wrong, and what has ONNX Runtime get them right.

On x86 processors without VNNI the runtime adds pairs of 8-bit products (unsigned times signed) in 16 bits, which
saturate. The sums then depend on which products are neighbours, and a network that lost zeros gives other numbers. An
optimisation of the runtime, asked for by OPTION, makes such weights unsigned, which is right everywhere.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime as ort
from onnx import parser

from onnxdam.rules.integer import TABLE

OPTION = "session.x64quantprecision"
_FUSED = {("", "DequantizeLinear")}  # products of such operands become products of integers, optimised
_PROBE = """<ir_version: 8, opset_import: ["": 13]>
    probe (uint8[1,2] x, int8[2,1] w) => (int32[1,1] y) { y = MatMulInteger(x, w) }"""


def saturates(model: onnx.ModelProto, *, fused: bool) -> bool:
    """Whether the model has products of 8-bit integers that this processor gets wrong where they are large.

    Args:
        model: weights need not be loaded.
        fused: count those, too, that graph optimisations make of dequantised operands.
    """
    nodes = list(_nodes(model.graph))
    if any(attribute.name == "block_size" and attribute.i for node in nodes for attribute in node.attribute):
        return False  # the optimisation breaks blocked zero points, of which the runtime makes no integer products
    kinds = set(TABLE) | (_FUSED if fused else set())
    return any(_kind(node) in kinds for node in nodes) and _processor_saturates()


def apart(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with weights and zero points of their own for every product.

    The runtime's optimisation names what it makes after them, and stops at a name that is there already.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    signed = {t.name: t for t in copy.graph.initializer if t.data_type == onnx.TensorProto.INT8}
    seen: set[str] = set()
    for node in _nodes(copy.graph):
        if _kind(node) not in TABLE and _kind(node) not in _FUSED:
            continue
        for index, name in enumerate(node.input):
            if name in seen:
                own = copy.graph.initializer.add()
                own.CopyFrom(signed[name])
                own.name = node.input[index] = f"{name}_apart_{len(copy.graph.initializer)}"
            elif name in signed:
                seen.add(name)
    return copy


def _kind(node: onnx.NodeProto) -> tuple[str, str]:
    return node.domain.removeprefix("ai.onnx"), node.op_type


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


@functools.cache
def _processor_saturates() -> bool:
    probe = parser.parse_model(_PROBE)
    opened = ort.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    [sums] = opened.run(None, {"x": np.full((1, 2), 255, np.uint8), "w": np.full((2, 1), 127, np.int8)})
    return int(sums.item()) != 2 * 255 * 127
