"""Layers whose channels are hard to get at: recurrent cells, attention modules, normalised streams."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch")
import numpy as np  # noqa: E402
import onnx  # noqa: E402
from torch import Tensor, nn  # noqa: E402

import onnxdam  # noqa: E402
from onnxdam.errors import UnsupportedError  # noqa: E402
from onnxdam.masks import attach, export, narrow, parameter_plan  # noqa: E402
from tests.masks.test_attach import run  # noqa: E402


class Recurrent(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.cell, self.head = getattr(nn, kind)(6, 16, batch_first=True), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0][:, -1])


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(16, 4, batch_first=True), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(x, x, x, need_weights=False)[0])


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_hidden_units_of_recurrent_cells(tmp_path, kind):
    torch.manual_seed(0)
    model, x = Recurrent(kind).eval(), torch.randn(4, 5, 6)
    plain = model(x)
    gates = attach(model, x[:2])
    assert gates.kept() == {"cell": (16, 16)}
    model(x).sum().backward()
    assert gates.all[0].beta.grad.abs() > 0
    assert torch.equal(copy.deepcopy(model)(x), model(x))  # after a pass
    gates.all[0].harden(torch.arange(16) % 2 == 0)
    y = model(x)
    assert not torch.allclose(y, plain, atol=1e-3)

    slim = narrow(model, parameter_plan(model, x[:2]), x[:2])
    assert (slim.cell.hidden_size, slim.cell.input_size, slim.head.in_features) == (8, 6, 8)
    assert torch.allclose(slim(x), y, atol=1e-6)
    slim(x).sum().backward()
    assert all(p.grad is not None for p in slim.parameters())

    path = export(model, gates, x[:2], tmp_path / "m.onnx", dynamic_batch=False)
    written, _ = onnxdam.slim(onnx.load(path))
    cells = [n for n in written.graph.node if n.op_type == kind]  # the exporter writes RNN out step by step
    assert [a.i for n in cells for a in n.attribute if a.name == "hidden_size"] == ([] if kind == "RNN" else [8])
    assert np.abs(run(written.SerializeToString(), x[:2]) - y[:2].detach().numpy()).max() < 1e-5

    gates.detach()
    assert torch.equal(model(x), plain)


class TwoWays(nn.Module):
    """Cells that read the sequence in both directions; what they read has channels of its own."""

    def __init__(self, kind: str, layers: int) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 8)
        self.cell = getattr(nn, kind)(8, 16, num_layers=layers, batch_first=True, bidirectional=True)
        self.head = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(torch.relu(self.embed(x)))[0])


@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_both_directions_lose_the_same_units(tmp_path, kind, dynamo):
    torch.manual_seed(0)
    model, x = TwoWays(kind, 1).eval(), torch.randn(4, 5, 5)
    gates = attach(model, x[:2])
    assert gates.kept() == {"embed": (8, 8), "cell": (16, 16)}
    for gate in gates.all:
        gate.harden(torch.arange(gate.n) % 2 == 0)
    y = model(x)
    slim = narrow(model, parameter_plan(model, x[:2]), x[:2])
    assert (slim.cell.hidden_size, slim.cell.input_size, slim.head.in_features) == (8, 4, 16)
    assert torch.allclose(slim(x), y, atol=1e-6)
    written, _ = onnxdam.slim(onnx.load(export(model, gates, x[:2], tmp_path / "m.onnx", dynamo=dynamo)))
    [cell] = [n for n in written.graph.node if n.op_type == kind]
    assert [a.i for a in cell.attribute if a.name == "hidden_size"] == [8]
    assert np.abs(run(written.SerializeToString(), x[:2]) - y[:2].detach().numpy()).max() < 1e-5


def test_stacked_layers_in_both_directions(tmp_path):
    torch.manual_seed(0)
    model, x = TwoWays("LSTM", 2).eval(), torch.randn(4, 5, 5)
    gates = attach(model, x[:2])
    assert gates.kept() == {"embed": (8, 8), "cell": (16, 16), "cell.2": (16, 16)}
    for gate, stays in zip(gates.all, (4, 6, 10), strict=True):
        gate.harden(torch.arange(gate.n) < stays)
    assert gates.cost()["parameters"] < 0.5
    y = model(x)
    written, _ = onnxdam.slim(onnx.load(export(model, gates, x[:2], tmp_path / "m.onnx")))
    cells = [n for n in written.graph.node if n.op_type == "LSTM"]
    assert sorted(a.i for n in cells for a in n.attribute if a.name == "hidden_size") == [6, 10]
    assert np.abs(run(written.SerializeToString(), x[:2]) - y[:2].detach().numpy()).max() < 1e-5
    # what the price was taken for is what is left
    left = sum(int(np.prod(t.dims)) for t in written.graph.initializer if t.data_type == onnx.TensorProto.FLOAT)
    dense = sum(p.numel() for p in TwoWays("LSTM", 2).parameters())
    assert left / dense == pytest.approx(gates.cost()["parameters"], rel=0.01)


def test_attention_modules_lose_heads():
    torch.manual_seed(0)
    model, x = Attending().eval(), torch.randn(2, 5, 16)
    gates = attach(model, x)
    assert gates.kept()["attention"] == (4, 4)
    for gate in gates.all:
        gate.harden(torch.arange(gate.n) % 2 == 0)
    slim = narrow(model, parameter_plan(model, x), x)
    assert slim.attention.num_heads == 2
    assert slim.attention.in_proj_weight.shape == (3 * 8, 16)
    gates.bake()
    hide = torch.zeros(2, 5, dtype=torch.bool)
    hide[1, 3:] = True
    causal = torch.full((5, 5), -torch.inf).triu(1)
    for options in ({"key_padding_mask": hide}, {"attn_mask": causal}, {"need_weights": False}):
        for mine, theirs in zip(slim.attention(x, x, x, **options), model.attention(x, x, x, **options), strict=True):
            if mine is not None and mine.shape[-1] == 8:
                assert torch.allclose(mine, theirs[..., ::2], atol=1e-5)
    alone = slim.attention(x[0], x[0], x[0])
    assert torch.allclose(alone[0], slim.attention(x, x, x)[0][0], atol=1e-6)
    assert alone[1].shape == (5, 5)
    with pytest.raises(UnsupportedError, match="masks of single heads"):
        slim.attention(x, x, x, attn_mask=causal.expand(8, 5, 5))


def test_encoder_layers():
    torch.manual_seed(0)
    model, x = (
        nn.Sequential(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), nn.Linear(16, 3)),
        torch.randn(2, 5, 16),
    )
    gates = attach(model.eval(), x)
    assert gates.kept() == {"0.self_attn": (4, 4), "0.linear1": (32, 32)}
    assert "normalised over" in gates.skipped["0.norm1"]  # a stream through LayerNorm keeps its width, and says why
    for gate in gates.all:
        gate.harden(torch.arange(gate.n) % 2 == 0)
    slim = narrow(model, parameter_plan(model, x), x)
    assert (slim[0].self_attn.num_heads, slim[0].linear1.out_features) == (2, 16)
    slim.train()
    assert slim(x).shape == (2, 5, 3)
