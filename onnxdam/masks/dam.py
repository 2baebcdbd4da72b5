"""Discriminative masking: one scalar per layer decides how many units stay, and the units leave in a fixed order.

    g_i = f(alpha^2 (mu_i + beta)),  mu_i = 5 i / n,  i = 0 .. n - 1        (Bu, Daw, Maruf, Karpatne, NeurIPS 2021,
                                                                             arXiv 2110.00684)
    f(z) = ReLU(tanh z), or ReLU(z) ("linear"), or min(1, ReLU(z)) ("piecewise")
    loss = task + lambda * mean over layers of max(beta, -5)

alpha = 1 is frozen, and left out here; beta is learned from 1 (0.1 for the two other gate functions). g_i > 0 exactly
if mu_i > -beta: the survivors are a suffix, n - 1 - floor(-beta n / 5) of them for beta <= 0. The cold start (beta
frozen for the first epochs) belongs to `Schedule`.

Units that start alike may leave in any order: training makes the last ones the useful ones. Features of an input are
not alike, so their order matters, and that of the index means nothing. Ours, not the paper's: order "saliency" gathers

    s_i = sum over the steps of the cold start, and over who reads the unit, of (d loss / d g_i)^2

and then gives the unit of rank r in s the offset mu = 5 r / n: what the loss feels least leaves first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from onnxdam.errors import InputError
from onnxdam.masks.gate import Gate
from onnxdam.masks.schedule import is_number

SPAN = 5.0  # mu runs over [0, 5): tanh is 1 to four digits at its end

ORDERS = ("index", "saliency")
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": lambda z: torch.tanh(torch.relu(z)),
    "linear": torch.relu,
    "piecewise": lambda z: torch.relu(z).clamp(max=1.0),
}


class DAM(Gate):
    """The gate of discriminative masking (arXiv 2110.00684).

    Args:
        n: number of units.
        dim: the axis of the input that is gated.
        function: "tanh", "linear" or "piecewise".
        beta: where the offset starts; None: as the authors' code (1, or 0.1 for the last two functions).
        floor: beta is penalised down to here only (-5: where the last unit has left); None: without bound, as the
            authors do outside their convolutional networks.
        order: in which units leave: "index", or "saliency" (see the head of this file; wants a cold start, without one
            it is that of the index).

    Attributes:
        mu: the offsets, shape (n,); saved, as they hold the order.
        saliency: gathered so far, shape (n,).
    """

    mu: Tensor
    saliency: Tensor

    def __init__(
        self,
        n: int,
        dim: int = 1,
        *,
        function: str = "tanh",
        beta: float | None = None,
        floor: float | None = -SPAN,
        order: str = "index",
    ) -> None:
        super().__init__(n, dim)
        if order not in ORDERS:
            raise InputError(f"DAM: order {order!r} is none of {', '.join(ORDERS)}")
        if function not in FUNCTIONS:
            raise InputError(f"DAM: function {function!r} is none of {', '.join(FUNCTIONS)}")
        if beta is not None and not is_number(beta):
            raise InputError(f"DAM: beta is a number, not {beta!r}")
        self.function = function
        self.floor = floor
        self.beta = nn.Parameter(torch.tensor((1.0 if function == "tanh" else 0.1) if beta is None else float(beta)))
        self.order = order
        self.register_buffer("mu", SPAN * torch.arange(n) / n)
        self.register_buffer("saliency", torch.zeros(n))

    def soft(self) -> Tensor:
        mask = FUNCTIONS[self.function](self.mu + self.beta)
        if self.training and self.cold and self.order == "saliency" and torch.is_grad_enabled():
            mask = mask.detach().requires_grad_()
            mask.register_hook(self._feel)
        return mask

    def _feel(self, slope: Tensor) -> None:
        self.saliency += slope.detach().to(self.saliency.dtype).square().nan_to_num(0.0, 0.0, 0.0)

    def warm_up(self) -> None:
        if self.order == "saliency" and self.saliency.any():
            self.arrange(self.saliency)

    @torch.no_grad()
    def arrange(self, worth: Tensor) -> None:
        """Puts the units in order: the one that is worth least leaves first.

        Args:
            worth: any numbers, shape (n,).
        """
        ranks = torch.argsort(torch.argsort(worth, stable=True))
        self.mu.copy_(SPAN * ranks / self.n)

    def score(self) -> Tensor:
        return (self.mu + self.beta).detach()

    def surrogate(self) -> Tensor:
        """n (1 + beta / 5): the count where beta <= 0, up to rounding; above, the slope goes on."""
        return self.beta.clamp(min=-SPAN) * (self.n / SPAN) + self.n

    @classmethod
    def openness(cls, gates: Sequence[DAM]) -> Tensor:
        return torch.stack([gate.beta for gate in gates])  # steering keeps beta above -SPAN

    @property
    def span(self) -> tuple[int, float]:
        return 1, self.n / SPAN

    @torch.no_grad()
    def aim(self, width: int) -> None:
        """Sets beta halfway between two units, so that the order stays."""
        self.beta.fill_(-SPAN * (self.n - width - 0.5) / self.n)

    def cost(self) -> Tensor:
        return self.beta if self.floor is None else self.beta.clamp(min=self.floor)
