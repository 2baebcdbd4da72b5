"""Are two models the same function? Checked in ONNX Runtime, the way they will be run.

Reference a and candidate b run side by side, graph optimisations off and on, at two or more sizes of every dynamic
dimension, on random inputs or the user's. A result passes

1. when its error is below the base tolerance (`onnxdam.tolerance`), or
2. when the reference itself is no steadier: its inputs are moved by a few units in the last place, and b may be apart
   from a by NOISE_FACTOR times what that does to a (never by more than NOISE_CAP). Integer results (argmax, TopK
   indices, quantised values) may differ only at entries that changed under such a nudge: ties that rounding decides.
3. An output of Sigmoid, Tanh or Erf is exact to rounding at 1 (6e-8 in float32), however small it is: the runtime
   evaluates a polynomial of that accuracy. It may be off by GRAINS such roundings.

Where b takes fewer features than a, as its manifest says, it is fed those that it takes; and a must give the same when
every feature that left is replaced by noise, which proves that nobody reads it.

A run that fails, or that could not be made, is never counted as a pass.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxdam import inputs as feeds
from onnxdam import saturation, tolerance
from onnxdam.divergence import Divergence, first_divergence
from onnxdam.errors import InputError, UnsupportedError
from onnxdam.features import Manifest
from onnxdam.graph import io
from onnxdam.interface import AMPLITUDES, Interface, between
from onnxdam.plan import Plan
from onnxdam.providers import Runnable, check_provider, reason, session
from onnxdam.rules.draw import RANDOM

NOISE_FACTOR, NOISE_CAP, NUDGES = 8.0, 1e-2, 8
GRAIN = 8  # units of roundoff at 1: differences below may be excused by noise of any relative size
GRAINS = 2  # units of roundoff at 1: what a saturating operator may be off
SATURATING = {"Sigmoid", "Tanh", "Erf", "HardSigmoid"}
PASSING = {"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Concat", "Slice", "ReduceMean"}
LARGE = 256 << 20  # bytes from which a model is not copied to move its weights
NUDGED_TYPES = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16)
CHEAP = 100_000  # input entries; above that the further kinds of input are left to one size
ATTEMPTS = 60  # sizes tried before giving up on a reference model


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        sizes: of the dynamic dimensions.
        inputs: kind of input: "normal", "positive", "quiet" or "data"; "normal, noise" and so on where the reference is
            held against itself, with noise in the features that left.
        level: graph optimisations "off" or "on".
        error: the worst relative error of all outputs (infinite when they differ in kind).
        allowed: what it was held against.
        passed: whether it counts as equal.
        output: the output that is worst.
        note: why it failed, or why more than the base tolerance was allowed.
    """

    sizes: Mapping[str, int]
    inputs: str
    level: str
    error: float
    allowed: float
    passed: bool
    output: str = ""
    note: str = ""


@dataclass(frozen=True)
class Report:
    """What was checked, and the verdict.

    Attributes:
        passed: every check held, and at least one comparison was made.
        cases: the comparisons.
        failures: checks of the file and its interface that failed.
        notes: what the reader should know (sizes that could not be varied, random operators ...).
        diverging: the first node whose result differs, when a comparison failed and it could be found.
    """

    passed: bool
    cases: tuple[Case, ...] = ()
    failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    diverging: Divergence | None = None

    @property
    def worst(self) -> float:
        """The largest error of all cases."""
        return max((case.error for case in self.cases), default=float("nan"))

    @property
    def text(self) -> str:
        """The verdict in a few lines."""
        lines = [*self.failures]
        wrong = [case for case in self.cases if not case.passed]
        for case in wrong[:3]:
            lines.append(
                f"output {case.output!r} differs: error {case.error:.1e}, allowed {case.allowed:.1e} "
                f"(inputs {case.inputs}, sizes {dict(case.sizes) or 'fixed'}, optimisations {case.level}) {case.note}"
            )
        if self.diverging:
            lines.append(f"first diverging node: {self.diverging.text}")
        if self.cases and not wrong:
            lines.append(f"{len(self.cases)} comparisons, worst relative error {self.worst:.1e}")
        return "\n".join(line.rstrip() for line in (*lines, *(f"note: {note}" for note in self.notes)))

    def to_dict(self) -> dict[str, Any]:
        """For JSON; infinite errors become the text "inf"."""
        data = asdict(self) | {"worst": self.worst}
        data["cases"] = [
            case | {k: str(case[k]) for k in ("error", "allowed") if not np.isfinite(case[k])} for case in data["cases"]
        ]
        if not np.isfinite(data["worst"]):
            data["worst"] = str(data["worst"])
        return data


def verify(
    a: io.AnyModel,
    b: io.AnyModel,
    *,
    data: Mapping[str, np.ndarray] | str | Path | None = None,
    provider: str = "cpu",
    rtol: float | None = None,
    seed: int = 0,
    plan: Plan | None = None,
    manifest: Manifest | None = None,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Checks that `b` computes what `a` computes.

    Args:
        a: the reference.
        b: the model to check.
        data: input name -> array of rows, or an .npz file of them; random inputs otherwise.
        provider: "cpu", "cuda" or "tensorrt".
        rtol: relative tolerance, taken as it is; None for the default of the model's float types, with the allowance
            for ill-conditioned models described above.
        seed: of the random inputs.
        plan: the plan that made `b` from `a`; lets a diverging node be found where tensors became narrower.
        manifest: says which features of `a` the model `b` takes; None: that of `b`, if it has one.
        progress: called with a short text before each step.

    Returns:
        The report. A model that differs is a report that did not pass, not an exception.

    Raises:
        InputError: a file or the data cannot be used, the provider is not available, or the manifest belongs to others.
        UnsupportedError: ONNX Runtime cannot load or run the reference, so nothing can be said.
    """
    check_provider(provider)
    if rtol is not None and not (math.isfinite(rtol) and rtol >= 0):
        raise InputError(f"rtol: {rtol} is not a number from 0 on")
    if seed < 0:
        raise InputError(f"seed: {seed} is negative")
    say = progress or (lambda text: None)
    first, second = Runnable.of(a, "the reference"), Runnable.of(b, "the checked model")
    say("checking the file")
    failures, notes = _check_file(first, second)
    interface, changed = between(first, second, a, manifest)
    failures += changed
    if failures:
        return Report(False, failures=tuple(failures), notes=tuple(notes))
    comparison = _Comparison(first, second, provider, rtol, seed, plan, say, notes, interface)
    return comparison.run(data)


# ---------------------------------------------------------------------------------------------------- the file


def _check_file(a: Runnable, b: Runnable) -> tuple[list[str], list[str]]:
    """onnx.checker with shape inference on b; what the reference fails in the same way is only a note."""
    complaint = _full_check(b)
    if complaint is None:
        return [], []
    if _full_check(a) is not None:
        return [], [f"onnx.checker refuses both models: {complaint}"]
    return [f"onnx.checker: {complaint}"], []


def _full_check(model: Runnable) -> str | None:
    try:
        if model.path is not None and model.data is None:
            onnx.checker.check_model(str(model.path), full_check=True)
        else:
            onnx.checker.check_model(model.data or b"", full_check=True)
    except Exception as error:
        return reason(error)
    return None


# ------------------------------------------------------------------------------------------------- the function


@dataclass
class _Comparison:
    """One call of `verify` after the static checks."""

    a: Runnable
    b: Runnable
    provider: str
    rtol: float | None
    seed: int
    plan: Plan | None
    say: Callable[[str], None]
    notes: list[str]
    interface: Interface | None
    cases: list[Case] = field(default_factory=list)
    _opened: dict[str, list[Any]] = field(default_factory=dict)
    unsteady: float = 0.0  # the most that rounding moved the reference where that had to excuse a difference
    small: bool = False  # the reference takes 0 and 1 only where it takes integers
    failing: tuple[feeds.Feed, str] | None = None  # the first feed that shows a difference, and its level

    def run(self, data: Mapping[str, np.ndarray] | str | Path | None) -> Report:
        self.kinds = float_kinds(self.a.skeleton)
        self.base = self.rtol if self.rtol is not None else tolerance.rtol(self.kinds)
        self.outputs = [value.name for value in self.a.skeleton.graph.output]
        self.say("opening the reference")
        self.reference = session(self.a, provider=self.provider, level="off", exact=True)
        if saturation.saturates(self.a.skeleton, fused=True):
            self.notes.append(
                "8-bit products saturate on this processor; compared without that, outputs in use may differ"
            )
        described = feeds.describe(self.a.skeleton)
        if data is None:
            batches = [(sizes, kind, feed) for sizes, kind, feed in self._random(described)]
        else:
            batches = [(sizes, "data", feed) for sizes, feed in feeds.from_data(described, data)]
        self.described = described
        self._skip_random_outputs(batches[0][2])
        for level in ("off", "on"):
            self._level(level, batches)
        diverging = None
        if self.failing is not None:
            self.say("looking for the first diverging node")
            feed, level = self.failing
            diverging = first_divergence(
                (self.a, feed), (self.b, self._taken(feed)), level, self.plan, self.base, self.provider
            )
        if self.unsteady:
            self.notes.append(f"ill-conditioned: rounding moves the reference itself by {self.unsteady:.1e}")
        passed = bool(self.cases) and all(case.passed for case in self.cases)
        return Report(passed, tuple(self.cases), (), tuple(dict.fromkeys(self.notes)), diverging)

    def _random(self, described: list[feeds.Input]) -> Iterator[tuple[feeds.Sizes, str, feeds.Feed]]:
        """Feeds that the reference accepts, two sizes of every dynamic dimension where it takes two."""
        self.say("finding inputs that the reference takes")
        small, start, problem = False, None, ""
        for sizes in feeds.candidates(described):
            for small in (False, True):
                problem = self._refuses(feeds.random_feed(described, sizes, feeds.NORMAL, self.seed, small)) or ""
                if not problem:
                    start, self.small = sizes, small
                    break
            if start is not None:
                break
        if start is None:
            raise UnsupportedError(
                f"{self.a.name}: ONNX Runtime refuses all random inputs that were tried (last: {problem}); "
                "give real ones with --data, or go without the check with --no-verify"
            )
        chosen, seen = [start], {name: {size} for name, size in start.items()}
        for sizes in list(feeds.variations(start, described))[:ATTEMPTS]:
            if all(len(s) > 1 for s in seen.values()):
                break
            if not any(len(seen[n]) < 2 and sizes[n] not in seen[n] for n in seen):
                continue
            if not self._refuses(feeds.random_feed(described, sizes, feeds.NORMAL, self.seed, small)):
                chosen.append(sizes)
                for name, size in sizes.items():
                    seen[name].add(size)
        stuck = [f"{name} = {next(iter(s))}" for name, s in seen.items() if len(s) < 2]
        if stuck:
            self.notes.append(f"only one size tried, the reference refused the others: {', '.join(stuck)}")
        floats = any(np.dtype(i.dtype).kind == "f" for i in described if i.dtype != "object")
        for number, sizes in enumerate(chosen):
            kinds = (feeds.NORMAL, feeds.POSITIVE, feeds.QUIET) if floats else (feeds.NORMAL,)
            for kind in kinds:
                feed = feeds.random_feed(described, sizes, kind, self.seed + number, small)
                if kind == feeds.NORMAL or _volume(feed) <= CHEAP or (number == 0 and kind == feeds.POSITIVE):
                    yield sizes, kind, feed

    def _refuses(self, feed: feeds.Feed) -> str | None:
        try:
            self.reference.run(None, feed)
        except Exception as error:  # the runtime's exceptions share no base class
            return reason(error)
        return None

    def _skip_random_outputs(self, feed: feeds.Feed) -> None:
        """Outputs that change from run to run cannot be compared."""
        nodes = {node.op_type for node in self.a.skeleton.graph.node}
        found = sorted(nodes & set(RANDOM)) + ["Dropout"] * _trains(self.a.skeleton)
        if not found:
            return
        runs = [self.reference.run(None, feed) for _ in range(2)]
        drawn = {n for n, x, y in zip(self.outputs, *runs, strict=True) if tolerance.difference(x, y).error > 0}
        if drawn == set(self.outputs):
            raise UnsupportedError(f"{self.a.name}: every output is random ({', '.join(found)}), nothing to compare")
        self.outputs = [name for name in self.outputs if name not in drawn]
        if drawn:
            self.notes.append(f"not compared, random ({', '.join(found)}): {', '.join(sorted(drawn))}")

    def _level(self, level: str, batches: list[tuple[feeds.Sizes, str, feeds.Feed]]) -> None:
        self.say(f"comparing, optimisations {level}")
        if level != "off":
            try:
                self.reference = session(self.a, provider=self.provider, level=level, exact=True)
            except UnsupportedError as error:  # the optimiser's fault, not the model's
                self.notes.append(f"optimisations {level}: not compared ({error})")
                return
        try:
            candidate = session(self.b, provider=self.provider, level=level, exact=True)
        except UnsupportedError as error:
            self.cases.append(Case({}, "", level, float("inf"), self.base, False, "", str(error)))
            return
        taken = {value.name for value in candidate.get_inputs()}
        for number, (sizes, kind, feed) in enumerate(batches):
            expected = self._expected(feed, kind, level)
            if expected is None:
                continue
            case = self._case(candidate, Case(sizes, kind, level, 0.0, self.base, True), feed, expected, taken)
            self.cases.append(case)
            if not case.passed and (self.failing is None or _volume(feed) < _volume(self.failing[0])):
                self.failing = (feed, level)  # the smallest: every intermediate result of it will be looked at
            if self.interface is not None and self.interface.manifest.shrinks:
                case = Case(sizes, f"{kind}, noise", level, 0.0, self.base, True)
                self.cases.append(self._unread(self.interface, case, feed, expected, number))

    def _expected(self, feed: feeds.Feed, kind: str, level: str) -> list[Any] | None:
        """What the reference gives, None where that is nothing to compare with."""
        try:
            expected: list[Any] = self.reference.run(self.outputs, feed)
        except Exception as error:
            self.notes.append(f"optimisations {level}, inputs {kind}: the reference does not run ({reason(error)})")
            return None
        if kind == feeds.POSITIVE and not all(_finite(x) for x in expected):
            self.notes.append("positive inputs overflow the reference; not compared")
            return None
        return expected

    def _taken(self, feed: feeds.Feed) -> feeds.Feed:
        return feed if self.interface is None else self.interface.feed(feed)

    def _unread(self, interface: Interface, case: Case, feed: feeds.Feed, expected: list[Any], number: int) -> Case:
        """The reference against itself, with noise in the features that left."""
        got: list[Any] = []
        for amplitude in (*AMPLITUDES[number % len(AMPLITUDES) :], 1.0):
            noisy = interface.noisy(feed, self.described, case.sizes, self.seed + 1000 + number, amplitude, self.small)
            try:
                got = self.reference.run(self.outputs, noisy)
            except Exception as error:  # a code that it does not know, say
                return self._swapped(interface, case, feed, expected, reason(error))
            if all(map(_finite, got)):
                break
        return self._compared(case, feed, expected, got)

    def _swapped(self, interface: Interface, case: Case, feed: feeds.Feed, expected: list[Any], why: str) -> Case:
        """The reference against itself, with other rows in the features that left."""
        self.notes.append(f"noise in what left stops the reference ({why}); rows were swapped instead")
        try:
            got = self.reference.run(self.outputs, interface.swapped(feed))
        except Exception as error:
            why = f"other rows in what left stop the reference: {reason(error)}"
            return replace(case, error=float("inf"), passed=False, note=why)
        return self._compared(case, feed, expected, got)

    def _case(self, candidate: Any, case: Case, feed: feeds.Feed, expected: list[Any], taken: set[str]) -> Case:
        try:
            chosen = {name: array for name, array in self._taken(feed).items() if name in taken}
            got = candidate.run(self.outputs, chosen)
            if self.interface is not None:
                got = self.interface.results(self.outputs, got)
        except Exception as error:
            return replace(case, error=float("inf"), passed=False, note=f"it does not run: {reason(error)}")
        return self._compared(case, feed, expected, got)

    def _compared(self, case: Case, feed: feeds.Feed, expected: list[Any], got: list[Any]) -> Case:
        found = [tolerance.difference(x, y) for x, y in zip(expected, got, strict=True)]
        worst = max(range(len(found)), key=lambda i: found[i].error)
        case = replace(case, error=found[worst].error, output=self.outputs[worst])
        if case.error <= self.base:
            return case
        return self._excuse(case, feed, expected, found)

    def _siblings(self, level: str) -> list[Any]:
        if level not in self._opened:
            self._opened[level] = siblings(self.a, self.kinds, level, self.provider)
        return self._opened[level]

    def _grain(self, name: str, difference: tolerance.Difference, eps: float) -> bool:
        """Whether the output saturates, and the difference is a rounding at 1."""
        return difference.apart <= GRAINS * eps and saturates(self.a.skeleton.graph, name)

    def _excuse(self, case: Case, feed: feeds.Feed, expected: list[Any], found: list[tolerance.Difference]) -> Case:
        """Beyond the base tolerance: is the reference itself as unsteady?"""
        noise = None
        if self.rtol is None:
            noise = Noise.of(self.reference, self._siblings(case.level), self.outputs, feed, expected, self.kinds)
        for name, difference, index in zip(self.outputs, found, range(len(found)), strict=True):
            allowed = self.base if noise is None else max(self.base, noise.allowed(index, difference))
            if difference.error <= allowed or (noise is not None and self._grain(name, difference, noise.eps)):
                continue
            if noise is not None and noise.explains(index, difference, expected[index]):
                continue
            return Case(case.sizes, case.inputs, case.level, difference.error, allowed, False, name, difference.why)
        allowed = max(self.base, *(noise.allowed(i, d) for i, d in enumerate(found))) if noise else self.base
        error = max((d.error for d in found if np.isfinite(d.error)), default=0.0)
        if allowed <= self.base < error:
            note = "rounding at 1 of a saturating operator"
        elif error <= self.base:
            note = "differs only where rounding decides in the reference itself (ties)"
            self.notes.append(note)
        else:
            note = f"rounding moves the reference itself by {allowed / NOISE_FACTOR:.1e}"
            self.unsteady = max(self.unsteady, allowed / NOISE_FACTOR)
        return Case(case.sizes, case.inputs, case.level, error, allowed, True, case.output, note)


def siblings(model: Runnable, kinds: set[str], level: str, provider: str = "cpu") -> list[Any]:
    """Sessions of the model at the other level of optimisation, and with weights moved in their last places."""
    other = "on" if level == "off" else "off"
    models = [(model, other)] + [(m, level) for seed in range(2) if (m := _nudged(model, kinds, seed)) is not None]
    opened = []
    for variant, at in models:
        with contextlib.suppress(UnsupportedError):
            opened.append(session(variant, provider=provider, level=at, exact=True))
    return opened


def _nudged(model: Runnable, kinds: set[str], seed: int) -> Runnable | None:
    """The model with moved weights; None where they are too large to copy or not in the file itself."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.skeleton)
    if proto.ByteSize() > LARGE:
        return None
    rng = np.random.default_rng(seed)
    eps = max((tolerance.EPS[kind] for kind in kinds if kind in tolerance.EPS), default=1.2e-7)
    for tensor in proto.graph.initializer:
        if tensor.data_type in NUDGED_TYPES and tensor.data_location != onnx.TensorProto.EXTERNAL:
            array = onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(_nudge(array, eps / 4, rng), tensor.name))
    return model.changed(proto)


@dataclass
class Noise:
    """What rounding-sized changes of its inputs, its weights and its order of additions do to the reference."""

    eps: float
    errors: list[float]
    unsteady: list[np.ndarray | None]

    @classmethod
    def of(
        cls, reference: Any, siblings: list[Any], outputs: list[str], feed: feeds.Feed, expected: list[Any],
        kinds: set[str],
    ) -> Noise:  # fmt: skip
        eps = max((tolerance.EPS[kind] for kind in kinds if kind in tolerance.EPS), default=1.2e-7)
        errors, unsteady = [0.0] * len(outputs), [None] * len(outputs)  # type: list[float], list[Any]
        rng = np.random.default_rng(0)
        runs = [(reference, {name: _nudge(array, eps, rng) for name, array in feed.items()}) for _ in range(NUDGES)]
        for session_, nudged in [*runs, *((sibling, feed) for sibling in siblings)]:
            try:
                results = session_.run(outputs, nudged)
            except Exception:
                continue
            for index, (x, y) in enumerate(zip(expected, results, strict=True)):
                difference = tolerance.difference(x, y)
                if np.isfinite(difference.error):
                    errors[index] = max(errors[index], difference.error)
                elif difference.where is not None:
                    before = unsteady[index]
                    unsteady[index] = difference.where if before is None else before | difference.where
        return cls(eps, errors, unsteady)

    def allowed(self, index: int, difference: tolerance.Difference) -> float:
        """The relative error that the unsteadiness of this output excuses."""
        cap = float("inf") if difference.apart <= GRAIN * self.eps else NOISE_CAP
        return min(cap, NOISE_FACTOR * self.errors[index])

    def explains(self, index: int, difference: tolerance.Difference, expected: Any) -> bool:
        """Entries that differ in kind are ties: each of them changed under a nudge as well.

        A number that became infinite or none is never a tie.
        """
        where, unsteady = difference.where, self.unsteady[index]
        if where is None or unsteady is None:
            return False
        if isinstance(expected, np.ndarray) and expected.dtype.kind == "f" and np.isfinite(expected[where]).any():
            return False
        return not (where & ~unsteady).any()


def _nudge(array: np.ndarray, eps: float, rng: np.random.Generator) -> np.ndarray:
    """Floats moved by up to four units in the last place, everything else as it is."""
    if array.dtype.kind != "f":
        return array
    factor = 1 + eps * rng.uniform(-4, 4, array.shape)
    return np.asarray(array.astype(np.float64) * factor).astype(array.dtype)


def saturates(graph: onnx.GraphProto, name: str, outer: Mapping[str, onnx.NodeProto] | None = None) -> bool:
    """Whether a value is made of results of saturating operators and nothing else (in every branch of an If)."""
    makers = dict(outer or {}) | {output: node for node in graph.node for output in node.output}
    todo = [name]
    while todo:
        value = todo.pop()
        if value not in makers:
            return False
        node = makers[value]
        if node.op_type in PASSING:
            todo += node.input if node.op_type == "Concat" else node.input[:1]
        elif node.op_type == "If":
            index = list(node.output).index(value)
            if not all(saturates(a.g, a.g.output[index].name, makers) for a in node.attribute):
                return False
        elif node.op_type not in SATURATING:
            return False
    return True


def _volume(feed: feeds.Feed) -> int:
    return sum(array.size for array in feed.values())


def _finite(array: Any) -> bool:
    return not (isinstance(array, np.ndarray) and array.dtype.kind == "f") or bool(np.isfinite(array).all())


def float_kinds(proto: onnx.ModelProto) -> set[str]:
    """The float types that a model computes in, as far as its weights, interface and casts tell."""
    found: set[int] = set()
    todo = [proto.graph]
    nodes = [node for function in proto.functions for node in function.node]
    while todo or nodes:
        if todo:
            graph = todo.pop()
            found |= {tensor.data_type for tensor in graph.initializer}
            found |= {v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)}
            nodes += graph.node
        for node in nodes:
            for attribute in node.attribute:
                todo += [g for g in (attribute.g, *attribute.graphs) if g.node or g.initializer]
                if attribute.HasField("t"):
                    found.add(attribute.t.data_type)
                if node.op_type == "Cast" and attribute.name == "to":
                    found.add(attribute.i)
        nodes = []
    names = {1: "float32", 10: "float16", 11: "float64", 16: "bfloat16"}
    return {names[code] for code in found if code in names}


def _trains(proto: onnx.ModelProto) -> bool:
    """A Dropout with the training_mode input may draw."""
    return any(node.op_type == "Dropout" and len(node.input) > 2 and node.input[2] for node in proto.graph.node)
