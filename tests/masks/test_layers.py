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
from onnxdam.masks import Gates, attach, export, narrow, parameter_plan  # noqa: E402
from tests.masks.test_attach import run  # noqa: E402

IMAGES = torch.randn(2, 3, 8, 8)


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
    assert "normalised over" in gates.skipped["0.linear2"]  # a stream through LayerNorm keeps its width, and says why
    for gate in gates.all:
        gate.harden(torch.arange(gate.n) % 2 == 0)
    slim = narrow(model, parameter_plan(model, x), x)
    assert (slim[0].self_attn.num_heads, slim[0].linear1.out_features) == (2, 16)
    slim.train()
    assert slim(x).shape == (2, 5, 3)


def halves(gates: Gates) -> None:
    for gate in gates.all:
        gate.harden(torch.arange(gate.n) % 2 == 0)


def elements(model: onnx.ModelProto) -> int:
    return sum(int(np.prod(t.dims)) for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT)


class Pieces(nn.Module):
    """Weights that are cut up before they are used, in equal pieces and in others."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.packed, self.uneven = nn.Parameter(torch.randn(24, 16)), nn.Parameter(torch.randn(20, 12))
        self.last = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.packed.chunk(2)
        h = torch.relu(self.first(x))
        h = torch.relu(h @ a.t()) * torch.sigmoid(h @ b.t())
        c, d = self.uneven[:-8], self.uneven[-8:]
        return self.last(torch.relu(h @ c.t())) + (h @ d.t()).sum(1, keepdim=True)


@pytest.mark.parametrize("dynamo", [True, False])
def test_weights_in_pieces(tmp_path, dynamo):
    torch.manual_seed(0)
    model, x = Pieces().eval(), torch.randn(4, 8)
    gates = attach(model, x)
    assert {name: n for name, (_, n) in gates.kept().items()} == {"first": 16, "packed": 12, "uneven": 12}
    halves(gates)
    y, said = model(x), gates.cost()["parameters"]
    slim = narrow(model, parameter_plan(model, x), x)
    assert (slim.packed.shape, slim.uneven.shape) == ((12, 8), (14, 6))
    assert torch.allclose(slim(x), y, atol=1e-5)
    written, _ = onnxdam.slim(onnx.load(export(model, gates, x, tmp_path / "m.onnx", dynamo=dynamo)), align="none")
    assert np.abs(run(written.SerializeToString(), x) - y.detach().numpy()).max() < 1e-5
    assert elements(written) / sum(p.numel() for p in Pieces().parameters()) == pytest.approx(said)


class Crossing(nn.Module):
    """Queries of one sequence, keys and values of another: the packed weight is cut in pieces."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(16, 4, batch_first=True), nn.Linear(16, 3)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        return self.head(self.attention(x, memory, memory, need_weights=False)[0])


def test_attention_to_another_sequence():
    torch.manual_seed(0)
    model, inputs = Crossing().eval(), (torch.randn(2, 4, 16), torch.randn(2, 6, 16))
    gates = attach(model, inputs)
    assert gates.kept() == {"attention": (4, 4), "attention.out_proj": (16, 16)}
    halves(gates)
    slim = narrow(model, parameter_plan(model, inputs), inputs)
    assert (slim.attention.num_heads, slim.attention.in_proj_weight.shape) == (2, (3 * 8, 16))
    assert torch.allclose(slim(*inputs), model(*inputs), atol=1e-5)


class Scales(nn.Module):
    """Scales that are computed from parameters: exponentials, roots of variances."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 3)
        self.log, self.weight, self.variance = (nn.Parameter(torch.rand(16) + 0.5) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x) * self.log.exp()) * (self.weight * (self.variance + 0.1).rsqrt()))


def test_scales_that_are_computed_are_narrowed_and_counted(tmp_path):
    torch.manual_seed(0)
    model, x = Scales().eval(), torch.randn(4, 8)
    gates = attach(model, x)
    assert gates.kept() == {"first": (16, 16)}
    halves(gates)
    slim = narrow(model, parameter_plan(model, x), x)
    assert [len(p) for p in (slim.log, slim.weight, slim.variance)] == [8, 8, 8]
    assert torch.allclose(slim(x), model(x), atol=1e-6)
    left = sum(p.numel() for p in slim.parameters()) / sum(p.numel() for p in Scales().parameters())
    assert gates.cost()["parameters"] == pytest.approx(left)


class Adapted(nn.Module):
    """A frozen weight and a product of two small ones."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(8, 16), nn.Linear(16, 12), nn.Linear(12, 3)
        self.down, self.up = nn.Parameter(torch.randn(4, 16)), nn.Parameter(torch.randn(12, 4))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.second.weight + self.up @ self.down
        return self.last(torch.relu(nn.functional.linear(torch.relu(self.first(x)), weight, self.second.bias)))


def test_weights_that_are_products_are_told():
    gates = attach(Adapted(), torch.randn(2, 8))
    assert gates.kept() == {"second": (12, 12)}
    assert gates.skipped["first"].endswith("multiplied by weights that are computed from parameters")


class Tied(nn.Module):
    """An autoencoder whose decoder is the encoder turned around."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.bias = nn.Linear(10, 16), nn.Parameter(torch.rand(10))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.encoder(x)) @ self.encoder.weight + self.bias


@pytest.mark.parametrize("dynamo", [True, False])
def test_tied_weights(tmp_path, dynamo):
    """A closed unit is a constant, its bias, that zeros read."""
    torch.manual_seed(0)
    model, x = Tied().eval(), torch.randn(4, 10)
    model.encoder.bias.data += 1
    gates = attach(model, x)
    assert gates.kept() == {"encoder": (16, 16)}
    halves(gates)
    slim = narrow(model, parameter_plan(model, x), x)
    assert slim.encoder.out_features == 8
    written, _ = onnxdam.slim(onnx.load(export(model, gates, x, tmp_path / "m.onnx", dynamo=dynamo)), align="none")
    assert np.abs(run(written.SerializeToString(), x) - model(x).detach().numpy()).max() < 1e-5
    assert elements(written) == 8 * 10 + 8 + 10


class Helping(nn.Module):
    """A head that only training needs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.helper, self.last = nn.Linear(8, 16), nn.Linear(16, 3), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        return self.last(x) + self.helper(x) if self.training else self.last(x)


def test_what_runs_in_training_only_is_named():
    gates = attach(Helping(), torch.randn(2, 8))
    assert gates.kept() == {"first": (16, 16)}
    assert gates.skipped == {"last": "a graph output", "helper": "it does not run in evaluation"}


class Cells(nn.Module):
    """A step of a cell written out, a product of pairs, bags of words, parameters in a list and in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.pairs = nn.EmbeddingBag(9, 8), nn.Bilinear(8, 6, 10)
        self.cell, self.lstm = nn.GRUCell(10, 12), nn.LSTMCell(12, 14)
        self.listed = nn.ParameterList([torch.randn(14, 16), torch.randn(16)])
        self.named = nn.ParameterDict({"weight": torch.randn(16, 3)})

    def forward(self, ids: Tensor, x: Tensor) -> Tensor:
        y, a, b = torch.relu(self.pairs(self.words(ids), x)), None, None
        for _ in range(2):
            a = self.cell(y, a)
            b = self.lstm(a, b)
        return torch.relu(b[0] @ self.listed[0] + self.listed[1]) @ self.named["weight"]


def test_cells_bags_pairs_and_parameters_in_containers():
    torch.manual_seed(0)
    model, inputs = Cells().eval(), (torch.randint(0, 9, (4, 5)), torch.randn(4, 6))
    gates = attach(model, inputs)
    kept = gates.kept()
    assert {"cell", "lstm", "listed"} <= set(kept), kept
    for gate in gates.all:
        gate.harden(torch.arange(gate.n) % 2 == 0)
    slim = narrow(model, parameter_plan(model, inputs), inputs)
    assert torch.allclose(slim(*inputs), model(*inputs), atol=1e-5)
    assert (slim.cell.hidden_size, slim.lstm.input_size, slim.lstm.hidden_size) == (6, 6, 7)
    assert [tuple(p.shape) for p in (*slim.listed, slim.named["weight"])] == [(7, 8), (8,), (8, 3)]


def test_group_norm_loses_whole_groups():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 16), nn.ReLU(), nn.Conv2d(16, 5, 3)), IMAGES
    for p in model[1].parameters():
        nn.init.normal_(p)
    gates = attach(model.eval(), x)
    assert gates.kept() == {"0": (4, 4)}
    gates.all[0].harden(torch.tensor([True, False, True, False]))
    slim = narrow(model, parameter_plan(model, x), x)
    assert (slim[0].out_channels, slim[1].num_groups, slim[1].num_channels, slim[3].in_channels) == (8, 2, 8, 8)
    assert torch.allclose(slim(x), model(x), atol=1e-5)


class Standardised(nn.Module):
    """What networks do with their inputs before weights read them: subtract, pad, normalise."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.randn(6))
        self.norm, self.first, self.last = nn.BatchNorm1d(6), nn.Conv1d(6, 8, 3), nn.Conv1d(8, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(nn.functional.pad(x - self.mean[:, None], (1, 1)))
        return self.last(torch.relu(self.first(x)))


def test_input_features_behind_operators_without_weights(tmp_path):
    torch.manual_seed(0)
    model, x = Standardised().eval(), torch.randn(4, 6, 9)
    gates = attach(model, x, inputs=True)
    assert gates.kept() == {"input": (6, 6), "first": (8, 8)}
    gates.all[0].harden(torch.arange(6) % 2 == 0)
    slim, _ = onnxdam.slim(onnx.load(export(model, gates, x, tmp_path / "m.onnx")), inputs=True)
    [features] = slim.graph.input
    assert [d.dim_value for d in features.type.tensor_type.shape.dim][1:] == [3, 9]
    assert np.abs(run(slim.SerializeToString(), x[:, ::2].contiguous()) - model(x).detach().numpy()).max() < 1e-5
