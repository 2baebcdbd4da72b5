"""onnxdam features: the table, the files, and all that is refused."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxdam import features
from onnxdam.cli import exits
from tests.cli.test_commands import files, onnxdam, refused
from tests.models import mlp, normal, parsed, saved

NAMES = ("age", "height", "weight", "pulse", "shoe")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """x[N, 5] -> MatMul -> y[N, 3]; features 1 and 4 are not read."""
    w = normal(5, 3)
    w[[1, 4]] = 0
    return saved(parsed("g (float[N, 5] x) => (float[N, 3] y) { y = MatMul(x, w) }", w=w), tmp_path)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """x[N, 1, 4, 6] -> Flatten -> MatMul -> y[N, 3]; the first row and pixel 13 are not read."""
    w = normal(24, 3)
    w[[0, 1, 2, 3, 4, 5, 13]] = 0
    text = "g (float[N, 1, 4, 6] x) => (float[N, 3] y) { f = Flatten(x)  y = MatMul(f, w) }"
    return saved(parsed(text, w=w), tmp_path, "image.onnx")


@pytest.fixture
def names(tmp_path: Path) -> Path:
    path = tmp_path / "names.csv"
    path.write_text(",".join(NAMES) + "\n")
    return path


def test_the_table(table: Path, names: Path) -> None:
    run = onnxdam("features", table, "--names", names)
    assert run.returncode == exits.DONE and run.stderr == ""
    (reading,) = features.rank(str(table), names=NAMES)
    lines = run.stdout.splitlines()
    assert lines[0] == "x [N, 5]: 3 of 5 features are read, along axis 1, first by MatMul MatMul(y)"
    rows = [line.split() for line in lines if line.strip()[:1].isdigit()]
    wanted = [
        [str(k), str(f.index), f.name, f"{f.norm:.4g}", "1"] for k, f in enumerate(reading.features(), 1) if f.read
    ]
    assert rows == wanted
    assert "not read: height, shoe" in lines


def test_only_the_ends_of_a_long_table(tmp_path: Path) -> None:
    w = normal(40, 3)
    w[[7, 8, 9, 30]] = 0
    model = saved(parsed("g (float[N, 40] x) => (float[N, 3] y) { y = MatMul(x, w) }", w=w), tmp_path)
    lines = onnxdam("features", model, "--top", 3).stdout.splitlines()
    ranks = [line.split()[0] for line in lines if line.strip()[:1].isdigit() or line.strip() == "..."]
    assert ranks == ["1", "2", "3", "...", "34", "35", "36"]
    assert "not read: 7-9, 30" in lines


def test_json_and_csv(table: Path, tmp_path: Path) -> None:
    run = onnxdam("features", table, "--json", "--csv", tmp_path / "f.csv")
    (found,) = json.loads(run.stdout)["inputs"]
    assert (found["name"], found["axes"], found["count"], found["read"]) == ("x", [1], 5, 3)
    assert [f["index"] for f in found["features"] if not f["read"]] == [1, 4]
    with (tmp_path / "f.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["index"] for row in rows] == [str(f["index"]) for f in found["features"]]
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert [float(row["norm"]) for row in rows] == [f["norm"] for f in found["features"]]
    assert [row["read"] for row in rows] == ["1", "1", "1", "0", "0"]


def test_a_picture(image: Path, tmp_path: Path) -> None:
    path = tmp_path / "heat.png"
    run = onnxdam("features", image, "--png", path)
    assert run.stdout.splitlines()[-1] == f"{path} written"
    assert "not read: 0-5, 13" in run.stdout
    with Image.open(path) as drawn:
        assert drawn.format == "PNG" and drawn.width > drawn.height > 300


def test_a_picture_of_a_vector(table: Path, tmp_path: Path) -> None:
    path = tmp_path / "heat.png"
    assert onnxdam("features", table, "--png", path, "--image", "1x5").returncode == exits.DONE
    assert path.exists()


def test_a_pruned_model_shows_the_features_of_its_original(table: Path, names: Path, tmp_path: Path) -> None:
    slim = tmp_path / "slim.onnx"
    assert onnxdam("prune", table, "-o", slim, "--inputs", "--feature-names", names).returncode == exits.DONE
    before, after = (onnxdam("features", model, "--names", names).stdout for model in (table, slim))
    assert before == after
    assert onnxdam("features", slim).stdout == before  # the manifest has the names


def test_one_input_of_several(tmp_path: Path) -> None:
    text = "g (float[N, 3] a, float[N, 4] b) => (float[N, 3] y) { c = Concat<axis = 1>(a, b)  y = MatMul(c, w) }"
    model = saved(parsed(text, w=normal(7, 3)), tmp_path)
    assert onnxdam("features", model).stdout.count("features are read") == 2
    (found,) = json.loads(onnxdam("features", model, "--input", "b", "--json").stdout)["inputs"]
    assert (found["name"], found["count"]) == ("b", 4)
    assert "the model has no input 'c' (it has 'a', 'b')" in refused("features", model, "--input", "c")
    line = refused("features", model, "--png", tmp_path / "f.png")
    assert "one picture shows one input; choose it with --input ('a', 'b')" in line
    (tmp_path / "n.csv").write_text("p\nq\nr\ns\n")
    assert "not read" not in onnxdam("features", model, "--names", f"b={tmp_path / 'n.csv'}").stdout
    assert "say which input is meant" in refused("features", model, "--names", tmp_path / "n.csv")


def test_an_input_without_features(tmp_path: Path) -> None:
    text = "g (int64[N, T] words) => (float[N, T, 3] y) { y = Gather(table, words) }"
    run = onnxdam("features", saved(parsed(text, table=normal(9, 3)), tmp_path))
    assert run.stdout == "words [N, T]: has no features that weights tell apart\n"


def test_features_that_cannot_leave_alone_are_told(tmp_path: Path) -> None:
    """Of a picture that is padded first, whole rows and columns leave."""
    w = np.zeros((30, 3), np.float32)
    w[[9, 16]] = 1  # pixels (0, 2) and (1, 3)
    text = "g (float[N, 3, 4] x) => (float[N, 3] y) { p = Pad(x, pads)  f = Flatten(p)  y = MatMul(f, w) }"
    model = parsed(text, w=w, pads=np.array([0, 1, 1, 0, 1, 1]))
    run = onnxdam("features", saved(model, tmp_path))
    assert "2 of 12 features are read" in run.stdout
    assert "2 of these stay all the same" in run.stdout


# --------------------------------------------------------------------------------------------------------- refused


def test_names_of_the_wrong_length(table: Path, tmp_path: Path) -> None:
    path = tmp_path / "n.csv"
    path.write_text("a,b,c\n")
    assert "names: 3 names for 5 features of input 'x'" in refused("features", table, "--names", path)
    assert "no such file" in refused("features", table, "--names", tmp_path / "none.csv")


def test_what_is_no_image(table: Path, tmp_path: Path) -> None:
    path = tmp_path / "heat.png"
    assert "input 'x' [N, 5] is not an image" in refused("features", table, "--png", path)
    assert "an image of 2 x 3 has 6 pixels, but there are 5" in refused(
        "features", table, "--png", path, "--image", "2x3"
    )
    assert not path.exists()


def test_without_pillow(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    before = files(tmp_path)
    assert "pip install 'onnxdam[report]'" in refused("features", image, "--png", tmp_path / "heat.png")
    assert files(tmp_path) == before


def test_files_that_exist_stay(table: Path, tmp_path: Path) -> None:
    taken = tmp_path / "f.csv"
    taken.write_text("mine")
    assert "exists already" in refused("features", table, "--csv", taken)
    assert taken.read_text() == "mine"
    assert onnxdam("features", table, "--csv", taken, "--force").returncode == exits.DONE
    assert taken.read_text() != "mine"
    assert "would overwrite its own input" in refused("features", table, "--csv", table, "--force")


def test_a_model_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"nothing")
    assert "is not an ONNX model" in refused("features", tmp_path / "m.onnx")
    assert "no such file" in refused("features", tmp_path / "none.onnx")


def test_a_manifest_of_another_model(tmp_path: Path) -> None:
    model = mlp()
    entry = features.Manifest("0" * 32, "1" * 32, (), ()).to_json()
    model.metadata_props.add(key=features.METADATA_KEY, value=entry)
    assert "the manifest belongs to another model" in refused("features", saved(model, tmp_path))


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--image", "28"], "'28' is not of the form HxW"),
        (["--image", "0x3"], "'0x3' is not of the form HxW"),
        (["--image", "28x28"], "--image says what the picture of --png looks like"),
        (["--csv", "a", "--png", "a"], "--csv and --png name the same file"),
        (["--top", "0"], "0 is not in the range x>=1"),
    ],
)
def test_usage(table: Path, arguments: list[str], says: str) -> None:
    run = onnxdam("features", table, *arguments)
    assert run.returncode == exits.BAD_INPUT and says in run.stderr
