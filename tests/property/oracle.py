"""The oracle: two models are the same function when the ONNX reference evaluator says so in float64.

Where a difference shows, it is compared with the noise of the masked model itself: how much its outputs move when every
input and weight moves by 1e-14, and the rounding of the largest value in the graph. A graph that amplifies rounding that much (cancellation, a tie in a sort) cannot tell a
right rewrite from a wrong one, and is reported as ill-conditioned instead of passing silently.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from .builder import all_nodes
from .recurrent import GRU, LSTM, RNN
from .reference_ops import REFERENCE_OPS

Array = np.ndarray[Any, Any]
TOLERANCE = 1e-9
NOISE_STEP = 1e-14
NOISE_FACTOR = 1e3


class Mismatch(AssertionError):
    """The two models differ."""


class IllConditioned(Exception):
    """The model amplifies rounding so much that nothing can be said."""


def evaluate(model: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    """Outputs of the reference evaluator, with complete recurrent cells and its faulty operators replaced."""
    model = without_nameless_outputs(model)
    with np.errstate(all="ignore"):
        return list(_evaluator(model).run(None, feeds))


def _evaluator(model: onnx.ModelProto) -> ReferenceEvaluator:
    return ReferenceEvaluator(model, new_ops=[LSTM, GRU, RNN, *REFERENCE_OPS])


def without_nameless_outputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """The evaluator stores an omitted output under the name "", and then feeds it to every omitted input: give it a
    name.
    """
    if all(all(node.output) for node in all_nodes(model.graph.node)):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for count, node in enumerate(all_nodes(copy.graph.node)):
        for i, name in enumerate(node.output):
            node.output[i] = name or f"_omitted_{count}_{i}"
    return copy


def relative_error(a: Array, b: Array) -> float:
    """Largest difference, relative to the largest finite value of a; infinity where shapes, types or non-finite values
    differ.
    """
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return float("inf")
    if not np.issubdtype(a.dtype, np.floating):
        return 0.0 if np.array_equal(a, b) else float("inf")
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)) or not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return float("inf")
    if not finite.any():
        return 0.0
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(np.max(np.abs(a[finite] - b[finite])) / (np.max(np.abs(a[finite])) + 1e-300)) if a.size else 0.0


@dataclass(frozen=True)
class Comparison:
    """Outcome of one comparison: the largest relative error, and where."""

    error: float
    output: str


def compare(
    masked: onnx.ModelProto, slim: onnx.ModelProto, feeds: dict[str, Array], tolerance: float = TOLERANCE
) -> Comparison:
    """Compares two models on one input.

    Raises:
        Mismatch: they differ beyond the tolerance and beyond the masked model's own noise.
        IllConditioned: they differ beyond the tolerance, but so does the masked model from itself after a change of
        1e-14.
    """
    wanted = evaluate(masked, feeds)
    names = [o.name for o in masked.graph.output]
    kept = {i.name for i in slim.graph.input}
    try:
        found = evaluate(slim, {k: v for k, v in feeds.items() if k in kept})
    except Exception as error:
        raise Mismatch(f"the slim model does not run: {type(error).__name__}: {error}") from error
    if len(found) != len(wanted):
        raise Mismatch(f"{len(found)} outputs instead of {len(wanted)}")
    worst = Comparison(0.0, "")
    for name, a, b in zip(names, wanted, found, strict=False):
        error = relative_error(a, b)
        if error > worst.error:
            worst = Comparison(error, name)
    if worst.error > tolerance:
        noise = max(noise_of(masked, feeds, wanted), rounding_of(masked, feeds, wanted[names.index(worst.output)]))
        shown = "\n".join(
            f"{n}: {np.ravel(a)[:8]} / {np.ravel(b)[:8]}" for n, a, b in zip(names, wanted, found, strict=False)
        )
        text = f"output {worst.output!r}: relative error {worst.error:.3g} (noise {noise:.3g})\nmasked / slim\n{shown}"
        if worst.error <= NOISE_FACTOR * noise and np.isfinite(worst.error):
            raise IllConditioned(text)
        raise Mismatch(text)
    return worst


def noise_of(model: onnx.ModelProto, feeds: dict[str, Array], outputs: list[Array]) -> float:
    """How much the outputs move when every non-zero input and weight moves by NOISE_STEP, relatively; largest of
    three.
    """
    rng, worst = np.random.default_rng(0), 0.0
    for _ in range(3):
        moved = onnx.ModelProto()
        moved.CopyFrom(model)
        for tensor in moved.graph.initializer:
            if tensor.data_type == onnx.TensorProto.DOUBLE:
                array = numpy_helper.to_array(tensor)
                tensor.CopyFrom(numpy_helper.from_array(nudge(array, rng), tensor.name))
        with_noise = {k: nudge(v, rng) if v.dtype == np.float64 else v for k, v in feeds.items()}
        for a, b in zip(outputs, evaluate(moved, with_noise), strict=False):
            error = relative_error(a, b)
            worst = max(worst, error if np.isfinite(error) else 0.0)
    return worst


def rounding_of(model: onnx.ModelProto, feeds: dict[str, Array], output: Array) -> float:
    """Half a unit in the last place of the largest finite value of the main graph, relative to an output.

    x - mean(x) is 0 for equal x, however they move; summed in another order, it is not.
    """
    with np.errstate(all="ignore"):
        values = _evaluator(without_nameless_outputs(model)).run(None, feeds, intermediate=True).values()
    largest = max((_peak(v) for v in values if isinstance(v, np.ndarray)), default=0.0)
    return float(np.finfo(np.float64).eps / 2 * largest / (_peak(output) + 1e-300))


def _peak(a: Array) -> float:
    if not np.issubdtype(a.dtype, np.floating):
        return 0.0
    return float(np.max(np.abs(a), initial=0.0, where=np.isfinite(a)))


def nudge(array: Array, rng: np.random.Generator) -> Array:
    return np.asarray(array * (1 + NOISE_STEP * rng.choice([-1.0, 1.0], array.shape)))
