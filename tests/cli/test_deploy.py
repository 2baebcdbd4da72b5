"""onnxdam deploy as users run it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from onnxdam.cli import exits
from tests.cli.test_commands import files, in_a_new_process, onnxdam, refused
from tests.deploy import server
from tests.models import mlp, parsed, saved


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """x -> Gemm -> Relu -> Gemm -> y, with a dynamic batch."""
    return saved(mlp(), tmp_path, "net.onnx")


def test_deploy(model: Path, tmp_path: Path) -> None:
    run = in_a_new_process("deploy", model, tmp_path / "repository", "--to", "triton")
    assert run.returncode == exits.DONE, run
    assert run.stderr == ""
    assert run.stdout.splitlines() == [
        "net/1/model.onnx",
        "net/config.pbtxt",
        "batch: 8 rows, requests wait for each other",
        f"PASSED  {tmp_path / 'repository' / 'net'} written, runs",
    ]
    assert server.load(tmp_path / "repository" / "net").max_batch_size == 8


def test_every_option(model: Path, tmp_path: Path) -> None:
    arguments = (
        "--to triton --name net-b --version 3 --max-batch-size 16 --dynamic-batching --delay 200 --instances 2 "
        "--kind gpu --warmup --size N=2 --tensorrt fp32 --accept slim --verify --force --json"
    )
    run = onnxdam("deploy", model, tmp_path / "r", *arguments.split())
    assert run.returncode == exits.DONE, run
    data = json.loads(run.stdout)
    assert data["path"] == str(tmp_path / "r" / "net-b")
    assert data["files"] == ["3/model.onnx", "config.pbtxt"]
    config = server.load(tmp_path / "r" / "net-b")
    assert config.max_batch_size == 16
    assert config.dynamic_batching.max_queue_delay_microseconds == 200
    assert config.instance_group[0].count == 2
    assert config.HasField("optimization")


def test_notes_and_what_was_not_run(tmp_path: Path) -> None:
    path = saved(parsed("g (float[N, 4] x) => (float[N, 4] y) { y = Softmax <axis = 0> (x) }"), tmp_path)
    run = onnxdam("deploy", path, tmp_path / "r", "--to", "triton")
    assert "batch: none" in run.stdout
    assert "note: no batching: output 'y' mixes the rows of a batch" in run.stdout
    run = onnxdam("deploy", path, tmp_path / "r", "--to", "triton", "--force", "--no-verify", "--no-warmup")
    assert run.stdout.splitlines()[-1].endswith("written, not checked (--no-verify)")
    assert "takes your word" in refused("deploy", path, tmp_path / "q", "--to", "triton", "--max-batch-size", 2)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["x.onnx"],
        ["x.onnx", "r"],
        ["x.onnx", "r", "--to", "abacus"],
        ["x.onnx", "r", "--to", "triton", "--size", "N"],
        ["x.onnx", "r", "--to", "triton", "--instances", "many"],
    ],
)
def test_usage_errors(arguments: list[str]) -> None:
    run = onnxdam("deploy", *arguments)
    assert run.returncode == exits.BAD_INPUT
    assert run.stderr.startswith("FAILED  ") and run.stderr.count("\n") == 1
    assert run.stdout == ""


def test_bad_input_is_one_line(model: Path, tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("hello")
    (tmp_path / "short.onnx").write_bytes(model.read_bytes()[:100])
    before = files(tmp_path)
    for name, message in (("no.onnx", "no such file"), ("text.onnx", "not an ONNX model"), ("short.onnx", "truncated")):
        assert message in refused("deploy", tmp_path / name, tmp_path / "r", "--to", "triton")
    assert "is a folder" in refused("deploy", tmp_path, tmp_path / "r", "--to", "triton", "--name", "m")
    for option in (["--name", "a/b"], ["--version", 0], ["--instances", 0], ["--delay", -1], ["--max-batch-size", -1]):
        refused("deploy", model, tmp_path / "r", "--to", "triton", *option)
    assert "is a file" in refused("deploy", model, model, "--to", "triton")
    assert files(tmp_path) == before
    onnxdam("deploy", model, tmp_path / "r", "--to", "triton")
    assert "exists already; ask for --force" in refused("deploy", model, tmp_path / "r", "--to", "triton")


def test_sizes_beyond_memory(model: Path, tmp_path: Path) -> None:
    """Warm-up joins no more than 64 requests, whatever the largest batch."""
    for size in (10**11, 10**30):
        assert "too large to make up data for" in refused(
            "deploy", model, tmp_path / "r", "--to", "triton", "--max-batch-size", 0, "--size", f"N={size}"
        )
    assert files(tmp_path) == ["net.onnx"]
    run = onnxdam("deploy", model, tmp_path / "r", "--to", "triton", "--max-batch-size", 2**31 - 1)
    assert run.returncode == exits.DONE, run
    assert [s.batch_size for s in server.load(tmp_path / "r" / "net").model_warmup] == [1, 64]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_repository(model: Path, tmp_path: Path) -> None:
    (tmp_path / "r").mkdir(mode=0o500)
    assert "Permission denied" in refused("deploy", model, tmp_path / "r", "--to", "triton")


def test_a_read_only_disk(model: Path) -> None:
    for folder in ("/proc", "/proc/r"):
        assert "cannot be written" in refused("deploy", model, folder, "--to", "triton", "--name", "m")


@pytest.mark.skipif(os.name != "posix", reason="needs resource limits")
def test_write_fails_in_the_middle(model: Path, tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100));"
        "from onnxdam.cli.main import run; run(sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, "deploy", model, tmp_path / "r", "--to", "triton"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == exits.BAD_INPUT, run
    assert "cannot be written (File too large); nothing was written" in run.stderr
    assert files(tmp_path) == ["net.onnx"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, exits.INTERRUPTED), (signal.SIGTERM, exits.TERMINATED)])
def test_interruption_leaves_nothing(model: Path, tmp_path: Path, number: int, code: int) -> None:
    stall = (
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from onnxdam.deploy import triton\n"
        "def slow(*a, **k):\n"
        f"    pathlib.Path({str(tmp_path)!r}, 'ready').touch()\n"
        "    time.sleep(30)\n"
        "triton.samples = slow\n"
        "from onnxdam.cli.main import run\n"
        "run(sys.argv[1:])\n"
    )
    command = [sys.executable, "-c", stall, "deploy", model, tmp_path / "r", "--to", "triton"]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    end = time.time() + 30
    while not (tmp_path / "ready").exists() and time.time() < end:
        time.sleep(0.05)
    assert any(name.startswith(".onnxdam-") for name in files(tmp_path))
    run.send_signal(number)
    _, errors = run.communicate(timeout=30)
    assert run.returncode == code
    assert errors.strip().endswith("nothing was written")
    assert files(tmp_path) == ["net.onnx", "ready"]
