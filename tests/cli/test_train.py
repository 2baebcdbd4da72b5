"""`onnxdam train` as users run it: what it writes, what it refuses, what an interruption leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

import onnxruntime as ort  # noqa: E402

from onnxdam.cli import exits  # noqa: E402
from onnxdam.recipes import MODULES, find  # noqa: E402
from tests.cli.test_commands import files, onnxdam, refused  # noqa: E402
from tests.masks.conftest import one_thread  # noqa: E402, F401

FAST = ("--epochs", 1, "--batch", 256)


def usage_error(*arguments: object) -> str:
    run = onnxdam("train", *arguments)
    assert run.returncode == exits.BAD_INPUT
    assert run.stdout == ""
    return run.stderr


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    """Forty images of 4x4 pixels in two classes."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 40)
    x = (rng.integers(0, 50, (40, 4, 4)) + 200 * y[:, None, None]).astype(np.uint8)
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "images.npz"
    np.savez(path, x_train=x[:30], y_train=y[:30], x_test=x[30:], y_test=y[30:])
    return path


# ------------------------------------------------------------------------------------------------------- what it does


def test_train_prune_and_accuracy_to_the_last_sample(tmp_path: Path) -> None:
    """Masked in torch (the number that is printed), masked in ONNX and slim classify every digit alike."""
    masked, slim = tmp_path / "masked.onnx", tmp_path / "slim.onnx"
    run = onnxdam("train", "digits", "-o", masked, "--epochs", 4, "--target-macs", 0.3, "--json")
    assert run.returncode == exits.DONE, run.stderr
    facts = json.loads(run.stdout)
    assert onnxdam("prune", masked, "-o", slim, "--align", "none").returncode == exits.DONE
    data = find("digits").load(None)
    found = []
    for path in (masked, slim):
        session = ort.InferenceSession(path)
        found.append(session.run(None, {session.get_inputs()[0].name: data.x_test.numpy()})[0].argmax(1))
    assert (found[0] == found[1]).all()
    assert 100 * (found[1] != data.y_test.numpy()).mean() == pytest.approx(facts["test"], abs=1e-9)
    assert facts["left"]["macs"] == pytest.approx(0.3, rel=0.01)
    props = {p.key: p.value for p in onnx.load(masked).metadata_props}
    assert json.loads(props["onnxdam.kept"]) == facts["kept"]
    assert json.loads(props["onnxdam.target"]) == {"macs": 0.3}
    widths = [onnx.load(slim).graph.initializer[i].dims[0] for i in range(len(onnx.load(slim).graph.initializer))]
    assert {kept for kept, _ in facts["kept"].values()} <= set(widths)


def test_the_tables(tmp_path: Path) -> None:
    run = onnxdam("train", "lenet-300-100", "-o", tmp_path / "m.onnx", *FAST, "--method", "dam")
    assert run.returncode == exits.DONE, run.stderr
    for text in ("lenet-300-100, dam: channels that stay", "error %", "asked: 10 % of parameters", "test, best"):
        assert text in run.stdout
    assert run.stdout.splitlines()[-1] == f"PASSED  {tmp_path / 'm.onnx'} written"
    assert run.stderr == ""


def test_own_data_and_every_option(npz: Path, tmp_path: Path) -> None:
    base = ("train", "lenet-300-100", "--data", npz, "--json", "--epochs", 1, "--batch", 12)

    def facts(*more: object) -> dict:
        run = onnxdam(*base, "-o", tmp_path / "m.onnx", "--force", *more)
        assert run.returncode == exits.DONE, run.stderr
        return json.loads(run.stdout)

    plain = facts()
    assert plain["kept"]["input"][1] == 16
    assert facts("--target-channels", 0.5)["left"]["channels"] == pytest.approx(0.5, abs=0.01)
    assert facts("--target-parameters", 0.5)["left"]["parameters"] == pytest.approx(0.5, abs=0.01)
    assert facts("--lambda", 0.5)["settings"]["target"] is None
    assert facts("--seed", 1)["history"] != plain["history"]
    assert facts("--lr", 0.1)["history"] != plain["history"]
    assert facts("--batch", 5)["history"] != plain["history"]
    assert facts("--amp")["history"] != plain["history"]
    assert len(facts("--epochs", 2)["history"]) == 2
    assert facts("--method", "none")["kept"] == {}
    assert list(facts("--include", "0", "--include", "2", "--exclude", "0", "--lambda", 1)["kept"]) == ["2"]
    assert list(facts("--no-inputs")["kept"]) == ["0", "2"]
    assert set(facts("--include", "2", "--inputs", "--lambda", 1)["kept"]) == {"input", "2"}
    assert facts()["history"] == plain["history"]
    dynamo = onnx.load(tmp_path / "m.onnx").graph.node
    facts("--exporter", "torchscript")
    assert [n.output[0] for n in onnx.load(tmp_path / "m.onnx").graph.node] != [n.output[0] for n in dynamo]


def test_recipes_with_gates_of_their_own(npz: Path, tmp_path: Path) -> None:
    base = ("train", "autoencoder", "--data", npz, "--json", "--epochs", 1, "-o", tmp_path / "m.onnx", "--force")

    def kept(*more: object) -> dict:
        run = onnxdam(*base, *more)
        assert run.returncode == exits.DONE, run.stderr
        return json.loads(run.stdout)["kept"]

    assert kept("--method", "l1") == {"gate": [50, 50]}
    assert kept("--method", "l1", "--target-channels", 0.5) == {"gate": [25, 50]}
    assert set(kept()) == {"encoder.6"}
    assert set(kept("--inputs")) == {"encoder.6", "input"}
    run = onnxdam("train", "linear-dr", "--include", "0", "--epochs", 1, "--json", "-o", tmp_path / "dr.onnx")
    assert list(json.loads(run.stdout)["kept"]) == ["0"]  # attached; else the gate between the halves is called 1


def test_a_line_a_minute_where_there_is_no_terminal(npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxdam.cli.train.SELDOM", 0.0)
    run = onnxdam("train", "lenet-300-100", "--data", npz, "--epochs", 2, "-o", tmp_path / "m.onnx")
    assert run.returncode == exits.DONE
    last = run.stderr.splitlines()[-1]
    assert last.startswith("100 %  epoch 2/2  loss ")
    assert "valid error %" in last and "kept " in last
    rows = [line.split() for line in run.stdout.splitlines()]
    kept = {row[0]: row[1] for row in rows if row[:1] in (["input"], ["0"], ["2"])}
    assert list(kept) == ["input", "0", "2"]
    assert last.endswith("kept " + "-".join(kept.values()))
    run = onnxdam("train", "lenet-300-100", "--data", npz, *FAST, "--lambda", 0, "-o", tmp_path / "m2.onnx")
    assert "nothing was masked: more --epochs, a larger --lambda or a --target would" in run.stdout


def test_list_names_every_recipe() -> None:
    run = onnxdam("train", "--list")
    assert run.returncode == exits.DONE
    for name in MODULES:
        assert name in run.stdout
    listed = json.loads(onnxdam("train", "--list", "--json").stdout)
    assert [entry["name"] for entry in listed] == list(MODULES)
    assert all(entry["data"] and entry["about"] for entry in listed)


# ------------------------------------------------------------------------------------------------------- what it refuses


def test_usage(tmp_path: Path) -> None:
    out = ("-o", tmp_path / "m.onnx")
    assert "name a recipe" in usage_error()
    assert "name the output with -o" in usage_error("digits")
    assert "--resume goes on from a --checkpoint" in usage_error("digits", *out, "--resume")
    both = usage_error("digits", *out, "--target-macs", 0.3, "--lambda", 1)
    assert "--target-macs and --lambda: one of them" in both
    assert "trains without masks" in usage_error("digits", *out, "--method", "none", "--target-macs", 0.3)
    assert "--include belongs to the others" in usage_error("digits", *out, "--method", "none", "--include", "0")
    for bad in (("--target-macs", 0), ("--target-macs", 1.5), ("--lr", 0), ("--epochs", 0), ("--method", "magic"),
                ("--threads", 10**8)):  # fmt: skip
        assert str(bad[0]) in usage_error("digits", *out, *bad)
    assert "it belongs to --target-latency" in usage_error("digits", *out, "--provider", "cpu")
    assert files(tmp_path) == []


def test_bad_input_is_one_line_and_leaves_nothing(npz: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()

    def told(*arguments: object) -> str:
        text = refused("train", *arguments, "-o", out / "m.onnx")
        assert files(out) == []
        return text

    assert "no recipe is called 'lenet'" in told("lenet")
    assert "there are digits, lenet-300-100" in told("lenet")
    assert "do you mean resnet-18 or " in told("ResNet18")
    assert "lambda, must be a number of at least 0, not nan" in told("digits", "--lambda", "nan")
    assert "the seed must lie between 0 and 2^63 - 1" in told("digits", "--seed", 2**63)
    assert "method 'l1' is none of dam, " in told("lenet-300-100", "--data", npz, "--method", "l1")
    assert "the target can only be" in told("autoencoder", "--data", npz, "--method", "l1", "--target-macs", 0.95)
    assert "no group is called 'nix'" in told("lenet-300-100", "--data", npz, "--include", "nix")
    wide = {name: array.astype(float) if name[0] == "x" else array for name, array in np.load(npz).items()}
    np.savez(npz.parent / "wide.npz", **wide)
    assert "numbers between 0 and 1; there are " in told("autoencoder", "--data", npz.parent / "wide.npz")
    text = told("lenet-300-100", "--data", npz, "--target-parameters", 0.0001)
    assert "parameters cannot be 0.0001 of the whole; the closest that can be reached is" in text
    assert "no such file" in told("digits", "--data", out / "none.npz")
    (npz.parent / "text.npz").write_text("nothing")
    assert "text.npz: not an .npz" in told("digits", "--data", npz.parent / "text.npz")
    np.savez(npz.parent / "other.npz", x=np.ones(3))
    assert "it has x" in told("digits", "--data", npz.parent / "other.npz")
    np.savez(npz.parent / "flat.npz", x_train=np.ones(9), y_train=np.ones(9, int), x_test=np.ones(9), y_test=np.ones(9))
    assert "flat.npz: x_train has shape (9,)" in told("lenet-300-100", "--data", npz.parent / "flat.npz")
    objects = np.array([{}], dtype=object)
    np.savez(npz.parent / "evil.npz", x_train=objects, y_train=objects, x_test=objects, y_test=objects)
    assert "pickle" in told("lenet-300-100", "--data", npz.parent / "evil.npz")
    assert "reads no file" in told("linear-dr", "--data", npz)
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        assert "cuda" in told("digits", "--target-latency", 0.5, "--provider", "cuda")
    assert "nothing can be gated" in told("lenet-300-100", "--data", npz, "--method", "slimming")
    if not torch.cuda.is_available():
        assert "there is no CUDA device" in told("digits", "--device", "cuda")
    assert "there is no folder" in refused("train", "digits", "-o", tmp_path / "none" / "m.onnx")


def test_existing_files_are_not_replaced(npz: Path, tmp_path: Path) -> None:
    out, checkpoint = tmp_path / "m.onnx", tmp_path / "run.pt"
    base = ("train", "lenet-300-100", "--data", npz, "-o", out, *FAST)
    assert onnxdam(*base, "--checkpoint", checkpoint).returncode == exits.DONE
    first = out.read_bytes()
    assert "m.onnx: exists already" in refused(*base)
    out.unlink()
    assert "run.pt: exists already; --resume goes on from it" in refused(*base, "--checkpoint", checkpoint)
    assert "belongs to another run: its seed is 0, not 1" in refused(
        *base, "--checkpoint", checkpoint, "--resume", "--seed", 1
    )
    assert "is the output itself" in refused(*base, "--checkpoint", out)
    assert "overwrite its own input" in refused(*base, "--checkpoint", npz)
    assert files(tmp_path) == ["data", "run.pt"]
    assert onnxdam(*base, "--checkpoint", checkpoint, "--resume").returncode == exits.DONE
    assert out.read_bytes() == first


def test_without_torch_the_extra_is_named(tmp_path: Path) -> None:
    with mock.patch("importlib.util.find_spec", return_value=None):
        for arguments in (("digits", "-o", tmp_path / "m.onnx"), ("--list",)):
            assert "pip install 'onnxdam[torch]'" in refused("train", *arguments)


def test_without_scikit_learn_the_data_are_told(tmp_path: Path) -> None:
    with mock.patch.dict(sys.modules, {"sklearn.datasets": None}):
        assert "reading the data needs sklearn" in refused("train", "digits", "-o", tmp_path / "m.onnx")


# ------------------------------------------------------------------------------------------------------- interruption


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_a_destructor_is_not_lost(number: int, code: int) -> None:
    start = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from onnxdam.cli import main\n"
        "class Late:\n"
        f"    def __del__(self): os.kill(os.getpid(), {int(number)})\n"
        "def work(*args, **kwargs):\n"
        "    Late()\n"
        "    time.sleep(20)\n"
        "main.main.main = work\n"
        "main.run([])\n"
    )
    run = subprocess.run([sys.executable, "-c", start], capture_output=True, text=True)
    assert run.returncode == code
    assert len(run.stderr.splitlines()) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize(
    "number, code, word", [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_an_interruption_leaves_a_checkpoint_to_go_on_from(
    number: int, code: int, word: str, npz: Path, tmp_path: Path
) -> None:
    out, checkpoint = tmp_path / "m.onnx", tmp_path / "run.pt"
    command = ["train", "lenet-300-100", "--data", npz, "--epochs", "25", "--batch", "1", "--threads", "1", "-o"]
    command = [str(c) for c in (*command, out, "--checkpoint", checkpoint)]
    start = (
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # background jobs of a shell start without
        "from onnxdam.cli.main import run\n"
        "run(sys.argv[1:])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", start, *command], stderr=subprocess.PIPE, text=True)
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.05)
    time.sleep(0.3)
    assert process.poll() is None, "through before it could be interrupted"
    os.kill(process.pid, number)
    assert process.wait(60) == code
    assert process.stderr is not None
    text = process.stderr.read()
    assert text == f"FAILED  {word}; {out} was not written; add --resume to go on from {checkpoint}\n"
    assert files(tmp_path) == ["data", "run.pt"]
    resumed = onnxdam(*command, "--resume", "--json")
    assert resumed.returncode == exits.DONE, resumed.stderr
    whole = onnxdam(*command[:-3], tmp_path / "other.onnx", "--json")
    assert json.loads(resumed.stdout)["history"] == json.loads(whole.stdout)["history"]


def test_resume_without_a_checkpoint_begins_and_says_so(npz: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.pt"
    run = onnxdam("train", "lenet-300-100", "--data", npz, *FAST, "-o", tmp_path / "m.onnx", "--resume",
                  "--checkpoint", checkpoint)  # fmt: skip
    assert run.returncode == exits.DONE
    assert run.stderr == f"warning: {checkpoint}: is not there; training starts from the beginning\n"
