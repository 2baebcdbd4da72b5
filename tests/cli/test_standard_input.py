"""Models from a pipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.test_commands import files, refused
from tests.models import mlp, saved


def test_weights_beside_a_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that they lie in is not looked for in the current folder, where another one may be."""
    source = saved(mlp(), tmp_path, external=True)
    monkeypatch.chdir(tmp_path)
    for option in (["-o", "slim.onnx"], ["--dry-run"]):
        message = refused("prune", "-", *option, stdin=source.read_bytes())
        assert "standard input: its weights lie in model.onnx.data" in message
        assert "give the model by its path" in message
    assert files(tmp_path) == ["model.onnx", "model.onnx.data"]
