"""Running a model on inputs that somebody made up, to see what it takes."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort

from onnxdam import inputs as feeds
from onnxdam.errors import InputError, UnsupportedError
from onnxdam.providers import reason


class Refused(Exception):
    """ONNX Runtime does not run the model on some inputs; the message is its own."""


@dataclass
class Trial:
    """A model in ONNX Runtime, and what is known of its inputs.

    Attributes:
        session: of ONNX Runtime, or something with its `run`.
        inputs: what `onnxdam.inputs.describe` said.
        fixed: sizes of dynamic dimensions that the caller chose.
    """

    session: Any
    inputs: list[feeds.Input]
    fixed: Mapping[str, int]

    def __post_init__(self) -> None:
        known = {dim for item in self.inputs for dim in item.dims if isinstance(dim, str)}
        unknown = sorted(set(self.fixed) - known)
        if unknown:
            raise InputError(f"no dynamic dimension {unknown[0]!r}; there are: {', '.join(sorted(known)) or 'none'}")
        if any("bfloat16" in value.type for value in (*self.session.get_inputs(), *self.session.get_outputs())):
            self.session = _BFloat16(self.session)

    def run(self, feed: feeds.Feed) -> list[np.ndarray]:
        """All outputs.

        Raises:
            Refused: ONNX Runtime does not take these inputs.
        """
        try:
            found: list[np.ndarray] = self.session.run(None, feed)
        except Exception as error:  # the runtime's exceptions share no base class
            raise Refused(reason(error)) from None
        return found

    def takes(self, feed: feeds.Feed) -> bool:
        """Whether the model runs on these inputs."""
        try:
            self.run(feed)
        except Refused:
            return False
        return True

    @property
    def first(self) -> list[str]:
        """The dynamic dimensions that are the first axis of an input."""
        return [str(dim) for item in self.inputs for dim in item.dims[:1] if isinstance(dim, str)]

    def accepted(self, batch: int | None = None) -> tuple[feeds.Sizes, bool]:
        """Sizes of the dynamic dimensions that the model takes, and whether its integers have to be small.

        Args:
            batch: the size of every dynamic first axis; None where those are dimensions like others.

        Raises:
            UnsupportedError: it takes none of those that were tried.
        """
        problem = ""
        for sizes, small in self._candidates(batch):
            try:
                self.run(feeds.random_feed(self.inputs, sizes, feeds.NORMAL, 0, small))
            except Refused as error:
                problem = str(error)
            else:
                return sizes, small
        raise UnsupportedError(
            f"ONNX Runtime refuses all random inputs that were tried (last: {problem}); give sizes with --size, "
            "or go without warm-up and check (--no-warmup --no-verify)"
        )

    def _candidates(self, batch: int | None) -> Iterator[tuple[feeds.Sizes, bool]]:
        seen = []
        for candidate in feeds.candidates(self.inputs):
            sizes = candidate | dict(self.fixed) | ({} if batch is None else dict.fromkeys(self.first, batch))
            if sizes not in seen:
                seen.append(sizes)
                yield from ((sizes, False), (sizes, True))


class _BFloat16:
    """A session whose `run` takes and gives bfloat16 arrays, which that of ONNX Runtime does not."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def run(self, names: list[str] | None, feed: feeds.Feed) -> list[np.ndarray]:
        given = {name: _to_runtime(array) for name, array in feed.items()}
        return [_from_runtime(value) for value in self._session.run_with_ort_values(names, given)]


def _to_runtime(array: np.ndarray) -> ort.OrtValue:
    if array.dtype != ml_dtypes.bfloat16:
        return ort.OrtValue.ortvalue_from_numpy(array)
    bits = np.ascontiguousarray(array).view(np.uint16)
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, onnx.TensorProto.BFLOAT16)


def _from_runtime(value: ort.OrtValue) -> np.ndarray:
    if value.data_type() != "tensor(bfloat16)":
        return np.asarray(value.numpy())
    shape = tuple(value.shape())
    held = ctypes.string_at(value.data_ptr(), 2 * int(np.prod(shape)))
    return np.frombuffer(held, ml_dtypes.bfloat16).reshape(shape)
