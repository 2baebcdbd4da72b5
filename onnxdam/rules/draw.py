"""Operators that draw numbers: what they write is never computed ahead of time, nor compared."""

from __future__ import annotations

from onnxdam.rules.base import Rule

RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")


class Draw(Rule):
    """Numbers drawn at run time: their axes stay."""

    folds = False
    draws = True
    note = "drawn at random"


TABLE: dict[tuple[str, str], Rule] = {("", name): Draw() for name in RANDOM}
