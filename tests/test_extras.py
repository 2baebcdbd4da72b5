"""What the benchmarks import can be installed by an extra, and every pinned version satisfies its extra."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
#: modules that have another name than what is installed
DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn", "google": "onnx"}  # google.protobuf comes with onnx


def required() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"]
    return [Requirement(text) for group in (PROJECT["dependencies"], *extras.values()) for text in group]


def imported(path: Path) -> set[str]:
    """Top-level names of the modules that a script imports, at its head or when it gets there."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.name)
def test_benchmarks_can_be_installed(path: Path) -> None:
    local = (
        {p.stem for p in (ROOT / "benchmarks").glob("*.py")}
        | {"onnxdam", "models", "tests"}
        | set(sys.stdlib_module_names)
    )
    known = {requirement.name.replace("-", "_").lower() for requirement in required()}
    named = {DISTRIBUTIONS.get(name, name).replace("-", "_").lower() for name in imported(path) - local}
    assert named <= known


def test_rivals_that_are_run_by_name_can_be_installed() -> None:
    """`prune_speed.py` starts these in processes of their own."""
    known = {requirement.name for requirement in required()}
    assert {"onnxslim", "onnxsim", "torch-pruning", "timm", "torchvision"} <= known


def test_pins_satisfy_the_extras() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    pins = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in (line.split("==") for line in lines)}
    wrong = [
        str(requirement)
        for requirement in required()
        if (pinned := pins.get(re.sub(r"[-_.]+", "-", requirement.name).lower())) is not None
        and not requirement.specifier.contains(pinned)
    ]
    assert wrong == []
