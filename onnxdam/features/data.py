"""Data on its way into a pruned model, and results on their way out.

Whatever does not fit the manifest is refused, and the difference named: a model that gets the wrong columns answers
all the same, and nobody sees it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxdam.errors import InputError
from onnxdam.features import tables
from onnxdam.features.manifest import ANY_RANK, Dim, InputFeatures, Manifest, OutputFeatures, Shape, shown


def select(x: Any, manifest: Manifest, input: str | None = None) -> Any:
    """What the pruned model takes, from what its original took.

    Args:
        x: the data of one input: a numpy array, a torch tensor (either of the original's shape), a pandas DataFrame,
            an Arrow Table or RecordBatch (rows, features); or a mapping from input names to these. Columns of a table
            go by name: all of the original, in its order, or exactly those that are read, in the pruned model's order.
            By position they go only where the frame does not name its columns.
        manifest: of the pruned model.
        input: which input x is for; needed where the original has several.

    Returns:
        A torch tensor for a torch tensor, a numpy array otherwise, in the data's own dtype; a dict without the inputs
        that left for a mapping. Where the pruned model keeps the signature, the data as it is, checked.

    Raises:
        InputError: the data does not fit; the message names the input, and what differs.
    """
    _require_manifest(manifest)
    if not isinstance(x, Mapping):
        return _select(x, manifest.input(input), manifest.keep_signature)
    if input is not None:
        return select(_entry(x, input), manifest, input)
    unknown = [name for name in x if name not in {item.name for item in manifest.inputs}]
    if unknown:
        known = ", ".join(repr(item.name) for item in manifest.inputs)
        raise InputError(f"data: the model has no input {unknown[0]!r} (it has {known})")
    taken = [item for item in manifest.inputs if manifest.keep_signature or not item.left]
    return {item.name: _select(_entry(x, item.name), item, manifest.keep_signature) for item in taken}


def expand_outputs(y: Any, manifest: Manifest) -> Any:
    """What the original gave, from what the pruned model gives: constant slices are put back.

    Args:
        y: a mapping from output names to arrays (any outputs), a sequence of arrays (all outputs, in order), or one
            array where there is one output. numpy or torch.
        manifest: of the pruned model.

    Returns:
        As y, numpy for numpy and torch for torch.

    Raises:
        InputError: the results are not those of the pruned model; the message names the output, and what differs.
    """
    _require_manifest(manifest)
    if isinstance(y, Mapping):
        return {name: _expand(array, manifest.output(name)) for name, array in y.items()}
    if isinstance(y, Sequence):
        if len(y) != len(manifest.outputs):
            raise InputError(f"results: {len(y)} arrays, but the model has {len(manifest.outputs)} outputs")
        return [_expand(array, item) for array, item in zip(y, manifest.outputs, strict=True)]
    return _expand(y, manifest.output())


def _require_manifest(manifest: object) -> None:
    if not isinstance(manifest, Manifest):
        raise InputError(f"manifest: {type(manifest).__name__} is none; `onnxdam.features.load` reads it from a file")


# -------------------------------------------------------------------------------------------------------- inputs


def _entry(x: Mapping[str, Any], name: str) -> Any:
    if name not in x:
        raise InputError(f"data: nothing for input {name!r} (it has: {', '.join(map(repr, x)) or 'nothing'})")
    return x[name]


def _select(x: Any, item: InputFeatures, keep_signature: bool) -> Any:
    where = f"input {item.name!r}"
    if item.left and not keep_signature:
        raise InputError(f"{where}: nothing of it is read, and the pruned model does not take it; leave it away")
    if item.shape == ANY_RANK and isinstance(x, list):
        return x  # a sequence
    try:
        if tables.is_pandas(x) or tables.is_arrow(x):
            return _from_table(x, item, keep_signature)
        array = _array(x)
        _check_shape(array, item.shape, None if keep_signature else item.slim_shape)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    return array if keep_signature else _take(array, item)


def _from_table(table: Any, item: InputFeatures, keep_signature: bool) -> np.ndarray:
    if len(item.shape) != 2 or item.axes != (1,) or item.count is None:
        raise InputError(f"a table was given, but the model takes {shown(item.shape)}; pass an array")
    rows, columns = table.shape
    present = tables.column_names(table)
    read = range(item.count) if keep_signature else item.indices or ()
    if isinstance(item.shape[0], int) and rows != item.shape[0]:
        raise InputError(f"the table has {rows} rows, the model takes {item.shape[0]}")
    if present is None:
        if columns != item.count:
            raise InputError(f"the table has {columns} columns without names, the model has {item.count} features")
        return tables.to_numpy(table, read)
    if not item.names:
        raise InputError(
            "the table names its columns, but the manifest has no names to compare; make it with --feature-names, or "
            "pass an array to go by position"
        )
    if present == item.names:
        return tables.to_numpy(table, read)
    wanted = tuple(item.names[i] for i in read)
    if present == wanted:
        return tables.to_numpy(table, range(columns))
    if sorted(present) == sorted(wanted):
        raise InputError(_difference(present, wanted, "the pruned model"))
    raise InputError(_difference(present, item.names))


def _difference(present: Sequence[str], wanted: Sequence[str], whose: str = "the model") -> str:
    """Why these are not the columns that are wanted."""
    twice = [name for k, name in enumerate(present) if name in present[:k]]
    if twice:
        return f"the table has column {twice[0]!r} twice"
    missing, unknown = ([n for n in a if n not in set(b)] for a, b in ((wanted, present), (present, wanted)))
    parts = [f"lacks column {_some(missing)}"] if missing else []
    parts += [f"has column {_some(unknown)}, which the model does not know"] if unknown else []
    if parts:
        return "the table " + " and ".join(parts)
    at = next(k for k, (a, b) in enumerate(zip(present, wanted, strict=True)) if a != b)
    return f"the table has its columns in another order: {present[at]!r} at {at}, {whose} has {wanted[at]!r} there"


def _some(names: Sequence[str]) -> str:
    return repr(names[0]) + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _check_shape(array: Any, shape: Shape, slim_shape: Shape | None) -> None:
    if shape == ANY_RANK or _fits(array.shape, shape):
        return
    given = shown(tuple(array.shape))
    hint = ""
    if slim_shape is not None and _fits(array.shape, slim_shape):
        hint = "; this is the shape of the pruned model, so the features were selected already"
    elif len(array.shape) != len(shape):
        hint = f"; {len(array.shape)} axes instead of {len(shape)}"
    else:
        axis = next(a for a, (n, dim) in enumerate(zip(array.shape, shape, strict=True)) if not _same(n, dim))
        hint = f"; axis {axis} has {array.shape[axis]} entries instead of {shape[axis]}"
    raise InputError(f"the data has shape {given}, the model takes {shown(shape)}{hint}")


def _fits(sizes: Sequence[int], shape: Shape) -> bool:
    return len(sizes) == len(shape) and all(map(_same, sizes, shape))


def _same(size: int, dim: Dim) -> bool:
    return not isinstance(dim, int) or size == dim


def _take(array: Any, item: InputFeatures) -> Any:
    first = item.merged[0] if item.merged else -1
    for axis, picks in item.picks.items():
        if axis != first:
            array = _pick(array, axis, picks)
    if item.merged:
        sizes, end = array.shape, item.merged[-1] + 1
        array = array.reshape((*sizes[:first], math.prod(sizes[first:end]), *sizes[end:]))
        if first in item.picks:
            array = _pick(array, first, item.picks[first])
    return array


# ------------------------------------------------------------------------------------------------------- outputs


def _expand(y: Any, item: OutputFeatures) -> Any:
    if item.slim_shape == ANY_RANK:
        return y  # a sequence, or of unknown rank
    array = _array(y)
    if not _fits(array.shape, item.slim_shape):
        raise InputError(
            f"output {item.name!r}: the result has shape {shown(tuple(array.shape))}, the pruned model gives "
            f"{shown(item.slim_shape)}"
        )
    for axis, indices in item.kept.items():
        array = _put_back(array, axis, indices, item.constants[axis])
    return array


def _put_back(array: Any, axis: int, kept: Sequence[int], constants: Mapping[int, float]) -> Any:
    sizes = [*array.shape]
    sizes[axis] = len(kept) + len(constants)
    whole: Any = np.empty(sizes, array.dtype) if isinstance(array, np.ndarray) else array.new_empty(sizes)
    front = (slice(None),) * axis
    whole[(*front, list(kept))] = array
    for index, value in constants.items():
        whole[(*front, index)] = value
    return whole


# -------------------------------------------------------------------------------------------------------- arrays


def _array(x: Any) -> Any:
    """x as an array of numpy or torch; what numpy would have to guess a type for is refused."""
    torch = sys.modules.get("torch")
    if isinstance(x, np.ndarray | np.generic) or (torch is not None and isinstance(x, torch.Tensor)):
        return x
    if hasattr(x, "__array__"):
        return np.asarray(x)
    raise InputError(f"{type(x).__name__} is not taken; pass a numpy array, a torch tensor, a DataFrame or a Table")


def _pick(array: Any, axis: int, picks: np.ndarray) -> Any:
    if isinstance(array, np.ndarray):
        return np.take(array, picks, axis)
    return array.index_select(axis, sys.modules["torch"].from_numpy(picks).to(array.device))
