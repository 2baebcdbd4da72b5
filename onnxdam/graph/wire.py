"""The weights of a model file where they lie: found in the file's bytes, not copied.

A protobuf parser copies every weight, and hands out one more copy whenever it is asked for it. Here the large weights
are cut out of the message before it is parsed, and read from the bytes of the file. The wire format of protobuf:

    message = (key content)*    key = field number << 3 | kind of content
                                content = varint | varint (length), so many bytes | 4 or 8 bytes
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

LARGE = 1 << 15  # bytes from which the content of a weight is cut out
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
_GRAPH = 7 << 3 | _BYTES  # of a ModelProto
_INITIALIZER = 5 << 3 | _BYTES  # of a GraphProto
_NAME, _RAW_DATA = 8 << 3 | _BYTES, 9 << 3 | _BYTES  # of a TensorProto


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
        pieces: list[bytes | memoryview] = []
        done = start
        for key, at, inside, after in _fields(data, start, end):
            if key == _INITIALIZER and after - inside > LARGE:
                found = _raw_data(data, inside, after)
                if found is None or found[0] in weights:
                    continue
                name, cut, first, past = found
                weights[name] = view[first:past]
                bare = [view[inside:cut], view[past:after]]
                pieces += [view[done:at], _head(_INITIALIZER, bare), *bare]
                done = after
    except (IndexError, ValueError):
        return data, {}
    pieces.append(view[done:end])
    return b"".join([view[:begin], _head(_GRAPH, pieces), *pieces, view[end:]]), weights


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


def _head(key: int, content: Sequence[bytes | memoryview]) -> bytes:
    """Key and length in front of a field's content."""
    size, head = sum(map(len, content)), bytearray([key])
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head)
