"""When two arrays are the same result: the one tolerance of the project.

Removing a zero term from a sum changes the order of the additions, so float results move in their last bits:

    error(a, b) = max |a - b| / max |a|        over the finite entries of one tensor

must stay below a small multiple of the unit roundoff of the coarsest float type that the model computes in. NaN and
infinities must sit in the same places, everything that is not a float must be equal.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

# Strict by default. Honest slimming of ImageNet networks shows 2e-7 to 4e-7 in float32; a wrong channel shows 1e-3.
RTOL = {"float64": 1e-10, "float32": 1e-5, "float16": 8e-3, "bfloat16": 6e-2}
EPS = {"float64": 2.2e-16, "float32": 1.2e-7, "float16": 9.8e-4, "bfloat16": 7.8e-3}


@dataclass(frozen=True)
class Difference:
    """How far two arrays are apart.

    Attributes:
        error: as defined above; infinite when they cannot be the same result at all.
        where: boolean array of the entries that differ in kind (NaN, infinity, integers ...), or None.
        why: what differs in kind, empty if nothing does.
        apart: the absolute difference, max |a - b|.
    """

    error: float
    where: np.ndarray | None = None
    why: str = ""
    apart: float = float("inf")


def rtol(kinds: Iterable[str]) -> float:
    """The tolerance of a model that computes in these float types: the coarsest decides."""
    return max((RTOL[kind] for kind in kinds if kind in RTOL), default=RTOL["float32"])


def difference(a: Any, b: Any) -> Difference:
    """Compares one result of the reference, `a`, with the same of the other model."""
    if isinstance(a, list | dict) or isinstance(b, list | dict) or a is None or b is None:
        return _structure(a, b)
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype != b.dtype:
        return Difference(float("inf"), why=f"type {a.dtype} against {b.dtype}")
    if a.shape != b.shape:
        return Difference(float("inf"), why=f"shape {list(a.shape)} against {list(b.shape)}")
    if not _is_float(a.dtype):
        unequal = np.asarray(a != b)
        if not unequal.any():
            return Difference(0.0)
        return Difference(float("inf"), unequal, f"{int(unequal.sum())} of {a.size} {a.dtype} entries differ")
    return _floats(_wide(a), _wide(b))


def _floats(a: np.ndarray, b: np.ndarray) -> Difference:
    finite = np.isfinite(a)
    odd = (finite != np.isfinite(b)) | (np.isnan(a) != np.isnan(b)) | (np.isinf(a) & np.isinf(b) & (a != b))
    if odd.any():
        return Difference(float("inf"), odd, f"NaN or infinity in {int(odd.sum())} of {a.size} entries of one only")
    if not finite.any():
        return Difference(0.0)
    with np.errstate(over="ignore"):
        apart = float(np.max(np.abs(a[finite] - b[finite])))
    scale = float(np.max(np.abs(a[finite])))
    if apart == 0.0:
        return Difference(0.0, apart=0.0)
    return Difference(apart / scale if scale else float("inf"), why="" if scale else "zero in one only", apart=apart)


def _structure(a: Any, b: Any) -> Difference:
    """Sequences and maps: the worst of their parts."""
    if type(a) is not type(b) or (a is not None and len(a) != len(b)):
        return Difference(float("inf"), why="sequences, maps or optionals of different form")
    if a is None:
        return Difference(0.0)
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return Difference(float("inf"), why="maps with different keys")
        pairs = [(a[key], b[key]) for key in a]
    else:
        pairs = list(zip(a, b, strict=True))
    parts = [difference(x, y) for x, y in pairs]
    return max(parts, key=lambda part: part.error, default=Difference(0.0))


def _is_float(dtype: np.dtype) -> bool:
    return dtype.kind in "fc" or dtype.name in RTOL or dtype.name.startswith("float")


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)
