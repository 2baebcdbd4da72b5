"""LeNet-300-100: a perceptron with two hidden layers, with any method of masking, towards a target.

Inputs, first and second hidden layer have a gate each: what is kept is written as in the literature, inputs-h1-h2.
The gates' learning rate is ten times that of the weights, and only the weights decay.

`in_rounds` asks for three widths instead of one target. Every round is a run of `training.train` with one gate, and
what it closed is gone before the next: pixels first, then the hidden layers; the last round goes on, at the final
widths, for most of its epochs. A network of 97-71-33 takes a tenth of the time of the one it comes from. The pixels can
be chosen by `surgeon.eliminate` instead of gates.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from onnxdam.errors import InputError
from onnxdam.masks import narrow, parameter_plan
from onnxdam.masks.reading import original

from .classifier import Classifier, wrong
from .data import Classes
from .recipe import Settings, Split
from .surgeon import eliminate, fisher
from .training import Trained, train
from .warp import warped


def lenet_300_100(features: int = 784, classes: int = 10) -> nn.Sequential:
    """The network."""
    return nn.Sequential(nn.Linear(features, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, classes))


@dataclass(frozen=True)
class LeNet300100(Classifier):
    """On flat images.

    Attributes:
        start: the network to go on from; None: a new one.
        columns: the features that the network reads; None: all.
        warp: share of the training samples that are warped, each time anew (square images only).
        noise: standard deviation of what is added to every feature in training, its range being 0 to 1.
        warm, fall: shares of the run in which learning rates rise from 0 at its start, and fall to 0 at its end.
    """

    start: nn.Sequential | None = None
    columns: Tensor | None = None
    warp: float = 0.0
    noise: float = 0.0
    warm: float = 0.0
    fall: float = 0.0

    def network(self, data: Classes) -> nn.Module:
        return lenet_300_100(data.features, data.classes) if self.start is None else copy.deepcopy(self.start)

    def read(self, x: Tensor) -> Tensor:
        """What the network reads of samples."""
        return x if self.columns is None else x[:, self.columns]

    def example(self, data: Classes) -> tuple[Tensor, ...]:
        return (self.read(data.x_train[:2]),)

    def augment(self, x: Tensor) -> Tensor:
        seen = self.read(x)
        if self.warp:
            which = torch.rand(len(x), device=x.device) < self.warp
            columns = torch.arange(x.shape[1]) if self.columns is None else self.columns
            seen = seen.index_put((which,), warped(x[which], columns.to(x.device)))
        return seen + self.noise * torch.randn_like(seen) if self.noise else seen

    def metric(self, network: nn.Module, data: Classes, split: Split) -> float:
        return wrong(network, self.read(getattr(data, f"x_{split}")), getattr(data, f"y_{split}"))

    def optimizer(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups, lr, fused=True)

    def lr_factor(self, progress: float) -> float:
        rising = progress / self.warm if self.warm else 1.0
        falling = (1 - progress) / self.fall if self.fall else 1.0
        return min(1.0, rising + 1e-3, falling)


SAMPLES = 20_000  # that covariances are taken over
#: of the rounds of `in_rounds`: pixels, first and second hidden layer
ROUNDS = (
    Settings(epochs=12, batch=256, lr=1e-3, gate_lr=30.0, decay=1e-2, cold=0.35, ramp=0.8, harden=0.85),
    Settings(epochs=6, batch=256, lr=1e-3, decay=1e-2, cold=0.0, ramp=0.6, harden=0.8),
    Settings(epochs=150, batch=256, lr=2e-2, gate_lr=1.0, decay=1e-2, cold=0.0, ramp=0.04, harden=0.05),
)
#: what the rounds want of the recipe
IN_ROUNDS = {"warp": 0.5, "noise": 0.05, "warm": 0.05, "fall": 0.6}


@dataclass(frozen=True)
class Narrowed:
    """What three rounds leave.

    Attributes:
        columns: the features that are read, in the order in which the network wants them.
        network: of the kept widths.
        rounds: what came out of each.
    """

    columns: Tensor
    network: nn.Sequential
    rounds: tuple[Trained[Classes], ...]

    @property
    def kept(self) -> tuple[int, ...]:
        """Inputs, h1, h2."""
        return tuple(layer.in_features for layer in self.network if isinstance(layer, nn.Linear))

    def masked(self, features: int = 784) -> nn.Sequential:
        """LeNet-300-100 of all features, whose other weights are zero: the same function, and what pruning takes."""
        wide = lenet_300_100(features, self.network[-1].out_features)
        read = self.columns
        with torch.no_grad():
            for whole, part in zip(wide, self.network, strict=True):
                if isinstance(whole, nn.Linear):
                    made = torch.arange(part.out_features)
                    whole.weight.zero_()[made[:, None], read] = part.weight
                    whole.bias.zero_()[made] = part.bias
                    read = made
        return wide.eval()


def in_rounds(
    recipe: LeNet300100,
    data: Classes,
    keep: Sequence[int] = (97, 71, 33),
    *,
    method: str = "hardconcrete",
    surgeon: bool = False,
    seed: int = 0,
    rounds: Sequence[Settings] = ROUNDS,
) -> Narrowed:
    """Narrows inputs, first and second hidden layer, one after the other.

    Args:
        recipe: of the network; its warp, noise and learning rates' course are those of every round.
        data: all features.
        keep: how many inputs, units of the first and of the second hidden layer are to stay.
        method: of `onnxdam.masks.attach`.
        surgeon: the first round trains the dense network only, and `surgeon.eliminate` chooses the features.
        seed: of every round.
        rounds: how each is trained; method, target and seed are filled in.

    Raises:
        InputError: a width that is not between 1 and that of the network; a method that cannot gate a perceptron.
    """
    torch.manual_seed(seed)
    columns = torch.arange(data.features)
    network = recipe.network(data)
    done = []
    for layer, (width, settings) in enumerate(zip(keep, rounds, strict=True)):
        wide = [module.in_features for module in network if isinstance(module, nn.Linear)][layer]
        if not 1 <= width <= wide:
            raise InputError(f"rounds: {width} of {wide} cannot be kept")
        one = replace(recipe, start=network, include=(f"{2 * layer - 2}" if layer else "input",), inputs=layer == 0)
        settings = replace(settings, method=method, target={"channels": width / wide}, seed=seed)
        if surgeon and layer == 0:  # gates that stay open: group lasso's are 1 until then
            settings = replace(settings, method="grouplasso", target={"channels": 1.0}, cold=1, ramp=1, harden=1)
        got = train(one, data, settings)
        done.append(got)
        if surgeon and layer == 0:
            _operate(got.network, data.x_train, width, recipe.noise)
        plan = parameter_plan(got.network, got.example, inputs=layer == 0)
        network = narrow(got.network, plan, got.example)
        assert isinstance(network, nn.Sequential)
        if layer == 0 and plan.signature is not None:
            columns = torch.tensor(plan.signature.inputs[0].kept[1])
            recipe = replace(recipe, columns=columns)
    return Narrowed(columns, network, tuple(done))


@torch.no_grad()
def _operate(network: nn.Module, x: Tensor, width: int, noise: float) -> None:
    """Leaves zeros in the first layer for all features but the best."""
    assert isinstance(network, nn.Sequential)
    first, x = original(network, "0.weight"), x[:SAMPLES]
    with torch.enable_grad():
        curved = fisher(network[1:], network[0](x))
    _, weight = eliminate(first, x, width, fisher=curved, ridge=max(noise, 0.1) ** 2)
    network[0].bias += (first.double() - weight).float() @ x.mean(0)
    first.copy_(weight)


RECIPES = (
    LeNet300100(
        name="lenet-300-100",
        about="a perceptron with hidden layers of 300 and 100; gates on inputs and both",
        data="images as of MNIST; without a file, 8x8 digits",
        settings=Settings(epochs=30, batch=128, lr=1e-3, method="hardconcrete", target={"parameters": 0.1}, decay=1e-5),
        inputs=True,
    ),
)
