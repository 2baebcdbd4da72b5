"""What tells one model from another: the graph and every byte of the weights, at the speed of memory."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxdam.graph.traverse import graphs
from onnxdam.graph.window import Window


def fingerprint(model: ir.Model) -> str:
    """Identifies a model by its graph and every byte of its weights, whatever file or object it came from.

    The graph and tensors up to 64 KiB go through blake2b. Of a larger tensor, seen as a matrix of 64-bit words with
    2048 columns, all row sums and all column sums do: that reads every byte at the speed of memory (about 6 ms per
    100 MB) and tells any two masks of one network apart, but it is a checksum against mistakes, not against malice.

    Returns:
        32 hexadecimal digits.
    """
    digest, window = hashlib.blake2b(digest_size=16), Window()
    for graph in graphs(model):
        text = [f"graph {[str(v) for v in graph.inputs]} {[v.name for v in graph.outputs]}"]
        held = list(graph.initializers.values()) if isinstance(graph, ir.Graph) else []
        for node in graph:
            names = _names(node.inputs), _names(node.outputs)
            text.append(f"{node.domain}.{node.op_type}.{node.overload} {names}")
            for name, attribute in sorted(node.attributes.items()):
                text.append(f"{name} {attribute.type} {_attribute_text(attribute, window)}")
        for value in sorted(held, key=lambda v: v.name or ""):
            if value.const_value is not None:
                text.append(f"{value.name} {_tensor_text(value.const_value, window)}")
        digest.update("\n".join(text).encode())
    window.close()
    return digest.hexdigest()


def _names(values: Sequence[ir.Value | None]) -> list[str | None]:
    """Names of what a node reads or writes; those left out at the end are not written to files."""
    names = ["" if v is None else v.name for v in values]
    while names and not names[-1]:
        names.pop()
    return names


def _attribute_text(attribute: ir.Attr, window: Window) -> str:
    if attribute.is_ref():
        return f"= {attribute.ref_attr_name}"
    if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
        return ""  # visited on its own
    if attribute.type == ir.AttributeType.TENSOR:
        return _tensor_text(attribute.value, window)
    if attribute.type == ir.AttributeType.TENSORS:
        return " ".join(_tensor_text(tensor, window) for tensor in attribute.value)
    return repr(attribute.value)


def _tensor_text(tensor: ir.TensorProtocol, window: Window) -> str:
    array = window.read(tensor)
    if array.dtype.kind in "OSU":
        content = repr(array.tolist()).encode()
        return f"{tensor.dtype} {array.shape} {hashlib.blake2b(content, digest_size=16).hexdigest()}"
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return f"{tensor.dtype} {array.shape} {_checksum(data)}"


def _checksum(data: np.ndarray) -> str:
    if data.size <= _WHOLE:
        return hashlib.blake2b(data.data, digest_size=16).hexdigest()
    digest = hashlib.blake2b(digest_size=16)
    rows = data.size // (8 * _COLUMNS)
    words = data[: rows * 8 * _COLUMNS].view(np.uint64).reshape(rows, _COLUMNS)
    columns = np.zeros(_COLUMNS, np.uint64)
    for first in range(0, rows, _ROWS):  # one block stays in the cache for both sums
        block = words[first : first + _ROWS]
        columns += np.add.reduce(block, axis=0)
        digest.update(np.add.reduce(block, axis=1).tobytes())
    digest.update(columns.tobytes())
    digest.update(data[rows * 8 * _COLUMNS :].data)
    return digest.hexdigest()


_WHOLE, _COLUMNS, _ROWS = 2**16, 2048, 128
