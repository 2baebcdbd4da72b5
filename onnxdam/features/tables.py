"""Tables with named columns: pandas and Arrow, recognised without importing either."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxdam.errors import InputError


def read_names(source: Any, count: int | None = None) -> tuple[str, ...]:
    """Names of features.

    Args:
        source: a CSV file whose first row holds the names (rows of data may follow), a text file of one name per line,
            a pandas DataFrame, an Arrow Table, RecordBatch or Schema, or the names themselves.
        count: how many there must be; None: any number.

    Raises:
        InputError: the file cannot be read, a name is empty or there twice, or their number is another.
    """
    where = "names"
    if isinstance(source, str | os.PathLike):
        where, found = str(source), _in_file(Path(source))
    elif is_arrow(source) or _is_a(source, "pyarrow", "Schema"):
        found = list(_arrow_schema(source).names)
    elif is_pandas(source):
        names = column_names(source)
        if names is None:
            raise InputError("names: the columns of the frame have no names, only numbers")
        found = list(names)
    elif isinstance(source, Iterable):
        found = [str(name) for name in source]
    else:
        raise InputError(f"names: {type(source).__name__} is no file, table or sequence of names")
    if count is not None and len(found) != count:
        raise InputError(f"{where}: {len(found)} names for {count} features; every feature needs one")
    check_names(found, where)
    return tuple(found)


def check_names(names: Sequence[str], where: str) -> None:
    """Raises InputError where names are none, empty or not unique."""
    if not names:
        raise InputError(f"{where}: there are no names")
    seen: dict[str, int] = {}
    for position, name in enumerate(names):
        if not name:
            raise InputError(f"{where}: name {position} is empty")
        if name in seen:
            raise InputError(f"{where}: the name {name!r} is there twice, at {seen[name]} and {position}")
        seen[name] = position


def _in_file(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file) if row]
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (UnicodeDecodeError, csv.Error):
        raise InputError(f"{path}: is not a CSV file of names") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    one_each = len(rows) > 1 and all(len(row) == 1 for row in rows)
    return [cell.strip() for cell in ([row[0] for row in rows] if one_each else rows[0] if rows else [])]


# -------------------------------------------------------------------------------------------------------- tables


def is_pandas(x: Any) -> bool:
    """Whether x is a DataFrame."""
    return _is_a(x, "pandas", "DataFrame")


def is_arrow(x: Any) -> bool:
    """Whether x is a Table or RecordBatch."""
    return _is_a(x, "pyarrow", "Table", "RecordBatch")


def _is_a(x: Any, module: str, *classes: str) -> bool:
    loaded = sys.modules.get(module)  # whoever holds such an object has imported it
    return loaded is not None and isinstance(x, tuple(getattr(loaded, name) for name in classes))


def _arrow_schema(source: Any) -> Any:
    return source.schema if is_arrow(source) else source


def column_names(table: Any) -> tuple[str, ...] | None:
    """The names of a table's columns; None for a frame that only numbers them from 0."""
    if is_arrow(table):
        return tuple(table.schema.names)
    columns = list(table.columns)
    if columns == list(range(len(columns))):
        return None
    return tuple(str(name) for name in columns)


def to_numpy(table: Any, columns: Sequence[int]) -> np.ndarray:
    """Some columns of a table, in this order, as an array (rows, columns); the others are never converted.

    Raises:
        InputError: a column has missing values (other than NaN), or texts stand beside numbers.
    """
    if is_arrow(table):
        parts = [_arrow_column(table, index) for index in columns]
    else:
        parts = [_pandas_column(table, index) for index in columns]
    texts = [k for k, part in enumerate(parts) if part.dtype.kind not in "biuf"]
    if texts and len(texts) < len(parts):
        name = (column_names(table) or range(table.shape[1]))[columns[texts[0]]]
        raise InputError(f"column {name!r} holds no numbers, but others do; an input has one type")
    return np.stack(parts, axis=1) if parts else np.empty((len(table), 0))


def _arrow_column(table: Any, index: int) -> np.ndarray:
    column = table.column(index)
    if column.null_count:
        raise InputError(
            f"column {table.schema.names[index]!r} has {column.null_count} missing values; fill them first"
        )
    array: np.ndarray = np.asarray(column.to_numpy(zero_copy_only=False))
    return array


def _pandas_column(table: Any, index: int) -> np.ndarray:
    column = table.iloc[:, index]
    array = np.asarray(column.to_numpy())
    numbers = isinstance(column.dtype, np.dtype) and array.dtype.kind != "O"  # among these a missing value is a NaN
    if not numbers and (missing := int(column.isna().sum())):
        raise InputError(f"column {table.columns[index]!r} has {missing} missing values; fill them first")
    if array.dtype.kind == "O" and not all(isinstance(value, str) for value in array):
        try:
            return array.astype(np.float64)  # decimals, numbers of several types
        except (TypeError, ValueError):
            raise InputError(f"column {table.columns[index]!r} holds neither numbers nor texts") from None
    return array
