"""Options that several commands share."""

from __future__ import annotations

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
