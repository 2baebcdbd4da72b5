"""Training with masks, in torch: gates, schedules, targets, and the way to ONNX and back.

This is the only part of onnxdam that imports torch; install it with `pip install onnxdam[torch]`.

    >>> gates = attach(model, example, method="dam", target={"macs": 0.3}, schedule=Schedule(steps))  # doctest: +SKIP
    >>> loss = task_loss + gates.penalty()  # and gates.step() after optimizer.step()  # doctest: +SKIP
    >>> export(model, gates, example, "masked.onnx")  # doctest: +SKIP
"""

from __future__ import annotations

from onnxdam.masks.attach import AttachedGates, attach
from onnxdam.masks.bernoulli import DiffPrune, HardConcrete
from onnxdam.masks.dam import DAM
from onnxdam.masks.export import export
from onnxdam.masks.gate import Gate, gates_of
from onnxdam.masks.gates import Gates
from onnxdam.masks.induced import Induced, induce
from onnxdam.masks.narrow import narrow, narrow_state, parameter_plan
from onnxdam.masks.norms import GroupLasso, NetworkSlimming, Owned
from onnxdam.masks.schedule import Schedule

__all__ = [
    "DAM",
    "AttachedGates",
    "DiffPrune",
    "Gate",
    "Gates",
    "GroupLasso",
    "HardConcrete",
    "Induced",
    "NetworkSlimming",
    "Owned",
    "Schedule",
    "attach",
    "export",
    "gates_of",
    "induce",
    "narrow",
    "narrow_state",
    "parameter_plan",
]
