"""Data for the recipes: images and classes, citation graphs, ratings; from .npz files without pickles.

    images     x_train, y_train, x_test, y_test                          bytes (MNIST, Fashion-MNIST) or numbers;
                                                                         colours last or first
               jpeg_train, off_train, y_train, jpeg_test, ...            JPEG files end to end and where each begins
               jpeg, off, y, split                                       the same; split 0: for training, 1: for testing
    graph      feat_indptr, feat_indices, edges, y, idx_train, ...       binary features in CSR form, undirected edges
    ratings    M, Otraining, Otest                                       users x items, masks

Without a file there is what comes with scikit-learn, so that a recipe runs without any download.
"""

from __future__ import annotations

import functools
import io
import itertools
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from onnxdam.errors import InputError

Array = npt.NDArray[Any]

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
JPEG_HALVES = ("jpeg_train", "off_train", "y_train", "jpeg_test", "off_test", "y_test")
JPEG_SPLIT = ("jpeg", "off", "y", "split")
GRAPH = ("feat_indptr", "feat_indices", "edges", "y", "idx_train", "idx_val", "idx_test")
RATINGS = ("M", "Otraining", "Otest")
NUMBERS = "biuf"  # kinds of arrays
COLOURS = (1, 3, 4)
LARGEST = 16  # of numbers that look scaled


@dataclass(frozen=True)
class Classes:
    """Samples and their classes, split three ways.

    Attributes:
        x_train, x_valid, x_test: in [0, 1] where they were bytes; shape (samples, features), or (samples, channels,
            height, width).
        y_train, y_valid, y_test: class numbers, shape (samples,).
    """

    x_train: Tensor
    y_train: Tensor
    x_valid: Tensor
    y_valid: Tensor
    x_test: Tensor
    y_test: Tensor

    @property
    def features(self) -> int:
        """Length of a feature vector, or channels of an image."""
        return self.x_train.shape[1]

    @property
    def classes(self) -> int:
        return 1 + max(int(y.max()) for y in (self.y_train, self.y_valid, self.y_test) if len(y))


@dataclass(frozen=True)
class Graph:
    """One graph whose nodes have features and classes.

    Attributes:
        x: features, each row sums to 1 (or is 0), shape (nodes, features).
        edges: undirected, each once, shape (edges, 2).
        y: class numbers, shape (nodes,); -1: unknown.
        train, valid, test: nodes of the three splits.
    """

    x: Tensor
    edges: Tensor
    y: Tensor
    train: Tensor
    valid: Tensor
    test: Tensor

    @property
    def classes(self) -> int:
        return 1 + int(self.y.max())


@dataclass(frozen=True)
class Ratings:
    """Ratings of items by users.

    Attributes:
        matrix: users x items, float, 0 where unknown.
        train, valid, test: (user, item) of the ratings of the three splits, shape (ratings, 2).
        values: the ratings that occur in training, ascending.
    """

    matrix: Tensor
    train: Tensor
    valid: Tensor
    test: Tensor
    values: Tensor


# -- images ----------------------------------------------------------------------------------------------------------
def load_classes(path: str | Path | None = None, valid: float = 1 / 12, *, image: bool = False) -> Classes:
    """Images, or any feature vectors, and their classes.

    Args:
        path: an .npz of one of the three kinds above; None: the 8x8 digits of scikit-learn, every fifth for testing.
        valid: share of the training samples that is kept for validation: the last ones. Samples that are sorted by
            class are shuffled first, with a fixed seed.
        image: leave the shape (channels, height, width); otherwise samples are flat vectors.

    Raises:
        InputError: no such file, other arrays in it, or arrays that do not fit together.
    """
    if not 0 < valid < 1:
        raise InputError(f"data: the share for validation must lie between 0 and 1, not be {valid}")
    samples = _digits() if path is None else _images(Path(path))
    if image and samples[0].ndim == 2:
        raise InputError(f"{path}: images are wanted, not feature vectors of shape {samples[0].shape}")
    x_train, x_test = (_scaled(x, image) for x in samples[::2])
    y_train, y_test = (torch.from_numpy(y.astype(np.int64)) for y in samples[1::2])
    count = len(x_train)
    cut = count - round(valid * count)
    if not 0 < cut < count:
        raise InputError(f"{path or 'digits'}: {count} training samples are too few to keep 1 in {1 / valid:g} of them "
                         "for validation")  # fmt: skip
    if (y_train.diff() >= 0).all():
        order = torch.from_numpy(np.random.default_rng(0).permutation(count))
        x_train, y_train = x_train[order], y_train[order]
    return Classes(x_train[:cut], y_train[:cut], x_train[cut:], y_train[cut:], x_test, y_test)


def _digits() -> tuple[Array, Array, Array, Array]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    x, y, cut = digits.images[order] / 16, digits.target[order], len(order) * 4 // 5
    return x[:cut], y[:cut], x[cut:], y[cut:]


def _images(path: Path) -> tuple[Array, Array, Array, Array]:
    content = read(path, ARRAYS, JPEG_HALVES, JPEG_SPLIT)
    x_train: Array
    x_test: Array
    if "x_train" in content:
        x_train, y_train, x_test, y_test = (content[k] for k in ARRAYS)
    elif "jpeg_train" in content:
        x_train, x_test = (_decoded(path, f"jpeg_{half}", f"off_{half}") for half in ("train", "test"))
        y_train, y_test = content["y_train"], content["y_test"]
    else:
        images, y, split = _decoded(path, "jpeg", "off"), content["y"], content["split"]
        if split.shape != (len(images),) or y.shape != split.shape or not np.isin(split, (0, 1)).all():
            raise InputError(f"{path}: split and y want one entry per image ({len(images)}), split 0 or 1")
        x_train, x_test, y_train, y_test = images[split == 0], images[split == 1], y[split == 0], y[split == 1]
    for half, x, y in (("train", x_train, y_train), ("test", x_test, y_test)):
        if not 2 <= x.ndim <= 4 or x.shape[1:] != x_train.shape[1:] or 0 in x.shape[1:]:
            raise InputError(f"{path}: x_{half} has shape {x.shape}; (samples, features), (samples, height, width) or "
                             "(samples, height, width, colours) is wanted, alike for training and testing")  # fmt: skip
        if y.shape != (len(x),) or y.dtype.kind not in "iu" or (y < 0).any():
            raise InputError(f"{path}: y_{half} has shape {y.shape} and type {y.dtype}; one class number, 0 or more, "
                             f"for each of the {len(x)} samples is wanted")  # fmt: skip
        if not len(x):
            raise InputError(f"{path}: x_{half} holds no samples")
        if x.dtype.kind == "f" and not (np.abs(x) <= np.finfo(np.float32).max).all():
            raise InputError(f"{path}: x_{half} has values that are not finite, or beyond what float32 can hold")
    _check_labels(path, y_train, y_test)
    low, high = x_train.min(), x_train.max()
    if x_train.dtype != np.uint8 and max(-float(low), float(high)) > LARGEST:
        warnings.warn(f"{path}: x_train reaches from {low:g} to {high:g} and is taken as it is; only bytes (uint8) are "
                      "scaled to [0, 1]", stacklevel=2)  # fmt: skip
    return x_train, y_train, x_test, y_test


def _check_labels(path: Path, y_train: Array, y_test: Array) -> None:
    known = np.unique(y_train)
    if len(known) < 2:
        raise InputError(f"{path}: y_train holds only the class {known[0]}; there is nothing to tell apart")
    if known[-1] >= max(len(y_train), 2 * len(known)):
        raise InputError(
            f"{path}: y_train holds {len(known)} classes with numbers up to {known[-1]}; number them from 0"
        )
    if len(strange := np.setdiff1d(y_test, known)):
        raise InputError(f"{path}: y_test has the class {strange[0]}, which y_train lacks")


def _scaled(x: Array, image: bool) -> Tensor:
    """Bytes to [0, 1]; images with their colours first."""
    values = x / np.float32(255) if x.dtype == np.uint8 else x
    if image and x.ndim == 3:
        values = values[:, None]
    elif image:
        first = x.shape[1] in COLOURS and x.shape[-1] not in COLOURS
        values = values if first else np.moveaxis(values, -1, 1)
    else:
        values = values.reshape(len(x), -1)
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def _decoded(path: Path, jpeg: str, offsets: str) -> npt.NDArray[np.uint8]:
    return _decode(path, jpeg, offsets, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _decode(path: Path, jpeg: str, offsets: str, changed: int) -> npt.NDArray[np.uint8]:
    """All images of an archive as bytes, shape (images, height, width, 3); remembered while the file is unchanged."""
    try:
        from PIL import Image
    except ImportError:
        raise InputError(f"{path}: its images are JPEG files; to read them: pip install pillow") from None
    content = read(path, (jpeg, offsets))
    data, off = content[jpeg], content[offsets]
    if data.dtype != np.uint8 or data.ndim != 1 or off.ndim != 1 or off.dtype.kind not in "iu" or len(off) < 2:
        raise InputError(f"{path}: {jpeg} must be bytes and {offsets} whole numbers, each with one axis")
    off = off.astype(np.int64)
    if off[0] != 0 or off[-1] != len(data) or (np.diff(off) <= 0).any():
        raise InputError(f"{path}: {offsets} must rise from 0 to the length of {jpeg}, {len(data)}")
    raw, images = data.tobytes(), None
    for i, (start, end) in enumerate(itertools.pairwise(off)):
        try:
            with Image.open(io.BytesIO(raw[start:end]), formats=("JPEG",)) as file:
                pixels = np.asarray(file.convert("RGB"))
        except (OSError, ValueError, SyntaxError) as error:
            raise InputError(f"{path}: image {i} of {jpeg} cannot be decoded ({error})") from None
        images = np.empty((len(off) - 1, *pixels.shape), np.uint8) if images is None else images
        if pixels.shape != images.shape[1:]:
            raise InputError(f"{path}: image {i} of {jpeg} is {pixels.shape[:2]}, the first one {images.shape[1:3]}")
        images[i] = pixels
    assert images is not None
    return images


# -- graphs ----------------------------------------------------------------------------------------------------------
def load_graph(path: str | Path | None = None) -> Graph:
    """A citation graph (Cora, Citeseer).

    Args:
        path: an .npz of the kind above. None: a graph made of the digits of scikit-learn, not a citation graph: nodes
            are the 1797 images, features their pixels, and each is joined to its four nearest neighbours.

    Raises:
        InputError: no such file, other arrays in it, or arrays that do not fit together.
    """
    if path is None:
        return _digits_graph()
    content = read(path, GRAPH)
    indptr, indices, edges, y = (content[k] for k in GRAPH[:4])
    nodes = y.size
    for name in GRAPH:
        if content[name].dtype.kind not in "iu" or (content[name].ndim != 1 and name != "edges"):
            raise InputError(f"{path}: {name} must be whole numbers with one axis, not {content[name].dtype} of shape "
                             f"{content[name].shape}")  # fmt: skip
    if indptr.shape != (nodes + 1,) or indptr[0] != 0 or indptr[-1] != len(indices) or (np.diff(indptr) < 0).any():
        raise InputError(f"{path}: feat_indptr must rise from 0 to {len(indices)}, one entry more than {nodes} nodes")
    if edges.ndim != 2 or edges.shape[1] != 2:
        raise InputError(f"{path}: edges has shape {edges.shape}; (edges, 2) is wanted")
    for name in ("edges", "idx_train", "idx_val", "idx_test"):
        if not content[name].size or content[name].min() < 0 or content[name].max() >= nodes:
            raise InputError(f"{path}: {name} must hold node numbers from 0 to {nodes - 1}")
    splits = [torch.from_numpy(content[k].astype(np.int64)) for k in GRAPH[4:]]
    labels = torch.from_numpy(y.astype(np.int64))
    if any((labels[s] < 0).any() for s in splits):
        raise InputError(f"{path}: y is unknown (negative) for a node of a split")
    if labels.max() >= nodes:
        raise InputError(f"{path}: y goes up to {labels.max()} for {nodes} nodes; number classes from 0")
    declared = content.get("n_features", indices.max(initial=0) + 1)
    if declared.shape or declared.dtype.kind not in "iu" or not 0 < declared < 2**31:
        raise InputError(f"{path}: n_features must be one whole number above 0")
    width = int(declared)
    if indices.size and not 0 <= indices.min() <= indices.max() < width:
        raise InputError(f"{path}: feat_indices must lie between 0 and {width - 1}")
    x = np.zeros((nodes, width), np.float32)
    x[np.repeat(np.arange(nodes), np.diff(indptr)), indices.astype(np.int64)] = 1
    return Graph(_row_normal(x), torch.from_numpy(edges.astype(np.int64)), labels, *splits)


def _digits_graph() -> Graph:
    from sklearn.datasets import load_digits
    from sklearn.neighbors import kneighbors_graph

    digits = load_digits()
    near = kneighbors_graph(digits.data, 4).tocoo()
    edges = np.unique(np.sort(np.stack([near.row, near.col], 1).astype(np.int64), axis=1), axis=0)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(digits.target)))
    y = torch.from_numpy(digits.target.astype(np.int64))
    x = _row_normal(digits.data.astype(np.float32))
    return Graph(x, torch.from_numpy(edges), y, order[:200], order[200:500], order[500:1500])


def _row_normal(x: npt.NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(x / np.maximum(x.sum(1, keepdims=True), np.float32(1e-12)))


# -- ratings ---------------------------------------------------------------------------------------------------------
def load_ratings(path: str | Path | None = None, valid: float = 0.1) -> Ratings:
    """Ratings with a fixed split (Flixster, Douban, YahooMusic).

    Args:
        path: an .npz of the kind above. None: ratings made of the digits of scikit-learn: users are the first 300
            images, items their 64 pixels, ratings 1 to 5 the brightness; a third of them is known.
        valid: share of the training ratings that is kept for validation, drawn with a fixed seed.

    Raises:
        InputError: no such file, other arrays in it, or arrays that do not fit together.
    """
    matrix, known, hidden = _digits_ratings() if path is None else _ratings(Path(path))
    pairs = np.argwhere(known)
    pairs = pairs[np.random.default_rng(0).permutation(len(pairs))]
    cut = len(pairs) - round(valid * len(pairs))
    if not 0 < cut < len(pairs):
        raise InputError(f"{path or 'digits'}: {len(pairs)} ratings are too few to keep {valid} of them for validation")
    values = np.unique(matrix[pairs[:cut, 0], pairs[:cut, 1]])
    return Ratings(
        matrix=torch.from_numpy(matrix),
        train=torch.from_numpy(pairs[:cut]),
        valid=torch.from_numpy(pairs[cut:]),
        test=torch.from_numpy(np.argwhere(hidden)),
        values=torch.from_numpy(values),
    )


def _ratings(path: Path) -> tuple[Array, Array, Array]:
    content = read(path, RATINGS)
    m, known, hidden = (content[k] for k in RATINGS)
    if m.ndim != 2 or known.shape != m.shape or hidden.shape != m.shape:
        raise InputError(f"{path}: M, Otraining and Otest have shapes {m.shape}, {known.shape} and {hidden.shape}; "
                         "all of the shape (users, items) are wanted")  # fmt: skip
    matrix, known, hidden = m.astype(np.float32), known != 0, hidden != 0
    if (known & hidden).any():
        raise InputError(f"{path}: {(known & hidden).sum()} ratings are in both Otraining and Otest")
    if not hidden.any() or not (np.isfinite(matrix) & (matrix > 0))[known | hidden].all():
        raise InputError(f"{path}: ratings that Otraining and Otest mark must be above 0, and some must be in Otest")
    return matrix, known, hidden


def _digits_ratings() -> tuple[Array, Array, Array]:
    from sklearn.datasets import load_digits

    matrix = (1 + np.round(load_digits().data[:300] / 4)).astype(np.float32)
    draw = np.random.default_rng(0).random(matrix.shape)
    return matrix, draw < 0.3, draw > 0.967


# -- files -----------------------------------------------------------------------------------------------------------
def read(path: str | Path, *kinds: Sequence[str]) -> dict[str, Array]:
    """The arrays of an .npz that has all those of one of the kinds; archives' JPEG bytes included, not decoded.

    Raises:
        InputError: it cannot be read, holds pickles, or lacks arrays.
    """
    wanted = " and ".join([", ".join(kinds[0][:-1]), kinds[0][-1]])
    if not zipfile.is_zipfile(path):
        there = Path(path)
        why = (
            "a truncated file, or of another format"
            if there.is_file()
            else "a folder"
            if there.is_dir()
            else "no such file"
        )
        raise InputError(f"{path}: not an .npz with {wanted} ({why})")
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        pickled = "pickle" in str(error)
        why = "it holds pickled objects, which are not loaded" if pickled else " ".join(str(error).split())[:120]
        raise InputError(f"{path}: not an .npz with {wanted} ({why or type(error).__name__})") from None
    found = {name: array for name, array in found.items() if isinstance(array, np.ndarray)}
    kind = next((kind for kind in kinds if found.keys() >= set(kind)), None)
    if kind is None:
        others = "".join(f", or {', '.join(kind)}" for kind in kinds[1:])
        raise InputError(f"{path}: not an .npz with {wanted}{others} (it has {', '.join(sorted(found)) or 'nothing'})")
    for name in kind:
        if found[name].dtype.kind not in NUMBERS:
            raise InputError(f"{path}: {name} must hold numbers, not {found[name].dtype}")
    return found
