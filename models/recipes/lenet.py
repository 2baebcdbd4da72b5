"""LeNet-300-100: a perceptron with two hidden layers, with any method of masking, towards a target.

Inputs, first and second hidden layer have a gate each: what is kept is written as in the literature, inputs-h1-h2.
The gates' learning rate is ten times that of the weights, and only the weights decay.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from .classifier import Classifier
from .data import Classes
from .recipe import Settings


def lenet_300_100(features: int = 784, classes: int = 10) -> nn.Sequential:
    """The network."""
    return nn.Sequential(nn.Linear(features, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, classes))


@dataclass(frozen=True)
class LeNet300100(Classifier):
    """On flat images."""

    def network(self, data: Classes) -> nn.Module:
        return lenet_300_100(data.features, data.classes)


RECIPES = (
    LeNet300100(
        name="lenet-300-100",
        about="a perceptron with hidden layers of 300 and 100; gates on inputs and both",
        data="images as of MNIST; without a file, 8x8 digits",
        settings=Settings(epochs=30, batch=128, lr=1e-3, method="hardconcrete", target={"parameters": 0.1}, decay=1e-5),
        inputs=True,
    ),
)
