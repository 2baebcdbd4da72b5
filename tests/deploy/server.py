"""What Triton does with a configuration and a model: what it checks when it loads them, what it feeds to warm up.

Written after its sources (core: model_config_utils.cc, infer_request.cc, backend_model_instance.cc; onnxruntime_backend:
onnxruntime.cc), which say more than its documentation.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime as ort
from google.protobuf import text_format

from onnxdam.deploy.trial import _BFloat16
from onnxdam.deploy.triton import model_config

NUMPY: dict[str, Any] = {
    "TYPE_BOOL": np.bool_,
    "TYPE_UINT8": np.uint8,
    "TYPE_UINT16": np.uint16,
    "TYPE_UINT32": np.uint32,
    "TYPE_UINT64": np.uint64,
    "TYPE_INT8": np.int8,
    "TYPE_INT16": np.int16,
    "TYPE_INT32": np.int32,
    "TYPE_INT64": np.int64,
    "TYPE_FP16": np.float16,
    "TYPE_BF16": ml_dtypes.bfloat16,
    "TYPE_FP32": np.float32,
    "TYPE_FP64": np.float64,
    "TYPE_STRING": np.object_,
}
RUNTIME = {
    "TYPE_BF16": "tensor(bfloat16)",
    "TYPE_FP16": "tensor(float16)",
    "TYPE_FP32": "tensor(float)",
    "TYPE_FP64": "tensor(double)",
}


def load(folder: Path) -> Any:
    """Loads a model's folder as the server does, and runs its warm-up; AssertionError where the server would refuse.

    Returns:
        The configuration.
    """
    config = text_format.Parse((folder / "config.pbtxt").read_text(encoding="utf-8"), model_config().ModelConfig())
    assert config.name == folder.name
    assert (config.platform, config.backend) == ("onnxruntime_onnx", "onnxruntime")
    assert config.max_batch_size >= 0
    versions = [int(path.name) for path in folder.iterdir() if path.name.isdecimal()]
    session = ort.InferenceSession(folder / str(max(versions)) / config.default_model_filename)
    for items, values in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        assert len(items) > 0  # else the server fills in what it likes
        assert [item.name for item in items] == [value.name for value in values]
        for item, value in zip(items, values, strict=True):
            _check(item, value, config.max_batch_size)
    for group in config.instance_group:
        assert group.count >= 1
    for size in config.dynamic_batching.preferred_batch_size:
        assert size <= config.max_batch_size
    assert config.max_batch_size > 1 or not config.HasField("dynamic_batching")
    bfloat16 = any("bfloat16" in value.type for value in (*session.get_inputs(), *session.get_outputs()))
    runner = _BFloat16(session) if bfloat16 else session
    for sample in config.model_warmup:
        runner.run(None, warmup_feed(folder, config, sample))
    return config


def _check(item: Any, value: Any, batch: int) -> None:
    kind = model_config().DataType.Name(item.data_type)
    assert RUNTIME.get(kind, f"tensor({kind.removeprefix('TYPE_').lower()})") == value.type
    assert len(item.dims) > 0
    assert all(dim == -1 or dim >= 1 for dim in item.dims)
    assert batch or not item.HasField("reshape")  # an empty reshape is for batches only
    dims = list(item.reshape.shape) if item.HasField("reshape") else list(item.dims)
    if not value.shape:
        assert set(dims) == {1}
        return
    model = [dim if isinstance(dim, int) else -1 for dim in value.shape]
    assert ([-1, *dims] if batch else dims) == model


def warmup_feed(folder: Path, config: Any, sample: Any) -> dict[str, np.ndarray]:
    """What the model gets: as many requests of one row as the sample says, joined."""
    assert sample.batch_size >= 1
    assert config.max_batch_size or sample.batch_size == 1
    items = {item.name: item for item in config.input}
    assert set(sample.inputs) == set(items)
    return {
        name: np.concatenate([_row(folder, config.max_batch_size, items[name], entry)] * sample.batch_size)
        if config.max_batch_size
        else _row(folder, 0, items[name], entry)
        for name, entry in sample.inputs.items()
    }


def _row(folder: Path, batch: int, item: Any, entry: Any) -> np.ndarray:
    assert entry.data_type == item.data_type
    assert len(entry.dims) == len(item.dims)
    assert all(want in (-1, have) for want, have in zip(item.dims, entry.dims, strict=True))
    kind = model_config().DataType.Name(entry.data_type)
    dtype = np.dtype(NUMPY[kind])
    count = math.prod(entry.dims)
    if entry.WhichOneof("input_data_type") == "zero_data":
        values = np.array([""] * count, dtype=object) if dtype.hasobject else np.zeros(count, dtype)
    else:
        data = (folder / "warmup" / entry.input_data_file).read_bytes()
        values = _strings(data) if dtype.hasobject else np.frombuffer(data, dtype)
        assert len(values) == count
    shape = list(entry.dims)
    if item.HasField("reshape"):
        shape = list(item.reshape.shape)
    scalar = not batch and shape == [1] and _is_scalar(folder, item.name)
    return values.reshape(() if scalar else [1, *shape] if batch else shape)


def _is_scalar(folder: Path, name: str) -> bool:
    model = next(folder.glob("*/model.onnx"))
    return not next(value for value in ort.InferenceSession(model).get_inputs() if value.name == name).shape


def _strings(data: bytes) -> np.ndarray:
    found = []
    while data:
        (length,) = struct.unpack_from("<I", data)
        found.append(data[4 : 4 + length].decode())
        data = data[4 + length :]
    return np.array(found, dtype=object)
