"""May requests of different callers share one run? Only where no row of a result depends on another row.

Triton joins requests along the first axis of every input and cuts every output apart along its first axis. That is
right where all of them have that axis, it is the same one, and row i of the outputs is a function of row i of the
inputs. The first two are read off the signature; the last is measured, because exporters call an axis dynamic that the
model adds over, sorts along or walks through step by step:

1. outputs have as many rows as the batch, at two sizes of it;
2. a row comes out the same when the other rows change. The batch is as large as before, so the same kernels run in the
   same order, and even ill-conditioned models and ties give no excuse;
3. a row comes out the same alone. Here kernels differ with the size, so rounding is allowed for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from onnxdam import inputs as feeds
from onnxdam import tolerance
from onnxdam.deploy.ports import Port, Signature
from onnxdam.deploy.trial import Refused, Trial
from onnxdam.errors import UnsupportedError
from onnxdam.verify import CHEAP, NOISE_CAP, Noise

ROWS, MORE = 3, 4


def obstacle(signature: Signature) -> str | None:
    """What in the signature forbids batching, naming the tensor; None if nothing does."""
    for port in signature.ports:
        if not port.dims:
            return f"{port.title} is a single number, it has no batch axis"
        if isinstance(port.dims[0], int):
            return f"{port.title} has the fixed size {port.dims[0]} on its first axis"
    named: dict[int | str, Port] = {}
    for port in signature.inputs:
        if port.dims[0]:
            named.setdefault(port.dims[0], port)
    if len(named) > 1:
        (one, a), (two, b) = list(named.items())[:2]
        return f"{a.title} starts with {one!r}, but {b.title} with {two!r}: these are not the same batch"
    for port in signature.ports:
        if set(port.dims[1:]) & set(named):
            return f"{port.title} has the batch {port.dims[0]!r} on a second axis, which requests cannot share"
    return None


def mixing(trial: Trial, signature: Signature, kinds: set[str]) -> str | None:
    """What running the model says against batching, naming the tensor; None if rows are independent.

    Args:
        trial: the model.
        signature: its own.
        kinds: the float types that it computes in.
    """
    try:
        sizes, small = trial.accepted(batch=1)
    except UnsupportedError as error:
        return f"a batch of one row was not accepted: {error}"
    return next(_Rows(trial, signature, kinds, sizes, small).faults(), None)


@dataclass
class _Rows:
    """Batches of random rows, and what becomes of a row in them."""

    trial: Trial
    signature: Signature
    kinds: set[str]
    sizes: feeds.Sizes
    small: bool

    def faults(self) -> Iterator[str]:
        """What is wrong, in the order in which it shows."""
        try:
            first = self._feed(ROWS, feeds.NORMAL)
            yield from self._among_others(first, seed=1)
            yield from self._alone(first)
            if sum(array.size for array in first.values()) <= CHEAP:  # else a run takes seconds
                yield from self._among_others(self._feed(ROWS, feeds.POSITIVE), seed=2)
                yield from self._follow(self._run(self._feed(MORE, feeds.NORMAL)), MORE)
        except Refused as error:
            yield str(error)

    def _feed(self, rows: int, kind: str, seed: int = 0) -> feeds.Feed:
        sizes = self.sizes | dict.fromkeys(self.trial.first, rows)
        return feeds.random_feed(self.trial.inputs, sizes, kind, seed, self.small)

    def _run(self, feed: feeds.Feed) -> list[np.ndarray]:
        try:
            return self.trial.run(feed)
        except Refused as error:
            rows = len(next(iter(feed.values())))
            raise Refused(f"ONNX Runtime refuses a batch of {rows} rows ({error})") from None

    def _follow(self, results: list[np.ndarray], rows: int) -> Iterator[str]:
        """Outputs that do not have a row for every row of the batch."""
        for port, result in zip(self.signature.outputs, results, strict=True):
            if result.ndim == 0 or len(result) != rows:
                yield f"{port.title} has shape {list(result.shape)} for a batch of {rows}, it does not follow the batch"

    def _among_others(self, feed: feeds.Feed, seed: int) -> Iterator[str]:
        """Outputs whose first or last row changes with the other rows."""
        results = self._run(feed)
        yield from self._follow(results, ROWS)
        base = tolerance.rtol(self.kinds)
        for row in (0, ROWS - 1):
            others = self._feed(ROWS, feeds.NORMAL, seed)
            for name, array in others.items():
                array[row] = feed[name][row]
            for port, before, after in zip(self.signature.outputs, results, self._run(others), strict=True):
                difference = tolerance.difference(before[row], after[row])
                if difference.error > base:
                    yield f"{port.title} mixes the rows of a batch: a row changes with the others ({_size(difference)})"

    def _alone(self, feed: feeds.Feed) -> Iterator[str]:
        """Outputs that have another row where it comes alone."""
        results = self._run(feed)
        names = [port.name for port in self.signature.outputs]
        for row in range(ROWS):
            one = {name: array[row : row + 1] for name, array in feed.items()}
            alone = self._run(one)
            yield from self._follow(alone, 1)
            noise = None
            for index, (port, all_) in enumerate(zip(self.signature.outputs, results, strict=True)):
                difference = tolerance.difference(alone[index], all_[row : row + 1])
                if difference.error <= NOISE_CAP:
                    continue
                noise = noise or Noise.of(self.trial.session, [], names, one, alone, self.kinds)
                if not noise.explains(index, difference, alone[index]):
                    yield f"{port.title} depends on the size of the batch: a row is another alone ({_size(difference)})"


def _size(difference: tolerance.Difference) -> str:
    return difference.why or f"off by {difference.error:.0e} of its size"
