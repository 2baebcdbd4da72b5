"""The verbs: plan, apply, slim, inspect, explain.

A model is a path, an `onnx.ModelProto` or an `onnx_ir.Model`; it is never modified. What comes back is of the same
kind (a path comes back as an `onnx_ir.Model`).
"""

from __future__ import annotations

import copy
import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict, TypeVar, Union

import onnx
import onnx_ir as ir

from onnxdam import collector
from onnxdam.analysis.explain import Reasons, Step
from onnxdam.analysis.forward import Network
from onnxdam.analysis.need import Need
from onnxdam.analysis.tensor import Axis, Tensor
from onnxdam.analysis.width import fast_multiple
from onnxdam.errors import InputError
from onnxdam.features.manifest import METADATA_KEY, Manifest
from onnxdam.graph import functions, io
from onnxdam.graph.threshold import zero_small
from onnxdam.plan import Plan
from onnxdam.rewrite import signature
from onnxdam.rewrite.flatten import flattened, smallest_inputs
from onnxdam.rewrite.record import record
from onnxdam.rewrite.slim import Slim

Model = Union[str, Path, onnx.ModelProto, ir.Model]
M = TypeVar("M", bound=Model)


class _Allowed(TypedDict):
    """Whether inputs and outputs may shrink."""

    inputs: bool
    outputs: bool


@dataclass(frozen=True)
class Options:
    """What `plan` and `slim` can be asked for; the keyword arguments of both.

    Attributes:
        threshold: weights of at most this magnitude count as zero. Above 0 the result is not exact.
        align: "auto" (by provider), "none" or a number: widths of convolutions are rounded up to a multiple of it.
        protect: names of values that keep all their slots; `*` and `?` match.
        provider: "cpu", "cuda" or "tensorrt": what the model will run on.
        simplify: remove what does nothing any more; False: leave all that is not pruned as it was.
        strict: refuse a model that onnx.checker refuses; False: warn.
        inputs: True: features of inputs that no output depends on leave the signature. "keep-signature": the slim model
            takes what the original took, and selects by itself. False: inputs stay as they are.
        outputs: constant columns leave the outputs; the manifest holds the constants.
        feature_names: names of all features of the only input, or input name -> names; the manifest holds them.
    """

    threshold: float = 0.0
    align: str | int = "auto"
    protect: Sequence[str] = ()
    provider: str = "cpu"
    simplify: bool = True
    strict: bool = True
    inputs: bool | str = False
    outputs: bool = False
    feature_names: Sequence[str] | Mapping[str, Sequence[str]] = ()


@collector.paused()
def plan(model: Model, **options: object) -> Plan:
    """Decides which slots stay; changes nothing.

    Args:
        model: a path or a model.
        **options: see `Options`.

    Raises:
        InputError: the model cannot be read, or an option does not fit it.
    """
    chosen = read_options(options)
    source = io.load(model, strict=chosen.strict)
    need, made = decide(working_copy(model, source, chosen.threshold), chosen, io.fingerprint(source))
    _require_change(need, made, chosen)
    return made


@collector.paused()
def apply(model: M, plan: Plan, *, strict: bool = True) -> M:
    """Executes a plan.

    Raises:
        InputError: the plan was made for another model.
    """
    source = io.load(model, strict=strict)
    if io.fingerprint(source) != plan.fingerprint:
        raise InputError("plan: it was made for another model; make it again with `onnxdam prune --dry-run --plan`")
    working = working_copy(model, source, float(plan.options.get("threshold", 0.0)))
    flat = [item.name for item in plan.signature.inputs if item.merged] if plan.signature is not None else []
    network = flattened(working.clone(), flat) if flat else Network(working)
    allowed: _Allowed = {"inputs": bool(plan.options.get("inputs")), "outputs": bool(plan.options.get("outputs"))}
    need = Need(network, preset=plan.kept, **allowed)
    again = record(need, plan.fingerprint, plan.options)
    if again.kept != plan.kept:
        raise InputError("plan: it removes slots that are needed; slots can be added to a plan by hand, not taken away")
    if again.signature is not None and plan.signature is not None:
        names = {item.name: item.names for item in plan.signature.inputs if item.names}
        again = replace(again, signature=signature.named(again.signature, names))
    return _rewrite(model, source, need, again)


@collector.paused()
def slim(model: M, **options: object) -> tuple[M, Plan]:
    """Plans and applies in one go.

    Returns:
        The slim model, of the kind that went in, and the plan.
    """
    chosen = read_options(options)
    source = io.load(model, strict=chosen.strict)
    need, made = decide(working_copy(model, source, chosen.threshold), chosen, io.fingerprint(source))
    _require_change(need, made, chosen)
    return _rewrite(model, source, need, made), made


@collector.paused()
def explain(model: Model, where: str, **options: object) -> list[Step]:
    """The chain of reasons that keeps a slot, from the slot to an output or an operator that pins it.

    Args:
        model: a path or a model.
        where: "VALUE", "VALUE:axis" or "VALUE:axis:index"; without an index, the first kept slot that is masked, else
            the first that is kept. Of a value without axes, or of unknown rank, "VALUE" alone.

    Raises:
        InputError: there is no such value, axis or index.
    """
    chosen = read_options(options)
    need, _ = decide(working_copy(model, io.load(model, strict=chosen.strict), chosen.threshold), chosen, "")
    tensor, axis, index = _locate(need.network, where)
    reasons = Reasons(need)
    steps = [] if axis is None else list(reasons.chain(axis, _pick(need, tensor, axis) if index is None else index))
    return steps or (list(reasons.whole(tensor)) if axis is None or axis.n == 1 else [])


def read_options(options: dict[str, object]) -> Options:
    """Keyword arguments as `Options`; InputError names one that does not exist."""
    try:
        chosen = Options(**options)  # type: ignore[arg-type]
    except TypeError as error:
        raise InputError(f"unknown option: {error}") from None
    if chosen.inputs not in (True, False, signature.KEEP_SIGNATURE):
        raise InputError(f"inputs: {chosen.inputs!r} is neither True nor False nor {signature.KEEP_SIGNATURE!r}")
    if not (math.isfinite(chosen.threshold) and chosen.threshold >= 0):
        raise InputError(f"threshold: {chosen.threshold} is not a number from 0 on")
    return chosen


def working_copy(model: Model, source: ir.Model, threshold: float = 0.0) -> ir.Model:
    """A model that may be rewritten in place; one that was just read from a file is nobody else's."""
    fresh = not isinstance(model, ir.Model) and not source.functions and not threshold
    return source if fresh else zero_small(functions.inline(source.clone()), threshold)


@collector.paused()
def decide(source: ir.Model, options: Options, fingerprint: str) -> tuple[Need, Plan]:
    """The decision and its record; `source` may be rewritten by it later."""
    multiple = fast_multiple(options.align, options.provider)
    network = Network(source)
    asked: dict[str, object] = {
        "threshold": options.threshold,
        "align": multiple,
        "protect": list(options.protect),
        "simplify": options.simplify,
    }
    asked |= {name: value for name in ("inputs", "outputs") if (value := getattr(options, name))}
    protect = _protected(network, options.protect)
    allowed: _Allowed = {"inputs": bool(options.inputs), "outputs": options.outputs}

    def need_of(network: Network) -> Need:
        aligned = Need(network, align=multiple, protect=protect, **allowed)
        if not options.inputs or not aligned.aligned:
            return aligned
        plain = Need(network, protect=protect, **allowed)  # data is not collected for the sake of widths that run fast
        return aligned if signature.features_read(aligned) == signature.features_read(plain) else plain

    need = smallest_inputs(network, protect, need_of) if options.inputs else need_of(network)
    made = record(need, fingerprint, asked)
    if made.signature is not None and options.feature_names:
        made = replace(made, signature=signature.named(made.signature, options.feature_names))
    return need, made


def _require_change(need: Need, made: Plan, options: Options) -> None:
    if options.inputs and made.signature is not None:
        signature.require_change(need, made.signature)


@collector.paused()
def _rewrite(model: M, source: ir.Model, need: Need, plan: Plan) -> M:
    """The slim model, of the kind that went in; a model from which nothing leaves comes back as it was."""
    slimmer = Slim(need.network, need, simplify=bool(plan.options.get("simplify", True)))
    proto = isinstance(model, onnx.ModelProto)
    before = _manifest(source, plan)
    if slimmer.has_work() or plan.signature is not None:
        result = slimmer.run()
        if plan.signature is not None:
            signature.rewrite(slimmer, plan.signature)
        _sign(result, plan, before)
        return io.to_proto(result) if proto else result  # type: ignore[return-value]
    return copy.deepcopy(model) if proto else source  # type: ignore[return-value]


def _manifest(source: ir.Model, plan: Plan) -> Manifest | None:
    """The manifest of a model that is pruned again."""
    if METADATA_KEY not in source.metadata_props:
        return None
    found = Manifest.from_json(source.metadata_props[METADATA_KEY], f"metadata {METADATA_KEY!r}")
    if found.model != plan.fingerprint:
        raise InputError("the model was changed since its manifest was made; take the entry out of its metadata")
    return found


def _sign(slim: ir.Model, plan: Plan, before: Manifest | None) -> None:
    """Writes into a slim model what it takes and gives, in terms of the first original."""
    if plan.signature is None and before is None:
        return
    whole = plan.signature if plan.signature is not None else before
    if plan.signature is not None and before is not None:
        whole = signature.compose(before, plan.signature)
    assert whole is not None
    slim.metadata_props[METADATA_KEY] = replace(whole, model=io.fingerprint(slim)).to_json()


def _protected(network: Network, patterns: Sequence[str]) -> frozenset[str]:
    names = [t.name for t in network.tensors.values()]
    found: set[str] = set()
    for pattern in patterns:
        matches = fnmatch.filter(names, pattern)
        if not matches:
            raise InputError(f"protect: no value of the model matches {pattern!r}")
        found.update(matches)
    return frozenset(found)


def _locate(network: Network, where: str) -> tuple[Tensor, Axis | None, int | None]:
    by_name = {t.name: t for t in network.tensors.values()}
    parts = where.split(":")
    for cut in range(len(parts), max(len(parts) - 3, 0), -1):  # names may hold colons themselves
        name, rest = ":".join(parts[:cut]), parts[cut:]
        if name in by_name:
            return _slot(by_name[name], rest, where)
    raise InputError(f"{where}: no value of that name in the model")


def _slot(tensor: Tensor, rest: list[str], where: str) -> tuple[Tensor, Axis | None, int | None]:
    if not all(r.lstrip("-").isdigit() for r in rest):
        raise InputError(f"{where}: axis and index must be whole numbers")
    if tensor.opaque or not tensor.rank:
        if rest:
            which = "the rank of the value is not known" if tensor.opaque else "the value is a single number"
            raise InputError(f"{where}: {which}; ask without an axis")
        return tensor, None, None
    default = 1 if tensor.rank > 1 and not tensor.is_leaf else 0
    number = int(rest[0]) if rest else default
    if not -tensor.rank <= number < tensor.rank:
        raise InputError(f"{where}: the value has {tensor.rank} axes")
    axis = tensor.axes[number]
    index = int(rest[1]) if len(rest) > 1 else None
    if index is not None and not 0 <= index < axis.n:
        raise InputError(f"{where}: the axis has {axis.n} slots")
    return tensor, axis, index


def _pick(need: Need, tensor: Tensor, axis: Axis) -> int:
    kept = need.kept(axis)
    const = tensor.const(axis.index) if tensor.any_const else None
    masked = kept & const.mask if const is not None else kept
    pool = masked if masked.any() else kept
    return int(pool.argmax())
