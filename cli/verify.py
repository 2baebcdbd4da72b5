"""onnxdam verify"""

from __future__ import annotations

import click

from . import exits, options, show


@click.command("verify")
@click.argument("a", type=click.Path(), metavar="A.onnx")
@click.argument("b", type=click.Path(), metavar="B.onnx")
@options.data
@options.provider
@click.option("--rtol", type=click.FloatRange(min=0.0), help="Relative tolerance [default: by the float type].")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the random inputs.")
@options.as_json
def command(a: str, b: str, data: str | None, provider: str, rtol: float | None, seed: int, as_json: bool) -> int:
    """Check that model B computes what model A computes.

    onnx.checker on B, then both in ONNX Runtime, graph optimisations off and on, at two or more sizes of every dynamic
    dimension. When they differ, the first node whose result differs is named.
    """
    from onnxdam.verify import verify

    with show.progress() as say:
        report = verify(a, b, data=data, provider=provider, rtol=rtol, seed=seed, progress=say)
    if as_json:
        show.as_json(report.to_dict())
    else:
        show.cases(report.cases)
        if report.text:
            show.line(report.text)
        show.verdict(report.passed, "the models are equal" if report.passed else "the models differ")
    return exits.DONE if report.passed else exits.CHECK_FAILED
