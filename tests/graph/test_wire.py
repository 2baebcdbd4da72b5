"""Weights read from the bytes of a file: the same model as protobuf reads, whatever the file looks like."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxdam.errors import InputError
from onnxdam.graph import io, wire


def proto(**weights: np.ndarray) -> onnx.ModelProto:
    """Sums of each weight with an input of its shape, and an empty name to look at."""
    nodes = [helper.make_node("Add", [f"x_{name}", name], [f"y_{name}"], name=name) for name in weights]

    def described(kind: str) -> list[onnx.ValueInfoProto]:
        return [
            helper.make_tensor_value_info(f"{kind}_{name}", helper.np_dtype_to_tensor_dtype(w.dtype), w.shape)
            for name, w in weights.items()
        ]

    stored = [numpy_helper.from_array(w, name) for name, w in weights.items()]
    graph = helper.make_graph(nodes, "g", described("x"), described("y"), stored, doc_string="in front of the inputs")
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    model.metadata_props.add(key="behind", value="the graph")
    return model


def large(dtype: type = np.float32) -> np.ndarray:
    return np.arange(wire.LARGE, dtype=np.float64).reshape(64, -1).astype(dtype)


def test_message_and_weights_make_the_whole() -> None:
    whole = proto(a=large(), small=np.ones(3, np.float32), b=large(np.float16))
    bare, weights = wire.take_weights(whole.SerializeToString())
    assert list(weights) == ["a", "b"]
    assert len(bare) < 1000
    again = onnx.ModelProto.FromString(bare)
    for tensor in again.graph.initializer:
        if tensor.name in weights:
            assert not tensor.HasField("raw_data")
            tensor.raw_data = bytes(weights[tensor.name])
    assert again == whole


def test_loaded_weights_are_views_of_one_buffer(tmp_path: Path) -> None:
    onnx.save(proto(a=large(), b=large()), tmp_path / "m.onnx")
    model = io.load(tmp_path / "m.onnx")
    arrays = [model.graph.initializers[name].const_value.numpy() for name in "ab"]  # type: ignore[union-attr]
    for array in arrays:
        np.testing.assert_array_equal(array, large())
        while isinstance(array.base, np.ndarray):
            array = array.base
        assert isinstance(array.base, memoryview)
    assert arrays[0].ctypes.data < arrays[1].ctypes.data < arrays[0].ctypes.data + 2 * arrays[0].nbytes


@pytest.mark.parametrize("end", range(1, 12))
def test_a_message_that_is_cut_short_is_left_to_the_parser(end: int) -> None:
    data = proto(a=large()).SerializeToString()[:-end]
    assert wire.take_weights(data) == (data, {})


@pytest.mark.parametrize("data", [b"", b"\xff", b"\xff" * 100, b"\x3a", b"\x3b", b"\x3a\x02\x2a\xff"])
def test_what_is_no_message_is_left_to_the_parser(data: bytes) -> None:
    assert wire.take_weights(data) == (data, {})


def test_a_graph_in_two_parts_is_left_to_the_parser() -> None:
    whole = proto(a=large())
    rest = onnx.ModelProto()
    rest.graph.doc_string = "more of it"
    data = whole.SerializeToString() + rest.SerializeToString()
    assert wire.take_weights(data) == (data, {})
    assert onnx.ModelProto.FromString(data).graph.doc_string == "more of it"


def test_weights_of_one_name_stay_where_they_are() -> None:
    whole = proto(a=large())
    whole.graph.initializer.append(whole.graph.initializer[0])
    bare, weights = wire.take_weights(whole.SerializeToString())
    assert list(weights) == ["a"]
    assert [t.HasField("raw_data") for t in onnx.ModelProto.FromString(bare).graph.initializer] == [False, True]


def test_packed_weights_are_read_right(tmp_path: Path) -> None:
    model = proto(a=large())
    model.graph.initializer[0].CopyFrom(
        helper.make_tensor("a", TensorProto.INT4, [64, 1024], bytes(range(256)) * 128, raw=True)
    )
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.INT4
    onnx.save(model, tmp_path / "m.onnx")
    loaded = io.load(tmp_path / "m.onnx", strict=False).graph.initializers["a"].const_value
    assert loaded is not None
    assert loaded.dtype == ir.DataType.INT4
    np.testing.assert_array_equal(
        loaded.numpy().astype(int), numpy_helper.to_array(model.graph.initializer[0]).astype(int)
    )


@pytest.mark.parametrize("dims", [[64, 513], [1 << 20]])
def test_fewer_bytes_than_the_shape_needs_are_refused(tmp_path: Path, dims: list[int]) -> None:
    model = proto(a=large())
    model.graph.initializer[0].dims[:] = dims
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(InputError):
        io.load(tmp_path / "m.onnx")


def test_what_is_written_is_what_protobuf_writes(tmp_path: Path) -> None:
    whole = proto(a=large(), small=np.ones(3, np.float32), b=large(np.float16), c=large(np.int64))
    for tensor in whole.graph.initializer:  # fields in front of and behind the content
        tensor.doc_string = f"of {tensor.name}"
        tensor.metadata_props.add(key="k", value="v")
    model = io.load(whole)
    io.write(model, tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").read_bytes() == whole.SerializeToString(deterministic=True)
    assert [type(v.const_value) for v in model.graph.initializers.values()] == [ir.Tensor] * 4


def test_packed_and_lazy_weights_are_written_as_they_are(tmp_path: Path) -> None:
    model = io.load(proto(a=large(), b=large()))
    four = ir.Tensor(large().astype(np.int64).astype(np.uint8) % 16, ir.DataType.UINT4, name="b")
    graph = model.graph
    graph.initializers["b"].const_value = four
    graph.initializers["a"].const_value = ir.LazyTensor(
        lambda: ir.Tensor(large() + 1), ir.DataType.FLOAT, ir.Shape(large().shape), name="a"
    )
    io.write(model, tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").read_bytes() == io.to_proto(model).SerializeToString(deterministic=True)
    assert isinstance(graph.initializers["a"].const_value, ir.LazyTensor)


def test_a_model_is_whole_again_where_writing_fails(tmp_path: Path) -> None:
    model = io.load(proto(a=large()))
    before = model.graph.initializers["a"].const_value

    def fail() -> None:
        with wire.hollow(model):
            assert model.graph.initializers["a"].const_value is not before
            raise RuntimeError("full")

    with pytest.raises(RuntimeError, match="full"):
        fail()
    assert model.graph.initializers["a"].const_value is before
