"""onnxdam deploy"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from . import exits, options, show

if TYPE_CHECKING:
    from onnxdam.deploy.triton import Deployment


@click.command("deploy")
@click.argument("model", metavar="M.onnx", type=click.Path())
@click.argument("folder", metavar="DIR", type=click.Path())
@click.option("--to", type=click.Choice(["triton"]), required=True, help="The server; DIR is its model repository.")
@click.option("--name", help="Of the model on the server [default: the file's name].")
@click.option("--version", type=int, default=1, show_default=True, help="Of the model.")
@click.option(
    "--max-batch-size",
    type=int,
    metavar="N",
    help="Rows of several requests that may share a run; 0: none [default: 8 where rows are independent, else 0].",
)
@click.option(
    "--dynamic-batching/--no-dynamic-batching",
    default=None,
    help="Join waiting requests [default: where more than one row may share a run].",
)
@click.option("--delay", type=int, default=0, metavar="US", help="Microseconds that a request may wait for others.")
@click.option("--instances", type=int, default=1, show_default=True, help="Copies of the model side by side.")
@click.option("--kind", type=click.Choice(["auto", "cpu", "gpu"]), default="auto", show_default=True, help="Run on.")
@click.option("--warmup/--no-warmup", default=True, show_default=True, help="Run once before the first request.")
@options.sizes
@click.option(
    "--tensorrt", type=click.Choice(["fp32", "fp16", "bf16"]), help="Let TensorRT run it; less than fp32 is lossy."
)
@click.option(
    "--accept",
    type=click.Choice(["slim", "full"]),
    default="slim",
    show_default=True,
    help="Take the inputs of the pruned model, or those of its original.",
)
@click.option("--verify/--no-verify", default=True, show_default=True, help="Run what was written.")
@click.option("--force", is_flag=True, help="Replace a model that is there (its other versions stay).")
@options.as_json
def command(model: str, folder: str, to: str, sizes: tuple[tuple[str, int], ...], as_json: bool, **given: Any) -> int:
    """Write what a server needs to serve M.onnx: for Triton, DIR/NAME with its configuration.

    Requests are batched only where it was seen that the rows of a batch do not depend on each other. What was written
    is opened and run once, on its warm-up inputs.
    """
    from onnxdam.deploy import deploy

    with show.progress() as say:
        done = deploy(model, folder, to=to, sizes=dict(sizes), progress=say, **given)
    if as_json:
        show.as_json(done.to_dict())
    else:
        _print(done)
    return exits.DONE


def _print(done: Deployment) -> None:
    for file in done.files:
        show.line(f"{done.name}/{file}")
    batch = f"{done.max_batch_size} rows" if done.max_batch_size else "none"
    waiting = ", requests wait for each other" if done.dynamic_batching else ""
    show.line(f"batch: {batch}{waiting}")
    for note in done.notes:
        show.line(f"note: {note}")
    show.verdict(True, f"{done.path} written" + (", runs" if done.verified else ", not checked (--no-verify)"))
