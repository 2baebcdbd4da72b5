"""Reproduces experiments of the papers and prints them next to the papers' numbers.

    python benchmarks/papers.py reduction --kinds linear kernel quadratic --seeds 10
    python benchmarks/papers.py lenet --data mnist.npz --methods hardconcrete grouplasso diffprune dam --seeds 5

Every network is exported, slimmed and run: what is printed as kept is counted in the slim file. "chosen" is the test
error of the weights chosen on the validation split, "last" that of the weights after the last step, "best" the lowest
that the test set has seen since all masks were binary, which is what the papers report.
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
from onnxdam.recipes.data import Classes
from onnxdam.recipes.lenet import IN_ROUNDS, Narrowed, in_rounds
from onnxdam.recipes.training import train

LITERATURE = (
    ("SBP", "245-160-55", 1.6),
    ("L0", "266-88-33", 1.6),
    ("VIB", "97-71-33", 1.6),
    ("RigL+", "375-62-51", 1.69),
)
KINDS = ("linear", "kernel", "quadratic")


def reduction(kinds: list[str], seeds: range, steps: int | None) -> None:
    """Dimensions found at the bottleneck."""
    print(f"{'kind':10} {'seed':>4} {'true':>4} {'kept':>4} {'ONNX columns':>12} {'MSE':>9} {'seconds':>7}")
    for kind in kinds:
        recipe: Any = find(f"{kind}-dr")
        hits = 0
        for seed in seeds:
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
        print(f"{kind}: right in {hits} of {len(seeds)} seeds")


def lenet(data: str | None, methods: list[str], keep: list[int], seeds: range) -> None:
    """LeNet-300-100, narrowed in rounds to the widths asked for: what is kept, and the error."""
    recipe = replace(find("lenet-300-100"), **IN_ROUNDS)
    samples = recipe.load(data)
    print(f"{'method':13} {'seed':>4} {'kept':>12} {'chosen %':>8} {'last %':>7} {'best %':>7} {'slim ONNX %':>11} "
          f"{'parameters':>10} {'seconds':>7}")  # fmt: skip
    for method in methods:
        errors = []
        for seed in seeds:
            name = "grouplasso" if method == "surgeon" else method
            got = in_rounds(recipe, samples, keep, method=name, surgeon=method == "surgeon", seed=seed)
            end = got.rounds[-1]
            slim, kept, wrong = slimmed(got, samples)
            errors.append((end.test, end.last, end.best))
            print(f"{method:13} {seed:4} {kept:>12} {end.test:8.2f} {end.last:7.2f} {end.best:7.2f} {wrong:11.2f} "
                  f"{count(slim).parameters:10,} {sum(r.seconds for r in got.rounds):7.1f}", flush=True)  # fmt: skip
        means = ", ".join(
            f"{name} {statistics.mean(e):.2f} +- {statistics.stdev(e) if len(e) > 1 else 0:.2f}"
            for name, e in zip(("chosen", "last", "best"), zip(*errors, strict=True), strict=True)
        )
        print(f"{method}: error % over {len(seeds)} seeds: {means}")
    if data is not None and "mnist" in Path(data).name:
        for name, kept, error in LITERATURE:
            print(f"{name:13} {'':4} {kept:>12} {'':8} {'':7} {error:7.2f}   (literature, MNIST)")


def slimmed(got: Narrowed, samples: Classes) -> tuple[onnx.ModelProto, str, float]:
    """The slim file of LeNet-300-100 with all that the rounds closed as zeros: its widths, and its test error."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "masked.onnx"
        masked = onnx.load(export(got.masked(samples.features), None, (samples.x_test[:2],), path))
    slim, plan = onnxdam.slim(masked, inputs=True)
    assert plan.signature is not None
    (read,) = plan.signature.inputs
    out = run(slim.SerializeToString(), samples.x_test[:, list(read.kept[1])].contiguous())
    weights = sorted((w for w in slim.graph.initializer if len(w.dims) == 2), key=lambda w: w.name)
    return (
        slim,
        "-".join(str(w.dims[1]) for w in weights),
        100 * float((out.argmax(1) != samples.y_test.numpy()).mean()),
    )


def run(model: bytes, x: torch.Tensor) -> np.ndarray:
    """The first output."""
    session = ort.InferenceSession(model)
    return np.asarray(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    first = commands.add_parser("reduction")
    first.add_argument("--kinds", nargs="+", default=["linear"], choices=KINDS)
    first.add_argument("--steps", type=int, help="fewer than the paper's, to try")
    second = commands.add_parser("lenet")
    second.add_argument("--data", help="an .npz as MNIST; left out: the digits of scikit-learn")
    second.add_argument("--methods", nargs="+", default=["hardconcrete"])
    second.add_argument("--keep", nargs=3, type=int, default=[97, 71, 33], help="inputs, h1, h2")
    for one in (first, second):
        one.add_argument("--seeds", type=int, default=1)
        one.add_argument("--first-seed", type=int, default=0)
        one.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    seeds = range(asked.first_seed, asked.first_seed + asked.seeds)
    if asked.command == "reduction":
        reduction(asked.kinds, seeds, asked.steps)
    else:
        lenet(asked.data, asked.methods, asked.keep, seeds)


if __name__ == "__main__":
    main()
