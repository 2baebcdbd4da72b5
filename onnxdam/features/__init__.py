"""Input features: what a model reads, what a pruned model takes, and how data gets from the one to the other.

    >>> from onnxdam import features
    >>> manifest = features.load("slim.features.json")  # doctest: +SKIP
    >>> session.run(None, {"x": features.select(x, manifest)})  # doctest: +SKIP

numpy is all that this needs; pandas, Arrow, torch and onnx are imported by those who pass such objects.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from onnxdam.features.data import expand_outputs, select
from onnxdam.features.files import belongs, check_belongs, load, manifest_path, of_model
from onnxdam.features.manifest import (
    ANY_RANK,
    METADATA_KEY,
    SCHEMA,
    InputFeatures,
    Manifest,
    OutputFeatures,
)
from onnxdam.features.tables import read_names

if TYPE_CHECKING:
    from onnxdam.features.heatmap import picture
    from onnxdam.features.ranking import Feature, Reading, rank

__all__ = [
    "ANY_RANK",
    "METADATA_KEY",
    "SCHEMA",
    "Feature",
    "InputFeatures",
    "Manifest",
    "OutputFeatures",
    "Reading",
    "belongs",
    "check_belongs",
    "expand_outputs",
    "load",
    "manifest_path",
    "of_model",
    "picture",
    "rank",
    "read_names",
    "select",
]

_ON_DEMAND = {"Feature": "ranking", "Reading": "ranking", "picture": "heatmap", "rank": "ranking"}  # these need onnx


def __getattr__(name: str) -> Any:
    """Imports what needs more than numpy on first use (PEP 562)."""
    if name not in _ON_DEMAND:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_ON_DEMAND[name]}"), name)
    globals()[name] = value
    return value
