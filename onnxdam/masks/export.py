"""From a trained network to an ONNX file whose masks are constants."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from onnxdam.errors import InputError
from onnxdam.masks.attach import baked_copy, not_exported
from onnxdam.masks.example import Example, Inputs, among_tensors, tensors_of
from onnxdam.masks.gates import Gates

OPSET = 18


def export(
    model: nn.Module,
    gates: Gates | None,
    example_inputs: Inputs,
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
        example_inputs: what it can be called with, as for `attach`; at least two samples where the batch is dynamic.
        path: the file.
        dynamo: the exporter of torch.export; False: that of TorchScript.
        dynamic_batch: the first axis of the first input is free, and that of all others that are as long.
        input_names, output_names: names in the graph; empty: those of the arguments of `forward`, and the keys of what
            it gives (the exporter's names, where it gives no mapping).

    Returns:
        The path.

    Raises:
        InputError: the network cannot be exported.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise InputError(f"export: there is no folder {path.parent}")
    example, twin = Example.of(example_inputs), baked_copy(model)
    write = _by_dynamo if dynamo else _by_torchscript
    try:
        inputs, outputs = (
            list(input_names) or example.names(twin),
            list(output_names) or _names_of_outputs(twin, example),
        )
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            with among_tensors(twin, example) as tensors:
                batch = [i for i, t in enumerate(tensors) if t.dim() and len(t) == len(tensors[0])]
                proto = write(twin, tensors, batch if dynamic_batch else [], inputs, outputs)
    except Exception as error:  # the exporter raises whatever the network's code raises under it
        raise InputError(f"export: {not_exported(twin, example, error)}") from error
    onnx.helper.set_model_props(proto, {p.key: p.value for p in proto.metadata_props} | _metadata(gates))
    onnx.save(proto, str(path))
    return path


def _names_of_outputs(model: nn.Module, example: Example) -> list[str]:
    """The keys of what the network gives; the exporter's names where it gives no mapping."""
    with torch.no_grad():
        found = list(tensors_of(example.run(model)))
    return [] if all(not name or name.isdigit() for name in found) else found


def _by_dynamo(
    model: nn.Module, tensors: tuple[Tensor, ...], batch: list[int], inputs: list[str], outputs: list[str]
) -> onnx.ModelProto:
    free = {0: torch.export.Dim("batch")}
    program = torch.onnx.export(
        model,
        tensors,
        dynamo=True,
        opset_version=OPSET,
        verbose=False,
        input_names=inputs,
        output_names=outputs or None,
        dynamic_shapes=(tuple(free if i in batch else None for i in range(len(tensors))),) if batch else None,
    )
    assert program is not None
    return program.model_proto


def _by_torchscript(
    model: nn.Module, tensors: tuple[Tensor, ...], batch: list[int], inputs: list[str], outputs: list[str]
) -> onnx.ModelProto:
    buffer = io.BytesIO()
    torch.onnx.export(
        model,
        tensors,
        buffer,
        dynamo=False,
        opset_version=OPSET,
        input_names=inputs,
        output_names=outputs or None,
        dynamic_axes={inputs[i]: {0: "batch"} for i in batch},
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
