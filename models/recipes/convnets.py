"""Convolutional networks of the pruning literature, for small images.

    LeNet-5-Caffe      20-50-800-500 on MNIST: two 5x5 convolutions, two linear layers, 431 thousand parameters
    PreResNet-20/56    pre-activation, basic blocks of 16, 32, 64 channels (He et al., arXiv 1603.05027)
    PreResNet-164      the same with bottleneck blocks; gates after the stem and every convolution of a block, before
                       BatchNorm and ReLU, as the authors of discriminative masking have it (arXiv 2110.00684)
    VGG-16/19-BN       the variant for CIFAR: 13 or 16 convolutions, one linear layer (arXiv 1409.1556)
    ResNet-18          a 3x3 stem without pooling for images below 64 pixels, else of stride 2 (arXiv 1512.03385)

Their inputs are images with zero mean and unit variance per colour (LeNet: in [0, 1]).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from onnxdam.masks import DAM

from .classifier import Classifier, wrong
from .data import Classes, load_classes
from .recipe import Settings, Split

VGG_PLANS = {
    16: (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512),
    19: (64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0, 512, 512, 512, 512, 0, 512, 512, 512, 512),
}
DEEP = 110  # PreResNets of that depth have bottlenecks


# -- networks ----------------------------------------------------------------------------------------------------------
def lenet_5(colours: int = 1, classes: int = 10, size: int = 28) -> nn.Sequential:
    """LeNet-5-Caffe for square images; of 28x28 pixels, 800 features reach the linear layers.

    Images below 16 pixels get padded 3x3 convolutions: they would not last through 5x5.
    """
    kernel, padding = (5, 0) if size >= 16 else (3, 1)
    loss = kernel - 1 - 2 * padding
    left = ((size - loss) // 2 - loss) // 2
    return nn.Sequential(
        nn.Conv2d(colours, 20, kernel, padding=padding),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 50, kernel, padding=padding),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(50 * left**2, 500),
        nn.ReLU(),
        nn.Linear(500, classes),
    )


def vgg(depth: int, colours: int = 3, classes: int = 10) -> nn.Sequential:
    """VGG-16-BN or VGG-19-BN for images of 32 pixels or fewer."""
    layers: list[nn.Module] = []
    channels = colours
    for width in VGG_PLANS[depth]:
        if width:
            layers += [_conv(channels, width, 3), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        else:
            layers.append(nn.MaxPool2d(2, ceil_mode=True))  # 8x8 images last to the end
    return _initialised(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)))


class PreBlock(nn.Module):
    """x + convolutions(x), each after BatchNorm and ReLU; the shortcut is a 1x1 convolution where shapes differ.

    Args:
        inputs: channels of x.
        widths: outputs of the convolutions.
        kernels: their sizes.
        stride: of the first 3x3 convolution.
        shortcut: whether x needs one.
    """

    def __init__(
        self, inputs: int, widths: tuple[int, ...], kernels: tuple[int, ...], stride: int, shortcut: bool
    ) -> None:
        super().__init__()
        self.norms, self.convs, self.gates = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        channels = inputs
        for i, (width, kernel) in enumerate(zip(widths, kernels, strict=True)):
            self.norms.append(nn.BatchNorm2d(channels))
            self.convs.append(_conv(channels, width, kernel, stride if i == kernels.index(3) else 1))
            self.gates.append(nn.Identity())
            channels = width
        self.shortcut = _conv(inputs, channels, 1, stride) if shortcut else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Shape (samples, inputs, height, width) to (samples, widths[-1], height / stride, width / stride)."""
        y = x
        for norm, conv, gate in zip(self.norms, self.convs, self.gates, strict=True):
            y = gate(conv(torch.relu(norm(y))))
        result: Tensor = self.shortcut(x) + y
        return result


def preresnet(depth: int, colours: int = 3, classes: int = 10) -> nn.Sequential:
    """PreResNet of depth 6n + 2 (basic blocks) or, from 110 on, 9n + 2 (bottlenecks)."""
    deep = depth >= DEEP
    per_stage, rest = divmod(depth - 2, 9 if deep else 6)
    if rest or per_stage < 1:
        raise ValueError(f"there is no PreResNet of depth {depth}")
    channels, layers = 16, [_conv(colours, 16, 3), nn.Identity()]
    for stage, width in enumerate((16, 32, 64)):
        out = 4 * width if deep else width
        for block in range(per_stage):
            stride = 2 if stage and not block else 1
            widths, kernels = ((width, width, out), (1, 3, 1)) if deep else ((width, out), (3, 3))
            layers.append(PreBlock(channels, widths, kernels, stride, shortcut=channels != out or stride > 1))
            channels = out
    layers += [nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]
    return _initialised(nn.Sequential(*layers))


def place_dam(network: nn.Sequential) -> None:
    """Puts a DAM after the stem and every convolution of the blocks of a PreResNet, before BatchNorm."""
    network[1] = DAM(network[0].out_channels)
    for block in network:
        if isinstance(block, PreBlock):
            for i, conv in enumerate(block.convs):
                block.gates[i] = DAM(conv.out_channels)


class Block(nn.Module):
    """ReLU(x + two 3x3 convolutions with BatchNorm); a 1x1 convolution on the shortcut where shapes differ."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = _conv(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.norm2 = _conv(outputs, outputs, 3), nn.BatchNorm2d(outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut = (
            nn.Identity() if same else nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Shape (samples, inputs, height, width) to (samples, outputs, height / stride, width / stride)."""
        y = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))


def resnet_18(colours: int = 3, classes: int = 10, size: int = 32) -> nn.Sequential:
    """ResNet-18 for images of 32 to 64 pixels; from 64 on the stem has stride 2."""
    layers: list[nn.Module] = [_conv(colours, 64, 3, 2 if size >= 64 else 1), nn.BatchNorm2d(64), nn.ReLU()]
    channels = 64
    for width, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [Block(channels, width, stride), Block(width, width, 1)]
        channels = width
    return _initialised(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)))


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


def _initialised(network: nn.Sequential) -> nn.Sequential:
    """With weights that keep the variance through ReLUs (He et al., arXiv 1502.01852)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network


# -- recipes -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class ImageRecipe(Classifier):
    """Classification of small images.

    Attributes:
        kind: "lenet", "preresnet", "vgg" or "resnet".
        depth: of the networks that come in several.
        shift: training images move by up to so many pixels in both directions.
        flip: and every other one is mirrored.
        sgd: momentum 0.9 and a learning rate that falls to a tenth twice, when masks are binary; else Adam. What is
            left of a network has to adapt: where the rate falls at half and three quarters of the run, as for dense
            networks, short runs lose several times as much.
    """

    kind: str = "lenet"
    depth: int = 0
    shift: int = 0
    flip: bool = False
    sgd: bool = False

    def load(self, path: str | Path | None, seed: int = 0) -> Classes:
        data = load_classes(path, image=True)
        return data if self.kind == "lenet" else _normalised(data)

    def network(self, data: Classes) -> nn.Module:
        return self._network(data).to(memory_format=torch.channels_last)  # faster, on CPU and CUDA

    def _network(self, data: Classes) -> nn.Module:
        colours, (height, size) = data.features, data.x_train.shape[2:]
        if self.kind == "lenet":
            if height != size:
                raise ValueError("images must be square")
            return lenet_5(colours, data.classes, size)
        if self.kind == "resnet":
            return resnet_18(colours, data.classes, size)
        return (vgg if self.kind == "vgg" else preresnet)(self.depth, colours, data.classes)

    def augment(self, x: Tensor) -> Tensor:
        return augmented(x, self.shift, self.flip)

    def metric(self, network: nn.Module, data: Classes, split: Split) -> float:
        return wrong(network, getattr(data, f"x_{split}"), getattr(data, f"y_{split}"), 250)

    def place(self, network: nn.Module, settings: Settings) -> bool:
        if self.depth < DEEP or settings.method != "dam" or not settings.by_number:
            return False
        assert isinstance(network, nn.Sequential)
        place_dam(network)
        return True

    def optimizer(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(groups, lr, momentum=0.9) if self.sgd else torch.optim.Adam(groups, lr)

    def lr_factor(self, progress: float) -> float:
        if self.sgd:
            return 1.0 if progress < 0.75 else 0.1 if progress < 0.9 else 0.01
        return (1 + math.cos(math.pi * progress)) / 2 + 0.01


def _normalised(data: Classes) -> Classes:
    """Zero mean and unit variance per colour, as the training images have them."""
    mean = data.x_train.mean((0, 2, 3), keepdim=True)
    std = data.x_train.std((0, 2, 3), keepdim=True).clamp(min=1e-3)
    x_train, x_valid, x_test = ((x - mean) / std for x in (data.x_train, data.x_valid, data.x_test))
    return dataclasses.replace(data, x_train=x_train, x_valid=x_valid, x_test=x_test)


def augmented(x: Tensor, shift: int, flip: bool) -> Tensor:
    """Images moved by up to `shift` pixels, zeros moving in, and half of them mirrored; shape as x."""
    if not shift and not flip:
        return x
    n, _, height, width = x.shape
    padded = nn.functional.pad(x, [shift] * 4)
    offsets = torch.randint(0, 2 * shift + 1, (2, n, 1))
    rows, columns = offsets[0] + torch.arange(height), offsets[1] + torch.arange(width)
    if flip:
        columns = torch.where(torch.rand(n, 1) < 0.5, columns.flip(1), columns)
    rows, columns = rows.to(x.device), columns.to(x.device)
    samples = torch.arange(n, device=x.device)[:, None, None]
    return padded[samples, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


_IMAGES = "images as MNIST or CIFAR-10 (arrays or JPEG archive); else the digits of scikit-learn"
_CIFAR = Settings(epochs=200, batch=128, lr=0.05, gate_lr=1.0, decay=5e-4, cold=0.1, ramp=0.5, harden=0.7)

#: gates that drop half of every layer from the start are too much noise for networks of many layers
_DEEP = {"hardconcrete": {"drop": 0.1}}


def _recipes() -> Iterator[ImageRecipe]:
    yield ImageRecipe(
        name="lenet-5",
        about="LeNet-5-Caffe, 20-50-800-500",
        data=_IMAGES,
        settings=Settings(epochs=30, batch=128, lr=1e-3, target={"macs": 0.065}),
        kind="lenet",
    )
    for depth in (20, 56, 164):
        settings = dataclasses.replace(_CIFAR, target={"macs": 0.5})
        if depth == 164:  # as arXiv 2110.00684: all of a fixed weight after the cold start, gates as the authors
            settings = dataclasses.replace(_CIFAR, weight=0.2, decay=1e-3, ramp=_CIFAR.cold)
        yield ImageRecipe(
            name=f"preresnet-{depth}",
            about=f"PreResNet-{depth}",
            data=_IMAGES,
            settings=settings,
            kind="preresnet",
            depth=depth,
            shift=4,
            flip=True,
            sgd=True,
            options=_DEEP,
        )
    for depth in (16, 19):
        yield ImageRecipe(
            name=f"vgg-{depth}",
            about=f"VGG-{depth}-BN for small images",
            data=_IMAGES,
            settings=dataclasses.replace(_CIFAR, target={"macs": 0.3}),
            kind="vgg",
            depth=depth,
            shift=4,
            flip=True,
            sgd=True,
            options=_DEEP,
        )
    yield ImageRecipe(
        name="resnet-18",
        about="ResNet-18 for images of 32 to 64 pixels",
        data="images as CIFAR-10 or Caltech-101 (arrays or JPEG archive); else the digits of scikit-learn",
        settings=dataclasses.replace(_CIFAR, target={"macs": 0.3}),
        kind="resnet",
        shift=4,
        flip=True,
        sgd=True,
        options=_DEEP,
    )


RECIPES = tuple(_recipes())
