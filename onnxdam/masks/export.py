"""From a trained network to an ONNX file whose masks are constants."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from io import BytesIO
from os import PathLike
from pathlib import Path

import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn

from onnxdam.errors import InputError
from onnxdam.graph import io
from onnxdam.graph.place import check_output
from onnxdam.masks.attach import baked_copy, not_exported, unique_names
from onnxdam.masks.example import Example, Inputs, among_tensors, beside, distance, tensors_of
from onnxdam.masks.failing import one_line
from onnxdam.masks.gates import Gates
from onnxdam.masks.quiet import quiet

OPSET = 18
CLOSE = 1e-2  # half precision is allowed for
FIXED = "as the network takes the number of samples for a constant: len(x) does that, x.shape[0] does not"


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
        InputError: the network cannot be exported, names do not fit, or the file cannot be written.

    Warns:
        UserWarning: the batch cannot be free, as the network counts it in a way that exporters do not follow; or ONNX
            Runtime, where it is installed, does not give what torch gives.
    """
    if not isinstance(path, str | PathLike):
        raise InputError(f"export: a path is wanted, not {path!r}")
    if gates is not None and not isinstance(gates, Gates):
        raise InputError(f"export: gates of attach or Gates.of are wanted, not {type(gates).__name__}")
    check_output(Path(path), overwrite=True, sources=())
    example, twin = Example.of(example_inputs), baked_copy(model)
    write = _by_dynamo if dynamo else _by_torchscript
    try:
        inputs = list(input_names) or example.names(twin)
        outputs = list(output_names) or _names_of_outputs(twin, example, inputs)
        _check_names(inputs, outputs, example)
        with quiet(), among_tensors(twin, example) as tensors:
            batch = [i for i, t in enumerate(tensors) if t.dim() and len(t) == len(tensors[0])]
            exported, fixed = write(twin, tensors, batch if dynamic_batch else [], inputs, outputs)
            wrong = _difference(exported, twin, tensors)
    except InputError:
        raise
    except Exception as error:  # the exporter raises whatever the network's code raises under it
        raise InputError(f"export: {not_exported(twin, example, error)}") from error
    if output_names and len(output_names) != len(exported.graph.outputs):
        raise InputError(f"export: output_names: {len(output_names)} names for {len(exported.graph.outputs)} outputs")
    if fixed:
        warnings.warn(f"export: the batch stays {len(tensors[0])}, {FIXED}", stacklevel=2)
    if wrong:
        warnings.warn(f"export: {wrong}, perhaps not with dynamo={not dynamo}", stacklevel=2)
    exported.metadata_props.update(_metadata(gates))
    io.save(exported, path)
    return Path(path)


@torch.no_grad()
def _difference(exported: ir.Model, model: nn.Module, tensors: Sequence[Tensor]) -> str:
    """What is wrong with a file that ONNX Runtime does not run as torch does; empty where it is not installed, or knows
    no such element types, or torch itself does not give the same twice."""
    try:
        from onnxdam.providers import Runnable, session
    except ImportError:
        return ""
    wanted, again = (dict(enumerate(tensors_of(model(*tensors)).values())) for _ in range(2))
    if distance(wanted, again) or any(t.dtype == torch.bfloat16 for t in (*tensors, *wanted.values())):
        return ""
    try:
        opened = session(Runnable.of(exported))
        feeds = {item.name: tensor.cpu().numpy() for item, tensor in zip(opened.get_inputs(), tensors, strict=True)}
        found = dict(enumerate(map(torch.as_tensor, opened.run(None, feeds))))
        off = distance({i: t.cpu() for i, t in wanted.items()}, found)
    except Exception as error:  # whatever ONNX Runtime raises
        return f"ONNX Runtime does not run the file that torch's exporter wrote ({one_line(error)})"
    return f"ONNX Runtime is off by {off:.1g} of torch's largest number: the exporter is wrong" if off > CLOSE else ""


def _check_names(inputs: Sequence[str], outputs: Sequence[str], example: Example) -> None:
    if len(inputs) != len(example.tensors):
        raise InputError(f"export: input_names: {len(inputs)} names for {len(example.tensors)} tensors")
    names = [*inputs, *outputs]
    if not all(isinstance(name, str) and name for name in names):
        raise InputError(f"export: names of inputs and outputs are strings, not {names}")
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"export: two inputs or outputs are called {name!r}; give input_names and output_names")


def _names_of_outputs(model: nn.Module, example: Example, inputs: Sequence[str]) -> list[str]:
    """The keys of what the network gives; the exporter's names where it gives no mapping."""
    with torch.no_grad():
        found = list(tensors_of(example.run(model)))
    if all(not name or name.isdigit() for name in found):
        return []
    return [f"{name}_output" if name in inputs else name for name in beside(model, found, "output")]


def _by_dynamo(
    model: nn.Module, tensors: tuple[Tensor, ...], batch: list[int], inputs: list[str], outputs: list[str]
) -> tuple[ir.Model, bool]:
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
    unique_names(program.model)
    shapes = [program.model.graph.inputs[i].shape for i in batch]
    return program.model, any(shape is not None and isinstance(shape[0], int) for shape in shapes)


def _by_torchscript(
    model: nn.Module, tensors: tuple[Tensor, ...], batch: list[int], inputs: list[str], outputs: list[str]
) -> tuple[ir.Model, bool]:
    buffer = BytesIO()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
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
    if batch and any(str(warning.message).startswith("Using len to get tensor shape") for warning in told):
        return _by_torchscript(model, tensors, [], inputs, outputs)[0], True
    return ir.from_proto(onnx.load_from_string(buffer.getvalue())), False


def _metadata(gates: Gates | None) -> dict[str, str]:
    if gates is None:
        return {}
    kept = gates.kept()
    return {
        "onnxdam.method": ", ".join(sorted({type(gate).__name__ for gate in gates.all})),
        "onnxdam.target": json.dumps(None if gates.target is None else dict([gates.target])),
        "onnxdam.kept": json.dumps({name: list(counts) for name, counts in kept.items()}),
    }
