"""Data for the recipes: an .npz file of images and classes, or the digits that come with scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from onnxdam.errors import InputError


@dataclass(frozen=True)
class Classes:
    """Feature vectors and their classes, split three ways; x in [0, 1], shape (samples, features)."""

    x_train: Tensor
    y_train: Tensor
    x_valid: Tensor
    y_valid: Tensor
    x_test: Tensor
    y_test: Tensor

    @property
    def features(self) -> int:
        return self.x_train.shape[1]

    @property
    def classes(self) -> int:
        return int(self.y_train.max()) + 1


def load_classes(path: str | Path | None = None, valid: float = 1 / 12) -> Classes:
    """Images as flat vectors.

    Args:
        path: an .npz with x_train, y_train, x_test, y_test, images as uint8 (MNIST, Fashion-MNIST); None: the 8x8
            digits of scikit-learn, every fifth for testing.
        valid: share of the training samples that is kept for validation: the last ones.

    Raises:
        InputError: no such file, or other arrays in it.
    """
    if path is None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        order = np.random.default_rng(0).permutation(len(digits.target))
        x, y, cut = digits.data[order] / 16, digits.target[order], len(order) * 4 // 5
        arrays = (x[:cut], y[:cut], x[cut:], y[cut:])
    else:
        try:
            file = np.load(path, allow_pickle=False)
            arrays = tuple(file[k] for k in ("x_train", "y_train", "x_test", "y_test"))  # type: ignore[assignment]
        except (OSError, KeyError, ValueError) as error:
            raise InputError(f"{path}: not an .npz with x_train, y_train, x_test and y_test ({error})") from None
        arrays = (arrays[0] / np.float32(255), arrays[1], arrays[2] / np.float32(255), arrays[3])
    x_train, x_test = (torch.tensor(a.reshape(len(a), -1), dtype=torch.float32) for a in (arrays[0], arrays[2]))
    y_train, y_test = (torch.tensor(a.astype(np.int64)) for a in (arrays[1], arrays[3]))
    cut = len(x_train) - round(valid * len(x_train))
    return Classes(x_train[:cut], y_train[:cut], x_train[cut:], y_train[cut:], x_test, y_test)
