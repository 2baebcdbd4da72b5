"""Input features: what a model reads, what a pruned model takes, and how data gets from the one to the other.

    >>> from onnxdam import features
    >>> manifest = features.load("slim.features.json")  # doctest: +SKIP
    >>> session.run(None, {"x": features.select(x, manifest)})  # doctest: +SKIP

numpy is all that this needs; pandas, Arrow, torch and onnx are imported by those who pass such objects.
"""

from __future__ import annotations

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

__all__ = [
    "ANY_RANK",
    "METADATA_KEY",
    "SCHEMA",
    "InputFeatures",
    "Manifest",
    "OutputFeatures",
    "belongs",
    "check_belongs",
    "expand_outputs",
    "load",
    "manifest_path",
    "of_model",
    "read_names",
    "select",
]
