"""The doctor sees what is wrong."""

from __future__ import annotations

import pytest

from onnxdam import doctor


def test_two_runtimes() -> None:
    (problem,) = doctor.runtime_problems({"onnxruntime": "1.31", "onnxruntime-gpu": "1.31"})
    assert "both installed" in problem
    assert problem.endswith("pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu")


def test_no_runtime() -> None:
    (problem,) = doctor.runtime_problems({})
    assert "pip install 'onnxdam[cpu]'" in problem


def test_one_runtime_is_fine() -> None:
    assert doctor.runtime_problems({"onnxruntime": "1.31"}) == []


def test_the_trap_is_found_by_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor.installed
    monkeypatch.setattr(doctor, "installed", lambda name: "1.0" if name == "onnxruntime-gpu" else real(name))
    health = doctor.examine()
    assert not health.passed
    assert any("both installed" in problem for problem in health.problems)


def test_this_machine() -> None:
    health = doctor.examine()
    assert "onnx" in health.versions
    assert "CPUExecutionProvider" in health.providers
