"""The command as users run it: exit codes, what is on which stream, what is written and what is not."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxdam.cli import exits
from onnxdam.cli.main import COMMANDS, status
from tests.models import mlp, normal, parsed, saved

ROOT = Path(__file__).parent.parent.parent


def onnxdam(*arguments: object, stdin: bytes | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the command in this process (a new one takes a second to import everything)."""
    out, err = io.StringIO(), io.StringIO()
    given = io.TextIOWrapper(io.BytesIO(stdin or b""))
    with mock.patch.object(sys, "stdin", given), redirect_stdout(out), redirect_stderr(err):
        code = status([str(argument) for argument in arguments])
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def in_a_new_process(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs the command as the shell does."""
    command = [sys.executable, "-m", "onnxdam.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def refused(*arguments: object, stdin: bytes | None = None) -> str:
    """The one line of a command that exits 2 and prints no result."""
    run = onnxdam(*arguments, stdin=stdin)
    assert run.returncode == exits.BAD_INPUT, run
    assert run.stdout == ""
    assert len(run.stderr.strip().splitlines()) == 1, run.stderr
    assert run.stderr.startswith("FAILED  ")
    return run.stderr


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def masked(tmp_path: Path) -> Path:
    """x -> Gemm -> Relu -> Gemm -> y with 3 of 8 hidden units masked."""
    return saved(mlp(masked=3), tmp_path, "masked.onnx")


# ------------------------------------------------------------------------------------------------------------ help


def test_help_has_the_commands_and_the_exit_codes() -> None:
    text = onnxdam("--help").stdout
    for name, line in COMMANDS.items():
        assert f"  {name} " in text
        assert line.split()[0] in text
    for code, meaning in exits.MEANING.items():
        assert f"{code} " in text
        assert meaning in text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    run = onnxdam(name, "--help")
    assert run.returncode == exits.DONE
    assert run.stdout.startswith(f"Usage: onnxdam {name} ")


def test_readme_publishes_the_exit_codes() -> None:
    readme = (ROOT / "README.md").read_text()
    for code, meaning in exits.MEANING.items():
        assert f"| {code} | {meaning} |" in readme


@pytest.mark.parametrize(
    "arguments",
    [
        ["prun"],
        ["prune"],
        ["prune", "x.onnx"],
        ["prune", "x.onnx", "-o", "y.onnx", "--align", "0"],
        ["prune", "x.onnx", "-o", "y.onnx", "--align", "wide"],
        ["prune", "x.onnx", "-o", "y.onnx", "--threshold", "-1"],
        ["prune", "x.onnx", "-o", "y.onnx", "--provider", "abacus"],
        ["prune", "x.onnx", "-o", "y.onnx", "--dry-run"],
        ["prune", "x.onnx", "-o", "y.onnx", "--apply", "p.json", "--align", "8"],
        ["verify", "x.onnx"],
        ["bench", "x.onnx", "y.onnx", "--size", "N"],
    ],
)
def test_usage_errors(arguments: list[str]) -> None:
    run = onnxdam(*arguments)
    assert run.returncode == exits.BAD_INPUT
    assert run.stderr.startswith("FAILED  ") and run.stderr.count("\n") == 1
    assert run.stdout == ""


# ----------------------------------------------------------------------------------------------------------- prune


def test_prune_writes_a_smaller_equal_model(masked: Path, tmp_path: Path) -> None:
    out, report, plan = tmp_path / "slim.onnx", tmp_path / "r.json", tmp_path / "p.json"
    run = in_a_new_process("prune", masked, "-o", out, "--align", "none", "--report", report, "--plan", plan)
    assert run.returncode == exits.DONE, run
    assert run.stderr == ""
    assert run.stdout.splitlines()[-1] == f"PASSED  {out} written, equal"
    shapes = {t.name: list(t.dims) for t in onnx.load(out).graph.initializer}
    assert sorted(shapes.values()) == sorted([[4, 5], [5], [5, 2], [2]])
    data = json.loads(report.read_text())
    assert data["passed"] is data["verification"]["passed"] is True
    assert (data["before"]["parameters"], data["after"]["parameters"]) == (58, 37)
    assert data["before"]["macs"] == 48
    assert data["after"]["macs"] == 30
    assert data["output"] == str(out)
    assert data["plan"] == json.loads(plan.read_text())
    assert files(tmp_path) == ["masked.onnx", "p.json", "r.json", "slim.onnx"]
    assert onnxdam("verify", masked, out).returncode == exits.DONE


def test_json_is_one_object(masked: Path, tmp_path: Path) -> None:
    run = onnxdam("prune", masked, "-o", tmp_path / "slim.onnx", "--json")
    assert json.loads(run.stdout)["passed"] is True
    for arguments in (["verify", masked, masked], ["doctor"], ["bench", masked, masked, "--seconds", "0.1"]):
        json.loads(onnxdam(*arguments, "--json").stdout)


def test_plan_then_apply_gives_the_same_bytes(masked: Path, tmp_path: Path) -> None:
    one, two, plan = tmp_path / "one.onnx", tmp_path / "two.onnx", tmp_path / "p.json"
    run = onnxdam("prune", masked, "--align", "none", "--dry-run", "--plan", plan)
    assert run.returncode == exits.DONE
    assert files(tmp_path) == ["masked.onnx", "p.json"]
    assert onnxdam("prune", masked, "--align", "none", "-o", one).returncode == exits.DONE
    assert onnxdam("prune", masked, "--apply", plan, "-o", two).returncode == exits.DONE
    assert one.read_bytes() == two.read_bytes()
    assert one.stat().st_size < masked.stat().st_size


def test_nothing_to_remove_is_said(tmp_path: Path) -> None:
    path = saved(mlp(masked=0), tmp_path)
    run = onnxdam("prune", path, "-o", tmp_path / "slim.onnx")
    assert run.returncode == exits.DONE
    assert "nothing was removed" in run.stdout


def test_standard_input(masked: Path, tmp_path: Path) -> None:
    out = tmp_path / "slim.onnx"
    run = onnxdam("prune", "-", "-o", out, "--align", "none", stdin=masked.read_bytes())
    assert run.returncode == exits.DONE, run
    assert out.stat().st_size < masked.stat().st_size
    assert "is empty" in refused("prune", "-", "-o", tmp_path / "x.onnx", stdin=b"")
    assert "not an ONNX model" in refused("prune", "-", "-o", tmp_path / "x.onnx", stdin=b"hello")


def test_external_data(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    source = saved(mlp(masked=300, hidden=900), tmp_path / "in", external=True)
    run = onnxdam("prune", source, "-o", tmp_path / "out" / "slim.onnx", "--align", "none")
    assert run.returncode == exits.DONE, run
    assert files(tmp_path / "out") == ["slim.onnx", "slim.onnx.data"]
    assert onnxdam("verify", source, tmp_path / "out" / "slim.onnx").returncode == exits.DONE


def test_no_verify_says_so(masked: Path, tmp_path: Path) -> None:
    run = onnxdam("prune", masked, "-o", tmp_path / "slim.onnx", "--no-verify", "--report", tmp_path / "r.json")
    assert run.stdout.splitlines()[-1].endswith("not checked (--no-verify)")
    assert json.loads((tmp_path / "r.json").read_text())["verification"] is None


def test_options_change_something(masked: Path, tmp_path: Path) -> None:
    def parameters(*options: object) -> int:
        report = tmp_path / "r.json"
        run = onnxdam("prune", masked, "-o", tmp_path / "s.onnx", "--force", "--report", report, *options)
        assert run.returncode == exits.DONE, run
        return int(json.loads(report.read_text())["after"]["parameters"])

    assert parameters("--align", "none") == 37
    assert parameters("--align", "none", "--protect", "h") == 58


def test_small_weights_go_only_when_asked(tmp_path: Path) -> None:
    model = mlp(masked=0)
    for tensor, at in zip(model.graph.initializer, (np.s_[:, 0], np.s_[0]), strict=False):
        weight = numpy_helper.to_array(tensor).copy()
        weight[at] = 1e-9
        tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))
    path, report = saved(model, tmp_path), tmp_path / "r.json"
    for threshold, expected in ((0.0, 58), (1e-6, 51)):
        run = onnxdam(
            "prune", path, "-o", tmp_path / "s.onnx", "--force", "--align", "none", "--threshold", threshold,
            "--report", report,
        )  # fmt: skip
        assert run.returncode == exits.DONE, run
        assert json.loads(report.read_text())["after"]["parameters"] == expected
        assert ("lossy" in run.stdout) == (threshold > 0)


# --------------------------------------------------------------------------------------------- prune, the check fails


def test_mismatch_writes_nothing_and_names_the_node(
    masked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A slimmer that spoils a weight: the check must find it."""
    import onnx_ir as ir

    from onnxdam import api

    honest = api.slim

    def spoiled(model: ir.Model, **options: object) -> tuple[ir.Model, object]:
        slim, plan = honest(model, **options)
        value = slim.graph.initializers["b2"]
        value.const_value = ir.tensor(value.const_value.numpy() + 0.01, name="b2")
        return slim, plan

    monkeypatch.setattr(api, "slim", spoiled)
    report = tmp_path / "r.json"
    code = status(["prune", str(masked), "-o", str(tmp_path / "slim.onnx"), "--report", str(report)])
    out = capsys.readouterr().out
    assert code == exits.CHECK_FAILED
    assert files(tmp_path) == ["masked.onnx", "r.json"]
    assert "first diverging node: Gemm" in out
    assert out.splitlines()[-1].startswith("FAILED  the models differ")
    data = json.loads(report.read_text())
    assert data["passed"] is False
    assert data["output"] is None


def test_data_for_the_check(masked: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=normal(20, 4))
    report = tmp_path / "r.json"
    run = onnxdam("prune", masked, "-o", tmp_path / "s.onnx", "--data", tmp_path / "x.npz", "--report", report)
    assert run.returncode == exits.DONE, run
    assert {case["inputs"] for case in json.loads(report.read_text())["verification"]["cases"]} == {"data"}
    assert "no such file" in refused("prune", masked, "-o", tmp_path / "t.onnx", "--data", tmp_path / "no.npz")


# ----------------------------------------------------------------------------------------------- prune, bad input


def test_bad_models(tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    (tmp_path / "text.onnx").write_text("hello")
    (tmp_path / "half.onnx").write_bytes(mlp().SerializeToString()[:200])
    (tmp_path / "empty.onnx").touch()
    old, invalid = mlp(), mlp()
    old.opset_import[0].version = 4
    invalid.graph.node[0].input[0] = "nobody"
    external = saved(mlp(), tmp_path, "external.onnx", external=True)
    (tmp_path / "external.onnx.data").unlink()
    before = files(tmp_path)
    for path, text in (
        (tmp_path / "missing.onnx", "no such file"),
        (tmp_path, "is a folder"),
        (tmp_path / "text.onnx", "not an ONNX model"),
        (tmp_path / "half.onnx", "truncated"),
        (tmp_path / "empty.onnx", "is empty"),
        (external, "No such file"),
    ):
        assert text in refused("prune", path, "-o", out)
        assert files(tmp_path) == before
    assert "opset 4 is too old" in refused("prune", saved(old, tmp_path, "old.onnx"), "-o", out)
    assert "invalid graph" in refused("prune", saved(invalid, tmp_path, "invalid.onnx"), "-o", out)
    assert not out.exists()


def test_bad_outputs(masked: Path, tmp_path: Path) -> None:
    content = masked.read_bytes()
    other = saved(mlp(), tmp_path, "other.onnx")
    assert "exists already" in refused("prune", masked, "-o", other)
    assert "overwrite its own input" in refused("prune", masked, "-o", masked)
    assert "overwrite its own input" in refused("prune", masked, "-o", masked, "--force")
    link = tmp_path / "link.onnx"
    link.symlink_to(masked)
    assert "overwrite its own input" in refused("prune", masked, "-o", link, "--force")
    assert "there is no folder" in refused("prune", masked, "-o", tmp_path / "no" / "x.onnx")
    assert "is a folder" in refused("prune", masked, "-o", tmp_path)
    assert "cannot be written" in refused("prune", masked, "-o", "/proc/out.onnx")
    assert "not a regular file" in refused("prune", masked, "-o", "/dev/null", "--force")
    assert "is the model itself" in refused("prune", masked, "-o", tmp_path / "s.onnx", "--report", masked, "--force")
    assert masked.read_bytes() == content
    assert onnxdam("prune", masked, "-o", other, "--force").returncode == exits.DONE


@pytest.mark.skipif(os.name != "posix", reason="needs resource limits")
def test_write_fails_in_the_middle(masked: Path, tmp_path: Path) -> None:
    """The operating system refuses the write: nothing is left, the exit code is 2."""
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100));"
        "from onnxdam.cli.main import run; run(sys.argv[1:])"
    )
    out = tmp_path / "slim.onnx"
    run = subprocess.run(
        [sys.executable, "-c", code, "prune", masked, "-o", out], capture_output=True, text=True, check=False
    )
    assert run.returncode == exits.BAD_INPUT, run
    assert "cannot be written (File too large); nothing was written" in run.stderr
    assert files(tmp_path) == ["masked.onnx"]


def test_bad_plans(masked: Path, tmp_path: Path) -> None:
    plan, out = tmp_path / "p.json", tmp_path / "s.onnx"
    assert onnxdam("prune", masked, "--dry-run", "--plan", plan).returncode == exits.DONE
    other = saved(mlp(masked=4), tmp_path, "other.onnx")
    assert "another model" in refused("prune", other, "--apply", plan, "-o", out)
    assert "exists already" in refused("prune", masked, "--dry-run", "--plan", plan)
    assert "cannot be read" in refused("prune", masked, "--apply", tmp_path / "no.json", "-o", out)
    for content in ("", "{}", "[1]", "null", '{"schema": 1}', '{"schema": 99}', "not json"):
        (tmp_path / "bad.json").write_text(content)
        assert "bad.json: plan:" in refused("prune", masked, "--apply", tmp_path / "bad.json", "-o", out)
    (tmp_path / "bad.json").write_bytes(b"\xff\xfe\x00")
    assert "not text" in refused("prune", masked, "--apply", tmp_path / "bad.json", "-o", out)
    assert not out.exists()


def test_unknown_value_in_protect(masked: Path, tmp_path: Path) -> None:
    assert "'nobody*'" in refused("prune", masked, "-o", tmp_path / "s.onnx", "--protect", "nobody*")


def test_invalid_graphs_only_warn_when_not_strict(tmp_path: Path) -> None:
    model = mlp(masked=3)
    model.graph.node[1].attribute.append(onnx.helper.make_attribute("colour", 3))
    path = saved(model, tmp_path)
    assert "invalid graph" in refused("prune", path, "-o", tmp_path / "s.onnx")
    assert "warning: " in in_a_new_process("prune", path, "--dry-run", "--no-strict").stderr


def test_custom_operators_are_kept_and_need_no_verify(tmp_path: Path) -> None:
    model = parsed(
        "g (float[N, 4] x) => (float[N, 2] y) { h = MatMul(x, w1)  r = my.own.Thing(h)  y = MatMul(r, w2) }",
        header='<ir_version: 8, opset_import: ["" : 17, "my.own" : 1]>\n',
        w1=normal(4, 8) * (np.arange(8) > 3).astype(np.float32),
        w2=normal(8, 2),
    )
    path, out = saved(model, tmp_path), tmp_path / "s.onnx"
    assert "ONNX Runtime does not load it" in refused("prune", path, "-o", out)
    assert not out.exists()
    assert onnxdam("prune", path, "-o", out, "--no-verify").returncode == exits.DONE
    assert [list(t.dims) for t in onnx.load(out).graph.initializer] == [[4, 8], [8, 2]]


# ----------------------------------------------------------------------------------------------------- interruption


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, exits.INTERRUPTED), (signal.SIGTERM, exits.TERMINATED)])
def test_interruption_leaves_nothing(tmp_path: Path, number: int, code: int) -> None:
    """Stopped while the temporary file is there: it goes, and the output never appears."""
    path = saved(mlp(masked=3), tmp_path)
    stall = (
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # background jobs of a shell start without
        "import onnxdam.verify as v\n"
        "module = sys.modules['onnxdam.verify']\n"
        "def slow(*a, **k):\n"
        f"    pathlib.Path({str(tmp_path)!r}, 'ready').touch()\n"
        "    time.sleep(30)\n"
        "module.verify = slow\n"
        "from onnxdam.cli.main import run\n"
        "run(sys.argv[1:])\n"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", stall, "prune", path, "-o", tmp_path / "s.onnx"], stderr=subprocess.PIPE, text=True
    )
    end = time.time() + 30
    while not (tmp_path / "ready").exists() and time.time() < end:
        time.sleep(0.05)
    assert any(name.startswith(".onnxdam-") for name in files(tmp_path))
    run.send_signal(number)
    _, errors = run.communicate(timeout=30)
    assert run.returncode == code
    assert errors.strip().endswith("nothing was written")
    assert files(tmp_path) == ["model.onnx", "ready"]


def test_a_bug_is_not_a_bad_input(
    masked: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from onnxdam import doctor

    monkeypatch.setattr(doctor, "examine", lambda: 1 / 0)
    assert status(["doctor"]) == exits.BUG
    errors = capsys.readouterr().err
    assert "ZeroDivisionError" in errors
    assert errors.splitlines()[-1].startswith("FAILED  an error in onnxdam itself")


# --------------------------------------------------------------------------------------------------- other commands


def test_verify(masked: Path, tmp_path: Path) -> None:
    run = onnxdam("verify", masked, masked)
    assert run.returncode == exits.DONE
    assert run.stdout.splitlines()[-1] == "PASSED  the models are equal"
    run = onnxdam("verify", masked, saved(mlp(masked=2), tmp_path, "b.onnx"))
    assert run.returncode == exits.CHECK_FAILED
    assert "first diverging node" in run.stdout
    assert run.stdout.splitlines()[-1] == "FAILED  the models differ"
    assert "no such file" in refused("verify", masked, tmp_path / "no.onnx")


def test_bench(masked: Path, tmp_path: Path) -> None:
    run = onnxdam("bench", masked, masked, "--seconds", "0.2", "--size", "N=2")
    assert run.returncode == exits.DONE
    assert "N = 2" in run.stdout
    assert "no such file" in refused("bench", masked, tmp_path / "no.onnx")


def test_explain(masked: Path) -> None:
    run = onnxdam("explain", masked, "h:1:5")
    assert run.returncode == exits.DONE
    assert ":1:5 stays" in run.stdout
    assert "y:1:0 stays: a graph output" in run.stdout
    assert "nothing keeps it" in onnxdam("explain", masked, "h:1:0", "--align", "none").stdout
    assert "no value of that name" in refused("explain", masked, "nobody")
    assert "the axis has 8 slots" in refused("explain", masked, "h:1:8")
    assert json.loads(onnxdam("explain", masked, "h:1:5", "--json").stdout)["kept"] is True


def test_a_reader_that_goes_away_is_no_error(masked: Path) -> None:
    command = f"{sys.executable} -m onnxdam.cli inspect --all {masked}; echo status $? >&2"
    run = subprocess.run(["sh", "-c", f"({command}) | head -1"], capture_output=True, text=True, check=False)
    assert run.stdout.count("\n") == 1
    assert run.stderr == "status 0\n"


def test_doctor() -> None:
    run = onnxdam("doctor")
    assert run.stdout.splitlines()[-1].startswith(("PASSED", "FAILED"))
    assert "onnxruntime" in run.stdout


def test_inspect(masked: Path, tmp_path: Path) -> None:
    run = onnxdam("inspect", masked, "--align", "none")
    assert run.returncode == exits.DONE
    assert "58 parameters" in run.stdout
    assert "3 constant slots, 3 slots can leave" in run.stdout
    assert "a graph output" in run.stdout
    assert "no such file" in refused("inspect", tmp_path / "no.onnx")
    assert json.loads(onnxdam("inspect", masked, "--json").stdout)["groups"]
