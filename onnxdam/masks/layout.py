"""Tensors in channels_last: exporters write strided copies for them, which say nothing about channels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn

FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def row_major(tensor: Tensor) -> Tensor:
    """The same in memory in the order of its axes, where it is in channels_last; else the tensor itself."""
    last = FORMATS.get(tensor.dim())
    if last is None or not tensor.is_contiguous(memory_format=last):
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)  # `contiguous()` leaves 1x1 kernels as they are


@contextmanager
def all_row_major(model: nn.Module) -> Iterator[None]:
    """Parameters and buffers are, for as long as it lasts."""
    before = [(t, t.data) for t in chain(model.parameters(), model.buffers())]
    try:
        for t, data in before:
            t.data = row_major(data)
        yield
    finally:
        for t, data in before:
            t.data = data
