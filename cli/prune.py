"""onnxdam prune"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import exits, options, show

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

    from onnxdam.graph.count import Cost
    from onnxdam.plan import Plan
    from onnxdam.verify import Report

Say = Callable[[str], None]
_INPUTS: dict[str | None, bool | str] = {None: False, "narrow": True, "keep-signature": "keep-signature"}
PLANNING = (
    "align",
    "protect",
    "threshold",
    "simplify",
    "inputs",
    "outputs",
)  # decided already in a plan that is applied


@click.command("prune", cls=options.InputsCommand)
@click.argument("source", metavar="IN.onnx", type=click.Path(allow_dash=True))
@click.option("-o", "--output", metavar="OUT.onnx", type=click.Path(), help="Where the slim model goes.")
@click.option("--force", is_flag=True, help="Replace OUT.onnx, and other files that exist.")
@click.option("--report", metavar="R.json", type=click.Path(), help="Write what was done and checked.")
@options.align
@options.protect
@options.threshold
@options.simplify
@options.inputs
@click.option("--outputs", is_flag=True, help="Constant columns leave the outputs; the manifest holds the constants.")
@click.option(
    "--feature-names", metavar="NAMES.csv", multiple=True, help="Names of the input features (INPUT=NAMES.csv)."
)
@click.option("--dry-run", is_flag=True, help="Say what would be removed; write no model.")
@click.option("--plan", "plan_to", metavar="P.json", type=click.Path(), help="Write the plan.")
@click.option("--apply", "plan_from", metavar="P.json", type=click.Path(), help="Execute this plan of the same model.")
@click.option("--verify/--no-verify", "check", default=True, show_default=True, help="Check before writing.")
@options.data
@options.provider
@options.strict
@options.as_json
@click.pass_context
def command(ctx: click.Context, source: str, as_json: bool, **given: Any) -> int:
    """Remove the masked channels of IN.onnx, check that the function is the same, write OUT.onnx.

    With --inputs or --outputs, a manifest says what data the slim model takes: OUT.features.json, and the model's
    metadata.

    IN.onnx may be - for standard input, if its weights are inside. Nothing is written unless the check passes; an
    existing file is replaced only with --force, the input never.
    """
    if given["plan_from"]:
        for name in PLANNING:
            if ctx.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE:
                raise click.UsageError(f"--apply executes a plan as it is; --{name} belongs to making one")
    if not given["output"] and not given["dry_run"]:
        raise click.UsageError("name the output with -o OUT.onnx, or ask for a --dry-run")
    if given["output"] and given["dry_run"]:
        raise click.UsageError("a --dry-run writes no model; leave -o away")
    with show.progress() as say:
        outcome = _prune(source, given, say)
    if as_json:
        show.as_json(outcome.to_dict())
    else:
        _print(outcome)
    return exits.DONE if outcome.passed else exits.CHECK_FAILED


@dataclass
class _Outcome:
    """What happened, for the terminal and for --report."""

    source: str
    plan: Plan
    before: Cost
    size_before: int
    output: str | None = None
    after: Cost | None = None
    size_after: int | None = None
    report: Report | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return self.report is None or self.report.passed

    @property
    def written(self) -> bool:
        return self.output is not None and self.passed

    def to_dict(self) -> dict[str, Any]:
        import json

        import onnxdam

        return {
            "onnxdam": onnxdam.__version__,
            "passed": self.passed,
            "input": self.source,
            "output": self.output if self.written else None,
            "before": _totals(self.before, self.size_before),
            "after": _totals(self.after, self.size_after) if self.after else None,
            "verification": self.report.to_dict() if self.report else None,
            "seconds": self.seconds,
            "plan": json.loads(self.plan.to_json()),
        }


def _totals(cost: Cost, size: int | None) -> dict[str, Any]:
    return {
        "parameters": cost.parameters,
        "macs": cost.macs,
        "bytes": size,
        "nodes": len(cost.nodes),
        "notes": list(cost.notes),
    }


def _prune(source: str, given: dict[str, Any], say: Say) -> _Outcome:
    from onnxdam import api
    from onnxdam.features import manifest_path
    from onnxdam.graph import io
    from onnxdam.graph.count import count

    if given["output"] == "-":
        raise click.UsageError("-o needs the name of a file; a model is not written to standard output")
    if given["plan_to"] and given["report"] and os.path.realpath(given["plan_to"]) == os.path.realpath(given["report"]):
        raise click.UsageError("--plan and --report name the same file")
    if given["output"]:
        io.check_output(Path(given["output"]), overwrite=given["force"], sources=[] if source == "-" else [source])
    if given["data"] is not None:
        _readable(given["data"])
    if given["check"] and not given["dry_run"]:
        from onnxdam.providers import check_provider

        check_provider(given["provider"])
    applied = _read_plan(given["plan_from"]) if given["plan_from"] else None
    interface = bool(given["inputs"] or given["outputs"] or (applied is not None and applied.signature is not None))
    if given["feature_names"] and not interface:
        raise click.UsageError("--feature-names go into the manifest, which --inputs or --outputs make")
    if given["output"] and interface:
        _new_file(str(manifest_path(given["output"])), given["force"], taken=[given["plan_to"], given["report"]])
    for name in ("plan_to", "report"):
        if given[name]:
            _new_file(given[name], given["force"], taken=[source, given["output"]])
    say(f"reading {source}")
    clock = _Clock()
    model = _read(source)
    original = io.load(model, strict=given["strict"])
    read_from = io.sources(original)
    size = _file_size(model) if isinstance(model, Path) else model.ByteSize()
    size += sum(path.stat().st_size for path in read_from)
    before = count(original)
    clock.lap("load")
    # a path is read once more, which is cheaper than a copy of what we hold
    subject: Path | ir.Model = model if isinstance(model, Path) else original
    del original
    if applied is not None:
        say("applying the plan")
        plan = applied
        slim = None if given["dry_run"] else api.apply(subject, plan, strict=given["strict"])
    else:
        say("looking for what is masked")
        asked = {name: given[name] for name in (*PLANNING, "provider", "strict")}
        asked |= {"inputs": _INPUTS[given["inputs"]], "feature_names": options.feature_names(given["feature_names"])}
        if given["dry_run"]:
            plan, slim = api.plan(subject, **asked), None
        else:
            slim, plan = api.slim(subject, **asked)
    clock.lap("slim")
    outcome = _Outcome(source, plan, before, size, seconds=clock.laps)
    if slim is not None:
        assert not isinstance(slim, Path)  # a path comes back as a model
        outcome.after = count(slim)
        outcome.output = given["output"]
        clock.lap("count")
        _write(outcome, slim, _reference(model, plan, given["strict"]), read_from, given, say)
    if slim is None or not outcome.passed:
        _write_texts(outcome, given)
    return outcome


def _write(
    outcome: _Outcome,
    slim: ir.Model,
    reference: Path | onnx.ModelProto | ir.Model,
    read_from: list[Path],
    given: dict[str, Any],
    say: Say,
) -> None:
    """Writes to a temporary place, checks what lies there, and moves it to its name if it is equal."""
    from onnxdam import features
    from onnxdam.graph import io
    from onnxdam.signals import uninterrupted

    clock = _Clock(outcome.seconds)
    sources = [*read_from, *([reference] if isinstance(reference, Path) else [])]
    try:
        with io.staged(given["output"], overwrite=given["force"], sources=sources) as temporary:
            say(f"writing {given['output']}")
            io.write(slim, temporary)
            outcome.size_after = sum(_file_size(path) for path in temporary.parent.iterdir())
            manifest = slim.metadata_props.get(features.METADATA_KEY) if outcome.plan.signature is not None else None
            if manifest is not None:
                features.manifest_path(temporary).write_text(manifest + "\n", encoding="utf-8")
            clock.lap("write")
            if given["check"]:
                from onnxdam.verify import verify

                outcome.report = verify(
                    reference,
                    temporary,
                    data=given["data"],
                    provider=given["provider"],
                    plan=outcome.plan,
                    manifest=outcome.plan.signature,
                    progress=say,
                )
                clock.lap("verify")
            if not outcome.passed:
                raise _Mismatch
            click.get_current_context().with_resource(uninterrupted())  # until the command is over
            _write_texts(outcome, given)  # first, so that a failure leaves no model behind
    except _Mismatch:
        pass


def _reference(model: Path | onnx.ModelProto, plan: Plan, strict: bool) -> Path | onnx.ModelProto | ir.Model:
    """What the slim model must be equal to: with --threshold, the model whose small weights are zero."""
    from onnxdam.graph import io
    from onnxdam.graph.threshold import zero_small

    threshold = float(plan.options.get("threshold", 0.0))
    return zero_small(io.load(model, strict=strict).clone(), threshold) if threshold else model


class _Mismatch(Exception):
    """Leaves the staging area without moving anything."""


class _Clock:
    """Seconds per step."""

    def __init__(self, laps: dict[str, float] | None = None) -> None:
        self.laps = laps if laps is not None else {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self._last = round(now - self._last, 4), now


# ------------------------------------------------------------------------------------------------------- files


def _read(source: str) -> Path | onnx.ModelProto:
    from onnxdam.errors import InputError
    from onnxdam.graph import io

    if source != "-":
        return Path(source)
    if sys.stdin.isatty():
        raise click.UsageError("- reads a model from standard input, but that is a terminal")
    data = sys.stdin.buffer.read()
    if not data:
        raise InputError("standard input: is empty")
    model = io.parse(data, "standard input")
    if outside := io.external_files(model.graph):
        raise InputError(
            f"standard input: its weights lie in {min(outside)}, wherever that is; give the model by its path"
        )
    return model


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # `io.load` says what is wrong with it


def _readable(path: str) -> None:
    from onnxdam import inputs

    inputs.read_npz(path)


def _read_plan(path: str) -> Plan:
    from onnxdam.errors import InputError
    from onnxdam.plan import Plan

    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not a plan (not text)") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        return Plan.from_json(text)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _new_file(path: str, force: bool, taken: list[str | None]) -> None:
    """Fails now rather than after minutes of work."""
    from onnxdam.errors import InputError
    from onnxdam.graph import io

    target = Path(path)
    if any(other and other != "-" and os.path.realpath(target) == os.path.realpath(other) for other in taken):
        raise InputError(f"{path}: is the model itself; choose another name")
    with io.staged(path, overwrite=force):
        pass  # a folder that cannot be written says so before anything else is


def _write_texts(outcome: _Outcome, given: dict[str, Any]) -> None:
    """The plan, if the check passed, and the report: both or none."""
    import json

    from onnxdam.graph import io

    texts = {}
    if given["plan_to"] and outcome.passed:
        texts[given["plan_to"]] = outcome.plan.to_json()
    if given["report"]:
        texts[given["report"]] = json.dumps(show.plain(outcome.to_dict()), indent=1)
    with contextlib.ExitStack() as stack:
        for path, text in texts.items():
            stack.enter_context(io.staged(path)).write_text(text + "\n", encoding="utf-8")


# ------------------------------------------------------------------------------------------------------ output


def _print(outcome: _Outcome) -> None:
    plan, before, after = outcome.plan, outcome.before, outcome.after
    if after is not None:
        pairs: list[tuple[str, float, float, Callable[[Any], str]]] = [
            ("parameters", before.parameters, after.parameters, show.number),
            ("multiply-accumulates", before.macs, after.macs, show.number),
            ("nodes", len(before.nodes), len(after.nodes), show.number),
            ("file", outcome.size_before, outcome.size_after or 0, show.size),
        ]
        if plan.signature is not None and not plan.signature.keep_signature:
            inputs = plan.signature.inputs
            fed = _numbers(i.shape for i in inputs), _numbers(i.slim_shape for i in inputs)
            pairs.append(("numbers to send", *fed, show.number))
        rows = [(name, text(a), text(b), show.change(a, b)) for name, a, b, text in pairs]
        show.table(outcome.source, ("", "before", "after", "change"), rows)
        same = after.parameters == before.parameters and len(after.nodes) == len(before.nodes)
        if same and (plan.signature is None or not plan.signature.shrinks):
            show.line("nothing was removed: no masked channel was found that could leave")
    else:
        _print_widths(outcome)
    for note in (*plan.notes, *before.notes):
        show.line(f"note: {note}")
    _print_refusals(plan)
    _print_aligned(plan)
    if outcome.report is not None:
        if not outcome.passed:
            show.cases(outcome.report.cases)
        show.line(outcome.report.text)
    if not outcome.passed:
        show.verdict(False, f"the models differ; {outcome.output} was not written")
    elif outcome.output is None:
        show.verdict(True, "dry run, no model was written")
    else:
        checked = "equal" if outcome.report else "not checked (--no-verify)"
        show.verdict(True, f"{outcome.output} written, {checked}")


def _numbers(shapes: Iterable[Sequence[int | str | None] | None]) -> int:
    """How many numbers a caller sends, for one of everything whose extent is not known."""
    return sum(math.prod(n for n in shape if isinstance(n, int)) for shape in shapes if shape is not None)


def _print_widths(outcome: _Outcome) -> None:
    rows = [
        (value, axis, len(kept), len(outcome.plan.aligned.get(value, {}).get(axis, ())) or "")
        for value, axes in sorted(outcome.plan.kept.items())
        for axis, kept in sorted(axes.items())
    ]
    if rows:
        show.table(
            f"{outcome.source}: axes that become narrower", ("value", "axis", "slots kept", "dead of them"), rows
        )
    else:
        show.line("nothing would be removed: no masked channel was found that could leave")


def _print_refusals(plan: Plan, most: int = 5) -> None:
    if not plan.refusals:
        return
    slots = sum(len(refusal.indices) for refusal in plan.refusals)
    show.line(f"{slots} masked slots of {len(plan.refusals)} axes stay:")
    for refusal in sorted(plan.refusals, key=lambda r: -len(r.indices))[:most]:
        show.line(f"  {refusal.value}:{refusal.axis} {len(refusal.indices)} slots: {refusal.reason}")
    if len(plan.refusals) > most:
        show.line(f"  and {len(plan.refusals) - most} axes more (--report lists them)")


def _print_aligned(plan: Plan) -> None:
    """Slots that nobody reads and that are no refusals: they need not be masked to be dead."""
    told = {(refusal.value, refusal.axis) for refusal in plan.refusals}
    dead = [
        len(slots) for value, axes in plan.aligned.items() for axis, slots in axes.items() if (value, axis) not in told
    ]
    if dead:
        show.line(
            f"{sum(dead)} unread slots of {len(dead)} axes stay, because that width runs faster (--align none: they go)"
        )
