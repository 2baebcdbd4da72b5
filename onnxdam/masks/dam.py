"""Discriminative masking: one scalar per layer decides how many units stay, and the units leave in a fixed order.

    g_i = f(alpha^2 (mu_i + beta)),  mu_i = 5 i / n,  i = 0 .. n - 1        (Bu, Daw, Maruf, Karpatne, NeurIPS 2021,
                                                                             arXiv 2110.00684)
    f(z) = ReLU(tanh z), or ReLU(z) ("linear"), or min(1, ReLU(z)) ("piecewise")
    loss = task + lambda * mean over layers of max(beta, -5)

alpha = 1 is frozen, and left out here; beta is learned from 1 (0.1 for the two other gate functions). g_i > 0 exactly
if mu_i > -beta: the survivors are a suffix, n - 1 - floor(-beta n / 5) of them for beta <= 0. The cold start (beta
frozen for the first epochs) belongs to `Schedule`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from onnxdam.errors import InputError
from onnxdam.masks.gate import Gate

SPAN = 5.0  # mu runs over [0, 5): tanh is 1 to four digits at its end

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
    """

    mu: Tensor

    def __init__(
        self, n: int, dim: int = 1, *, function: str = "tanh", beta: float | None = None, floor: float | None = -SPAN
    ) -> None:
        super().__init__(n, dim)
        if function not in FUNCTIONS:
            raise InputError(f"DAM: function {function!r} is none of {', '.join(FUNCTIONS)}")
        self.function = function
        self.floor = floor
        self.beta = nn.Parameter(torch.tensor((1.0 if function == "tanh" else 0.1) if beta is None else beta))
        self.register_buffer("mu", SPAN * torch.arange(n) / n, persistent=False)

    def soft(self) -> Tensor:
        return FUNCTIONS[self.function](self.mu + self.beta)

    def score(self) -> Tensor:
        return (self.mu + self.beta).detach()

    def surrogate(self) -> Tensor:
        """n (1 + beta / 5): the count where beta <= 0, up to rounding; above, the slope goes on."""
        return self.beta.clamp(min=-SPAN) * (self.n / SPAN) + self.n

    def cost(self) -> Tensor:
        return self.beta if self.floor is None else self.beta.clamp(min=self.floor)
