"""Control flow."""

from __future__ import annotations

from onnxdam.rules.base import Rule

TABLE: dict[tuple[str, str], Rule] = {}
