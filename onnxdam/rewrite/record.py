"""The decision written down: a finished `Need` as a `Plan`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from onnxdam.analysis.explain import Reasons
from onnxdam.analysis.need import Need
from onnxdam.analysis.tensor import Axis, Tensor
from onnxdam.plan import Absorbed, Plan
from onnxdam.rewrite.flatten import blockers
from onnxdam.rewrite.signature import KEEP_SIGNATURE, describe, remarks
from onnxdam.rules.base import Blocks, Contract, Op


def record(need: Need, fingerprint: str, options: Mapping[str, Any]) -> Plan:
    """The plan of a decision: narrowed axes of every tensor, constants, reasons."""
    slots = _Slots(need)
    kept = {t.name: axes for t in need.network.tensors.values() if t.name and (axes := _narrowed(slots, t))}
    notes = []
    if options.get("threshold"):
        notes.append(f"lossy: weights of magnitude up to {options['threshold']} count as zero")
    signature = None
    if options.get("inputs") or options.get("outputs"):
        signature = describe(need, fingerprint, keep_signature=options.get("inputs") == KEEP_SIGNATURE)
        notes.extend(remarks(need, signature))
    if options.get("inputs"):
        notes.extend(
            f"input {name!r}: {op.kind} {op.name} reads it with its axes apart, so single elements stay"
            for name, op in blockers(need.network)
        )
    return Plan(
        fingerprint=fingerprint,
        options=dict(options),
        kept=kept,
        constant=tuple(dict.fromkeys(t.name for t in _constants(need))),
        absorbed=tuple(a for op in need.network.active() if op in need.running for a in _absorbed(need, op)),
        aligned=_aligned(need),
        refusals=tuple(Reasons(need).refusals()),
        notes=tuple(notes),
        signature=signature,
    )


class _Slots(dict[Axis, tuple[int, ...] | None]):
    """Kept slots by axis variable, None where all are: one variable is the axis of many tensors."""

    def __init__(self, need: Need) -> None:
        self._need = need

    def __missing__(self, root: Axis) -> tuple[int, ...] | None:
        mask = self._need.kept(root)
        found = self[root] = None if mask.all() else tuple(np.flatnonzero(mask).tolist())
        return found


def _narrowed(slots: _Slots, t: Tensor) -> dict[int, tuple[int, ...]]:
    if t.is_leaf and all(op.folded for op, _ in t.readers):
        return {}  # only nodes that are computed ahead of time read it: no decision was taken
    return {i: kept for i, axis in enumerate(t.axes) if axis.n > 1 and (kept := slots[axis.root]) is not None}


def _constants(need: Need) -> list[Tensor]:
    """Operands whose readers run while they do not: they are replaced by their constants."""
    return [
        t
        for op in need.network.active()
        if op in need.running and op.rule.operands == "varying"
        for t in op.ins
        if t is not None and not t.is_leaf and t not in need.alive
    ]


def _absorbed(need: Need, op: Op) -> list[Absorbed]:
    found = []
    for r in need.relations[op]:
        if not isinstance(r, (Contract, Blocks)) or r.absorb is None or r.x.tensor is None:
            continue
        t = r.x.tensor
        const = t.const(r.x.index) if t.any_const else None
        if const is None:
            continue
        gone = np.flatnonzero(need.reads(r, const.mask & ~need.kept(r.x) & (const.value != 0)))
        if len(gone):
            constants = {int(i): float(const.value[i]) for i in gone}
            found.append(Absorbed(op.name, t.name, r.x.index, constants, r.absorb))
    return found


def _aligned(need: Need) -> dict[str, dict[int, tuple[int, ...]]]:
    result: dict[str, dict[int, tuple[int, ...]]] = {}
    for axis, mask in need.aligned:
        result.setdefault(_name(axis), {})[axis.index] = tuple(np.flatnonzero(mask).tolist())
    return result


def _name(axis: Axis) -> str:
    return axis.tensor.name if axis.tensor is not None else ""
