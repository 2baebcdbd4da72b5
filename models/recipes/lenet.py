"""LeNet-300-100: a perceptron with two hidden layers, with any method of masking, towards a target.

Inputs, first and second hidden layer have a gate each: what is kept is written as in the literature, inputs-h1-h2.
The gates' learning rate is ten times that of the weights, and only the weights decay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.recipes.data import Classes
from onnxdam.masks import AttachedGates, Schedule, attach


def lenet_300_100(features: int = 784, classes: int = 10) -> nn.Sequential:
    """The network."""
    return nn.Sequential(nn.Linear(features, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, classes))


@dataclass(frozen=True)
class Trained:
    """What came out.

    Attributes:
        network: in evaluation mode, with its gates.
        gates: the gates, hardened.
        kept: inputs, h1, h2.
        error: test error of the final weights, per cent.
        best_error: lowest test error of any epoch after hardening, per cent, as the papers report it.
    """

    network: nn.Module
    gates: AttachedGates
    kept: tuple[int, ...]
    error: float
    best_error: float


def train_lenet(
    data: Classes,
    *,
    method: str = "hardconcrete",
    target: Mapping[str, float] | None = None,
    epochs: int = 30,
    batch: int = 128,
    lr: float = 1e-3,
    seed: int = 0,
) -> Trained:
    """Trains, masks, hardens and fine-tunes.

    Args:
        data: features and classes.
        method: see `onnxdam.masks.attach`.
        target: None: a tenth of the parameters.
        epochs, batch, lr: of Adam.
        seed: of weights, noise and order.
    """
    torch.manual_seed(seed)
    network = lenet_300_100(data.features, data.classes)
    per_epoch = -(-len(data.x_train) // batch)
    schedule = Schedule(epochs * per_epoch, cold=0.1, ramp=0.6, harden=0.75)
    target = target or {"parameters": 0.1}
    gates = attach(network, data.x_train[:2], method=method, inputs=True, target=target, schedule=schedule)
    mine = set(gates.parameters())
    optimizer = torch.optim.Adam(
        [
            {"params": [p for p in network.parameters() if p not in mine], "weight_decay": 1e-5},
            {"params": list(mine), "lr": 10 * lr},
        ],
        lr,
    )
    best = 100.0
    for _ in range(epochs):
        network.train()
        for rows in torch.randperm(len(data.x_train)).split(batch):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(data.x_train[rows]), data.y_train[rows])
            (loss + gates.penalty()).backward()
            optimizer.step()
            gates.step(10 * lr)
        if gates.hardened:
            best = min(best, error(network, data.x_test, data.y_test))
    kept = gates.kept()
    return Trained(
        network.eval(), gates, tuple(kept[k][0] for k in ("input", "0", "2")),
        error(network, data.x_test, data.y_test), best,
    )  # fmt: skip


@torch.no_grad()
def error(network: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of samples that are classified wrongly, per cent."""
    network.eval()
    return 100 * (network(x).argmax(1) != y).float().mean().item()
