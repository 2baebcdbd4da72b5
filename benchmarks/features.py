"""Input features: found against truth and against other selectors, and what leaving them out saves a server.

    python benchmarks/features.py select --seeds 5
    python benchmarks/features.py serve

`select`: a perceptron with gates on its inputs is trained towards k features, exported, pruned with `--inputs`. Then
the same perceptron, new, is trained on the columns that its manifest keeps, and on those that other selectors choose,
so that only the choice differs. `serve`: one request in ONNX Runtime before and after.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from sklearn import datasets, feature_selection, inspection, linear_model, model_selection, svm
from torch import nn

import onnxdam
from onnxdam import features
from onnxdam.masks import Schedule, attach, export

Array = np.ndarray[Any, np.dtype[Any]]
STEPS, LR, BATCH = 1000, 3e-3, 256
RELEVANT = 10


# --------------------------------------------------------------------------------------------------------------- data


@dataclass(frozen=True)
class Table:
    """One split of a table, standardised by its training rows.

    Attributes:
        name: of the table.
        k: how many features are to be chosen.
        classes: of the target; 0: it is a number.
        decay: weight decay; a few hundred noisy rows want much of it.
        truth: the features that the target depends on, where that is known.
    """

    name: str
    k: int
    classes: int
    x: Array
    y: Array
    x_test: Array
    y_test: Array
    decay: float = 1e-3
    truth: frozenset[int] | None = None

    @property
    def score(self) -> str:
        return "accuracy" if self.classes else "R2"


def synthetic(seed: int, rows: int = 4000, columns: int = 50) -> tuple[Array, Array, frozenset[int]]:
    """Ten of fifty features matter: two by their sign, two squared, a sine, three products of two, one shared."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, columns))
    where = rng.permutation(columns)[:RELEVANT]
    a = x[:, where].T
    signal = (
        a[0]
        - a[1]
        + a[2] ** 2
        - a[3] ** 2
        + 1.5 * np.sin(2 * a[4])
        + 1.5 * a[5] * a[6]
        + 1.5 * a[7] * a[8]
        + a[8] * a[9]
    )
    return x, (signal + 0.3 * rng.standard_normal(rows) > 0).astype(np.int64), frozenset(map(int, where))


NAMES = ("breast cancer", "wine", "digits", "diabetes", "synthetic")


def tables(seed: int) -> Iterator[Table]:
    """All tables, split by this seed."""
    bundled: list[tuple[str, int, Callable[..., Any], int]] = [
        ("breast cancer", 5, datasets.load_breast_cancer, 2),
        ("wine", 4, datasets.load_wine, 3),
        ("digits", 16, datasets.load_digits, 10),
        ("diabetes", 4, datasets.load_diabetes, 0),
    ]
    for name, k, load, classes in bundled:
        x, y = load(return_X_y=True)
        yield _split(name, k, classes, x, y, seed)
    x, y, truth = synthetic(seed)
    yield _split("synthetic", RELEVANT, 2, x, y, seed, truth)


def _split(
    name: str, k: int, classes: int, x: Array, y: Array, seed: int, truth: frozenset[int] | None = None
) -> Table:
    a, b, c, d = model_selection.train_test_split(
        x, y, test_size=0.3, random_state=seed, stratify=y if classes else None
    )
    mean, std = a.mean(0), a.std(0) + 1e-9
    if not classes:
        middle, scale = c.mean(), c.std()
        c, d = (c - middle) / scale, (d - middle) / scale
    a, b = ((part - mean) / std for part in (a, b))
    kind, decay = (np.int64, 1e-3) if classes else (np.float32, 3.0)
    parts = a.astype(np.float32), c.astype(kind), b.astype(np.float32), d.astype(kind)
    return Table(name, k, classes, *parts, decay, truth)


# ----------------------------------------------------------------------------------------------------------- training


def perceptron(inputs: int, outputs: int) -> nn.Sequential:
    """Two hidden layers of 64 and 32."""
    return nn.Sequential(nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, outputs))


def trained(table: Table, columns: list[int], seed: int, method: str | None = None) -> tuple[nn.Sequential, Any]:
    """A perceptron on some columns, with gates on its inputs if a method is given; and the gates."""
    torch.manual_seed(seed)
    net = perceptron(len(columns), max(table.classes, 1))
    x, y = torch.from_numpy(table.x[:, columns]), torch.from_numpy(table.y)
    gates, options = None, [{"params": list(net.parameters()), "weight_decay": table.decay}]
    if method is not None:
        share = {"channels": table.k / len(columns)}
        gates = attach(
            net, x[:2], method=method, inputs=True, include=("input",), target=share, schedule=Schedule(STEPS)
        )
        options.append({"params": list(gates.parameters()), "lr": 10 * LR, "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(options, lr=LR)
    net.train()
    for _ in range(STEPS):
        rows = torch.randint(len(x), (min(BATCH, len(x)),))
        loss = _loss(table, net(x[rows]), y[rows])
        if gates is not None:
            loss = loss + gates.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if gates is not None:
            gates.step(lr=LR)
    return net.eval(), gates


def _loss(table: Table, out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(out, y) if table.classes else nn.functional.mse_loss(out[:, 0], y)


def score(table: Table, out: Array, y: Array) -> float:
    """Accuracy, or R2."""
    return float((out.argmax(1) == y).mean()) if table.classes else float(1 - ((out[:, 0] - y) ** 2).mean() / y.var())


def retrained(table: Table, columns: list[int], seed: int) -> float:
    """Test score of a new perceptron on these columns."""
    net, _ = trained(table, columns, seed + 1000)
    with torch.no_grad():
        return score(table, net(torch.from_numpy(table.x_test[:, columns])).numpy(), table.y_test)


# ---------------------------------------------------------------------------------------------------------- selectors


def by_gates(table: Table, seed: int, method: str) -> list[int]:
    """What the pruned file still takes; and it is checked that it takes it, and answers as the masked network does."""
    net, gates = trained(table, list(range(table.x.shape[1])), seed, method)
    with tempfile.TemporaryDirectory() as folder:
        path = export(net, gates, torch.from_numpy(table.x[:2]), Path(folder) / "masked.onnx")
        slim, _ = onnxdam.slim(onnx.load(path), inputs=True)
    manifest = features.load(slim)
    session = onnxruntime.InferenceSession(slim.SerializeToString(), providers=["CPUExecutionProvider"])
    chosen = features.select(table.x_test, manifest)
    with torch.no_grad():
        wanted = net(torch.from_numpy(table.x_test)).numpy()
    np.testing.assert_allclose(session.run(None, {manifest.inputs[0].name: chosen})[0], wanted, rtol=1e-4, atol=1e-4)
    return sorted(manifest.inputs[0].indices or ())


def by_test(table: Table, seed: int) -> list[int]:
    """SelectKBest with the F test."""
    test = feature_selection.f_classif if table.classes else feature_selection.f_regression
    return _best(feature_selection.SelectKBest(test, k="all").fit(table.x, table.y).scores_, table.k)


def by_information(table: Table, seed: int) -> list[int]:
    """SelectKBest with mutual information."""
    kind = feature_selection.mutual_info_classif if table.classes else feature_selection.mutual_info_regression
    return _best(kind(table.x, table.y, random_state=seed), table.k)


def by_l1(table: Table, seed: int) -> list[int]:
    """The largest coefficients of the first model along the L1 path that has enough of them."""
    for strength in np.geomspace(1e-3, 10, 30):
        model: Any
        if table.classes:
            model = svm.LinearSVC(penalty="l1", dual=False, C=strength, random_state=seed, max_iter=5000)
        else:
            model = linear_model.Lasso(alpha=0.1 / strength)
        size = np.abs(np.atleast_2d(model.fit(table.x, table.y).coef_)).max(0)
        if (size > 0).sum() >= table.k:
            break
    return _best(size, table.k)


class _AsEstimator:
    """A trained network as scikit-learn wants it."""

    def __init__(self, table: Table, net: nn.Module) -> None:
        self.table, self.net = table, net

    def fit(self, x: Array, y: Array) -> _AsEstimator:
        return self

    def score(self, x: Array, y: Array) -> float:
        with torch.no_grad():
            return score(self.table, self.net(torch.from_numpy(np.ascontiguousarray(x))).numpy(), y)


def by_permutation(table: Table, seed: int) -> list[int]:
    """Permutation importance of the dense perceptron, on its training rows."""
    net, _ = trained(table, list(range(table.x.shape[1])), seed)
    found = inspection.permutation_importance(
        _AsEstimator(table, net), table.x, table.y, n_repeats=5, random_state=seed
    )
    return _best(found.importances_mean, table.k)


def at_random(table: Table, seed: int) -> list[int]:
    """Any k features."""
    return sorted(np.random.default_rng(seed).permutation(table.x.shape[1])[: table.k].tolist())


def _best(scores: Array, k: int) -> list[int]:
    return sorted(np.argsort(-scores, kind="stable")[:k].tolist())


SELECTORS: dict[str, Callable[[Table, int], list[int]]] = {
    "all features": lambda table, seed: list(range(table.x.shape[1])),
    "gates: hardconcrete": lambda table, seed: by_gates(table, seed, "hardconcrete"),
    "gates: diffprune": lambda table, seed: by_gates(table, seed, "diffprune"),
    "gates: grouplasso": lambda table, seed: by_gates(table, seed, "grouplasso"),
    "gates: dam": lambda table, seed: by_gates(table, seed, "dam"),
    "SelectKBest, F test": by_test,
    "SelectKBest, mutual information": by_information,
    "L1 model": by_l1,
    "permutation importance": by_permutation,
    "random": at_random,
}


def select(seeds: int, only: list[str], names: list[str]) -> None:
    """Prints the table of test scores, mean and standard deviation over seeds."""
    scores: dict[tuple[str, str], list[float]] = {}
    found: dict[str, list[float]] = {}
    heads: dict[str, str] = {}
    for seed in range(seeds):
        for table in (t for t in tables(seed) if t.name in names):
            heads[table.name] = f"{table.name}: {table.k} of {table.x.shape[1]} ({table.score})"
            for name, selector in SELECTORS.items():
                if only and name not in only:
                    continue
                columns = selector(table, seed)
                reached = retrained(table, columns, seed)
                scores.setdefault((name, table.name), []).append(reached)
                print(f"{seed} {table.name}, {name}: {reached:.3f} {columns}", file=sys.stderr, flush=True)
                if table.truth is not None and name != "all features":
                    found.setdefault(name, []).append(len(table.truth & set(columns)) / len(table.truth))
                    if len(columns) != table.k:
                        print(f"note: {name} kept {len(columns)} of {table.name}, not {table.k}", flush=True)
    print(f"| chosen by | {' | '.join(heads.values())} | relevant found (synthetic) |")
    print(f"|---|{'--:|' * (len(heads) + 1)}")
    for name in SELECTORS:
        if any(key[0] == name for key in scores):
            cells = [_spread(scores[name, table]) for table in heads]
            print(f"| {name} | {' | '.join(cells)} | {_spread(found[name]) if name in found else ''} |", flush=True)


def _spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values) if len(values) > 1 else 0:.3f}"


# ------------------------------------------------------------------------------------------------------------ serving


def pixels_of_an_image() -> tuple[onnx.ModelProto, tuple[int, ...]]:
    """A perceptron on 224x224 colour images that reads every tenth pixel."""
    return _model(
        "(float[N,3,224,224] x) => (float[N,10] y) { f = Flatten(x)  h = MatMul(f, w)  r = Relu(h)  y = MatMul(r, v) }",
        (3, 224, 224),
        w=_masked(_normal(150528, 256), 0),
        v=_normal(256, 10),
    )


def bands_of_an_image() -> tuple[onnx.ModelProto, tuple[int, ...]]:
    """A small convolutional network on images of 200 bands that reads every tenth."""
    text = """(float[N, 200, 64, 64] x) => (float[N, 10] y) {
        a = Conv<pads = [1, 1, 1, 1]>(x, w)  b = Relu(a)  c = Conv<pads = [1, 1, 1, 1]>(b, v)  d = Relu(c)
        e = GlobalAveragePool(d)  f = Flatten(e)  y = MatMul(f, u) }"""
    return _model(text, (200, 64, 64), w=_masked(_normal(32, 200, 3, 3), 1), v=_normal(32, 32, 3, 3), u=_normal(32, 10))


def _model(text: str, shape: tuple[int, ...], **weights: Array) -> tuple[onnx.ModelProto, tuple[int, ...]]:
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> g {text}')
    model.graph.initializer.extend(numpy_helper.from_array(w, name) for name, w in weights.items())
    return model, shape


def _normal(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape, np.float32) / np.float32(np.sqrt(np.prod(shape[1:])))


def _masked(weight: Array, axis: int, every: int = 10) -> Array:
    """Only each tenth slot of an axis is left, at random places."""
    read = np.random.default_rng(1).random(weight.shape[axis]) < 1 / every
    return weight * read.astype(np.float32).reshape([-1 if k == axis else 1 for k in range(weight.ndim)])


def serve(rounds: int) -> None:
    """Prints bytes and latency of one request, before and after, and with the signature kept."""
    heads = "model", "bytes a request", "with --inputs", "file", "slim", "latency", "--inputs", "keep-signature"
    print(f"| {' | '.join(heads)} |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    for make in (pixels_of_an_image, bands_of_an_image):
        model, shape = make()
        x = np.random.default_rng(2).standard_normal((1, *shape), np.float32)
        slim, same = (onnxdam.slim(model, inputs=how)[0] for how in (True, "keep-signature"))
        chosen = features.select(x, features.load(slim))
        pairs = [(_session(m), data) for m, data in ((model, x), (slim, chosen), (same, x))]
        results = [session.run(None, {"x": data})[0] for session, data in pairs]
        for other in results[1:]:
            np.testing.assert_allclose(other, results[0], rtol=1e-3, atol=1e-4)
        before, ratios = _latency(pairs, rounds)
        sizes = [f"{m.ByteSize() / 1e6:.2f} MB" for m in (model, slim)]
        cells = (
            (make.__doc__ or "").rstrip("."),
            f"{x.nbytes:,}",
            f"{chosen.nbytes:,}",
            *sizes,
            f"{before * 1e3:.2f} ms",
            *ratios,
        )
        print(f"| {' | '.join(cells)} |", flush=True)


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _latency(pairs: list[tuple[Any, Array]], rounds: int) -> tuple[float, list[str]]:
    """Median seconds of the first, and for the others the median ratio to it with the middle half; taken in turns.

    Seconds of one thread's processor time: that is the latency of an idle machine, which this need not be.
    """
    seconds: list[list[float]] = [[] for _ in pairs]
    for k in range(rounds + 5):
        for times, (session, data) in zip(seconds, pairs, strict=True):
            start = time.thread_time()
            session.run(None, {"x": data})
            if k >= 5:
                times.append(time.thread_time() - start)
    first = np.array(seconds[0])
    ratios = []
    for other in seconds[1:]:
        low, middle, high = np.percentile(np.array(other) / first, (25, 50, 75))
        ratios.append(f"{middle:.3f} ({low:.3f} to {high:.3f})")
    return float(np.median(first)), ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("select")
    one.add_argument("--seeds", type=int, default=5)
    one.add_argument("--only", nargs="*", default=[], choices=list(SELECTORS))
    one.add_argument("--tables", nargs="*", default=list(NAMES), choices=NAMES)
    two = commands.add_parser("serve")
    two.add_argument("--rounds", type=int, default=200)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if given.command == "select":
        select(given.seeds, given.only, given.tables)
    else:
        serve(given.rounds)


if __name__ == "__main__":
    main()
