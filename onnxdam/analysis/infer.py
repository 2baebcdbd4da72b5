"""ONNX shape inference for one node, from what is known of its inputs.

Inference on the whole model stops at operators that ONNX does not know; the rules know more of those. Behind them it is
taken up again node by node.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir

from onnxdam.analysis.tensor import Size, Sym, Tensor

if TYPE_CHECKING:
    from onnxdam.rules.base import Op

logger = logging.getLogger(__name__)


def infer_node(
    op: Op, kind: str | None = None, inputs: int | None = None, version: int | None = None, *, real: bool = False
) -> None:
    """Gives outputs of unknown rank the shapes and types that ONNX infers.

    Args:
        op: the node; nothing happens where the rank of an input is unknown.
        kind: the standard operator whose inference to use, where it is not the node's own.
        inputs: how many inputs that operator takes.
        version: its opset, where it is not the node's own.
        real: the operator knows real numbers only: integers are shown to it as such.
    """
    ins = op.ins[:inputs]
    version = version or op.version
    kind = kind or op.node.op_type
    if not any(t.opaque for t in op.outs) or any(t is not None and t.opaque for t in ins) or not onnx.defs.has(kind):
        return
    names: dict[Sym, str] = {}
    node = onnx.NodeProto(op_type=kind)
    schema = onnx.defs.get_schema(kind, version)
    node.input.extend("" if t is None else f"i{i}" for i, t in enumerate(ins))
    node.output.extend(f"o{i}" for i in range(len(op.outs)))
    node.attribute.extend(
        ir.serde.serialize_attribute(a) for a in op.node.attributes.values() if a.name in schema.attributes
    )
    types = {f"i{i}": _type(t, names, real) for i, t in enumerate(ins) if t is not None}
    data = {
        f"i{i}": onnx.numpy_helper.from_array(t.content)
        for i, t in enumerate(ins)
        if t is not None and t.is_known and t.rank <= 1 and t.content.size <= 64 and t.content.dtype.kind in "iuf"
    }
    try:
        found = onnx.shape_inference.infer_node_outputs(schema, node, types, data)
    except Exception as error:  # then the outputs stay unknown, which pins them
        logger.debug("no shapes for %s: %s", op.name, str(error).splitlines()[:1])
        return
    back = {name: size for size, name in names.items()}
    for i, tensor in enumerate(op.outs):
        kind_of = found.get(f"o{i}")
        if kind_of is not None and kind_of.HasField("tensor_type"):
            _adopt(tensor, kind_of.tensor_type, back)


def _adopt(tensor: Tensor, kind: onnx.TypeProto.Tensor, names: dict[str, Sym]) -> None:
    if tensor.dtype is None and kind.elem_type not in (0, onnx.TensorProto.STRING):
        tensor.dtype = ir.DataType(kind.elem_type).numpy()
    if tensor.opaque and kind.HasField("shape"):
        tensor.reshape([_size(d, names, f"{tensor.name}.{i}") for i, d in enumerate(kind.shape.dim)])


def _type(tensor: Tensor, names: dict[Sym, str], real: bool) -> onnx.TypeProto:
    dtype = np.dtype(np.float32) if real or tensor.dtype is None else tensor.dtype
    shape: list[int | str] = [
        s if isinstance(s, int) else names.setdefault(s, f"size{len(names)}") for s in tensor.shape
    ]
    return onnx.helper.make_tensor_type_proto(ir.DataType.from_numpy(dtype).value, shape)


def _size(dim: onnx.TensorShapeProto.Dimension, names: dict[str, Sym], fallback: str) -> Size:
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    return names.get(dim.dim_param) or Sym(1, (dim.dim_param or fallback,))
