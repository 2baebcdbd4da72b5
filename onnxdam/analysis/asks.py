"""What relations and tensors say about slots by themselves, before any decision."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeGuard

import numpy as np

from onnxdam.analysis.tensor import Array, Axis, Const, Mask, Tensor
from onnxdam.rules.base import Blocks, Contract, Follows, Packed, Product, Relation, Same


def constant_columns(tensor: Tensor) -> dict[int, Const]:
    """The constant slots of a graph output, by axis; of one that is constant altogether, those of one axis.

    The first of several axes counts samples, be their number fixed: it has no columns.
    """
    if tensor.is_known:
        return {}
    fixed = [a for a in tensor.axes[tensor.rank > 1 :] if a.n > 1 and isinstance(tensor.shape[a.index], int)]
    found = {a.index: const for a in fixed if (const := tensor.const(a.index)) is not None}
    whole = [axis for axis, const in found.items() if const.mask.all()]
    return {whole[-1]: found[whole[-1]]} if whole else found


def is_identity(r: Relation) -> TypeGuard[Same]:
    return isinstance(r, Same) and r.a_index is None and r.b_index is None


def watched(r: Relation) -> Iterator[Axis]:
    """The axes whose growth can make the relation ask for more."""
    if isinstance(r, Same):
        yield from (r.a, r.b)
    elif isinstance(r, Follows):
        yield r.a
    elif isinstance(r, Product):
        yield from (r.merged, *r.factors)
    elif isinstance(r, Contract) and r.weight.is_known:
        yield from (a for i, a in enumerate(r.weight.axes) if i not in (r.axis, *(s for s, _ in r.summed)) and a.n > 1)
    elif isinstance(r, Blocks):
        yield r.out
    elif isinstance(r, Packed):
        yield r.units


def carries(r: Contract) -> bool:
    """Whether the weight can be rewritten so that one slot carries others."""
    return r.absorb is not None and r.weight.is_leaf


def absorbable(x: Axis, absorb: str | None, zero: float) -> Mask:
    """Slots of x that may leave although they are read: zeros, and other constants where something absorbs them."""
    const = x.tensor.const(x.index) if x.tensor is not None and x.tensor.any_const else None
    if const is None:
        return np.zeros(x.n, bool)
    return const.mask if absorb else const.mask & (const.value == zero)


def significant(r: Contract | Blocks) -> Array:
    assert r.weight is not None
    content = r.weight.content
    return content if r.weight_zero is None else content != r.weight_zero


def silent(r: Contract) -> Mask | None:
    """Slots of a weight computed at run time that are constants which count as zero."""
    if not r.weight.any_const:
        return None
    if r.weight_zero is None:
        return r.weight.zeros(r.axis)
    const = r.weight.const(r.axis)
    return None if const is None or r.weight_zero.size != 1 else const.mask & (const.value == r.weight_zero.reshape(()))
