"""Pairs of small modules of our own: attention in several spellings, recurrent nets, convolution modules."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from .embed import Death, Label
from .pairs import ALL, Pair, make, pair

torch.backends.mha.set_fastpath_enabled(False)  # the fused operator of the fast path cannot be exported
MODEL, BATCH, TIME = 12, 2, 5
TOKENS = {"x": {0: "batch", 1: "time"}}


def tokens(width: int = MODEL) -> dict[str, torch.Tensor]:
    return {"x": torch.randn(BATCH, TIME, width)}


class Attention(nn.Module):
    """Attention with separate head count and head widths; `scale` is a number, not derived from a width."""

    def __init__(self, model: int, heads: int, qk: int, v: int, *, spelling: str = "matmul", scale: float | None = 0.3):
        super().__init__()
        self.heads, self.qk, self.v, self.spelling, self.scale = heads, qk, v, spelling, scale
        self.q = nn.Linear(model, heads * qk)
        self.k = nn.Linear(model, heads * qk)
        self.value = nn.Linear(model, heads * v)
        self.out = nn.Linear(heads * v, model)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, time = x.shape[0], x.shape[1]
        q = self.q(x).view(batch, time, self.heads, self.qk)
        k = self.k(x).view(batch, time, self.heads, self.qk)
        v = self.value(x).view(batch, time, self.heads, self.v)
        if self.spelling == "einsum":
            scores = torch.einsum("bthd,bshd->bhts", q, k) * self.scale
            y = torch.einsum("bhts,bshd->bthd", scores.softmax(-1), v)
        elif self.spelling == "sdpa":
            q, k, v = (t.transpose(1, 2) for t in (q, k, v))
            y = F.scaled_dot_product_attention(q, k, v, scale=self.scale).transpose(1, 2)
        else:
            q, k, v = (t.transpose(1, 2) for t in (q, k, v))
            y = ((q @ k.transpose(-2, -1)) * self.scale).softmax(-1) @ v
            y = y.transpose(1, 2)
        return self.out(y.reshape(batch, time, self.heads * self.v))


class Block(nn.Module):
    """Pre-norm transformer block and a head that reads the mean."""

    def __init__(self, heads: int, qk: int, v: int, mlp: int, **attention: object):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(MODEL), nn.LayerNorm(MODEL)
        self.attention = Attention(MODEL, heads, qk, v, **attention)
        self.up, self.down = nn.Linear(MODEL, mlp), nn.Linear(mlp, MODEL)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


BLOCK = {
    "*norm*": f"{MODEL}",
    "*.q.weight": f"=head*+qk {MODEL}",
    "*.q.bias": "=head*+qk",
    "*.k.weight": f"=head*-qk {MODEL}",
    "*.k.bias": "=head*-qk",
    "*.value.weight": f"+head*+v {MODEL}",
    "*.value.bias": "+head*+v",
    "*.out.weight": f"{MODEL} -head*-v",
    "*.out.bias": f"{MODEL}",
    "up.weight": f"+mlp {MODEL}",
    "up.bias": "+mlp",
    "down.weight": f"{MODEL} -mlp",
    "down.bias": f"{MODEL}",
}


def block(death: Death, qk_scales: bool = False, **attention: object) -> Pair:
    """A transformer block that loses heads, query/key dims, value dims and MLP units at once."""
    inner = Death.PRODUCER if death is Death.CONSTANT else death
    labels = {"head": Label(3, 5, inner), "qk": Label(3, 6, inner), "v": Label(5, 7, inner), "mlp": Label(9, 20, death)}
    narrow = Block(3, 3, 5, 9, **attention)
    wide = Block(5, 6, 7, 20, **attention)
    result = make(narrow, wide, BLOCK, labels, tokens(), TOKENS)
    if qk_scales:  # both divide by the root of their own width
        wide.attention.q.weight.data *= (6 / 3) ** 0.5
        wide.attention.q.bias.data *= (6 / 3) ** 0.5
    return result


@pair(deaths=ALL)
def attention_matmul(death: Death) -> Pair:
    return block(death)


@pair()
def attention_einsum(death: Death) -> Pair:
    return block(death, spelling="einsum")


@pair()
def attention_sdpa(death: Death) -> Pair:
    return block(death, spelling="sdpa")


@pair()
def attention_sdpa_own_scale(death: Death) -> Pair:
    """The scale is 1/sqrt(width of the wide heads), which some exporters compute from Shape: it must not change."""
    return block(death, qk_scales=True, spelling="sdpa", scale=None)


class FusedQkv(nn.Module):
    """One projection for queries, keys and values, taken apart as timm does: reshape, permute, unbind."""

    def __init__(self, heads: int, dim: int):
        super().__init__()
        self.heads, self.dim = heads, dim
        self.qkv = nn.Linear(MODEL, 3 * heads * dim)
        self.out = nn.Linear(heads * dim, MODEL)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, time = x.shape[0], x.shape[1]
        q, k, v = self.qkv(x).reshape(batch, time, 3, self.heads, self.dim).permute(2, 0, 3, 1, 4).unbind(0)
        y = ((q @ k.transpose(-2, -1)) * 0.3).softmax(-1) @ v
        return x + self.out(y.transpose(1, 2).reshape(batch, time, self.heads * self.dim))


@pair()
def attention_fused_qkv(death: Death) -> Pair:
    """Heads leave; head dims are the same in the three parts, so all three lose the same ones."""
    labels = {"head": Label(2, 5, death), "dim": Label(4, 6, death)}
    dim = "=head*+dim|=head*-dim|+head*+dim"
    spec = {
        "qkv.weight": f"{dim} {MODEL}",
        "qkv.bias": dim,
        "out.weight": f"{MODEL} -head*-dim",
        "out.bias": f"{MODEL}",
    }
    return make(FusedQkv(2, 4), FusedQkv(5, 6), spec, labels, tokens(), TOKENS)


class MhaHeads(nn.Module):
    """nn.MultiheadAttention's computation with a free number of heads (which the class itself does not allow)."""

    def __init__(self, heads: int, dim: int):
        super().__init__()
        self.heads, self.dim = heads, dim
        self.in_proj_weight = nn.Parameter(torch.empty(3 * heads * dim, MODEL))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * heads * dim))
        self.out_proj = nn.Linear(heads * dim, MODEL)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, time = x.shape[0], x.shape[1]
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias).view(batch, time, 3, self.heads, self.dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out_proj(y.transpose(1, 2).reshape(batch, time, self.heads * self.dim))


class MhaWide(nn.Module):
    def __init__(self, heads: int):
        super().__init__()
        self.mha = nn.MultiheadAttention(MODEL, heads, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mha(x, x, x, need_weights=False)[0]


@pair()
def multihead_attention_heads(death: Death) -> Pair:
    labels = {"head": Label(2, 4, death)}
    dim = MODEL // 4
    rows = f"=head*{dim}|=head*{dim}|+head*{dim}"
    spec = {
        "in_proj_weight": f"{rows} {MODEL}",
        "in_proj_bias": rows,
        "out_proj.weight": f"{MODEL} -head*{dim}",
        "out_proj.bias": f"{MODEL}",
    }
    narrow, wide = MhaHeads(2, dim), MhaWide(4)
    result = make(narrow, wide.mha, spec, labels, tokens(), {}, same_nodes=False)
    result.wide = wide.eval()
    return result


class Encoder(nn.Module):
    def __init__(self, mlp: int, norm_first: bool):
        super().__init__()
        layer = nn.TransformerEncoderLayer(MODEL, 3, mlp, batch_first=True, norm_first=norm_first, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.encoder(x)


@pair(deaths=ALL)
def transformer_encoder_layer(death: Death) -> Pair:
    """MLP units of nn.TransformerEncoderLayer, another set in each layer."""
    labels = {"mlp0": Label(7, 16, death), "mlp1": Label(7, 16, death)}
    spec = {f"*layers.{i}.linear1.weight": f"+mlp{i} {MODEL}" for i in (0, 1)}
    spec |= {f"*layers.{i}.linear1.bias": f"+mlp{i}" for i in (0, 1)}
    spec |= {f"*layers.{i}.linear2.weight": f"{MODEL} -mlp{i}" for i in (0, 1)}
    spec |= {
        "*in_proj_weight": f"{3 * MODEL} {MODEL}",
        "*in_proj_bias": f"{3 * MODEL}",
        "*out_proj.weight": f"{MODEL} {MODEL}",
        "*": f"{MODEL}",
    }
    return make(Encoder(7, True), Encoder(16, True), spec, labels, tokens(), {})


class Classifier(nn.Module):
    """Embedding, two recurrent layers, mean over time, linear."""

    def __init__(self, kind: type[nn.RNNBase], embedding: int, hidden: int, bidirectional: bool, last: bool):
        super().__init__()
        self.last = last
        self.embedding = nn.Embedding(11, embedding)
        self.rnn = kind(embedding, hidden, num_layers=2, batch_first=True, bidirectional=bidirectional)
        self.out = nn.Linear(hidden * (2 if bidirectional else 1), 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        y, state = self.rnn(self.embedding(ids))
        if self.last:
            final = state[0] if isinstance(state, tuple) else state
            return self.out(final[-1])
        return self.out(y.mean(1))


def recurrent(
    kind: type[nn.RNNBase], gates: int, death: Death, *, bidirectional: bool, together: bool = True, last: bool = False
) -> Pair:
    """A two-layer classifier; `together`: both directions lose the same units."""
    labels = {"emb": Label(4, 7, Death.PRODUCER if death is Death.CONSTANT else death)}
    spec = {"embedding.weight": "11 +emb"}
    directions = ("f", "b") if bidirectional else ("f",)
    inside = "-emb"
    for layer in (0, 1):
        for direction in directions:
            label = f"{direction}{layer}"
            labels[label] = Label(5, 9, death)
            if direction == "b" and together:
                labels[label].place(labels[f"f{layer}"].positions)
            rows, suffix = "|".join([f"+{label}"] * gates), f"l{layer}" + ("_reverse" if direction == "b" else "")
            spec |= {
                f"rnn.weight_ih_{suffix}": f"{rows} {inside}",
                f"rnn.weight_hh_{suffix}": f"{rows} -{label}",
                f"rnn.bias_ih_{suffix}": rows,
                f"rnn.bias_hh_{suffix}": rows,
            }
        inside = "|".join(f"-{d}{layer}" for d in directions)
    spec |= {"out.weight": f"3 {inside}", "out.bias": "3"}
    narrow, wide = (Classifier(kind, e, h, bidirectional, last) for e, h in ((4, 5), (7, 9)))
    ids = {"ids": torch.randint(0, 11, (BATCH, TIME))}
    return make(narrow, wide, spec, labels, ids, {"ids": {0: "batch", 1: "time"}})


RECURRENT = ("torchscript",)  # the dynamo exporter of torch 2.13 has no batch-dynamic recurrent cells


@pair(exporters=RECURRENT)
def lstm(death: Death) -> Pair:
    return recurrent(nn.LSTM, 4, death, bidirectional=False)


@pair(exporters=RECURRENT)
def lstm_last_state(death: Death) -> Pair:
    return recurrent(nn.LSTM, 4, death, bidirectional=False, last=True)


@pair(exporters=RECURRENT)
def lstm_bidirectional(death: Death) -> Pair:
    return recurrent(nn.LSTM, 4, death, bidirectional=True)


@pair(exporters=RECURRENT)
def lstm_bidirectional_apart(death: Death) -> Pair:
    """Each direction loses other units (as many)."""
    return recurrent(nn.LSTM, 4, death, bidirectional=True, together=False)


@pair(exporters=RECURRENT)
def gru_bidirectional(death: Death) -> Pair:
    return recurrent(nn.GRU, 3, death, bidirectional=True)


@pair(exporters=RECURRENT)
def gru(death: Death) -> Pair:
    return recurrent(nn.GRU, 3, death, bidirectional=False)


@pair(exporters=RECURRENT)
def rnn_tanh(death: Death) -> Pair:
    return recurrent(nn.RNN, 1, death, bidirectional=False)


class ConformerConv(nn.Module):
    """The convolution module of a Conformer: pointwise, GLU, depthwise, BatchNorm, SiLU, pointwise, residual."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(MODEL)
        self.pointwise1 = nn.Conv1d(MODEL, 2 * width, 1)
        self.depthwise = nn.Conv1d(width, width, 3, padding=1, groups=width)
        self.batchnorm = nn.BatchNorm1d(width)
        self.pointwise2 = nn.Conv1d(width, MODEL, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.glu(self.pointwise1(self.norm(x).transpose(1, 2)), 1)
        y = self.pointwise2(F.silu(self.batchnorm(self.depthwise(y))))
        return x + y.transpose(1, 2)


@pair(deaths=ALL)
def conformer_conv(death: Death) -> Pair:
    labels = {"c": Label(5, 11, death)}
    spec = {
        "norm*": f"{MODEL}",
        "pointwise1.weight": f"+c|=c {MODEL} 1",
        "pointwise1.bias": "+c|=c",
        "depthwise.weight": "+c 1 3",
        "depthwise.bias": "+c",
        "batchnorm.weight": "+c",
        "batchnorm.bias": "+c",
        "batchnorm.*": "=c",
        "pointwise2.weight": f"{MODEL} -c 1",
        "pointwise2.bias": f"{MODEL}",
    }
    return make(ConformerConv(5), ConformerConv(11), spec, labels, tokens(), TOKENS)


class ConvText(nn.Module):
    """Whisper's stem: two strided convolutions over time before anything else."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1 = nn.Conv1d(MODEL, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, MODEL, 3, stride=2, padding=1)
        self.norm = nn.LayerNorm(MODEL)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(F.gelu(self.conv2(F.gelu(self.conv1(x.transpose(1, 2))))).transpose(1, 2))


@pair()
def speech_stem(death: Death) -> Pair:
    spec = {"conv1.weight": f"+c {MODEL} 3", "conv1.bias": "+c", "conv2.weight": f"{MODEL} -c 3", "*": f"{MODEL}"}
    return make(ConvText(6), ConvText(15), spec, {"c": Label(6, 15, death)}, tokens(), TOKENS)
