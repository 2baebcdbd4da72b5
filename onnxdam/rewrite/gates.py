"""Gates disappear: a product with a known vector that holds zeros is folded into neighbouring weights.

Its zero slots leave anyway; the scales s of the others go backwards, f(s x) = s f(x), through positively homogeneous
operators (ReLU, pooling, for s > 0) into the weights and biases that made x; where that is not possible, forwards into
the weights that read the result. A BatchNormalization right behind a gate right behind a convolution goes with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from onnxdam.analysis.need import Need
from onnxdam.analysis.tensor import Array, Tensor
from onnxdam.rules.base import Op

Scale = tuple[int, Array]  # axis of an input, one factor per slot of that axis


@dataclass
class Gates:
    """What is to be done: nodes that go (with the input that stays), inputs to scale, biases to shift."""

    gone: dict[Op, int] = field(default_factory=dict)
    scales: dict[tuple[Op, int], list[Scale]] = field(default_factory=dict)
    shifts: dict[Op, Array] = field(default_factory=dict)  # added to the bias after scaling, at full width


def find_gates(need: Need) -> Gates:
    """All gates that leave something and can be folded."""
    gates = Gates()
    for op in need.network.active():
        if op not in need.running or not op.rule.gates:
            continue
        for index, gate in enumerate(op.ins):
            other = op.ins[1 - index] if len(op.ins) == 2 else None
            found = _gate(need, op, gate) if other is not None and other in need.alive else None
            if found is None or other is None or other.shape != op.y.shape:
                continue
            axis, factors = found
            edits: dict[tuple[Op, int], Scale] = {}
            if _backwards(other, axis, factors, edits) or (
                _closes(need, other, axis, factors) and _forwards(op, axis, factors, edits := {})
            ):
                gates.gone[op] = 1 - index
                for key, scale in edits.items():
                    gates.scales.setdefault(key, []).append(scale)
                _fold_affine(gates, op, other, axis)
                break
    return gates


def _fold_affine(gates: Gates, gate: Op, x: Tensor, axis: int) -> None:
    """A BatchNormalization that a gate kept apart from its convolution is folded into it, as exporters do."""
    maker, reader = x.maker, gate.sole_reader()
    if maker is None or reader is None or maker.rule.bias_input is None or (maker, 1) not in gates.scales:
        return
    found = reader.rule.affine(reader)
    inputs = maker.rule.scaled_by(maker, axis, positive=False)
    if found is None or inputs is None or found[0] != axis or reader in gates.gone:
        return
    _, scale, shift = found
    for index, along in inputs.items():
        gates.scales.setdefault((maker, index), []).append((along, scale))
    gates.shifts[maker] = shift
    gates.gone[reader] = 0


def _gate(need: Need, op: Op, gate: Tensor | None) -> tuple[int, Array] | None:
    """The axis of the result that a known vector gates, and the vector; None where it is no gate that lets go."""
    if gate is None or not gate.is_leaf or not gate.rank:
        return None
    wide = [i for i, axis in enumerate(gate.axes) if axis.n > 1]
    if len(wide) != 1 or gate.content.size != gate.axes[wide[0]].n:
        return None
    factors = gate.content.reshape(-1).astype(np.float64)
    kept = need.kept(gate.axes[wide[0]])
    if factors.all() or kept.all() or not np.isfinite(factors).all():
        return None
    return wide[0] - gate.rank + op.y.rank, factors


def _backwards(t: Tensor, axis: int, factors: Array, edits: dict[tuple[Op, int], Scale]) -> bool:
    """Scales what makes `t`; `edits` is complete if this returns True."""
    maker = t.maker
    if maker is None or t.pinned or len(t.readers) != 1 or t.axes[axis].n != len(factors):
        return False
    inputs = maker.rule.scaled_by(maker, axis % t.rank, positive=bool((factors >= 0).all()))
    if inputs is None:
        return False
    for index, along in inputs.items():
        source = maker.tensor(index)
        if source is None:  # a bias that absorbing constants may bring about
            edits[maker, index] = (along, factors)
            continue
        if source.axes[along].n != len(factors):
            return False
        if source.is_leaf:
            if not _fits(source, along, factors):
                return False
            edits[maker, index] = (along, factors)
        elif not _backwards(source, along, factors, edits):
            return False
    return True


def _closes(need: Need, x: Tensor, axis: int, factors: Array) -> bool:
    """Whether something that is not zero stops at the gate. Otherwise it is the gain of a normalisation, as a narrow
    network has one too, and runtimes fuse the normalisation only as a whole.
    """
    zeros = x.zeros(axis) if x.any_const else None
    leaves = ~need.kept(x.axes[axis]) & (factors == 0)
    return bool((leaves if zeros is None or len(zeros) != len(leaves) else leaves & ~zeros).any())


def _forwards(op: Op, axis: int, factors: Array, edits: dict[tuple[Op, int], Scale]) -> bool:
    """Scales the weights of all that read the gated result."""
    y = op.y
    if y.pinned or not y.readers:
        return False
    for reader, index in y.readers:
        found = reader.rule.weight_of(reader, index, axis % y.rank)
        weight = reader.tensor(found[0]) if found is not None else None
        if found is None or weight is None or not weight.is_leaf or weight.axes[found[1]].n != len(factors):
            return False
        if not _fits(weight, found[1], factors):
            return False
        edits[reader, found[0]] = (found[1], factors)
    return True


def _fits(weight: Tensor, axis: int, factors: Array) -> bool:
    """Whether the scaled weight keeps its precision: nothing overflows, nothing that is not zero underflows."""
    if weight.dtype is None or weight.dtype.itemsize > 2:
        return True  # wide exponents: scales of a gate stay far inside
    import ml_dtypes

    scaled = weight.content.astype(np.float64) * factors.reshape([-1 if i == axis else 1 for i in range(weight.rank)])
    limits = ml_dtypes.finfo(weight.dtype)
    size = np.abs(scaled[scaled != 0])
    return not size.size or bool(size.max() <= float(limits.max) and size.min() >= float(limits.tiny))
