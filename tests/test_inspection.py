"""What `inspect` says of a model whose every fact is known."""

from __future__ import annotations

import json

import numpy as np

from onnxdam.cli import show
from onnxdam.inspection import inspect
from tests.models import mlp, normal, parsed


def test_groups_and_what_can_leave() -> None:
    found = inspect(mlp(masked=3), align="none")
    (group,) = [group for group in found.groups if group.dead]
    assert set(group.values) == {"h:1", "r:1"}
    assert set(group.weights) == {"w1:1", "b1:0", "w2:0"}
    assert (group.slots, group.constant, group.dead, group.aligned) == (8, 3, 3, 0)
    assert found.cost.parameters == 58
    assert found.plan.kept["h"][1] == (3, 4, 5, 6, 7)


def test_pins_name_outputs_inputs_and_operators_without_a_rule() -> None:
    model = parsed(
        "g (float[N, 4] x) => (float[N, 2] y) { h = MatMul(x, w1)  r = my.own.Thing(h)  y = MatMul(r, w2) }",
        header='<ir_version: 8, opset_import: ["" : 17, "my.own" : 1]>\n',
        w1=normal(4, 8) * (np.arange(8) > 3).astype(np.float32),
        w2=normal(8, 2),
    )
    found = inspect(model, align="none")
    pins = {pin.operator: pin for pin in found.pins}
    assert "h:1" in pins["Thing"].where
    assert {where for pin in found.pins if not pin.operator for where in pin.where} >= {"x:1", "y:1"}
    assert not any(group.dead for group in found.groups)


def test_json_is_strict() -> None:
    data = json.loads(json.dumps(show.plain(inspect(mlp()).to_dict()), allow_nan=False))
    assert data["groups"][0]["slots"] == 8
    assert data["cost"]["parameters"] == 58
