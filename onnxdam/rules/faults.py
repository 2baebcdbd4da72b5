"""Operators that the reference implementation of onnx (1.23) computes wrongly, before some opset or in every one.

Their nodes are not computed ahead of time: ONNX's own shape inference and the rules say what is needed of them.
"""

from __future__ import annotations

#: operator -> the first opset in which the reference implementation can be trusted
TRUSTED_FROM: dict[str, float] = {
    "BatchNormalization": 14,  # takes the statistics of its input
    "Softmax": 13,  # does not merge the axes behind `axis`
    "LogSoftmax": 13,
    "Hardmax": 13,
    "GlobalMaxPool": float("inf"),  # reduces two axes whatever the rank
    "MaxPool": float("inf"),  # takes one extent for another in three dimensions
    "ConvTranspose": float("inf"),  # groups
    "Loop": float("inf"),  # stacks what it should concatenate
    "Gelu": float("inf"),  # in single precision
    "Erf": float("inf"),
    "HardSwish": float("inf"),
    "LRN": float("inf"),  # counts samples where it should count channels
    "Mean": float("inf"),  # cannot broadcast its first input
}


def is_trusted(kind: str, domain: str, version: int) -> bool:
    """Whether the reference implementation computes the operator as its specification says."""
    return domain not in ("", "ai.onnx") or version >= TRUSTED_FROM.get(kind, 0)
