"""What a model costs, and what of it could leave: the facts behind a plan, for a reader.

A *group* is a set of axes whose slots can only stay or leave together; a *pin* is a place where keeping begins (a graph
output, a graph input, an operator that needs an axis as it is).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from onnxdam import api
from onnxdam.analysis.need import Need
from onnxdam.analysis.tensor import Axis, Tensor
from onnxdam.graph import count, io
from onnxdam.plan import Plan


@dataclass(frozen=True)
class Group:
    """Axes that share one decision.

    Attributes:
        values: the tensors that are computed, as "VALUE:axis".
        weights: the stored weights, as "VALUE:axis".
        slots: how many slots the axes have.
        constant: slots that are one known number in some tensor of the group.
        dead: slots that can leave.
        aligned: slots that are dead but stay for a fast width.
        reason: what keeps the first slot that stays, "" if none does.
    """

    values: tuple[str, ...]
    weights: tuple[str, ...]
    slots: int
    constant: int
    dead: int
    aligned: int
    reason: str


@dataclass(frozen=True)
class Pin:
    """A reason that begins somewhere, with all the places where it does.

    Attributes:
        operator: operator type, "" for graph inputs and outputs and for tensors that the user protects.
        reason: in words.
        where: the axes, as "VALUE:axis".
        slots: how many slots it keeps, first.
    """

    operator: str
    reason: str
    where: tuple[str, ...]
    slots: int


@dataclass(frozen=True)
class Inspection:
    """All that `onnxdam inspect` shows.

    Attributes:
        cost: parameters, multiply-accumulates and bytes, per node.
        plan: what `onnxdam prune` would do.
        groups: axes that share a decision, those of the most dead slots first.
        pins: where keeping begins, those of the most slots first.
    """

    cost: count.Cost
    plan: Plan
    groups: tuple[Group, ...]
    pins: tuple[Pin, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON; the plan is left out, `onnxdam prune --dry-run --plan` writes it."""
        return {
            "cost": self.cost.to_dict(),
            "groups": [asdict(group) for group in self.groups],
            "pins": [asdict(pin) for pin in self.pins],
            "refusals": [asdict(refusal) for refusal in self.plan.refusals],
            "notes": list(self.plan.notes),
        }


def inspect(model: api.Model, **options: object) -> Inspection:
    """Analyses a model and changes nothing.

    Args:
        model: a path or a model.
        **options: see `onnxdam.api.Options`.

    Raises:
        InputError: the model cannot be read, or an option does not fit it.
    """
    chosen = api.read_options(options)
    source = io.load(model, strict=chosen.strict)
    need, plan = api.decide(api.working_copy(model, source, chosen.threshold), chosen, io.fingerprint(source))
    groups = sorted(_groups(need), key=lambda group: (-group.dead, -group.constant, -group.slots))
    pins = sorted(_pins(need), key=lambda pin: -pin.slots)
    return Inspection(count.count(source), plan, tuple(groups), tuple(pins))


def _groups(need: Need) -> Iterator[Group]:
    members: dict[Axis, list[tuple[Tensor, int]]] = {}
    for tensor in need.network.tensors.values():
        if tensor.opaque or not (tensor.is_leaf or tensor in need.alive):
            continue
        for index, axis in enumerate(tensor.axes):
            if axis.n > 1:
                members.setdefault(axis.root, []).append((tensor, index))
    reasons = _first_reasons(need)
    aligned: dict[Axis, np.ndarray] = {}
    for axis, mask in need.aligned:
        aligned[axis.root] = aligned.get(axis.root, np.zeros(axis.n, bool)) | mask
    for root, axes in members.items():
        if all(tensor.is_leaf for tensor, _ in axes):
            continue
        constant = np.zeros(root.n, bool)
        for tensor, index in axes:
            known = tensor.const(index) if tensor.any_const and not tensor.is_leaf else None
            if known is not None:
                constant |= known.mask
        kept = need.kept(root)
        yield Group(
            values=tuple(f"{t.name}:{i}" for t, i in axes if not t.is_leaf),
            weights=tuple(f"{t.name}:{i}" for t, i in axes if t.is_leaf),
            slots=root.n,
            constant=int(constant.sum()),
            dead=int((~kept).sum()),
            aligned=int(aligned[root].sum()) if root in aligned else 0,
            reason=reasons.get(root, ""),
        )


def _first_reasons(need: Need) -> dict[Axis, str]:
    reasons: dict[Axis, str] = {}
    for root, event in need.events:
        text = event.reason + (f" ({event.op.kind} {event.op.name})" if event.op is not None else "")
        reasons.setdefault(root, text)
    return reasons


def _pins(need: Need) -> Iterator[Pin]:
    found: dict[tuple[str, str], tuple[dict[str, None], int]] = {}
    for _, event in need.events:
        if event.source is not None or event.axis.tensor is None or event.axis.tensor.is_leaf:
            continue
        key = (event.op.kind if event.op is not None else "", event.reason)
        where, slots = found.get(key, ({}, 0))
        where[f"{event.axis.tensor.name}:{event.axis.index}"] = None
        found[key] = (where, slots + int(event.slots.sum()))
    for (operator, reason), (where, slots) in found.items():
        yield Pin(operator, reason, tuple(where), slots)
