"""Masks: which channels of a drawn graph are silenced, and how.

Independent zeros rarely couple: two producers of one residual stream must lose the same channels before any can leave.
So most masks draw one set of dead channels per width and apply it to every layer of that width; others are independent,
or plain noise.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .builder import Builder, Layer, Slots

STYLES = ("coherent", "coherent", "constant", "consumers", "independent", "mixed", "noise", "everything", "none")


def draw_mask(b: Builder) -> str:
    """Zeroes parts of the weights of `b` in place and says what was done."""
    style = b.choose.pick(STYLES)
    density = b.choose.pick([50, 25, 75, 100])
    if style == "none":
        return "none"
    if style == "noise":
        return noise(b, density)
    if style == "everything":
        return everything(b)
    dead_of_width: dict[int, list[int]] = {}
    counts = [0, 0, 0]
    for layer in b.layers:
        dead = dead_of_width.setdefault(layer.width, dead_channels(b, layer.width, density))
        if style in ("independent", "mixed") and b.choose.chance(60):
            dead = dead_channels(b, layer.width, density)
        if b.choose.chance(0 if style in ("coherent", "constant", "consumers") else 30):
            continue
        silence(b, layer, dead, style, counts)
    return f"{style} {density}%: {counts[0]} producers, {counts[1]} constants, {counts[2]} consumers"


def silence(b: Builder, layer: Layer, dead: list[int], style: str, counts: list[int]) -> None:
    """Zeroes the dead channels of one layer in the way of the style."""
    if layer.outs and style != "consumers":
        zero(b, layer.outs, dead)
        counts[0] += 1
        if style == "constant" or (style != "coherent" and b.choose.chance(30)):
            counts[1] += 1
        else:
            zero(b, layer.biases, dead)
    if layer.ins and (style in ("consumers", "mixed") or b.choose.chance(15)):
        zero(b, layer.ins, dead)
        counts[2] += 1


def dead_channels(b: Builder, width: int, density: int) -> list[int]:
    if density == 100:
        return list(range(width))
    return b.choose.subset(range(width), density)


def zero(b: Builder, slots: tuple[Slots, ...], dead: list[int]) -> None:
    for slot in slots:
        for channel in dead:
            b.weights[slot.name][slot.index(channel)] = 0


def noise(b: Builder, density: int) -> str:
    """Random rows, columns and blocks of random weights."""
    names = [name for name, array in b.weights.items() if maskable(name, array) and array.ndim >= 1]
    hit = 0
    for name in names:
        array = b.weights[name]
        if not b.choose.chance(60):
            continue
        hit += 1
        axis = b.choose.integer(0, array.ndim - 1)
        for i in b.choose.subset(range(array.shape[axis]), density):
            array[(slice(None),) * axis + (i,)] = 0
        if array.ndim >= 2 and b.choose.chance(20):
            array[: array.shape[0] // 2, : array.shape[1] // 2] = 0
    return f"noise {density}% in {hit} of {len(names)} weights"


def everything(b: Builder) -> str:
    """One layer, entirely dead, or all weights zero."""
    if b.layers and not b.choose.chance(30):
        layer = b.choose.pick(b.layers)
        zero(b, layer.outs or layer.ins, list(range(layer.width)))
        return "one whole layer"
    for name, array in b.weights.items():
        if maskable(name, array) and array.ndim >= 2:
            array[...] = 0
    return "all weights"


def maskable(name: str, array: np.ndarray[Any, Any]) -> bool:
    """Weights, but no variances, divisors or scalars that keep a function in its domain."""
    return array.dtype == np.float64 and not name.startswith(("var", "positive", "s"))
