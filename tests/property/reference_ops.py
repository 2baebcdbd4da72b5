"""Operators that onnx's reference evaluator (1.23) gets wrong or lacks, in float64; `test_oracle.py` compares with ONNX
Runtime.

    ConvTranspose      wrong with groups and output_padding
    MaxPool ...        index error with asymmetric extents, on 3-d windows
    GlobalMaxPool      reduces two axes whatever the rank
    GatherElements     demands full-size indices
    Quantize/DequantizeLinear   missing before opset 19
    BatchNormalization recomputes the statistics before opset 14
    Softmax and kin    do not merge the axes behind `axis`, as they should before opset 13
    Erf, Gelu, HardSwish   compute in float32, or with constants of float32
    Mean               adds in place, which cannot broadcast its first input
    LRN                counts samples where it should count channels
    Pad                refuses negative pads in most cases
    Loop               stacks scan outputs with vstack, and runs nothing when the condition is omitted
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx.helper import tensor_dtype_to_np_dtype
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_loop import Loop as _Loop
from onnx.reference.ops.op_max_pool import MaxPool as _MaxPool

Array = np.ndarray[Any, Any]


class ConvTranspose(OpRun):  # type: ignore[misc]
    op_domain = ""

    def _run(
        self, X, W, B=None, auto_pad=None, dilations=None, group=None, kernel_shape=None, output_padding=None,
        output_shape=None, pads=None, strides=None,
    ):  # type: ignore[no-untyped-def]  # fmt: skip
        rank, kernel = X.ndim - 2, W.shape[2:]
        group, strides, dilations = group or 1, strides or [1] * rank, dilations or [1] * rank
        extra = output_padding or [0] * rank
        full = [
            (n - 1) * s + (k - 1) * d + 1 + e
            for n, s, k, d, e in zip(X.shape[2:], strides, kernel, dilations, extra, strict=False)
        ]
        pads = list(pads) if pads else [0] * 2 * rank
        if output_shape or auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            want = output_shape[-rank:] if output_shape else [n * s for n, s in zip(X.shape[2:], strides, strict=False)]
            total = [max(f - w, 0) for f, w in zip(full, want, strict=False)]
            small, large = [t // 2 for t in total], [t - t // 2 for t in total]
            pads = small + large if auto_pad != "SAME_LOWER" else large + small
        ci, co = X.shape[1] // group, W.shape[1]
        y = np.zeros((X.shape[0], group * co, *full), X.dtype)
        xg, wg = X.reshape(X.shape[0], group, ci, *X.shape[2:]), W.reshape(group, ci, co, *kernel)
        for at in itertools.product(*map(range, kernel)):
            part = np.einsum("ngi...,gio->ngo...", xg, wg[(slice(None),) * 3 + at]).reshape(
                X.shape[0], group * co, *X.shape[2:]
            )
            where = tuple(slice(a * d, a * d + (n - 1) * s + 1, s)
                          for a, d, n, s in zip(at, dilations, X.shape[2:], strides, strict=False))  # fmt: skip
            y[(slice(None), slice(None), *where)] += part
        y = y[(slice(None), slice(None), *[slice(p, f - q) for p, q, f in zip(pads, pads[rank:], full, strict=False)])]
        return (y if B is None else y + B.reshape(-1, *[1] * rank),)


def windows(x: Array, kernel: Sequence[int], pads: Sequence[int], strides: Sequence[int], fill: float) -> Array:
    """All windows of a padded map: (N, C, out..., kernel...)."""
    rank = len(kernel)
    padded = np.pad(x, [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=False)], constant_values=fill)
    view = np.lib.stride_tricks.sliding_window_view(padded, tuple(kernel), tuple(range(2, x.ndim)))
    return view[(slice(None), slice(None), *[slice(None, None, s) for s in strides])]


def plain(attrs: dict[str, Any]) -> bool:
    """Explicit padding only: the cases that the replacements take over."""
    dilations = attrs.get("dilations")
    return (
        attrs.get("auto_pad") in (None, "NOTSET")
        and not attrs.get("ceil_mode")
        and (not dilations or all(d == 1 for d in dilations))
    )


class MaxPool(_MaxPool):  # type: ignore[misc]
    op_domain = ""

    def _run(self, x, **attrs):  # type: ignore[no-untyped-def]
        if not plain(attrs) or len(self.onnx_node.output) > 1:
            return super()._run(x, **attrs)
        kernel, rank = attrs["kernel_shape"], x.ndim - 2
        lowest = -np.inf if np.issubdtype(x.dtype, np.floating) else np.iinfo(x.dtype).min
        view = windows(x, kernel, attrs.get("pads") or [0] * 2 * rank, attrs.get("strides") or [1] * rank, lowest)
        return (view.max(axis=tuple(range(-rank, 0))),)


class GlobalMaxPool(OpRun):  # type: ignore[misc]
    op_domain = ""

    def _run(self, x):  # type: ignore[no-untyped-def]
        return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)


class GatherElements(OpRun):  # type: ignore[misc]
    op_domain = ""

    def _run(self, data, indices, axis=None):  # type: ignore[no-untyped-def]
        axis = (axis or 0) % data.ndim
        grid = list(np.indices(indices.shape))
        grid[axis] = np.where(indices < 0, indices + data.shape[axis], indices)
        return (data[tuple(grid)],)


def per_axis(parameter: Array, rank: int, axis: int) -> Array:
    return (
        parameter.reshape([-1 if a == axis % rank else 1 for a in range(rank)])
        if parameter.size > 1
        else parameter.reshape(())
    )


class DequantizeLinear(OpRun):  # type: ignore[misc]
    op_domain = ""

    def _run(self, x, scale, zero=None, axis=1, block_size=0, output_dtype=None):  # type: ignore[no-untyped-def]
        axis = 1 if axis is None else axis
        y = x.astype(np.float32)
        if zero is not None:
            y = y - per_axis(zero, x.ndim, axis).astype(np.float32)
        return ((y * per_axis(scale, x.ndim, axis)).astype(scale.dtype),)


class QuantizeLinear(OpRun):  # type: ignore[misc]
    op_domain = ""

    def _run(self, x, scale, zero=None, axis=1, saturate=None, block_size=0, output_dtype=None, precision=None):  # type: ignore[no-untyped-def]
        axis = 1 if axis is None else axis
        dtype = zero.dtype if zero is not None else tensor_dtype_to_np_dtype(output_dtype) if output_dtype else np.uint8
        y = np.rint(x / per_axis(scale, x.ndim, axis))
        if zero is not None:
            y = y + per_axis(zero, x.ndim, axis).astype(y.dtype)
        info = np.iinfo(dtype)
        return (np.clip(y, info.min, info.max).astype(dtype),)


class BatchNormalization(OpRun):  # type: ignore[misc]
    op_domain = ""

    def _run(self, x, scale, bias, mean, var, epsilon=None, momentum=None, training_mode=None, spatial=None):  # type: ignore[no-untyped-def]
        if training_mode:
            raise NotImplementedError("training mode")
        shape = [1, -1, *[1] * (x.ndim - 2)]
        scale, bias, mean, var = (p.reshape(shape) for p in (scale, bias, mean, var))
        y = scale * (x - mean) / np.sqrt(var + (1e-5 if epsilon is None else epsilon)) + bias
        return (y.astype(x.dtype),)


def merged(op: OpRun, x: Array, axis: int | None) -> tuple[Array, int]:
    """What a softmax works on: x and the axis, or before opset 13 a matrix and its columns."""
    if op.run_params["opsets"][""] >= 13:
        return x, -1 if axis is None else axis
    axis = 1 if axis is None else axis % x.ndim
    return x.reshape(int(np.prod(x.shape[:axis])), -1), 1


class Softmax(OpRun):  # type: ignore[misc]
    op_domain = ""

    def _run(self, x, axis=None):  # type: ignore[no-untyped-def]
        y, along = merged(self, x, axis)
        e = np.exp(y - y.max(axis=along, keepdims=True))
        return ((e / e.sum(axis=along, keepdims=True)).reshape(x.shape),)


class LogSoftmax(OpRun):  # type: ignore[misc]
    op_domain = ""

    def _run(self, x, axis=None):  # type: ignore[no-untyped-def]
        y, along = merged(self, x, axis)
        y = y - y.max(axis=along, keepdims=True)
        return ((y - np.log(np.exp(y).sum(axis=along, keepdims=True))).reshape(x.shape),)


class Hardmax(OpRun):  # type: ignore[misc]
    op_domain = ""

    def _run(self, x, axis=None):  # type: ignore[no-untyped-def]
        y, along = merged(self, x, axis)
        hot = np.zeros_like(y)
        np.put_along_axis(hot, np.expand_dims(y.argmax(axis=along), along), 1, axis=along)
        return (hot.reshape(x.shape),)


def erf(x: Array) -> Array:
    return np.array([math.erf(v) for v in np.ravel(x)]).reshape(np.shape(x)).astype(x.dtype)


class Erf(OpRun):  # type: ignore[misc]
    op_domain = ""

    def _run(self, x):  # type: ignore[no-untyped-def]
        return (erf(x),)


class Gelu(OpRun):  # type: ignore[misc]
    op_domain = ""

    def _run(self, x, approximate=None):  # type: ignore[no-untyped-def]
        if approximate == "tanh":
            return ((0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))).astype(x.dtype),)
        return ((0.5 * x * (1 + erf(x / np.sqrt(2)))).astype(x.dtype),)


class HardSwish(OpRun):  # type: ignore[misc]
    op_domain = ""

    def _run(self, x):  # type: ignore[no-untyped-def]
        return ((x * np.clip(x / 6 + 0.5, 0, 1)).astype(x.dtype),)


class Mean(OpRun):  # type: ignore[misc]
    op_domain = ""

    def _run(self, *x):  # type: ignore[no-untyped-def]
        return ((sum(x[1:], x[0]) / len(x)).astype(x[0].dtype),)


class LRN(OpRun):  # type: ignore[misc]
    op_domain = ""

    def _run(self, x, alpha=None, beta=None, bias=None, size=None):  # type: ignore[no-untyped-def]
        before, after = (size - 1) // 2, size // 2
        squares = np.pad(x**2, [(0, 0), (before, after), *[(0, 0)] * (x.ndim - 2)])
        total = sum(squares[:, k : k + x.shape[1]] for k in range(size))
        return (x / (bias + alpha / size * total) ** beta,)


class Pad(OpRun):  # type: ignore[misc]
    op_domain = ""

    def _run(self, data, pads=None, value=None, axes=None, mode=None, paddings=None):  # type: ignore[no-untyped-def]
        # Before opset 11 pads and value are attributes, and arrive here under the same names.
        pads = [int(p) for p in np.asarray(pads)]
        axes = list(range(data.ndim)) if axes is None else [int(a) % data.ndim for a in np.asarray(axes)]
        head, tail = [0] * data.ndim, [0] * data.ndim
        for i, axis in enumerate(axes):
            head[axis], tail[axis] = pads[i], pads[i + len(axes)]
        data = data[tuple(slice(max(-h, 0), n - max(-t, 0)) for h, t, n in zip(head, tail, data.shape, strict=False))]
        width = [(max(h, 0), max(t, 0)) for h, t in zip(head, tail, strict=False)]
        mode = mode or "constant"
        if mode != "constant":
            return (np.pad(data, width, mode=mode),)
        fill = 0 if value is None else np.asarray(value).reshape(-1)[0] if np.asarray(value).size else 0
        return (np.pad(data, width, mode="constant", constant_values=np.asarray(fill).astype(data.dtype)),)


class Loop(_Loop):  # type: ignore[misc]
    op_domain = ""

    def _run(self, M, cond, *args, **rest):  # type: ignore[no-untyped-def]
        stacks: list[list[Array]] = [[] for _ in range(self.K)]
        run_body = self._run_body

        def recording(inputs: dict[str, Any], **more: Any) -> Any:
            outputs = run_body(inputs, **more)
            for stack, output in zip(stacks, outputs[len(outputs) - self.K :], strict=False):
                stack.append(np.asarray(output))
            return outputs

        self._run_body = recording
        try:
            outputs = super()._run(M, np.array(True) if cond is None else cond, *args, **rest)
        finally:
            self._run_body = run_body
        if not self.K or not stacks[0]:
            return outputs
        return (*outputs[: len(outputs) - self.K], *[np.stack(stack) for stack in stacks])


REFERENCE_OPS = [
    ConvTranspose, MaxPool, GlobalMaxPool, GatherElements, DequantizeLinear, QuantizeLinear, Loop, Pad,
    BatchNormalization, Softmax, LogSoftmax, Hardmax, Erf, Gelu, HardSwish, LRN, Mean,
]  # fmt: skip
