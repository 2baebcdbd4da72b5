"""Widths that run fast.

Convolution kernels work on blocks of channels: 16 with AVX-512, 8 with AVX2 and in half precision on a GPU. A width
between two multiples costs as much as the next multiple or more; a matrix product does not care.
"""

from __future__ import annotations

from onnxdam.errors import InputError


def fast_multiple(align: str | int, provider: str = "cpu") -> int:
    """The multiple that widths of convolution axes are rounded up to, 1 for none.

    Args:
        align: "auto", "none" or a number.
        provider: "cpu", "cuda" or "tensorrt"; what "auto" is for.

    Raises:
        InputError: `align` is none of these.
    """
    text = str(align).lower()
    if text == "none":
        return 1
    if text == "auto":
        if provider != "cpu":
            return 8
        from onnxdam.doctor import instruction_sets

        return 16 if "avx512f" in instruction_sets() else 8
    if not text.isdigit() or int(text) < 1:
        raise InputError(f"align: {align!r} is neither 'auto' nor 'none' nor a whole number from 1 on")
    return int(text)
