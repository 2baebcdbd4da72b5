"""onnxdam bench"""

from __future__ import annotations

import click

from . import options, show


@click.command("bench")
@click.argument("a", type=click.Path(), metavar="A.onnx")
@click.argument("b", type=click.Path(), metavar="B.onnx")
@options.provider
@click.option("--threads", type=click.IntRange(min=0), default=1, show_default=True, help="0: as ONNX Runtime likes.")
@click.option("--seconds", type=click.FloatRange(min=0.1), default=5.0, show_default=True, help="How long to measure.")
@options.sizes
@options.as_json
def command(
    a: str, b: str, provider: str, threads: int, seconds: float, sizes: tuple[tuple[str, int], ...], as_json: bool
) -> None:
    """Measure the latency of models A and B, interleaved, and the ratio of their medians.

    The interval is a 95 % bootstrap interval; where it contains 1 the result is "no significant difference".
    """
    from onnxdam.bench import bench

    with show.progress() as say:
        result = bench(a, b, provider=provider, threads=threads, seconds=seconds, sizes=dict(sizes), progress=say)
    if as_json:
        show.as_json(result.to_dict())
        return
    show.latency(result)
    show.verdict(True, f"B: {result.verdict}")
