"""In which module of a network something went wrong."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from torch import nn

from onnxdam.errors import InputError


def failing_module(model: nn.Module, call: Callable[[], object]) -> str:
    """Calls what is known to fail and says where it does: "layer1.0.conv2 (Conv2d)", or "the network (ResNet)".

    Args:
        model: whose modules are watched.
        call: runs the model.
    """
    inside: list[str] = []
    hooks = []
    for path, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda _, __, path=path: inside.append(path)))
        hooks.append(module.register_forward_hook(lambda *_: (inside.pop(), None)[1]))
    with suppress(Exception):
        call()
    for hook in hooks:
        hook.remove()
    path = inside[-1] if inside else ""
    return f"{path or 'the network'} ({type(model.get_submodule(path)).__name__})"


def check_network(model: object, asker: str) -> None:
    """Raises InputError unless it is a network."""
    if not isinstance(model, nn.Module):
        raise InputError(f"{asker}: the network is a torch.nn.Module, not {type(model).__name__}")


def one_line(error: BaseException, length: int = 200) -> str:
    """What an exception says, without line breaks."""
    return " ".join(str(error.__cause__ or error).split())[:length]
