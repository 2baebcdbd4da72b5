"""`onnxdam prune --inputs`, `--outputs` and `onnxdam verify` on what came out, at the command line."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from onnxdam import features
from onnxdam.cli.main import status

DIGITS = Path(__file__).parents[3] / "shared" / "models" / "derived_vespa_mnist_softmax_op13.onnx"
TEXT = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,6] x) => (float[N,3] y)
{ a = MatMul(x, w) y = Add(a, b) }"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    w = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    w[[1, 4]] = 0
    w[:, 1] = 0
    model = parser.parse_model(TEXT)
    arrays = {"w": w, "b": np.array([1, 2, 3], np.float32)}
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in arrays.items())
    onnx.save(model, tmp_path / "m.onnx")
    return tmp_path


@dataclass(frozen=True)
class Ran:
    exit_code: int
    output: str


def call(folder: Path, *arguments: str) -> Ran:
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        code = status([str(folder / a) if "." in a and "=" not in a else a for a in arguments])
    return Ran(code, text.getvalue())


def widths(path: Path) -> dict[str, int]:
    graph = onnx.load(path).graph
    dims = {v.name: v.type.tensor_type.shape.dim for v in (*graph.input, *graph.output)}
    return {name: dim[1].dim_value for name, dim in dims.items() if len(dim) > 1}


@pytest.mark.parametrize("arguments", [("m.onnx", "--inputs"), ("--inputs", "m.onnx"), ("m.onnx", "--inputs=narrow")])
def test_inputs(folder: Path, arguments: tuple[str, ...]) -> None:
    result = call(folder, "prune", *arguments, "-o", "s.onnx")
    assert result.exit_code == 0, result.output
    assert "4 of 6 features of axis 1 are read" in result.output and "PASSED" in result.output
    assert widths(folder / "s.onnx") == {"x": 4, "y": 3}
    manifest = features.load(folder / "s.features.json")
    assert manifest == features.load(folder / "s.onnx")
    assert manifest.input("x").kept == {1: (0, 2, 3, 5)}
    checked = call(folder, "verify", "m.onnx", "s.onnx")
    assert checked.exit_code == 0 and "noise" in checked.output, checked.output


def test_keep_signature_and_outputs(folder: Path) -> None:
    result = call(folder, "prune", "m.onnx", "-o", "s.onnx", "--inputs", "keep-signature", "--outputs", "--json")
    assert result.exit_code == 0, result.output
    assert widths(folder / "s.onnx") == {"x": 6, "y": 2}
    assert features.load(folder / "s.onnx").output("y").constants == {1: {1: 2.0}}
    report = json.loads(result.output)
    assert report["plan"]["signature"]["keep_signature"] is True
    assert {case["inputs"] for case in report["verification"]["cases"]} >= {"normal, noise", "quiet, noise"}
    assert call(folder, "verify", "m.onnx", "s.onnx").exit_code == 0


def test_names(folder: Path) -> None:
    (folder / "names.csv").write_text("a,b,c,d,e,f\n1,2,3,4,5,6\n", encoding="utf-8")
    (folder / "short.csv").write_text("a,b,c\n", encoding="utf-8")
    names = ("--feature-names", "names.csv")
    assert call(folder, "prune", "m.onnx", "-o", "s.onnx", "--inputs", *names).exit_code == 0
    assert features.load(folder / "s.onnx").input("x").names == tuple("abcdef")
    wrong = call(folder, "prune", "m.onnx", "-o", "t.onnx", "--inputs", "--feature-names", "short.csv")
    assert wrong.exit_code == 2 and "3 names for 6 features" in wrong.output
    alone = call(folder, "prune", "m.onnx", "-o", "t.onnx", *names)
    assert alone.exit_code == 2 and "--inputs" in alone.output
    twice = call(folder, "prune", "m.onnx", "-o", "t.onnx", "--inputs", *names, *names)
    assert twice.exit_code == 2 and "two files name the features of the only input" in twice.output
    named = call(folder, "prune", "m.onnx", "-o", "u.onnx", "--inputs", "--feature-names", f"x={folder / 'names.csv'}")
    assert named.exit_code == 0 and not list(folder.glob("t.*"))


def test_a_plan_with_inputs(folder: Path) -> None:
    planned = call(folder, "prune", "m.onnx", "--dry-run", "--inputs", "--outputs", "--plan", "p.json")
    assert planned.exit_code == 0, planned.output
    applied = call(folder, "prune", "m.onnx", "--apply", "p.json", "-o", "s.onnx")
    assert applied.exit_code == 0 and "PASSED" in applied.output, applied.output
    assert widths(folder / "s.onnx") == {"x": 4, "y": 2}
    assert features.load(folder / "s.features.json") == features.load(folder / "s.onnx")
    mixed = call(folder, "prune", "m.onnx", "--apply", "p.json", "--inputs", "-o", "t.onnx")
    assert mixed.exit_code == 2 and "--inputs belongs to making one" in mixed.output


def test_a_manifest_is_not_overwritten(folder: Path) -> None:
    (folder / "s.features.json").write_text("mine", encoding="utf-8")
    result = call(folder, "prune", "m.onnx", "-o", "s.onnx", "--inputs")
    assert result.exit_code == 2 and "s.features.json: exists already" in result.output
    assert not (folder / "s.onnx").exists()
    assert call(folder, "prune", "m.onnx", "-o", "s.onnx", "--inputs", "--force").exit_code == 0
    assert features.load(folder / "s.features.json").input("x").kept


def test_nothing_is_written_where_no_input_can_shrink(folder: Path) -> None:
    assert call(folder, "prune", "m.onnx", "-o", "s.onnx", "--inputs").exit_code == 0
    before = sorted(folder.iterdir())
    result = call(folder, "prune", "s.onnx", "-o", "t.onnx", "--inputs")
    assert result.exit_code == 2
    assert "no input can shrink: 'x': is read with a weight other than zero (MatMul" in result.output
    assert len(result.output.strip().splitlines()) == 1
    assert sorted(folder.iterdir()) == before


def test_pruned_again(folder: Path) -> None:
    """A plain prune keeps the manifest and makes it that of the new file."""
    assert call(folder, "prune", "m.onnx", "-o", "s.onnx", "--outputs").exit_code == 0
    assert call(folder, "prune", "s.onnx", "-o", "t.onnx", "--inputs").exit_code == 0
    assert widths(folder / "t.onnx") == {"x": 4, "y": 2}
    assert features.load(folder / "t.onnx").source == features.load(folder / "s.onnx").source
    checked = call(folder, "verify", "m.onnx", "t.onnx")
    assert checked.exit_code == 0, checked.output


def test_a_softmax_of_handwritten_digits(tmp_path: Path) -> None:
    if not DIGITS.exists():
        pytest.skip(f"{DIGITS} is not there")
    result = call(tmp_path, "prune", str(DIGITS), "--inputs", "-o", "s.onnx")
    assert result.exit_code == 0 and "715 of 784 features of axis 1 are read" in result.output, result.output
    assert widths(tmp_path / "s.onnx")["Placeholder:0"] == 715
