"""Marks of these tests, and the default selection: exports that take many seconds only when `-m` asks for them."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "torch: needs PyTorch (and transformers)")
    config.addinivalue_line("markers", "slow: takes more than ten seconds")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out this folder's slow tests unless `-m slow` (or any other `-m`) was given; pytest counts them as such."""
    if config.option.markexpr:
        return
    slow = [item for item in items if "tests/embedding" in item.path.as_posix() and item.get_closest_marker("slow")]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in set(slow)]
