"""Names, files and numbers that nobody means well with: one line, exit 2, nothing written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from onnxdam.cli import exits
from tests.cli.test_commands import files, onnxdam, refused
from tests.models import mlp, saved


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return saved(mlp(), tmp_path, "m.onnx")


@pytest.mark.parametrize(
    ("source", "output"),
    [("wide open/a b.onnx", "wide open/c d.onnx"), ("ünï/模型.onnx", "ünï/出力.onnx"), ("a", "-b")],
)
def test_odd_names_are_names(tmp_path: Path, source: str, output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(source).parent.mkdir(exist_ok=True)
    saved(mlp(), tmp_path, source)
    run = onnxdam("prune", source, "-o", output, "--plan", f"{output}.json")
    assert run.returncode == exits.DONE, run
    assert Path(output).is_file() and Path(f"{output}.json").is_file()


@pytest.mark.parametrize("name", ["x" * 300 + ".onnx", "d/" * 3000 + "x.onnx", ".", "/", "..", "m.onnx/x"])
def test_outputs_that_cannot_be(model: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model.parent)
    refused("prune", model, "-o", name)
    refused("prune", model, "--dry-run", "--plan", name)
    refused("prune", name, "-o", "x.onnx")
    assert files(model.parent) == ["m.onnx"]


def test_links(model: Path, tmp_path: Path) -> None:
    """A link is there, wherever it leads; whoever replaces it replaces the link."""
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "nowhere").symlink_to("missing")
    for name in ("loop", "nowhere"):
        assert "exists already" in refused("prune", model, "-o", tmp_path / name)
        assert "exists already" in refused("prune", model, "--dry-run", "--plan", tmp_path / name)
    assert "Too many levels" in refused("prune", tmp_path / "loop", "-o", tmp_path / "x.onnx")
    assert "no such file" in refused("inspect", tmp_path / "nowhere")
    assert onnxdam("prune", model, "-o", tmp_path / "nowhere", "--force").returncode == exits.DONE
    assert not (tmp_path / "missing").exists()
    os.link(model, tmp_path / "hard.onnx")
    assert "overwrite its own input" in refused("prune", model, "-o", tmp_path / "hard.onnx", "--force")


def test_data_of_another_model_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    source = saved(mlp(hidden=900), tmp_path / "in", external=True)
    (tmp_path / "slim.onnx.data").write_text("precious")
    message = refused("prune", source, "-o", tmp_path / "slim.onnx")
    assert "slim.onnx.data: exists already; ask for --force" in message
    assert files(tmp_path) == ["in", "slim.onnx.data"]
    assert (tmp_path / "slim.onnx.data").read_text() == "precious"


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="there are no devices here")
def test_files_that_never_end(tmp_path: Path) -> None:
    for name in ("/dev/zero", "/dev/null"):
        assert "is a pipe or a device, not a file" in refused("prune", name, "-o", tmp_path / "x.onnx")
    os.mkfifo(tmp_path / "pipe")
    assert "is a pipe" in refused("inspect", tmp_path / "pipe")
    assert files(tmp_path) == ["pipe"]


@pytest.mark.parametrize("option", ["--plan", "--report"])
def test_a_report_that_cannot_be_written_is_said_before_the_model_is(model: Path, option: str) -> None:
    out = model.parent / "slim.onnx"
    assert "cannot be written" in refused("prune", model, "-o", out, option, "/proc/x.json")
    assert files(model.parent) == ["m.onnx"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["verify", "--rtol", "nan"],
        ["verify", "--rtol", "inf"],
        ["verify", "--seed", "-1"],
        ["bench", "--seconds", "nan"],
        ["bench", "--seconds", "inf"],
    ],
)
def test_numbers_that_are_none(model: Path, arguments: list[str]) -> None:
    command, *options = arguments
    run = onnxdam(command, model, model, *options)
    assert run.returncode == exits.BAD_INPUT
    assert run.stdout == ""


def test_a_report_that_fails_at_the_end_leaves_no_model(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fills up when only the report is left to write."""
    write = Path.write_text

    def full(path: Path, *args: object, **options: object) -> int:
        if path.name == "r.json":
            raise OSError(28, "No space left on device", str(path))
        return write(path, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "write_text", full)
    folder = model.parent
    message = refused(
        "prune", model, "-o", folder / "s.onnx", "--plan", folder / "p.json", "--report", folder / "r.json"
    )
    assert "r.json: the disk is full; nothing was written" in message
    assert files(folder) == ["m.onnx"]


def test_repositories_that_cannot_be(model: Path) -> None:
    for name in ("x" * 300, "d/" * 3000 + "r"):
        assert "cannot be written" in refused("deploy", model, name, "--to", "triton")


@pytest.mark.parametrize(
    ("kind", "code"), [(KeyboardInterrupt, exits.INTERRUPTED), (exits.Terminated, exits.TERMINATED)]
)
def test_signals_inside_of_compiled_modules(
    kind: type[BaseException], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come out as ImportErrors, with the signal as their cause."""

    def imported() -> None:
        try:
            raise kind
        except BaseException as error:
            raise ImportError("initialization failed") from error

    monkeypatch.setattr("onnxdam.doctor.examine", imported)
    run = onnxdam("doctor")
    assert run.returncode == code
    assert run.stderr.endswith("; nothing was written\n") and len(run.stderr.splitlines()) == 1


def test_not_enough_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def hungry() -> None:
        raise MemoryError

    monkeypatch.setattr("onnxdam.doctor.examine", hungry)
    assert refused("doctor") == "FAILED  there is not enough memory; nothing was written\n"


def test_signals_that_come_too_late(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While files move into place nothing is interrupted any more, and afterwards all is as before."""
    replace, sent = os.replace, []

    def interrupted(*args: Any) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
            sent.append(number)
        replace(*args)

    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    monkeypatch.setattr(os, "replace", interrupted)
    run = onnxdam("prune", model, "-o", model.parent / "s.onnx", "--plan", model.parent / "p.json")
    assert run.returncode == exits.DONE, run
    assert len(sent) == 4
    assert files(model.parent) == ["m.onnx", "p.json", "s.onnx"]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_an_import_is_not_interrupted_in_the_middle(tmp_path: Path) -> None:
    """Compiled modules can crash of that; the signal comes again when the import is over."""
    (tmp_path / "slow.py").write_text(
        "import os, pathlib, signal, time\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "time.sleep(0.1)\n"
        f"pathlib.Path({str(tmp_path / 'imported')!r}).touch()\n"
    )
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "from onnxdam import doctor\n"
        "def examine():\n"
        "    import slow\n"
        "    time.sleep(30)\n"
        "doctor.examine = examine\n"
        "from onnxdam.cli.main import run\n"
        "run(['doctor'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == exits.INTERRUPTED
    assert done.stderr.strip() == "FAILED  interrupted; nothing was written"
    assert (tmp_path / "imported").exists()
