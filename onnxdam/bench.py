"""Which of two models is faster, and is the difference more than noise?

Runs alternate (ABBA ...), so that whatever slows the machine down slows both; inputs and outputs are bound once, so
that copies are not counted. Where a session's weights happen to lie in memory alone makes some 10 % difference, so both
models are opened anew in every round, in changing order. The answer is the median ratio of the rounds with a bootstrap
interval over rounds and runs, and "no significant difference" when that interval contains 1.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from onnxdam import inputs as feeds
from onnxdam.errors import InputError, UnsupportedError
from onnxdam.graph import io
from onnxdam.interface import between
from onnxdam.providers import Runnable, reason, session

RESAMPLES = 2000
WARMUP = 3
ROUNDS = 8


@dataclass(frozen=True)
class BenchResult:
    """Latencies of two models, in seconds.

    Attributes:
        a: median of the first model.
        b: median of the second.
        ratio: b / a; below 1 the second is faster.
        low: lower end of the 95 % bootstrap interval of the ratio.
        high: upper end.
        runs: measurements of each.
        sizes: of the dynamic dimensions.
        provider: where it ran.
        threads: intra-operator threads.
    """

    a: float
    b: float
    ratio: float
    low: float
    high: float
    runs: int
    sizes: Mapping[str, int]
    provider: str
    threads: int

    @property
    def significant(self) -> bool:
        """Whether the interval excludes 1."""
        return self.high < 1 or self.low > 1

    @property
    def verdict(self) -> str:
        """In words."""
        if not self.significant:
            return "no significant difference"
        return f"{1 / self.ratio:.2f} times as fast" if self.ratio < 1 else f"{self.ratio:.2f} times as slow"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"significant": self.significant, "verdict": self.verdict}


def bench(
    a: io.AnyModel,
    b: io.AnyModel,
    *,
    provider: str = "cpu",
    threads: int = 1,
    seconds: float = 5.0,
    sizes: Mapping[str, int] | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> BenchResult:
    """Measures both models, interleaved.

    Args:
        a: the first model.
        b: the second; takes the inputs of the first, or fewer, or those features of them that its manifest names.
        provider: "cpu", "cuda" or "tensorrt".
        threads: intra-operator threads; 0 leaves the choice to ONNX Runtime.
        seconds: how long to measure, about.
        sizes: of dynamic dimensions, by name; others are found by trying (batch 1 first).
        seed: of the inputs and the bootstrap.
        progress: called with a short text before each step.

    Raises:
        InputError: a file cannot be read, the provider is missing, or `sizes` names no dimension of the model.
        UnsupportedError: ONNX Runtime cannot load or run a model.
    """
    if not (math.isfinite(seconds) and seconds > 0):
        raise InputError(f"seconds: {seconds} is not a positive number")
    if seed < 0 or threads < 0:
        raise InputError(f"seed {seed}, threads {threads}: must not be negative")
    say = progress or (lambda text: None)
    say("opening both models")
    models = Runnable.of(a, "the first model"), Runnable.of(b, "the second model")
    described = feeds.describe(models[0].skeleton)
    chosen, feed = _feed(session(models[0], provider=provider, threads=threads), described, sizes or {}, seed)
    interface, _ = between(*models, a)
    taken = (feed, feed if interface is None else interface.feed(feed))
    rounds = []
    for number in range(ROUNDS):
        say(f"measuring, round {number + 1} of {ROUNDS}")
        order = (0, 1) if number % 2 == 0 else (1, 0)
        opened = {i: session(models[i], provider=provider, threads=threads) for i in order}
        runs = [_bound(opened[i], taken[i], provider, models[i].name) for i in (0, 1)]
        rounds.append(_interleaved(runs, order, seconds / ROUNDS))
    ratio, low, high = ratio_interval(rounds, seed)
    first, second = (float(np.median(np.concatenate([r[i] for r in rounds]))) for i in (0, 1))
    measured = sum(len(r[0]) for r in rounds)
    return BenchResult(first, second, ratio, low, high, measured, chosen, provider, threads)


def _feed(
    opened: Any, described: list[feeds.Input], sizes: Mapping[str, int], seed: int
) -> tuple[feeds.Sizes, feeds.Feed]:
    known = {dim for item in described for dim in item.dims if isinstance(dim, str)}
    unknown = sorted(set(sizes) - known)
    if unknown:
        raise InputError(f"no dynamic dimension {unknown[0]!r}; there are: {', '.join(sorted(known)) or 'none'}")
    problem = ""
    for tried in feeds.candidates(described):
        chosen = tried | dict(sizes)
        for small in (False, True):
            feed = feeds.random_feed(described, chosen, feeds.NORMAL, seed, small)
            try:
                opened.run(None, feed)
            except Exception as error:  # the runtime's exceptions share no base class
                problem = reason(error)
            else:
                return chosen, feed
    raise UnsupportedError(f"ONNX Runtime refuses all random inputs that were tried (last: {problem}); give --size")


def _bound(opened: Any, feed: feeds.Feed, provider: str, name: str) -> Callable[[], None]:
    """One run of a model on inputs that lie where the provider wants them."""
    taken = {value.name for value in opened.get_inputs()}
    feed = {key: array for key, array in feed.items() if key in taken}
    try:
        opened.run(None, feed)
        if any(array.dtype.kind in "OSU" for array in feed.values()) or any(
            not value.type.startswith("tensor(") or "string" in value.type for value in opened.get_outputs()
        ):
            return lambda: opened.run(None, feed)  # these cannot be bound
        binding = opened.io_binding()
        import onnxruntime as ort

        device = "cpu" if provider == "cpu" else "cuda"
        for key, array in feed.items():
            binding.bind_ortvalue_input(key, ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), device, 0))
        for value in opened.get_outputs():
            binding.bind_output(value.name, device)
        opened.run_with_iobinding(binding)
    except Exception as error:
        raise UnsupportedError(f"{name}: does not run ({reason(error)})") from None

    def run() -> None:
        opened.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return run


def _interleaved(runs: list[Callable[[], None]], order: tuple[int, ...], seconds: float) -> list[np.ndarray]:
    """Seconds per call of each of the two, measured in the order A B B A; fast calls are timed in batches."""
    for run in runs:
        for _ in range(WARMUP):
            run()
    calls = [max(1, int(1e-3 / max(_time(run, 1), 1e-9))) for run in runs]
    times: list[list[float]] = [[], []]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 6:
        for index in (*order, *reversed(order)):
            times[index].append(_time(runs[index], calls[index]))
    return [np.array(t) for t in times]


def _time(run: Callable[[], None], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def ratio_interval(rounds: list[list[np.ndarray]], seed: int = 0) -> tuple[float, float, float]:
    """Median over rounds of median(b) / median(a), and the 2.5 and 97.5 percentiles of its bootstrap distribution.

    Rounds are drawn with replacement, and within a round neighbouring measurements of a and b together.

    Args:
        rounds: of each round [a, b], both [n] seconds, measured alternately.
        seed: of the resampling.
    """
    rng = np.random.default_rng(seed)
    drawn = np.empty((RESAMPLES, len(rounds)))
    for column, (a, b) in enumerate(rounds):
        picks = rng.integers(0, len(a), (RESAMPLES, len(a)))
        drawn[:, column] = np.median(b[picks], axis=1) / np.median(a[picks], axis=1)
    which = rng.integers(0, len(rounds), drawn.shape)
    low, high = np.percentile(np.median(np.take_along_axis(drawn, which, axis=1), axis=1), [2.5, 97.5])
    ratio = np.median([np.median(b) / np.median(a) for a, b in rounds])
    return float(ratio), float(low), float(high)
