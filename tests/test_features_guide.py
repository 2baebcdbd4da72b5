"""docs/features.md does what it says: its code runs, its commands print what it shows."""

from __future__ import annotations

import io
import re
import shlex
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from onnxdam.cli.main import status

GUIDE = (Path(__file__).parents[1] / "docs" / "features.md").read_text(encoding="utf-8")


def test_the_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    blocks = re.findall(r"^```(python|console)\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 8
    for kind, text in blocks:
        if kind == "python":
            exec(compile(text, "docs/features.md", "exec"), names)
        else:
            _command(text)


def _command(text: str) -> None:
    """Runs `$ onnxdam ...`; the lines shown must be printed, in this order ("..." stands for any)."""
    command, *shown = text.splitlines()
    program, *arguments = shlex.split(command.removeprefix("$ "))
    assert program == "onnxdam"
    out = io.StringIO()
    with redirect_stdout(out):
        assert status(arguments) == 0
    printed = [line.rstrip() for line in out.getvalue().splitlines()]
    for line in shown:
        if line != "...":
            assert line in printed, f"{line!r} is not printed by {command!r}:\n{out.getvalue()}"
            printed = printed[printed.index(line) + 1 :]
