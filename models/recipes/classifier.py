"""What recipes that tell classes apart have in common: cross-entropy, and the share of samples classified wrongly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .data import Classes, load_classes
from .recipe import Recipe, Split


@dataclass(frozen=True)
class Classifier(Recipe[Classes]):
    """Samples and their classes; what is left to say is the network, and `augment` where it has one."""

    def load(self, path: str | Path | None, seed: int = 0) -> Classes:
        return load_classes(path)

    def example(self, data: Classes) -> tuple[Tensor, ...]:
        return (data.x_train[:2],)

    def samples(self, data: Classes) -> int:
        return len(data.x_train)

    def augment(self, x: Tensor) -> Tensor:
        """Changes a batch of training samples at random; same shape."""
        return x

    def loss(self, network: nn.Module, data: Classes, rows: Tensor) -> Tensor:
        rows = rows.to(data.x_train.device)
        return nn.functional.cross_entropy(network(self.augment(data.x_train[rows])), data.y_train[rows])

    def metric(self, network: nn.Module, data: Classes, split: Split) -> float:
        return wrong(network, getattr(data, f"x_{split}"), getattr(data, f"y_{split}"))


def wrong(network: nn.Module, x: Tensor, y: Tensor, rows: int = 1000) -> float:
    """Share of samples that are classified wrongly, per cent; `rows` of them at a time."""
    missed = [(network(a).argmax(1) != b).sum() for a, b in zip(x.split(rows), y.split(rows), strict=True)]
    return 100 * int(torch.stack(missed).sum()) / len(y)
