"""The grammar: start from one or two inputs, append fitting productions, choose outputs, mask.

`draw_case` asks a `Choices` for everything, so Hypothesis (`cases`) and a plain seed (`case_of_seed`) draw from one
grammar. Families only bias which productions are tried; any production may follow any other where its input fits.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st

from .builder import DOUBLE, Builder, Case, Value, finish
from .choices import Choices, hypothesis_choices, seeded
from .masks import draw_mask
from .ops_any import ANY_OPS, reshape
from .ops_sequence import SEQUENCE_OPS, embedding, is_sequence, is_vector, linear, pool_sequence
from .ops_spatial import MAP_OPS, batchnorm, gate, is_map, pointwise, to_vector
from .ops_special import SPECIAL_OPS

FAMILIES = ("conv", "mixed", "sequence", "any", "special", "vector")
OPSETS = (17, 13, 21, 23, 18, 11, 14, 9, 24)
Production = Callable[[Builder, Value], "Value | None"]


def draw_case(choose: Choices, family: str | None = None, most: int = 8) -> Case:
    """A masked model of at most `most` productions, with its input ranges."""
    family = family or choose.pick(FAMILIES)
    seed = choose.integer(0, 2**16)
    b = Builder(choose, choose.pick(OPSETS), np.random.default_rng(seed))
    start(b, family)
    for _ in range(choose.integer(1, most)):
        step(b, family)
    outputs = choose_outputs(b)
    description = draw_mask(b)
    model = finish(b, outputs)
    return Case(model, b.ranges, f"family {family}, opset {b.opset}, mask {description}", seed, frozenset(b.constructs))


@st.composite
def cases(draw: Callable[..., object], family: str | None = None, most: int = 8) -> Case:
    """Hypothesis strategy of cases."""
    return draw_case(hypothesis_choices(draw), family, most)


def case_of_seed(seed: int, family: str | None = None, most: int = 8) -> Case:
    """The case of a seed, for the long runs."""
    return draw_case(seeded(seed), family, most)


def start(b: Builder, family: str) -> None:
    """The first values of the pool."""
    kind = {"conv": "map", "sequence": "seq", "vector": "vec"}.get(family)
    kind = kind or b.choose.pick(["map", "seq", "vec"])
    n = "N" if not b.choose.chance(15) else 2
    if kind == "map":
        space = b.choose.pick([(6, 5), (9,), (5, 6), (4, 3, 3)])
        x = b.input([n, b.choose.pick([3, 4, 6]), *space])
        b.push(pointwise(b, x, b.choose.pick([6, 4, 8])) if b.choose.chance(70) else x)
    elif kind == "vec":
        x = b.input([n, b.choose.pick([6, 4, 8, 12])])
        b.push(linear(b, x) if b.choose.chance(60) else x)
    elif b.choose.chance(30):
        b.push(embedding(b))
    else:
        x = b.input([n, b.choose.pick(["T", 4]), b.choose.pick([6, 4, 8])])
        b.push(linear(b, x) if b.choose.chance(50) else x)
    if b.choose.chance(15):
        b.push(b.input(b.pool[0].shape))


def step(b: Builder, family: str) -> None:
    """Appends one production that fits a recent value; a production that does not fit is a step lost."""
    x = b.recent(lambda v: v.rank >= 1)
    if x is None:
        return
    productions: list[Production] = []
    if family != "any":
        if is_map(x) and family in ("conv", "mixed", "special"):
            productions += [*MAP_OPS, *MAP_OPS[:8]]
        elif is_sequence(x) or is_vector(x):
            productions += [*SEQUENCE_OPS, *SEQUENCE_OPS[:4]]
            if is_vector(x):
                productions += [batchnorm, gate]  # type: ignore[list-item]
    if family == "special":
        productions += SPECIAL_OPS * 4
    if family in ("any", "mixed", "special", "vector") or not productions:
        productions += ANY_OPS
    y = b.choose.pick(productions)(b, x)
    if isinstance(y, Value):
        b.push(y)
    if is_map(x) and b.choose.chance(12):
        b.push(to_vector(b, x))
    elif is_sequence(x) and x.rank == 3 and b.choose.chance(12):
        b.push(pool_sequence(b, x))
    elif b.choose.chance(4):
        z = reshape(b, x)
        if z is not None:
            b.push(z)


def choose_outputs(b: Builder) -> list[Value]:
    """The latest value behind a head, some leaves, sometimes an intermediate value, a weight or an input."""
    last = b.pool[-1]
    if not b.choose.chance(25):
        last = head(b, last)
    outputs = [last, *b.forced_outputs]
    read = {name for node in b.nodes for name in node.input}
    for value in b.pool[:-1]:
        if b.choose.chance(30 if value.name not in read else 5):
            outputs.append(value)
    if b.choose.chance(4):
        name = b.choose.pick([n for n, a in b.weights.items() if a.dtype == np.float64] or [""])
        if name and name not in b.constants:
            outputs.append(Value(name, b.weights[name].shape))
    produced = {name for node in b.nodes for name in node.output}
    names: set[str] = set()
    unique = []
    for value in outputs:
        if value.name in names or not (value.name in produced or value.name in b.weights):
            continue
        names.add(value.name)
        unique.append(value)
    if not unique:
        unique = [b.same("Identity", last)]
    return unique


def head(b: Builder, x: Value) -> Value:
    """What usually ends a network: a projection, so that the channels before it are not pinned by the output."""
    if is_map(x):
        if b.choose.chance(50):
            return pointwise(b, x, 3)
        x = to_vector(b, x)
    if x.rank >= 2 and x.static(x.rank - 1) and int(x.shape[-1]) <= 128:
        return linear(b, x, 3)
    return x


__all__ = ["DOUBLE", "FAMILIES", "Case", "case_of_seed", "cases", "draw_case"]
