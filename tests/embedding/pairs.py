"""The registry of (narrow, wide) pairs and how they are exported."""

from __future__ import annotations

import copy
import pathlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from .embed import Death, Label, embed, narrow_shape, randomise


@dataclass
class Pair:
    """A wide network, the narrow one embedded in it, and what they are fed.

    Attributes:
        inputs: Example inputs by name, in the order of `forward`.
        dynamic: For each input, {axis: symbolic name}.
        equal: Whether both compute the same function (not so when dead slots are constants).
        same_nodes: Whether the narrow export is also the yardstick for the number of nodes. Where the narrow network
            cannot be written as the same class, the wide one is.
        slack: Weights that the slim network may have more than the narrow one (a channel that carries constants).
    """

    narrow: nn.Module
    wide: nn.Module
    inputs: dict[str, torch.Tensor]
    dynamic: dict[str, dict[int, str]]
    equal: bool = True
    same_nodes: bool = True
    slack: int = 0


Builder = Callable[[Death], Pair]


@dataclass(frozen=True)
class Entry:
    """A registered builder and the ways its slots can die."""

    build: Builder
    deaths: tuple[Death, ...]
    exporters: tuple[str, ...] = ("torchscript", "dynamo")


REGISTRY: dict[str, Entry] = {}
ZERO = (Death.PRODUCER, Death.CONSUMER, Death.MIXED)
ALL = (*ZERO, Death.CONSTANT)


def pair(
    *,
    deaths: tuple[Death, ...] = ZERO,
    exporters: tuple[str, ...] = ("torchscript", "dynamo"),
) -> Callable[[Builder], Builder]:
    """Register a builder under its own name."""

    def register(build: Builder) -> Builder:
        name = build.__name__
        if name in REGISTRY:
            raise ValueError(f"two pairs are called {name}")
        REGISTRY[name] = Entry(build, deaths, exporters)
        return build

    return register


def make(
    narrow: nn.Module,
    wide: nn.Module,
    spec: Mapping[str, str],
    labels: Mapping[str, Label],
    inputs: dict[str, torch.Tensor],
    dynamic: dict[str, dict[int, str]],
    **options: int,
) -> Pair:
    """Randomise the narrow network, embed it, and say whether the functions agree."""
    randomise(narrow)
    embed(narrow.eval(), wide.eval(), spec, labels)
    constant = any(label.death is Death.CONSTANT for label in labels.values())
    return Pair(narrow, wide, inputs, dynamic, equal=not constant, **options)  # type: ignore[arg-type]


def carve(wide: nn.Module, spec: Mapping[str, str], labels: Mapping[str, Label]) -> nn.Module:
    """A copy of `wide` whose parameters have the narrow shapes (attributes such as `num_heads` are the caller's)."""
    narrow = copy.deepcopy(wide)
    tied: dict[int, nn.Parameter] = {}  # by the id of the parameter that it replaces
    for module_name, module in narrow.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                full = f"{module_name}.{name}" if module_name else name
                if id(parameter) not in tied:
                    tied[id(parameter)] = nn.Parameter(parameter.new_empty(narrow_shape(full, spec, labels)))
                module._parameters[name] = tied[id(parameter)]
        if isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
        elif hasattr(module, "nf") and hasattr(module, "nx"):  # transformers' Conv1D
            module.nx, module.nf = module.weight.shape
    return narrow


def export(model: nn.Module, pair: Pair, path: pathlib.Path, exporter: str) -> None:
    """Write `model` as ONNX with dynamic batch and sequence axes."""
    names = list(pair.inputs)
    arguments = tuple(pair.inputs.values())
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        if exporter == "dynamo":
            shapes = tuple(dict.fromkeys(pair.dynamic.get(n, {}), torch.export.Dim.DYNAMIC) for n in names)
            torch.onnx.export(
                model,
                arguments,
                str(path),
                dynamo=True,
                external_data=False,
                verbose=False,
                input_names=names,
                output_names=["output"],
                dynamic_shapes=shapes,
            )
        else:
            torch.onnx.export(
                model,
                arguments,
                str(path),
                dynamo=False,
                opset_version=17,
                input_names=names,
                output_names=["output"],
                dynamic_axes=pair.dynamic,
            )
