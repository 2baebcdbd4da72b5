"""Extents of what slides windows over positions (convolutions, pools), where shape inference does not give them.

    extent = floor((size + pads - ((kernel - 1) * dilation + 1)) / stride) + 1

A window that keeps the extent (stride 1, pads that make up for the kernel) keeps an unknown one too.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxdam.analysis.tensor import Size, Sym
from onnxdam.rules.base import Op


def slide(op: Op, kernel: Sequence[Size]) -> None:
    """Sets the extents of the output behind batch and channels that are not known yet.

    Args:
        kernel: extents of the window.
    """
    x, y, n = op.x, op.y, len(kernel)
    if x.opaque or y.opaque or x.rank != n + 2 or y.rank != x.rank or op.attr("ceil_mode", 0):
        return
    strides, dilations = op.attr("strides", (1,) * n), op.attr("dilations", (1,) * n)
    pads = op.attr("pads", (0,) * 2 * n)
    for i, taps in enumerate(kernel):
        size = x.shape[i + 2]
        if not isinstance(y.shape[i + 2], Sym) or not isinstance(taps, int):
            continue
        found = _extent(
            size, (taps - 1) * dilations[i] + 1, strides[i], pads[i] + pads[i + n], op.attr("auto_pad", "NOTSET")
        )
        if found is not None:
            y.set_layout(i + 2, (found,))


def _extent(size: Size, span: int, stride: int, pads: int, mode: str) -> Size | None:
    same = mode in ("SAME_UPPER", "SAME_LOWER")
    if stride == 1 and (same or (mode == "NOTSET" and pads == span - 1) or (span == 1 and mode == "VALID")):
        return size
    if isinstance(size, Sym):
        return None
    if same:
        return -(-size // stride)
    return max((size + (0 if mode == "VALID" else pads) - span) // stride + 1, 0)
