"""Random inputs for a model that nobody told us anything about.

Sizes: a dynamic dimension is a name (or nothing), and equal names are equal sizes. Names that are sums of others
("past + 1") follow them. Values: floats of two kinds, integers inside the table that they index, if they index one.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from onnxdam.errors import InputError, UnsupportedError
from onnxdam.rules.indices import index_bound

Sizes = dict[str, int]
Feed = dict[str, np.ndarray]

# standard normal; uniform in [0, 10), where offsets show; normal of deviation 0.1, where little saturates
NORMAL, POSITIVE, QUIET = "normal", "positive", "quiet"
LARGEST = 2**30  # entries of one input; 8 GB of random numbers
_BATCHES = (1, 2, 3)
_EXTENTS = (16, 64, 32, 224, 5, 128, 1, 256, 320, 512, 640, 2048)


@dataclass(frozen=True)
class Input:
    """One graph input.

    Attributes:
        name: its name.
        dtype: numpy name of its type.
        dims: int where fixed, the symbol where dynamic; unnamed ones are called NAME.AXIS.
        bound: values must lie in [0, bound), because they index something of that many rows; None if they do not.
    """

    name: str
    dtype: str
    dims: tuple[int | str, ...]
    bound: int | None

    @property
    def is_mask(self) -> bool:
        return "mask" in self.name.lower()


def describe(skeleton: onnx.ModelProto) -> list[Input]:
    """The inputs that a caller has to give.

    Raises:
        UnsupportedError: an input is a sequence, an optional, a map or of a type that numpy does not have.
    """
    graph = skeleton.graph
    stored = {tensor.name for tensor in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    return [_describe(value, graph) for value in graph.input if value.name not in stored]


def _describe(value: onnx.ValueInfoProto, graph: onnx.GraphProto) -> Input:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        raise UnsupportedError(f"input {value.name!r} is a {str(kind).removesuffix('_type')}: no random data for it")
    tensor = value.type.tensor_type
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    except (KeyError, TypeError, ValueError):
        raise UnsupportedError(f"input {value.name!r} has element type {tensor.elem_type}: no random data") from None
    dims: list[int | str] = []
    for axis, dim in enumerate(tensor.shape.dim):
        fixed = dim.WhichOneof("value") == "dim_value" and dim.dim_value > 0
        dims.append(dim.dim_value if fixed else (dim.dim_param or f"{value.name}.{axis}"))
    return Input(value.name, dtype.name, tuple(dims), index_bound(graph, value.name))


# --------------------------------------------------------------------------------------------------------- sizes


def symbols(inputs: list[Input]) -> tuple[list[str], list[str]]:
    """The free dynamic dimensions: those that are the first axis of some input, and the others."""
    dims = list(dict.fromkeys(d for i in inputs for d in i.dims if isinstance(d, str)))
    named = [d for d in dims if not _follows(d, dims)]
    first = [i.dims[0] for i in inputs if i.dims and isinstance(i.dims[0], str) and i.dims[0] in named]
    first = list(dict.fromkeys(first))
    return [str(d) for d in first], [d for d in dict.fromkeys(named) if d not in first]


def candidates(inputs: list[Input]) -> Iterator[Sizes]:
    """Assignments worth trying, the likeliest first."""
    batch, rest = symbols(inputs)
    if not batch and not rest:
        yield {}
        return
    for extent in _EXTENTS if rest else (1,):
        for size in _BATCHES if batch else (1,):
            yield dict.fromkeys(batch, size) | dict.fromkeys(rest, extent)
    for size in (1, 2, 4, 3, 8):
        yield dict.fromkeys(batch + rest, size)
    for size in (16, 64, 32, 5):  # a batch that must be 1, of all but the first input's first axis
        yield dict.fromkeys(batch + rest, 1) | dict.fromkeys(rest[-1:], size)


def variations(sizes: Sizes, inputs: list[Input]) -> Iterator[Sizes]:
    """Other sizes than the given ones: all dimensions changed, then one at a time."""
    batch, rest = symbols(inputs)
    for factor in (0.5, 2):
        changed = {d: max(1, int(sizes[d] * factor)) for d in rest} | {d: sizes[d] + 1 for d in batch}
        yield sizes | changed
    for name in batch + rest:
        options = (1, 2, 3, 4) if name in batch else (sizes[name] // 2, sizes[name] * 2, sizes[name] + 1, *_EXTENTS)
        for size in options:
            if size > 0 and size != sizes[name]:
                yield sizes | {name: size}


def shape_of(item: Input, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The shape of one input under an assignment of sizes."""

    def extent(dim: int | str) -> int:
        if isinstance(dim, int):
            return dim
        if dim in sizes:
            return sizes[dim]
        tree = _expression(dim)
        return max(1, _evaluate(tree, sizes)) if tree is not None else 1

    return tuple(map(extent, item.dims))


_ARITHMETIC: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.floordiv,
    ast.FloorDiv: operator.floordiv,
}


def _follows(dim: str, dims: list[str]) -> bool:
    """Whether a dimension is a sum or product of others ("batch-size" is a name, unless "batch" and "size" are too)."""
    tree = _expression(dim)
    names = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name)] if tree is not None else []
    return bool(names) and all(name in dims for name in names)


def _expression(dim: str) -> ast.expr | None:
    """The syntax tree of "past + 1"; None for a plain name."""
    try:
        tree = ast.parse(dim, mode="eval").body
    except SyntaxError:
        return None
    return tree if isinstance(tree, ast.BinOp) else None


def _evaluate(tree: ast.expr, sizes: Mapping[str, int]) -> int:
    if isinstance(tree, ast.BinOp) and type(tree.op) in _ARITHMETIC:
        left, right = _evaluate(tree.left, sizes), _evaluate(tree.right, sizes)
        return (
            _ARITHMETIC[type(tree.op)](left, right) if right or not isinstance(tree.op, ast.Div | ast.FloorDiv) else 1
        )
    if isinstance(tree, ast.Name):
        return sizes.get(tree.id, 1)
    if isinstance(tree, ast.Constant) and isinstance(tree.value, int):
        return tree.value
    return 1


# -------------------------------------------------------------------------------------------------------- values


def random_feed(inputs: list[Input], sizes: Mapping[str, int], kind: str, seed: int, small: bool = False) -> Feed:
    """Random content.

    Args:
        inputs: what `describe` said.
        sizes: of the dynamic dimensions.
        kind: NORMAL, POSITIVE or QUIET.
        seed: of the generator.
        small: integers that index nothing we know of stay in {0, 1}.

    Raises:
        InputError: the sizes ask for more data than memory is likely to hold.
    """
    rng = np.random.default_rng(seed)
    shapes = {item.name: shape_of(item, sizes) for item in inputs}
    for name, shape in shapes.items():
        if math.prod(shape) > LARGEST:
            raise InputError(f"input {name!r} of shape {list(shape)} is too large to make up data for")
    return {item.name: np.asarray(_values(item, shapes[item.name], kind, rng, small)) for item in inputs}


def _values(item: Input, shape: tuple[int, ...], kind: str, rng: np.random.Generator, small: bool) -> np.ndarray:
    if item.dtype == "object":
        return rng.choice(np.array(["a", "bc", "", "onnx"], dtype=object), shape)
    if item.is_mask and item.bound is None:
        keep = np.ones(shape)
        if keep.ndim and shape[-1] > 1:
            keep[..., -max(1, shape[-1] // 4) :] = 0  # padding at the end, never a row without anything
        return keep.astype(item.dtype)
    if item.bound is not None:
        return rng.integers(0, max(1, item.bound), shape).astype(item.dtype)
    if item.dtype == "bool":
        return rng.random(shape) < 0.5
    dtype = np.dtype(item.dtype)
    if dtype.kind in "iu":
        if small:
            return rng.integers(0, 2, shape).astype(dtype)
        limits = np.iinfo(dtype) if dtype.itemsize == 1 else None
        return rng.integers(limits.min if limits else 0, int(limits.max) + 1 if limits else 8, shape).astype(dtype)
    values = rng.uniform(0, 10, shape) if kind == POSITIVE else rng.normal(0, 0.1 if kind == QUIET else 1, shape)
    return np.asarray(values).astype(dtype)


# ---------------------------------------------------------------------------------------------------------- data


def from_data(inputs: list[Input], data: Mapping[str, np.ndarray] | str | Path) -> list[tuple[Sizes, Feed]]:
    """Feeds made of the user's rows: two batch sizes where the first axis is dynamic.

    Args:
        inputs: what `describe` said.
        data: input name -> array with the rows along axis 0, or the path of an .npz file of such arrays.

    Raises:
        InputError: the file cannot be read, an input is missing, or an array does not fit.
    """
    arrays = read_npz(data) if isinstance(data, str | Path) else dict(data)
    missing = [item.name for item in inputs if item.name not in arrays]
    if missing:
        raise InputError(f"data: no array for input {missing[0]!r} (it has: {', '.join(sorted(arrays)) or 'nothing'})")
    for item in inputs:
        _check_array(item, arrays[item.name])
    dynamic = [i for i in inputs if i.dims and isinstance(i.dims[0], str)]
    rows = min((len(arrays[i.name]) for i in dynamic), default=0)
    batches = sorted({min(rows, 16), min(rows, 3)}, reverse=True) if dynamic else [0]
    feeds = []
    for batch in batches:
        feed: Feed = {}
        for item in inputs:
            array = np.asarray(arrays[item.name]).astype(item.dtype)
            feed[item.name] = array[: batch if item in dynamic else (item.dims[0] if item.dims else None)]
            if not item.dims:
                feed[item.name] = array
        feeds.append((_sizes_of(inputs, feed), feed))
    return feeds


def _check_array(item: Input, array: np.ndarray) -> None:
    array = np.asarray(array)
    fits = array.ndim == len(item.dims) and all(
        isinstance(want, str) or (have >= want if axis == 0 else have == want)
        for axis, (want, have) in enumerate(zip(item.dims, array.shape, strict=True))
    )
    if not fits or 0 in array.shape:
        wanted = [str(d) for d in item.dims]
        raise InputError(
            f"data: array {item.name!r} has shape {list(array.shape)}, the model takes [{', '.join(wanted)}]"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(f"data: array {item.name!r} holds NaN or infinity; a comparison of those would prove nothing")


def _sizes_of(inputs: list[Input], feed: Feed) -> Sizes:
    return {
        dim: size
        for item in inputs
        for dim, size in zip(item.dims, feed[item.name].shape, strict=True)
        if isinstance(dim, str)
    }


def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file; pickles are refused.

    Raises:
        InputError: it is not there or not an .npz file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except Exception as error:
        raise InputError(f"{path}: is not an .npz file of plain arrays ({type(error).__name__})") from None
