"""Model-local functions are inlined before a model is analysed."""

from __future__ import annotations

import onnx_ir as ir


def inline(model: ir.Model) -> ir.Model:
    """The model without functions, in place; a model that has none is returned as it is."""
    if model.functions:
        from onnx_ir.passes.common import InlinePass

        InlinePass()(model)
    return model
