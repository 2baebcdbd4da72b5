"""Reproduces experiments of the papers and prints them next to the papers' numbers.

    python benchmarks/papers.py reduction --kinds linear kernel quadratic --seeds 10
    python benchmarks/papers.py lenet --data mnist.npz --methods hardconcrete grouplasso --parameters 0.1 --epochs 60

Every network is exported, slimmed and run: what is printed as kept is counted in the slim file.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import onnx
import onnxruntime as ort
import torch

import onnxdam
from models.recipes.data import load_classes
from models.recipes.lenet import train_lenet
from models.recipes.reduction import REDUCTIONS, reduce
from onnxdam.graph.count import count
from onnxdam.masks import export, narrow, parameter_plan

LITERATURE = (
    ("SBP", "245-160-55", 1.6),
    ("L0", "266-88-33", 1.6),
    ("VIB", "97-71-33", 1.6),
    ("RigL+", "375-62-51", 1.69),
)


def reduction(kinds: list[str], seeds: int, steps: int | None) -> None:
    """Dimensions found at the bottleneck."""
    print(f"{'kind':10} {'seed':>4} {'true':>4} {'kept':>4} {'ONNX columns':>12} {'MSE':>9} {'seconds':>7}")
    for kind in kinds:
        hits = 0
        for seed in range(seeds):
            start = time.time()
            found = reduce(kind, seed, steps)
            slim = narrow(found.network, parameter_plan(found.network, found.points[:2]), found.points[:2])
            encoder = torch.nn.Sequential(*list(slim.children())[:2])
            with tempfile.TemporaryDirectory() as folder:
                path = export(encoder, None, found.points[:2], Path(folder) / "encoder.onnx")
                columns = run(path.read_bytes(), found.points).shape[1]
            hits += columns == REDUCTIONS[kind].dims
            print(f"{kind:10} {seed:4} {REDUCTIONS[kind].dims:4} {found.kept:4} {columns:12} {found.error:9.5f} "
                  f"{time.time() - start:7.1f}", flush=True)  # fmt: skip
        print(f"{kind}: right in {hits} of {seeds} seeds")


def lenet(data: str | None, methods: list[str], parameters: float, epochs: int, seeds: int) -> None:
    """LeNet-300-100: kept units and error, each as the papers give it (best) and as it is (final)."""
    samples = load_classes(data)
    print(f"{'method':13} {'seed':>4} {'kept':>12} {'final %':>8} {'best %':>7} {'slim ONNX %':>11} {'parameters':>10} "
          f"{'seconds':>7}")  # fmt: skip
    for method in methods:
        errors = []
        for seed in range(seeds):
            start = time.time()
            got = train_lenet(samples, method=method, target={"parameters": parameters}, epochs=epochs, seed=seed)
            with tempfile.TemporaryDirectory() as folder:
                masked = onnx.load(export(got.network, got.gates, samples.x_test[:2], Path(folder) / "masked.onnx"))
            slim, _ = onnxdam.slim(masked)
            wrong = (run(slim.SerializeToString(), samples.x_test).argmax(1) != samples.y_test.numpy()).mean() * 100
            errors.append(got.error)
            print(f"{method:13} {seed:4} {'-'.join(map(str, got.kept)):>12} {got.error:8.2f} {got.best_error:7.2f} "
                  f"{wrong:11.2f} {count(slim).parameters:10,} {time.time() - start:7.1f}", flush=True)  # fmt: skip
        spread = statistics.stdev(errors) if seeds > 1 else 0.0
        print(f"{method}: final error {statistics.mean(errors):.2f} +- {spread:.2f} % over {seeds} seeds")
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
    first.add_argument("--kinds", nargs="+", default=["linear"], choices=list(REDUCTIONS))
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
