"""Manifests and what goes by them: data selected for a pruned model, results expanded, and all that is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas
import pyarrow
import pytest

from onnxdam import features
from onnxdam.errors import InputError
from onnxdam.features import InputFeatures, Manifest, OutputFeatures
from onnxdam.graph import io
from tests.models import mlp, saved

NAMES = ("age", "height", "weight", "pulse", "shoe")


def manifest(*inputs: InputFeatures, outputs: tuple[OutputFeatures, ...] = (), **options: Any) -> Manifest:
    return Manifest("m" * 32, "s" * 32, inputs, outputs, **options)


def table(names: tuple[str, ...] = NAMES, kept: tuple[int, ...] = (3, 0)) -> InputFeatures:
    return InputFeatures("x", ("N", 5), ("N", len(kept)), {1: kept}, names=names)


def image(kept: tuple[int, ...] = (0, 5, 2)) -> InputFeatures:
    return InputFeatures("i", ("N", 1, 2, 3), ("N", len(kept)), {1: kept}, merged=(1, 2, 3))


GONE = InputFeatures("gone", ("N", 7), None, {})
WHOLE = InputFeatures("whole", ("N", None), ("N", None), {})
FREE = InputFeatures("free", features.ANY_RANK, features.ANY_RANK, {})
LOGITS = OutputFeatures("y", ("N", 4), ("N", 2), {1: (3, 1)}, {1: {0: 0.5, 2: float("-inf")}})

EVERYTHING = manifest(table(), image(), GONE, WHOLE, FREE, outputs=(LOGITS,))


# ---------------------------------------------------------------------------------------------------- JSON, files


@pytest.mark.parametrize("it", [EVERYTHING, manifest(table(names=()), keep_signature=True)])
def test_json_is_the_inverse_of_itself(it: Manifest) -> None:
    assert Manifest.from_json(it.to_json()) == it
    json.loads(it.to_json(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_constants_keep_their_type() -> None:
    constants: dict[int, float] = {0: 2**60 + 1, 1: True, 2: 0.1}
    output = OutputFeatures("y", (4,), (1,), {0: (3,)}, {0: constants})
    read = Manifest.from_json(manifest(outputs=(output,)).to_json()).outputs[0].constants[0]
    assert read == constants
    assert [type(v) for v in read.values()] == [int, bool, float]


def test_axes_and_indices() -> None:
    assert (image().axes, image().count, image().indices) == ((1, 2, 3), 6, (0, 5, 2))
    assert (table().axes, table().count, table().indices) == ((1,), 5, (3, 0))
    assert (GONE.axes, GONE.count, GONE.indices, GONE.left) == ((1,), 7, (), True)
    assert (FREE.axes, FREE.count, FREE.indices, FREE.left) == ((), None, None, False)
    whole = InputFeatures("x", (3,), (3,), {})
    assert (whole.axes, whole.indices) == ((0,), (0, 1, 2))


def damaged(**changes: Any) -> str:
    """The JSON of `EVERYTHING`, changed: path__to__field=value; "-" removes the field."""
    data = json.loads(EVERYTHING.to_json())
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = data
        for key in parents:
            place = place[int(key) if isinstance(place, list) else key]
        if value == "-":
            del place[last]
        else:
            place[last] = value
    return json.dumps(data)


@pytest.mark.parametrize(
    "text, says",
    [
        ("not json", "is not JSON"),
        ("[]", "is not a manifest"),
        ('{"a": 1}', "is not a manifest"),
        (damaged(schema=2), "has schema 2, this version of onnxdam reads 1"),
        (damaged(model="-"), "lacks field 'model'"),
        (damaged(model=3), "'model' is not a text"),
        (damaged(extra=3), "has an unknown field 'extra'"),
        (damaged(keep_signature="no"), "'keep_signature' is not true or false"),
        (damaged(inputs={}), "'inputs' is not a list of entries"),
        (damaged(inputs=[3]), "input 0: is not an object"),
        (damaged(inputs__0__kept="-"), "input 0: lacks field 'kept'"),
        (damaged(inputs__0__kept={"one": [1]}), "input 0: 'kept' is not an object of axes"),
        (damaged(inputs__0__kept={"1": [True]}), "input 0: 'kept' is not lists of indices"),
        (damaged(inputs__0__kept={"1": [3, 5]}), "input 'x': axis 1 has 5 features, but feature [5] is kept"),
        (damaged(inputs__0__kept={"1": [3, -1]}), "input 'x': axis 1 has 5 features, but feature [-1] is kept"),
        (damaged(inputs__0__kept={"1": [3, 3]}), "input 'x': axis 1 keeps 1 features twice"),
        (damaged(inputs__0__kept={"1": []}), "input 'x': axis 1 keeps nothing"),
        (damaged(inputs__0__kept={"0": [1]}), "input 'x': axis 0 is no axis of fixed size"),
        (damaged(inputs__0__kept={"7": [1]}), "input 'x': axis 7 is no axis of fixed size"),
        (damaged(inputs__0__slim_shape=["N", 3]), "input 'x': slim shape [N, 3], but the kept features make [N, 2]"),
        (damaged(inputs__0__shape=["N", 5.0]), "input 0: 'shape' is not a shape"),
        (damaged(inputs__0__names=["a"]), "input 'x': 1 names for 5 features"),
        (damaged(inputs__0__names=["a", "b", "a", "c", "d"]), "input 'x': the name ['a'] is there twice"),
        (damaged(inputs__0__names=[1, 2, 3, 4, 5]), "input 0: 'names' is not a list of texts"),
        (damaged(inputs__1__merged=[1, 3]), "input 'i': merged axes [1, 3] are not consecutive"),
        (damaged(inputs__1__merged=[0, 1, 2, 3]), "input 'i': merged axes [0, 1, 2, 3] are no axes of fixed size"),
        (damaged(inputs__1__kept={"2": [0]}), "input 'i': axis 2 is merged"),
        (damaged(inputs__1__name="x"), "input 'x' is listed twice"),
        (damaged(inputs__2__kept={"1": [0]}), "input 'gone': it left, so it can keep no features"),
        (damaged(outputs__0__constants={"1": {"0": 1}}), "output 'y': axis 1 must have a constant for every index"),
        (damaged(outputs__0__constants={"1": {"0": "much", "2": 0}}), "output 0: 'constants' is not numbers by index"),
        (damaged(outputs__0__slim_shape=["N", 4]), "output 'y': slim shape [N, 4], but the kept columns make [N, 2]"),
    ],
)
def test_a_damaged_manifest_is_refused(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "m.features.json"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        features.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and says in message and "\n" not in message
    assert message.endswith("make it again with `onnxdam prune --inputs`")


def test_the_fields_are_all_checked() -> None:
    """A field of another type is refused wherever it is: nothing is read without a look."""

    def places(data: Any, path: tuple[Any, ...] = ()) -> Any:
        yield path
        for key in data if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ():
            yield from places(data[key], (*path, key))

    whole = json.loads(EVERYTHING.to_json())
    for path in places(whole):
        data = json.loads(EVERYTHING.to_json())
        place = {"top": data}
        for key in ("top", *path)[:-1]:
            place = place[key]
        place[path[-1] if path else "top"] = 1.5 if path[-2:-1] != ("1",) or "constants" not in path else []
        with pytest.raises(InputError):
            Manifest.from_json(json.dumps(place["top"] if not path else data))


@pytest.mark.parametrize("content, says", [(None, "no such file"), (b"\xff\xfe\x00", "not text")])
def test_a_file_that_cannot_be_read(content: bytes | None, says: str, tmp_path: Path) -> None:
    path = tmp_path / "m.features.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=says):
        features.load(path)


def with_manifest(folder: Path, *, inside: bool = True, beside: bool = False) -> tuple[Path, Manifest]:
    """A model file with its manifest inside, beside, both or neither."""
    model = mlp()
    made = Manifest(
        io.fingerprint(io.load(model)),
        "s" * 32,
        (InputFeatures("x", ("N", 6), ("N", 4), {1: (5, 0, 1, 2)}),),
        (OutputFeatures("y", ("N", 2), ("N", 2), {}, {}),),
    )
    if inside:
        model.metadata_props.add(key=features.METADATA_KEY, value=made.to_json())
    path = saved(model, folder, "slim.onnx")
    if beside:
        features.manifest_path(path).write_text(made.to_json())
    return path, made


def test_the_manifest_is_found_inside_and_beside(tmp_path: Path) -> None:
    for inside, beside in ((True, False), (False, True), (True, True)):
        folder = tmp_path / f"{inside}{beside}"
        folder.mkdir()
        path, made = with_manifest(folder, inside=inside, beside=beside)
        assert features.load(path) == made
        assert features.load(str(path)) == made
        assert features.belongs(made, path)
        if inside:
            assert features.load(onnx.load(path)) == made
            assert features.of_model(io.load(path)) == made
        if beside:
            assert features.load(tmp_path / folder / "slim.features.json") == made


def test_a_missing_manifest_is_an_error(tmp_path: Path) -> None:
    path, _ = with_manifest(tmp_path, inside=False)
    with pytest.raises(InputError, match=r"slim\.onnx: holds no manifest; `onnxdam prune --inputs`"):
        features.load(path)
    assert features.of_model(io.load(path)) is None


def test_the_manifest_of_another_model_is_an_error(tmp_path: Path) -> None:
    path, made = with_manifest(tmp_path)
    model = onnx.load(path)
    model.graph.initializer[0].raw_data = bytes(len(model.graph.initializer[0].raw_data))
    other = saved(model, tmp_path, "other.onnx")
    assert not features.belongs(made, other)
    for refuse in (lambda: features.load(other), lambda: features.of_model(io.load(other))):
        with pytest.raises(InputError, match="the manifest belongs to another model"):
            refuse()
    features.check_belongs(made, path)
    with pytest.raises(InputError, match=r"other\.onnx: the manifest belongs to another model"):
        features.check_belongs(made, other, str(other))


def test_the_manifest_beside_a_model_is_its_own(tmp_path: Path) -> None:
    path, made = with_manifest(tmp_path)
    features.manifest_path(path).write_text(replace(made, keep_signature=True).to_json())
    with pytest.raises(InputError, match=r"slim\.features\.json: belongs to another model than the one beside it"):
        features.load(path)


def test_numpy_is_all_that_it_takes() -> None:
    code = (
        "import sys; from onnxdam import features; import numpy as np\n"
        f"m = features.Manifest.from_json({EVERYTHING.to_json()!r})\n"
        "features.select(np.zeros((2, 5)), m, 'x')\n"
        "print(sorted({'onnx', 'onnx_ir', 'onnxruntime', 'pandas', 'pyarrow', 'torch'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout.strip() == "[]"


# ---------------------------------------------------------------------------------------------------------- select


X = np.arange(15, dtype=np.float32).reshape(3, 5)


def test_arrays_go_by_position() -> None:
    chosen = features.select(X, manifest(table()))
    assert chosen.dtype == np.float32
    np.testing.assert_array_equal(chosen, X[:, [3, 0]])


def test_tensors_stay_tensors() -> None:
    import torch

    tensor = torch.from_numpy(X).requires_grad_()
    chosen = features.select(tensor, manifest(table()))
    assert torch.equal(chosen, tensor[:, [3, 0]]) and chosen.requires_grad
    pixels = torch.arange(12).reshape(2, 1, 2, 3)
    assert features.select(pixels, manifest(image())).tolist() == [[0, 5, 2], [6, 11, 8]]


def test_pixels_of_an_image() -> None:
    x = np.arange(12).reshape(2, 1, 2, 3)
    np.testing.assert_array_equal(features.select(x, manifest(image())), [[0, 5, 2], [6, 11, 8]])
    assert features.select(x[:0], manifest(image())).shape == (0, 3)


def test_merged_axes_beside_a_narrowed_one() -> None:
    item = InputFeatures("x", ("N", 2, 3, 4), ("N", 2, 2), {1: (5, 0), 3: (3, 1)}, merged=(1, 2))
    x = np.arange(48).reshape(2, 2, 3, 4)
    np.testing.assert_array_equal(features.select(x, manifest(item)), x.reshape(2, 6, 4)[:, [5, 0]][:, :, [3, 1]])


def test_frames_and_tables_go_by_name() -> None:
    frame = pandas.DataFrame(X, columns=list(NAMES))
    for given in (frame, pyarrow.Table.from_pandas(frame), pyarrow.RecordBatch.from_pandas(frame)):
        np.testing.assert_array_equal(features.select(given, manifest(table())), X[:, [3, 0]])
    read = frame[["pulse", "age"]]
    np.testing.assert_array_equal(features.select(read, manifest(table())), X[:, [3, 0]])


def test_columns_that_nobody_reads_may_hold_anything() -> None:
    frame = pandas.DataFrame(X, columns=list(NAMES)).assign(shoe=["a", None, "c"])
    chosen = features.select(frame[list(NAMES)], manifest(table()))
    assert chosen.dtype == np.float32
    np.testing.assert_array_equal(chosen, X[:, [3, 0]])


@pytest.mark.parametrize("names", [NAMES, ()])
def test_a_frame_without_names_goes_by_position(names: tuple[str, ...]) -> None:
    np.testing.assert_array_equal(features.select(pandas.DataFrame(X), manifest(table(names))), X[:, [3, 0]])


@pytest.mark.parametrize(
    "columns, says",
    [
        (("age", "height", "weight", "pulse"), "lacks column 'shoe'"),
        (("age", "height"), "lacks column 'weight' and 2 more"),
        ((*NAMES, "hair"), "has column 'hair', which the model does not know"),
        (("age", "height", "weight", "puls", "shoe"), "lacks column 'pulse' and has column 'puls', which"),
        (("height", "age", "weight", "pulse", "shoe"), "another order: 'height' at 0, the model has 'age' there"),
        (("age", "pulse"), "another order: 'age' at 0, the pruned model has 'pulse' there"),
        (("age", "age", "weight", "pulse", "shoe"), "has column 'age' twice"),
    ],
)
def test_columns_that_differ_are_named(columns: tuple[str, ...], says: str) -> None:
    frame = pandas.DataFrame(np.zeros((2, len(columns))), columns=list(columns))
    givens = [frame] if len(set(columns)) < len(columns) else [frame, pyarrow.Table.from_pandas(frame)]
    for given in givens:
        with pytest.raises(InputError) as caught:
            features.select(given, manifest(table()))
        assert says in str(caught.value) and str(caught.value).startswith("input 'x': the table ")


@pytest.mark.parametrize("given", [None, "slim.features.json", {"schema": 1}])
def test_a_manifest_is_no_path_or_text(given: Any) -> None:
    for use in (features.select, features.expand_outputs):
        with pytest.raises(InputError, match=f"manifest: {type(given).__name__} is none; .*load"):
            use(X, given)


def test_named_columns_need_a_manifest_with_names() -> None:
    with pytest.raises(InputError, match="the manifest has no names to compare; make it with --feature-names"):
        features.select(pandas.DataFrame(X, columns=list(NAMES)), manifest(table(names=())))


@pytest.mark.parametrize(
    "column, says",
    [
        ([1, None, 3], "column 'pulse' has 1 missing values"),
        (["a", "b", "c"], "column 'pulse' holds no numbers, but others do"),
    ],
)
def test_columns_that_are_read_must_be_numbers(column: list[Any], says: str) -> None:
    frame = pandas.DataFrame(X, columns=list(NAMES))
    frame["pulse"] = pandas.array(column, dtype="Int64" if column[0] == 1 else "object")
    for given in (frame, pyarrow.Table.from_pandas(frame)):
        with pytest.raises(InputError, match=says):
            features.select(given, manifest(table()))


def test_dates_are_no_numbers() -> None:
    frame = pandas.DataFrame(X, columns=list(NAMES)).assign(pulse=pandas.Timestamp("2020-02-02"))
    for given in (frame, pyarrow.Table.from_pandas(frame)):
        with pytest.raises(InputError, match="column 'pulse' holds no numbers, but others do"):
            features.select(given, manifest(table()))


def test_columns_of_text_for_an_input_of_text() -> None:
    frame = pandas.DataFrame({name: [f"{name}{k}" for k in range(2)] for name in NAMES})
    for given in (frame, pyarrow.Table.from_pandas(frame)):
        assert features.select(given, manifest(table())).tolist() == [["pulse0", "age0"], ["pulse1", "age1"]]


@pytest.mark.parametrize(
    "x, says",
    [
        (np.zeros((2, 4)), "shape [2, 4], the model takes [N, 5]; axis 1 has 4 entries instead of 5"),
        (np.zeros((2, 2)), "this is the shape of the pruned model, so the features were selected already"),
        (np.zeros(5), "shape [5], the model takes [N, 5]; 1 axes instead of 2"),
        (pandas.DataFrame(np.zeros((2, 4))), "the table has 4 columns without names, the model has 5 features"),
        ([[1, 2, 3, 4, 5]], "list is not taken; pass a numpy array"),
    ],
)
def test_data_that_does_not_fit_is_refused(x: Any, says: str) -> None:
    with pytest.raises(InputError) as caught:
        features.select(x, manifest(table()))
    assert says in str(caught.value) and str(caught.value).startswith("input 'x': ")


def test_a_table_is_no_image() -> None:
    with pytest.raises(InputError, match=r"input 'i': a table was given, but the model takes \[N, 1, 2, 3\]"):
        features.select(pandas.DataFrame(np.zeros((2, 6))), manifest(image()))


def test_fixed_batches_are_checked() -> None:
    item = InputFeatures("x", (2, 5), (2, 1), {1: (4,)})
    for x in (X, pandas.DataFrame(X)):
        with pytest.raises(InputError, match=r"3 (rows|entries)"):
            features.select(x, manifest(item))


def test_several_inputs_go_by_name() -> None:
    both = manifest(table(), GONE, WHOLE)
    whole = np.ones((3, 2))
    chosen = features.select({"x": X, "whole": whole}, both)
    assert list(chosen) == ["x", "whole"]  # nobody reads "gone": it need not be there
    np.testing.assert_array_equal(chosen["x"], X[:, [3, 0]])
    assert chosen["whole"] is whole
    assert list(features.select({"gone": None, "x": X, "whole": whole}, both)) == ["x", "whole"]
    np.testing.assert_array_equal(features.select(X, both, input="x"), X[:, [3, 0]])
    np.testing.assert_array_equal(features.select({"x": X}, both, input="x"), X[:, [3, 0]])


@pytest.mark.parametrize(
    "x, name, says",
    [
        ({"x": X}, None, "data: nothing for input 'whole'"),
        ({"x": X, "whole": X, "z": X}, None, "data: the model has no input 'z' \\(it has 'x', 'gone', 'whole'\\)"),
        (X, None, "the model has 3 inputs; say which one"),
        (X, "z", "the model has no input 'z'"),
        (X, "gone", "input 'gone': nothing of it is read, and the pruned model does not take it"),
    ],
)
def test_inputs_that_differ_are_named(x: Any, name: str | None, says: str) -> None:
    with pytest.raises(InputError, match=says):
        features.select(x, manifest(table(), GONE, WHOLE), input=name)


def test_any_rank_takes_any_shape() -> None:
    assert features.select(np.zeros((1, 2, 3)), manifest(FREE)).shape == (1, 2, 3)


def test_a_kept_signature_takes_the_data_as_it_is() -> None:
    kept = manifest(table(), GONE, keep_signature=True)
    gone = np.zeros((3, 7))
    chosen = features.select({"x": X, "gone": gone}, kept)
    assert chosen["x"] is X and chosen["gone"] is gone
    frame = pandas.DataFrame(X, columns=list(NAMES))
    np.testing.assert_array_equal(features.select(frame, kept, input="x"), X)
    with pytest.raises(InputError, match=r"axis 1 has 2 entries instead of 5"):
        features.select(X[:, :2], kept, input="x")
    with pytest.raises(InputError, match="lacks column 'height'"):
        features.select(frame[["pulse", "age"]], kept, input="x")


# --------------------------------------------------------------------------------------------------------- outputs


Y = np.array([[1, 2], [3, 4]], np.float32)
FULL = np.array([[0.5, 2, -np.inf, 1], [0.5, 4, -np.inf, 3]], np.float32)


def test_constants_are_put_back() -> None:
    import torch

    it = manifest(table(), outputs=(LOGITS,))
    np.testing.assert_array_equal(features.expand_outputs(Y, it), FULL)
    np.testing.assert_array_equal(features.expand_outputs([Y], it)[0], FULL)
    np.testing.assert_array_equal(features.expand_outputs({"y": Y}, it)["y"], FULL)
    assert features.expand_outputs(Y, it).dtype == np.float32
    assert torch.equal(features.expand_outputs(torch.from_numpy(Y), it), torch.from_numpy(FULL))


def test_constants_on_two_axes() -> None:
    item = OutputFeatures("y", (2, 3), (1, 2), {0: (1,), 1: (2, 0)}, {0: {0: 7}, 1: {1: 9}})
    full = features.expand_outputs(np.array([[1, 2]]), manifest(outputs=(item,)))
    assert full[1].tolist() == [2, 9, 1]
    assert full.shape == (2, 3)


@pytest.mark.parametrize(
    "y, says",
    [
        (FULL, r"output 'y': the result has shape \[2, 4\], the pruned model gives \[N, 2\]"),
        ([Y, Y], "2 arrays, but the model has 1 outputs"),
        ({"z": Y}, "no output 'z'"),
    ],
)
def test_results_that_do_not_fit_are_refused(y: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        features.expand_outputs(y, manifest(outputs=(LOGITS,)))


# ----------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    "text, names",
    [
        ("a,b,c\n", ("a", "b", "c")),
        ("a,b,c\n1,2,3\n4,5,6\n", ("a", "b", "c")),
        ("a\nb\n\nc\n", ("a", "b", "c")),
        ('\ufeff"a, b",c', ("a, b", "c")),
        ("alone", ("alone",)),
    ],
)
def test_names_of_a_file(text: str, names: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "names.csv"
    path.write_text(text, encoding="utf-8")
    assert features.read_names(path) == names
    assert features.read_names(str(path), len(names)) == names


def test_names_of_tables() -> None:
    frame = pandas.DataFrame(X, columns=list(NAMES))
    arrow = pyarrow.Table.from_pandas(frame)
    for source in (frame, arrow, arrow.schema, arrow.to_batches()[0], NAMES, list(NAMES)):
        assert features.read_names(source, 5) == NAMES


@pytest.mark.parametrize(
    "text, says",
    [
        (None, "no such file"),
        (b"\xff\xfe", "is not a CSV file of names"),
        (b"", "there are no names"),
        (b"a,b", "2 names for 3 features; every feature needs one"),
        (b"a,b,c,d", "4 names for 3 features"),
        (b"a,b,a", "the name 'a' is there twice, at 0 and 2"),
        (b"a,,b", "name 1 is empty"),
    ],
)
def test_names_that_are_refused(text: bytes | None, says: str, tmp_path: Path) -> None:
    path = tmp_path / "names.csv"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(InputError) as caught:
        features.read_names(path, 3 if text else None)
    assert says in str(caught.value) and str(caught.value).startswith(f"{path}: ")


def test_names_that_are_no_names() -> None:
    with pytest.raises(InputError, match="have no names, only numbers"):
        features.read_names(pandas.DataFrame(X))
    with pytest.raises(InputError, match="int is no file, table or sequence"):
        features.read_names(3)


def test_naming_a_manifest() -> None:
    made = manifest(table(names=()), GONE).named(NAMES, "x")
    assert made.input("x").names == NAMES
    assert made.input("gone") is GONE
    with pytest.raises(InputError, match="2 names for 5 features"):
        made.named(("a", "b"), "x")
    with pytest.raises(InputError, match="no single axis of features"):
        manifest(FREE).named(("a",))
