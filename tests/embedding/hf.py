"""Pairs of transformers models (configurations of a few thousand weights, no downloads)."""

from __future__ import annotations

import fnmatch

import torch
from torch import nn

from .torchvision_beside_cpu_torch import declare_missing_operators

declare_missing_operators()
import transformers  # noqa: E402

from .embed import Death, Label  # noqa: E402
from .pairs import ALL, Pair, carve, make, pair  # noqa: E402

H, BATCH, TIME, VOCAB = 12, 2, 5, 13
TEXT = {"input_ids": {0: "batch", 1: "time"}, "attention_mask": {0: "batch", 1: "time"}}


def text() -> dict[str, torch.Tensor]:
    return {
        "input_ids": torch.randint(0, VOCAB, (BATCH, TIME)),
        "attention_mask": torch.ones(BATCH, TIME, dtype=torch.int64),
    }


class Output(nn.Module):
    """One tensor of a transformers model's output; the forward names its inputs as the exporters want them."""

    def __init__(self, inner: nn.Module, field: str):
        super().__init__()
        self.inner, self.field = inner, field


class TextOutput(Output):
    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return getattr(self.inner(input_ids=input_ids, attention_mask=attention_mask), self.field)


class CausalOutput(Output):
    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return getattr(self.inner(input_ids=input_ids, attention_mask=attention_mask, use_cache=False), self.field)


class ImageOutput(Output):
    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return getattr(self.inner(pixel_values=pixel_values), self.field)


def encoder_labels(death: Death, layers: int = 2) -> dict[str, Label]:
    """Heads, query/key and value dims, MLP units of each layer, at independent positions (of 4 heads of 3 dims)."""
    inner = Death.PRODUCER if death is Death.CONSTANT else death
    labels = {}
    for i in range(layers):
        labels |= {
            f"head{i}": Label(2, 4, inner),
            f"qk{i}": Label(2, 3, inner),
            f"v{i}": Label(2, 3, inner),
            f"mlp{i}": Label(7, 16, death),
        }
    return labels


def separate_projections(i: int, q: str, k: str, v: str, out: str, up: str, down: str) -> dict[str, str]:
    """Axis spec of layer `i` with nn.Linear projections, by their names."""
    rows = {q: f"=head{i}*+qk{i}", k: f"=head{i}*-qk{i}", v: f"+head{i}*+v{i}", up: f"+mlp{i}"}
    spec = {}
    for name, axis in rows.items():
        spec |= {f"{name}.weight": f"{axis} {H}", f"{name}.bias": axis}
    return spec | {
        f"{out}.weight": f"{H} -head{i}*-v{i}",
        f"{out}.bias": f"{H}",
        f"{down}.weight": f"{H} -mlp{i}",
        f"{down}.bias": f"{H}",
    }


def rest(wide: nn.Module, spec: dict[str, str]) -> dict[str, str]:
    """`spec`, and every parameter that it does not mention as one that both networks share."""
    tensors = dict(wide.named_parameters()) | {k: b for k, b in wide.named_buffers() if b.is_floating_point()}
    return spec | {
        name: " ".join(map(str, t.shape)) or "1"
        for name, t in tensors.items()
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in spec)
    }


def carved(
    wide: nn.Module,
    spec: dict[str, str],
    labels: dict[str, Label],
    inputs: dict[str, torch.Tensor],
    dynamic: dict[str, dict[int, str]],
    **attributes: int,
) -> Pair:
    """A pair whose narrow side is `wide` with smaller parameters; modules that have one of `attributes` get it set."""
    spec = rest(wide, spec)
    narrow = carve(wide, spec, labels)
    for module in narrow.modules():
        for name, value in attributes.items():
            if hasattr(module, name):
                setattr(module, name, value)
    return make(narrow, wide, spec, labels, inputs, dynamic)


@pair(deaths=ALL)
def bert(death: Death) -> Pair:
    config = transformers.BertConfig(
        vocab_size=VOCAB,
        hidden_size=H,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=16,
        max_position_embeddings=20,
        attn_implementation="eager",
    )
    wide = TextOutput(transformers.BertModel(config, add_pooling_layer=False), "last_hidden_state")
    labels, spec = encoder_labels(death), {}
    for i in (0, 1):
        at = f"inner.encoder.layer.{i}"
        spec |= separate_projections(
            i,
            f"{at}.attention.self.query",
            f"{at}.attention.self.key",
            f"{at}.attention.self.value",
            f"{at}.attention.output.dense",
            f"{at}.intermediate.dense",
            f"{at}.output.dense",
        )
    return carved(wide, spec, labels, text(), TEXT, attention_head_size=2)


@pair()
def bert_sdpa(death: Death) -> Pair:
    config = transformers.BertConfig(
        vocab_size=VOCAB,
        hidden_size=H,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=16,
        max_position_embeddings=20,
        attn_implementation="sdpa",
    )
    wide = TextOutput(transformers.BertModel(config, add_pooling_layer=False), "last_hidden_state")
    at = "inner.encoder.layer.0"
    spec = separate_projections(
        0,
        f"{at}.attention.self.query",
        f"{at}.attention.self.key",
        f"{at}.attention.self.value",
        f"{at}.attention.output.dense",
        f"{at}.intermediate.dense",
        f"{at}.output.dense",
    )
    return carved(wide, spec, encoder_labels(death, 1), text(), TEXT, attention_head_size=2)


@pair()
def distilbert(death: Death) -> Pair:
    config = transformers.DistilBertConfig(
        vocab_size=VOCAB,
        dim=H,
        n_layers=2,
        n_heads=4,
        hidden_dim=16,
        max_position_embeddings=20,
        attn_implementation="eager",
    )
    wide = TextOutput(transformers.DistilBertModel(config), "last_hidden_state")
    labels, spec = encoder_labels(death), {}
    for i in (0, 1):
        at = f"inner.transformer.layer.{i}"
        spec |= separate_projections(
            i,
            f"{at}.attention.q_lin",
            f"{at}.attention.k_lin",
            f"{at}.attention.v_lin",
            f"{at}.attention.out_lin",
            f"{at}.ffn.lin1",
            f"{at}.ffn.lin2",
        )
    return carved(wide, spec, labels, text(), TEXT, attention_head_size=2, dim_per_head=2)


@pair()
def gpt2(death: Death) -> Pair:
    config = transformers.GPT2Config(
        vocab_size=VOCAB, n_embd=H, n_layer=2, n_head=4, n_inner=16, n_positions=20, attn_implementation="eager"
    )
    wide = CausalOutput(transformers.GPT2LMHeadModel(config), "logits")
    labels, spec = encoder_labels(death), {}
    for i in (0, 1):
        at = f"inner.transformer.h.{i}"
        columns = f"=head{i}*+qk{i}|=head{i}*-qk{i}|+head{i}*+v{i}"
        spec |= {
            f"{at}.attn.c_attn.weight": f"{H} {columns}",
            f"{at}.attn.c_attn.bias": columns,
            f"{at}.attn.c_proj.weight": f"-head{i}*-v{i} {H}",
            f"{at}.attn.c_proj.bias": f"{H}",
            f"{at}.mlp.c_fc.weight": f"{H} +mlp{i}",
            f"{at}.mlp.c_fc.bias": f"+mlp{i}",
            f"{at}.mlp.c_proj.weight": f"-mlp{i} {H}",
            f"{at}.mlp.c_proj.bias": f"{H}",
        }
    return carved(wide, spec, labels, text(), TEXT, head_dim=2, split_size=4)


@pair()
def vit(death: Death) -> Pair:
    config = transformers.ViTConfig(
        hidden_size=H,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=16,
        image_size=8,
        patch_size=4,
        attn_implementation="eager",
    )
    wide = ImageOutput(transformers.ViTModel(config, add_pooling_layer=False), "last_hidden_state")
    labels, spec = encoder_labels(death), {}
    names = {n for n, _ in wide.named_parameters()}
    for i in (0, 1):
        at = next(n for n in names if f".{i}." in n).split(f".{i}.")[0] + f".{i}"
        pick = [
            next(
                n.removesuffix(".weight")
                for n in names
                if n.startswith(f"{at}.") and n.endswith(".weight") and any(n.endswith(f"{o}.weight") for o in options)
            )
            for options in (
                ("query", "q_proj"),
                ("key", "k_proj"),
                ("value", "v_proj"),
                ("attention.output.dense", "o_proj"),
                ("intermediate.dense", "fc1"),
                (f"layer.{i}.output.dense", f"layers.{i}.output.dense", "fc2"),
            )
        ]
        spec |= separate_projections(i, *pick)
    return carved(
        wide,
        spec,
        labels,
        {"pixel_values": torch.randn(BATCH, 3, 8, 8)},
        {"pixel_values": {0: "batch"}},
        attention_head_size=2,
        head_dim=2,
    )


def llama_model(hidden: int, kv: int, group: int, dim: int, mlp: int, eps: float) -> CausalOutput:
    config = transformers.LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=hidden,
        num_hidden_layers=2,
        num_attention_heads=kv * group,
        head_dim=dim,
        num_key_value_heads=kv,
        intermediate_size=mlp,
        max_position_embeddings=32,
        rms_norm_eps=eps,
        attn_implementation="eager",
        tie_word_embeddings=False,
    )
    return CausalOutput(transformers.LlamaForCausalLM(config), "logits")


LLAMA = {
    "*embed_tokens.weight": f"{VOCAB} +model",
    "*norm.weight": "=model",
    "*lm_head.weight": f"{VOCAB} -model",
    "*q_proj.weight": "=kv*=group*2*+half -model",
    "*k_proj.weight": "=kv*2*-half -model",
    "*v_proj.weight": "+kv*+v -model",
    "*o_proj.weight": "+model -kv*-group*-v",
    "*gate_proj.weight": "=mlp -model",
    "*up_proj.weight": "+mlp -model",
    "*down_proj.weight": "+model -mlp",
    "*inv_freq": "=half",
}


def llama_pair(labels: dict[str, Label], eps: float = 1e-5) -> Pair:
    """Labels: model, kv heads, group (query heads for each), half (of the rotary width), v, mlp.

    The wide RMSNorms average over more slots, and the wide scores are divided by the root of a larger width: their
    scales, eps and queries make up for it.
    """

    def build(side: str, eps: float) -> CausalOutput:
        n = {name: getattr(label, side) for name, label in labels.items()}
        return llama_model(n["model"], n["kv"], n["group"], n["v"], n["mlp"], eps)

    share = labels["model"].narrow / labels["model"].wide
    narrow, wide = build("narrow", eps), build("wide", eps * share)
    result = make(narrow, wide, LLAMA, labels, text(), TEXT)
    for name, parameter in wide.named_parameters():
        if name.endswith("norm.weight"):
            parameter.data *= share**0.5
        elif name.endswith("q_proj.weight"):
            parameter.data *= (labels["v"].wide / labels["v"].narrow) ** 0.5
    return result


def llama_labels(death: Death, **pruned: Label) -> dict[str, Label]:
    whole = {"model": 8, "kv": 2, "group": 2, "half": 2, "v": 4, "mlp": 9}
    return {name: Label(n, n, death) for name, n in whole.items()} | pruned


@pair()
def llama_heads_and_mlp(death: Death) -> Pair:
    """Key/value heads leave with all their queries, then one query head in each group that stays."""
    group = Label(2, 3, Death.CONSUMER)  # only the consumer can kill one query head of a group
    return llama_pair(
        llama_labels(death, kv=Label(2, 4, death), group=group, mlp=Label(9, 20, death), model=Label(12, 12, death))
    )


@pair(deaths=(Death.PRODUCER,))
def llama_residual(death: Death) -> Pair:
    """The RMSNorm axis itself: exact with another scale and eps."""
    return llama_pair(llama_labels(death, model=Label(8, 12, death)), eps=1e-2)


@pair()
def llama_rotary_dims(death: Death) -> Pair:
    """Rotary pairs (i, i + width/2) of queries and keys leave, and inv_freq's entries with them; value dims too."""
    return llama_pair(llama_labels(death, half=Label(3, 4, death), v=Label(6, 8, death)))


@pair(deaths=(Death.PRODUCER,))
def llama_everything(death: Death) -> Pair:
    return llama_pair(
        llama_labels(
            death,
            model=Label(8, 12, death),
            kv=Label(2, 4, death),
            group=Label(2, 3, Death.CONSUMER),
            half=Label(2, 4, death),
            v=Label(4, 8, death),
            mlp=Label(9, 20, death),
        ),
        eps=1e-2,
    )


class Seq2Seq(Output):
    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, decoder_input_ids: torch.Tensor
    ) -> torch.Tensor:
        return getattr(
            self.inner(
                input_ids=input_ids, attention_mask=attention_mask, decoder_input_ids=decoder_input_ids, use_cache=False
            ),
            self.field,
        )


def t5_model(model: int, heads: int, kv: int, ff: int, eps: float, gated: bool) -> Seq2Seq:
    config = transformers.T5Config(
        vocab_size=VOCAB,
        d_model=model,
        num_layers=1,
        num_decoder_layers=1,
        num_heads=heads,
        d_kv=kv,
        d_ff=ff,
        layer_norm_epsilon=eps,
        feed_forward_proj="gated-gelu" if gated else "relu",
        tie_word_embeddings=False,
        relative_attention_num_buckets=8,
        decoder_start_token_id=0,
        attn_implementation="eager",
    )
    return Seq2Seq(transformers.T5ForConditionalGeneration(config), "logits")


def t5_pair(death: Death, model: Label, gated: bool) -> Pair:
    labels = {
        "model": model,
        "head": Label(2, 3, death),
        "qk": Label(2, 4, death),
        "v": Label(2, 4, death),
        "ff": Label(7, 16, death),
    }
    share, eps = model.narrow / model.wide, 1e-3
    spec = {
        "*relative_attention_bias.weight": "8 =head",
        "*layer_norm.weight": "=model",
        "*lm_head.weight": f"{VOCAB} -model",
        "*.q.weight": "=head*+qk -model",
        "*.k.weight": "=head*-qk -model",
        "*.v.weight": "+head*+v -model",
        "*.o.weight": "+model -head*-v",
        "*.wi.weight": "+ff -model",
        "*.wi_0.weight": "=ff -model",
        "*.wi_1.weight": "+ff -model",
        "*.wo.weight": "+model -ff",
        "*": f"{VOCAB} +model",
    }
    narrow = t5_model(model.narrow, 2, 2, 7, eps, gated)
    wide = t5_model(model.wide, 3, 4, 16, eps * share, gated)
    inputs = text() | {"decoder_input_ids": torch.randint(0, VOCAB, (BATCH, 4))}
    result = make(narrow, wide, spec, labels, inputs, TEXT | {"decoder_input_ids": {0: "batch", 1: "written"}})
    for name, parameter in wide.named_parameters():
        if name.endswith("layer_norm.weight"):
            parameter.data *= share**0.5
    return result


@pair()
def t5(death: Death) -> Pair:
    return t5_pair(death, Label(8, 8, death), gated=False)


@pair(deaths=(Death.PRODUCER,))
def t5_gated_residual(death: Death) -> Pair:
    """Encoder and decoder, gated feed-forward, and the RMSNorm axis."""
    return t5_pair(death, Label(7, 11, death), gated=True)


class Speech(Output):
    def forward(self, input_features: torch.Tensor) -> torch.Tensor:
        return getattr(self.inner(input_features), self.field)


@pair()
def whisper_encoder(death: Death) -> Pair:
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = transformers.WhisperConfig(
        num_mel_bins=6,
        d_model=H,
        encoder_layers=2,
        encoder_attention_heads=4,
        encoder_ffn_dim=16,
        max_source_positions=7,
        attn_implementation="eager",
    )
    wide = Speech(WhisperEncoder(config), "last_hidden_state")
    labels, spec = encoder_labels(death), {}
    for i in (0, 1):
        at = f"inner.layers.{i}"
        spec |= separate_projections(
            i,
            f"{at}.self_attn.q_proj",
            f"{at}.self_attn.k_proj",
            f"{at}.self_attn.v_proj",
            f"{at}.self_attn.out_proj",
            f"{at}.fc1",
            f"{at}.fc2",
        )
    return carved(
        wide,
        spec,
        labels,
        {"input_features": torch.randn(BATCH, 6, 14)},
        {"input_features": {0: "batch"}},
        head_dim=2,
        num_heads=2,
    )


@pair()
def mamba(death: Death) -> Pair:
    """Channels of the selective state space: in_proj's halves, the depthwise convolution, x/dt projections, A, D."""
    config = transformers.MambaConfig(
        vocab_size=VOCAB,
        hidden_size=H,
        num_hidden_layers=1,
        state_size=3,
        expand=1,
        conv_kernel=3,
        time_step_rank=2,
        use_cache=False,
        use_mambapy=False,
        tie_word_embeddings=False,
    )
    wide_config = config
    wide_config.intermediate_size = 14
    wide = MambaOutput(transformers.MambaForCausalLM(wide_config), "logits")
    labels = {"c": Label(6, 14, death)}
    spec = {
        "*in_proj.weight": f"+c|=c {H}",
        "*conv1d.weight": "+c 1 3",
        "*conv1d.bias": "+c",
        "*x_proj.weight": "8 -c",
        "*dt_proj.weight": "=c 2",
        "*dt_proj.bias": "=c",
        "*A_log": "=c 3",
        "*.D": "=c",
        "*out_proj.weight": f"{H} -c",
    }
    result = carved(
        wide, spec, labels, {"input_ids": text()["input_ids"]}, {"input_ids": {0: "batch"}}, intermediate_size=6
    )
    for module in result.narrow.modules():
        if isinstance(module, nn.Conv1d):
            module.groups = module.in_channels = module.out_channels = 6
    return result


class MambaOutput(Output):
    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return getattr(self.inner(input_ids=input_ids, use_cache=False), self.field)
