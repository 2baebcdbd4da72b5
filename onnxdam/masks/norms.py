"""Methods without gate parameters: the weights themselves are shrunk until whole groups are zero.

GroupLasso: slot i owns the group W_i of all weights that read it, p_i numbers. Penalty sum of sqrt(p_i) ||W_i|| (Yuan
and Lin 2006), taken as a proximal step after the optimiser's (Parikh and Boyd 2014), so zeros are exact:

    W_i <- W_i max(0, 1 - t sqrt(p_i) / ||W_i||),   t = learning rate * lambda

NetworkSlimming (Liu et al., ICCV 2017, arXiv 1708.06519): slot i owns the BatchNorm scales gamma_i of its
channel. Penalty sum of |gamma_i|, by gradient; scales below a threshold count as zero, and are once hardened.

An optimiser that scales its steps (Adam) moves every number by about the learning rate, so below some lambda no slot
stays at zero, and above it all do: there is no lambda to steer. Towards a target, t follows from the widths instead
(`Gates`): with u_i the t that slot i just survives, m the mean of u over the open slots of its gate, and b the bound
for which the slots with u_i / m > b cost no more than the goal, every look at the widths shrinks

    t_i = PACE b m min(1, b m / u_i)^2

What is weak goes in about 1 / PACE looks unless it is of use, what is strong is hardly touched, and zero is for good.
Were all to shrink alike, a gate whose slots are much of a size would lose them all at once, before training has told
them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from onnxdam.errors import InputError
from onnxdam.masks.gate import Gate, along, rows_along

PACE = 0.1  # share of its size that a slot at the bound loses at a look


@dataclass(frozen=True)
class Owned:
    """A weight of which every slot of a gate owns a part.

    Attributes:
        weight: returns the tensor (a function, as modules may replace their parameters).
        axis: the axis that runs over the slots.
        index: the slot that each entry of the axis belongs to, -1 for none, shape (extent,); None: entry i to slot i.
    """

    weight: Callable[[], Tensor]
    axis: int
    index: Tensor | None = None


class Strength(Gate):
    """A gate whose slots are as strong as the weights they own."""

    shrinks = True
    patient = True

    def __init__(self, n: int, owned: Sequence[Owned], dim: int, threshold: float) -> None:
        super().__init__(n, dim)
        self.owned = list(owned)
        self.threshold = threshold
        self.closes = False
        if not owned:
            raise InputError(f"{type(self).__name__}: no weights belong to the gate")
        for part in owned:
            shape, extent = tuple(part.weight().shape), n if part.index is None else len(part.index)
            if shape[part.axis] != extent:
                raise InputError(
                    f"{type(self).__name__}({n}): axis {part.axis} of a weight of shape {shape} does not fit"
                )

    def collect(self, elementwise: Callable[[Tensor], Tensor]) -> Tensor:
        """Sum of a function of the weights that each slot owns, shape (n,)."""
        total = torch.zeros_like(self.values)
        for part in self.owned:
            rows = rows_along(elementwise(part.weight()), part.axis)
            if part.index is None:
                total = total + rows
            else:
                index = part.index.to(rows.device)
                total = total.index_add(0, index[index >= 0], rows[index >= 0])
        return total

    def strength(self) -> Tensor:
        """Shape (n,), at least 0, differentiable."""
        raise NotImplementedError

    def relative(self) -> Tensor:
        """The t that each slot just survives, shape (n,), without gradient."""
        raise NotImplementedError

    @property
    def idle(self) -> bool:  # type: ignore[override]
        return not (self.closes or self.hardened)

    def soft(self) -> Tensor:
        return self.values

    def score(self) -> Tensor:
        s = self.strength().detach()
        return torch.where(s > self.threshold, s, 0.0) * self.values

    def margin(self) -> Tensor:
        """What each slot survives in units of the mean over the open ones; 0 where closed."""
        return self._margin(self.relative())

    def _margin(self, size: Tensor) -> Tensor:
        size = torch.where(size > self.threshold, size, 0.0) * self.values
        return size / size[size > 0].mean() if size.any() else size

    @torch.no_grad()
    def aim(self, width: int) -> None:
        """Closes slots, for good."""
        stays = torch.zeros_like(self.values)
        stays[self.margin().topk(width).indices] = 1.0
        self._close(stays)

    @torch.no_grad()
    def shrink(self, amount: float) -> None:
        self._scale((1 - amount / self.relative().clamp(min=1e-30)).clamp(min=0))

    @torch.no_grad()
    def press(self, bound: float, least: int) -> None:
        size = self.relative().clamp(min=1e-30)
        margin = self._margin(size)
        edge = bound * size[margin > 0].mean() / size
        factors = (1 - PACE * edge * edge.clamp(max=1).square()).clamp(min=0)
        factors[margin.topk(least).indices] = 1.0
        self._scale(factors)
        self._close(factors > 0)

    def _scale(self, factors: Tensor) -> None:
        for part in self.owned:
            weight = part.weight()
            weight.mul_(along(spread(factors, part.index), weight.dim(), part.axis))

    def _close(self, stays: Tensor) -> None:
        self.values *= stays
        self.closes = not bool(self.values.all())

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.closes = not bool(self.values.all())

    def surrogate(self) -> Tensor:
        s = self.strength()
        kept = s.detach()[s.detach() > self.threshold]
        return s.sum() / kept.mean() if len(kept) else s.sum()

    def cost(self) -> Tensor:
        return self.strength().sum()


class GroupLasso(Strength):
    """Group lasso by proximal steps, exact zeros.

    The penalty is a number to look at; what acts is `shrink`, after every step of the optimiser (`Gates.step` does it).

    Args:
        n: number of slots.
        owned: the weights that read the slots.
        dim: the axis of the input that is gated, once hardened.
    """

    proximal = True
    _roots: Tensor

    def __init__(self, n: int, owned: Sequence[Owned], dim: int = 1) -> None:
        super().__init__(n, owned, dim, 0.0)
        self.register_buffer("_roots", self.sizes().sqrt(), persistent=False)

    def strength(self) -> Tensor:
        square = self.collect(torch.square)
        return torch.where(square > 0, square, 1.0).sqrt() * (square > 0)  # the root has no slope at 0

    def sizes(self) -> Tensor:
        """How many numbers each slot owns, shape (n,)."""
        return self.collect(lambda weight: torch.ones_like(weight))

    def cost(self) -> Tensor:
        return (self._roots * self.strength()).sum().detach()

    @torch.no_grad()
    def relative(self) -> Tensor:
        """Root mean square of the numbers that each slot owns."""
        return self.strength() / self._roots


class NetworkSlimming(Strength):
    """L1 on BatchNorm scales (arXiv 1708.06519).

    Args:
        n: number of channels.
        owned: the scales of the channels.
        dim: the axis of the input that is gated, once hardened.
        threshold: scales of at most this magnitude (summed over a channel's) count as zero.
    """

    def __init__(self, n: int, owned: Sequence[Owned], dim: int = 1, *, threshold: float = 1e-3) -> None:
        super().__init__(n, owned, dim, threshold)

    def strength(self) -> Tensor:
        return self.collect(torch.abs)

    @torch.no_grad()
    def relative(self) -> Tensor:
        """The scales' magnitudes."""
        return self.strength()


def spread(mask: Tensor, index: Tensor | None) -> Tensor:
    """One entry per entry of `index`: that of its slot, 1 where it has none.

    Args:
        mask: shape (n,).
        index: shape (extent,), -1 for none; None: as many entries as slots.
    """
    if index is None:
        return mask
    index = index.to(mask.device)
    return torch.where(index >= 0, mask[index.clamp(min=0)], torch.ones((), dtype=mask.dtype, device=mask.device))
