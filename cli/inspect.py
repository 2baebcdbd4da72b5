"""onnxdam inspect"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from . import options, show

if TYPE_CHECKING:
    from onnxdam.inspection import Inspection


@click.command("inspect")
@click.argument("model", metavar="M.onnx", type=click.Path())
@options.align
@options.protect
@options.threshold
@options.provider
@options.strict
@click.option("--all", "everything", is_flag=True, help="Print every row, not only the first twelve of each table.")
@options.as_json
def command(model: str, everything: bool, as_json: bool, **asked: object) -> None:
    """Show what a model costs per node; what is constant, dead or prunable; coupled groups; what pins what."""
    from onnxdam.inspection import inspect

    with show.progress() as say:
        say(f"looking at {model}")
        found = inspect(model, **asked)
    if as_json:
        show.as_json(found.to_dict())
    else:
        _print(model, found, None if everything else 12)


def _print(model: str, found: Inspection, most: int | None) -> None:
    cost = found.cost
    show.line(
        f"{model}: {show.number(cost.parameters)} parameters ({show.size(cost.weight_bytes)}), "
        f"{show.number(cost.macs)} multiply-accumulates, {len(cost.nodes)} nodes"
    )
    nodes = sorted(cost.nodes, key=lambda node: (-(node.macs or 0), -node.parameters))
    show.table(
        "most expensive nodes",
        ("node", "operator", "parameters", "MACs", "weights", "results"),
        [
            (
                node.name,
                node.op_type,
                show.number(node.parameters),
                show.number(node.macs),
                show.size(node.weight_bytes),
                "?" if node.activation_bytes is None else show.size(node.activation_bytes),
            )
            for node in nodes[:most]
        ],
    )
    dead = sum(group.dead for group in found.groups)
    constant = sum(group.constant for group in found.groups)
    show.line(f"{len(found.groups)} groups of coupled axes: {constant} constant slots, {dead} slots can leave")
    rows = [
        (_some(group.values), group.slots, group.constant, group.dead, group.aligned, group.reason)
        for group in found.groups
        if most is None or group.dead or group.constant
    ]
    if rows:
        show.table(
            "groups" if most is None else "groups with constant or dead slots",
            ("axes", "slots", "constant", "can leave", "kept for speed", "kept because the first one"),
            rows[:most],
        )
    show.table(
        "where keeping begins",
        ("operator", "reason", "axes", "slots"),
        [(pin.operator or "-", pin.reason, _some(pin.where), pin.slots) for pin in found.pins[:most]],
    )
    for note in (*found.plan.notes, *cost.notes):
        show.line(f"note: {note}")


def _some(names: tuple[str, ...], most: int = 2) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
