"""Owns the Transformer block: attention to look around, a feed-forward to think, norms and residuals to train well."""

from typing import Final

from torch import Tensor, nn
from torch.nn import functional

from model.attention import MultiHeadAttention
from model.cache import LayerCache
from model.config import Activation, NetworkConfig
from model.dropout import Dropout
from model.norms import norm_of


class FeedForward(nn.Module):
    """What a position does with what it gathered: out to four times the width, an activation, and back."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.expand = nn.Linear(config.width, 4 * config.width, bias=config.bias)
        self.activation = _activation(config.activation)
        self.projection = nn.Linear(4 * config.width, config.width, bias=config.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, T, width] -> [B, T, width], each position by itself."""
        thought: Tensor = self.projection(self.activation(self.expand(hidden)))
        return thought


class Block(nn.Module):
    """Self-attention, cross-attention if asked for, and feed-forward, each added to what was there before.

    With norm "post" (Vaswani et al. 2017, and the course) the sum is normalised: x = norm(x + f(x)). With "pre"
    (GPT-2) the input of each part is: x = x + f(norm(x)), so a gradient finds a straight way down; deep stacks
    train without it only with care (Xiong et al. 2020, arXiv:2002.04745).
    """

    def __init__(self, config: NetworkConfig, *, causal: bool, cross_attention: bool = False) -> None:
        super().__init__()
        self.pre_norm = config.norm == "pre"
        self.attention = MultiHeadAttention(config, causal=causal)
        self.attention_norm = norm_of(config)
        if cross_attention:
            self.cross_attention = MultiHeadAttention(config, causal=False)
            self.cross_attention_norm = norm_of(config)
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = norm_of(config)
        self.dropout = Dropout(config.dropout)

    def forward(
        self,
        hidden: Tensor,
        memory: Tensor | None = None,
        past: LayerCache | None = None,
        visible: Tensor | None = None,
    ) -> Tensor:
        """hidden [B, T, width], and memory [B, S, width] for cross-attention -> [B, T, width].

        `past` has what self-attention keeps of the tokens before these; `visible` is as `MultiHeadAttention` has it.
        """
        hidden = self._add(hidden, self.attention, self.attention_norm, None, past, visible)
        if memory is not None:
            hidden = self._add(hidden, self.cross_attention, self.cross_attention_norm, memory)
        return self._add(hidden, self.feed_forward, self.feed_forward_norm)

    def _add(
        self, hidden: Tensor, part: nn.Module, norm: nn.Module, *others: Tensor | LayerCache | None
    ) -> Tensor:
        """The residual connection around one part, which also sees `others`, with the norm where the config wants it."""
        added: Tensor
        if self.pre_norm:
            added = hidden + self.dropout(part(norm(hidden), *others))
        else:
            added = norm(hidden + self.dropout(part(hidden, *others)))
        return added


class SquaredReLU(nn.Module):
    """The square of ReLU (So et al. 2021, "Primer", arXiv:2109.08668)."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Of any shape, number by number."""
        return functional.relu(hidden).square()


def _activation(name: Activation) -> nn.Module:
    """The bend between two linear layers, without which they would be one."""
    choices: Final = {
        "relu": nn.ReLU(),
        "gelu": nn.GELU(approximate="tanh"),  # as GPT-2 computes it
        "sigmoid": nn.Sigmoid(),
        "tanh": nn.Tanh(),
        "relu_squared": SquaredReLU(),
    }
    return choices[name]
