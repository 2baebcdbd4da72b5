"""onnxdam train"""

from __future__ import annotations

import contextlib
import dataclasses
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import exits, options, show

if TYPE_CHECKING:
    from onnxdam.recipes.recipe import Recipe, Settings
    from onnxdam.recipes.training import Progress, Trained

METHODS = ("dam", "diffprune", "hardconcrete", "grouplasso", "slimming", "l1", "none")
KINDS = ("macs", "parameters", "channels", "latency")
SHARE = click.FloatRange(0, 1, min_open=True)
SELDOM = 60.0  # seconds between two lines of progress where there is no terminal


@click.command("train")
@click.argument("name", metavar="[RECIPE]", required=False)
@click.option("--list", "listing", is_flag=True, help="Name the recipes and what they learn from.")
@click.option("-o", "--output", metavar="MASKED.onnx", type=click.Path(), help="Where the trained network goes.")
@click.option("--force", is_flag=True, help="Replace files that exist.")
@click.option(
    "--data", metavar="FILE.npz", type=click.Path(), help="Learn from this instead of what needs no download."
)
@click.option(
    "--method",
    type=click.Choice(METHODS),
    help="How masks are learned. l1: only for the autoencoder; none: no masks, the dense network.",
)
@click.option("--include", metavar="GLOB", multiple=True, help="Mask only channels of matching modules (repeatable).")
@click.option("--exclude", metavar="GLOB", multiple=True, help="Mask no channels of matching modules (repeatable).")
@click.option("--inputs/--no-inputs", default=None, help="Mask features of the input, too: the network selects them.")
@click.option("--target-macs", metavar="SHARE", type=SHARE, help="Multiply-accumulates that stay, e.g. 0.3.")
@click.option("--target-parameters", metavar="SHARE", type=SHARE, help="Parameters that stay.")
@click.option("--target-channels", metavar="SHARE", type=SHARE, help="Channels that stay.")
@click.option("--target-latency", metavar="SHARE", type=SHARE, help="Measured time that stays, batch 1, one thread.")
@click.option(
    "--provider", type=click.Choice(["cpu", "cuda", "tensorrt"]), help="Where latency is measured. [default: cpu]"
)
@click.option(
    "--lambda",
    "weight",
    metavar="WEIGHT",
    type=click.FloatRange(min=0),
    help="A fixed weight of the penalty instead of a target.",
)
@click.option("--epochs", metavar="N", type=click.IntRange(min=1), help="Passes over the data.")
@click.option("--batch", metavar="N", type=click.IntRange(min=1), help="Samples per step.")
@click.option("--lr", metavar="RATE", type=click.FloatRange(min=0, min_open=True), help="Learning rate of the weights.")
@click.option("--amp", is_flag=True, help="Train in bfloat16 where that is safe (automatic mixed precision).")
@click.option(
    "--seed",
    metavar="N",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of weights, order, noise, and data that are made up.",
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option(
    "--threads",
    metavar="N",
    type=click.IntRange(0, 1024),
    default=0,
    show_default=True,
    help="0: as torch likes.",
)
@click.option("--checkpoint", metavar="FILE", type=click.Path(), help="Keep the state of the run here.")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint, if it is there.")
@click.option(
    "--exporter", type=click.Choice(["dynamo", "torchscript"]), default="dynamo", show_default=True, help="Of torch."
)
@options.as_json
def command(name: str | None, listing: bool, as_json: bool, **given: Any) -> int:
    """Train the network of a RECIPE with masks, and write it as a model that `onnxdam prune` makes small.

    For example: onnxdam train digits --target-macs 0.2 -o masked.onnx

    What is not said is as the recipe has it (--list). Ctrl-C leaves the checkpoint as it was after the last evaluation.
    """
    if listing:
        _print_recipes(as_json)
        return exits.DONE
    if name is None:
        raise click.UsageError("name a recipe, or ask for the --list")
    _check_usage(given)
    trained = _train(name, given)
    if as_json:
        show.as_json(_facts(trained, given["output"]))
    else:
        _print(trained)
        show.verdict(True, f"{given['output']} written")
    return exits.DONE


def _check_usage(given: dict[str, Any]) -> None:
    if not given["output"]:
        raise click.UsageError("name the output with -o MASKED.onnx")
    if given["resume"] and not given["checkpoint"]:
        raise click.UsageError("--resume goes on from a --checkpoint FILE; name it")
    asked = [f"--target-{kind}" for kind in KINDS if given[f"target_{kind}"] is not None]
    asked += ["--lambda"] if given["weight"] is not None else []
    if len(asked) > 1:
        raise click.UsageError(f"{' and '.join(asked)}: one of them, please")
    if given["provider"] and given["target_latency"] is None:
        raise click.UsageError("--provider says where latency is measured; it belongs to --target-latency")
    asked += [f"--{name}" for name in ("include", "exclude", "inputs") if given[name]]
    if asked and given["method"] == "none":
        raise click.UsageError(f"--method none trains without masks; {asked[0]} belongs to the others")


def _train(name: str, given: dict[str, Any]) -> Trained[Any]:
    """Everything from the names of files to the file that is written."""
    from onnxdam.recipes import find

    recipe = _gated(find(name), given)
    from onnxdam.graph import io

    _check_files(given)
    settings = _settings(recipe, given)
    with _interruptible(given), _bar(recipe) as (say, progress):
        say("reading the data")
        data = _load(recipe, given["data"], settings.seed)
        say("looking for channels that can be masked")
        _quiet(given["threads"])
        from onnxdam.recipes.training import train

        trained = train(
            recipe,
            data,
            settings,
            device=given["device"],
            checkpoint=given["checkpoint"],
            resume=given["resume"],
            progress=progress,
        )
        say(f"writing {given['output']}")
        with io.staged(given["output"], overwrite=given["force"]) as temporary:
            trained.export(temporary, dynamo=given["exporter"] == "dynamo")
    return trained


def _quiet(threads: int) -> None:
    """Sets the threads of torch, and keeps what it says about its own code to itself."""
    import torch

    for category in (FutureWarning, UserWarning):
        warnings.filterwarnings("ignore", category=category)
    if threads:
        torch.set_num_threads(threads)


def _load(recipe: Recipe[Any], path: str | None, seed: int) -> Any:
    from onnxdam.errors import InputError

    try:
        return recipe.load(path, seed)
    except ModuleNotFoundError as error:
        raise InputError(
            f"reading the data needs {error.name}, which is not installed: pip install 'onnxdam[torch]'"
        ) from None


def _check_files(given: dict[str, Any]) -> None:
    """Fails now rather than after hours of work."""
    from onnxdam.errors import InputError
    from onnxdam.graph import io

    output, checkpoint = Path(given["output"]), given["checkpoint"]
    sources = [given["data"]] if given["data"] else []
    io.check_output(output, overwrite=given["force"], sources=sources)
    if not checkpoint:
        return
    if Path(checkpoint).resolve() == output.resolve():
        raise InputError(f"{checkpoint}: is the output itself; choose another name for the checkpoint")
    io.check_output(Path(checkpoint), overwrite=True, sources=sources)
    if Path(checkpoint).exists() and not given["resume"] and not given["force"]:
        raise InputError(f"{checkpoint}: exists already; --resume goes on from it, --force replaces it")
    if given["resume"] and not Path(checkpoint).exists():
        click.echo(f"warning: {checkpoint}: is not there; training starts from the beginning", err=True)


def _gated(recipe: Recipe[Any], given: dict[str, Any]) -> Recipe[Any]:
    """The recipe with gates where they are asked for."""
    changes = {name: given[name] for name in ("include", "exclude") if given[name]}
    if given["inputs"] is not None:
        changes["inputs"] = given["inputs"]
    if given["inputs"]:
        changes["include"] = (*changes.get("include", recipe.include), "input*")
    return dataclasses.replace(recipe, attached=True, **changes) if changes else recipe


def _settings(recipe: Recipe[Any], given: dict[str, Any]) -> Settings:
    """The recipe's, changed as asked."""
    changes = {k: given[k] for k in ("method", "epochs", "batch", "lr", "seed") if given[k] is not None}
    changes["amp"] = given["amp"]
    for kind in KINDS:
        if given[f"target_{kind}"] is not None:
            changes["target"] = {kind: given[f"target_{kind}"]}
    if given["provider"]:
        changes["target"] |= {"provider": given["provider"]}
    if given["weight"] is not None:
        changes |= {"weight": given["weight"], "target": None}
    return dataclasses.replace(recipe.settings, **changes)


@contextlib.contextmanager
def _interruptible(given: dict[str, Any]) -> Iterator[None]:
    """Says on the way out what is left."""
    try:
        yield
    except (KeyboardInterrupt, exits.Terminated) as stop:
        word, code = (
            ("interrupted", exits.INTERRUPTED)
            if isinstance(stop, KeyboardInterrupt)
            else ("terminated", exits.TERMINATED)
        )
        checkpoint = given["checkpoint"]
        if checkpoint and Path(checkpoint).exists():
            kept = f"add --resume to go on from {checkpoint}"
        else:
            kept = f"nor was {checkpoint}" if checkpoint else "there is no --checkpoint to go on from"
        raise exits.Stopped(f"{word}; {given['output']} was not written; {kept}", code) from None


@contextlib.contextmanager
def _bar(recipe: Recipe[Any]) -> Iterator[tuple[Callable[[str], None], Callable[[Progress], None] | None]]:
    """A function for what happens in between, and one for the progress of training."""
    with show.bar() as draw:
        if draw is None:
            yield lambda text: None, _Seldom(recipe)
        else:
            yield lambda text: draw(0, None, text), lambda p: draw(p.step, p.steps, _told(recipe, p))


class _Seldom:
    """A line of progress a minute, for the logs of long runs."""

    def __init__(self, recipe: Recipe[Any]) -> None:
        self.recipe, self.last = recipe, time.monotonic()

    def __call__(self, p: Progress) -> None:
        if time.monotonic() - self.last >= SELDOM:
            self.last = time.monotonic()
            click.echo(f"{100 * p.step / p.steps:3.0f} %  {_told(self.recipe, p)}", err=True)


def _told(recipe: Recipe[Any], p: Progress) -> str:
    valid = f"valid {recipe.metric_kind.name} {p.last.valid:.4g}  " if p.last is not None else ""
    return f"epoch {min(p.epoch + 1, p.epochs)}/{p.epochs}  loss {p.loss:.4g}  {valid}{_widths(p.kept)}"


def _widths(kept: Mapping[str, tuple[int, int]], most: int = 4) -> str:
    """97-71-33 (inputs, first and second hidden layer), or how many channels in all where there are many gates."""
    if not kept:
        return ""
    if len(kept) <= most:
        return "kept " + "-".join(str(open_) for open_, _ in kept.values())
    return f"kept {sum(k for k, _ in kept.values()):,} of {sum(n for _, n in kept.values()):,} channels"


# ------------------------------------------------------------------------------------------------------- output


def _print_recipes(as_json: bool) -> None:
    from onnxdam.recipes import MODULES, find

    recipes = [find(name) for name in MODULES]
    if as_json:
        show.as_json([{"name": r.name, "about": r.about, "data": r.data, **_asked(r.settings)} for r in recipes])
    else:
        show.table(
            "recipes",
            ("name", "network", "data", "method", "aims at", "epochs"),
            [(r.name, r.about, r.data, r.settings.method, _aim(r.settings), r.settings.epochs) for r in recipes],
        )


def _aim(settings: Settings) -> str:
    if settings.target is None:
        return f"lambda {settings.weight:g}"
    return ", ".join(f"{100 * share:g} % of {kind}" for kind, share in settings.target.items() if kind in KINDS)


def _asked(settings: Settings) -> dict[str, Any]:
    return {"settings": dataclasses.asdict(settings)}


def _print(trained: Trained[Any], most: int = 12) -> None:
    settings, name = trained.settings, trained.recipe.metric_kind.name
    rows = [(gate, kept, of) for gate, (kept, of) in trained.kept.items()]
    if rows:
        show.table(f"{trained.recipe.name}, {settings.method}: channels that stay", ("gate", "kept", "of"), rows[:most])
    if len(rows) > most:
        show.line(f"  and {len(rows) - most} gates more (--json lists them)")
    if trained.gates is not None:
        left = ", ".join(f"{100 * share:.1f} % of {kind}" for kind, share in trained.gates.cost().items())
        show.line(f"left: {left} (asked: {_aim(settings)})")
        if settings.target is None and all(kept == of for _, kept, of in rows):
            show.line("nothing was masked: more --epochs, a larger --lambda or a --target would")
        if trained.gates.measured is not None:
            show.line(f"measured: {show.millis(trained.gates.measured.a)} to {show.millis(trained.gates.measured.b)}")
    show.table(
        "",
        ("", name),
        [
            (f"validation, epoch {trained.epoch} (chosen)", f"{trained.valid:.4g}"),
            ("test, chosen weights", f"{trained.test:.4g}"),
            ("test, last epoch", f"{trained.last:.4g}"),
            ("test, best of all epochs", f"{trained.best:.4g}"),
        ],
    )


def _facts(trained: Trained[Any], output: str) -> dict[str, Any]:
    return {
        "recipe": trained.recipe.name,
        **_asked(trained.settings),
        "metric": trained.recipe.metric_kind.name,
        "epoch": trained.epoch,
        "valid": trained.valid,
        "test": trained.test,
        "last": trained.last,
        "best": trained.best,
        "kept": trained.kept,
        "left": trained.gates.cost() if trained.gates else {},
        "history": [dataclasses.asdict(e) for e in trained.history],
        "seconds": round(trained.seconds, 2),
        "output": output,
    }
