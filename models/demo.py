"""The last page of `make demo`: what became of the network, in one table.

    python models/demo.py dense.onnx masked.onnx slim.onnx

All three classify the test digits of scikit-learn. Fails unless masked and slim agree in every single one.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

import onnxdam
from onnxdam.cli import show
from onnxdam.graph.count import count
from onnxdam.recipes import find

COLUMNS = ("dense", "masked", "slim")


def classes(path: str, images: Any) -> Any:
    """The class that a model gives each image."""
    session = ort.InferenceSession(path)
    return session.run(None, {session.get_inputs()[0].name: images})[0].argmax(1)


def main(*paths: str) -> int:
    """Prints the table; the exit status says whether masked and slim agree."""
    data = find("digits").load(None)
    images, truth = data.x_test.numpy(), data.y_test.numpy()
    found = [classes(path, images) for path in paths]
    costs = [count(onnx.load(path)) for path in paths]
    dense, masked, slim = paths
    first, second = onnxdam.bench(dense, slim, seconds=2), onnxdam.bench(masked, slim, seconds=2)

    show.table(
        f"{len(truth)} digits that no training has seen",
        ("", *COLUMNS),
        [
            ("accuracy", *(f"{100 * np.mean(f == truth):.2f} %" for f in found)),
            ("parameters", *(show.number(c.parameters) for c in costs)),
            ("multiply-accumulates", *(show.number(c.macs) for c in costs)),
            ("file", *(show.size(Path(path).stat().st_size) for path in paths)),
            ("latency", *map(show.millis, (first.a, second.a, second.b))),
        ],
    )
    apart = int((found[1] != found[2]).sum())
    show.verdict(not apart, f"masked and slim agree in {len(truth) - apart} of {len(truth)} digits")
    return 1 if apart else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
