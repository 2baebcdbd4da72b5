"""A small convolutional network for small images: what the demo trains, on the 8x8 digits of scikit-learn.

three times (3x3 convolution, BatchNorm, ReLU) of 32, 64 and 128 channels; the second halves the image;
mean over pixels, one linear layer
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from .classifier import Classifier
from .data import Classes, load_classes
from .recipe import Settings

WIDTHS = (32, 64, 128)


def small_convnet(colours: int = 1, classes: int = 10) -> nn.Sequential:
    """The network."""
    layers: list[nn.Module] = []
    channels = colours
    for width, stride in zip(WIDTHS, (1, 2, 1), strict=True):
        layers += [nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


@dataclass(frozen=True)
class Digits(Classifier):
    """Images; the learning rate falls along a cosine."""

    def load(self, path: str | Path | None, seed: int = 0) -> Classes:
        return load_classes(path, image=True)

    def network(self, data: Classes) -> nn.Module:
        return small_convnet(data.features, data.classes)

    def lr_factor(self, progress: float) -> float:
        return 0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2


RECIPES = (
    Digits(
        name="digits",
        about="a small convolutional network: 3x3 convolutions of 32, 64, 128",
        data="images as of MNIST; without a file, 8x8 digits",
        settings=Settings(epochs=25, batch=64, lr=3e-3, target={"macs": 0.1}, gate_lr=5.0, decay=1e-5),
    ),
)
