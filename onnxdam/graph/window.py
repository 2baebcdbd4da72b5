"""Weights that do not fit into memory.

External data is memory-mapped. A page that was read stays resident until it is given back, which a process that reads
all of its weights has to do by itself if it is to stay small.
"""

from __future__ import annotations

import contextlib
import mmap
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxdam.graph.traverse import is_external

LIMIT = 2**28  # bytes of mapped weights that may stay resident


class Window:
    """Reads tensors, and gives the pages of earlier ones back when more than `LIMIT` bytes have been read.

    Arrays that were handed out stay valid: their pages are read again from the file when they are used.
    """

    def __init__(self) -> None:
        self._open: dict[ir.ExternalTensor, None] = {}

    def read(self, tensor: ir.TensorProtocol) -> np.ndarray[Any, Any]:
        """The content of a tensor."""
        if is_external(tensor) and tensor not in self._open:
            if tensor.nbytes + sum(other.nbytes for other in self._open) > LIMIT:
                self.close()
            self._open[tensor] = None
        return tensor.numpy()

    def close(self) -> None:
        """Gives all pages back."""
        for tensor in self._open:
            if tensor.raw is not None:
                with contextlib.suppress(AttributeError, OSError, ValueError):  # not on every system
                    tensor.raw.madvise(mmap.MADV_DONTNEED)
        self._open.clear()
