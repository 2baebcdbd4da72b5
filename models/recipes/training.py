"""The loop of every recipe: train, mask, harden, fine-tune, measure; resumable.

Evaluated is every `recipe.every` epochs, and after the last. From the moment the masks are binary on, the weights with
the best validation metric are remembered, and are what comes out. Three numbers are told apart:

    test    on the test set, of the weights chosen on the validation set        (honest)
    last    on the test set, of the weights after the last step                 (honest)
    best    the best that the test set has seen in any evaluation since then    (what many papers report)

A checkpoint is everything that the rest of the run depends on; a resumed run continues bit for bit on the CPU.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import torch
from torch import nn

from onnxdam.errors import InputError
from onnxdam.masks import Gates, export

from .checkpoint import Checkpoint, fingerprint
from .recipe import Data, Recipe, Settings, on_device

DENSE = "none"  # the method of a run without gates, to compare with


@dataclass(frozen=True)
class Evaluation:
    """One look at the network.

    Attributes:
        epoch: epochs done.
        loss: mean loss of the task since the last look.
        valid, test: the metric.
        hardened: whether the masks are binary.
    """

    epoch: int
    loss: float
    valid: float
    test: float
    hardened: bool


@dataclass(frozen=True)
class Progress:
    """Where training is.

    Attributes:
        step, steps: of the optimiser, done and in all.
        epoch, epochs: likewise.
        loss: of the task, on the last batch.
        last: the latest evaluation, if there was one.
        kept: gate -> (open slots, slots).
    """

    step: int
    steps: int
    epoch: int
    epochs: int
    loss: float
    last: Evaluation | None
    kept: Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class Trained(Generic[Data]):
    """What came out.

    Attributes:
        recipe, settings: what was trained, and how.
        network: with its hardened gates, in evaluation mode, on the CPU; the weights chosen on the validation set.
        gates: its gates; None if it was trained without.
        example: what it can be called with.
        epoch: the epoch whose weights were chosen.
        valid: their metric on the validation set.
        test, last, best: the metric on the test set, see above.
        history: all evaluations.
        seconds: of this run, since it was begun or resumed.
    """

    recipe: Recipe[Data]
    settings: Settings
    network: nn.Module
    gates: Gates | None
    example: tuple[torch.Tensor, ...]
    epoch: int
    valid: float
    test: float
    last: float
    best: float
    history: tuple[Evaluation, ...]
    seconds: float

    @property
    def kept(self) -> dict[str, tuple[int, int]]:
        """Gate -> (slots that stay, slots)."""
        return self.gates.kept() if self.gates else {}

    def export(self, path: str | Path, *, dynamo: bool = True) -> Path:
        """Writes the network with its masks as constants; see `onnxdam.masks.export`."""
        return export(self.network, self.gates, self.example, path, dynamo=dynamo)


def train(
    recipe: Recipe[Data],
    data: Data,
    settings: Settings | None = None,
    *,
    device: str = "cpu",
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Trained[Data]:
    """Trains a recipe.

    Args:
        recipe: what.
        data: what `recipe.load` returned.
        settings: how; None: as the recipe says.
        device: "cpu", "cuda" or "cuda:N".
        checkpoint: a file to leave the state in, at the start and after every evaluation.
        resume: go on from the checkpoint, where there is one.
        progress: called ten times a second at most.

    Raises:
        InputError: no such device; a target that cannot be reached; a checkpoint of another run; a loss that is not
            finite.
    """
    settings, on = settings or recipe.settings, _device(device)
    store = None if checkpoint is None else Checkpoint(Path(checkpoint), identity(recipe, data, settings))
    left = store.read() if store is not None and resume and store.path.exists() else None
    run = _Run(recipe, data, settings, on)
    if left is not None:
        run.load(left)
    if store is not None:
        store.write(run.state())  # that it can be written is known before the work
    for _ in run.evaluations(progress):
        if store is not None:
            store.write(run.state())
    return run.result()


def identity(recipe: Recipe[Data], data: Data, settings: Settings) -> dict[str, Any]:
    """What two runs have in common if one may go on where the other stopped."""
    gated = {name: getattr(recipe, name) for name in ("include", "exclude", "inputs", "attached")}
    return {"recipe": recipe.name, **dataclasses.asdict(settings), **gated, "data": fingerprint(data)}


class _Run(Generic[Data]):
    """The state of a run, and how it moves."""

    def __init__(self, recipe: Recipe[Data], data: Data, settings: Settings, device: torch.device) -> None:
        self.start = time.perf_counter()
        self.recipe, self.settings, self.device = recipe, settings, device
        self.example = recipe.example(data)
        torch.manual_seed(settings.seed)
        per_epoch = recipe.steps(data, settings.batch)
        self.steps = settings.epochs * per_epoch
        self.network = _fitting(recipe, data, self.example)
        schedule = settings.schedule(self.steps)
        gated = settings.method != DENSE
        self.gates: Gates | _NoGates = recipe.gates(self.network, data, settings, schedule) if gated else _NoGates()
        self.network.to(device)
        self.data: Data = on_device(data, device)
        self.optimizer = self._optimizer()
        self.step = self.epoch = 0
        self.history: list[Evaluation] = []
        self.chosen: dict[str, Any] | None = None  # weights of the best validation metric since hardening
        self.chosen_at = -1  # in the history

    def _optimizer(self) -> torch.optim.Optimizer:
        s = self.settings
        gates = list(self.gates.parameters())
        mine = set(gates)
        weights = [p for p in self.network.parameters() if p not in mine]
        groups: list[dict[str, Any]] = [{"params": weights, "lr": s.lr, "weight_decay": s.decay}]
        if gates:
            groups.append({"params": gates, "lr": s.lr * s.gate_lr, "weight_decay": 0.0})
        return self.recipe.optimizer(groups, s.lr)

    # -- moving --------------------------------------------------------------------------------------------------------
    def evaluations(self, progress: Callable[[Progress], None] | None) -> Iterator[Evaluation]:
        """Trains to the end; comes up for air after every evaluation."""
        s, say = self.settings, _Sparingly(progress)
        total, count = torch.zeros((), device=self.device), 0
        while self.epoch < s.epochs:
            self.network.train()
            for rows in self.recipe.batches(self.data, s.batch):
                loss = self._step(rows)
                total, count = total + loss, count + 1
                say(lambda loss=loss: self._progress(float(loss)))  # type: ignore[misc]
            self.epoch += 1
            if self.epoch % self.recipe.every == 0 or self.epoch == s.epochs:
                yield self._evaluate(float(total) / count)
                say(lambda: self._progress(self.history[-1].loss), now=True)
                total, count = torch.zeros((), device=self.device), 0

    def _step(self, rows: torch.Tensor) -> torch.Tensor:
        s = self.settings
        factor = self.recipe.lr_factor(self.step / self.steps)
        for group, lr in zip(self.optimizer.param_groups, (s.lr, s.lr * s.gate_lr), strict=False):
            group["lr"] = lr * factor
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=s.amp):
            loss = self.recipe.loss(self.network, self.data, rows)
        (loss + self.gates.penalty()).backward()
        self.optimizer.step()
        self.gates.step(s.lr * s.gate_lr * factor)
        self.step += 1
        return loss.detach()

    @torch.no_grad()
    def _evaluate(self, loss: float) -> Evaluation:
        if not math.isfinite(loss):
            raise InputError(f"training diverged: the loss is {loss} in epoch {self.epoch}; try a smaller --lr")
        self.network.eval()
        valid, test = (self.recipe.metric(self.network, self.data, split) for split in ("valid", "test"))
        found = Evaluation(self.epoch, loss, valid, test, self.gates.hardened)
        self.history.append(found)
        best = self.history[self.chosen_at].valid if self.chosen is not None else valid
        if found.hardened and not self.recipe.metric_kind.better(best, valid):  # of equals the last, trained longest
            self.chosen = copy.deepcopy(self.network.state_dict())
            self.chosen_at = len(self.history) - 1
        return found

    def _progress(self, loss: float) -> Progress:
        last = self.history[-1] if self.history else None
        return Progress(self.step, self.steps, self.epoch, self.settings.epochs, loss, last, self.gates.kept())

    # -- resting -------------------------------------------------------------------------------------------------------
    def state(self) -> dict[str, Any]:
        """All that the rest of the run depends on: tensors, numbers, strings, lists and dicts."""
        return {
            "network": self.network.state_dict(),
            "gates": self.gates.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "random_device": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            "step": self.step,
            "epoch": self.epoch,
            "history": [dataclasses.astuple(e) for e in self.history],
            "chosen": self.chosen,
            "chosen_at": self.chosen_at,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state` gave."""
        self.network.load_state_dict(state["network"])
        self.gates.load_state_dict(state["gates"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.epoch = state["step"], state["epoch"]
        self.history = [Evaluation(*e) for e in state["history"]]
        self.chosen, self.chosen_at = state["chosen"], state["chosen_at"]
        torch.set_rng_state(state["random"])
        if self.device.type == "cuda" and state["random_device"] is not None:
            torch.cuda.set_rng_state(state["random_device"], self.device)

    # -- the end -------------------------------------------------------------------------------------------------------
    def result(self) -> Trained[Data]:
        """What a run that is through has given."""
        assert self.chosen is not None
        self.network.load_state_dict(self.chosen)
        self.network.eval().cpu()
        chosen, lower = self.history[self.chosen_at], self.recipe.metric_kind.lower
        tests = [e.test for e in self.history if e.hardened]
        gates = self.gates if isinstance(self.gates, Gates) else None
        return Trained(
            self.recipe, self.settings, self.network, gates, self.example, chosen.epoch, chosen.valid, chosen.test,
            tests[-1], min(tests) if lower else max(tests), tuple(self.history), time.perf_counter() - self.start,
        )  # fmt: skip


class _NoGates(nn.Module):
    """In the place of gates where there are none."""

    hardened = True

    def kept(self) -> dict[str, tuple[int, int]]:
        return {}

    def penalty(self) -> float:
        return 0.0

    def step(self, lr: float) -> None:
        pass


class _Sparingly:
    """Calls a function at most ten times a second: what it is told takes time to find out."""

    def __init__(self, progress: Callable[[Progress], None] | None) -> None:
        self.progress = progress
        self.last = 0.0

    def __call__(self, say: Callable[[], Progress], now: bool = False) -> None:
        if self.progress is not None and (now or time.monotonic() - self.last > 0.1):
            self.progress(say())
            self.last = time.monotonic()


def _fitting(recipe: Recipe[Data], data: Data, example: tuple[torch.Tensor, ...]) -> nn.Module:
    """The recipe's network, tried on an example."""
    try:
        network = recipe.network(data)
        with torch.no_grad():
            network.eval()(*example)
    except (RuntimeError, ValueError) as error:
        shapes = " and ".join(str(tuple(x.shape[1:])) for x in example)
        raise InputError(
            f"{recipe.name}: its network does not fit samples of shape {shapes} ({' '.join(str(error).split())[:120]})"
        ) from None
    return network


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"device: {name!r} is none; cpu or cuda is wanted") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError("device: there is no CUDA device that this torch can use; --device cpu")
    return device
