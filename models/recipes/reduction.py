"""Dimensionality reduction with DAM (arXiv 2110.00684): an autoencoder finds out how many dimensions its data has.

5000 points in 100 dimensions are made from fewer; DAM(50) sits at the bottleneck. As the authors' code has it:

    kind        points x                               encoder, decoder                              lambda  steps  lr
    linear      Linear(10 -> 100)(z), no bias          100-50, 50-100, no bias                       0.01    2000   1e-2
    kernel      20-128-ELU-100 of z                    100-256-ELU-256-ELU-50, 50-128-ELU-100        0.1     10000  1e-3
    quadratic   (W1 z) * (W2 z) + W1 z + b, 20 dims    100-256-256-50 LeakyReLU, a quadratic layer   0.01    5000   1e-2

z ~ N(0, I); the whole set is one batch; Adam (weight decay 1e-6, none for "kernel"); loss MSE + lambda * beta. There is
no split: the points are described, not predicted, and every metric is that of all points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from onnxdam.errors import InputError
from onnxdam.masks import DAM

from .recipe import Metric, Recipe, Settings, Split

SAMPLES, WIDTH, BOTTLENECK = 5000, 100, 50


class Quadratic(nn.Module):
    """y = (W1 x) * (W2 x) + W1 x + b."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, outputs, bias=False)
        self.second = nn.Linear(inputs, outputs, bias=False)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        return first * self.second(x) + first + self.bias


@dataclass(frozen=True)
class Points:
    """Points to describe, shape (5000, 100)."""

    x: Tensor


@dataclass(frozen=True, kw_only=True)
class Reduction(Recipe[Points]):
    """One of the three experiments.

    Attributes:
        dims: dimensions of z, and what the bottleneck should keep.
        source: makes the network that makes the points.
        encoder, decoder: make the two halves of the autoencoder.
        beta: where the gate starts.
    """

    dims: int
    source: Callable[[], nn.Module]
    encoder: Callable[[], nn.Module]
    decoder: Callable[[], nn.Module]
    beta: float = 1.0

    def load(self, path: str | Path | None, seed: int = 0) -> Points:
        if path is not None:
            raise InputError(f"{path}: {self.name} makes its own points and reads no file; leave --data away")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(-1 - seed)  # another stream than the network's
            with torch.no_grad():
                return Points(self.source()(torch.randn(SAMPLES, self.dims)))

    def network(self, data: Points) -> nn.Sequential:
        return nn.Sequential(self.encoder(), self.decoder())

    def place(self, network: nn.Module, settings: Settings) -> bool:
        """DAM stands between encoder and decoder, as the paper has it; else gates are attached to the same units."""
        if settings.method != "dam" or not settings.by_number:
            return False
        assert isinstance(network, nn.Sequential)
        network.insert(1, DAM(BOTTLENECK, beta=self.beta, floor=None))
        return True

    def example(self, data: Points) -> tuple[Tensor, ...]:
        return (data.x[:2],)

    def samples(self, data: Points) -> int:
        return len(data.x)

    def loss(self, network: nn.Module, data: Points, rows: Tensor) -> Tensor:
        x = data.x[rows.to(data.x.device)]
        return nn.functional.mse_loss(network(x), x)

    def metric(self, network: nn.Module, data: Points, split: Split) -> float:
        return nn.functional.mse_loss(network(data.x), data.x).item()


def _settings(steps: int, lr: float, weight: float, decay: float = 1e-6) -> Settings:
    """Full pressure from the first step on, masks binary after the last; one learning rate."""
    return Settings(epochs=steps, batch=None, lr=lr, weight=weight, gate_lr=1.0, decay=decay, cold=0, ramp=0, harden=1)


MADE_UP = "none: points in 100 dimensions are made from"
MSE = Metric("MSE")
RECIPES = (
    Reduction(
        name="linear-dr",
        about="a linear autoencoder finds the dimension of its data",
        data=f"{MADE_UP} 10, linearly",
        settings=_settings(2000, 1e-2, 0.01),
        metric_kind=MSE,
        every=50,
        dims=10,
        source=lambda: nn.Linear(10, WIDTH, bias=False),  # a bias would be an eleventh dimension
        encoder=lambda: nn.Linear(WIDTH, BOTTLENECK, bias=False),
        decoder=lambda: nn.Linear(BOTTLENECK, WIDTH, bias=False),
        include=("0",),
    ),
    Reduction(
        name="kernel-dr",
        about="an autoencoder with hidden layers finds the dimension of its data",
        data=f"{MADE_UP} 20, by a perceptron",
        settings=_settings(10000, 1e-3, 0.1, decay=0.0),
        metric_kind=MSE,
        every=50,
        dims=20,
        source=lambda: nn.Sequential(nn.Linear(20, 128), nn.ELU(), nn.Linear(128, WIDTH)),
        encoder=lambda: nn.Sequential(
            nn.Linear(WIDTH, 256), nn.ELU(), nn.Linear(256, 256), nn.ELU(), nn.Linear(256, BOTTLENECK)
        ),
        decoder=lambda: nn.Sequential(nn.Linear(BOTTLENECK, 128), nn.ELU(), nn.Linear(128, WIDTH)),
        include=("0.4",),
    ),
    Reduction(
        name="quadratic-dr",
        about="an autoencoder with a quadratic decoder finds the dimension of its data",
        data=f"{MADE_UP} 20, by a quadratic layer",
        settings=_settings(5000, 1e-2, 0.01),
        metric_kind=MSE,
        every=50,
        dims=20,
        source=lambda: Quadratic(20, WIDTH),
        encoder=lambda: nn.Sequential(
            nn.Linear(WIDTH, 256), nn.LeakyReLU(), nn.Linear(256, 256), nn.LeakyReLU(), nn.Linear(256, BOTTLENECK)
        ),
        decoder=lambda: Quadratic(BOTTLENECK, WIDTH),
        include=("0.4",),
        beta=5.0,
    ),
)
