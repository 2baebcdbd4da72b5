"""Requests that the server sends to itself before it takes others.

Zeros where the model takes them. Never Triton's random data: those are random bytes, so floats come out as NaN and
integers as indices far outside their tables, and a model whose warm-up fails is not served at all. Where zeros are
refused, inputs that were tried lie in files beside the configuration.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxdam import inputs as feeds
from onnxdam.deploy.ports import Signature
from onnxdam.deploy.trial import Refused, Trial
from onnxdam.errors import UnsupportedError

MOST = 64  # requests that are joined to warm up


@dataclass(frozen=True)
class WarmInput:
    """One input of a warm-up request.

    Attributes:
        name: of the input.
        type: Triton's name of its element type.
        dims: of one request, without the batch axis where the model has one.
        file: name of the file with its data; None: zeros.
        data: what lies in the file.
    """

    name: str
    type: str
    dims: tuple[int, ...]
    file: str | None = None
    data: bytes = b""


@dataclass(frozen=True)
class Sample:
    """Warm-up requests that run together.

    Attributes:
        name: for the server's log.
        requests: how many, each of one row.
        inputs: of each of them.
    """

    name: str
    requests: int
    inputs: tuple[WarmInput, ...]

    def write(self, folder: Path) -> None:
        """Writes the files that the inputs need."""
        for item in self.inputs:
            if item.file is not None:
                folder.mkdir(exist_ok=True)
                (folder / item.file).write_bytes(item.data)


def samples(trial: Trial, signature: Signature, batch: int) -> list[Sample]:
    """Warm-up requests, each run here as the server will run it: one row, and as many as may share a run, up to MOST.

    Raises:
        UnsupportedError: the model takes neither zeros nor anything else that was tried.
    """
    counts = sorted({1, min(batch, MOST)}) if batch else [1]
    sizes, small = trial.accepted(batch=1 if batch else None)
    feed = feeds.random_feed(trial.inputs, sizes, feeds.NORMAL, 0, small)
    zeros = {name: _zeros(array) for name, array in feed.items()}
    blank = all(trial.takes(_repeated(zeros, count)) for count in counts)
    for count in () if blank else counts:
        try:
            trial.run(_repeated(feed, count))
        except Refused as error:
            raise UnsupportedError(f"ONNX Runtime refuses {count} warm-up requests together ({error})") from None
    inputs = tuple(
        WarmInput(
            port.name,
            port.type,
            feed[port.name].shape[1 if batch else 0 :] or (1,),
            None if blank else f"{number}_{re.sub('[^A-Za-z0-9_]', '_', port.name)[:60]}",
            b"" if blank else serialised(feed[port.name]),
        )
        for number, port in enumerate(signature.inputs)
    )
    return [Sample(f"{count} row{'s' * (count > 1)}" if batch else "one request", count, inputs) for count in counts]


def serialised(array: np.ndarray) -> bytes:
    """Row-major little-endian values; of strings their UTF-8 bytes, each after its length in 4 bytes."""
    if array.dtype.kind not in "OSU":
        return np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    encoded = [str(text).encode() for text in array.ravel()]
    return b"".join(struct.pack("<I", len(text)) + text for text in encoded)


def _zeros(array: np.ndarray) -> np.ndarray:
    return np.full(array.shape, "", dtype=object) if array.dtype.kind in "OSU" else np.zeros_like(array)


def _repeated(feed: feeds.Feed, count: int) -> feeds.Feed:
    return feed if count == 1 else {name: np.repeat(array, count, axis=0) for name, array in feed.items()}
