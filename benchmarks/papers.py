"""Reproduces experiments of the papers and prints them next to the papers' numbers.

    python benchmarks/papers.py reduction --kinds linear kernel quadratic --seeds 10
    python benchmarks/papers.py lenet --data mnist.npz --methods hardconcrete grouplasso --parameters 0.1 --epochs 60

Every network is exported, slimmed and run: what is printed as kept is counted in the slim file.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch

import onnxdam
from onnxdam.graph.count import count
from onnxdam.masks import export, narrow, parameter_plan
from onnxdam.recipes import find
from onnxdam.recipes.training import train

LITERATURE = (
    ("SBP", "245-160-55", 1.6),
    ("L0", "266-88-33", 1.6),
    ("VIB", "97-71-33", 1.6),
    ("RigL+", "375-62-51", 1.69),
)


KINDS = ("linear", "kernel", "quadratic")


def reduction(kinds: list[str], seeds: int, steps: int | None) -> None:
    """Dimensions found at the bottleneck."""
    print(f"{'kind':10} {'seed':>4} {'true':>4} {'kept':>4} {'ONNX columns':>12} {'MSE':>9} {'seconds':>7}")
    for kind in kinds:
        recipe: Any = find(f"{kind}-dr")
        hits = 0
        for seed in range(seeds):
            points = recipe.load(None, seed)
            settings = replace(recipe.settings, seed=seed, epochs=steps or recipe.settings.epochs)
            found = train(recipe, points, settings)
            ((kept, _),) = found.kept.values()
            slim = narrow(found.network, parameter_plan(found.network, found.example), found.example)
            encoder = torch.nn.Sequential(*list(slim.children())[:2])
            with tempfile.TemporaryDirectory() as folder:
                path = export(encoder, None, found.example, Path(folder) / "encoder.onnx")
                columns = run(path.read_bytes(), points.x).shape[1]
            hits += columns == recipe.dims
            print(f"{kind:10} {seed:4} {recipe.dims:4} {kept:4} {columns:12} {found.test:9.5f} {found.seconds:7.1f}",
                  flush=True)  # fmt: skip
        print(f"{kind}: right in {hits} of {seeds} seeds")


def lenet(data: str | None, methods: list[str], parameters: float, epochs: int, seeds: int) -> None:
    """LeNet-300-100: kept units and error, each as the papers give it (best) and as it is (final)."""
    recipe = find("lenet-300-100")
    samples = recipe.load(data)
    print(f"{'method':13} {'seed':>4} {'kept':>12} {'chosen %':>8} {'last %':>7} {'best %':>7} {'slim ONNX %':>11} "
          f"{'parameters':>10} {'seconds':>7}")  # fmt: skip
    for method in methods:
        errors = []
        for seed in range(seeds):
            target = {"parameters": parameters}
            got = train(
                recipe, samples, replace(recipe.settings, method=method, target=target, epochs=epochs, seed=seed)
            )
            with tempfile.TemporaryDirectory() as folder:
                masked = onnx.load(export(got.network, got.gates, got.example, Path(folder) / "masked.onnx"))
            slim, _ = onnxdam.slim(masked)
            wrong = (run(slim.SerializeToString(), samples.x_test).argmax(1) != samples.y_test.numpy()).mean() * 100
            errors.append(got.test)
            kept = "-".join(str(open_) for open_, _ in got.kept.values())
            print(f"{method:13} {seed:4} {kept:>12} {got.test:8.2f} {got.last:7.2f} {got.best:7.2f} {wrong:11.2f} "
                  f"{count(slim).parameters:10,} {got.seconds:7.1f}", flush=True)  # fmt: skip
        spread = statistics.stdev(errors) if seeds > 1 else 0.0
        print(f"{method}: error {statistics.mean(errors):.2f} +- {spread:.2f} % over {seeds} seeds")
    if data is not None and "mnist" in Path(data).name:
        for name, kept, error in LITERATURE:
            print(f"{name:13} {'':4} {kept:>12} {error:8.2f}   (literature, MNIST)")


def run(model: bytes, x: torch.Tensor) -> np.ndarray:
    """The first output."""
    session = ort.InferenceSession(model)
    return np.asarray(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    first = commands.add_parser("reduction")
    first.add_argument("--kinds", nargs="+", default=["linear"], choices=KINDS)
    first.add_argument("--seeds", type=int, default=1)
    first.add_argument("--steps", type=int, help="fewer than the paper's, to try")
    second = commands.add_parser("lenet")
    second.add_argument("--data", help="an .npz as MNIST; left out: the digits of scikit-learn")
    second.add_argument("--methods", nargs="+", default=["hardconcrete"])
    second.add_argument("--parameters", type=float, default=0.1, help="share to keep")
    second.add_argument("--epochs", type=int, default=30)
    second.add_argument("--seeds", type=int, default=1)
    for one in (first, second):
        one.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    if asked.command == "reduction":
        reduction(asked.kinds, asked.seeds, asked.steps)
    else:
        lenet(asked.data, asked.methods, asked.parameters, asked.epochs, asked.seeds)


if __name__ == "__main__":
    main()
