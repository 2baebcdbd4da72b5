"""Training with masks, in torch: gates, schedules, targets, and the way to ONNX and back.

This is the only part of onnxdam that imports torch; install it with `pip install onnxdam[torch]`.
"""

from __future__ import annotations

from onnxdam.masks.bernoulli import DiffPrune, HardConcrete
from onnxdam.masks.dam import DAM
from onnxdam.masks.gate import Gate, gates_of
from onnxdam.masks.norms import GroupLasso, NetworkSlimming, Owned

__all__ = ["DAM", "DiffPrune", "Gate", "GroupLasso", "HardConcrete", "NetworkSlimming", "Owned", "gates_of"]
