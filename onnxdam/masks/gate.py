"""What every gate is: n slots, of which training chooses some.

    soft gate        y = x * m(theta)    m depends on learnable parameters, or is 1 where weights are shrunk instead
    hardened gate    y = x * v           v is a constant; exactly zero for the slots that left

A gate answers four questions, whatever its method: the mask values, the penalty (as its paper states it), how many
slots stay (expected: differentiable, actual: a number), and which slots are worth most.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from onnxdam.errors import InputError
from onnxdam.masks.schedule import is_whole


class Gate(nn.Module):
    """Base of all gates over the slots of one axis.

    Used as a plain module it multiplies that axis of its input by the mask:

        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), DAM(8), nn.Linear(8, 2))  # doctest: +SKIP

    Args:
        n: number of slots.
        dim: the axis of the input that is gated; 1 is the channel axis of images and of feature vectors.

    Attributes:
        hardened: whether the mask is frozen.
        hard: the same as a buffer, so that it is saved with the weights.
        cold: whether the gate is frozen for now, at the start of a run.
        values: the mask of a hardened gate, shape (n,).
    """

    hard: Tensor
    values: Tensor

    #: whether the method shrinks weights after each step of the optimiser, instead of a penalty
    proximal = False
    #: whether the weights themselves are what is shrunk: towards a target, slots are closed instead of penalised
    shrinks = False
    #: whether it takes the penalty time to tell which slots are of no use: steering closes them by hand late
    patient = False
    #: whether the mask is 1 throughout, whatever the parameters
    idle = False

    def __init__(self, n: int, dim: int = 1) -> None:
        super().__init__()
        if not is_whole(n) or n < 1:
            raise InputError(f"{type(self).__name__}: a gate needs at least one slot, not {n!r}")
        self.n = int(n)
        self.dim = dim
        self.register_buffer("hard", torch.tensor(False))
        self.register_buffer("values", torch.ones(n))
        self.hardened = False
        self.cold = False

    # -- what a method defines -------------------------------------------------------------------------------------
    def soft(self) -> Tensor:
        """Mask values while the gate is not hardened, shape (n,); noisy only in training mode."""
        raise NotImplementedError

    def score(self) -> Tensor:
        """What each slot is worth, shape (n,), without gradient; at most 0 where the method has closed it."""
        raise NotImplementedError

    def surrogate(self) -> Tensor:
        """A differentiable stand-in for the number of open slots, a scalar."""
        raise NotImplementedError

    def cost(self) -> Tensor:
        """The penalty of the paper, a scalar."""
        return self.surrogate()

    def draw(self) -> None:
        """Draws new noise: once per forward pass, however many weights share the gate."""

    def warm_up(self) -> None:
        """The end of the cold start."""

    def shrink(self, amount: float) -> None:
        """The proximal step of methods that have one.

        Args:
            amount: learning rate times penalty weight.
        """

    # -- what steering towards a target wants of a method ------------------------------------------------------------
    @classmethod
    def openness(cls, gates: Sequence[Any]) -> Tensor:
        """Of several gates of this class in one go: `span[0]` numbers for each, which times `span[1]` add up to its
        `surrogate`, but for a constant."""
        return torch.stack([gate.surrogate() for gate in gates])

    @property
    def span(self) -> tuple[int, float]:
        """How many numbers of `openness` are this gate's, and how many slots each stands for."""
        return 1, 1.0

    def margin(self) -> Tensor:
        """What each slot is worth on a scale that gates of a method share, above 0 where it is open, shape (n,)."""
        return self.score()

    def aim(self, width: int) -> None:
        """Opens the best slots, as many as that, and closes the others.

        Methods that cannot be moved leave it at what the penalty does.
        """

    def press(self, bound: float, least: int) -> None:
        """Of methods that shrink weights: shrinks slots with a margin up to a bound, and less those above it.

        Args:
            bound: on the scale of `margin`.
            least: the best ones, as many as that, are left alone.
        """

    # -- what all have -----------------------------------------------------------------------------------------------
    @property
    def noisy(self) -> bool:
        """Whether the mask is drawn anew in every training pass."""
        return type(self).draw is not Gate.draw and not self.hardened

    def mask(self) -> Tensor:
        """Mask values, shape (n,)."""
        return self.values if self.hardened else self.soft()

    def kept(self) -> Tensor:
        """Which slots stay, bool, shape (n,)."""
        return self.values != 0 if self.hardened else self.score() > 0

    def expected(self) -> Tensor:
        """How many slots stay, differentiable while the gate is soft, a scalar."""
        return (self.values != 0).sum().to(self.values.dtype) if self.hardened else self.surrogate()

    def penalty(self) -> Tensor:
        """What the paper adds to the loss, before the weight lambda; 0 once hardened."""
        return self.values.new_zeros(()) if self.hardened else self.cost()

    @torch.no_grad()
    def harden(self, keep: Tensor | None = None) -> None:
        """Freezes the mask at its values in evaluation.

        Args:
            keep: slots that stay, bool, shape (n,); those that the method has closed come back with the smallest value
                of the others. None: those that are open.
        """
        training = self.training
        self.eval()
        mask, keep = self.mask(), self.kept() if keep is None else keep.to(self.values.device)
        self.train(training)
        open_ = mask[keep & (mask != 0)]
        least = open_.min() if len(open_) else mask.new_ones(())
        self.values.copy_(torch.where(keep, torch.where(mask != 0, mask, least), 0.0))
        self.hard.fill_(True)
        self.hardened = True
        self.requires_grad_(False)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.hardened = bool(self.hard)

    @torch.no_grad()
    def take_values(self) -> Tensor:
        """The values of a hardened gate, shape (n,); afterwards its mask is binary. Who takes them must apply them."""
        values = self.values.clone()
        self.values.copy_((values != 0).to(values))
        return torch.where(values != 0, values, torch.ones_like(values))

    def forward(self, x: Tensor) -> Tensor:
        """Multiplies axis `dim` of x by the mask.

        Args:
            x: shape (..., n, ...).
        """
        if not -x.dim() <= self.dim < x.dim() or x.shape[self.dim] != self.n:
            found = "no such axis" if not -x.dim() <= self.dim < x.dim() else f"{x.shape[self.dim]} slots"
            raise InputError(
                f"{type(self).__name__}({self.n}): axis {self.dim} of an input of shape {tuple(x.shape)} has {found}"
            )
        if self.training and self.noisy:
            self.draw()
        return x * along(self.mask().to(x.dtype), x.dim(), self.dim)

    def extra_repr(self) -> str:
        return f"{self.n}, dim={self.dim}"


class Fixed(nn.Module):
    """What a hardened gate is in an exported network: a product with constants.

    Args:
        values: shape (n,).
        dim: the axis of the input that is multiplied.
    """

    values: Tensor

    def __init__(self, values: Tensor, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("values", values)

    def forward(self, x: Tensor) -> Tensor:
        """x * values, x of shape (..., n, ...)."""
        return x * along(self.values.to(x.dtype), x.dim(), self.dim)


def along(mask: Tensor, rank: int, dim: int) -> Tensor:
    """The mask, shape (n,), shaped so that it broadcasts along axis `dim` of a tensor of that rank."""
    shape = [1] * rank
    shape[dim] = -1
    return mask.view(shape)


def rows_along(x: Tensor, axis: int) -> Tensor:
    """Sums over all axes but one (counted from 0), shape (extent,); whole rows first, which is the fast way."""
    for _ in range(axis):
        x = x.sum(0)
    return x.flatten(1).sum(1) if x.dim() > 1 else x


def gates_of(model: nn.Module) -> Iterator[tuple[str, Gate]]:
    """All gates of a model by name, each once."""
    return ((name, m) for name, m in model.named_modules() if isinstance(m, Gate))
