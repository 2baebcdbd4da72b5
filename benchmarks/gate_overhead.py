"""What gates cost a training step: the same network with and without them, step by step in turn.

    python benchmarks/gate_overhead.py --methods dam hardconcrete --phases ramp hard --rounds 60

A step is forward, loss with penalty, backward, optimiser and `gates.step()`. Phases: gates frozen (cold), learning
(ramp), binary (hard). Given is the median over rounds of the ratio gated / plain, in processor time and in wall time;
the steps of a round follow each other, in changing order.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import Tensor, nn

from onnxdam.masks import Schedule, attach

Step = Callable[[], None]


class Transformer(nn.Module):
    """Four pre-norm layers of width 128."""

    def __init__(self, width: int = 128, depth: int = 4, classes: int = 10) -> None:
        super().__init__()
        self.embed = nn.Linear(32, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


class Block(nn.Module):
    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.proj(y.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class Basic(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1:
            self.shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))


def resnet18(*, small: bool = False) -> nn.Module:
    """`small`: the form for small images, without stride in the stem, so that maps stay large."""
    stem = [nn.Conv2d(3, 64, 3, 1, 1, bias=False)] if small else [nn.Conv2d(3, 64, 7, 2, 3, bias=False)]
    pool = [] if small else [nn.MaxPool2d(3, 2, 1)]
    blocks = [Basic(64, 64, 1), Basic(64, 64, 1)]
    for width in (128, 256, 512):
        blocks += [Basic(width // 2, width, 2), Basic(width, width, 1)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10)]
    return nn.Sequential(*stem, nn.BatchNorm2d(64), nn.ReLU(), *pool, *blocks, *head)


def lenet() -> nn.Module:
    return nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))


def convnet() -> nn.Module:
    """Four convolutions of 32 to 64 channels, for small images."""
    layers: list[nn.Module] = []
    for before, width, stride in ((3, 32, 1), (32, 32, 2), (32, 64, 1), (64, 64, 2)):
        layers += [nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


PHASES = {
    "cold": Schedule(10**6, cold=0.9, ramp=0.99, harden=None),
    "ramp": Schedule(10**6, cold=0, ramp=0.99, harden=None),
    "hard": Schedule(10**6, cold=0, ramp=0.99, harden=None),
}
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "LeNet-300-100": (lenet, (128, 784)),
    "four convolutions": (convnet, (8, 3, 32, 32)),
    "ResNet-18": (resnet18, (32, 3, 32, 32)),
    "ResNet-18, stride-1 stem": (partial(resnet18, small=True), (8, 3, 32, 32)),
    "transformer 4x128": (Transformer, (16, 64, 32)),
}


def steps(name: str, method: str, optimiser: str, phase: str) -> tuple[Step, Step]:
    """A training step of the plain and of the gated network."""
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    plain = make().train()
    gated = copy.deepcopy(plain)
    x, y = torch.randn(shape), torch.randint(10, shape[:1])
    gates = attach(gated, x[:2], method=method, target={"macs": 0.5}, schedule=PHASES[phase])
    kinds = {"adam": lambda p: torch.optim.Adam(p, 1e-4), "sgd": lambda p: torch.optim.SGD(p, 1e-3, momentum=0.9)}
    first, second = kinds[optimiser](plain.parameters()), kinds[optimiser](gated.parameters())

    def without() -> None:
        first.zero_grad()
        nn.functional.cross_entropy(plain(x), y).backward()
        first.step()

    def with_() -> None:
        second.zero_grad()
        (nn.functional.cross_entropy(gated(x), y) + gates.penalty()).backward()
        second.step()
        gates.step(1e-4)

    if phase == "hard":
        with_()  # so that no second moment of the optimiser is exactly zero: its root takes several times as long
        gates.harden()
    return without, with_


def compare(plain: Step, gated: Step, rounds: int, batch: int) -> tuple[float, np.ndarray]:
    """Seconds of a plain step, and the ratios of every round [processor, wall]."""
    for _ in range(5):
        plain()
        gated()
    found, base = [], []
    for number in range(rounds):
        taken: dict[Step, tuple[float, float]] = {}
        for step in (plain, gated) if number % 2 else (gated, plain):
            start = time.process_time(), time.perf_counter()
            for _ in range(batch):
                step()
            taken[step] = time.process_time() - start[0], time.perf_counter() - start[1]
        base.append(taken[plain][0] / batch)
        found.append([b / a for a, b in zip(taken[plain], taken[gated], strict=True)])
    return float(np.median(base)), np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--methods", nargs="+", default=["dam"])
    parser.add_argument("--phases", nargs="+", default=["ramp"], choices=list(PHASES))
    parser.add_argument("--optimiser", default="adam", choices=["adam", "sgd"])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    print("| network | batch | method | phase | plain step, ms | gated / plain, processor (quartiles) | wall |")
    print("|---|--:|---|---|--:|--:|--:|")
    for name, method, phase in itertools.product(asked.networks, asked.methods, asked.phases):
        plain, gated = steps(name, method, asked.optimiser, phase)
        base, ratios = compare(plain, gated, asked.rounds, batch=20 if name.startswith("LeNet") else 1)
        low, middle, high = np.percentile(ratios[:, 0], [25, 50, 75])
        where = f"| {name} | {NETWORKS[name][1][0]} | {method} | {phase} | {1000 * base:.2f}"
        print(f"{where} | {middle:.3f} ({low:.3f} to {high:.3f}) | {np.median(ratios[:, 1]):.3f} |", flush=True)


if __name__ == "__main__":
    main()
