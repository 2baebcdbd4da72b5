"""The networks of the benchmarks: a dense one, the same with masked channels, and the narrow one it is equal to.

Weights are random and BatchNorm statistics too, so that nothing is zero by accident. Which channels are coupled is
decided by Torch-Pruning's dependency groups, not by onnxdam; channels are then drawn at random. Groups that pass
through LayerNorm stay whole (narrowing them is not exact). Vision transformers, which Torch-Pruning cannot take apart,
lose heads and hidden units of their MLPs instead.

Needs the extras `torch` and `bench`; what is missing is said and skipped.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import random
import re
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NEEDED = ("torch", "torchvision", "timm", "torch_pruning", "onnxruntime")
OPSET = 17
CLASSES = 1000


@dataclass(frozen=True)
class Network:
    """Where a network comes from: `zoo` is "tv" (torchvision) or "timm"; images are `side` pixels wide."""

    title: str
    zoo: str
    name: str
    side: int = 224


@dataclass(frozen=True)
class Files:
    """One network as three ONNX files; `narrow` is None where no narrow network was built."""

    dense: Path
    masked: Path
    narrow: Path | None


def missing(names: Sequence[str] = NEEDED) -> list[str]:
    """Those of the packages that are not installed; each is reported on stderr."""
    absent = [name for name in names if importlib.util.find_spec(name) is None]
    for name in absent:
        print(f"SKIPPED: {name} is not installed", file=sys.stderr)
    return absent


def make(network: Network, folder: Path, *, share: float, seed: int) -> Files:
    """Builds, masks, narrows and exports.

    Args:
        network: which.
        folder: where the files go.
        share: of the channels of every group, how many are masked.
        seed: of weights and masks.
    """
    import torch

    _quiet()
    torch.manual_seed(seed)
    drawn = random.Random(seed)
    model, x = build(network)
    _randomise(model.eval())
    stem = f"{network.name}_{round(share * 100)}_{seed}"
    files = Files(folder / f"{stem}_dense.onnx", folder / f"{stem}_masked.onnx", folder / f"{stem}_narrow.onnx")
    _export(model, x, files.dense)
    if "vit" in network.name:
        _mask_transformer(model, share, drawn)
        _export(model, x, files.masked)
        return Files(files.dense, files.masked, None)
    chosen = _choose(model, x, share, drawn)
    _export(_masked(model, x, chosen), x, files.masked)
    assert files.narrow is not None
    _export(_narrow(model, x, chosen), x, files.narrow)
    return files


def cached(network: Network, folder: Path, *, share: float, seed: int) -> Files:
    """As `make`, unless the folder holds the files already."""
    stem = folder / f"{network.name}_{round(share * 100)}_{seed}"
    narrow = Path(f"{stem}_narrow.onnx")
    files = Files(Path(f"{stem}_dense.onnx"), Path(f"{stem}_masked.onnx"), narrow if narrow.exists() else None)
    complete = files.masked.exists() and (files.narrow is not None or "vit" in network.name)
    return files if complete else make(network, folder, share=share, seed=seed)


def build(network: Network) -> tuple[Any, Any]:
    """The network with random weights, and an input. Shapes: (1, 3, side, side)."""
    import torch

    _declare_missing_operators()
    if network.zoo == "tv":
        import torchvision.models as zoo

        model = zoo.get_model(network.name, weights=None)
        if network.name.startswith("vgg"):  # the form for small images: the three large linear layers are one
            model.avgpool, model.classifier = torch.nn.AdaptiveAvgPool2d(1), torch.nn.Linear(512, CLASSES)
    else:
        import timm

        model = timm.create_model(network.name, pretrained=False)
    return model, torch.randn(1, 3, network.side, network.side)


def _quiet() -> None:
    import logging

    warnings.filterwarnings("ignore")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)


def _declare_missing_operators() -> None:
    """The torchvision wheel of PyPI does not import beside CPU torch unless its compiled operators have names."""
    import torch

    with contextlib.suppress(ModuleNotFoundError):
        for _ in range(100):
            try:
                import torchvision.models  # noqa: F401
            except RuntimeError as error:
                absent = re.search(r"operator torchvision::(\w+) does not exist", str(error))
                if absent is None:
                    raise
                library = _LIBRARY.setdefault("torchvision", torch.library.Library("torchvision", "FRAGMENT"))
                library.define(f"{absent.group(1)}(Tensor x) -> Tensor")
                for name in [n for n in sys.modules if n.startswith("torchvision")]:
                    del sys.modules[name]
            else:
                return


_LIBRARY: dict[str, Any] = {}


def _randomise(model: Any) -> None:
    import torch
    from torch import nn

    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.data.normal_(0, 0.1)
            module.running_var.data.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
        elif isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
            module.bias.data.normal_(0, 0.1)
        for name, parameter in module._parameters.items():
            if isinstance(parameter, torch.Tensor) and name in ("gamma", "layer_scale"):
                parameter.data.uniform_(0.2, 1.0)


def _export(model: Any, x: Any, path: Path) -> None:
    import torch

    axes = {"input": {0: "N"}, "output": {0: "N"}}
    torch.onnx.export(
        model, (x,), str(path), dynamo=False, opset_version=OPSET,
        input_names=["input"], output_names=["output"], dynamic_axes=axes,
    )  # fmt: skip


# -- coupled channels --------------------------------------------------------------------------------------------------
Chosen = list[tuple[str, list[int]]]  # the module at the root of a group, and the output channels of it that go


def _remover(module: Any) -> Any:
    import torch_pruning as tp
    from torch import nn

    if isinstance(module, nn.Conv2d):
        depthwise = module.groups > 1 and module.groups == module.out_channels
        return tp.prune_depthwise_conv_out_channels if depthwise else tp.prune_conv_out_channels
    return tp.prune_linear_out_channels


def _is_head(module: Any) -> bool:
    return CLASSES in (getattr(module, "out_features", 0), getattr(module, "out_channels", 0))


def _averages(module: Any) -> bool:
    """Whether the module normalises over channels, or is a bare parameter."""
    from torch import nn

    named = "norm2d" in type(module).__name__.lower() and not isinstance(module, nn.BatchNorm2d)
    return named or isinstance(module, (nn.LayerNorm, nn.GroupNorm, nn.Parameter))


def _choose(model: Any, x: Any, share: float, drawn: random.Random) -> Chosen:
    import torch_pruning as tp
    from torch import nn

    names = {module: name for name, module in model.named_modules()}
    graph = tp.DependencyGraph().build_dependency(model, x)
    heads = [m for m in model.modules() if _is_head(m)]
    chosen = []
    for group in graph.get_all_groups(ignored_layers=heads, root_module_types=[nn.Conv2d, nn.Linear]):
        members = [dependency.target.module for dependency, _ in group]
        if any(_averages(m) for m in members):
            continue
        root = members[0]
        width = root.out_channels if isinstance(root, nn.Conv2d) else root.out_features
        stay = max(width - round(width * share), 1)
        if width > stay:
            chosen.append((names[root], sorted(drawn.sample(range(width), width - stay))))
    return chosen


def _masked(model: Any, x: Any, chosen: Chosen) -> Any:
    """Weights and biases of everything that produces a chosen channel are zero."""
    import torch_pruning as tp

    producers = {tp.prune_conv_out_channels, tp.prune_linear_out_channels,
                 tp.prune_depthwise_conv_out_channels, tp.prune_batchnorm_out_channels}  # fmt: skip
    masked = copy.deepcopy(model)
    twins, names = dict(masked.named_modules()), {m: n for n, m in model.named_modules()}
    graph = tp.DependencyGraph().build_dependency(model, x)
    modules = dict(model.named_modules())
    for name, channels in chosen:
        for dependency, indices in graph.get_pruning_group(modules[name], _remover(modules[name]), channels):
            if dependency.target.module in names and dependency.handler in producers:
                target = twins[names[dependency.target.module]]
                target.weight.data[list(indices)] = 0
                if target.bias is not None:
                    target.bias.data[list(indices)] = 0
    return masked


def _narrow(model: Any, x: Any, chosen: Chosen) -> Any:
    import torch_pruning as tp

    narrow = copy.deepcopy(model)
    modules = dict(narrow.named_modules())
    graph = tp.DependencyGraph().build_dependency(narrow, x)
    for name, channels in chosen:
        graph.get_pruning_group(modules[name], _remover(modules[name]), channels).prune()
    return narrow


def _mask_transformer(model: Any, share: float, drawn: random.Random) -> None:
    """Heads and MLP units of a timm vision transformer."""
    for block in model.blocks:
        attention, mlp = block.attn, block.mlp
        heads, width = attention.num_heads, attention.head_dim
        for head in drawn.sample(range(heads), round(heads * share)):
            for part in range(3):  # queries, keys and values lie one behind the other
                first = (part * heads + head) * width
                attention.qkv.weight.data[first : first + width] = 0
                attention.qkv.bias.data[first : first + width] = 0
        units = mlp.fc1.out_features
        gone = drawn.sample(range(units), round(units * share))
        mlp.fc2.weight.data[:, gone] = 0
