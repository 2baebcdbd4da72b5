"""Large weights go around protobuf, into a model and out of it.

A protobuf parser copies every weight, and hands out one more copy whenever it is asked for it; writing takes two more.
Here the large weights are cut out of the message before it is parsed, and read where they lie in the bytes of the file.
When a model is written they are put in between the pieces of a message that lacks them. The wire format of protobuf:

    message = (key content)*    key = field number << 3 | kind of content
                                content = varint | varint (length), so many bytes | 4 or 8 bytes
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Protocol, TypeGuard

import numpy as np
import onnx_ir as ir

LARGE = 1 << 15  # bytes from which the content of a weight is cut out
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
_NOTHING = ir.Tensor(np.empty(0, np.uint8))
_GRAPH = 7 << 3 | _BYTES  # of a ModelProto
_INITIALIZER = 5 << 3 | _BYTES  # of a GraphProto
_NAME, _RAW_DATA = 8 << 3 | _BYTES, 9 << 3 | _BYTES  # of a TensorProto


class Content(Protocol):
    """Bytes that are there, or will be when they are asked for: a weight, a piece of a message."""

    @property
    def nbytes(self) -> int:
        """How many there are."""

    def tobytes(self) -> bytes:
        """The bytes."""


def take_weights(data: bytes) -> tuple[bytes, dict[str, memoryview]]:
    """A serialised model without the content of its large initializers, and that content by name.

    A message that is not built as expected comes back as it is: to say what is wrong with it is up to the parser.
    """
    weights: dict[str, memoryview] = {}
    view = memoryview(data)
    try:
        graphs = [field for field in _fields(data, 0, len(data)) if field[0] == _GRAPH]
        if len(graphs) != 1:
            return data, {}
        _, begin, start, end = graphs[0]
        pieces: list[Content] = []
        done = start
        for key, at, inside, after in _fields(data, start, end):
            if key == _INITIALIZER and after - inside > LARGE:
                found = _raw_data(data, inside, after)
                if found is None or found[0] in weights:
                    continue
                name, cut, first, past = found
                weights[name] = view[first:past]
                bare: list[Content] = [view[inside:cut], view[past:after]]
                pieces += [view[done:at], _head(_INITIALIZER, bare), *bare]
                done = after
    except (IndexError, ValueError):
        return data, {}
    pieces.append(view[done:end])
    return b"".join(_model(view, begin, pieces, end)), weights


def put_weights(data: bytes, weights: Sequence[Content | None]) -> Iterator[bytes]:
    """The inverse of `take_weights`: a serialised model whole, piece by piece.

    Args:
        data: the message; the content of large initializers is there, and empty.
        weights: for every initializer of the main graph the content to put there, None where it is not missing. Each is
            asked for its bytes when its turn comes.
    """
    view = memoryview(data)
    _, begin, start, end = next(field for field in _fields(data, 0, len(data)) if field[0] == _GRAPH)
    stored = (field for field in _fields(data, start, end) if field[0] == _INITIALIZER)
    pieces: list[Content] = []
    done = start
    for (_, at, inside, after), weight in zip(stored, weights, strict=True):
        found = None if weight is None else _raw_data(data, inside, after)
        if weight is None or found is None:
            continue
        _, cut, _, past = found
        whole = [view[inside:cut], _head(_RAW_DATA, [weight]), weight, view[past:after]]
        pieces += [view[done:at], _head(_INITIALIZER, whole), *whole]
        done = after
    pieces.append(view[done:end])
    return _model(view, begin, pieces, end)


@contextlib.contextmanager
def hollow(model: ir.Model) -> Iterator[list[Content | None]]:
    """Takes the content of large initializers out of a model, for as long as the context lasts.

    Yields:
        For every initializer the content that it lacks, None where it lacks none.
    """
    values = [value for value in model.graph.initializers.data.values() if value.const_value is not None]
    weights = [weight if _is_large(weight := value.const_value) else None for value in values]
    try:
        for value, weight in zip(values, weights, strict=True):
            if weight is not None:
                value.const_value = ir.LazyTensor(
                    lambda: _NOTHING, weight.dtype, weight.shape,
                    name=value.name or "", doc_string=weight.doc_string, metadata_props=weight.metadata_props,
                )  # fmt: skip
        yield [*weights]
    finally:
        for value, weight in zip(values, weights, strict=True):
            if weight is not None:
                value.const_value = weight


def _is_large(tensor: object) -> TypeGuard[ir.Tensor | ir.LazyTensor]:
    """Whether a tensor is one that is written as its bytes, and many of them."""
    return isinstance(tensor, (ir.Tensor, ir.LazyTensor)) and tensor.nbytes > LARGE


def _model(view: memoryview, begin: int, graph: Sequence[Content], end: int) -> Iterator[bytes]:
    """A message whose field from `begin` to `end`, the graph, has become another."""
    for piece in (view[:begin], _head(_GRAPH, graph), *graph, view[end:]):
        yield piece.tobytes()


def _raw_data(data: bytes, start: int, end: int) -> tuple[str, int, int, int] | None:
    """Name of a tensor, where the field with its content begins, and where the content itself begins and ends."""
    fields = {key: (begin, first, past) for key, begin, first, past in _fields(data, start, end)}
    if _NAME not in fields or _RAW_DATA not in fields:
        return None
    _, first, past = fields[_NAME]
    return data[first:past].decode(), *fields[_RAW_DATA]


def _fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Key of every field of a message, where the field begins, and where its content begins and ends."""
    while at < end:
        begin = at
        key, at = _varint(data, at)
        first, kind = at, key & 7
        if kind == _BYTES:
            size, first = _varint(data, at)
            at = first + size
        elif kind == _VARINT:
            _, at = _varint(data, at)
        elif kind in (_EIGHT, _FOUR):
            at += 8 if kind == _EIGHT else 4
        else:
            raise ValueError("a group, which ONNX does not have")
        yield key, begin, first, at
    if at != end:
        raise ValueError("the last field runs past the end")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at this place, and the place behind it."""
    value = data[at]
    at += 1
    if value < 0x80:
        return value, at
    value, shift = value & 0x7F, 7
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _head(key: int, content: Sequence[Content]) -> memoryview:
    """Key and length in front of a field's content."""
    size, head = sum(piece.nbytes for piece in content), bytearray([key])
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return memoryview(head)
