"""The verbs: plan, apply, slim."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from onnxdam.analysis.forward import Network
from onnxdam.analysis.need import Need
from onnxdam.plan import Plan
from onnxdam.rewrite.slim import Slim


def slim(model: str | Path | onnx.ModelProto | ir.Model, *, threshold: float = 0.0, align: Any = "auto", protect: Sequence[str] = ()) -> tuple[Any, Plan]:
    source = ir.load(model) if isinstance(model, (str, Path)) else ir.from_proto(model) if isinstance(model, onnx.ModelProto) else model.clone()
    network = Network(source, threshold)
    need = Need(network, align=1)
    out = Slim(network, need).run()
    plan = Plan("")
    return (ir.to_proto(out) if isinstance(model, onnx.ModelProto) else out), plan
