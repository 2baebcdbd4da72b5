"""Puts a model where a server serves it.

>>> import onnxdam
>>> onnxdam.deploy("slim.onnx", "models/", to="triton").path  # doctest: +SKIP
PosixPath('models/slim')
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from onnxdam.errors import InputError

if TYPE_CHECKING:
    from onnxdam.deploy.triton import Deployment
    from onnxdam.graph.io import AnyModel

__all__ = ["TARGETS", "deploy"]

TARGETS = ("triton",)


def deploy(
    model: AnyModel,
    folder: str | os.PathLike[str],
    *,
    to: str = "triton",
    progress: Callable[[str], None] | None = None,
    **options: Any,
) -> Deployment:
    """Writes what a server needs to serve the model, and runs what was written once.

    Args:
        model: a path or a model; never modified.
        folder: where to; for Triton the model repository, in which the model gets a folder of its own.
        to: the server: "triton".
        progress: called with a short text before each step.
        **options: see `onnxdam.deploy.triton.Options`.

    Raises:
        InputError: the model, an option or the folder cannot be used; nothing was written.
        UnsupportedError: the server cannot serve the model, or not in the way that was asked for.
    """
    if to not in TARGETS:
        raise InputError(f"to: {to!r} is not one of {', '.join(TARGETS)}")
    from onnxdam.deploy import triton

    return triton.deploy(model, folder, triton.read_options(options), progress or (lambda text: None))
