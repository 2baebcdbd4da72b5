"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click


class Align(click.ParamType):
    """auto, none, or a positive number."""

    name = "auto|none|N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | int:
        if value in ("auto", "none") or isinstance(value, int):
            return value
        if str(value).isdecimal() and int(value) > 0:
            return int(value)
        self.fail(f"{value!r} is not auto, none or a positive number", param, ctx)


class Size(click.ParamType):
    """The size of a dynamic dimension, DIM=N."""

    name = "DIM=N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        name, equals, size = str(value).rpartition("=")
        if not (name and equals and size.isdecimal() and int(size) > 0):
            self.fail(f"{value!r} is not of the form DIM=N", param, ctx)
        return name, int(size)


provider = click.option(
    "--provider",
    type=click.Choice(["cpu", "cuda", "tensorrt"]),
    default="cpu",
    show_default=True,
    help="Where the model will run.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
strict = click.option(
    "--strict/--no-strict",
    default=True,
    show_default=True,
    help="Refuse models that onnx.checker refuses, or only warn.",
)
data = click.option(
    "--data",
    type=click.Path(),
    metavar="X.npz",
    help="Check on these arrays (input name -> rows) instead of random inputs.",
)
sizes = click.option("--size", "sizes", multiple=True, type=Size(), help="Size of a dynamic dimension (repeatable).")
align = click.option(
    "--align",
    type=Align(),
    default="auto",
    show_default=True,
    help="Keep dead channels up to the next multiple: what the provider likes, none, or N.",
)
protect = click.option(
    "--protect", multiple=True, metavar="GLOB", help="Leave tensors of matching names as wide as they are (repeatable)."
)
threshold = click.option(
    "--threshold",
    type=click.FloatRange(min=0.0),
    default=0.0,
    show_default=True,
    metavar="EPS",
    help="Weights of at most EPS count as zero. Anything above 0 is lossy, and reported so.",
)
simplify = click.option(
    "--simplify/--no-simplify",
    default=True,
    show_default=True,
    help="Fold constants, or leave everything that is not pruned exactly as it was.",
)


inputs = click.option(
    "--inputs",
    is_flag=False,
    flag_value="narrow",
    type=click.Choice(["narrow", "keep-signature"]),
    metavar="[keep-signature]",
    help="Input features that no output depends on leave; keep-signature: same inputs, selected from inside.",
)


class InputsCommand(click.Command):
    """A command with --inputs: what follows is its value only if it is keep-signature, else an argument."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        following = [*args, ""][1:]
        alone = [a == "--inputs" and b != "keep-signature" for a, b in zip(args, following, strict=True)]
        return super().parse_args(ctx, ["--inputs=narrow" if bare else a for a, bare in zip(args, alone, strict=True)])


def feature_names(given: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Input name -> names of its features, from NAMES.csv (of the only input, called "") or INPUT=NAMES.csv."""
    from onnxdam.features import read_names

    found: dict[str, tuple[str, ...]] = {}
    for name, _, path in (text.rpartition("=") for text in given):
        if name in found:
            raise click.UsageError(f"two files name the features of {f'input {name!r}' if name else 'the only input'}")
        found[name] = read_names(path)
    return found
