"""Back to torch: the slim module, or the slim state_dict, of a masked network.

A plan in terms of parameters says which entries of which axis stay. Slicing by it is all there is to do as long as the
channels that leave are read by zeros; where constants would have to be folded into a bias it is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from onnxdam.analysis.forward import Network
from onnxdam.analysis.need import Need
from onnxdam.api import Options, decide
from onnxdam.errors import InputError, UnsupportedError
from onnxdam.features import Manifest, select
from onnxdam.graph import functions, io
from onnxdam.masks.attach import baked_copy, export_in_memory, try_out
from onnxdam.masks.attention import fit_attention
from onnxdam.masks.computed import copy_of
from onnxdam.masks.example import Example, Inputs, distance, tensors_of
from onnxdam.masks.failing import failing_module, one_line
from onnxdam.masks.origin import Origin, all_along_parameter, origins
from onnxdam.masks.widths import Sizes, follow
from onnxdam.plan import Plan

Kept = Mapping[int, tuple[int, ...]]  # axis -> entries that stay
CLOSE, CLOSE_IN_DOUBLE = 1e-4, 1e-8  # to what the network gave, relative to the largest number of an output


def parameter_plan(model: nn.Module, example_inputs: Inputs, *, inputs: bool = False) -> Plan:
    """The plan of a network with hardened gates (or zeros in its weights), by the names of its state_dict.

    Args:
        model: the network, with or without its gates; not changed.
        example_inputs: what it can be called with.
        inputs: features of the inputs that nobody reads leave, too. `plan.signature` is then the manifest of what
            stays, and `onnxdam.features.select(x, plan.signature)` the data that the slim network takes.

    Raises:
        InputError: the network cannot be exported.
    """
    example, twin = Example.of(example_inputs), baked_copy(model)
    exported = export_in_memory(twin, example)
    working = functions.inline(exported.clone())
    need, whole = decide(working, Options(align="none", inputs=inputs), io.fingerprint(exported))
    network = need.network
    state = twin.state_dict(keep_vars=True)
    kept = _kept_entries(network, need, {name: tuple(value.shape) for name, value in state.items()})
    for name, value in state.items():  # of a weight that layers share, the graph knows one name
        kept |= {other: kept[name] for other, same in state.items() if same is value and name in kept}
    signature = None if whole.signature is None else _any_batch(whole.signature)
    options = {"inputs": True} if inputs else {}
    return Plan(whole.fingerprint, options, kept, whole.constant, whole.absorbed, signature=signature)


def _any_batch(signature: Manifest) -> Manifest:
    """The network was exported for one sample, or as many as there are in the example: any number will do."""
    free = [replace(item, shape=_free(item.shape), slim_shape=_free(item.slim_shape)) for item in signature.inputs]
    return replace(signature, inputs=tuple(free))


def _free(shape: Any) -> Any:
    return (None, *shape[1:]) if shape else shape


def narrow(model: nn.Module, plan: Plan, example_inputs: Inputs | None = None) -> nn.Module:
    """The slim network: parameters sliced, attributes of standard layers (in_channels, num_features ...) brought along.

    Args:
        model: the network the plan was made of, with or without gates; not changed.
        plan: of `parameter_plan`.
        example_inputs: where given, the slim network is run on them, and has to give what the model gives. Numbers that
            modules keep for themselves (num_heads, all_head_size ...) are brought along only then.

    Returns:
        A copy without gates, in evaluation mode.

    Raises:
        UnsupportedError: a layer, a fold or a width written into a forward function cannot be followed; says which.
        InputError: the plan belongs to another network.
    """
    if not isinstance(plan, Plan):
        raise InputError(f"narrow: a plan of parameter_plan is wanted, not {type(plan).__name__}")
    if plan.constant and example_inputs is None:
        raise UnsupportedError(f"narrow: {plan.constant[0]} is constant altogether; give inputs to check the result on")
    slim = baked_copy(model)
    shapes = {name: tuple(value.shape) for name, value in slim.state_dict().items()}
    state = narrow_state(slim.state_dict(), plan)
    for path, module in slim.named_modules():
        names = {name: f"{path}.{name}".lstrip(".") for name, _ in _tensors(module)}
        found = {name: plan.kept[full] for name, full in names.items() if full in plan.kept}
        if found:
            _resize(module, {name: state[full] for name, full in names.items() if full in state}, found, path)
    if example_inputs is not None:
        example, whole = Example.of(example_inputs), baked_copy(model)
        try_out(whole, example)
        sizes = {
            name: {axis: (shapes[name][axis], kept) for axis, kept in axes.items()}
            for name, axes in plan.kept.items()
            if name in shapes
        }
        _check(whole, slim, sizes, example, narrow_example(example, plan))
    return slim


def narrow_example(example: Example, plan: Plan) -> Example:
    """What the slim network takes, from what the network took; inputs that nobody reads stay as they are.

    Raises:
        InputError: the data do not fit.
    """
    signature = plan.signature
    if signature is None:
        return example
    items, given = signature.inputs, len(example.tensors)
    if len(items) != given:
        raise InputError(f"narrow: the network has {len(items)} inputs in the plan, and {given} were given")
    rest = iter(items)

    def taken(tensor: Tensor) -> Tensor:
        item = next(rest)
        return tensor if item.left else select(tensor, signature, item.name)

    return example.map(taken)


def narrow_state(state: Mapping[str, Tensor], plan: Plan) -> dict[str, Tensor]:
    """The slim state_dict; its tensors are copies where they are narrower.

    Args:
        state: of the bare network (`gates.bake()` first where it has gates).
        plan: of `parameter_plan`.

    Raises:
        UnsupportedError: constants would have to be folded.
        InputError: the plan belongs to another network.
    """
    if plan.absorbed:
        raise UnsupportedError(
            f"narrow: channels that leave are not zero but constants, which {plan.absorbed[0].node} would have to "
            "absorb; slim the exported file instead"
        )
    if plan.kept and not any(name in state for name in plan.kept):
        raise InputError("narrow: the plan names no parameter of this network; make it with parameter_plan")
    slim = dict(state)
    for name, axes in plan.kept.items():
        for axis, kept in axes.items() if name in state else ():
            value = slim[name]
            if axis >= value.dim() or max(kept, default=0) >= value.shape[axis]:
                raise InputError(f"narrow: the plan does not fit {name} of shape {tuple(value.shape)}")
            slim[name] = value.index_select(axis, torch.tensor(kept, device=value.device))
    return slim


def _kept_entries(
    network: Network, need: Need, shapes: Mapping[str, Sequence[int]]
) -> dict[str, dict[int, tuple[int, ...]]]:
    """Entries that nobody looks at (positions beyond the example's) stay as well: a forward function counts on them."""
    masks: dict[tuple[str, int], np.ndarray] = {}
    for op in network.active():
        for tensor in op.ins:
            for origin in origins(tensor) if tensor is not None and tensor.is_known else ():
                for i in range(tensor.rank if tensor is not None and origin.name in shapes else 0):
                    _note(masks, need if op in need.running else None, tensor, i, origin, shapes[origin.name])
    kept: dict[str, dict[int, tuple[int, ...]]] = {}
    for (name, axis), (seen, mask) in masks.items():
        if not mask[seen].all():
            kept.setdefault(name, {})[axis] = tuple(np.flatnonzero(mask | ~seen).tolist())
    return kept


def _note(
    masks: dict[tuple[str, int], np.ndarray],
    need: Need | None,
    tensor: Any,
    axis: int,
    origin: Origin,
    shape: Sequence[int],
) -> None:
    """Which entries of a parameter an axis of a tensor shows, and of which it says that they stay."""
    if tensor.axes[axis].n == 1:
        return
    for along, entry in all_along_parameter(tensor, axis, shape, origin.places):
        mine = entry >= 0
        seen, mask = masks.setdefault((origin.name, along), np.zeros((2, shape[along]), bool))
        seen[entry[mine]] = True
        if need is not None:
            mask[entry[mine & need.kept(tensor.axes[axis])]] = True


# -- modules -----------------------------------------------------------------------------------------------------------
def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(recurse=False)
    yield from module.named_buffers(recurse=False)


def _resize(module: nn.Module, values: Mapping[str, Tensor], kept: Mapping[str, Kept], path: str) -> None:
    fit = next((fit for kind, fit in _FITS if isinstance(module, kind)), None)
    if fit is None and type(module).__module__.startswith("torch.nn"):
        raise UnsupportedError(f"narrow: {path} is a {type(module).__name__}, whose sizes cannot be changed")
    if fit is not None:
        try:
            fit(module, values, kept)
        except KeyError as error:
            raise UnsupportedError(f"narrow: {path} ({type(module).__name__}) has no parameter {error}") from error
    for name, value in values.items():
        if name in module._parameters:
            module._parameters[name] = nn.Parameter(value.clone(), module._parameters[name].requires_grad)
        else:
            module._buffers[name] = value.clone()
    if isinstance(module, nn.RNNBase):
        module._init_flat_weights()


def _fit_linear(module: Any, values: Mapping[str, Tensor], kept: Mapping[str, Kept]) -> None:
    module.out_features, module.in_features = values["weight"].shape


def _fit_conv(module: Any, values: Mapping[str, Tensor], kept: Mapping[str, Kept]) -> None:
    """A grouped convolution loses whole groups, or equally many channels of each."""
    first, second = values["weight"].shape[:2]
    if module.groups > 1 and 1 not in kept.get("weight", {}):
        per_group = module.weight.shape[0] // module.groups
        groups = len({i // per_group for i in kept["weight"][0]})
        module.groups = groups if first == groups * per_group else module.groups
    sizes = (first, second * module.groups)
    module.in_channels, module.out_channels = sizes if module.transposed else sizes[::-1]


def _fit_norm(module: Any, values: Mapping[str, Tensor], kept: Mapping[str, Kept]) -> None:
    module.num_features = len(next(v for v in values.values() if v.dim()))


def _fit_group_norm(module: Any, values: Mapping[str, Tensor], kept: Mapping[str, Kept]) -> None:
    per_group = module.num_channels // module.num_groups
    module.num_channels = len(values["weight"])
    module.num_groups = len({i // per_group for i in kept["weight"][0]})


def _fit_embedding(module: Any, values: Mapping[str, Tensor], kept: Mapping[str, Kept]) -> None:
    module.num_embeddings, module.embedding_dim = values["weight"].shape


def _fit_prelu(module: Any, values: Mapping[str, Tensor], kept: Mapping[str, Kept]) -> None:
    module.num_parameters = len(values["weight"])


def _fit_recurrent(module: Any, values: Mapping[str, Tensor], kept: Mapping[str, Kept]) -> None:
    """All layers and directions have one hidden size."""
    hidden = {value.shape[1] for name, value in values.items() if name.startswith("weight_hh")}
    if len(hidden) > 1 or module.proj_size:
        kind = type(module).__name__
        raise UnsupportedError(f"narrow: layers or directions of one {kind} keep different hidden sizes")
    (module.hidden_size,), module.input_size = hidden, values["weight_ih_l0"].shape[1]


def _fit_cell(module: Any, values: Mapping[str, Tensor], kept: Mapping[str, Kept]) -> None:
    module.input_size, module.hidden_size = values["weight_ih"].shape[1], values["weight_hh"].shape[1]


def _fit_bilinear(module: Any, values: Mapping[str, Tensor], kept: Mapping[str, Kept]) -> None:
    module.out_features, module.in1_features, module.in2_features = values["weight"].shape


def _fits(module: Any, values: Mapping[str, Tensor], kept: Mapping[str, Kept]) -> None:
    """There are no sizes but those of the tensors."""


_FITS: list[tuple[Any, Callable[[Any, Mapping[str, Tensor], Mapping[str, Kept]], None]]] = [
    (nn.modules.linear.NonDynamicallyQuantizableLinear, _fit_linear),
    (nn.Linear, _fit_linear),
    (nn.modules.conv._ConvNd, _fit_conv),
    (nn.modules.batchnorm._NormBase, _fit_norm),
    (nn.GroupNorm, _fit_group_norm),
    (nn.Bilinear, _fit_bilinear),
    (nn.Embedding, _fit_embedding),
    (nn.EmbeddingBag, _fit_embedding),
    (nn.PReLU, _fit_prelu),
    (nn.RNNBase, _fit_recurrent),
    (nn.RNNCellBase, _fit_cell),
    (nn.ParameterList, _fits),
    (nn.ParameterDict, _fits),
    (nn.MultiheadAttention, fit_attention),
]


# -- proof -------------------------------------------------------------------------------------------------------------
def _check(model: nn.Module, slim: nn.Module, sizes: Sizes, example: Example, slim_example: Example) -> None:
    """The slim network runs and gives the same, in double precision where that can be had."""
    with torch.no_grad():
        failed = follow(
            slim, sizes, lambda: slim_example.run(slim), lambda: _same(model, slim, example, slim_example)[0]
        )
        if failed is not None:
            where = failing_module(slim, lambda: slim_example.run(slim))
            raise UnsupportedError(
                f"narrow: the forward function of {where} does not follow the new widths: {one_line(failed, 160)}"
            ) from failed
        same, off = _same(model, slim, example, slim_example)
    if not same:
        raise UnsupportedError(
            f"narrow: the slim module gives other results (off by {off:.1g} of the largest), a forward function has a "
            "width written down"
        )


def _same(model: nn.Module, slim: nn.Module, example: Example, slim_example: Example) -> tuple[bool, float]:
    try:
        off, close = distance(_double(model, example), _double(slim, slim_example)), CLOSE_IN_DOUBLE
    except Exception:  # written for one precision
        off, close = distance(tensors_of(example.run(model)), tensors_of(slim_example.run(slim))), CLOSE
    return off <= close, off


def _double(model: nn.Module, example: Example) -> dict[str, Tensor]:
    twin = copy_of(model).double()
    return tensors_of(example.map(lambda t: t.double() if t.is_floating_point() else t).run(twin))
