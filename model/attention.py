"""Owns attention: how each position of a sequence gathers what it needs from the others."""

import math
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.cache import LayerCache
from model.config import NetworkConfig
from model.dropout import dropout
from model.norms import unit_length

ROTARY_BASE: Final = 10_000.0


def explicit_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool,
    visible: Tensor | None = None,
    dropped_share: float = 0.0,
) -> Tensor:
    """softmax(Q K^T / sqrt(d) + mask) V, written out: equation 1 of Vaswani et al. 2017, arXiv:1706.03762.

    query [..., Tq, d], key and value [..., Tk, d] -> [..., Tq, d]. With `causal`, Tq == Tk and position t sees
    the positions up to t; else those that are true in `visible` [..., Tq, Tk], if it is given. `dropped_share` of the attention
    weights are dropped.
    """
    scores = (query / math.sqrt(query.shape[-1])) @ key.transpose(
        -2, -1
    )  # [..., Tq, Tk]: who matters to whom
    if causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(diagonal=1)
        scores = scores.masked_fill(future, -math.inf)  # softmax makes these exactly 0
    elif visible is not None:
        scores = scores.masked_fill(~visible, -math.inf)
    weights = dropout(scores.softmax(dim=-1), dropped_share)
    return weights @ value


def fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool,
    visible: Tensor | None = None,
    dropped_share: float = 0.0,
) -> Tensor:
    """The same as `explicit_attention`, by PyTorch's kernel: never holds all scores in memory (FlashAttention)."""
    if query.device.type == "cpu":
        # PyTorch 2.13 on a CPU: its bfloat16 kernel is slower than its float32 one, 2 times at 16 x 4 heads x 128 x 32; with
        # dropout it uses no kernel at all, but the formula.
        with torch.autocast("cpu", enabled=False):
            vectors = query.float(), key.float(), value.float()
            if dropped_share:
                attended = explicit_attention(
                    *vectors, causal=causal, visible=visible, dropped_share=dropped_share
                )
            else:
                attended = functional.scaled_dot_product_attention(
                    *vectors, attn_mask=visible, is_causal=causal
                )
        return attended.to(query.dtype)
    return functional.scaled_dot_product_attention(
        query, key, value, attn_mask=visible, is_causal=causal, dropout_p=dropped_share
    )


class Rotary(nn.Module):
    """Turns a vector by angles that grow with its place: the product of two then tells how far apart they stand.

    Equation 34 of Su et al. 2021, arXiv:2104.09864; number i is paired with number i + d/2 instead of its neighbour, which is
    the same but for the order of numbers.
    """

    def __init__(self, block_size: int, head_width: int) -> None:
        super().__init__()
        self.cosine = nn.Buffer(torch.empty(block_size, head_width // 2), persistent=False)
        self.sine = nn.Buffer(torch.empty(block_size, head_width // 2), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Fills the tables: [block_size, d/2]."""
        length, pairs = self.cosine.shape
        frequencies = ROTARY_BASE ** -(torch.arange(pairs, device=self.cosine.device) / pairs)
        angles = torch.outer(torch.arange(length, device=self.cosine.device), frequencies)
        self.cosine.copy_(angles.cos())
        self.sine.copy_(angles.sin())

    def forward(self, vectors: Tensor, positions: Tensor | None = None) -> Tensor:
        """[B, heads, T, d] at positions [B, T], or 0 to T - 1 -> the same, turned; computed in float32."""
        if positions is None:
            cosine, sine = self.cosine[: vectors.shape[-2]], self.sine[: vectors.shape[-2]]
        else:
            cosine, sine = self.cosine[positions][:, None], self.sine[positions][:, None]
        first, second = vectors.float().chunk(2, dim=-1)
        turned = [first * cosine - second * sine, second * cosine + first * sine]
        return torch.cat(turned, dim=-1).to(vectors.dtype)


class MultiHeadAttention(nn.Module):
    """Several attentions side by side, each on its own slice of the width.

    Self-attention takes queries, keys and values from one sequence. Cross-attention takes the keys and values
    from another, `memory`: that is how a decoder reads what the encoder understood.

    With `query_key_norm` queries and keys have the same length everywhere (Henry et al. 2020, arXiv:2010.04245), so that scores
    cannot grow without bound.
    """

    def __init__(self, config: NetworkConfig, *, causal: bool) -> None:
        super().__init__()
        self.heads = config.heads
        self.causal = causal
        self.dropped_share = config.dropout
        self.attend = fused_attention if config.attention == "sdpa" else explicit_attention
        self.query = nn.Linear(config.width, config.width, bias=config.query_key_value_bias)
        self.key = nn.Linear(config.width, config.width, bias=config.query_key_value_bias)
        self.value = nn.Linear(config.width, config.width, bias=config.query_key_value_bias)
        self.projection = nn.Linear(config.width, config.width, bias=config.bias)
        head_width = config.width // config.heads
        self.turn = Rotary(config.block_size, head_width) if config.positions == "rotary" else None
        self.scale = unit_length(head_width) if config.query_key_norm else nn.Identity()

    def forward(
        self,
        hidden: Tensor,
        memory: Tensor | None = None,
        past: LayerCache | None = None,
        visible: Tensor | None = None,
    ) -> Tensor:
        """hidden [B, T, width], memory [B, S, width] -> [B, T, width].

        With `past`, self-attention sees the tokens in there too, and leaves the new ones there. With `visible`, bool
        [B, 1, T, T], it sees those tokens alone, instead of all that came before.
        """
        source = hidden if memory is None else memory
        query, key = self._split(self.query(hidden)), self._split(self.key(source))
        value = self._split(self.value(source))
        places = past.places if past else None
        if self.turn and memory is None:  # between two sequences there is no distance
            positions = places.positions if places else None
            query, key = self.turn(query, positions), self.turn(key, positions)
        query, key = self.scale(query), self.scale(key)
        if past:
            key, value = past.extended(key, value)
        gathered = self.attend(
            query,
            key,
            value,
            causal=places.causal if places else self.causal and visible is None,
            visible=places.visible if places else visible,
            dropped_share=self.dropped_share if self.training else 0.0,
        )
        joined = gathered.transpose(1, 2).flatten(start_dim=2)  # [B, heads, T, d] -> [B, T, width]
        projected: Tensor = self.projection(joined)
        return projected

    def _split(self, sequence: Tensor) -> Tensor:
        """[B, T, width] -> [B, heads, T, width / heads]."""
        batch, length, width = sequence.shape
        return sequence.view(batch, length, self.heads, width // self.heads).transpose(1, 2)
