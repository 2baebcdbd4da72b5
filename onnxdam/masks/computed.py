"""Weights that another parametrization computes: weight norm, spectral norm, orthogonal maps.

In evaluation such a weight is as good as a parameter. So the graph is that of a copy where it is one, and a mask goes
on top of what is computed: w = mask * norm(v, g).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from onnxdam.masks.reading import Masked, owner

HOOKS = (WeightNorm, SpectralNorm)  # the older way: a hook that computes before each call


def computed(model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Modules and the names of their tensors that a parametrization computes, masks aside."""
    for module in model.modules():
        if parametrize.is_parametrized(module):
            yield from (
                (module, name) for name, listed in module.parametrizations.items() if not isinstance(listed[0], Masked)
            )


def is_computed(model: nn.Module, name: str) -> bool:
    """Whether a tensor is, by its name in the plain network."""
    module, last = owner(model, name)
    return parametrize.is_parametrized(module, last) and not isinstance(module.parametrizations[last][0], Masked)


def names_of(model: nn.Module) -> list[str]:
    """Names of the weights that masks can sit on: parameters, and what is computed from them."""
    paths = {module: path for path, module in model.named_modules()}
    found = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    return [*found, *(f"{paths[module]}.{name}".lstrip(".") for module, name in computed(model))]


def plain(model: nn.Module) -> nn.Module:
    """A copy in which computed weights are parameters; the network itself where there are none."""
    return folded(copy_of(model)) if any(True for _ in computed(model)) or any(True for _ in _hooks(model)) else model


def copy_of(model: nn.Module) -> nn.Module:
    """A deep copy; what hooks and forward functions have left behind (which torch cannot copy) is computed again."""
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, Tensor) and value.grad_fn is not None:
                setattr(module, name, value.detach())
    return copy.deepcopy(model)


def folded(model: nn.Module) -> nn.Module:
    """Computed weights become parameters, in place; masks on top of them with them."""
    for module, name in list(computed(model)):
        _fold(module, name)
    for module, key, hook in list(_hooks(model)):
        hook.remove(module)
        del module._forward_pre_hooks[key]
    return model


def unhooked(model: nn.Module) -> nn.Module:
    """Weights under `nn.utils.prune` become plain ones, in place."""
    for module in model.modules():
        for key, hook in list(module._forward_pre_hooks.items()):
            if isinstance(hook, BasePruningMethod):
                hook.remove(module)
                del module._forward_pre_hooks[key]
    return model


def uncover(model: nn.Module, *, masked: bool) -> None:
    """Takes the masks off computed weights.

    Args:
        masked: their effect is left; then the weight is a plain parameter from now on.
    """
    for module, name in list(computed(model)):
        listed = module.parametrizations[name]
        if masked and any(isinstance(part, Masked) for part in listed):
            _fold(module, name)
            continue
        while isinstance(listed[-1], Masked):
            del listed[-1]


def _fold(module: nn.Module, name: str) -> None:
    """Without torch's `remove_parametrizations`, as copies of a module share its class."""
    value: Tensor = getattr(module, name).detach().clone()
    cls = parametrize.type_before_parametrizations(module)
    del module.parametrizations[name]
    if not module.parametrizations:
        module.__class__ = cls
        del module.parametrizations
    trains = value.is_floating_point()
    module._parameters = {name: nn.Parameter(value, trains), **module._parameters}


def _hooks(model: nn.Module) -> Iterator[tuple[nn.Module, int, WeightNorm | SpectralNorm]]:
    for module in model.modules():
        for key, hook in module._forward_pre_hooks.items():
            if isinstance(hook, HOOKS):
                yield module, key, hook
