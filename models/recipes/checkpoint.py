"""Checkpoints: a file with the state of a run and what the run is; plain data, read without running any of it."""

from __future__ import annotations

import dataclasses
import pickle
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onnxdam.errors import InputError
from onnxdam.graph import io

FORMAT = 1


class Checkpoint:
    """Where the state of a run lies.

    Args:
        path: the file.
        identity: what the run is, of strings, numbers, None and dicts; a file of another one is refused.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path = path
        self.identity = dict(identity)

    def write(self, state: Mapping[str, Any]) -> None:
        """Replaces the file; a run that is killed meanwhile leaves the old one.

        Raises:
            InputError: the file cannot be written.
        """
        with io.staged(self.path) as temporary:
            torch.save({"format": FORMAT, "identity": self.identity, "state": dict(state)}, temporary)

    def read(self) -> dict[str, Any]:
        """The state, on the CPU.

        Raises:
            InputError: the file is no checkpoint, or that of another run.
        """
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
            assert content["format"] == FORMAT
            found, state = dict(content["identity"]), dict(content["state"])
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror})") from None
        except (pickle.UnpicklingError, RuntimeError, EOFError, AssertionError, KeyError, TypeError, ValueError):
            raise InputError(f"{self.path}: is not a checkpoint of `onnxdam train` (or is damaged)") from None
        for name in (*self.identity, *found):
            if self.identity.get(name) != found.get(name):
                raise InputError(
                    f"{self.path}: belongs to another run: its {name} is {found.get(name)}, not "
                    f"{self.identity.get(name)}; name another checkpoint, or the same options"
                )
        return state


def fingerprint(data: Any) -> str:
    """A checksum of all tensors and arrays of the data."""
    total = 0
    for array in _arrays(data):
        total = zlib.crc32(
            np.ascontiguousarray(array).tobytes(), zlib.crc32(f"{array.dtype}{array.shape}".encode(), total)
        )
    return f"{total:08x}"


def _arrays(data: Any) -> Iterator[Any]:
    if isinstance(data, Tensor):
        yield data.numpy()
    elif isinstance(data, np.ndarray):
        yield data
    elif dataclasses.is_dataclass(data) and not isinstance(data, type):
        for field in dataclasses.fields(data):
            yield from _arrays(getattr(data, field.name))
    elif isinstance(data, tuple | list):
        for item in data:
            yield from _arrays(item)
    elif isinstance(data, Mapping):
        for item in data.values():
            yield from _arrays(item)
