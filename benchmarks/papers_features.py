"""Induced feature selection (arXiv 2303.10999) against pruning of weights alone, at the same parameter count.

    python benchmarks/papers_features.py mnist-mlp --data mnist.npz --shares 0.2 0.05 --seeds 3
    python benchmarks/papers_features.py cifar-mlp --data cifar10.npz --train 10000 --seeds 2

dense      no gates; as many epochs as the others in all
weights    gates on the hidden units; every input stays; the narrow network is trained on
induced    gates on the inputs as well; what nobody reads any more leaves; the narrow network is trained on

The two have one method, one schedule and one target: the share of the parameters that stays. Nothing is chosen by
looking at errors: "masked" is the test error when the gates have closed, "slim" that of the file, after retraining, in
ONNX Runtime, on the features that it takes. Parameters and multiply-accumulates are counted in the file.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import Tensor, nn

from onnxdam.graph.count import count
from onnxdam.masks import Gates, Schedule, attach, export, induce, narrow, parameter_plan
from onnxdam.recipes.classifier import wrong
from onnxdam.recipes.data import Classes, load_classes

BATCH, LR, GATE_LR = 128, 1e-3, 1e-2
PHASES = {"cold": 0.1, "ramp": 0.6, "harden": 0.75}
ARMS = ("dense", "weights", "induced")


def perceptron(*widths: int) -> nn.Sequential:
    """Linear layers with ReLUs between them."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def convolutions(colours: int, classes: int) -> nn.Sequential:
    """Three convolutions of stride 2, one linear layer; the features of its input are the colours."""
    layers: list[nn.Module] = []
    for before, after in ((colours, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, classes))


NETWORKS: dict[str, Callable[[int, int], nn.Sequential]] = {
    "mnist-mlp": lambda features, classes: perceptron(features, 300, 100, classes),
    "cifar-mlp": lambda features, classes: perceptron(features, 512, 128, classes),
    "cifar-conv": convolutions,
}


@dataclass(frozen=True)
class Row:
    """One run: inputs that are collected, what the file costs, and test errors in per cent."""

    inputs: int
    parameters: int
    macs: int
    masked: float
    slim: float


@dataclass(frozen=True)
class Run:
    """What the runs have in common."""

    network: Callable[[int, int], nn.Sequential]
    data: Classes
    epochs: int
    retrain: int

    def row(self, arm: str, method: str, share: float, seed: int) -> Row:
        """One run from new weights to the file."""
        torch.manual_seed(seed)
        model, masked = self.network(self.data.features, self.data.classes), float("nan")

        def fit(network: nn.Module, x: Tensor, gates: Gates | None) -> None:
            nonlocal masked
            self.train(network, x, gates, self.epochs if gates is not None else self.retrain)
            if gates is not None:
                masked = wrong(network.eval(), self.data.x_test, self.data.y_test)

        x, x_test = self.data.x_train, self.data.x_test
        schedule = Schedule(self.epochs * -(-len(x) // BATCH), **PHASES)
        asked: dict[str, Any] = {"method": method, "target": {"parameters": share}, "schedule": schedule}
        if arm == "dense":
            self.train(model, x, None, self.epochs + self.retrain)
            slim: nn.Module = model.eval()
            masked = wrong(slim, x_test, self.data.y_test)
        elif arm == "weights":
            gates = attach(model, x[:2], **asked)
            fit(model, x, gates)
            slim = narrow(model, parameter_plan(model, x[:2]), x[:2])
            fit(slim, x, None)
        else:
            found = induce(model, x, fit, **asked)
            slim, x_test = found.network, found.select(x_test)
        with tempfile.TemporaryDirectory() as folder:
            file = onnx.load(export(slim.eval(), None, (x_test[:2],), Path(folder) / "slim.onnx"))
        total = count(file)
        return Row(x_test.shape[1], total.parameters, total.macs or 0, masked, self.wrong(file, x_test))

    @staticmethod
    def step(network: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, gates: Gates | None) -> None:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(x), y)
        (loss if gates is None else loss + gates.penalty()).backward()
        optimizer.step()
        if gates is not None:
            gates.step()

    def train(self, network: nn.Module, x: Tensor, gates: Gates | None, epochs: int) -> None:
        """Adam; the learning rate falls to 0 over the last half."""
        mine = [] if gates is None else list(gates.parameters())
        weights = [p for p in network.parameters() if all(p is not m for m in mine)]
        groups = [{"params": weights, "lr": LR}] + ([{"params": mine, "lr": GATE_LR}] if mine else [])
        optimizer = torch.optim.Adam(groups, fused=True)
        steps = epochs * -(-len(x) // BATCH)
        falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, 2 * (1 - step / steps)))
        network.train()
        for _ in range(epochs):
            for rows in torch.randperm(len(x)).split(BATCH):
                self.step(network, optimizer, x[rows], self.data.y_train[rows], gates)
                falling.step()

    def wrong(self, model: onnx.ModelProto, x: Tensor) -> float:
        """Test error of a file, per cent."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(model.SerializeToString(), options)
        name = session.get_inputs()[0].name
        classes = [np.asarray(session.run(None, {name: part.numpy()})[0]).argmax(1) for part in x.split(1000)]
        return 100 * float((np.concatenate(classes) != self.data.y_test.numpy()).mean())


def spread(values: Sequence[float], digits: int) -> str:
    """Mean and standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):,.{digits}f} ± {deviation:,.{digits}f}"


def load(path: str | None, name: str, train: int) -> Classes:
    """The first training samples; colours are brought from [0, 1] to about [-2, 2]."""
    data = load_classes(path, image=name == "cifar-conv")
    if name != "mnist-mlp":
        for x in (data.x_train, data.x_test):
            x.sub_(0.5).div_(0.25)
    return Classes(data.x_train[:train], data.y_train[:train], *(
        getattr(data, f"{part}_{split}") for split in ("valid", "test") for part in "xy"
    ))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("--data", help="an .npz; left out: the digits of scikit-learn")
    parser.add_argument("--train", type=int, default=10**9, help="use the first so many training samples")
    parser.add_argument("--methods", nargs="+", default=["grouplasso", "hardconcrete"])
    parser.add_argument("--shares", type=float, nargs="+", default=[0.2, 0.05])
    parser.add_argument("--epochs", type=int, default=8, help="with gates")
    parser.add_argument("--retrain", type=int, default=4, help="epochs of the narrow network")
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    run = Run(NETWORKS[asked.network], load(asked.data, asked.network, asked.train), asked.epochs, asked.retrain)
    print(f"{len(run.data.x_train)} training samples, {len(run.data.x_test)} for testing")
    print("| run | seed | inputs | parameters | MACs | masked % | slim % |\n|---|--:|--:|--:|--:|--:|--:|", flush=True)
    runs = [("dense", "", 1.0)]
    runs += [(arm, method, share) for share in asked.shares for method in asked.methods for arm in ARMS[1:]]
    for arm, method, share in runs:
        label, rows = arm if arm == "dense" else f"{method}, {share:g}, {arm}", []
        for seed in range(asked.seeds):
            r = run.row(arm, method, share, seed)
            rows.append(r)
            print(f"| {label} | {seed} | {r.inputs} | {r.parameters:,} | {r.macs:,} | {r.masked:.2f} | {r.slim:.2f} |",
                  flush=True)  # fmt: skip
        columns = (("inputs", 0), ("parameters", 0), ("macs", 0), ("masked", 2), ("slim", 2))
        cells = [spread([getattr(r, name) for r in rows], digits) for name, digits in columns]
        print(f"| **{label}** | mean | " + " | ".join(cells) + " |", flush=True)
    print(f"\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
