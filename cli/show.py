"""Terminal output: results on stdout, progress on stderr. The only module that knows rich."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table on stdout; all but the first column are right-aligned if every row has numbers there."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(_numeric(row[index]) for row in rows)
        shown.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(Text(str(cell)) for cell in row))
    console = Console(file=sys.stdout, highlight=False, soft_wrap=False, width=None if sys.stdout.isatty() else 120)
    if title:
        console.print(Text(title, style="bold"), soft_wrap=True)
    console.print(shown)


def _numeric(cell: Any) -> bool:
    return str(cell)[:1].isdigit() or str(cell) in ("", "?", "-")


def line(text: str = "") -> None:
    """A line of the result."""
    click.echo(text)


def as_json(data: Any) -> None:
    """The result for machines: one object, strict JSON."""
    click.echo(json.dumps(plain(data), indent=1, allow_nan=False))


def plain(data: Any) -> Any:
    """Replaces what JSON cannot hold: infinities and NaN by their names, tuples and arrays by lists."""
    if isinstance(data, dict):
        return {str(key): plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple | set | frozenset):
        return [plain(value) for value in data]
    if isinstance(data, float) and (data != data or data in (float("inf"), float("-inf"))):
        return str(data)
    if hasattr(data, "tolist"):
        return plain(data.tolist())
    return data if isinstance(data, str | int | float | bool) or data is None else str(data)


def verdict(passed: bool, text: str = "") -> None:
    """The last line."""
    word = click.style("PASSED", fg="green") if passed else click.style("FAILED", fg="red")
    click.echo(f"{word}  {text}" if text else word)


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """What is being done, on stderr, while it is being done; silent where nobody watches."""
    if not sys.stderr.isatty():
        yield lambda text: None
        return
    from rich.console import Console

    with Console(stderr=True).status("starting") as status:
        yield lambda text: status.update(text)


@contextlib.contextmanager
def bar() -> Iterator[Callable[[int, int | None, str], None] | None]:
    """A bar on stderr, drawn by calling it with what is done, of how much (None: unknown), and a text.

    None where nobody watches.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (BarColumn(20), TaskProgressColumn(), TimeRemainingColumn(compact=True), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as drawn:
        task = drawn.add_task("starting", total=None)
        yield lambda done, total, text: drawn.update(task, completed=done, total=total, description=text)


def size(nbytes: float) -> str:
    """12.3 MB."""
    for unit in ("B", "kB", "MB"):
        if nbytes < 1000:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.1f} GB"


def number(value: int | None) -> str:
    """11,684,712; a question mark for what is not known."""
    return "?" if value is None else f"{value:,}"


def millis(seconds: float) -> str:
    """1.23 ms."""
    return f"{seconds * 1e3:.3g} ms"


def change(before: float, after: float) -> str:
    """-73.9 %; how much is left to say when there was nothing."""
    return "" if not before else f"{100 * (after - before) / before:+.1f} %"


def cases(made: Sequence[Any]) -> None:
    """The comparisons of a verification report."""
    rows = []
    for case in made:
        sizes = ", ".join(f"{k} = {v}" for k, v in case.sizes.items()) or "fixed"
        verdict = "equal" if case.passed else "DIFFERS"
        rows.append((sizes, case.inputs, case.level, f"{case.error:.1e}", f"{case.allowed:.0e}", verdict))
    if rows:
        table("", ("sizes", "inputs", "optimisations", "error", "allowed", ""), rows)


def latency(result: Any) -> None:
    """Two latencies and their ratio."""
    sizes = ", ".join(f"{k} = {v}" for k, v in result.sizes.items()) or "fixed"
    threads = f"{result.threads} thread{'s' if result.threads != 1 else ''}" if result.threads else "all threads"
    table(
        f"latency ({result.provider}, {threads}, sizes {sizes}, {result.runs} runs each)",
        ("", "A", "B", "B / A", "95 % interval"),
        [
            (
                "median",
                millis(result.a),
                millis(result.b),
                f"{result.ratio:.3f}",
                f"{result.low:.3f} to {result.high:.3f}",
            )
        ],
    )
