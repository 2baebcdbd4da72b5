"""What is installed and imported: the package list, the lazy names, what help may load."""

from __future__ import annotations

import resource
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import onnxdam

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "onnx", "onnxruntime", "onnx_ir", "numpy", "rich"}


def fresh(code: str) -> str:
    """Output of a new interpreter."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_every_package_is_listed() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / "onnxdam").rglob("__init__.py")}
    assert listed == found | {"onnxdam.cli", "onnxdam.recipes"}


def test_import_is_light() -> None:
    assert fresh(f"import onnxdam, sys; print(sorted({HEAVY} & set(sys.modules)))") == "[]"


def test_pruning_never_imports_torch() -> None:
    names = "import onnxdam, sys; [getattr(onnxdam, n) for n in onnxdam.__all__]; print('torch' in sys.modules)"
    assert fresh(names) == "False"


def test_every_public_name_is_there() -> None:
    for name in onnxdam.__all__:
        assert getattr(onnxdam, name) is not None
    assert set(onnxdam.__all__) <= set(dir(onnxdam))
    with pytest.raises(AttributeError, match="no attribute 'prune_everything'"):
        _ = onnxdam.prune_everything


def test_functions_win_over_the_submodules_of_their_name() -> None:
    code = (
        "import onnxdam, onnxdam.plan, onnxdam.verify, onnxdam.bench\n"
        "from onnxdam.plan import Plan\n"
        "print(all(callable(f) for f in (onnxdam.plan, onnxdam.verify, onnxdam.bench)), onnxdam.Plan is Plan)"
    )
    assert fresh(code) == "True True"


def test_help_is_instant_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; from onnxdam.cli.main import status\n"
        f"status(['--help']); print(sorted({HEAVY} & set(sys.modules)), file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stderr.strip() == "[]"
    times = []
    for _ in range(5):
        start = resource.getrusage(resource.RUSAGE_CHILDREN)  # processor time: the machine may be busy with other tests
        subprocess.run([sys.executable, "-m", "onnxdam.cli", "--help"], capture_output=True, check=True)
        end = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime)
    assert min(times) < 0.2
