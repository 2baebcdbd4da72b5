"""Model repositories for Triton: what is in the configuration, what is refused, what is left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

import onnxdam
from onnxdam import features
from onnxdam.deploy.triton import Deployment
from onnxdam.errors import InputError, UnsupportedError
from onnxdam.features import InputFeatures, Manifest, OutputFeatures
from onnxdam.graph import io
from tests.deploy import server
from tests.models import mlp, normal, parsed, saved

MODELS = Path(__file__).parent.parent.parent.parent / "shared" / "models"


def deployed(model: onnx.ModelProto, folder: Path, **options: Any) -> tuple[Any, Deployment]:
    """The configuration, checked as the server does, and what `deploy` says."""
    done = onnxdam.deploy(model, folder / "repository", **({"name": "m"} | options))
    return server.load(done.path), done


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# -------------------------------------------------------------------------------------------- what is written


def test_a_batching_model(tmp_path: Path) -> None:
    source = saved(mlp(), tmp_path, "net v2.onnx")
    done = onnxdam.deploy(source, tmp_path / "repository", to="triton")
    assert done.path == tmp_path / "repository" / "net_v2"
    assert tree(tmp_path / "repository") == ["net_v2/1/model.onnx", "net_v2/config.pbtxt"]
    assert (done.path / "1" / "model.onnx").read_bytes() == source.read_bytes()
    config = server.load(done.path)
    assert config.max_batch_size == done.max_batch_size == 8
    assert config.HasField("dynamic_batching")
    assert [list(item.dims) for item in (*config.input, *config.output)] == [[4], [2]]
    assert [sample.batch_size for sample in config.model_warmup] == [1, 8]
    assert (config.instance_group[0].count, config.instance_group[0].kind) == (1, 0)
    assert done.notes == ()
    assert done.verified
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net v2.onnx", "repository"]


def test_a_fixed_model_is_not_batched(tmp_path: Path) -> None:
    model = parsed("g (float[1, 4] x) => (float[1, 2] y) { y = MatMul(x, w) }", w=normal(4, 2))
    config, done = deployed(model, tmp_path)
    assert config.max_batch_size == 0
    assert "max_batch_size: 0\n" in (done.path / "config.pbtxt").read_text()
    assert [list(item.dims) for item in (*config.input, *config.output)] == [[1, 4], [1, 2]]
    assert done.notes == ("no batching: input 'x' has the fixed size 1 on its first axis",)


def test_every_option_is_in_the_configuration(tmp_path: Path) -> None:
    config, _ = deployed(
        mlp(), tmp_path, name="net-1.0", version=7, max_batch_size=32, delay=500, instances=2, kind="cpu", warmup=False
    )
    pb = server.model_config()
    assert config.name == "net-1.0"
    assert (tmp_path / "repository" / "net-1.0" / "7" / "model.onnx").exists()
    assert config.max_batch_size == 32
    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    assert config.instance_group[0].count == 2
    assert config.instance_group[0].kind == pb.ModelInstanceGroup.KIND_CPU
    assert len(config.model_warmup) == 0
    gpu, _ = deployed(mlp(), tmp_path, name="gpu", kind="gpu", dynamic_batching=False)
    assert gpu.instance_group[0].kind == pb.ModelInstanceGroup.KIND_GPU
    assert not gpu.HasField("dynamic_batching")
    assert gpu.max_batch_size == 8
    single, _ = deployed(mlp(), tmp_path, name="single", max_batch_size=1)
    assert (single.max_batch_size, single.HasField("dynamic_batching")) == (1, False)
    assert [sample.batch_size for sample in single.model_warmup] == [1]
    none, _ = deployed(mlp(), tmp_path, name="none", max_batch_size=0)
    assert list(none.input[0].dims) == [-1, 4]


def test_sizes_of_dynamic_dimensions(tmp_path: Path) -> None:
    model = parsed("g (float[N, 3, H, W] x) => (float[N, 3, H, W] y) { y = Relu(x) }")
    config, _ = deployed(model, tmp_path, sizes={"H": 48, "W": 64})
    assert list(config.input[0].dims) == [3, -1, -1]
    assert list(config.model_warmup[0].inputs["x"].dims) == [3, 48, 64]
    with pytest.raises(InputError, match="no dynamic dimension 'D'; there are: H, N, W"):
        deployed(model, tmp_path, name="other", sizes={"D": 4})


def test_tensorrt_only_when_asked(tmp_path: Path) -> None:
    assert not deployed(mlp(), tmp_path)[0].HasField("optimization")
    config, done = deployed(mlp(), tmp_path, name="trt", tensorrt="fp16")
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt"
    assert accelerator.parameters["precision_mode"] == "FP16"
    assert accelerator.parameters["trt_engine_cache_enable"] == "1"
    assert accelerator.parameters["trt_timing_cache_enable"] == "1"
    assert accelerator.parameters["trt_profile_min_shapes"] == "x:1x4"
    assert accelerator.parameters["trt_profile_max_shapes"] == "x:8x4"
    assert any("results are not those of the model" in note for note in done.notes)
    image = parsed("g (float[N, 3, H, W] x) => (float[N, 3, H, W] y) { y = Relu(x) }")
    config, done = deployed(image, tmp_path, name="image", tensorrt="fp32")
    parameters = config.optimization.execution_accelerators.gpu_execution_accelerator[0].parameters
    assert not any("profile" in key for key in parameters)
    assert any("every new size" in note for note in done.notes)


def test_external_data_lies_beside_the_model(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    source = saved(mlp(hidden=900), tmp_path / "in", external=True)
    done = onnxdam.deploy(source, tmp_path / "repository", name="m")
    assert done.files == ("1/model.onnx", "1/model.onnx.data", "config.pbtxt")
    for path in (tmp_path / "in").iterdir():
        path.unlink()
    x = normal(3, 4)
    found = ort.InferenceSession(done.path / "1" / "model.onnx").run(None, {"x": x})[0]
    expected = ort.InferenceSession(mlp(hidden=900).SerializeToString()).run(None, {"x": x})[0]
    assert np.array_equal(found, expected)


def test_json_names_and_numbers(tmp_path: Path) -> None:
    _, done = deployed(mlp(), tmp_path)
    data = json.loads(json.dumps(done.to_dict()))
    assert data["files"] == ["1/model.onnx", "config.pbtxt"]
    assert data["nbytes"] == sum(path.stat().st_size for path in done.path.rglob("*") if path.is_file())


def test_grpc_is_not_imported() -> None:
    code = (
        "import sys; from onnxdam.deploy.triton import model_config as m; m().ModelConfig; print('grpc' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_a_missing_package_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs tritonclient: pip install 'onnxdam\[triton\]'"):
        onnxdam.deploy(mlp(), tmp_path, name="m")


# ------------------------------------------------------------------------------------------------- types and ranks


@pytest.mark.parametrize(
    "kind",
    [
        "float",
        "double",
        "float16",
        "bfloat16",
        "bool",
        "string",
        *(f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64)),
    ],
)
def test_every_type(kind: str, tmp_path: Path) -> None:
    config, done = deployed(parsed(f"g ({kind}[N, 2, K] x) => ({kind}[N, 2, K] y) {{ y = Identity(x) }}"), tmp_path)
    assert config.max_batch_size == 8, done.notes
    assert list(config.input[0].dims) == [2, -1]


def test_mixed_inputs(tmp_path: Path) -> None:
    text = """g (float[N, 4] x, int64[N, T] ids, string[N, 1] s, bool[N] flag) => (float[N, 4] y, float[N, T, 3] e, string[N, 1] t, bool[N] f)
        { y = Relu(x)  e = Gather(table, ids)  t = Identity(s)  f = Not(flag) }"""
    config, _ = deployed(parsed(text, table=normal(10, 3)), tmp_path)
    assert config.max_batch_size == 8
    assert [list(item.dims) for item in config.input] == [[4], [-1], [1], [1]]
    assert [item.HasField("reshape") for item in config.input] == [False, False, False, True]
    assert [item.HasField("reshape") for item in config.output] == [False, False, False, True]


def test_single_numbers(tmp_path: Path) -> None:
    text = "g (float[N, 4] x, float a) => (float[N, 4] y, float total) { y = Mul(x, a)  total = ReduceSum <keepdims = 0> (y) }"
    config, done = deployed(parsed(text), tmp_path)
    assert config.max_batch_size == 0
    assert [list(item.dims) for item in (*config.input, *config.output)] == [[-1, 4], [1], [-1, 4], [1]]
    assert done.notes == ("no batching: input 'a' is a single number, it has no batch axis",)
    total = parsed("g (float[N, 4] x) => (float[N, 4] y, float t) { y = Relu(x)  t = ReduceSum <keepdims = 0> (y) }")
    with pytest.raises(UnsupportedError, match="max_batch_size 4: output 't' is a single number"):
        deployed(total, tmp_path, name="total", max_batch_size=4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("g (float[N] x) => (seq(float[N]) y) { y = SequenceConstruct(x) }", "output 'y' is a seq.tensor.float..,"),
        ("g (float[0, 4] x) => (float[0, 4] y) { y = Relu(x) }", "input 'x' is always empty"),
        ("g () => (float[1] y) { y = Constant <value = float[1] {1}> () }", "has no inputs"),
    ],
)
def test_what_triton_cannot_carry(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=message):
        deployed(parsed(text), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_output_of_unknown_rank(tmp_path: Path) -> None:
    """ONNX Runtime reports no dims for it, as for a single number, and the server would believe that."""
    model = parsed("g (float[N, 4] x, int64[K] s) => (float[N] y) { y = Reshape(x, s) }")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    with pytest.raises(UnsupportedError, match="output 'y' has no shape in the file"):
        deployed(model, tmp_path)


def test_tensor_names_are_kept(tmp_path: Path) -> None:
    model = parsed("g (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }")
    new = {"x": 'a "b"/c:0 \\ é', "y": "出力\n2"}
    for value in (*model.graph.input, *model.graph.output):
        value.name = new[value.name]
    model.graph.node[0].input[0], model.graph.node[0].output[0] = new["x"], new["y"]
    config, _ = deployed(model, tmp_path)
    assert (config.input[0].name, config.output[0].name) == (new["x"], new["y"])


# --------------------------------------------------------------------------------------------------------- batching


LSTM = "{ o, h, c = LSTM <hidden_size = 5> (x, W, R)  y = Squeeze(o, one) }"
LSTM_WEIGHTS = dict(W=normal(1, 20, 3), R=normal(1, 20, 5), one=np.array([1]))


@pytest.mark.parametrize(
    ("text", "weights", "message"),
    [
        # the running time of a sequence taken for a batch: rows depend on those before, last on first
        (f"g (float[S, 1, 3] x) => (float[S, 1, 5] y) {LSTM}", LSTM_WEIGHTS, "output 'y' mixes the rows"),
        (f"g (float[S, B, 3] x) => (float[S, B, 5] y) {LSTM}", LSTM_WEIGHTS, "output 'y' mixes the rows"),
        (
            "g (float[S, 1, 3] x) => (float[S, 1, 5] y) { o, h, c = LSTM <hidden_size = 5, direction = \"reverse\"> (x, W, R)  y = Squeeze(o, one) }",
            LSTM_WEIGHTS,
            "output 'y' mixes the rows",
        ),
        ("g (float[N, 4] x) => (float[N, 4] z, float[N, 4] y) { z = Relu(x)  m = ReduceMean <axes = [0]> (x)  y = Sub(x, m) }", {}, "output 'y' mixes the rows"),
        ("g (float[N, 4] x) => (float[N, 4] y) { y = Softmax <axis = 0> (x) }", {}, "output 'y' mixes the rows"),
        ("g (float[N, 4] x) => (float[N, 4] y) { y = CumSum(x, zero) }", dict(zero=np.array(0)), "output 'y' mixes the rows"),
        ("g (float[N, 4] x) => (int64[N, 4] y) { y = ArgMax <axis = 0, keepdims = 1> (x) }", {}, "output 'y' has the fixed size 1 on its first axis"),
        ("g (float[N, 4] x) => (float[M, 4] y) { y = Concat <axis = 0> (x, x) }", {}, r"output 'y' has shape \[6, 4\] for a batch of 3"),
        ("g (float[N, 4] x) => (float[K] y) { f = Reshape(x, minus)  y = Relu(f) }", dict(minus=np.array([-1])), r"output 'y' has shape \[12\]"),
        # rows are independent, but the result is divided by their number
        (
            "g (float[N, 4] x) => (float[N, 4] y) { s = Shape <start = 0, end = 1> (x)  f = Cast <to = 1> (s)  y = Div(x, f) }",
            {},
            "output 'y' depends on the size of the batch",
        ),
        # dynamic quantisation: one scale for the whole batch
        (
            "g (float[N, 4] x) => (float[N, 4] y) { q, s, z = DynamicQuantizeLinear(x)  y = DequantizeLinear(q, s, z) }",
            {},
            "output 'y' mixes the rows",
        ),
        # signatures
        ("g (float[N, 4] x, float[2, 4] w) => (float[N, 2] y) { t = Transpose(w)  y = MatMul(x, t) }", {}, "input 'w' has the fixed size 2"),
        ("g (float[N, 4] x, float[M, 4] w) => (float[N, M] y) { t = Transpose(w)  y = MatMul(x, t) }", {}, "input 'x' starts with 'N', but input 'w' with 'M'"),
        ("g (float[N, N] x) => (float[N, N] y) { y = Relu(x) }", {}, "input 'x' has the batch 'N' on a second axis"),
        # unnamed: w is a table that all rows are compared with
        ("g (float[?, 4] x, float[?, 4] w) => (float[?, ?] y) { t = Transpose(w)  y = MatMul(x, t) }", {}, "output 'y' mixes the rows"),
        ("g (float[N, 4] x) => (float[N, 4] y) { n = Shape <start = 0, end = 1> (x)  e = Gather(table, n)  y = Add(x, e) }", dict(table=normal(2, 4)), "refuses a batch of 3 rows"),
    ],
)  # fmt: skip
def test_no_batching(text: str, weights: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    """Left alone it is served without, and said; asked for it is refused. Both name the tensor."""
    model = unnamed(text, **weights)
    config, done = deployed(model, tmp_path)
    assert config.max_batch_size == 0
    (note,) = done.notes
    with pytest.raises(UnsupportedError, match=f"max_batch_size 4: .*{message}"):
        deployed(model, tmp_path, name="asked", max_batch_size=4)
    assert tree(tmp_path / "repository") == ["m/1/model.onnx", "m/config.pbtxt"]
    assert note.startswith("no batching: ")


def unnamed(text: str, **weights: np.ndarray) -> onnx.ModelProto:
    """A model from text in which ? is a dynamic dimension without a name."""
    model = parsed(text.replace("?", "unnamed"), **weights)
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == "unnamed":
                dim.Clear()
    return model


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        # batch first: time is the second axis, and belongs to the request
        (
            "g (float[B, S, 3] x) => (float[B, S, 5] y) { t = Transpose <perm = [1, 0, 2]> (x)  o, h, c = LSTM <hidden_size = 5> (t, W, R)"
            "  u = Squeeze(o, one)  y = Transpose <perm = [1, 0, 2]> (u) }",
            LSTM_WEIGHTS,
        ),
        ("g (float[N, 4] x, float[N, 4] w) => (float[N, 4] y) { y = Add(x, w) }", {}),
        ("g (float[?, 4] x, float[?, 4] w) => (float[M, 4] y) { y = Add(x, w) }", {}),
        ("g (float[N, 8] x) => (int64[N, 1] y) { y = ArgMax <axis = 1> (x) }", {}),
        # ill-conditioned: rounding moves rows by far more than the tolerance, other rows do not
        (
            "g (float[N, 64] x) => (float[N, 8] y) { a = MatMul(x, u)  b = MatMul(x, v)  y = Sub(a, b) }",
            dict(u=normal(64, 8) * 1e4, v=normal(64, 8) * 1e4 + normal(64, 8, seed=1)),
        ),
    ],
)
def test_batching(text: str, weights: dict[str, np.ndarray], tmp_path: Path) -> None:
    config, done = deployed(unnamed(text, **weights), tmp_path)
    assert config.max_batch_size == 8, done.notes


def test_without_the_check_the_signature_decides(tmp_path: Path) -> None:
    mixing = parsed("g (float[N, 4] x) => (float[N, 4] y) { y = Softmax <axis = 0> (x) }")
    config, done = deployed(mixing, tmp_path, verify=False)
    assert config.max_batch_size == 0
    assert "not checked (--no-verify); say --max-batch-size" in done.notes[0]
    assert not done.verified
    assert deployed(mixing, tmp_path, name="sure", verify=False, max_batch_size=4)[0].max_batch_size == 4
    fixed = parsed("g (float[1, 4] x) => (float[1, 4] y) { y = Relu(x) }")
    with pytest.raises(UnsupportedError, match="fixed size 1"):
        deployed(fixed, tmp_path, name="never", verify=False, max_batch_size=4)


# ---------------------------------------------------------------------------------------------------------- warm-up


def test_inputs_that_refuse_zeros_get_files(tmp_path: Path) -> None:
    """Gather at index k - 1 of a table: the size that zeros would make is out of range."""
    text = """g (float[N, 4] x, int64[N, 2] k, string[N] s) => (float[N, 4] y, float[N, 2, 3] e, string[N] t)
        { y = Relu(x)  j = Add(k, five)  i = Cast <to = 7> (j)  e = Gather(table, i)  t = Identity(s) }"""
    model = parsed(text, table=normal(10, 3), five=np.array(10))
    # zeros give index 10 of 10 rows; random small integers are never negative, so only data from outside could help
    with pytest.raises(UnsupportedError, match="ONNX Runtime refuses all random inputs"):
        deployed(model, tmp_path, max_batch_size=0)
    assert not (tmp_path / "repository").exists()
    text = """g (float[N, 4] x, int64[2] k, string[N] s) => (float[M] y, string[N] t)
        { a = ReduceMax <keepdims = 0> (k)  b = Max(a, a)  c = Cast <to = 1> (b)  r = Range(zero, c, one)  y = Gather(r, last)  t = Identity(s) }"""
    picky = parsed(text, zero=np.float32(0), one=np.float32(1), last=np.array([-1]))
    config, done = deployed(picky, tmp_path, max_batch_size=0)
    assert config.model_warmup[0].inputs["k"].input_data_file == "1_k"
    assert [file for file in done.files if "warmup" in file] == ["warmup/0_x", "warmup/1_k", "warmup/2_s"]


def test_a_model_that_does_not_run_is_refused(tmp_path: Path) -> None:
    model = parsed("g (float[N, 4] x) => (float[N, 4] y) { y = Reshape(x, s) }", s=np.array([7, 11]))
    for options in ({}, {"warmup": False}, {"max_batch_size": 0}):
        with pytest.raises(UnsupportedError, match="--no-warmup --no-verify"):
            deployed(model, tmp_path, **options)
    assert list(tmp_path.iterdir()) == []
    assert onnxdam.deploy(model, tmp_path, name="m", warmup=False, verify=False).max_batch_size == 0


# ------------------------------------------------------------------------------------------- folders and bad input


def test_a_model_that_is_there_is_replaced_when_asked_only(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    _, done = deployed(mlp(), tmp_path)
    before = tree(repository)
    with pytest.raises(InputError, match="exists already; ask for --force"):
        deployed(mlp(hidden=9), tmp_path)
    assert tree(repository) == before
    (done.path / "labels.txt").write_text("mine")
    config, _ = deployed(mlp(hidden=9), tmp_path, version=2, force=True, instances=3)
    assert config.instance_group[0].count == 3
    assert tree(repository) == ["m/1/model.onnx", "m/2/model.onnx", "m/config.pbtxt", "m/labels.txt"]
    with pytest.raises(InputError, match="has version 2, which Triton would serve instead of 1; write --version 3"):
        deployed(mlp(), tmp_path, force=True)
    deployed(mlp(hidden=10), tmp_path, version=2, force=True)
    shapes = {tuple(t.dims) for t in onnx.load(done.path / "2" / "model.onnx").graph.initializer}
    assert (4, 10) in shapes
    assert sorted(path.name for path in tmp_path.iterdir()) == ["repository"]


def test_what_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file; name the folder"):
        onnxdam.deploy(mlp(), tmp_path / "file", name="m")
    with pytest.raises(InputError, match="there is no folder"):
        onnxdam.deploy(mlp(), tmp_path / "no" / "where", name="m")
    with pytest.raises(InputError, match="is in the way and is not a folder"):
        onnxdam.deploy(mlp(), tmp_path, name="file")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(InputError, match="is in the way"):
        onnxdam.deploy(mlp(), tmp_path, name="link", force=True)
    _, done = deployed(mlp(), tmp_path)
    with pytest.raises(InputError, match="is a model itself; name the repository"):
        onnxdam.deploy(mlp(), done.path, name="m")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link", "repository"]


def test_a_failure_leaves_everything_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, done = deployed(mlp(), tmp_path, version=1)
    before = {path: path.read_bytes() for path in done.path.rglob("*") if path.is_file()}
    rename = os.rename

    def full(source: Path, target: Path) -> None:
        if Path(target).name == "m" and ".onnxdam-" in str(source) and Path(source).name == "m":
            raise OSError(28, "No space left on device", str(target))
        rename(source, target)

    monkeypatch.setattr("os.rename", full)
    with pytest.raises(InputError, match="the disk is full; nothing was written"):
        deployed(mlp(), tmp_path, version=2, force=True)
    assert {path: path.read_bytes() for path in done.path.rglob("*") if path.is_file()} == before
    with pytest.raises(InputError, match="the disk is full"):
        onnxdam.deploy(mlp(), tmp_path / "new", name="m")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["repository"]


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "-x", "a b", "é", "x" * 300])
def test_unsafe_names(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must be at most 200 letters"):
        onnxdam.deploy(mlp(), tmp_path, name=name)
    assert list(tmp_path.iterdir()) == []


def test_names_from_files(tmp_path: Path) -> None:
    for file, name in (
        ("é è.onnx", "m"),
        ("ünet v1.0.onnx", "net_v1.0"),
        (".x.onnx", "x"),
        ("x" * 240 + ".onnx", "x" * 200),
    ):
        done = onnxdam.deploy(saved(mlp(), tmp_path, file), tmp_path / "r")
        assert done.name.lstrip("_") == name or file.startswith("é"), done.name
    with pytest.raises(InputError, match="a model that is no file needs one"):
        onnxdam.deploy(mlp(), tmp_path / "r")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"version": 0}, "version: 0 is not a whole number from 1 on"),
        ({"max_batch_size": -1}, "max_batch_size: -1 is not"),
        ({"max_batch_size": 2**31}, "is not a whole number"),
        ({"instances": 0}, "instances: 0"),
        ({"delay": -1}, "delay: -1"),
        ({"kind": "tpu"}, "kind: 'tpu' is not one of auto, cpu, gpu"),
        ({"tensorrt": "int8"}, "tensorrt: 'int8' is not one of fp32, fp16, bf16"),
        ({"tensorrt": "fp32", "kind": "cpu"}, "tensorrt: needs a GPU"),
        ({"accept": "all"}, "accept: 'all' is not one of slim, full"),
        ({"delay": 100, "dynamic_batching": False}, "delay: is how long requests wait"),
        ({"delay": 100, "max_batch_size": 1}, "delay: needs runs of several rows"),
        ({"dynamic_batching": True, "max_batch_size": 0}, "dynamic_batching: needs runs of several rows"),
        ({"sizes": {"N": 0}}, "sizes: 'N' is 0"),
        ({"sizes": {"N": 2}, "verify": False, "warmup": False}, "sizes: are for the warm-up and the check"),
        ({"speed": 1}, "unknown option: .*speed"),
        ({"to": "abacus"}, "to: 'abacus' is not one of triton"),
        ({"accept": "full"}, "the model has no manifest"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        onnxdam.deploy(mlp(), tmp_path / "repository", **({"name": "m"} | options))
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------------- manifests


def with_manifest(model: onnx.ModelProto, *inputs: InputFeatures) -> tuple[onnx.ModelProto, Manifest]:
    """The model with a manifest in its metadata."""
    fingerprint = io.fingerprint(io.load(model))
    outputs = tuple(
        OutputFeatures(
            o.name, shape := tuple(d.dim_param or d.dim_value for d in o.type.tensor_type.shape.dim), shape, {}, {}
        )
        for o in model.graph.output
    )
    manifest = Manifest(fingerprint, "0" * 32, inputs, outputs)
    entry = model.metadata_props.add()
    entry.key, entry.value = features.METADATA_KEY, manifest.to_json()
    return model, manifest


def test_the_manifest_goes_along(tmp_path: Path) -> None:
    model = parsed("g (float[N, 3] x) => (float[N, 3] y) { y = Relu(x) }")
    model, manifest = with_manifest(model, InputFeatures("x", ("N", 5), ("N", 3), {1: (4, 0, 2)}))
    _, done = deployed(model, tmp_path)
    assert done.files == ("1/model.features.json", "1/model.onnx", "config.pbtxt")
    assert features.load(done.path / "1" / "model.features.json") == manifest
    assert features.load(done.path / "1" / "model.onnx") == manifest
    beside = saved(parsed("g (float[N, 3] x) => (float[N, 3] y) { y = Relu(x) }"), tmp_path, "slim.onnx")
    features.manifest_path(beside).write_text(manifest.to_json())
    done = onnxdam.deploy(beside, tmp_path / "repository")
    assert features.load(done.path / "1" / "model.onnx") == manifest
    saved(parsed("g (float[N, 3] x) => (float[N, 3] y) { y = Abs(x) }"), tmp_path, "slim.onnx")
    with pytest.raises(InputError, match=r"slim\.features\.json: belongs to another model"):
        onnxdam.deploy(beside, tmp_path / "repository", name="wrong")


IMAGE = InputFeatures("x", ("N", 2, 3, 4), ("N", 5), {1: (0, 7, 23, 3, 11)}, merged=(1, 2, 3))
SIGNAL = InputFeatures("x", ("N", 6, 4, "T"), ("N", 3, 2, "T"), {1: (5, 0, 2), 2: (1, 3)})
MIXED = InputFeatures("x", (2, 3, "T", 5), (4, "T", 2), {0: (0, 5, 2, 1), 3: (4, 0)}, merged=(0, 1))
WHOLE = InputFeatures("x", ("N", 3), ("N", 3), {})


@pytest.mark.parametrize("item", [IMAGE, SIGNAL, MIXED, WHOLE], ids=["pixels", "channels", "merged first", "nothing"])
def test_the_original_inputs(item: InputFeatures, tmp_path: Path) -> None:
    """--accept full: the model takes the original data, and gives what it gives on the selected."""
    assert item.slim_shape is not None
    dims = ", ".join(map(str, item.slim_shape))
    slim, manifest = with_manifest(parsed(f"g (float[{dims}] x, float[1] b) => (float[{dims}] y) {{ y = Add(x, b) }}"),
                                   item, InputFeatures("b", (1,), (1,), {}))  # fmt: skip
    config, done = deployed(slim, tmp_path, accept="full")
    full = done.path / "1" / "model.onnx"
    x = normal(*(2 if isinstance(dim, str) else dim for dim in item.shape))
    b = normal(1)
    selected = features.select({"x": x, "b": b}, manifest)
    expected = ort.InferenceSession(slim.SerializeToString()).run(None, selected)[0]
    assert np.array_equal(ort.InferenceSession(full).run(None, {"x": x, "b": b})[0], expected)
    assert [value.name for value in config.input] == ["x", "b"]
    assert list(config.input[0].dims) == [dim if isinstance(dim, int) else -1 for dim in item.shape]
    kept = features.load(full)
    assert kept.keep_signature
    assert features.select({"x": x, "b": b}, kept)["x"] is x
    onnx.checker.check_model(onnx.load(full), full_check=True)


def test_the_original_inputs_of_a_pruned_model(tmp_path: Path) -> None:
    """From prune to the server: the deployed model takes what the masked one takes and gives the same."""
    model = mlp()
    weight = numpy_helper.to_array(model.graph.initializer[0]).copy()
    weight[1] = 0  # nobody reads feature 1
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w1"))
    slim, _ = onnxdam.slim(model, inputs=True)
    assert slim.graph.input[0].type.tensor_type.shape.dim[1].dim_value == 3
    narrow, _ = deployed(slim, tmp_path)
    wide, done = deployed(slim, tmp_path, name="wide", accept="full")
    assert ([list(c.input[0].dims) for c in (narrow, wide)]) == [[3], [4]]
    assert wide.max_batch_size == 8
    assert onnxdam.verify(model, done.path / "1" / "model.onnx").passed


def test_the_original_inputs_of_an_old_file(tmp_path: Path) -> None:
    """Before IR version 4 weights are inputs as well; -1 is another way to write a dynamic dimension."""
    model = parsed(
        "g (float[N, 4] x, float[4, 2] w) => (float[N, 2] y) { y = MatMul(x, w) }",
        header='<ir_version: 3, opset_import: ["" : 8]>\n',
        w=np.float32([[1, 2], [0, 0], [3, 4], [5, 6]]),
    )
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = -1
    slim, _ = onnxdam.slim(model, inputs=True)
    _, done = deployed(slim, tmp_path, accept="full")
    report = onnxdam.verify(model, done.path / "1" / "model.onnx")
    assert report.passed, report.text


def test_originals_that_cannot_be_made_again(tmp_path: Path) -> None:
    text = "g (float[N, 3] x) => (float[N, 3] y) { y = Relu(x) }"
    whole = InputFeatures("x", ("N", 3), ("N", 3), {})
    gone, _ = with_manifest(parsed(text), whole, InputFeatures("b", ("N", 7), None, {}))
    with pytest.raises(UnsupportedError, match=r"nothing reads input 'b', it left, .*--inputs keep-signature"):
        deployed(gone, tmp_path, accept="full")
    far = InputFeatures("x", ("N", 2, 3, "H", "W"), ("N", 3, "H", "W"), {1: (0, 2, 5)}, merged=(1, 2))
    wide, _ = with_manifest(parsed("g (float[N, 3, H, W] x) => (float[N, 3, H, W] y) { y = Relu(x) }"), far)
    with pytest.raises(UnsupportedError, match="several dynamic axes behind its pixels"):
        deployed(wide, tmp_path, accept="full")
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------- real models


SLOW = {"winml_candy", "basic_pitch_nmp", "superres_pytorch"}
#: what cannot be served, and why
REFUSED = {
    "neurom_knn_iris": "Triton carries tensors only",
    "neurom_rf_iris": "Triton carries tensors only",
    "tribuo_lr_mnist": "Triton carries tensors only",
    "trt_qdq_conv": "has no inputs",
}
#: dynamic first axes everywhere, and yet rows depend on each other: quantised over the batch, or batch and time mixed up
MIXING = {"derived_tinybert_dynq", "factorio_mnist_quant", "vespa_dummy_transformer", "vespa_llm_random_decoder"}


def _real() -> list[Any]:
    if not MODELS.is_dir():
        return [pytest.param("", marks=pytest.mark.skip(reason=f"{MODELS} is not there"))]
    names = [model["name"] for model in json.loads((MODELS / "INDEX.json").read_text()) if model["runs"]]
    return [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in names]


@pytest.mark.parametrize("name", _real())
def test_real_models(name: str, tmp_path: Path) -> None:
    path = MODELS / f"{name}.onnx"
    if name in REFUSED:
        with pytest.raises(UnsupportedError, match=REFUSED[name]):
            onnxdam.deploy(path, tmp_path)
        return
    done = onnxdam.deploy(path, tmp_path)
    config = server.load(done.path)
    values = ort.InferenceSession(path).get_inputs() + ort.InferenceSession(path).get_outputs()
    dynamic = all(value.shape and not isinstance(value.shape[0], int) for value in values)
    assert config.max_batch_size == (8 if dynamic and name not in MIXING else 0), done.notes
    assert (done.path / "1" / "model.onnx").read_bytes() == path.read_bytes()
