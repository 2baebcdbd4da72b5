"""Pairs of small convolutional networks: the constructs that channel pruners get wrong or leave alone."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from .embed import Death, Label
from .pairs import ALL, Pair, make, pair

IMAGE = {"x": {0: "batch"}}


def image(channels: int = 3, side: int = 8) -> dict[str, torch.Tensor]:
    return {"x": torch.randn(2, channels, side, side)}


def conv(name: str, out: str, into: str, k: int | str = 3) -> dict[str, str]:
    """Spec of a convolution: `out` and `into` are whole axis texts, with roles."""
    kernel = k if isinstance(k, str) else f"{k} {k}"
    return {f"{name}.weight": f"{out} {into} {kernel}", f"{name}.bias": out}


def norm(name: str, axis: str) -> dict[str, str]:
    """Spec of a BatchNorm over a produced axis."""
    return {f"{name}.weight": axis, f"{name}.bias": axis, f"{name}.running_*": axis.replace("+", "=")}


def linear(name: str, out: str, into: str) -> dict[str, str]:
    return {f"{name}.weight": f"{out} {into}", f"{name}.bias": out}


def labels_of(death: Death, **sizes: tuple[int, int]) -> dict[str, Label]:
    return {name: Label(narrow, wide, death) for name, (narrow, wide) in sizes.items()}


class UNet(nn.Module):
    """One level down and up, ConvTranspose, skip concat."""

    def __init__(self, a: int, b: int, c: int, d: int):
        super().__init__()
        self.enter, self.down = nn.Conv2d(3, a, 3, padding=1), nn.Conv2d(a, b, 3, stride=2, padding=1)
        self.norm, self.up = nn.BatchNorm2d(b), nn.ConvTranspose2d(b, c, 2, stride=2)
        self.merge, self.out = nn.Conv2d(a + c, d, 3, padding=1), nn.Conv2d(d, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip = F.relu(self.enter(x))
        y = F.relu(self.up(F.relu(self.norm(self.down(skip)))))
        return self.out(F.relu(self.merge(torch.cat([skip, y], 1))))


@pair()
def unet(death: Death) -> Pair:
    labels = labels_of(death, a=(3, 6), b=(4, 9), c=(2, 5), d=(3, 7))
    spec = (
        conv("enter", "+a", "3")
        | conv("down", "+b", "-a")
        | norm("norm", "+b")
        | conv("merge", "+d", "-a|-c")
        | conv("out", "2", "-d", 1)
        | {"up.weight": "-b +c 2 2", "up.bias": "+c"}
    )
    return make(UNet(3, 4, 2, 3), UNet(6, 9, 5, 7), spec, labels, image(), IMAGE)


class ConvNorm(nn.Module):
    """Convolution, BatchNorm, SiLU."""

    def __init__(self, into: int, out: int, k: int, groups: int = 1, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(into, out, k, stride, k // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.silu(self.norm(self.conv(x)))


def conv_norm(name: str, out: str, into: str, k: int = 3) -> dict[str, str]:
    return {f"{name}.conv.weight": f"{out} {into} {k} {k}"} | norm(f"{name}.norm", out)


class YoloNeck(nn.Module):
    """C2f (chunk, residual bottlenecks, concat of everything), SPPF, upsampling, concat with an earlier map."""

    def __init__(self, stem: int, c: int, hidden: int, out: int, s: int, t: int):
        super().__init__()
        self.stem, self.cv1 = ConvNorm(3, stem, 3), ConvNorm(stem, 2 * c, 1)
        self.b1, self.b2 = ConvNorm(c, hidden, 3), ConvNorm(hidden, c, 3)
        self.cv2 = ConvNorm(3 * c, out, 1, stride=2)
        self.s1, self.s2 = ConvNorm(out, s, 1), ConvNorm(4 * s, t, 1)
        self.head = nn.Conv2d(t + stem, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        early = self.stem(x)
        y = list(self.cv1(early).chunk(2, 1))
        y.append(y[-1] + self.b2(self.b1(y[-1])))
        z = self.s1(self.cv2(torch.cat(y, 1)))
        pools = [z]
        for _ in range(3):
            pools.append(F.max_pool2d(pools[-1], 5, 1, 2))
        z = F.interpolate(self.s2(torch.cat(pools, 1)), scale_factor=2.0, mode="nearest")
        return self.head(torch.cat([z, early], 1))


@pair()
def yolo_neck(death: Death) -> Pair:
    labels = labels_of(death, stem=(4, 7), c0=(3, 6), c1=(3, 6), hidden=(2, 5), out=(4, 9), s=(3, 5), t=(2, 4))
    spec = (
        conv_norm("stem", "+stem", "3")
        | conv_norm("cv1", "+c0|+c1", "-stem", 1)
        | conv_norm("b1", "+hidden", "-c1")
        | conv_norm("b2", "+c1", "-hidden")
        | conv_norm("cv2", "+out", "-c0|-c1|-c1", 1)
        | conv_norm("s1", "+s", "-out", 1)
        | conv_norm("s2", "+t", "-s|-s|-s|-s", 1)
        | conv("head", "5", "-t|-stem", 1)
    )
    return make(YoloNeck(4, 3, 2, 4, 3, 2), YoloNeck(7, 6, 5, 9, 5, 4), spec, labels, image(), IMAGE)


class ShuffleUnit(nn.Module):
    """ShuffleNetV2's unit: half of the channels pass, the other half is convolved, then both are interleaved."""

    def __init__(self, half: int, hidden: int):
        super().__init__()
        self.pw1, self.dw = ConvNorm(half, hidden, 1), ConvNorm(hidden, hidden, 3, groups=hidden)
        self.pw2 = ConvNorm(hidden, half, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        passed, x = x.chunk(2, 1)
        x = torch.cat([passed, self.pw2(self.dw(self.pw1(x)))], 1)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class ShuffleNet(nn.Module):
    def __init__(self, half: int, hidden: int):
        super().__init__()
        self.stem, self.one, self.two = ConvNorm(3, 2 * half, 3), ShuffleUnit(half, hidden), ShuffleUnit(half, hidden)
        self.out = nn.Conv2d(2 * half, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.two(self.one(self.stem(x))))


@pair()
def channel_shuffle(death: Death) -> Pair:
    """Positions must be such that both halves, before and after each shuffle, lose the same slots."""
    labels = labels_of(death, p=(4, 8), t=(4, 8), q=(4, 8), r=(4, 8), last=(8, 16), h1=(3, 6), h2=(3, 6))
    low = torch.randperm(4)[:2].sort().values
    high = torch.randperm(4)[:2].sort().values
    labels["p"].place(torch.cat([low, high + 4]))  # the two pieces of the first concat
    interleaved = [torch.stack([2 * part, 2 * part + 1], 1).reshape(-1) for part in (low, high)]
    labels["q"].place(interleaved[0])  # first half after the shuffle, so also the pieces of the second concat
    labels["r"].place(interleaved[1])  # second half after the shuffle
    labels["last"].place(torch.stack([2 * interleaved[0], 2 * interleaved[0] + 1], 1).reshape(-1))
    if death is not Death.PRODUCER:  # what happens to a slot on its way is the same for each of its names
        for name in ("p", "q", "r", "last"):
            labels[name].death = Death.PRODUCER
    spec = (
        conv_norm("stem", "+p|+t", "3")
        | conv_norm("one.pw1", "+h1", "-t", 1)
        | conv_norm("one.dw", "+h1", "1")
        | conv_norm("one.pw2", "+p", "-h1", 1)
        | conv_norm("two.pw1", "+h2", "-r", 1)
        | conv_norm("two.dw", "+h2", "1")
        | conv_norm("two.pw2", "+q", "-h2", 1)
        | conv("out", "5", "-last", 1)
    )
    return make(ShuffleNet(4, 3), ShuffleNet(8, 6), spec, labels, image(), IMAGE)


class Res2Net(nn.Module):
    """Four equal splits, each convolved after the previous one's result is added."""

    def __init__(self, width: int):
        super().__init__()
        self.width = width
        self.enter, self.out = nn.Conv2d(3, 4 * width, 1), nn.Conv2d(4 * width, 5, 1)
        self.inner = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = torch.split(F.relu(self.enter(x)), self.width, 1)
        done = []
        for i, inner in enumerate(self.inner):
            done.append(F.relu(inner(parts[i] if i == 0 else done[-1] + parts[i])))
        return self.out(torch.cat([*done, parts[3]], 1))


@pair()
def res2net_splits(death: Death) -> Pair:
    labels = labels_of(death, e=(3, 6), a=(3, 6), b=(3, 6), c=(3, 6), d=(3, 6))
    spec = (
        conv("enter", "+e|+a|+b|+d", "3", 1)
        | conv("inner.0", "+a", "-e")
        | conv("inner.1", "+b", "-a")
        | conv("inner.2", "+c", "-b")
        | conv("out", "5", "-a|-b|-c|-d", 1)
    )
    return make(Res2Net(3), Res2Net(6), spec, labels, image(), IMAGE)


class MixedKernels(nn.Module):
    """MixNet: unequal splits, depthwise kernels of different size, concat, squeeze-and-excitation, project."""

    def __init__(self, a: int, b: int, squeeze: int):
        super().__init__()
        self.split = [a, b]
        self.expand = ConvNorm(3, a + b, 1)
        self.k3, self.k5 = nn.Conv2d(a, a, 3, padding=1, groups=a), nn.Conv2d(b, b, 5, padding=2, groups=b)
        self.reduce, self.excite = nn.Conv2d(a + b, squeeze, 1), nn.Conv2d(squeeze, a + b, 1)
        self.project = nn.Conv2d(a + b, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = torch.split(self.expand(x), self.split, 1)
        x = torch.cat([self.k3(a), self.k5(b)], 1)
        gate = self.excite(F.silu(self.reduce(x.mean((2, 3), keepdim=True)))).sigmoid()
        return self.project(x * gate)


@pair(deaths=ALL)
def mixed_kernels_and_squeeze(death: Death) -> Pair:
    outer = Death.PRODUCER if death is Death.CONSTANT else death
    labels = labels_of(outer, a=(3, 7), b=(2, 6)) | labels_of(death, s=(2, 5))
    spec = (
        conv_norm("expand", "+a|+b", "3", 1)
        | conv("k3", "+a", "1")
        | conv("k5", "+b", "1", 5)
        | conv("reduce", "+s", "-a|-b", 1)
        | conv("excite", "=a|=b", "-s", 1)
        | conv("project", "4", "-a|-b", 1)
    )
    return make(MixedKernels(3, 2, 2), MixedKernels(7, 6, 5), spec, labels, image(), IMAGE)


class SelectiveKernel(nn.Module):
    """Two branches weighted by a softmax over the branches, per channel."""

    def __init__(self, width: int, squeeze: int):
        super().__init__()
        self.width = width
        self.k3, self.k5 = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(3, width, 5, padding=2)
        self.reduce, self.select = nn.Conv2d(width, squeeze, 1), nn.Conv2d(squeeze, 2 * width, 1)
        self.out = nn.Conv2d(width, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branches = torch.stack([F.relu(self.k3(x)), F.relu(self.k5(x))], 1)
        squeezed = F.relu(self.reduce(branches.sum(1).mean((2, 3), keepdim=True)))
        weights = self.select(squeezed).view(-1, 2, self.width, 1, 1).softmax(1)
        return self.out((branches * weights).sum(1))


@pair()
def selective_kernel(death: Death) -> Pair:
    labels = labels_of(death, c=(3, 7), s=(2, 4))
    spec = (
        conv("k3", "+c", "3")
        | conv("k5", "+c", "3", 5)
        | conv("reduce", "+s", "-c", 1)
        | conv("select", "=c|=c", "-s", 1)
        | conv("out", "4", "-c", 1)
    )
    return make(SelectiveKernel(3, 2), SelectiveKernel(7, 4), spec, labels, image(), IMAGE)


class Standardised(nn.Module):
    """Weight standardisation (computed in the graph) on the outputs that leave."""

    def __init__(self, width: int):
        super().__init__()
        self.enter, self.out = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        w = self.enter.weight
        w = w - w.mean((1, 2, 3), keepdim=True)
        w = w / (w.pow(2).mean((1, 2, 3), keepdim=True) + 1e-5).sqrt()
        return self.out(F.relu(F.conv2d(x, w, self.enter.bias, padding=1)))


@pair()
def weight_standardisation(death: Death) -> Pair:
    spec = conv("enter", "+c", "3") | conv("out", "4", "-c", 1)
    return make(Standardised(3), Standardised(7), spec, labels_of(death, c=(3, 7)), image(), IMAGE)


class Grouped(nn.Module):
    """ResNeXt's middle: a grouped convolution between pointwise ones."""

    def __init__(self, groups: int, into: int, out: int):
        super().__init__()
        self.enter = ConvNorm(3, groups * into, 1)
        self.grouped = nn.Conv2d(groups * into, groups * out, 3, padding=1, groups=groups)
        self.out = nn.Conv2d(groups * out, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(F.relu(self.grouped(self.enter(x))))


@pair()
def grouped_inside_blocks(death: Death) -> Pair:
    """Every block loses inputs (the same ones) and outputs (others in each block, equally many)."""
    labels = labels_of(death, i=(2, 4), o0=(3, 5), o1=(3, 5), o2=(3, 5))
    rows = "+o0|+o1|+o2"
    spec = (
        conv_norm("enter", "3*+i", "3", 1) | conv("grouped", rows, "-i") | conv("out", "5", rows.replace("+", "-"), 1)
    )
    return make(Grouped(3, 2, 3), Grouped(3, 4, 5), spec, labels, image(), IMAGE)


@pair()
def grouped_whole_blocks(death: Death) -> Pair:
    """Whole groups leave, inputs and outputs."""
    labels = labels_of(death, g=(2, 5))
    spec = conv_norm("enter", "=g*2", "3", 1) | conv("grouped", "+g*3", "2") | conv("out", "5", "-g*3", 1)
    return make(Grouped(2, 2, 3), Grouped(5, 2, 3), spec, labels, image(), IMAGE)


class Temporal(nn.Module):
    """A temporal convolutional network: causal padding, chomp, dilation, PReLU, a residual with and without 1x1."""

    def __init__(self, a: int, b: int, c: int):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(4, a, 3, padding=2), nn.Conv1d(a, b, 3, padding=4, dilation=2)
        self.short, self.prelu = nn.Conv1d(4, b, 1), nn.PReLU(b)
        self.conv3, self.conv4, self.out = nn.Conv1d(b, c, 3, padding=2), nn.Conv1d(c, b, 1), nn.Linear(b, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.conv1(x)[:, :, :-2])
        y = self.prelu(self.conv2(y)[:, :, :-4] + self.short(x))
        y = y + self.conv4(F.relu(self.conv3(y)[:, :, :-2]))
        return self.out(y[:, :, -1])


@pair()
def temporal_convolutions(death: Death) -> Pair:
    labels = labels_of(death, a=(3, 6), b=(4, 7), c=(2, 5))
    spec = (
        conv("conv1", "+a", "4", "3")
        | conv("conv2", "+b", "-a", "3")
        | conv("short", "+b", "4", "1")
        | {"prelu.weight": "=b"}
        | conv("conv3", "+c", "-b", "3")
        | conv("conv4", "+b", "-c", "1")
        | linear("out", "3", "-b")
    )
    inputs = {"x": torch.randn(2, 4, 9)}
    return make(Temporal(3, 4, 2), Temporal(6, 7, 5), spec, labels, inputs, {"x": {0: "batch", 2: "time"}})


class Volume(nn.Module):
    """3-D convolutions and a linear layer on flattened channels and positions."""

    def __init__(self, a: int, b: int, hidden: int):
        super().__init__()
        self.conv1, self.norm = nn.Conv3d(2, a, 3, padding=1), nn.BatchNorm3d(a)
        self.conv2 = nn.Conv3d(a, b, 3, padding=1)
        self.fc1, self.fc2 = nn.Linear(8 * b, hidden), nn.Linear(hidden, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool3d(F.relu(self.norm(self.conv1(x))), 2)
        return self.fc2(F.relu(self.fc1(F.relu(self.conv2(x)).flatten(1))))


@pair()
def volumes(death: Death) -> Pair:
    labels = labels_of(death, a=(3, 5), b=(2, 5), h=(4, 9))
    spec = (
        conv("conv1", "+a", "2", "3 3 3")
        | norm("norm", "+a")
        | conv("conv2", "+b", "-a", "3 3 3")
        | linear("fc1", "+h", "-b*8")
        | linear("fc2", "3", "-h")
    )
    return make(Volume(3, 2, 4), Volume(5, 5, 9), spec, labels, {"x": torch.randn(2, 2, 4, 4, 4)}, IMAGE)


class Crnn(nn.Module):
    """Text recognition: convolutions, height folded into features, bidirectional LSTM, linear."""

    def __init__(self, a: int, b: int, hidden: int):
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(1, a, 3, padding=1), nn.BatchNorm2d(a)
        self.conv2 = nn.Conv2d(a, b, 3, padding=1)
        self.rnn, self.out = nn.LSTM(2 * b, hidden, bidirectional=True, batch_first=True), nn.Linear(2 * hidden, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), (2, 1))
        return self.out(self.rnn(x.permute(0, 3, 1, 2).flatten(2))[0])


@pair(exporters=("torchscript",))
def crnn(death: Death) -> Pair:
    labels = labels_of(death, a=(3, 5), b=(2, 5), h=(3, 6))
    spec = conv("conv1", "+a", "1") | norm("norm", "+a") | conv("conv2", "+b", "-a") | linear("out", "7", "-h|-h")
    for suffix in ("l0", "l0_reverse"):
        spec |= {
            f"rnn.weight_ih_{suffix}": "+h|+h|+h|+h -b*2",
            f"rnn.weight_hh_{suffix}": "+h|+h|+h|+h -h",
            f"rnn.bias_*h_{suffix}": "+h|+h|+h|+h",
        }
    inputs = {"x": torch.randn(2, 1, 8, 12)}
    return make(Crnn(3, 2, 3), Crnn(5, 5, 6), spec, labels, inputs, {"x": {0: "batch", 3: "width"}})


class PixelShuffle(nn.Module):
    def __init__(self, a: int, c: int):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, a, 3, padding=1), nn.Conv2d(a, 4 * c, 1)
        self.out = nn.Conv2d(c, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(F.relu(F.pixel_shuffle(self.conv2(F.relu(self.conv1(x))), 2)))


@pair()
def pixel_shuffle(death: Death) -> Pair:
    spec = conv("conv1", "+a", "3") | conv("conv2", "+c*4", "-a", 1) | conv("out", "3", "-c")
    return make(PixelShuffle(2, 3), PixelShuffle(5, 6), spec, labels_of(death, a=(2, 5), c=(3, 6)), image(), IMAGE)


class GroupNormed(nn.Module):
    def __init__(self, groups: int):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3 * groups, 3, padding=1), nn.GroupNorm(groups, 3 * groups)
        self.out = nn.Conv2d(3 * groups, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(F.relu(self.norm(self.conv(x))))


@pair()
def group_norm_blocks(death: Death) -> Pair:
    """Whole groups of a GroupNorm leave."""
    spec = conv("conv", "+g*3", "3") | {"norm.*": "+g*3"} | conv("out", "4", "-g*3", 1)
    return make(GroupNormed(2), GroupNormed(5), spec, labels_of(death, g=(2, 5)), image(), IMAGE)


class PreAct(nn.Module):
    """DAM's PreResNet block: convolution, gate, BatchNorm, ReLU, padded convolution. The narrow one has no gates."""

    def __init__(self, a: int, b: int, gates: dict[str, Label] | None = None):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, a, 3, padding=1), nn.BatchNorm2d(a)
        self.conv2 = nn.Conv2d(a, b, 3, padding=1)
        self.norm2, self.out = nn.BatchNorm2d(b), nn.Linear(b, 4)
        self.gates = gates

    def gate(self, x: torch.Tensor, label: str) -> torch.Tensor:
        if self.gates is None:
            return x
        alive = self.gates[label].alive
        return x * (alive.float() * torch.linspace(0.5, 2, len(alive)))[:, None, None]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.norm1(self.gate(self.conv1(x), "a")))
        y = F.relu(self.norm2(self.gate(self.conv2(y), "b")))
        return self.out(y.mean((2, 3)))


@pair(deaths=(Death.CONSTANT,))
def gates_before_batchnorm(death: Death) -> Pair:
    """Dead channels are the constants ReLU(BN(0)): one of `a` may stay, as a padded convolution reads them."""
    labels = labels_of(death, a=(3, 8), b=(2, 6))
    spec = {
        "conv1.weight": "=a 3 3 3",
        "conv1.bias": "=a",
        "norm1.*": "=a",
        "conv2.weight": "=b =a 3 3",
        "conv2.bias": "=b",
        "norm2.*": "=b",
        "out.weight": "4 =b",
        "out.bias": "4",
    }
    carrier = 3 * 9 + 1 + 4 + 2 * 9  # one more row of conv1, of norm1, and column of conv2
    return make(PreAct(3, 2), PreAct(8, 6, labels), spec, labels, image(), IMAGE, slack=carrier)
