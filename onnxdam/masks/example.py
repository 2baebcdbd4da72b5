"""What a network can be called with, and what it gives: arguments in any nesting, tensors out of any container."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from onnxdam.errors import InputError
from onnxdam.masks.layout import all_row_major, row_major

Inputs: TypeAlias = Tensor | Sequence[Any] | Mapping[str, Any]


@dataclass(frozen=True)
class Example:
    """The arguments of one call.

    Attributes:
        args: by position.
        kwargs: by name.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @classmethod
    def of(cls, inputs: Inputs | Example) -> Example:
        """A tensor is the only argument; a mapping holds arguments by name, and so does one at the end of a tuple.

        (As `torch.onnx.export` reads its arguments: who means a mapping as the last argument puts {} behind it.)

        Raises:
            InputError: there is no tensor.
        """
        if isinstance(inputs, Example):
            return inputs
        if isinstance(inputs, Tensor):
            found = cls((inputs,), {})
        elif isinstance(inputs, Mapping):
            found = cls((), dict(inputs))
        elif isinstance(inputs, Sequence) and not isinstance(inputs, str):
            named = bool(inputs) and isinstance(inputs[-1], Mapping)
            found = cls(tuple(inputs[:-1] if named else inputs), dict(inputs[-1]) if named else {})
        else:
            raise InputError(f"example inputs: a tensor, a tuple or a dict of them, not {type(inputs).__name__}")
        if not found.tensors:
            raise InputError("example inputs: there is no tensor among them")
        if any(tensor.layout != torch.strided for tensor in found.tensors):
            raise InputError("example inputs: ONNX has no sparse tensors; pass indices, or a dense one")
        return found

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors, in the order of the arguments."""
        return [leaf for leaf in pytree.tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor)]

    def run(self, model: nn.Module) -> Any:
        return model(*self.args, **self.kwargs)

    def map(self, change: Callable[[Tensor], Any]) -> Example:
        """With every tensor changed."""
        args, kwargs = pytree.tree_map(
            lambda leaf: change(leaf) if isinstance(leaf, Tensor) else leaf, (self.args, self.kwargs)
        )
        return Example(args, kwargs)

    def names(self, model: nn.Module) -> list[str]:
        """A name for every tensor: the parameter of `forward`, with a path where that is nested."""
        marked = self.map(lambda tensor: tensor.detach())  # objects of their own, where a tensor is passed twice
        bound = inspect.signature(model.forward).bind(*marked.args, **marked.kwargs)
        paths = {id(leaf): path for path, leaf in tensors_of(bound.arguments).items()}
        return beside(model, [paths[id(tensor)] for tensor in marked.tensors], "input")

    def single(self, model: nn.Module) -> Example:
        """One sample of the batch, where the network allows; else all of it."""
        tensors = self.tensors
        if not tensors or any(not t.dim() or len(t) != len(tensors[0]) for t in tensors) or tensors[0].dim() < 2:
            return self
        one = self.map(lambda t: t[:1])
        try:
            with torch.no_grad():
                one.run(model)
        except Exception:  # its first axis is no batch
            return self
        return one

    def __str__(self) -> str:
        """Shapes, for messages."""
        named = [*(("", a) for a in self.args), *((f"{k}=", a) for k, a in self.kwargs.items())]
        return ", ".join(f"{k}{tuple(a.shape) if isinstance(a, Tensor) else type(a).__name__}" for k, a in named)


def beside(model: nn.Module, names: Sequence[str], suffix: str) -> list[str]:
    """Names for values of a graph, those of parameters and buffers with a suffix."""
    taken = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    return [f"{name}_{suffix}" if name in taken else name for name in names]


def tensors_of(output: Any, name: str = "") -> dict[str, Tensor]:
    """The tensors of what a network gives, by a path of keys; what is no tensor is left away.

    Args:
        output: a tensor, or tuples, lists, dicts, data classes of tensors in any nesting.
        name: the path so far.
    """
    if isinstance(output, Tensor):
        return {name: output}
    if isinstance(output, Mapping):
        items = [(str(key), value) for key, value in output.items()]
    elif isinstance(output, tuple) and hasattr(output, "_fields"):
        items = list(zip(output._fields, output, strict=True))
    elif isinstance(output, Sequence) and not isinstance(output, str):
        items = [(str(i), value) for i, value in enumerate(output)]
    elif dataclasses.is_dataclass(output):
        items = [(field.name, getattr(output, field.name)) for field in dataclasses.fields(output)]
    else:
        return {}
    found: dict[str, Tensor] = {}
    for key, value in items:
        found |= tensors_of(value, f"{name}.{key}" if name else key)
    return found


def distance(before: Mapping[Any, Tensor], after: Mapping[Any, Tensor]) -> float:
    """The largest difference, as a share of the largest number of an output."""
    off = [0.0]
    for name, a in before.items():
        b = after[name]
        if a.shape != b.shape:
            return float("inf")
        a, b = a.double(), b.double()
        same = (a == b) | (a.isnan() & b.isnan())
        difference = torch.where(same, 0.0, (a - b).abs()).nan_to_num(nan=float("inf"))  # max() passes over NaN
        largest = torch.where(a.isfinite(), a.abs(), 0.0)
        off.append(float(difference.max() / largest.max().clamp(min=1e-30)) if a.numel() else 0.0)
    return max(off)


@contextmanager
def among_tensors(model: nn.Module, example: Example) -> Iterator[tuple[Tensor, ...]]:
    """The network takes tensors by position alone and gives a plain tuple: exporters know no more than that.

    Yields:
        the tensors to call it with; all other arguments are constants now.
    """
    leaves, spec = pytree.tree_flatten((example.args, example.kwargs))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    forward, own = model.forward, "forward" in vars(model)

    def plain(*tensors: Tensor) -> Any:
        filled = list(leaves)
        for place, tensor in zip(places, tensors, strict=True):
            filled[place] = tensor
        args, kwargs = pytree.tree_unflatten(filled, spec)
        output = forward(*args, **kwargs)
        return output if isinstance(output, Tensor) else tuple(tensors_of(output).values())

    model.forward = plain
    try:
        with all_row_major(model):
            yield tuple(row_major(leaves[place]) for place in places)
    finally:
        del model.forward
        if own:
            model.forward = forward


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """In evaluation mode for a while; afterwards every module is in the mode that it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield model
    finally:
        for module in training:
            module.training = True
