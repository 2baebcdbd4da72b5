"""The function under test, in the form that the properties expect: every dead channel leaves, none stays for
alignment.
"""

from __future__ import annotations

from typing import Any

import onnx


def slim(model: onnx.ModelProto) -> tuple[onnx.ModelProto, Any]:
    """`onnxdam.slim` without width alignment."""
    import onnxdam

    small, plan = onnxdam.slim(model, align="none")
    assert isinstance(small, onnx.ModelProto)
    return small, plan
