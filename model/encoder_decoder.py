"""Owns the other half of the Transformer: the encoder, and the decoder that reads it by cross-attention."""

import torch
from torch import Tensor, nn

from model.blocks import Block
from model.config import NetworkConfig
from model.network import Embedding, initialise
from model.norms import norm_of


class Encoder(nn.Module):
    """Blocks without the mask: every position sees the whole sequence, left and right. For understanding a text."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.embedding = Embedding(config)
        self.blocks = nn.ModuleList(Block(config, causal=False) for _ in range(config.layers))
        self.norm = norm_of(config)

    def forward(self, ids: Tensor) -> Tensor:
        """ids [B, S] -> what each position means in its sequence, [B, S, width]."""
        hidden = self.embedding(ids)
        for block in self.blocks:
            hidden = block(hidden)
        understood: Tensor = self.norm(hidden)
        return understood


class EncoderDecoder(nn.Module):
    """The whole Transformer of Vaswani et al. 2017: an encoder reads the source, a decoder writes the target.

    Each block of the decoder sees the target so far (masked) and all of the source (cross-attention).
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        self.embedding = Embedding(config)
        self.blocks = nn.ModuleList(
            Block(config, causal=True, cross_attention=True) for _ in range(config.layers)
        )
        self.norm = norm_of(config)
        self.head = nn.Linear(config.width, config.vocabulary_size, bias=config.bias)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """source ids [B, S], target ids so far [B, T] -> logits of the next target ids [B, T, vocabulary_size]."""
        memory = self.encoder(source)
        hidden = self.embedding(target)
        for block in self.blocks:
            hidden = block(hidden, memory)
        logits: Tensor = self.head(self.norm(hidden))
        return logits


def build_encoder_decoder(config: NetworkConfig, *, seed: int) -> EncoderDecoder:
    """The encoder-decoder of a config with GPT-2's first weights, on the CPU; the same for the same seed."""
    with torch.device("meta"):
        network = EncoderDecoder(config)
    initialise(network, layers=config.layers, seed=seed)
    return network
