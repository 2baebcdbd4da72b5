"""onnxdam explain"""

from __future__ import annotations

import dataclasses

import click

from . import options, show


@click.command("explain")
@click.argument("model", metavar="M.onnx", type=click.Path())
@click.argument("slot", metavar="VALUE[:axis[:index]]")
@options.align
@options.protect
@options.threshold
@options.provider
@options.strict
@options.as_json
def command(model: str, slot: str, as_json: bool, **asked: object) -> None:
    """Show the chain of reasons that keeps a slot, down to an output or an operator without a rule.

    Without an index: the first masked slot of the axis that stays, or its first slot. Without an axis: the channels.
    """
    from onnxdam import api

    steps = api.explain(model, slot, **asked)
    if as_json:
        show.as_json({"slot": slot, "kept": bool(steps), "steps": [dataclasses.asdict(step) for step in steps]})
        return
    for depth, step in enumerate(steps):
        show.line("  " * min(depth, 20) + str(step))
    if not steps:
        show.line(f"{slot}: nothing keeps it, it can leave")
