"""In which order should DAM close input features? Accuracy at equal numbers of kept inputs, order by order.

    python benchmarks/feature_order.py --data mnist.npz --train 12000 --epochs 10 --keep 20 50 100

index      as the features are numbered (the paper's order of units)
random     drawn once per seed
weights    by the norm of the weights that read a feature, at the end of the cold start
saliency   by the squared slopes of the loss by the masks, summed over the cold start (what `attach` does)

Beside them hard concrete, whose gates have a parameter for every feature. The network has one hidden layer.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import Tensor, nn

from models.recipes.data import Classes, load_classes
from onnxdam.masks import DAM, Schedule, attach
from onnxdam.masks.reading import original

ORDERS = ("index", "random", "weights", "saliency")


def train(data: Classes, order: str, keep: int, *, train: int, epochs: int, hidden: int, seed: int) -> float:
    """Per cent of test samples that are classified wrongly, from `keep` inputs."""
    torch.manual_seed(seed)
    x, y = data.x_train[:train], data.y_train[:train]
    model = nn.Sequential(nn.Linear(data.features, hidden), nn.ReLU(), nn.Linear(hidden, data.classes))
    per_epoch = -(-len(x) // 64)
    schedule = Schedule(epochs * per_epoch, cold=0.2, ramp=0.6, harden=0.7)
    dam = order in ORDERS
    gates = attach(model, x[:2], method="dam" if dam else order, inputs=True, include=["input"], schedule=schedule,
                   target={"channels": keep / data.features},
                   **{"order": "saliency" if order == "saliency" else "index"} if dam else {})  # fmt: skip
    mine = set(gates.parameters())
    weights = [p for p in model.parameters() if p not in mine]
    optimizer = torch.optim.Adam([{"params": weights}, {"params": list(mine), "lr": 1e-2}], 1e-3)
    (gate,) = gates.all
    for _ in range(epochs):
        model.train()
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            (nn.functional.cross_entropy(model(x[rows]), y[rows]) + gates.penalty()).backward()
            optimizer.step()
            cold = gate.cold
            gates.step()
            if isinstance(gate, DAM) and cold and not gate.cold:
                if order == "random":
                    gate.arrange(torch.rand(gate.n))
                elif order == "weights":
                    gate.arrange(original(model, "0.weight").detach().norm(dim=0))
    ((kept, _),) = gates.kept().values()
    assert kept == keep, (kept, keep)
    return wrong(model.eval(), data.x_test, data.y_test)


@torch.no_grad()
def wrong(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return 100 * (model(x).argmax(1) != y).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="an .npz as MNIST; left out: the digits of scikit-learn")
    parser.add_argument("--train", type=int, default=10**9, help="use the first so many training samples")
    parser.add_argument("--keep", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--hidden", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--orders", nargs="+", default=[*ORDERS, "hardconcrete"])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    data, start = load_classes(asked.data), time.time()
    print("| order | " + " | ".join(f"{k} of {data.features}" for k in asked.keep) + " |", flush=True)
    print("|---|" + "--:|" * len(asked.keep))
    for order in asked.orders:
        cells = []
        for keep in asked.keep:
            found = [train(data, order, keep, train=asked.train, epochs=asked.epochs, hidden=asked.hidden, seed=seed)
                     for seed in range(asked.seeds)]  # fmt: skip
            cells.append(f"{np.mean(found):.2f} ± {np.std(found, ddof=1) if len(found) > 1 else 0:.2f}")
        print(f"| {order} | " + " | ".join(cells) + " |", flush=True)
    print(f"\nTest error, per cent, mean and standard deviation over {asked.seeds} seeds; {time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
