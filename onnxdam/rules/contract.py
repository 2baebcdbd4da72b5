"""What all contractions share: y[o] = sum over k of x[k] * w[k, o].

y[o] is constant where every k that it reads is constant or unread: y[o] = b[o] + sum over k of c[k] * w[k, o].
A removed constant slot c[k] is absorbed
    into the bias,     b'[o] = b[o] + c[k] * w[k, o],                   or
    into a carrier k0, w'[k0, o] = w[k0, o] + (c[k] / c[k0]) * w[k, o]   (exact under zero padding too).
"""

from __future__ import annotations

import numpy as np

from onnxdam.analysis.tensor import Array, Const, Mask, Tensor, nonzero_slots


def live_slots(x: Tensor, axis: int, *, padded: bool = False, zero: float = 0) -> tuple[Mask, Array]:
    """Which slots of x can make a result vary, and the constants of the others (0 elsewhere).

    Args:
        padded: zeros are put around x, so that only a constant equal to `zero` is constant everywhere.
        zero: the number that counts as zero.
    """
    const = x.const(axis) if x.any_const else None
    n = x.axes[axis].n
    if const is None:
        return np.ones(n, bool), np.zeros(n)
    mask = const.mask & (const.value == zero) if padded else const.mask
    return ~mask, np.where(mask, const.value - zero, 0).astype(np.float64)


def silent_rows(weight: Array, live: Mask) -> Mask:
    """Rows o of weight[o, k, ...] that are zero for every live k."""
    return ~nonzero_slots(weight, 0, kept=(None, live))


def constant_rows(weight: Array, live: Mask, constants: Array, bias: Array | float | None) -> Const | None:
    """Constant slots of y for weight[o, k, ...]; `bias` None means that it is not known (then only its absence helps).

    Args:
        weight: shape (o, k, ...), the axes after k are summed over.
        live: k that vary.
        constants: the constants of the k that do not (0 elsewhere).
        bias: what is added to y, per o or for all.
    """
    if len(live) != weight.shape[1]:  # the extent of x is not known: nothing is known of its slots
        live, constants = np.ones(weight.shape[1], bool), np.zeros(weight.shape[1])
    mask = silent_rows(weight, live)
    if not mask.any():
        return None
    value = np.zeros(len(weight))
    hot = np.flatnonzero(constants)
    if len(hot):
        part = weight[mask][:, hot].astype(np.float64)
        value[mask] = part.reshape(*part.shape[:2], -1).sum(2) @ constants[hot]
    return Const(mask, np.where(mask, value + (0.0 if bias is None else np.asarray(bias, np.float64)), 0))


def contribution(weight: Array, constants: Array) -> Array:
    """What constant slots add to y: sum over k and the axes behind of constants[k] * weight[o, k, ...]. Shape (o,)."""
    hot = np.flatnonzero(constants)
    part = weight[:, hot].astype(np.float64)
    total: Array = part.reshape(*part.shape[:2], -1).sum(2) @ constants[hot]
    return total


def carry(weight: Array, constants: Array, carrier: int, level: float) -> Array:
    """weight[o, k, ...] in which slot `carrier`, the constant `level`, also stands for the removed constants.

    A level of 0 means that nothing kept reads them: no carrier was needed. What does not change is the same array.
    """
    if level == 0:
        return weight
    hot = np.flatnonzero(constants)
    moved = np.tensordot(weight[:, hot].astype(np.float64), constants[hot] / level, axes=(1, 0))
    if not moved.any():
        return weight
    wide = weight.astype(np.float64)
    wide[:, carrier] += moved
    return wide.astype(weight.dtype)
