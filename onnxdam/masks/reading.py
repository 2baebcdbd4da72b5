"""How a gate reaches the weights that read its channels.

A weight that reads the channels of x sums over them: y = sum_i w_i m_i x_i. So the mask m may multiply the weight or
its input, with the same result and the same slopes. Every such weight becomes w * m by a torch parametrization: that
holds wherever the weight is used. In the forward pass of a plain Linear or convolution, whichever has fewer entries is
multiplied instead, its weight or its input: the one is small where maps are large, the other where channels are many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from onnxdam.masks.gate import Gate, along, rows_along
from onnxdam.masks.groups import Part


class _Scale(torch.autograd.Function):
    """x * mask along an axis that is not the last; the slope by the mask is summed over whole rows first: three times
    as fast as what autograd does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor, axis: int) -> Tensor:
        ctx.save_for_backward(x, mask)
        ctx.axis = axis
        return x * along(mask, x.dim(), axis)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, mask = ctx.saved_tensors
        by_x = slope * along(mask, x.dim(), ctx.axis) if ctx.needs_input_grad[0] else None
        by_mask = rows_along(slope * x, ctx.axis) if ctx.needs_input_grad[1] else None
        return by_x, by_mask, None


def scale(x: Tensor, mask: Tensor, axis: int) -> Tensor:
    """x * mask along an axis, counted from 0."""
    if mask.dtype != x.dtype:
        mask = mask.to(x.dtype)
    if axis == x.dim() - 1:
        return x * mask
    if not mask.requires_grad:
        return x * along(mask, x.dim(), axis)
    scaled: Tensor = _Scale.apply(x, mask, axis)
    return scaled


class Masked(nn.Module):
    """The parametrization w -> w * mask along one axis.

    Args:
        gates: hold the mask.
        axis: of the weight.
        index: for each entry of that axis its slot, the slots of all gates in one row; -1 for none.
        place: of the weight among its module's parameters.
    """

    index: Tensor

    def __init__(self, gates: Sequence[Gate], axis: int, index: Tensor, place: int) -> None:
        super().__init__()
        self.gates = nn.ModuleList(gates)
        self._row = list(gates)  # the same: module lists are slow to look into, and this is done in every pass
        self.axis = axis
        self.place = place
        self.whole = bool((index >= 0).all())
        self.plain = len(gates) == 1 and torch.equal(index, torch.arange(gates[0].n))
        self.register_buffer("index", index if self.whole else index + 1, persistent=False)

    def mask(self) -> Tensor | None:
        """One number for each entry of the axis; None where all are 1."""
        if self.plain:
            gate = self._row[0]
            return None if gate.idle else gate.mask()
        if all(gate.idle for gate in self._row):
            return None
        masks = [gate.mask() for gate in self._row]
        if not self.whole:
            masks.insert(0, masks[0].new_ones(1))
        return (torch.cat(masks) if len(masks) > 1 else masks[0])[self.index]

    def forward(self, weight: Tensor) -> Tensor:
        """The weight as the network sees it, same shape."""
        mask = self.mask()
        return weight if mask is None else scale(weight, mask, self.axis)


# -- the shortcut ------------------------------------------------------------------------------------------------------
def _cheaper(module: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Input and weight of a layer, one of them masked."""
    listed = module.parametrizations.weight
    weight: Tensor = listed.original
    mask = listed._modules["0"].mask()
    if mask is None:
        return x, weight
    axis = x.dim() + 1 - weight.dim()
    if x.numel() < weight.numel() and x.shape[axis] == len(mask):  # else the layer complains in its own words
        return scale(x, mask, axis), weight
    return x, scale(weight, mask, 1)


def _linear(self: Any, x: Tensor) -> Tensor:
    x, weight = _cheaper(self, x)
    return nn.functional.linear(x, weight, self.bias)


def _conv(self: Any, x: Tensor) -> Tensor:
    x, weight = _cheaper(self, x)
    convolved: Tensor = self._conv_forward(x, weight, self.bias)
    return convolved


_FORWARDS: dict[Any, Callable[..., Tensor]] = {
    nn.Linear.forward: _linear,
    nn.Conv1d.forward: _conv,
    nn.Conv2d.forward: _conv,
    nn.Conv3d.forward: _conv,
}


def _recurrent(self: Any, *args: Any, **kwargs: Any) -> Any:
    """Lets go of the masked weights that the module holds on to for the kernel: they cannot be copied."""
    try:
        return parametrize.type_before_parametrizations(self).forward(self, *args, **kwargs)
    finally:
        self._flat_weights = [original(self, name) for name in self._flat_weights_names]


def _take_shortcut(module: nn.Module) -> None:
    """The class is this module's own: a parametrized module has one that is made for it."""
    if isinstance(module, nn.RNNBase):
        type(module).forward = _recurrent
        return
    forward = _FORWARDS.get(type(module).forward)
    listed = module.parametrizations
    if forward is None or list(listed) != ["weight"] or len(listed["weight"]) > 1 or getattr(module, "groups", 1) > 1:
        return
    if listed["weight"][0].axis == 1:
        type(module).forward = forward


# -- on and off --------------------------------------------------------------------------------------------------------
def put_on(model: nn.Module, parts: Iterable[tuple[Part, Gate]]) -> None:
    """Lets gates reach the weights that read them."""
    changed: dict[nn.Module, None] = {}
    for found in _rows(parts):
        first, index, before = found[0][0], np.full_like(found[0][0].index, -1), 0
        for part, gate in found:
            index = np.where(part.index >= 0, part.index + before, index)
            before += gate.n
        weight = original(model, first.parameter)
        for module, name in list(_holders(model, weight)) or [owner(model, first.parameter)]:  # none: it is computed
            place = list(module._parameters).index(name) if name in module._parameters else 0
            masked = Masked([gate for _, gate in found], first.axis, torch.from_numpy(index), place)
            parametrize.register_parametrization(module, name, masked.to(weight.device))
            changed[module] = None
    for module in changed:
        _take_shortcut(module)


def _rows(parts: Iterable[tuple[Part, Gate]]) -> list[list[tuple[Part, Gate]]]:
    """Parts of one axis that share no entry make one mask; those of tied weights may share some."""
    rows: list[list[tuple[Part, Gate]]] = []
    for part, gate in parts:
        for row in rows:
            same = row[0][0].parameter == part.parameter and row[0][0].axis == part.axis
            if same and not any(((other.index >= 0) & (part.index >= 0)).any() for other, _ in row):
                row.append((part, gate))
                break
        else:
            rows.append([(part, gate)])
    return rows


def _holders(model: nn.Module, weight: Tensor) -> Iterator[tuple[nn.Module, str]]:
    """All modules that have a parameter, and its name there: tied weights have several."""
    for module in model.modules():
        if isinstance(module, parametrize.ParametrizationList):
            continue
        for name, value in module._parameters.items():
            if value is weight:
                yield module, name
        if parametrize.is_parametrized(module):
            yield from ((module, name) for name, listed in module.parametrizations.items() if _root(listed) is weight)


def take_off(model: nn.Module, *, masked: bool) -> None:
    """Takes all masks off the weights of a network.

    Copies of a module share its class, so the class is left as it is: `torch`'s own way would break the copies.

    Args:
        model: changed in place; the parameters stay the same objects.
        masked: their effect is left in the weights.
    """
    values: dict[Tensor, Tensor] = {}
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            plain = parametrize.type_before_parametrizations(module)
            for name, listed in reversed(list(module.parametrizations.items())):  # places are those of the time before
                if isinstance(listed[0], Masked):
                    values.setdefault(listed.original, listed().detach())
                    _restore(module, name)
            if not module.parametrizations:
                module.__class__ = plain
                del module.parametrizations
    if masked:
        with torch.no_grad():
            for parameter, value in values.items():  # at the end, as layers may share a weight
                parameter.copy_(value)


def _restore(module: nn.Module, name: str) -> None:
    listed = module.parametrizations[name]
    del module.parametrizations[name]
    found = list(module._parameters.items())
    found.insert(listed[0].place, (name, listed.original))
    module._parameters = dict(found)


def has_masks(model: nn.Module) -> bool:
    return any(isinstance(module, Masked) for module in model.modules())


def original(model: nn.Module, name: str) -> Tensor:
    """A parameter by its name in the bare network, without its mask."""
    module, last = owner(model, name)
    if parametrize.is_parametrized(module, last):
        found = _root(module.parametrizations[last])
        return getattr(module, last) if found is None else found
    value: Tensor = getattr(module, last)
    return value


def _root(listed: Any) -> Tensor | None:
    """The parameter that a mask is put on; None where something else computes the weight."""
    return listed.original if isinstance(listed[0], Masked) else None


def owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that has a parameter, and the parameter's name there."""
    path, _, last = name.rpartition(".")
    return model.get_submodule(path), last
