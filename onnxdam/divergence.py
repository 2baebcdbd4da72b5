"""Where do two models part? The first node whose result differs although its operands agree.

Values are matched by name; where the slim one is narrower, the plan says which slots of the original to compare with.
A legitimate rewrite may scale a value and undo that later (a gate folded into weights), so the search goes backwards
from the outputs that are wrong and stops at values that agree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import onnx

from onnxdam import tolerance
from onnxdam.errors import OnnxDamError
from onnxdam.plan import Plan
from onnxdam.providers import Runnable, session

Fed: TypeAlias = tuple[Runnable, Mapping[str, np.ndarray]]
_CHUNK = 64  # intermediate results held at a time


@dataclass(frozen=True)
class Divergence:
    """The place where two models part.

    Attributes:
        node: name of the node, in the checked model.
        op_type: its operator.
        value: the result that differs.
        error: its relative error (infinite when it differs in kind or shape).
        why: what differs in kind.
    """

    node: str
    op_type: str
    value: str
    error: float
    why: str = ""

    @property
    def text(self) -> str:
        """In one line."""
        return f"{self.op_type} {self.node!r}, value {self.value!r}: error {self.error:.1e} {self.why}".rstrip()


def first_divergence(
    reference: Fed,
    checked: Fed,
    level: str,
    plan: Plan | None,
    rtol: float,
    provider: str = "cpu",
) -> Divergence | None:
    """Finds the first diverging node of the checked model; None if it cannot be told (subgraphs are not looked into).

    Args:
        reference: a model, and what to feed it.
        checked: the other model, and the same in its own terms.
        level: graph optimisations "off" or "on".
        plan: says where values of the checked model are narrower.
        rtol: relative errors up to this count as equal.
        provider: what runs them.
    """
    a, b = reference[0], checked[0]
    producers = {o: node for node in b.skeleton.graph.node for o in node.output if o}
    made = {o for node in a.skeleton.graph.node for o in node.output if o}
    common = [value for value in producers if value in made]
    inner = dict(_compare(reference, checked, common, plan, level, provider))
    wrong = [o.name for o in b.skeleton.graph.output if o.name in inner and not inner[o.name].error <= rtol]
    wrong = wrong or [value for value in common if value in inner and not inner[value].error <= rtol][-1:]
    order = {id(node): index for index, node in enumerate(b.skeleton.graph.node)}
    culprits, todo, seen = [], [(value, value) for value in wrong], set(wrong)
    while todo:
        value, known = todo.pop()  # known: the closest value behind it that could be compared, and differs
        known = value if value in inner else known
        suspects = [
            v for v in _operands(producers[value]) if v in producers and not (v in inner and inner[v].error <= rtol)
        ]
        if not suspects:
            culprits.append((order[id(producers[known])], known))
        todo += [(v, known) for v in suspects if v not in seen]
        seen.update(suspects)
    if not culprits:
        return None
    value = min(culprits)[1]
    node = producers[value]
    return Divergence(node.name or node.output[0], node.op_type, value, inner[value].error, inner[value].why)


def _operands(node: onnx.NodeProto) -> list[str]:
    captured = [
        name
        for attribute in node.attribute
        for graph in (attribute.g, *attribute.graphs)
        for inner in graph.node
        for name in _operands(inner)
    ]
    return [name for name in (*node.input, *captured) if name]


def _compare(
    reference: Fed,
    checked: Fed,
    values: list[str],
    plan: Plan | None,
    level: str,
    provider: str,
) -> list[tuple[str, tolerance.Difference]]:
    found = []
    for first in range(0, len(values), _CHUNK):
        chunk = values[first : first + _CHUNK]
        expected, got = (_run(*fed, chunk, level, provider) for fed in (reference, checked))
        for value in chunk:
            if value in expected and value in got:
                like = _narrowed(expected[value], plan.kept.get(value, {}) if plan else {})
                found.append((value, tolerance.difference(like, got[value])))
    return found


def _narrowed(array: object, kept: Mapping[int, tuple[int, ...]]) -> object:
    if not isinstance(array, np.ndarray):
        return array
    for axis, slots in kept.items():
        if max(slots, default=math.inf) < array.shape[axis]:
            array = np.take(array, slots, axis)
    return array


def _run(
    model: Runnable, feed: Mapping[str, np.ndarray], values: list[str], level: str, provider: str
) -> dict[str, object]:
    """The values that can be had: some have types that the runtime does not hand out."""
    try:
        opened = session(model.with_outputs(values), provider=provider, level=level, exact=True)
        taken = {value.name for value in opened.get_inputs()}
        results = opened.run(values, {name: array for name, array in feed.items() if name in taken})
        return dict(zip(values, results, strict=True))
    except OnnxDamError:
        pass
    except Exception:  # the runtime's exceptions share no base class
        pass
    if len(values) == 1:
        return {}
    half = len(values) // 2
    return _run(model, feed, values[:half], level, provider) | _run(model, feed, values[half:], level, provider)
