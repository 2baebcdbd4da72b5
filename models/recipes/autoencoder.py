"""The MNIST autoencoder of discriminative masking (arXiv 2110.00684): how many dimensions do digits need?

    784-128-64-32-50, a gate on the 50, and the mirror image back; ReLU, tanh at the end, pixels in [-1, 1]
    loss = mean squared error + lambda * beta (DAM), or + lambda * mean of the gate (L1)
    Adam 1e-3, batches of 512, 100 epochs, lambda from 0.01 to 9.5, no cold start

The L1 gate is the one the authors compare with: a scale max(mu_i, 0) for every dimension, all starting at 1.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from onnxdam.errors import InputError
from onnxdam.masks import Gate

from .data import Classes, load_classes
from .recipe import Metric, Recipe, Settings, Split

BOTTLENECK = 50
MIRRORED = (128, 64, 32, BOTTLENECK)


class L1(Gate):
    """A learned scale per slot, max(mu_i, 0), under an L1 penalty; the baseline of arXiv 2110.00684.

    Args:
        n: number of slots.
        dim: the axis of the input that is gated.
    """

    def __init__(self, n: int, dim: int = 1) -> None:
        super().__init__(n, dim)
        self.mu = nn.Parameter(torch.ones(n))

    def soft(self) -> Tensor:
        return torch.relu(self.mu)

    def score(self) -> Tensor:
        return self.mu.detach()

    def surrogate(self) -> Tensor:
        """The scales in units of the mean kept one: as many as are kept, with the penalty's slope."""
        scales = torch.relu(self.mu)
        kept = scales.detach()[scales.detach() > 0]
        return scales.sum() / kept.mean() if len(kept) else scales.sum()

    def cost(self) -> Tensor:
        return torch.relu(self.mu).mean()


class Autoencoder(nn.Module):
    """Encoder, a place for a gate (the identity until there is one), decoder.

    Args:
        features: of the input and the output.
    """

    def __init__(self, features: int = 784) -> None:
        super().__init__()
        there = (features, *MIRRORED)
        self.encoder = _perceptron(there)
        self.gate: nn.Module = nn.Identity()
        self.decoder = nn.Sequential(*_perceptron(there[::-1]), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction of x, both (samples, features)."""
        reconstructed: Tensor = self.decoder(self.gate(self.encoder(x)))
        return reconstructed


def _perceptron(widths: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@dataclass(frozen=True)
class AutoencoderRecipe(Recipe[Classes]):
    """Trains the autoencoder; besides the methods of `attach` there is "l1"."""

    def load(self, path: str | Path | None, seed: int = 0) -> Classes:
        data = load_classes(path)
        for x in (data.x_train, data.x_valid, data.x_test):
            if x.min() < 0 or x.max() > 1:
                raise InputError(
                    f"{path}: the autoencoder wants bytes (uint8), or numbers between 0 and 1; there are "
                    f"{x.min():g} to {x.max():g}"
                )
        return Classes(
            2 * data.x_train - 1, data.y_train, 2 * data.x_valid - 1, data.y_valid, 2 * data.x_test - 1, data.y_test
        )

    def network(self, data: Classes) -> nn.Module:
        return Autoencoder(data.features)

    def example(self, data: Classes) -> tuple[Tensor, ...]:
        return (data.x_train[:2],)

    def samples(self, data: Classes) -> int:
        return len(data.x_train)

    def loss(self, network: nn.Module, data: Classes, rows: Tensor) -> Tensor:
        x = data.x_train[rows.to(data.x_train.device)]
        return nn.functional.mse_loss(network(x), x)

    def metric(self, network: nn.Module, data: Classes, split: Split) -> float:
        x: Tensor = getattr(data, f"x_{split}")
        return float(nn.functional.mse_loss(network(x), x))

    def place(self, network: nn.Module, settings: Settings) -> bool:
        if settings.method != "l1":
            return False
        if not settings.by_number:
            raise InputError('autoencoder: with method "l1" the target can only be "channels"')
        assert isinstance(network, Autoencoder)
        network.gate = L1(BOTTLENECK)
        return True


RECIPES = (
    AutoencoderRecipe(
        name="autoencoder",
        about="784-128-64-32-50 and back, a gate at the bottleneck (arXiv 2110.00684)",
        data="images or feature vectors as MNIST; else the digits of scikit-learn",
        settings=Settings(epochs=100, batch=512, lr=1e-3, gate_lr=1.0, weight=1.0, cold=0.0, ramp=0.0, harden=1.0),
        metric_kind=Metric("MSE"),
        include=("encoder.6",),
        options={"dam": {"floor": None}},
    ),
)
