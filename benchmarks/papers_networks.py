"""Trains the papers' networks with gates and prints what comes out next to the papers' numbers.

    python benchmarks/papers_networks.py gcn --data cora.npz --seeds 5
    python benchmarks/papers_networks.py autoencoder --data mnist.npz --lambdas .01 .5 1 2 5
    python benchmarks/papers_networks.py recommender --data igmc_flixster.npz --epochs 10
    python benchmarks/papers_networks.py images --recipe lenet-5 --data mnist.npz --methods hardconcrete --macs .065

Every network is exported, slimmed and run on the whole test set: parameters, MACs and the column "slim ONNX" are of the
slim file. "test" is of the weights chosen on the validation split, "last" of those after the last step, "best" the best
that the test set has seen since the masks became binary, which is what most papers report.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import onnx
import onnxruntime as ort
import torch
from torch import Tensor, nn

import onnxdam
from onnxdam.graph.count import count
from onnxdam.masks import export
from onnxdam.recipes import find
from onnxdam.recipes.recipe import Recipe, Settings
from onnxdam.recipes.training import train

AUTOENCODER = {  # lambda: DAM dims, MSE, L1 dims, MSE; means of 5 runs, read off a plot of arXiv 2110.00684
    0.01: (17.1, 0.049, 39.0, 0.046),
    0.5: (12.2, 0.060, 13.3, 0.073),
    1.0: (9.7, 0.072, 12.0, 0.075),
    2.0: (7.8, 0.084, 11.6, 0.077),
    5.0: (3.8, 0.129, 10.4, 0.08),
}
LENET_5 = (  # kept, error %, floating-point operations: multiply-accumulates and biases, as their tables count
    ("L0", "20-25-45-462", 0.9, 1_300_000),
    ("L0-sep", "9-18-65-25", 1.0, 403_000),
    ("BC-GNJ", "8-13-88-13", 1.0, 290_000),
    ("BC-GHS", "5-10-76-16", 1.0, 158_000),
    ("SBP", "3-18-284-283", 0.9, 217_000),
    ("DiffPrune", "", 0.6, 0),
)


class Session(nn.Module):
    """An ONNX model that is called as the network it was: so the recipe's own metric measures it."""

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        self.session = ort.InferenceSession(model.SerializeToString())

    def forward(self, *inputs: Tensor) -> Tensor:
        feeds, batched = {}, True
        for slot, x in zip(self.session.get_inputs(), inputs, strict=False):
            dense = x.to_dense() if x.layout is not torch.strided else x
            batched = dense.dim() == len(slot.shape)
            feeds[slot.name] = (dense if batched else dense[None]).numpy()
        output = torch.from_numpy(self.session.run(None, feeds)[0])
        return output if batched else output[0]


@dataclass(frozen=True)
class Row:
    """One run: the metric four times, what stays, what it costs."""

    test: float
    last: float
    best: float
    masked: float
    slim: float
    kept: str
    units: int
    parameters: int
    macs: int
    seconds: float


def measure(recipe: Recipe[Any], data: Any, settings: Settings) -> Row:
    """Trains, exports, slims, and measures masked and slim ONNX files on the test set."""
    got = train(recipe, data, settings)
    gates = got.gates if got.kept else None
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        masked = onnx.load(export(got.network, gates, got.example, Path(folder) / "masked.onnx"))
        slim, _ = onnxdam.slim(masked, align="none")  # counts as the papers count
        metrics = [recipe.metric(Session(model), data, "test") for model in (masked, slim)]
    total = count(slim)
    kept = [k for k, _ in got.kept.values()]
    short = "-".join(map(str, kept)) if len(kept) < 6 else f"{sum(kept)} of {sum(n for _, n in got.kept.values())}"
    return Row(
        got.test, got.last, got.best, *metrics, short or "all", sum(kept), total.parameters, total.macs, got.seconds
    )


def table(recipe: Recipe[Any], data: Any, variants: Iterable[tuple[str, Recipe[Any], Settings]], seeds: int) -> None:
    """One line for every run, one with mean and spread for every variant."""
    name = recipe.metric_kind.name
    print(f"{name:22} {'seed':>4} {'kept':>16} {'test':>8} {'last':>8} {'best':>8} {'masked ONNX':>11} "
          f"{'slim ONNX':>9} {'parameters':>10} {'MACs':>12} {'seconds':>7}", flush=True)  # fmt: skip
    for label, which, settings in variants:
        rows = []
        for seed in range(seeds):
            row = measure(which, data, dataclasses.replace(settings, seed=seed))
            rows.append(row)
            print(f"{label:22} {seed:4} {row.kept:>16} {row.test:8.4f} {row.last:8.4f} {row.best:8.4f} "
                  f"{row.masked:11.4f} {row.slim:9.4f} {row.parameters:10,} {row.macs:12,} {row.seconds:7.0f}",
                  flush=True)  # fmt: skip
        if seeds > 1:
            found = {name: spread([getattr(r, name) for r in rows]) for name in ("units", "test", "last", "best")}
            print(f"{label:22} mean {', '.join(f'{name} {value}' for name, value in found.items())}", flush=True)


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    return f"{statistics.mean(values):.3f} +- {statistics.stdev(values):.3f}"


def gcn(asked: argparse.Namespace) -> None:
    """With and without gates, at fixed weights and at a target."""
    recipe = find("gcn")
    data = recipe.load(asked.data)
    usual = dataclasses.replace(recipe.settings, gate_lr=10.0, epochs=asked.epochs or recipe.settings.epochs)
    variants = [("none", recipe, dataclasses.replace(usual, method="none"))]
    variants += [(f"dam, lambda {w}", recipe, dataclasses.replace(usual, weight=w)) for w in asked.lambdas]
    for share in asked.channels:
        at = dataclasses.replace(usual, target={"channels": share})
        variants.append((f"dam, {share:g} of units", recipe, at))
    table(recipe, data, variants, asked.seeds)


def autoencoder(asked: argparse.Namespace) -> None:
    """Dimensions kept and test error over lambda."""
    recipe = find("autoencoder")
    data = recipe.load(asked.data)
    usual = dataclasses.replace(recipe.settings, epochs=asked.epochs or recipe.settings.epochs)
    variants = [
        (f"{method}, lambda {w}", recipe, dataclasses.replace(usual, method=method, weight=w))
        for method in asked.methods
        for w in asked.lambdas
    ]
    table(recipe, data, variants, asked.seeds)
    print("paper (100 epochs, 5 runs): lambda, DAM dims, MSE, L1 dims, MSE")
    for weight, numbers in AUTOENCODER.items():
        print(f"{weight:6} {numbers[0]:6} {numbers[1]:6} {numbers[2]:6} {numbers[3]:6}")


def recommender(asked: argparse.Namespace) -> None:
    """With a gate, and with dropout in its place."""
    recipe = dataclasses.replace(find("recommender"), neighbours=asked.neighbours)  # type: ignore[call-arg]
    data = recipe.load(asked.data)
    usual = dataclasses.replace(recipe.settings, epochs=asked.epochs or recipe.settings.epochs)
    ungated = dataclasses.replace(recipe, dropout=0.5)  # type: ignore[call-arg]
    variants = [("none, dropout", ungated, dataclasses.replace(usual, method="none"))]
    variants += [(f"dam, lambda {w}", recipe, dataclasses.replace(usual, weight=w)) for w in asked.lambdas]
    table(recipe, data, variants, asked.seeds)


def images(asked: argparse.Namespace) -> None:
    """Convolutional networks, each method at each target."""
    recipe = find(asked.recipe)
    if asked.shift is not None:
        recipe = dataclasses.replace(recipe, shift=asked.shift)  # type: ignore[call-arg]
    data = recipe.load(asked.data)
    if asked.train:
        data = dataclasses.replace(data, x_train=data.x_train[: asked.train], y_train=data.y_train[: asked.train])
    usual = dataclasses.replace(recipe.settings, epochs=asked.epochs or recipe.settings.epochs)
    if asked.lr:
        usual = dataclasses.replace(usual, lr=asked.lr)
    usual = dataclasses.replace(usual, amp=asked.amp)
    variants = []
    for method in asked.methods:
        for share in asked.macs if method != "none" else [1.0]:
            target = {"macs": share} if method != "none" else None
            at = dataclasses.replace(usual, method=method, target=target, gate_lr=asked.gate_lr or usual.gate_lr)
            variants.append((f"{method}, {share:g} of MACs", recipe, at))
    table(recipe, data, variants, asked.seeds)
    if asked.recipe == "lenet-5" and "mnist" in Path(asked.data or "").name:
        for name, kept, error, operations in LENET_5:
            print(f"{name:22} {'':4} {kept:>16} {error:8.1f} {operations or math.nan:12,.0f} (literature)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--data", help="an .npz; left out: data of scikit-learn")
    common.add_argument("--seeds", type=int, default=1)
    common.add_argument("--epochs", type=int, help="other than the recipe's")
    common.add_argument("--threads", type=int, default=1)
    for run in (gcn, autoencoder, recommender, images):
        one = commands.add_parser(run.__name__, help=run.__doc__, parents=[common])
        one.set_defaults(run=run)
        if run is gcn:
            one.add_argument("--lambdas", type=float, nargs="*", default=[0.3])
            one.add_argument("--channels", type=float, nargs="*", default=[0.25])
        elif run is autoencoder:
            one.add_argument("--lambdas", type=float, nargs="+", default=list(AUTOENCODER))
            one.add_argument("--methods", nargs="+", default=["dam", "l1"], choices=["dam", "l1"])
        elif run is recommender:
            one.add_argument("--lambdas", type=float, nargs="+", default=[0.1])
            one.add_argument("--neighbours", type=int, default=64, help="of users and items that are looked at")
        else:
            one.add_argument("--recipe", default="lenet-5")
            one.add_argument("--methods", nargs="+", default=["hardconcrete"])
            one.add_argument("--macs", type=float, nargs="+", default=[0.065])
            one.add_argument("--train", type=int, help="images to learn from; left out: all")
            one.add_argument("--amp", action="store_true", help="train in bfloat16 where that is safe")
            one.add_argument("--lr", type=float)
            one.add_argument("--gate-lr", type=float, help="in multiples of the learning rate")
            one.add_argument("--shift", type=int, help="move training images by up to so many pixels")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    asked.run(asked)


if __name__ == "__main__":
    main()
