"""Files in and out: load, check, save.

Everything that can be wrong with a file is caught here, once, as an `InputError` of one line, so that the rest of the
library may assume a sound model. Weights are never copied to be checked: the ONNX checker sees the graph with its large
weights turned into graph inputs, and sizes are compared by us. External data stays on disk, memory-mapped on first use.
"""

from __future__ import annotations

import functools
import math
import os
import stat
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import google.protobuf.message
import numpy as np
import onnx
import onnx_ir as ir

from onnxdam import collector
from onnxdam.errors import InputError
from onnxdam.graph.identity import fingerprint
from onnxdam.graph.place import check_output, data_file, staged, unwritable
from onnxdam.graph.traverse import graphs, is_external, tensors
from onnxdam.graph.wire import hollow, put_weights, take_weights

__all__ = [
    "AnyModel",
    "check",
    "check_output",
    "data_file",
    "external_files",
    "fingerprint",
    "graphs",
    "load",
    "parse",
    "read",
    "save",
    "skeleton",
    "skeleton_of_proto",
    "sources",
    "staged",
    "tensors",
    "to_proto",
    "unwritable",
    "write",
]

AnyModel: TypeAlias = "str | os.PathLike[str] | onnx.ModelProto | ir.Model"

OLDEST_OPSET = 7
#: what ONNX Runtime writes in the standard domain when it saves an optimised model, and the opset that has it (if any)
RUNTIME_OPERATORS = {"SimplifiedLayerNormalization": 1 << 30, "LayerNormalization": 17}
PROTOBUF_LIMIT = 2**31 - 2**20  # protobuf refuses messages of 2 GiB; the margin is for what ir adds around the weights
SMALL = 1024  # bytes; smaller tensors stay inside the file, so that shape arithmetic is seen by every reader
EXTERNAL = "onnxdam.external"  # graph.meta key: the weights came from external data and go back there
MAP_TYPE = "onnxdam.map_type"  # value.meta key: the serialised type of a graph input or output that ir cannot express
_NOT_A_MODEL = "is not an ONNX model"


# ---------------------------------------------------------------------------------------------------------- load


@collector.paused()
def load(model: AnyModel, *, strict: bool = True) -> ir.Model:
    """A model of our own to read and edit, whatever it came as; the argument is never modified.

    Args:
        model: a path, an `onnx.ModelProto` or an `onnx_ir.Model`. Relative external data of a proto is looked up in
            the current folder.
        strict: refuse what `onnx.checker` refuses. Otherwise only warn.

    Returns:
        The model; tensors of external data are memory-mapped when they are first read.

    Raises:
        InputError: the file is missing, unreadable, empty, truncated, not ONNX, too old or invalid, or its external
            data is missing, short or outside the model's folder.
    """
    if isinstance(model, ir.Model):
        loaded = model.clone()
        if EXTERNAL in model.graph.meta:
            loaded.graph.meta[EXTERNAL] = True
        check(to_proto(skeleton(model)), "model", strict)
        _check_weights(loaded, "model")
        return loaded
    if isinstance(model, onnx.ModelProto):
        proto = onnx.ModelProto()
        proto.CopyFrom(model)  # ir tensors are views of their proto, and renaming one renames the other
        return _from_proto(proto, Path.cwd(), "model", strict)
    path = Path(model)
    bare, weights = take_weights(read(path))
    return _from_proto(parse(bare, str(path)), path.resolve().parent, str(path), strict, weights)


def read(path: Path) -> bytes:
    """The bytes of a model file.

    Raises:
        InputError: it is missing, not a file, unreadable or empty.
    """
    try:
        if not path.is_dir() and not path.is_file() and path.exists():
            raise InputError(f"{path}: is a pipe or a device, not a file")
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder, not an ONNX file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if not data:
        raise InputError(f"{path}: the file is empty")
    return data


def parse(data: bytes, where: str) -> onnx.ModelProto:
    """The model in `data`; `where` names it in errors.

    Raises:
        InputError: `data` is not an ONNX model, or only its beginning.
    """
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except google.protobuf.message.DecodeError:
        if data[:1] == b"\x08" and (missing := _bytes_missing(data)):  # 0x08: the field ir_version, always first
            raise InputError(f"{where}: is truncated, at least {missing:,} bytes are missing at its end") from None
        raise InputError(
            f"{where}: {_NOT_A_MODEL} (it cannot be decoded: another kind of file, or cut short)"
        ) from None
    if not proto.HasField("graph") or not proto.ir_version:
        raise InputError(f"{where}: {_NOT_A_MODEL} (it has no graph)")
    return proto


def _bytes_missing(data: bytes) -> int:
    """How far the last top-level field of a protobuf message runs past its end; 0 if it does not."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while at < len(data):
            value |= (data[at] & 0x7F) << shift
            shift, at = shift + 7, at + 1
            if data[at - 1] < 0x80:
                break
        return value

    while at < len(data):
        wire = varint() & 7
        if wire == 0:
            varint()
        elif wire == 2:
            size = varint()  # moves `at` itself
            at += size
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            return 0
    return at - len(data)


def external_files(graph: onnx.GraphProto) -> set[str]:
    """Names of the files that hold weights of a model that was parsed and not loaded."""
    tensors, found = list(graph.initializer), set()
    for node in graph.node:
        for attribute in node.attribute:
            tensors += [attribute.t, *attribute.tensors]
            for inner in (attribute.g, *attribute.graphs):
                found |= external_files(inner)
    entries = (e for t in tensors if t.data_location == onnx.TensorProto.EXTERNAL for e in t.external_data)
    return found | {entry.value for entry in entries if entry.key == "location"}


def _from_proto(
    proto: onnx.ModelProto, folder: Path, where: str, strict: bool, weights: dict[str, memoryview] | None = None
) -> ir.Model:
    """The model of a proto of our own; `weights`: content of initializers that was cut out of it."""
    weights = weights or {}
    for tensor in proto.graph.initializer:
        if tensor.name in weights and not _is_plain(tensor, len(weights[tensor.name])):
            tensor.raw_data = bytes(weights.pop(tensor.name))
    check(skeleton_of_proto(proto), where, strict)
    opaque = _set_map_types_aside(proto)
    try:
        model = ir.from_proto(proto)
    except Exception as error:  # the deserialiser has no exception type of its own
        raise InputError(f"{where}: invalid graph ({_one_line(error)})") from None
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.name in opaque:
            value.meta[MAP_TYPE] = opaque[value.name]
    for tensor in tensors(model):
        if is_external(tensor):
            tensor.base_dir = str(folder)
            model.graph.meta[EXTERNAL] = True
    for value in model.graph.initializers.values():
        _unpack(value, weights)
    _check_weights(model, where)
    return model


def _unpack(value: ir.Value, weights: Mapping[str, memoryview]) -> None:
    """Moves the content of an inline tensor out of its proto, which would copy it each time it is read."""
    tensor = value.const_value
    if not isinstance(tensor, ir.TensorProtoTensor):
        return
    proto, raw = tensor.raw, weights.get(tensor.name)
    if raw is None and proto.HasField("raw_data"):
        content = proto.raw_data
        if _is_plain(proto, len(content)):
            proto.ClearField("raw_data")
            raw = memoryview(content)
    if raw is not None:
        dtype = tensor.dtype
        array = np.frombuffer(raw, dtype.numpy().newbyteorder("<")).reshape(proto.dims)
        value.const_value = ir.Tensor(
            array, dtype, name=value.name, doc_string=proto.doc_string, metadata_props=tensor.metadata_props
        )


def _is_plain(tensor: onnx.TensorProto, size: int) -> bool:
    """Whether so many bytes are what the shape says, one number after the other (and not two in a byte)."""
    bits = _BITS.get(tensor.data_type, 0)
    return bits >= 8 and size * 8 == _elements(tensor) * bits


_BITS = {kind.value: kind.bitwidth for kind in ir.DataType if kind not in (ir.DataType.UNDEFINED, ir.DataType.STRING)}


def _set_map_types_aside(proto: onnx.ModelProto) -> dict[str, bytes]:
    """Takes the map types (scikit-learn's class probabilities) off the graph: onnx-ir cannot hold them."""
    graph, opaque = proto.graph, {}
    for values in (graph.input, graph.output, graph.value_info):
        for value in values:
            if value.type.HasField("map_type") or value.type.sequence_type.elem_type.HasField("map_type"):
                opaque[value.name] = value.type.SerializeToString()
                value.ClearField("type")
    return opaque


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """The inverse of loading a proto (`ir.to_proto` loses map types, and describes every weight a second time)."""
    proto = ir.to_proto(model)
    _restore(model, proto)
    return proto


def _restore(model: ir.Model, proto: onnx.ModelProto) -> None:
    opaque = {v.name: v.meta[MAP_TYPE] for v in (*model.graph.inputs, *model.graph.outputs) if MAP_TYPE in v.meta}
    for value in (*proto.graph.input, *proto.graph.output):
        if value.name in opaque:
            value.type.ParseFromString(opaque[value.name])
    stored = {tensor.name for tensor in proto.graph.initializer}
    described = [value for value in proto.graph.value_info if value.name not in stored]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(described)


# --------------------------------------------------------------------------------------------------------- check


def check(bare: onnx.ModelProto, where: str, strict: bool) -> None:
    """Checks a model whose large weights were replaced by graph inputs; that is used up.

    Every node has to be one that ONNX knows, on operands whose types and shapes go together. What the file declares
    about values in between and at the outputs is not held against that: runtimes go by their own inference. Neither is
    a graph input or output without a shape (the standard wants one, every runtime runs it).

    Raises:
        InputError: the opset is too old or, when `strict`, the graph is invalid.
    """
    opset = max((o.version for o in bare.opset_import if o.domain in ("", "ai.onnx")), default=None)
    if opset is None and any(node.domain in ("", "ai.onnx") for node in bare.graph.node):
        opset = 1  # what files mean that were written before opset_import existed
    if opset is not None and opset < OLDEST_OPSET:
        raise InputError(
            f"{where}: opset {opset} is too old, onnxdam reads opset {OLDEST_OPSET} and later; "
            "upgrade the file with onnx.version_converter"
        )
    problem: str | None
    newest = onnx.defs.onnx_opset_version()
    if opset is not None and opset > newest:
        problem = f"opset {opset} is newer than the installed onnx {onnx.__version__} knows ({newest}); upgrade onnx"
    else:
        problem = _checker_complaint(bare)
    if problem and strict:
        raise InputError(f"{where}: {problem}")
    if problem:
        warnings.warn(f"{where}: {problem}", stacklevel=3)


def _checker_complaint(bare: onnx.ModelProto) -> str | None:
    for value in (*bare.graph.input, *bare.graph.output):
        if value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape"):
            value.type.tensor_type.shape.SetInParent()
    opset = max((o.version for o in bare.opset_import if o.domain in ("", "ai.onnx")), default=1)
    _hide(bare, lambda kind: opset < RUNTIME_OPERATORS.get(kind, 0))
    try:
        onnx.checker.check_model(bare)
        _forget_shapes(bare.graph)
        _hide(bare, lambda kind: not _inferred_directly(kind, opset))
        onnx.shape_inference.infer_shapes(bare, check_type=True, strict_mode=True)
    except Exception as error:  # ValidationError, InferenceError, or ValueError when it cannot be serialised
        return f"invalid graph ({_one_line(error)})"
    return None


def _hide(bare: onnx.ModelProto, chosen: Callable[[str], bool]) -> None:
    """Moves nodes of some operators of the standard domain to a domain of their own, which is not checked."""
    hidden = [n for n in _all_nodes(bare.graph) if n.domain in ("", "ai.onnx") and chosen(n.op_type)]
    for node in hidden:
        node.domain = "runtime"
    if hidden and all(o.domain != "runtime" for o in bare.opset_import):
        bare.opset_import.append(onnx.helper.make_opsetid("runtime", 1))


@functools.cache
def _inferred_directly(kind: str, opset: int) -> bool:
    """Whether ONNX infers well: not by the function that defines an operator, in which it finds faults (1.23).

    By the letter of opset 8, a Constant holds no integers; every exporter and every runtime knew better.
    """
    if kind == "Constant" and opset < 9:
        return False
    try:
        return bool(onnx.defs.get_schema(kind, opset).has_type_and_shape_inference_function)
    except onnx.defs.SchemaError:
        return False


def _forget_shapes(graph: onnx.GraphProto) -> None:
    """Takes away what is declared about values that nodes make."""
    del graph.value_info[:]
    for value in graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")


def _all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _all_nodes(attribute.g)


def skeleton_of_proto(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph, large initializers and Constant nodes of the main graph made inputs. Shares nothing."""
    bare = onnx.ModelProto()
    bare.ir_version = max(proto.ir_version, 4) if proto.ir_version else 0
    bare.opset_import.extend(proto.opset_import)
    bare.functions.extend(proto.functions)
    graph, source = bare.graph, proto.graph
    graph.name = source.name or "graph"
    graph.input.extend(source.input)
    graph.output.extend(source.output)
    graph.value_info.extend(source.value_info)
    graph.sparse_initializer.extend(source.sparse_initializer)
    given = {value.name for value in source.input}
    for tensor in source.initializer:
        if _elements(tensor) <= SMALL and tensor.data_location != onnx.TensorProto.EXTERNAL:
            graph.initializer.append(tensor)
        elif tensor.name not in given:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    for node in source.node:
        large = _large_constant(node)
        if large is None:
            graph.node.append(node)
        else:
            graph.input.append(onnx.helper.make_tensor_value_info(node.output[0], large.data_type, list(large.dims)))
    return bare


def _large_constant(node: onnx.NodeProto) -> onnx.TensorProto | None:
    if node.op_type == "Constant" and len(node.attribute) == 1 and node.attribute[0].name == "value":
        tensor = node.attribute[0].t
        if _elements(tensor) > SMALL or tensor.data_location == onnx.TensorProto.EXTERNAL:
            return tensor
    return None


def _elements(tensor: onnx.TensorProto) -> int:
    return math.prod(tensor.dims)


def skeleton(model: ir.Model) -> ir.Model:
    """The same model as a clone, large initializers of the main graph made inputs."""
    bare = model.clone()
    graph = bare.graph
    given = {id(value) for value in graph.inputs}
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or (tensor.size <= SMALL and not is_external(tensor)):
            continue
        value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
        graph.initializers.pop(name)
        value.const_value = None
        if id(value) not in given:
            graph.inputs.append(value)
    bare.ir_version = max(bare.ir_version or 4, 4)
    return bare


def _check_weights(model: ir.Model, where: str) -> None:
    """Every tensor holds as many bytes as its shape says, and external ones lie where they may."""
    sizes: dict[str, int] = {}
    for tensor in tensors(model):
        if is_external(tensor):
            if str(tensor.path) not in sizes:
                sizes[str(tensor.path)] = _external_size(tensor, where)
            needed = (tensor.offset or 0) + (tensor.length or tensor.nbytes)
            if needed > sizes[str(tensor.path)] or (tensor.length or tensor.nbytes) < tensor.nbytes:
                raise InputError(
                    f"{where}: external data {tensor.location} is too short for tensor {tensor.name!r} "
                    f"({needed:,} bytes needed, {sizes[str(tensor.path)]:,} there)"
                )
        elif isinstance(tensor, ir.TensorProtoTensor) and tensor.size > SMALL:
            _check_inline(tensor, where)


def _check_inline(tensor: ir.TensorProtoTensor, where: str) -> None:
    """The checker did not see this tensor: compare its byte count (ByteSize copies nothing, `raw_data` would)."""
    proto = tensor.raw
    if proto.HasField("raw_data") and proto.ByteSize() < tensor.nbytes:
        raise InputError(f"{where}: tensor {tensor.name!r} holds fewer bytes than its shape {list(proto.dims)} needs")
    if not proto.HasField("raw_data"):
        held = max(len(getattr(proto, f"{kind}_data")) for kind in ("float", "int32", "int64", "uint64", "double"))
        per_item = {2: 8, 4: 2}.get(tensor.dtype.bitwidth, 1) if tensor.dtype.bitwidth < 8 else 1
        if tensor.dtype != ir.DataType.STRING and held * per_item < tensor.size:
            raise InputError(f"{where}: tensor {tensor.name!r} holds fewer numbers than its shape needs")


def _external_size(tensor: ir.ExternalTensor, where: str) -> int:
    base, path = Path(tensor.base_dir).resolve(), Path(tensor.path)
    if Path(tensor.location).is_absolute() or not path.resolve().is_relative_to(base):
        raise InputError(f"{where}: external data {tensor.location} lies outside the folder of the model; refused")
    try:
        info = path.stat()
    except OSError as error:
        raise InputError(f"{where}: external data {tensor.location}: {error.strerror}") from None
    if not stat.S_ISREG(info.st_mode):
        raise InputError(f"{where}: external data {tensor.location} is not a file")
    if info.st_nlink > 1:  # onnx and onnx-ir refuse these as well: a link can smuggle in any file of the disk
        raise InputError(f"{where}: external data {tensor.location} has several hard links; copy the file")
    return info.st_size


# ---------------------------------------------------------------------------------------------------------- save


def save(model: ir.Model, path: str | os.PathLike[str], *, overwrite: bool = True) -> None:
    """Writes a model, or nothing: files appear under their final names only when they are complete.

    Weights go to `NAME.onnx.data` beside the file when they exceed what protobuf can hold, or when they came from
    external data.

    Args:
        model: the model; unchanged.
        path: where to.
        overwrite: replace an existing file.

    Raises:
        InputError: the path cannot be written, or would overwrite the file that the weights are read from.
    """
    with staged(path, overwrite=overwrite, sources=sources(model)) as temporary:
        write(model, temporary)


def sources(model: ir.Model) -> list[Path]:
    """The files that the weights of a model are still read from."""
    return sorted({Path(t.path) for t in tensors(model) if is_external(t)})


@collector.paused()
def write(model: ir.Model, path: Path) -> None:
    """Writes the files of a model directly; `save` is the one that never leaves half of them."""
    held = list(tensors(model))
    large = sum(tensor.nbytes for tensor in held) > PROTOBUF_LIMIT
    if large or EXTERNAL in model.graph.meta or any(map(is_external, held)):
        ir.save(
            _inline(model), path, format="protobuf", external_data=data_file(path).name,
            size_threshold_bytes=SMALL, max_in_flight_bytes=2**28, max_workers=2,
        )  # fmt: skip
        proto = onnx.load(path, format="protobuf", load_external_data=False)
        _restore(model, proto)
        path.write_bytes(proto.SerializeToString(deterministic=True))
        return
    with hollow(model) as weights:
        data = to_proto(model).SerializeToString(deterministic=True)
    with path.open("wb", buffering=2**20) as file:
        file.writelines(put_weights(data, weights))


def _inline(model: ir.Model) -> ir.Model:
    """A clone of the model with small and attribute tensors of external data in memory; as it is, where it has none.

    `ir.save` leaves attributes where they were, in a file that does not move along, and to read a small tensor it
    closes the memory map under the arrays that others hold.
    """

    def moves(tensor: ir.TensorProtocol | None, limit: float) -> bool:
        return is_external(tensor) and tensor.nbytes <= limit

    def stored(graph: ir.Graph | ir.Function) -> Iterator[tuple[ir.Node, str, ir.ExternalTensor]]:
        for node in graph:
            for name, attribute in list(node.attributes.items()):
                if attribute.type == ir.AttributeType.TENSOR and moves(attribute.value, math.inf):
                    yield node, name, attribute.value

    if not any(map(is_external, tensors(model))):
        return model
    copy = model.clone()
    for graph in graphs(copy):
        for node, name, tensor in stored(graph):
            node.attributes[name] = ir.AttrTensor(name, _in_memory(tensor))
        for value in graph.initializers.values() if isinstance(graph, ir.Graph) else ():
            if moves(value.const_value, SMALL):
                value.const_value = _in_memory(value.const_value)
    return copy


def _in_memory(tensor: ir.TensorProtocol | None) -> ir.Tensor:
    assert tensor is not None
    return ir.Tensor(tensor.numpy().copy(), tensor.dtype, name=tensor.name)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
