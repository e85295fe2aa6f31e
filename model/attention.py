"""Owns attention: how each position of a sequence gathers what it needs from the others."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.config import NetworkConfig


def explicit_attention(
    query: Tensor, key: Tensor, value: Tensor, *, causal: bool, dropout: float = 0.0
) -> Tensor:
    """softmax(Q K^T / sqrt(d) + mask) V, written out: equation 1 of Vaswani et al. 2017, arXiv:1706.03762.

    query [..., Tq, d], key and value [..., Tk, d] -> [..., Tq, d]. With `causal`, Tq == Tk and position t sees
    the positions up to t. `dropout` is the share of attention weights to drop.
    """
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])  # [..., Tq, Tk]: who matters to whom
    if causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(diagonal=1)
        scores = scores.masked_fill(future, -math.inf)  # softmax makes these exactly 0
    weights = functional.dropout(scores.softmax(dim=-1), dropout)
    return weights @ value


def fused_attention(
    query: Tensor, key: Tensor, value: Tensor, *, causal: bool, dropout: float = 0.0
) -> Tensor:
    """The same as `explicit_attention`, by PyTorch's kernel: never holds all scores in memory (FlashAttention)."""
    if query.device.type == "cpu" and query.dtype == torch.bfloat16:
        # PyTorch 2.13's bfloat16 kernel for the CPU is slower than its float32 one, 2 times at 16 x 4 heads x 128 x 32.
        with torch.autocast("cpu", enabled=False):
            attended = functional.scaled_dot_product_attention(
                query.float(), key.float(), value.float(), is_causal=causal, dropout_p=dropout
            )
        return attended.to(torch.bfloat16)
    return functional.scaled_dot_product_attention(query, key, value, is_causal=causal, dropout_p=dropout)


class MultiHeadAttention(nn.Module):
    """Several attentions side by side, each on its own slice of the width.

    Self-attention takes queries, keys and values from one sequence. Cross-attention takes the keys and values
    from another, `memory`: that is how a decoder reads what the encoder understood.
    """

    def __init__(self, config: NetworkConfig, *, causal: bool) -> None:
        super().__init__()
        self.heads = config.heads
        self.causal = causal
        self.dropout = config.dropout
        self.attend = fused_attention if config.attention == "sdpa" else explicit_attention
        self.query = nn.Linear(config.width, config.width, bias=config.query_key_value_bias)
        self.key = nn.Linear(config.width, config.width, bias=config.query_key_value_bias)
        self.value = nn.Linear(config.width, config.width, bias=config.query_key_value_bias)
        self.projection = nn.Linear(config.width, config.width, bias=config.bias)

    def forward(self, hidden: Tensor, memory: Tensor | None = None) -> Tensor:
        """hidden [B, T, width], memory [B, S, width] -> [B, T, width]."""
        source = hidden if memory is None else memory
        gathered = self.attend(
            self._split(self.query(hidden)),
            self._split(self.key(source)),
            self._split(self.value(source)),
            causal=self.causal,
            dropout=self.dropout if self.training else 0.0,
        )
        joined = gathered.transpose(1, 2).flatten(start_dim=2)  # [B, heads, T, d] -> [B, T, width]
        projected: Tensor = self.projection(joined)
        return projected

    def _split(self, sequence: Tensor) -> Tensor:
        """[B, T, width] -> [B, heads, T, width / heads]."""
        batch, length, width = sequence.shape
        return sequence.view(batch, length, self.heads, width // self.heads).transpose(1, 2)
