"""The one lossy step: small weights become zero before anything is analysed. All that follows is exact."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir


def zero_small(model: ir.Model, threshold: float) -> ir.Model:
    """The model with every floating-point weight of magnitude up to `threshold` set to zero, in place.

    Scalars are left alone: they are constants of the graph, not weights.
    """
    if not threshold:
        return model
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if (
            tensor is None
            or not tensor.dtype.is_floating_point()
            or tensor.dtype.bitwidth < 16
            or not tensor.shape.rank()
        ):
            continue
        array = tensor.numpy()
        small = np.abs(array.astype(np.float64)) <= threshold
        if (small & (array != 0)).any():
            zeroed = np.where(small, array.dtype.type(0), array)
            value.const_value = ir.Tensor(zeroed, dtype=tensor.dtype, name=value.name)
    return model
