"""Reasons, read off the log of the need analysis: why a slot stays, and which masked slots had to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onnxdam.analysis.need import Event, Need
from onnxdam.analysis.tensor import Axis, Mask, Tensor
from onnxdam.plan import Refusal
from onnxdam.rules.base import Op

#: reasons that pass on what another one asks for
GOING_ALONG = {
    "corresponds",
    "selected",
    "the tensor runs",
    "a slot of the merged axis needs it",
    "the merged axis is a product",
}


@dataclass(frozen=True)
class Step:
    """One link of the chain that keeps a slot.

    Attributes:
        value: name of the tensor ("" for an inner axis of a reshape).
        axis: axis of the tensor; None where the whole tensor is meant, because it has no axes or none that are known.
        index: the slot; None likewise.
        node: name of the node that asks for it, "" at a graph output or input.
        operator: its operator type.
        reason: in words.
    """

    value: str
    axis: int | None
    index: int | None
    node: str
    operator: str
    reason: str

    def __str__(self) -> str:
        by = f" [{self.operator} {self.node}]" if self.node else ""
        where = "" if self.axis is None else f":{self.axis}:{self.index}"
        return f"{self.value or '(inner axis)'}{where} stays: {self.reason}{by}"


class Reasons:
    """Answers from the log of a finished `Need`."""

    def __init__(self, need: Need) -> None:
        self.need = need

    @cached_property
    def _first(self) -> dict[Axis, np.ndarray]:
        """The event that made a slot stay, by its place in the log (-1: there is none); a slot becomes kept once."""
        first: dict[Axis, np.ndarray] = {}
        for k, (root, event) in enumerate(self.need.events):
            if root not in first:
                first[root] = np.full(root.n, -1)
            first[root][event.slots] = k
        return first

    def chain(self, axis: Axis, slot: int) -> Iterator[Step]:
        """From the slot to the output, input or operator that began it."""
        while True:
            order = self._first.get(axis.root)
            if order is None or order[slot] < 0:
                return
            k = int(order[slot])
            event = self.need.events[k][1]
            yield _step(axis, slot, event)
            if event.source is None:
                return
            cause = self._cause(event, slot, k)
            if cause is None:
                return
            axis, slot = event.source, cause

    def whole(self, tensor: Tensor) -> Iterator[Step]:
        """From a tensor without axes to speak of, or of unknown rank, to the output or operator that needs it."""
        seen = {tensor}
        while True:
            if tensor in self.need.network.outputs:
                yield Step(tensor.name, None, None, "", "", "a graph output")
                return
            reader = next((op for op in self.need.running if tensor in op.ins), None)
            if reader is None or not (tensor.is_leaf or tensor in self.need.alive):
                return
            yield Step(tensor.name, None, None, reader.name, reader.kind, "read as a whole")
            after = [t for t in reader.outs if t not in seen and t in self.need.alive]
            if not after:
                return
            tensor = after[0]
            seen.add(tensor)
            widest = max(tensor.axes, key=lambda a: a.n, default=None)
            if widest is not None and widest.n > 1:
                yield from self.chain(widest, int(self.need.kept(widest).argmax()))
                return

    def asks(self, axis: Axis, slot: int) -> Step | None:
        """The first step of the chain that is more than slots going along with others; None: nothing keeps the slot."""
        steps = list(self.chain(axis, slot))
        return next((step for step in steps if step.reason not in GOING_ALONG), steps[0] if steps else None)

    def _cause(self, event: Event, slot: int, before: int) -> int | None:
        assert event.source is not None
        order = self._first.get(event.source.root)
        if order is None:
            return None
        candidates = np.arange(len(order)) if event.back is None else np.asarray(event.back(slot), int)
        candidates = candidates[(order[candidates] >= 0) & (order[candidates] < before)]
        return int(candidates[order[candidates].argmin()]) if len(candidates) else None

    def summary(self, axis: Axis, slot: int) -> str:
        """The chain in one line: what asks for the slot, and where that begins."""
        steps = list(self.chain(axis, slot))
        if not steps:
            return "nothing keeps it"
        first, last = steps[0], steps[-1]
        text = f"{first.reason}" + (f" ({first.operator} {first.node})" if first.node else "")
        if last is not first:
            where = f"{last.operator} {last.node}" if last.node else last.value
            text += f"; it begins at {where}: {last.reason}"
        return text

    # -- what stayed although it is masked -----------------------------------------------------------------------------
    def refusals(self) -> list[Refusal]:
        """Constant slots that stay, each named once, where it becomes constant; one entry a reason."""
        found: dict[tuple[str, int, str], list[int]] = {}
        for op in self.need.network.active():
            if op not in self.need.running:
                continue
            for t in op.outs:
                for i, axis in enumerate(t.axes):
                    mask = self._masked_here(op, t, i)
                    for slot in np.flatnonzero(mask & self.need.kept(axis)) if mask is not None else ():
                        found.setdefault((t.name, i, self.summary(axis, int(slot))), []).append(int(slot))
        return [Refusal(value, axis, tuple(slots), reason) for (value, axis, reason), slots in found.items()]

    @staticmethod
    def _masked_here(op: Op, t: Tensor, i: int) -> Mask | None:
        """Slots that weights make constant: constant in an output, but in no input on the same axis."""
        const = t.const(i) if t.any_const and t.axes[i].n > 1 else None
        if const is None or t.uniform is not None or t.entries is not None:
            return None
        root = t.axes[i].root
        if not any(w is not None and w.is_leaf and any(a.root is root for a in w.axes) for w in op.ins):
            return None
        mask = const.mask.copy()
        for source in op.ins:
            if source is None or source.is_leaf or source.opaque:
                continue
            for j, axis in enumerate(source.axes):
                known = source.const(j) if axis.root is root and source.any_const else None
                if known is not None:
                    mask &= ~known.mask
        return mask


def _step(axis: Axis, slot: int, event: Event) -> Step:
    shown = event.axis if event.axis.tensor is not None else axis
    tensor = shown.tensor
    node, operator = (event.op.name, event.op.kind) if event.op is not None else ("", "")
    return Step(tensor.name if tensor is not None else "", shown.index, slot, node, operator, event.reason)
