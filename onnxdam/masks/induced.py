"""Induced feature selection (Hubens et al. 2023, arXiv 2303.10999) in its three steps.

1  structured sparsity: the network is trained with gates on the features of its inputs, and on its channels
2  trace back: which features does no weight read any more? The analysis that prunes tells
3  remove weights and features, and train on: the narrow network, on the narrow data
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from onnxdam.errors import InputError
from onnxdam.features import Manifest, select
from onnxdam.masks.attach import AttachedGates, attach
from onnxdam.masks.gates import Gates
from onnxdam.masks.narrow import narrow, parameter_plan
from onnxdam.masks.schedule import Schedule
from onnxdam.plan import Plan

Fit = Callable[[nn.Module, Tensor, Gates | None], None]


@dataclass(frozen=True)
class Induced:
    """What came out.

    Attributes:
        network: narrow, in evaluation mode; takes `select(x)`.
        manifest: which features it takes.
        plan: of the parameters of the network that went in.
        gates: as trained in the first step, hardened; they sit on the network that went in.
    """

    network: nn.Module
    manifest: Manifest
    plan: Plan
    gates: AttachedGates

    def select(self, x: Tensor) -> Tensor:
        """The features that the narrow network takes, of data as the first network took them."""
        taken: Tensor = select(x, self.manifest)
        return taken


def induce(
    model: nn.Module,
    x: Tensor,
    fit: Fit,
    *,
    method: str = "dam",
    target: Mapping[str, Any] | None = None,
    schedule: Schedule | None = None,
    **options: Any,
) -> Induced:
    """Selects features by pruning, and trains a network on those alone.

    Args:
        model: with one input; gets gates, and is trained in place.
        x: all training samples, shape (samples, features) or (samples, channels, ...).
        fit: `fit(network, x, gates)` trains a network; called with gates first (whose penalty and step it minds), then
            with the narrow network, the narrow data and None.
        method, target, schedule: see `attach`.
        **options: see `attach`, too: include, exclude, and what goes to every gate.

    Raises:
        InputError: nothing can be gated, or as `attach`.
        UnsupportedError: the network cannot be narrowed; says which layer is in the way.
    """
    if not callable(fit):
        raise InputError("induce: fit is a function that trains: fit(network, x, gates)")
    if "inputs" in options:
        raise InputError("induce: gates sit on the inputs, there is no option for that")
    example = x[:2]
    gates = attach(model, example, method=method, inputs=True, target=target, schedule=schedule, **options)
    if not gates.input_gates:
        gates.detach()
        raise InputError("induce: no gate sits on an input (features that are not multiplied by weights cannot leave)")
    fit(model, x, gates)
    if not gates.hardened:
        gates.harden()
    plan = parameter_plan(model, example, inputs=True)
    network = narrow(model, plan, example)
    assert plan.signature is not None
    fit(network, select(x, plan.signature), None)
    return Induced(network.eval(), plan.signature, plan, gates)
