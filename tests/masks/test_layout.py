"""A network in channels_last is the same network."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import onnx  # noqa: E402
from torch import nn  # noqa: E402

import onnxdam  # noqa: E402
from onnxdam.masks import Schedule, attach, export  # noqa: E402
from onnxdam.masks.layout import FORMATS  # noqa: E402


def network(rank: int) -> nn.Module:
    """A 3x3 and a 1x1 convolution, whose mean over all places a classifier reads."""
    conv, norm, pool = (
        (nn.Conv2d, nn.BatchNorm2d, nn.AdaptiveAvgPool2d)
        if rank == 4
        else (nn.Conv3d, nn.BatchNorm3d, nn.AdaptiveAvgPool3d)
    )
    return nn.Sequential(
        conv(3, 8, 3, padding=1), norm(8), nn.ReLU(), conv(8, 8, 1), nn.ReLU(), pool(1), nn.Flatten(), nn.Linear(8, 2)
    )


@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.parametrize("rank", [4, 5])
def test_channels_last_is_gated_and_slimmed_alike(rank, dynamo, tmp_path):
    model = network(rank).to(memory_format=FORMATS[rank])
    x = torch.randn(2, 3, *[8] * (rank - 2)).to(memory_format=FORMATS[rank])
    before = [p.stride() for p in model.parameters()]
    gates = attach(model, x, target={"channels": 0.5}, schedule=Schedule(1, cold=0, ramp=0, harden=1))
    gates.step()
    assert gates.kept() == {"0": (4, 8), "3": (4, 8)}
    export(model, gates, x, tmp_path / "m.onnx", dynamo=dynamo)
    slim, _ = onnxdam.slim(onnx.load(tmp_path / "m.onnx"), align="none")
    assert [i.dims[:2] for i in slim.graph.initializer if len(i.dims) == rank] == [[4, 3], [4, 4]]
    gates.detach()
    assert [p.stride() for p in model.parameters()] == before
