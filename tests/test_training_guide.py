"""docs/training.md: every example runs, in the order of the page."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from onnxdam.cli import exits  # noqa: E402
from onnxdam.cli.main import status  # noqa: E402
from tests.masks.conftest import one_thread  # noqa: E402, F401

GUIDE = Path(__file__).parents[1] / "docs" / "training.md"


def test_every_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", GUIDE.read_text(), re.DOTALL | re.MULTILINE)
    assert {language for language, _ in blocks} == {"python", "console"}
    for language, text in blocks:
        if language == "python":
            exec(compile(text, str(GUIDE), "exec"), names)
            continue
        for command in re.findall(r"^\$ onnxdam (.*)$", text, re.MULTILINE):
            assert status(shlex.split(command)) == exits.DONE, command
    assert {"masked.onnx", "slim.onnx", "digits.onnx", "digits2.onnx"} <= {path.name for path in tmp_path.iterdir()}
