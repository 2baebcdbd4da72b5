"""One file per operator family: the only place that knows operator names.

`REGISTRY` maps (domain, operator) to its rule. The tables are listed here by hand, so that one can read what runs.
"""

from __future__ import annotations

from onnxdam.rules import (
    attention,
    contrib,
    control,
    conv,
    draw,
    einsum,
    elementwise,
    extend,
    integer,
    matmul,
    ml,
    movement,
    norm,
    pick,
    pool,
    quantize,
    recurrent,
    reduce,
    reshape,
    resize,
    select,
    shapes,
)
from onnxdam.rules.base import Rule

#: the newest opset of each domain whose operators the rules were written against
VERIFIED = {"": 26, "com.microsoft": 1}

UNKNOWN = Rule()

FAMILIES = (
    attention,
    contrib,
    control,
    conv,
    draw,
    einsum,
    elementwise,
    extend,
    integer,
    matmul,
    ml,
    movement,
    norm,
    pick,
    pool,
    quantize,
    recurrent,
    reduce,
    reshape,
    resize,
    select,
    shapes,
)


def _collect() -> dict[tuple[str, str], Rule]:
    registry: dict[tuple[str, str], Rule] = {}
    for family in FAMILIES:
        for key, rule in family.TABLE.items():
            if key in registry:
                raise ValueError(f"two rules for operator {key}")
            registry[key] = rule
    return registry


REGISTRY = _collect()


def lookup(domain: str, operator: str, version: int) -> Rule:
    """The rule of an operator at an opset version; `UNKNOWN` (pins all its axes) where there is none.

    An operator that changed in an opset newer than the rules were written against has no rule.
    """
    domain = "" if domain == "ai.onnx" else domain
    rule = REGISTRY.get((domain, operator), UNKNOWN)
    if version > VERIFIED.get(domain, 1) and domain == "":
        import onnx

        if onnx.defs.has(operator) and onnx.defs.get_schema(operator, version).since_version > VERIFIED[domain]:
            return UNKNOWN
    return rule
