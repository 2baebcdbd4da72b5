"""Which features a network can best do without, told from their weights and correlations alone.

Gates price every feature as if it were alone, and keep clusters of neighbouring pixels that say the same. Optimal Brain
Surgeon (Hassibi, Stork, Wolff 1993) knows what the others can stand in for. For a layer h = W x + b, whole columns at a
time, with P = (cov x + ridge)^-1 and F the Fisher matrix of h (F = 1: the error of h itself):

    saliency of feature i    w_i' F w_i / (2 P_ii)    the loss, after the least squares fit of the others to W x
    once i has left          W <- W - w_i P_i / P_ii,    P <- P - P_i' P_i / P_ii

The feature of least saliency leaves, until as many are left as asked for. The ridge is the variance of the noise that
features carry in training.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def eliminate(
    weight: Tensor, x: Tensor, keep: int, *, fisher: Tensor | None = None, ridge: float = 1e-2
) -> tuple[Tensor, Tensor]:
    """Removes features, and lets the others stand in for them.

    Args:
        weight: W, shape (outputs, features).
        x: samples, shape (samples, features).
        keep: how many features are to stay.
        fisher: F, shape (outputs, outputs); None: the unit matrix.
        ridge: added to every variance.

    Returns:
        The features that stay, ascending, and W with zeros for the others, in float64. What W x loses in the mean
        belongs into the bias: (W before - W after) times the mean of x.
    """
    w = weight.detach().double().clone()
    p = torch.linalg.inv(torch.cov(x.double().T) + ridge * torch.eye(x.shape[1], dtype=torch.float64))
    f = torch.eye(len(w), dtype=torch.float64) if fisher is None else fisher.double()
    there = torch.ones(w.shape[1], dtype=torch.bool)
    price = ((f @ w) * w).sum(0)
    for _ in range(w.shape[1] - keep):
        i = int(torch.where(there, price / p.diagonal(), torch.inf).argmin())
        row = p[i] / p[i, i]
        # w' F w of all features at once: F w_j changes by multiples of F w_i
        mixed = f @ w[:, i]
        price = price - 2 * row * (mixed @ w) + row.square() * (mixed @ w[:, i])
        w -= w[:, i, None] * row
        p -= p[:, i, None] * row
        there[i] = False
        w[:, i], p[i], p[:, i], p[i, i] = 0, 0, 0, 1
    return there.nonzero().flatten(), w


def fisher(rest: nn.Module, h: Tensor) -> Tensor:
    """The Fisher matrix of the logits' softmax with respect to h, shape (width, width).

    Args:
        rest: the network after h; gives logits, shape (samples, classes).
        h: shape (samples, width).
    """
    h = h.detach().requires_grad_()
    logits = rest(h)
    drawn = torch.distributions.Categorical(logits=logits.detach()).sample()
    (slope,) = torch.autograd.grad(nn.functional.cross_entropy(logits, drawn, reduction="sum"), h)
    return slope.T @ slope / len(h)
