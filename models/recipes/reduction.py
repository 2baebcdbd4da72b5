"""Dimensionality reduction with DAM (arXiv 2110.00684): an autoencoder finds out how many dimensions its data has.

5000 points in 100 dimensions are made from fewer; DAM(50) sits at the bottleneck. As the authors' code has it:

    kind        points x                               encoder, decoder                              lambda  steps  lr
    linear      Linear(10 -> 100)(z), no bias          100-50, 50-100, no bias                       0.01    2000   1e-2
    kernel      20-128-ELU-100 of z                    100-256-ELU-256-ELU-50, 50-128-ELU-100        0.1     10000  1e-3
    quadratic   (W1 z) * (W2 z) + W1 z + b, 20 dims    100-256-256-50 LeakyReLU, a quadratic layer   0.01    5000   1e-2

z ~ N(0, I); the whole set is one batch; Adam (weight decay 1e-6, none for "kernel"); loss MSE + lambda * beta.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from onnxdam.masks import DAM, Gates

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
class Reduction:
    """One of the three experiments.

    Attributes:
        dims: dimensions of z, and what the bottleneck should keep.
        source: makes the network that makes the points.
        encoder, decoder: make the two halves of the autoencoder.
        weight: lambda.
        steps: of the optimiser.
        lr, decay: its learning rate and weight decay.
        beta: where the gate starts.
    """

    dims: int
    source: Callable[[], nn.Module]
    encoder: Callable[[], nn.Module]
    decoder: Callable[[], nn.Module]
    weight: float
    steps: int
    lr: float
    decay: float = 1e-6
    beta: float = 1.0


REDUCTIONS = {
    "linear": Reduction(
        dims=10,
        source=lambda: nn.Linear(10, WIDTH, bias=False),  # a bias would be an eleventh dimension
        encoder=lambda: nn.Linear(WIDTH, BOTTLENECK, bias=False),
        decoder=lambda: nn.Linear(BOTTLENECK, WIDTH, bias=False),
        weight=0.01,
        steps=2000,
        lr=1e-2,
    ),
    "kernel": Reduction(
        dims=20,
        source=lambda: nn.Sequential(nn.Linear(20, 128), nn.ELU(), nn.Linear(128, WIDTH)),
        encoder=lambda: nn.Sequential(
            nn.Linear(WIDTH, 256), nn.ELU(), nn.Linear(256, 256), nn.ELU(), nn.Linear(256, BOTTLENECK)
        ),
        decoder=lambda: nn.Sequential(nn.Linear(BOTTLENECK, 128), nn.ELU(), nn.Linear(128, WIDTH)),
        weight=0.1,
        steps=10000,
        lr=1e-3,
        decay=0.0,
    ),
    "quadratic": Reduction(
        dims=20,
        source=lambda: Quadratic(20, WIDTH),
        encoder=lambda: nn.Sequential(
            nn.Linear(WIDTH, 256), nn.LeakyReLU(), nn.Linear(256, 256), nn.LeakyReLU(), nn.Linear(256, BOTTLENECK)
        ),
        decoder=lambda: Quadratic(BOTTLENECK, WIDTH),
        weight=0.01,
        steps=5000,
        lr=1e-2,
        beta=5.0,
    ),
}


@dataclass(frozen=True)
class Reduced:
    """What came out.

    Attributes:
        kept: dimensions of the bottleneck that stay.
        error: mean squared error of the reconstruction.
        network: encoder, gate, decoder, in evaluation mode.
        points: the data, shape (5000, 100).
    """

    kept: int
    error: float
    network: nn.Sequential
    points: Tensor


def reduce(kind: str, seed: int = 0, steps: int | None = None) -> Reduced:
    """Trains one autoencoder.

    Args:
        kind: "linear", "kernel" or "quadratic".
        seed: of points and network.
        steps: None: as many as the paper.
    """
    recipe = REDUCTIONS[kind]
    torch.manual_seed(seed)
    with torch.no_grad():
        points = recipe.source()(torch.randn(SAMPLES, recipe.dims))
    gate = DAM(BOTTLENECK, beta=recipe.beta, floor=None)
    network = nn.Sequential(recipe.encoder(), gate, recipe.decoder())
    gates = Gates.of(network, weight=recipe.weight)
    optimizer = torch.optim.Adam(network.parameters(), recipe.lr, weight_decay=recipe.decay)
    for _ in range(recipe.steps if steps is None else steps):
        optimizer.zero_grad()
        (nn.functional.mse_loss(network(points), points) + gates.penalty()).backward()
        optimizer.step()
        gates.step()
    network.eval()
    with torch.no_grad():
        error = nn.functional.mse_loss(network(points), points).item()
    return Reduced(int(gate.kept().sum()), error, network, points)
