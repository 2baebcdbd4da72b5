"""Loading, checking, saving: every bad input is one InputError of one line, nothing half written stays behind."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from onnxdam.errors import InputError
from onnxdam.graph import identity, io
from onnxdam.graph.window import Window
from tests.models import mlp, normal, parsed, saved


def refused(path: object, **options: bool) -> str:
    with pytest.raises(InputError) as caught:
        io.load(path, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------------------------------------------ bad input


def test_missing(tmp_path: Path) -> None:
    assert refused(tmp_path / "no.onnx") == f"{tmp_path}/no.onnx: no such file"


def test_folder(tmp_path: Path) -> None:
    assert "is a folder" in refused(tmp_path)


def test_empty(tmp_path: Path) -> None:
    (tmp_path / "e.onnx").touch()
    assert "the file is empty" in refused(tmp_path / "e.onnx")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable(tmp_path: Path) -> None:
    path = saved(mlp(), tmp_path)
    path.chmod(0)
    assert "cannot be read (Permission denied)" in refused(path)


def test_unreadable_by_system_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", denied)
    assert "cannot be read (Permission denied)" in refused(tmp_path / "x.onnx")


@pytest.mark.parametrize(
    "content", [b"hello world, no model here", b"\x89PNG\r\n\x1a\n" + bytes(100), b"{}", bytes(64)]
)
def test_not_onnx(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.onnx").write_bytes(content)
    assert "is not an ONNX model" in refused(tmp_path / "x.onnx")


def test_truncated_at_any_byte(tmp_path: Path) -> None:
    whole = mlp().SerializeToString()
    path = tmp_path / "t.onnx"
    for length in range(1, len(whole), 7):
        path.write_bytes(whole[:length])
        message = refused(path)
        assert "truncated" in message or "not an ONNX model" in message, (length, message)
    path.write_bytes(whole[: len(whole) // 2])
    assert "truncated" in refused(path)


@pytest.mark.parametrize("length", [100, 1000, 5000, 100_000])
def test_truncated_real_file(tmp_path: Path, length: int) -> None:
    demo = Path(__file__).parents[2] / "models" / "demo_masked.onnx"
    path = tmp_path / "t.onnx"
    path.write_bytes(demo.read_bytes()[:length])
    missing = re.search(r"truncated, at least ([\d,]+) bytes are missing", refused(path))
    assert missing is not None
    behind_graph = 256  # bytes: fields that nobody can know of
    assert 0 <= demo.stat().st_size - length - int(missing[1].replace(",", "")) <= behind_graph


def test_old_opset(tmp_path: Path) -> None:
    model = mlp()
    model.opset_import[0].version = 6
    assert "opset 6 is too old" in refused(model)
    assert "opset 6 is too old" in refused(model, strict=False)
    del model.opset_import[:]
    assert "opset 1 is too old" in refused(model)


def test_opset_from_the_future() -> None:
    model = mlp()
    model.opset_import[0].version = 999
    assert "opset 999 is newer" in refused(model)


def test_invalid_graph_strict_or_not() -> None:
    model = mlp()
    model.graph.node[0].input[0] = "nobody"
    assert "invalid graph" in refused(model)
    with pytest.warns(UserWarning, match="invalid graph"):
        assert io.load(model, strict=False).graph


def test_unknown_operator_of_the_standard() -> None:
    model = mlp()
    model.graph.node[1].op_type = "Relux"
    assert "No Op registered for Relux" in refused(model)


def test_custom_operator_is_no_error() -> None:
    model = parsed(
        "g (float[N] x) => (float[N] y) { y = my.own.Thing(x) }",
        header='<ir_version: 8, opset_import: ["" : 17, "my.own" : 1]>\n',
    )
    assert next(iter(io.load(model).graph)).domain == "my.own"


def test_weight_with_too_few_bytes() -> None:
    model = mlp(hidden=600)
    model.graph.initializer[0].raw_data = b"1234"
    assert "'w1' holds fewer bytes" in refused(model)


def test_external_data_missing(tmp_path: Path) -> None:
    path = saved(mlp(), tmp_path, external=True)
    (tmp_path / "model.onnx.data").unlink()
    assert "external data model.onnx.data: No such file" in refused(path)


def test_external_data_short(tmp_path: Path) -> None:
    path = saved(mlp(), tmp_path, external=True)
    data = tmp_path / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:-1])
    assert "too short for tensor" in refused(path)


def _point_elsewhere(path: Path, location: str) -> None:
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        next(entry for entry in tensor.external_data if entry.key == "location").value = location
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "a/../../secret"])
def test_external_data_outside(tmp_path: Path, location: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(10_000))
    path = saved(mlp(), folder, external=True)
    _point_elsewhere(path, location)
    assert "outside the folder of the model" in refused(path)
    monkeypatch.chdir(folder)  # a bare file name has no folder to stay in, unless one looks it up
    assert "outside the folder of the model" in refused("model.onnx")


def test_external_data_through_links(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(10_000))
    path = saved(mlp(), folder, external=True)
    data = folder / "model.onnx.data"
    data.unlink()
    data.symlink_to(tmp_path / "secret")
    assert "outside the folder of the model" in refused(path)
    data.unlink()
    os.link(tmp_path / "secret", data)
    assert "several hard links" in refused(path)


# ----------------------------------------------------------------------------------------------------------- load


def test_input_is_never_modified() -> None:
    proto = mlp()
    before = proto.SerializeToString()
    loaded = io.load(proto)
    loaded.graph.initializers["w1"].name = "renamed"
    assert proto.SerializeToString() == before
    again = io.load(loaded)
    again.graph.remove(list(again.graph)[-1:], safe=False)
    assert len(list(loaded.graph)) == 3


def test_weights_among_the_inputs(tmp_path: Path) -> None:
    model = mlp()
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    loaded = io.load(saved(model, tmp_path))
    assert [v.name for v in loaded.graph.inputs] == ["x", "w1", "b1", "w2", "b2"]
    io.save(loaded, tmp_path / "again.onnx")
    onnx.checker.check_model(str(tmp_path / "again.onnx"), full_check=True)


def test_map_types_survive(tmp_path: Path) -> None:
    model = parsed(
        "g (float[N, 2] x) => (seq(map(int64, float)) y) { y = ai.onnx.ml.ZipMap <classlabels_int64s = [0, 1]> (x) }",
        header='<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3]>\n',
    )
    loaded = io.load(model)
    assert io.to_proto(loaded).graph.output[0] == model.graph.output[0]
    io.save(loaded, tmp_path / "m.onnx")
    assert onnx.load(tmp_path / "m.onnx").graph.output[0] == model.graph.output[0]


def test_external_data_is_lazy(tmp_path: Path) -> None:
    loaded = io.load(saved(mlp(), tmp_path, external=True))
    tensors = list(io.tensors(loaded))
    assert all(isinstance(t, ir.ExternalTensor) and t.raw is None for t in tensors)
    assert io.sources(loaded) == [tmp_path / "model.onnx.data"]
    window = Window()
    assert window.read(tensors[0]).shape == (4, 8)
    window.close()
    np.testing.assert_array_equal(tensors[0].numpy(), numpy_helper.to_array(mlp().graph.initializer[0]))


# ----------------------------------------------------------------------------------------------------------- save


def test_save_is_deterministic_and_complete(tmp_path: Path) -> None:
    for name in ("a", "b"):
        io.save(io.load(mlp()), tmp_path / f"{name}.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.onnx", "b.onnx"]


def test_nothing_is_added_by_a_round_trip(tmp_path: Path) -> None:
    path = saved(mlp(), tmp_path)
    io.save(io.load(path), tmp_path / "again.onnx")
    assert onnx.load(tmp_path / "again.onnx").graph.value_info == onnx.load(path).graph.value_info
    assert (tmp_path / "again.onnx").stat().st_size <= path.stat().st_size


def test_external_data_stays_external(tmp_path: Path) -> None:
    source = saved(mlp(wide=600), tmp_path, external=True)
    target = tmp_path / "elsewhere" / "out.onnx"
    target.parent.mkdir()
    io.save(io.load(source), target)
    assert sorted(p.name for p in target.parent.iterdir()) == ["out.onnx", "out.onnx.data"]
    assert io.fingerprint(io.load(target)) == io.fingerprint(io.load(source)) == io.fingerprint(io.load(mlp(wide=600)))


def test_external_attribute_moves_into_the_file(tmp_path: Path) -> None:
    model = parsed("g (float[600] x) => (float[600] y) { y = Add(x, c) }", c=normal(600))
    constant = onnx.helper.make_node("Constant", [], ["c"], value=model.graph.initializer[0])
    del model.graph.initializer[:]
    model.graph.node.insert(0, constant)
    (tmp_path / "in").mkdir()
    onnx.save(
        model, tmp_path / "in" / "m.onnx", save_as_external_data=True, location="w", size_threshold=0,
        convert_attribute=True,
    )  # fmt: skip
    io.save(io.load(tmp_path / "in" / "m.onnx"), tmp_path / "out.onnx")
    (tmp_path / "in" / "w").unlink()
    value = onnx.load(tmp_path / "out.onnx").graph.node[0].attribute[0].t
    np.testing.assert_array_equal(numpy_helper.to_array(value), normal(600))


def test_over_the_limit_of_protobuf_goes_external(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(io, "PROTOBUF_LIMIT", 10_000)
    io.save(io.load(mlp(wide=6000)), tmp_path / "big.onnx")
    assert (tmp_path / "big.onnx.data").stat().st_size > 10_000 > (tmp_path / "big.onnx").stat().st_size


def test_output_must_not_be_input(tmp_path: Path) -> None:
    path = saved(mlp(), tmp_path, external=True)
    loaded = io.load(path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(InputError, match="would overwrite its own input"):
        io.save(loaded, path)
    with pytest.raises(InputError, match="would overwrite its own input"), io.staged(path, sources=[path]):
        pass
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_unwritable_places(tmp_path: Path) -> None:
    loaded = io.load(mlp())
    with pytest.raises(InputError, match="there is no folder"):
        io.save(loaded, tmp_path / "no" / "m.onnx")
    with pytest.raises(InputError, match="is a folder"):
        io.save(loaded, tmp_path)
    with pytest.raises(InputError, match="not a regular file"):
        io.save(loaded, "/dev/null")
    (tmp_path / "m.onnx").touch()
    with pytest.raises(InputError, match="exists already"):
        io.save(loaded, tmp_path / "m.onnx", overwrite=False)


@pytest.mark.parametrize(
    ("number", "text"), [(errno.ENOSPC, "disk is full"), (errno.EACCES, "cannot be written"), (errno.EROFS, "written")]
)
def test_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, text: str) -> None:
    def failing(data: bytes, weights: object) -> Iterator[bytes]:
        yield data[: len(data) // 2]
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(io, "put_weights", failing)
    with pytest.raises(InputError, match=text):
        io.save(io.load(mlp()), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_really_full_disk() -> None:
    """/dev/full accepts no byte: the error of a full disk without filling one."""
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full here")
    with pytest.raises(OSError, match="No space left") as caught, open("/dev/full", "wb", buffering=0) as file:
        file.write(b"x")
    assert "the disk is full" in str(io.unwritable(Path("m.onnx"), caught.value))


def test_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with io.staged(tmp_path / "m.onnx") as temporary:
            temporary.write_bytes(b"half a model")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_foreign_read_errors_are_not_called_write_errors(tmp_path: Path) -> None:
    def reading() -> None:
        with io.staged(tmp_path / "m.onnx"):
            (tmp_path / "gone" / "x").read_bytes()

    with pytest.raises(FileNotFoundError):
        reading()


# ---------------------------------------------------------------------------------------------------- fingerprint


def test_fingerprint_sees_structure_and_every_weight() -> None:
    base = io.fingerprint(io.load(mlp()))
    assert base == io.fingerprint(io.load(mlp()))
    seen = {base}
    for index, tensor in enumerate(mlp().graph.initializer):
        for position in range(min(8, numpy_helper.to_array(tensor).size)):
            model = mlp()
            array = numpy_helper.to_array(model.graph.initializer[index]).copy()
            array.reshape(-1)[position] += 0.5
            model.graph.initializer[index].CopyFrom(numpy_helper.from_array(array, tensor.name))
            seen.add(io.fingerprint(io.load(model)))
    renamed, attribute = mlp(), mlp()
    renamed.graph.node[1].op_type = "Sigmoid"
    attribute.graph.node[2].attribute.append(onnx.helper.make_attribute("alpha", 2.0))
    seen |= {io.fingerprint(io.load(renamed)), io.fingerprint(io.load(attribute))}
    assert len(seen) == 1 + 8 + 8 + 8 + 2 + 2


def test_fingerprint_tells_masks_of_a_large_weight_apart() -> None:
    """Zeroing any one row, column or entry of a tensor far above the whole-hash limit is another model."""
    array = normal(700, 500)
    model = parsed("g (float[N, 700] x) => (float[N, 500] y) { y = MatMul(x, w) }", w=array)
    loaded = io.load(model)
    value = loaded.graph.initializers["w"]
    seen = {io.fingerprint(loaded)}
    rng = np.random.default_rng(0)
    for trial in range(60):
        changed = array.copy()
        row, column = rng.integers(0, 700), rng.integers(0, 500)
        changed[(slice(None), row, row)[trial % 3], (column, slice(None), column)[trial % 3]] = 0
        value.const_value = ir.tensor(changed)
        seen.add(io.fingerprint(loaded))
    swapped = array[::-1].copy()  # the same numbers at other places
    value.const_value = ir.tensor(swapped)
    seen.add(io.fingerprint(loaded))
    assert len(seen) == 62


def test_checksum_of_rows_swapped_in_whole_blocks() -> None:
    words = np.arange(4 * 2048, dtype=np.uint64).reshape(4, 2048)
    one = identity._checksum(words.reshape(-1).view(np.uint8))
    assert one != identity._checksum(words[[1, 0, 2, 3]].reshape(-1).view(np.uint8))
    assert one != identity._checksum(np.roll(words, 1, axis=1).reshape(-1).view(np.uint8))


def test_fingerprint_reads_subgraphs() -> None:
    def branches(a: float) -> onnx.ModelProto:
        return parsed(
            "g (bool c, float[2] x) => (float[2] y) { y = If (c) <"
            f"then_branch = t () => (float[2] a) {{ k = Constant <value = float[2] {{{a}, 1.0}}> ()  a = Add(x, k) }},"
            "else_branch = e () => (float[2] b) { b = Neg(x) }> }"
        )

    assert io.fingerprint(io.load(branches(1.0))) != io.fingerprint(io.load(branches(2.0)))
