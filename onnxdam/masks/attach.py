"""Puts gates on a network that knows nothing of them.

The network is exported in memory, the analysis that prunes tells which channels are coupled and which weights read
them, and every such weight w counts as w * mask along the axis that is read (see `reading`). A closed gate then means
zero for all who read the channel, wherever it was made; nothing of the network's code changes, and a residual stream, a
concatenation, a depthwise pair or an attention head has one gate. Where the paper's placement is asked for, the weights
that make the channel are masked instead, and their biases.
"""

from __future__ import annotations

import fnmatch
import itertools
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import onnx_ir as ir
import torch
from torch import nn

from onnxdam.errors import InputError
from onnxdam.masks.bernoulli import DiffPrune, HardConcrete
from onnxdam.masks.computed import copy_of, folded, is_computed, names_of, plain, uncover, unhooked
from onnxdam.masks.cost import Cost
from onnxdam.masks.dam import DAM
from onnxdam.masks.example import Example, Inputs, among_tensors, evaluating
from onnxdam.masks.failing import check_network, failing_module, one_line
from onnxdam.masks.gate import Fixed, Gate, along, gates_of, rows_along
from onnxdam.masks.gates import Gates
from onnxdam.masks.groups import Graph, Group, Part, forget_zeros, owner_of
from onnxdam.masks.norms import GroupLasso, NetworkSlimming, Owned, spread
from onnxdam.masks.quiet import quiet
from onnxdam.masks.reading import has_masks, original, owner, put_on, take_off
from onnxdam.masks.schedule import Schedule

NORMS = (nn.modules.batchnorm._BatchNorm,)
METHODS: dict[str, type[Any]] = {
    "dam": DAM,
    "diffprune": DiffPrune,
    "hardconcrete": HardConcrete,
    "grouplasso": GroupLasso,
    "slimming": NetworkSlimming,
}
PLACEMENTS = ("readers", "producers")


class _Draw:
    """Draws noise for all gates before the network runs, so that weights that share a gate see the same."""

    def __init__(self, gates: Sequence[Gate]) -> None:
        self.gates = gates

    def __call__(self, module: nn.Module, args: Any) -> None:
        if module.training:
            for gate in self.gates:
                if gate.noisy:
                    gate.draw()


class AttachedGates(Gates):
    """Gates that sit on the weights of a network; made by `attach`.

    Attributes:
        skipped: module name -> why its channels have no gate.
        input_gates: names of the gates on features of the network's inputs.
    """

    def __init__(self, model: nn.Module, graph: Graph, gates: Mapping[str, Gate], **options: Any) -> None:
        self._model = [model]  # a list: the network is not part of the gates
        self.skipped = dict(graph.skipped)
        self.input_gates = tuple(group.name for group in graph.groups if group.inputs)
        self._parts = [
            (part, gate) for group, gate in zip(graph.groups, gates.values(), strict=True) for part in group.masked
        ]
        super().__init__(gates, **options)
        put_on(model, self._parts)
        self._hook = model.register_forward_pre_hook(_Draw(list(self.all))) if any(g.noisy for g in self.all) else None

    def kept(self) -> dict[str, tuple[int, int]]:
        """Name -> (open slots, slots), inputs first."""
        return dict(sorted(super().kept().items(), key=lambda item: item[0] not in self.input_gates))

    def harden(self) -> None:
        """As `Gates.harden`; what the masks are worth beyond 0 and 1 goes into the weights, so they are binary.

        (Not where a weight is computed from others, as by weight norm, or is frozen: those masks keep their values.)
        """
        super().harden()
        model = self._model[0]
        kept_soft = {gate for part, gate in self._parts if not _is_free(model, part)}
        values = {gate: gate.take_values() for gate in self.all if gate not in kept_soft}
        with torch.no_grad():
            for part, gate in self._parts:
                if gate in kept_soft:
                    continue
                weight = original(model, part.parameter)
                index = torch.from_numpy(part.index)
                weight.mul_(along(spread(values[gate].to(weight.dtype), index), weight.dim(), part.axis))

    def detach(self) -> nn.Module:
        """Takes the gates off: the network is as it was, with the weights as trained, unmasked."""
        return self._leave(masked=False)

    def bake(self) -> nn.Module:
        """Takes the gates off and leaves their effect in the weights: closed channels are read by exact zeros.

        A weight that is computed from others, as by weight norm, is a plain parameter afterwards.
        """
        return self._leave(masked=True)

    def _leave(self, *, masked: bool) -> nn.Module:
        model = self._model[0]
        training = model.training
        model.eval()  # no noise
        uncover(model, masked=masked)
        take_off(model, masked=masked)
        if self._hook is not None:
            self._hook.remove()
        return model.train(training)


def attach(
    model: nn.Module,
    example_inputs: Inputs,
    *,
    method: str = "dam",
    include: str | Sequence[str] = "*",
    exclude: str | Sequence[str] = (),
    inputs: bool = False,
    placement: str = "readers",
    weight: float = 1.0,
    target: Mapping[str, Any] | None = None,
    schedule: Schedule | None = None,
    **options: Any,
) -> AttachedGates:
    """Gates on every group of coupled channels of a network.

    The gates' parameters are the network's from now on (`model.parameters()` has them); optimisers made earlier need
    `optimizer.add_param_group({"params": gates.parameters()})`.

    Args:
        model: is changed in place; `gates.detach()` takes it back.
        example_inputs: what the network can be called with: a tensor, a tuple, a dict of arguments by name, or a tuple
            that ends in such a dict.
        method: "dam", "diffprune", "hardconcrete", "grouplasso" or "slimming".
        include, exclude: a glob, or several, on the names of the modules that make the channels, e.g. "layer1.*".
        inputs: gate the features of the network's inputs as well; DAM closes those in the order of their saliency,
            unless asked for order="index".
        placement: "readers": a closed gate means zero for all who read the channel, behind norms and activations.
            "producers": the gate multiplies what the layers give that make the channel, biases included, before a
            BatchNorm (the paper's Conv-DAM-BatchNorm-ReLU); layers that add to one stream share it. A closed channel is
            a constant then, act(norm(0)), and takes part in the network until `onnxdam.slim` folds the constants into
            what reads them: exactly, but a convolution with padding cannot take them into its bias, so a closed channel
            of the group stays to carry them (several where a stream has other constants from block to block; targets
            do not count them), and `narrow` refuses to fold. Groups of which no channel would leave so (inputs, which
            nothing makes; constants that differ at the edges of a padded average) have their gates at the readers.
        weight, schedule: see `Gates`.
        target: see `Gates`. {"latency": 0.5, "provider": "cpu", "threads": 1}, of which the last two may be left out,
            is measured in ONNX Runtime, batch 1: some widths before training, the chosen ones after it (see `latency`).
        **options: go to every gate, e.g. function="linear".

    Raises:
        InputError: the network cannot be exported, nothing can be gated, or an option does not fit.
    """
    if not isinstance(method, str) or method not in METHODS:
        raise InputError(f"attach: method {method!r} is none of {', '.join(METHODS)}")
    _check(model)
    if has_masks(model):
        raise InputError("attach: the network has gates already; detach them first")
    if placement not in PLACEMENTS:
        raise InputError(f"attach: placement {placement!r} is none of {', '.join(PLACEMENTS)}")
    if placement == "producers" and method == "slimming":
        raise InputError("attach: network slimming closes BatchNorm scales, and has no placement; leave it out")
    graph = find_groups(model, example_inputs, inputs=inputs)
    chosen = _chooser(graph, include, exclude)
    graph.select(chosen, "not asked for")
    if placement == "producers":
        graph.use_producers()
    if method == "slimming":
        graph.select(lambda group: bool(_scales(model, group)), "no BatchNorm scales, which network slimming shrinks")
    elif method == "grouplasso":
        computed = "group lasso shrinks parameters themselves, and these are computed from others"
        graph.select(lambda group: not any(is_computed(model, part.parameter) for part in group.masked), computed)
    if METHODS[method].shrinks:
        owned = partial(_owned, model, method)
        graph.select(lambda group: all(_is_free(model, part) for part in owned(group)), "the weights are frozen")
    if not graph.groups:
        raise InputError(f"attach: nothing can be gated ({_reasons(graph) or 'no coupled channels'})")
    device = next(model.parameters()).device
    gates = {group.name: _make(model, group, method, options).to(device) for group in graph.groups}
    _tell_closed(model, graph)
    cost, target = _cost(graph, target)
    return AttachedGates(model, graph, gates, weight=weight, target=target, schedule=schedule, cost=cost)


@torch.no_grad()
def _tell_closed(model: nn.Module, graph: Graph) -> None:
    """Channels that are read by zeros already, the weights of others not: what an earlier run left."""
    for group in graph.groups:
        alive = torch.zeros(group.n + 1)  # the last one is of no slot
        for part in group.masked:
            weight = original(model, part.parameter)
            alive.index_add_(
                0, torch.from_numpy(part.index) % (group.n + 1), rows_along(weight.abs(), part.axis).cpu().float()
            )
        closed = group.n - int((alive[:-1] > 0).sum())
        if 0 < closed < group.n:
            warnings.warn(
                f"attach: {closed} of {group.n} channels of {group.name} are read by zeros, and count as open until a "
                "gate closes them; narrow the network first to count what is left",
                stacklevel=3,
            )


def _check(model: nn.Module) -> None:
    check_network(model, "attach")
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError("attach: a scripted network cannot be exported; attach gates before it is scripted")
    if any(parameter.is_meta for parameter in model.parameters()):
        raise InputError("attach: weights on the meta device hold no numbers; give them some (model.to_empty)")


def _cost(graph: Graph, target: Mapping[str, Any] | None) -> tuple[Cost, Mapping[str, float] | None]:
    """What gates cost; a target of latency names what it is measured on."""
    if not isinstance(target, Mapping) or "latency" not in target:
        return graph.cost(), target
    from onnxdam.masks.latency import latency  # wants ONNX Runtime

    return latency(graph, target), {"latency": target["latency"]}


def find_groups(model: nn.Module, example_inputs: Inputs | Example, *, inputs: bool = False) -> Graph:
    """The groups of coupled channels of a network, each proved: a closed slot does leave.

    Raises:
        InputError: the network cannot be exported.
    """
    twin = plain(model)
    exported = export_in_memory(twin, Example.of(example_inputs))
    forget_zeros(exported, [name for name, value in twin.named_parameters() if value.requires_grad])
    try:
        graph = Graph(exported, names_of(model), inputs=inputs)
    except Exception as error:  # the exporter writes what ONNX does not know: recurrent cells with projections
        raise InputError(f"the graph that torch's exporter makes cannot be analysed: {one_line(error)}") from error
    values = dict(twin.named_parameters(remove_duplicate=False))
    read = {values[name] for name in graph.read() if name in values}
    runs = {owner_of(name) for name, value in values.items() if value in read}  # by whatever name
    for name in values:
        if owner_of(name) not in runs:
            graph.say(owner_of(name), "it does not run in evaluation")
    return graph


def export_in_memory(model: nn.Module, example: Example) -> ir.Model:
    """The graph of a network as it stands, nothing folded: initializers bear the names of the parameters.

    A batch is cut to one sample where the network allows: sizes that mix batch and channels are then plain.
    """
    with evaluating(model):
        try_out(model, example)
        one = example.single(model)
        try:
            program = _program(model, one)
        except InputError:
            if one is example:
                raise
            program = _program(model, example)  # views that only fail for one sample
    return ir.serde.deserialize_model(program.model_proto)


def _program(model: nn.Module, example: Example) -> Any:
    try:
        names = example.names(model)
        with among_tensors(model, example) as tensors, quiet():
            program = torch.onnx.export(model, tensors, input_names=names, dynamo=True, optimize=False, verbose=False)
            assert program is not None
            without_sequences(program.model)
            unique_names(program.model)
            return program
    except Exception as error:  # the exporter raises whatever the network's code raises under it
        raise InputError(not_exported(model, example, error)) from error


def unique_names(model: ir.Model) -> None:
    """Values inside a graph give way to inputs, outputs and parameters: the exporter gives those their names without
    asking whether a value has them."""
    graph = model.graph
    outer = [*graph.inputs, *graph.outputs]
    taken = {value.name for value in outer} | set(graph.initializers)
    inner = [value for node in graph.all_nodes() for value in node.outputs if value not in outer]
    used = taken | {value.name for value in inner}
    for value in inner:
        if value.name in taken:
            value.name = next(name for i in itertools.count() if (name := f"{value.name}_{i}") not in used)
            used.add(value.name)


def without_sequences(model: ir.Model) -> None:
    """What the exporter writes as sequences of tensors (chunks, pieces) becomes plain splits; nothing is folded."""
    from onnxscript import optimizer

    optimizer.fold_constants(
        model, onnx_shape_inference=False, input_size_limit=0, output_size_limit=0, should_fold=lambda _: False
    )
    optimizer.remove_unused_nodes(model)


def not_exported(model: nn.Module, example: Example, error: Exception) -> str:
    """Which module cannot be exported, and why."""
    with among_tensors(model, example) as tensors, quiet():
        where = failing_module(model, lambda: torch.export.export(model, tensors, strict=False))
    return f"{where} cannot be exported to ONNX: {one_line(error)}"


@torch.no_grad()
def try_out(model: nn.Module, example: Example) -> None:
    """Raises InputError, with the module that is in the way, unless the network runs."""
    try:
        example.run(model)
    except Exception as error:  # whatever the network's code raises
        where = failing_module(model, lambda: example.run(model))
        raise InputError(f"{where} fails on the example inputs, {example}: {one_line(error)}") from error


def baked_copy(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose gates are constants: baked into weights, or hardened where they stand."""
    check_network(model, "export, narrow")
    twin = folded(copy_of(model).eval())
    for key, hook in list(twin._forward_pre_hooks.items()):
        if isinstance(hook, _Draw):
            del twin._forward_pre_hooks[key]
    take_off(twin, masked=True)
    unhooked(twin)
    for path, gate in list(gates_of(twin)):
        if not gate.hardened:
            gate.harden()
        if path:
            parent, name = owner(twin, path)
            setattr(parent, name, Fixed(gate.values, gate.dim))
    return twin


def _chooser(graph: Graph, include: str | Sequence[str], exclude: str | Sequence[str]) -> Callable[[Group], bool]:
    include, exclude = _globs("include", include), _globs("exclude", exclude)
    names = [group.name for group in graph.groups]
    for pattern in (*include, *exclude):
        if not fnmatch.filter(names, pattern) and names:
            raise InputError(f"attach: no group is called {pattern!r}; there are {', '.join(names[:8])}")

    def chosen(group: Group) -> bool:
        return any(fnmatch.fnmatchcase(group.name, p) for p in include) and not any(
            fnmatch.fnmatchcase(group.name, p) for p in exclude
        )

    return chosen


def _globs(name: str, given: str | Sequence[str]) -> list[str]:
    found = [given] if isinstance(given, str) else given
    if not isinstance(found, Sequence) or not all(isinstance(one, str) for one in found):
        raise InputError(f"attach: {name}: a glob on names of modules, or several, not {given!r}")
    return list(found)


def _reasons(graph: Graph) -> str:
    """Why modules have no gate, in a line: each reason once, with some of those that it is said of."""
    names: dict[str, list[str]] = defaultdict(list)
    for name, reason in graph.skipped.items():
        names[reason].append(name)
    said = [f"{', '.join(of[:4])}{' ...' if len(of) > 4 else ''}: {reason}" for reason, of in names.items()]
    return "; ".join(said[:4])


def _is_free(model: nn.Module, part: Part) -> bool:
    """Whether what a gate masks is a parameter that training changes."""
    return not is_computed(model, part.parameter) and original(model, part.parameter).requires_grad


def _owned(model: nn.Module, method: str, group: Group) -> list[Part]:
    """What methods without gate parameters shrink."""
    return group.masked if method == "grouplasso" else _scales(model, group)


def _scales(model: nn.Module, group: Group) -> list[Part]:
    """The BatchNorm scales of a group."""
    return [
        part
        for part in group.members
        if part.parameter.endswith("weight") and isinstance(owner(model, part.parameter)[0], NORMS)
    ]


def _make(model: nn.Module, group: Group, method: str, options: Mapping[str, Any]) -> Gate:
    if method in ("grouplasso", "slimming"):
        parts = _owned(model, method, group)
        owned = [Owned(partial(original, model, p.parameter), p.axis, torch.from_numpy(p.index)) for p in parts]
        options = {"owned": owned} | dict(options)
    if method == "dam" and group.inputs:
        options = {"order": "saliency"} | dict(options)
    try:
        return METHODS[method](group.n, **options)
    except TypeError as error:
        raise InputError(f"attach: {error}") from None
