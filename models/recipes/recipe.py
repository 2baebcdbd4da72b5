"""What a recipe is: data, network, loss and metric, and how the two are trained.

A recipe states what is its own; the loop is everyone's (`training.train`). A subclass of `Recipe` fills in `load`,
`network`, `example`, `samples`, `loss` and `metric`, and may replace the rest:

    @dataclass(frozen=True)
    class Mine(Recipe[Classes]):
        def network(self, data: Classes) -> nn.Module: ...

    RECIPES = (Mine(name="mine", about="...", data="...", settings=Settings(epochs=30, batch=128, lr=1e-3)),)

and its name goes into the table of `__init__.py`. Randomness (augmentation, order, made-up data) must come from torch's
global generator: that is what seeds and checkpoints cover.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from onnxdam.errors import InputError
from onnxdam.masks import Gates, Schedule, attach

Data = TypeVar("Data")
Split = Literal["train", "valid", "test"]


@dataclass(frozen=True)
class Metric:
    """What is measured: its name as a table's heading, and whether less is better."""

    name: str = "error %"
    lower: bool = True

    def better(self, a: float, b: float) -> bool:
        """Whether a is better than b."""
        return a < b if self.lower else a > b


@dataclass(frozen=True)
class Settings:
    """How a recipe is trained; `dataclasses.replace` changes one.

    Attributes:
        epochs: passes over the data.
        batch: samples per step; None: all of them.
        lr: learning rate of the weights.
        method: of `onnxdam.masks.attach`.
        target: macs, parameters, channels or latency -> the share that is to stay (see `attach`); None: the fixed
            weight decides.
        weight: lambda, where there is no target.
        gate_lr: the gates' learning rate, in multiples of that of the weights.
        decay: weight decay; gates have none.
        cold, ramp, harden: see `Schedule`. With 0, 0 and 1 the penalty is at full weight throughout, and masks become
            binary after the last step.
        amp: products in bfloat16 while training (automatic mixed precision); what is measured is in float32.
        seed: of weights, order, noise, and of data that are made up.
    """

    epochs: int
    batch: int | None
    lr: float
    method: str = "dam"
    target: Mapping[str, Any] | None = None
    weight: float = 1.0
    gate_lr: float = 10.0
    decay: float = 0.0
    cold: float = 0.1
    ramp: float = 0.6
    harden: float = 0.75
    amp: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or (self.batch is not None and self.batch < 1):
            raise InputError(f"epochs and batch must be at least 1, not {self.epochs} and {self.batch}")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise InputError(f"the learning rate must be a number above 0, not {self.lr}")
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise InputError(f"the weight of the penalty, lambda, must be a number of at least 0, not {self.weight}")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"the seed must lie between 0 and 2^63 - 1, not be {self.seed}")

    @property
    def by_number(self) -> bool:
        """Whether only the number of channels counts: gates that are placed by hand know no other price."""
        return set(self.target or ()) <= {"channels"}

    def schedule(self, steps: int) -> Schedule:
        """The phases of a run of that many steps."""
        return Schedule(steps, cold=self.cold, ramp=self.ramp, harden=self.harden)


@dataclass(frozen=True)
class Recipe(ABC, Generic[Data]):
    """One experiment: a network, what it learns from, and how.

    Attributes:
        name: what `onnxdam train` calls it.
        about: the network in one line.
        data: what its file holds and what it learns from without one, in one line.
        settings: of the run, unless told otherwise.
        metric_kind: what `metric` measures.
        every: epochs between two evaluations (and checkpoints).
        include, exclude, inputs, options: what gets gates; see `attach`. `options` are by method.
        attached: gates are attached even where the recipe would place them by hand.
    """

    name: str
    about: str
    data: str
    settings: Settings
    metric_kind: Metric = Metric()
    every: int = 1
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    inputs: bool = False
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    attached: bool = False

    # -- what is the recipe's own --------------------------------------------------------------------------------------
    @abstractmethod
    def load(self, path: str | Path | None, seed: int = 0) -> Data:
        """The data, all splits, on the CPU: a dataclass of tensors (which `train` moves to its device) or arrays.

        Args:
            path: an .npz file; None: what scikit-learn brings, or made up with `seed`.

        Raises:
            InputError: the file does not hold what is wanted.
        """

    @abstractmethod
    def network(self, data: Data) -> nn.Module:
        """A new network without gates, of the data's sizes."""

    @abstractmethod
    def example(self, data: Data) -> tuple[Tensor, ...]:
        """What the network can be called with; two samples or more where there is a batch."""

    @abstractmethod
    def samples(self, data: Data) -> int:
        """How many samples there are to train on; batches are drawn from their numbers."""

    @abstractmethod
    def loss(self, network: nn.Module, data: Data, rows: Tensor) -> Tensor:
        """The task's loss over a batch, a scalar.

        Args:
            network: in training mode, with its gates, on the device of the data.
            rows: numbers of training samples, int64, on the CPU.
        """

    @abstractmethod
    def metric(self, network: nn.Module, data: Data, split: Split) -> float:
        """The metric over a split; `network` is in evaluation mode, and no gradients are recorded."""

    # -- what most recipes share ---------------------------------------------------------------------------------------
    def place(self, network: nn.Module, settings: Settings) -> bool:
        """Puts gates where the recipe's paper has them, if it says where and they are what the settings ask for."""
        return False

    def gates(self, network: nn.Module, data: Data, settings: Settings, schedule: Schedule) -> Gates:
        """Puts the gates on the network: by hand, or with `attach`."""
        if not self.attached and self.place(network, settings):
            return Gates.of(network, weight=settings.weight, target=settings.target, schedule=schedule)
        return attach(
            network,
            self.example(data),
            method=settings.method,
            include=self.include,
            exclude=self.exclude,
            inputs=self.inputs,
            weight=settings.weight,
            target=settings.target,
            schedule=schedule,
            **self.options.get(settings.method, {}),
        )

    def optimizer(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        """Over the weights and the gates, each group with its learning rate and decay."""
        return torch.optim.Adam(groups, lr)

    def lr_factor(self, progress: float) -> float:
        """What learning rates are multiplied by, at a progress from 0 to below 1."""
        return 1.0

    def batches(self, data: Data, batch: int | None) -> Iterable[Tensor]:
        """The numbers of the samples of every batch of an epoch, in random order.

        One sample that is left over waits for another epoch: BatchNorm has no variance of it.
        """
        count = self.samples(data)
        if batch is None:
            return (torch.arange(count),)
        return torch.randperm(count).split(batch)[: self.steps(data, batch)]

    def steps(self, data: Data, batch: int | None) -> int:
        """How many batches an epoch has."""
        if batch is None:
            return 1
        full, rest = divmod(self.samples(data), batch)
        return max(full + (rest > 1), 1)


def on_device(data: Any, device: torch.device) -> Any:
    """The data with all their tensors on a device: dataclasses, tuples, lists and dicts are walked through."""
    if isinstance(data, Tensor):
        return data.to(device)
    if dataclasses.is_dataclass(data) and not isinstance(data, type):
        fields = {f.name: on_device(getattr(data, f.name), device) for f in dataclasses.fields(data) if f.init}
        return dataclasses.replace(data, **fields)
    if isinstance(data, tuple | list):
        return type(data)(on_device(item, device) for item in data)
    if isinstance(data, dict):
        return {key: on_device(value, device) for key, value in data.items()}
    return data
