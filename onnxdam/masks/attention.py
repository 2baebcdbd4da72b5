"""Multi-head attention with fewer heads than its width has room for, which torch's own module cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from onnxdam.errors import UnsupportedError


class NarrowAttention(nn.MultiheadAttention):
    """What `narrow` makes of an `nn.MultiheadAttention` that lost heads: same parameters by name, same call.

    Its rows of `in_proj_weight` are heads * head_dim for each of query, key and value, which need not be `embed_dim`.
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As torch's; an `attn_mask` of its own for every head is not taken."""
        if attn_mask is not None and attn_mask.dim() != 2:
            raise UnsupportedError("NarrowAttention: masks of single heads cannot be told apart once heads have left")
        single, first = query.dim() == 2, self.batch_first and query.dim() == 3
        data = [x.unsqueeze(0) if single else x if first else x.transpose(0, 1) for x in (query, key, value)]
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(x, w, b).unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)
            for x, w, b in zip(data, self._projections(), biases, strict=True)
        )
        scores = q @ k.transpose(2, 3) * self.head_dim**-0.5
        for mask in (attn_mask, None if key_padding_mask is None else key_padding_mask.view(len(k), 1, 1, -1)):
            if mask is not None:
                scores = scores.masked_fill(mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        weights = F.dropout(scores.softmax(-1), self.dropout, self.training)
        y = self.out_proj((weights @ v).transpose(1, 2).flatten(2))
        y = y.squeeze(0) if single else y if first else y.transpose(0, 1)
        if not need_weights:
            return y, None
        weights = weights.mean(1) if average_attn_weights else weights
        return y, weights.squeeze(0) if single else weights

    def _projections(self) -> tuple[Tensor, ...]:
        if self.in_proj_weight is not None:
            return self.in_proj_weight.chunk(3)
        return self.q_proj_weight, self.k_proj_weight, self.v_proj_weight


def fit_attention(module: Any, values: Mapping[str, Tensor], kept: Mapping[str, Mapping[int, tuple[int, ...]]]) -> None:
    """Whole heads have left, or channels of what it reads and writes."""
    if module.bias_k is not None or module.bias_v is not None:
        raise UnsupportedError("narrow: a MultiheadAttention with a bias for keys cannot be changed")
    width, size = module.embed_dim, module.head_dim
    if module._qkv_same_embed_dim:
        stacked = kept.get("in_proj_weight", {}).get(0, range(3 * width))
        rows = [[r - part * width for r in stacked if r // width == part] for part in range(3)]
    else:
        rows = [list(kept.get(f"{part}_proj_weight", {}).get(0, range(width))) for part in "qkv"]
    heads = [sorted({r // size for r in part}) for part in rows]
    if any(len(part) != size * len(heads[0]) or found != heads[0] for part, found in zip(rows, heads, strict=True)):
        raise UnsupportedError(
            "narrow: a MultiheadAttention has lost parts of heads, or other heads of query than of value"
        )
    module.__class__ = NarrowAttention
    module.num_heads = len(heads[0])
    module._qkv_same_embed_dim = (
        False  # encoder layers then do not hand its weights to a kernel that counts on embed_dim
    )
