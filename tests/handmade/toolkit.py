"""Traps: small graphs written as text, with zeroed weights and the narrow shapes that must come out.

    Trap("name",
         "(double[N,3,6,6] x) => (double[N,2,6,6] y) { a = Conv(x, W1)  r = Relu(a)  y = Conv(r, W2) }",
         weights={"W1": (4, 3, 1, 1), "W2": (2, 4, 1, 1)},     shapes, filled with random numbers, or arrays
         zero={"W1": s_[1]},                                   what the mask does
         narrow={"W1": (3, 3, 1, 1), "W2": (2, 3, 1, 1)})      what must be left; others keep their shape, () is gone

`narrow=None` asks for the properties only (same function, interface, fixpoint ...). `kept=True` says that nothing may
go: the properties would notice, but the reader should know that the trap is one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx.parser
from onnx import helper, numpy_helper

from tests.property.builder import Case
from tests.property.oracle import evaluate
from tests.property.properties import COUNTED, Outcome, check_slim, size
from tests.property.subject import slim

s_ = np.s_
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Trap:
    """One graph, its mask, and what must be left of it."""

    name: str
    text: str
    weights: Mapping[str, Any] = field(default_factory=dict)
    zero: Mapping[str, Any] = field(default_factory=dict)
    narrow: Mapping[str, Shape] | None = None
    kept: bool = False
    extra: int = 0
    at_most: int = 0
    no_ops: str = ""
    opset: int = 17
    ranges: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    functions: str = ""

    def __str__(self) -> str:
        return self.name

    def case(self) -> Case:
        """The masked model."""
        rng = np.random.default_rng(7)
        arrays: dict[str, np.ndarray[Any, Any]] = {}
        for name, given in self.weights.items():
            is_shape = isinstance(given, tuple) and all(isinstance(d, int) for d in given)
            arrays[name] = rng.normal(size=given) if is_shape else np.array(given)
            if name.startswith("var"):
                arrays[name] = np.abs(arrays[name]) + 0.5
        for name, indices in self.zero.items():
            several = isinstance(indices, list) and not all(isinstance(index, int) for index in indices)
            for index in indices if several else [indices]:
                arrays[name][index] = 0
        imports = f'"": {self.opset}' + (', "local": 1' if self.functions else "")
        ir_version = 10 if self.opset >= 21 else 8
        header = f"<ir_version: {ir_version}, opset_import: [{imports}]> trap "
        model = onnx.parser.parse_model(header + self.text + self.functions)
        model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
        helper.set_model_props(model, {"origin": "handmade"})
        onnx.checker.check_model(model, full_check=True)
        return Case(model, dict(self.ranges), self.name, seed=1)

    def expected_size(self, model: onnx.ModelProto) -> int:
        """Numbers in the narrow model."""
        assert self.narrow is not None
        total = self.extra
        for tensor in model.graph.initializer:
            shape = self.narrow.get(tensor.name, tuple(tensor.dims))
            if tensor.data_type in COUNTED and len(tensor.dims):
                total += int(np.prod(shape)) if shape else 0
        return total

    def check(self) -> Outcome:
        """All properties, and the expected size."""
        case = self.case()
        outcome = check_slim(case, slim)
        assert not outcome.ill_conditioned
        if self.kept:
            assert outcome.after == outcome.before, f"{outcome.before} -> {outcome.after}, though nothing may go"
        small, _ = slim(case.model)
        if self.narrow is not None:
            wanted, found = self.expected_size(case.model), size(small)
            assert wanted <= found <= wanted + self.at_most, (
                f"{found} numbers instead of {wanted} (before {outcome.before}):\n{onnx.printer.to_text(small)}"
            )
        left = {node.op_type for node in small.graph.node} & set(self.no_ops.split())
        assert not left, f"operators that should be gone: {left}\n{onnx.printer.to_text(small)}"
        return outcome


def run(model: onnx.ModelProto, **feeds: Any) -> list[Any]:
    """Outputs of a model in float64."""
    return evaluate(model, {k: np.asarray(v) for k, v in feeds.items()})
