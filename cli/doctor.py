"""onnxdam doctor"""

from __future__ import annotations

import click

from . import exits, options, show


@click.command("doctor")
@options.as_json
def command(as_json: bool) -> int:
    """Show versions, providers and instruction sets, and what is wrong with them."""
    from onnxdam.doctor import examine

    health = examine()
    if as_json:
        show.as_json(health.to_dict())
    else:
        rows = [
            *health.versions.items(),
            ("providers", ", ".join(health.providers) or "none"),
            ("instructions", ", ".join(health.instructions) or "unknown"),
            ("system", health.system),
        ]
        show.table("", ("what", "found"), rows)
        for problem in health.problems:
            show.line(f"problem: {problem}")
        show.verdict(health.passed, "nothing is wrong" if health.passed else "see above")
    return exits.DONE if health.passed else exits.CHECK_FAILED
