"""Embed a narrow network at random positions of a wide one.

Both networks are instances of the same PyTorch class in two widths. What a width is called on each axis of each
parameter is written down in a *spec*, one short line a parameter, and the rest follows:

    "encoder.*.fc1.weight": "+mlp -model"        axis 0 is produced here, axis 1 is consumed here
    "norm.weight":          "=model"             carried along: neither kills the slot
    "k_proj.weight":        "=kv*=grp*+qk -model"   a product axis (heads x dims), row-major
    "c_attn.weight":        "-model +qk|+qk|+v"  a concatenation of pieces
    "conv.weight":          "+out -in 3"         a number is an extent that is not pruned

A weight of the wide network is random, except that
  * where every index is alive it is the narrow network's weight;
  * it is zero where an index is dead in the way its label dies:
      PRODUCER  what produces the slot is zero (weights and biases), what consumes it stays random: the slot is 0
      CONSUMER  what consumes the slot is zero, what produces it stays random: nobody reads the slot
      CONSTANT  the producing weights are zero, biases stay: the slot is a number other than 0. Slimming must fold it
                into the consumer, so the wide network is *not* the narrow function, only as wide as it.
      MIXED     each dead slot draws PRODUCER, CONSUMER or both
"""

from __future__ import annotations

import enum
import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn


class Death(enum.Enum):
    """How the slots of a label that are not in the narrow network are made irrelevant."""

    PRODUCER = "producer"
    CONSUMER = "consumer"
    CONSTANT = "constant"
    MIXED = "mixed"


@dataclass
class Label:
    """One named width: `narrow` of `wide` slots, at the sorted random `positions`, are alive."""

    narrow: int
    wide: int
    death: Death
    positions: torch.Tensor = field(init=False)
    alive: torch.Tensor = field(init=False)
    _draw: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        if not 0 < self.narrow <= self.wide:
            raise ValueError(f"cannot embed {self.narrow} slots in {self.wide}")
        self._draw = torch.randint(0, 3, (self.wide,))
        self.place(torch.randperm(self.wide)[: self.narrow].sort().values)

    def place(self, positions: torch.Tensor) -> None:
        """Put the living slots at chosen positions (sorted indices below `wide`)."""
        self.positions = positions
        self.alive = torch.zeros(self.wide, dtype=torch.bool)
        self.alive[positions] = True

    def killed(self, role: str) -> torch.Tensor:
        """bool, [wide]: the dead slots that a parameter in this role (+ producer, - consumer) must zero."""
        how = {"+": Death.PRODUCER, "-": Death.CONSUMER}.get(role)
        if self.death is Death.MIXED and how is not None:
            return ~self.alive & (self._draw != (0 if how is Death.CONSUMER else 1))
        return ~self.alive & torch.tensor(self.death is how)


@dataclass(frozen=True)
class Slots:
    """One axis of a wide parameter: which indices are alive, which force a zero, and whether only weights do."""

    alive: torch.Tensor  # bool, [extent]
    zero: torch.Tensor  # bool, [extent]: dead by PRODUCER (role +) or CONSUMER (role -)
    zero_weight: torch.Tensor  # bool, [extent]: dead by CONSTANT (role +): zero in weights, not in biases


def _factor(text: str, labels: Mapping[str, Label]) -> Slots:
    """Slots of one factor: '+label', '-label', '=label' or a number."""
    if text.isdigit():
        none = torch.zeros(int(text), dtype=torch.bool)
        return Slots(~none, none, none)
    role, label = text[0], labels[text[1:]]
    if role not in "+-=":
        raise ValueError(f"{text!r}: a label needs a role: + (produced), - (consumed) or = (carried)")
    constant = role == "+" and label.death is Death.CONSTANT
    return Slots(label.alive, label.killed(role), ~label.alive & torch.tensor(constant))


def _product(a: Slots, b: Slots) -> Slots:
    """Row-major product of two axes."""

    def outer(x: torch.Tensor, y: torch.Tensor, both: bool) -> torch.Tensor:
        x, y = x[:, None], y[None, :]
        return (x & y if both else x | y).reshape(-1)

    return Slots(
        outer(a.alive, b.alive, True), outer(a.zero, b.zero, False), outer(a.zero_weight, b.zero_weight, False)
    )


def _axis(text: str, labels: Mapping[str, Label]) -> Slots:
    pieces = []
    for piece in text.split("|"):
        first, *rest = (_factor(f, labels) for f in piece.split("*"))
        for factor in rest:
            first = _product(first, factor)
        pieces.append(first)
    return Slots(*(torch.cat([getattr(p, name) for p in pieces]) for name in ("alive", "zero", "zero_weight")))


def _spec_of(name: str, spec: Mapping[str, str]) -> str:
    for pattern, text in spec.items():
        if fnmatch.fnmatchcase(name, pattern):
            return text
    raise KeyError(f"no axis spec for parameter {name!r}")


def _fill(
    narrow: torch.Tensor, wide_shape: torch.Size, text: str, labels: Mapping[str, Label], name: str
) -> torch.Tensor:
    axes = [_axis(part, labels) for part in text.split()]
    if tuple(len(a.alive) for a in axes) != tuple(wide_shape):
        raise ValueError(f"{name}: spec {text!r} has shape {[len(a.alive) for a in axes]}, not {list(wide_shape)}")
    alive_shape = tuple(int(a.alive.sum()) for a in axes)
    if alive_shape != tuple(narrow.shape):
        raise ValueError(f"{name}: spec {text!r} keeps {alive_shape}, the narrow parameter is {tuple(narrow.shape)}")
    is_bias = len(axes) == 1
    wide = torch.randn(wide_shape, dtype=narrow.dtype) * 0.3
    for i, axis in enumerate(axes):
        zero = axis.zero if is_bias else axis.zero | axis.zero_weight
        wide[(slice(None),) * i + (zero,)] = 0
    wide[torch.meshgrid(*(a.alive.nonzero()[:, 0] for a in axes), indexing="ij")] = narrow
    return wide


def narrow_shape(name: str, spec: Mapping[str, str], labels: Mapping[str, Label]) -> tuple[int, ...]:
    """Shape of a parameter in the narrow network."""
    return tuple(int(_axis(part, labels).alive.sum()) for part in _spec_of(name, spec).split())


def randomise(model: nn.Module) -> None:
    """Random weights of healthy scale, nothing zero or one by accident (scales in 0.5 .. 1.5, biases too)."""
    for module in model.modules():
        norm = "norm" in type(module).__name__.lower()
        for name, parameter in module.named_parameters(recurse=False):
            if norm and parameter.ndim == 1 and name in ("weight", "gamma", "g"):
                parameter.data.uniform_(0.5, 1.5)
            elif parameter.ndim > 1:
                parameter.data.normal_(0, parameter[0].numel() ** -0.5)
            else:
                parameter.data.normal_(0, 0.3)
        for name, buffer in module.named_buffers(recurse=False):
            if name == "running_mean":
                buffer.normal_(0, 0.1)
            elif name == "running_var":
                buffer.uniform_(0.5, 1.5)


def embed(narrow: nn.Module, wide: nn.Module, spec: Mapping[str, str], labels: Mapping[str, Label]) -> None:
    """Fill `wide` in place so that it computes what `narrow` computes (unless a label is CONSTANT).

    Every parameter and every floating-point buffer of `wide` must be matched by a pattern of `spec` (first match wins);
    those of equal shape in both networks that no pattern mentions raise too, so that nothing is left to chance.

    Raises:
        KeyError: A parameter has no spec.
        ValueError: A spec does not describe the shapes of both networks.
    """
    sources = dict(narrow.named_parameters()) | {k: b for k, b in narrow.named_buffers() if b.is_floating_point()}
    targets = dict(wide.named_parameters()) | {k: b for k, b in wide.named_buffers() if b.is_floating_point()}
    if sources.keys() != targets.keys():
        raise ValueError(f"different parameters: {sorted(sources.keys() ^ targets.keys())}")
    with torch.no_grad():
        for name, target in targets.items():
            filled = _fill(sources[name], target.shape, _spec_of(name, spec), labels, name)
            if name.endswith("running_var"):
                filled = filled.abs() + 0.1
                filled[_axis(_spec_of(name, spec), labels).alive] = sources[name]
            target.copy_(filled)
