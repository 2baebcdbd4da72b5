"""From a trained network to an ONNX file whose masks are constants."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from onnxdam.errors import InputError
from onnxdam.masks.attach import baked_copy, tuple_of
from onnxdam.masks.failing import failing_module, one_line
from onnxdam.masks.gates import Gates

OPSET = 18


def export(
    model: nn.Module,
    gates: Gates | None,
    example_inputs: Tensor | Sequence[Any],
    path: str | Path,
    *,
    dynamo: bool = True,
    dynamic_batch: bool = True,
    input_names: Sequence[str] = (),
    output_names: Sequence[str] = (),
) -> Path:
    """Writes the network as it is in evaluation, masks as constants; the network itself is not changed.

    The file's metadata tell the method, target and kept counts under keys that begin with "onnxdam.".

    Args:
        model: the network.
        gates: its gates, for the metadata; None: whatever gates the network holds.
        example_inputs: what it can be called with; at least two samples where the batch is dynamic.
        path: the file.
        dynamo: the exporter of torch.export; False: that of TorchScript.
        dynamic_batch: the first axis of every input is free.
        input_names, output_names: names in the graph; empty: the exporter's.

    Returns:
        The path.

    Raises:
        InputError: the network cannot be exported.
    """
    args = tuple_of(example_inputs)
    twin = baked_copy(model)
    write = _by_dynamo if dynamo else _by_torchscript
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            proto = write(twin, args, dynamic_batch, list(input_names), list(output_names))
    except InputError:
        raise
    except Exception as error:  # the exporter raises whatever the network's code raises under it
        where = failing_module(twin, lambda: torch.export.export(twin, args, strict=False))
        raise InputError(f"export: {where} cannot be exported to ONNX: {one_line(error)}") from error
    onnx.helper.set_model_props(proto, {p.key: p.value for p in proto.metadata_props} | _metadata(gates))
    onnx.save(proto, str(path))
    return Path(path)


def _by_dynamo(
    model: nn.Module, args: tuple[Any, ...], dynamic: bool, inputs: list[str], outputs: list[str]
) -> onnx.ModelProto:
    shapes = tuple({0: torch.export.Dim("batch")} if isinstance(a, Tensor) and a.dim() else None for a in args)
    program = torch.onnx.export(
        model,
        args,
        dynamo=True,
        opset_version=OPSET,
        verbose=False,
        input_names=inputs or None,
        output_names=outputs or None,
        dynamic_shapes=shapes if dynamic else None,
    )
    assert program is not None
    return program.model_proto


def _by_torchscript(
    model: nn.Module, args: tuple[Any, ...], dynamic: bool, inputs: list[str], outputs: list[str]
) -> onnx.ModelProto:
    names = inputs or [f"input_{i}" if i else "input" for i in range(len(args))]
    axes: dict[str, dict[int, str]] = {name: {0: "batch"} for name in names} if dynamic else {}
    buffer = io.BytesIO()
    torch.onnx.export(
        model,
        args,
        buffer,
        dynamo=False,
        opset_version=OPSET,
        input_names=names,
        output_names=outputs or None,
        dynamic_axes=axes,
    )
    return onnx.load_from_string(buffer.getvalue())


def _metadata(gates: Gates | None) -> dict[str, str]:
    if gates is None:
        return {}
    kept = gates.kept()
    return {
        "onnxdam.method": ", ".join(sorted({type(gate).__name__ for gate in gates.all})),
        "onnxdam.target": json.dumps(None if gates.target is None else dict([gates.target])),
        "onnxdam.kept": json.dumps({name: list(counts) for name, counts in kept.items()}),
    }
