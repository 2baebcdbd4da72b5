"""Gates that approximate independent Bernoulli variables: every slot has a parameter of its own.

HardConcrete (Louizos, Welling, Kingma, ICLR 2018, arXiv 1712.01312), with b = 2/3, gamma = -0.1, zeta = 1.1:

    training    s = sigmoid((log u - log(1 - u) + log_a) / b),  z = clip(s (zeta - gamma) + gamma, 0, 1)   (eq. 10, 11)
    evaluation  z = clip(sigmoid(log_a) (zeta - gamma) + gamma, 0, 1)   (eq. 13)
    penalty     sum of P(z != 0) = sigmoid(log_a - b log(-gamma / zeta))   (eq. 12)

DiffPrune (Shulman 2020, arXiv 2012.03653): of this paper we know the abstract only. Gates are a deterministic,
differentiable transformation of real parameters that approximates a multivariate Bernoulli variable, can be evaluated
with or without noise, reach exact zero, and are penalised by a surrogate of the L0 norm. The formula below is OUR
READING of that, not the author's:

    p = sigmoid(theta)                           the probability that the slot stays
    q = p (1 + w) - w / 2                        stretched, so that noise can close any slot as p goes to 0
    z = clip((q - u) / w + 1/2, 0, 1)            a ramp of width w in place of the step [u < q]; u uniform on (0, 1)
    deterministic: u = 1/2                       exactly 0 for q <= (1 - w) / 2, exactly 1 for q >= (1 + w) / 2
    penalty      sum of p                        the L0 norm expected of the Bernoulli variable

As w goes to 0, z becomes the Bernoulli variable itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from onnxdam.errors import InputError
from onnxdam.masks.gate import Gate


def _logit(p: float, who: str) -> float:
    if not 0 < p < 1:
        raise InputError(f"{who}: the initial probability {p} is not between 0 and 1")
    return math.log(p / (1 - p))


def _mirror(parameter: Tensor, closing: float, width: int) -> None:
    """Slots that are on the wrong side of closing change sides, as far on the other.

    Args:
        parameter: one number per slot, changed in place.
        closing: the number at which a slot closes.
        width: how many are to be open.
    """
    stays = torch.zeros_like(parameter, dtype=torch.bool)
    stays[parameter.topk(width).indices] = True
    parameter.copy_(torch.where(stays == (parameter > closing), parameter, 2 * closing - parameter))


class HardConcrete(Gate):
    """The L0 gate (arXiv 1712.01312).

    Args:
        n: number of slots.
        dim: the axis of the input that is gated.
        drop: p of the paper; log_a starts at N(logit(1 - p), 0.01). The paper takes .2 for the inputs of an MLP.
    """

    patient = True
    TEMPERATURE, GAMMA, ZETA = 2 / 3, -0.1, 1.1
    CLOSING = math.log(-GAMMA / ZETA)  # log_a of a slot that is just closed in evaluation
    noise: Tensor
    _gamma: Tensor

    def __init__(self, n: int, dim: int = 1, *, drop: float = 0.5) -> None:
        super().__init__(n, dim)
        self.log_a = nn.Parameter(torch.full((n,), _logit(1 - drop, "HardConcrete")) + 0.01 * torch.randn(n))
        self.register_buffer("noise", torch.zeros(n), persistent=False)  # (log u - log(1 - u)) / b
        self.register_buffer("_gamma", torch.tensor(self.GAMMA), persistent=False)

    @torch.no_grad()
    def draw(self) -> None:
        # a new tensor: the draw must not change what autograd remembers of the pass before
        self.noise = torch.rand_like(self.noise).logit_(eps=1e-6).div_(self.TEMPERATURE)

    def _stretch(self, s: Tensor) -> Tensor:
        return torch.add(self._gamma, s, alpha=self.ZETA - self.GAMMA)  # one operation: there is a step to pay for each

    def soft(self) -> Tensor:
        if self.training:
            s = torch.sigmoid(torch.add(self.noise, self.log_a, alpha=1 / self.TEMPERATURE))
        else:
            s = torch.sigmoid(self.log_a)
        return self._stretch(s).clamp(0, 1)

    def score(self) -> Tensor:
        return self._stretch(torch.sigmoid(self.log_a.detach()))

    def surrogate(self) -> Tensor:
        return self.openness([self]).sum()

    @classmethod
    def openness(cls, gates: Sequence[HardConcrete]) -> Tensor:
        log_a = torch.cat([gate.log_a for gate in gates])
        return torch.sigmoid(log_a - cls.TEMPERATURE * math.log(-cls.GAMMA / cls.ZETA))

    @property
    def span(self) -> tuple[int, float]:
        return self.n, 1.0

    @torch.no_grad()
    def aim(self, width: int) -> None:
        _mirror(self.log_a, self.CLOSING, width)


class DiffPrune(Gate):
    """Our reading of differentiable pruning (arXiv 2012.03653; see the head of this file).

    Args:
        n: number of slots.
        dim: the axis of the input that is gated.
        stochastic: draw noise in training; evaluation never does.
        start: the probability p at which all slots start.
        width: w, between 0 and 1: how much of the ramp replaces the step.
    """

    patient = True
    noise: Tensor
    _half: Tensor

    def __init__(
        self, n: int, dim: int = 1, *, stochastic: bool = False, start: float = 0.75, width: float = 0.5
    ) -> None:
        super().__init__(n, dim)
        if not 0 < width < 1:
            raise InputError(f"DiffPrune: the width {width} is not between 0 and 1; at 1 no gate reaches exact zero")
        self.stochastic = stochastic
        self.width = width
        self.theta = nn.Parameter(torch.full((n,), _logit(start, "DiffPrune")) + 0.01 * torch.randn(n))
        self.register_buffer("noise", self._offset(torch.full((n,), 0.5)), persistent=False)
        self.register_buffer("_half", self._offset(torch.tensor(0.5)), persistent=False)

    @property
    def noisy(self) -> bool:
        return self.stochastic and not self.hardened

    @torch.no_grad()
    def draw(self) -> None:
        if self.stochastic:
            self.noise = self._offset(torch.rand_like(self.noise))

    def _offset(self, u: Tensor) -> Tensor:
        return u / -self.width

    def _ramp(self, p: Tensor, offset: Tensor) -> Tensor:
        """(q - u) / w + 1/2, which is p (1 + w) / w - u / w."""
        return torch.add(offset, p, alpha=(1 + self.width) / self.width)

    def soft(self) -> Tensor:
        noisy = self.training and self.stochastic
        return self._ramp(torch.sigmoid(self.theta), self.noise if noisy else self._half).clamp(0, 1)

    def score(self) -> Tensor:
        return self._ramp(torch.sigmoid(self.theta.detach()), self._half)

    def surrogate(self) -> Tensor:
        return self.openness([self]).sum()

    @classmethod
    def openness(cls, gates: Sequence[DiffPrune]) -> Tensor:
        return torch.sigmoid(torch.cat([gate.theta for gate in gates]))

    @property
    def span(self) -> tuple[int, float]:
        return self.n, 1.0

    @torch.no_grad()
    def aim(self, width: int) -> None:
        _mirror(self.theta, self._closing, width)

    @property
    def _closing(self) -> float:
        """theta of a slot that is just closed in evaluation: there, q = (1 - w) / 2."""
        return -math.log(1 + 2 * self.width)
