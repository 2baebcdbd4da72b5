"""One thread, as for the masks."""

from __future__ import annotations

from tests.masks.conftest import one_thread

__all__ = ["one_thread"]
