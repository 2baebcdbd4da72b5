"""onnxdam features"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import options, show

if TYPE_CHECKING:
    from onnxdam.features import Reading
    from onnxdam.features.ranking import Feature


class _Image(click.ParamType):
    name = "HxW[xC]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        parts = str(value).lower().split("x")
        if len(parts) not in (2, 3) or not all(part.isdecimal() and int(part) > 0 for part in parts):
            self.fail(f"{value!r} is not of the form HxW or HxWxC, such as 28x28", param, ctx)
        return tuple(map(int, parts))


@click.command("features")
@click.argument("model", metavar="M.onnx", type=click.Path())
@click.option("--input", "only", metavar="NAME", help="Only this input.")
@click.option("--top", default=10, show_default=True, metavar="N", type=click.IntRange(min=1), help="Rows at each end.")
@click.option("--names", metavar="NAMES.csv", multiple=True, help="Names of the features (INPUT=NAMES.csv).")
@click.option("--csv", "csv_to", metavar="F.csv", type=click.Path(), help="Write every feature, the most wanted first.")
@click.option("--png", "png_to", metavar="F.png", type=click.Path(), help="Write a heat map of an image's pixels.")
@click.option("--image", type=_Image(), help="The input is an image of this size, flattened (for --png).")
@click.option("--force", is_flag=True, help="Replace files that exist.")
@options.threshold
@options.strict
@options.as_json
def command(
    model: str,
    only: str | None,
    top: int,
    names: tuple[str, ...],
    csv_to: str | None,
    png_to: str | None,
    image: tuple[int, ...] | None,
    force: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Show which features of its inputs a model reads, and how much it asks for each.

    norm: root of the sum of squares of the first weights that read the feature. paths: how many places read it first.
    Of a model made by prune --inputs, the features of the original are listed, by its manifest.
    """
    from onnxdam import features
    from onnxdam.graph import io

    if image and not png_to:
        raise click.UsageError("--image says what the picture of --png looks like; name one")
    if csv_to and png_to and Path(csv_to).resolve() == Path(png_to).resolve():
        raise click.UsageError("--csv and --png name the same file")
    for path in filter(None, (csv_to, png_to)):
        io.check_output(Path(path), overwrite=force, sources=[model])
    given = options.feature_names(names)
    with show.progress() as say:
        say(f"looking at {model}")
        found = _only(features.rank(model, names=given, **asked), only)
    if png_to:
        features.picture(_pictured(found, png_to), png_to, size=image)
    if csv_to:
        _write_csv(csv_to, found)
    if as_json:
        show.as_json({"model": model, "inputs": [_to_dict(reading) for reading in found]})
        return
    for reading in found:
        _print(reading, top)
    for path in filter(None, (csv_to, png_to)):
        show.line(f"{path} written")


def _only(found: Sequence[Reading], name: str | None) -> list[Reading]:
    from onnxdam.errors import InputError

    chosen = [reading for reading in found if name in (None, reading.name)]
    if not chosen:
        raise InputError(f"--input: the model has no input {name!r} (it has {_listed(r.name for r in found)})")
    return chosen


def _pictured(found: Sequence[Reading], path: str) -> Reading:
    from onnxdam.errors import InputError

    ranked = [reading for reading in found if reading.axes] or list(found)
    if len(ranked) != 1:
        raise InputError(
            f"{path}: one picture shows one input; choose it with --input ({_listed(r.name for r in ranked)})"
        )
    return ranked[0]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names)) or "none"


# ------------------------------------------------------------------------------------------------------- results


def _print(reading: Reading, top: int) -> None:
    from onnxdam.features.manifest import shown

    head = f"{reading.name} {shown(reading.shape)}"
    if not reading.axes:
        how = (
            f"read as a whole by {_readers(reading)}" if reading.readers else "has no features that weights tell apart"
        )
        show.line(f"{head}: {how}")
        return
    read, all_of_them = int(reading.read.sum()), len(reading.read)
    along = f"axis {reading.axes[0]}" if len(reading.axes) == 1 else f"axes {', '.join(map(str, reading.axes))}"
    show.line(f"{head}: {read} of {all_of_them} features are read, along {along}, first by {_readers(reading)}")
    order = reading.order[:read]
    shown_all = read <= 2 * top
    rows = [_row(reading, rank, f) for rank, f in enumerate(reading.features(order if shown_all else order[:top]), 1)]
    if not shown_all:
        rows.append(("...", *[""] * (len(rows[0]) - 1)))
        rows += [_row(reading, rank, f) for rank, f in enumerate(reading.features(order[-top:]), read - top + 1)]
    if rows:
        columns = ("rank", "feature", *(["name"] if reading.names else []), "norm", "paths")
        show.table("", columns, rows)
    if read < all_of_them:
        show.line(f"not read: {_unread(reading)}")
    stuck = int((reading.kept & ~reading.read).sum())
    if stuck:
        show.line(f"{stuck} of these stay all the same: features leave together here (whole rows, groups)")
    show.line()


def _row(reading: Reading, rank: int, feature: Feature) -> tuple[str, ...]:
    norm = "-" if feature.norm is None else f"{feature.norm:.4g}"
    return (str(rank), _place(feature), *([feature.name] if reading.names else []), norm, str(feature.paths))


def _place(feature: Feature) -> str:
    return ", ".join(map(str, feature.position))


def _readers(reading: Reading, most: int = 3) -> str:
    more = len(reading.readers) - most
    return ", ".join(reading.readers[:most]) + (f" and {more} more" if more > 0 else "") or "nothing"


def _unread(reading: Reading, most: int = 24) -> str:
    """Names, or runs of indices; not all where they are many."""
    gone = [i for i in range(len(reading.read)) if not reading.read[i]]
    parts = [reading.names[i] for i in gone] if reading.names else _runs(gone)
    return ", ".join(parts[:most]) + (f" and {len(parts) - most} more" if len(parts) > most else "")


def _runs(indices: Sequence[int]) -> list[str]:
    """0-3, 7, 9-12"""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return [str(a) if a == b else f"{a}-{b}" for a, b in runs]


def _to_dict(reading: Reading) -> dict[str, Any]:
    return {
        "name": reading.name,
        "shape": list(reading.shape),
        "axes": list(reading.axes),
        "count": len(reading.read),
        "read": int(reading.read.sum()),
        "readers": list(reading.readers),
        "features": [
            {
                "index": f.index,
                "position": list(f.position),
                "name": f.name,
                "read": f.read,
                "paths": f.paths,
                "norm": f.norm,
            }
            for f in reading.features()
        ],
    }


def _write_csv(path: str, found: Sequence[Reading]) -> None:
    import csv

    from onnxdam.graph import io

    with io.staged(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("input", "rank", "index", "position", "name", "read", "paths", "norm"))
        for reading in found:
            for rank, f in enumerate(reading.features(), 1):
                norm = "" if f.norm is None else repr(f.norm)
                place = " ".join(map(str, f.position))
                writer.writerow((reading.name, rank, f.index, place, f.name, int(f.read), f.paths, norm))
