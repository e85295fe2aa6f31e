"""Owns the language models: the bigram table and the GPT, built the same on every machine from a config and a seed."""

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.attention import Rotary
from model.blocks import Block
from model.cache import KeyValueCache
from model.config import NetworkConfig
from model.dropout import Dropout
from model.norms import norm_of
from model.parts import part_of

INITIAL_DEVIATION: Final = 0.02  # GPT-2's, for every matrix


class LanguageModel(nn.Module):
    """A network that reads ids and gives, for each position, a score for every id that may come next."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, ids: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """ids int64 [B, T], T at most block_size -> logits [B, T, vocabulary_size].

        With a cache, `ids` follow what each of its rows has already, and are there afterwards; the logits are those after the
        last of them alone: [B, 1, vocabulary_size]. Of a network that keeps documents apart a row is one document. ValueError if a
        row gets longer than block_size.
        """
        raise NotImplementedError

    def empty_cache(self, rows: int) -> KeyValueCache:
        """A cache for so many texts of this network."""
        return KeyValueCache(self.config.block_size, layers=self.config.layers, rows=rows)


class BigramTable(LanguageModel):
    """Row i holds the scores of what follows token i: the smallest language model, blind to all before."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        self.table = nn.Embedding(config.vocabulary_size, config.vocabulary_size)

    def forward(self, ids: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        if cache:
            cache.begin(ids)
            ids = ids[:, -1:]
        logits: Tensor = self.table(ids)
        return logits


class Gpt(LanguageModel):
    """A decoder-only Transformer: embeddings, causal blocks, a last norm, and a head over the vocabulary."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        if config.documents == "apart" and config.end_of_text < 0:
            raise ValueError(
                "network.documents is apart, and network.end_of_text, which parts them, is not set"
            )
        self.embedding = Embedding(config)
        self.blocks = nn.ModuleList(Block(config, causal=True) for _ in range(config.layers))
        self.norm = norm_of(config)
        if not config.tied_head:
            self.head = nn.Linear(config.width, config.vocabulary_size, bias=config.bias)

    def forward(self, ids: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        hidden = self.embedding(ids, cache.begin(ids).positions if cache else None)
        visible = None if cache else self._visible(ids)
        for number, block in enumerate(self.blocks):
            hidden = block(hidden, past=cache.layers[number] if cache else None, visible=visible)
        if cache:
            hidden = hidden[:, -1:]
        hidden = self.norm(hidden)
        # Press and Wolf 2017, arXiv:1608.05859: one matrix reads and writes tokens.
        scores = self.embedding.token.scores if self.config.tied_head else self.head
        logits: Tensor = scores(hidden)
        # Gemma 2, arXiv:2408.00118, section 2: no score gets beyond the cap.
        if cap := self.config.logit_soft_cap:
            logits = cap * (logits.float() / cap).tanh()
        return logits

    def _visible(self, ids: Tensor) -> Tensor | None:
        """Which tokens each token may see where documents are apart, bool [B, 1, T, T]: those of its own up to itself.

        An end of text belongs to the document that follows it.
        """
        if self.config.documents == "joined":
            return None
        documents = (ids == self.config.end_of_text).cumsum(dim=1)
        is_same = documents[:, None, :, None] == documents[:, None, None, :]
        return is_same.tril()


class TokenEmbedding(nn.Embedding):
    """What each token is, learned; as a head's matrix it reads as well as writes."""

    def scores(self, hidden: Tensor) -> Tensor:
        """hidden [..., width] -> [..., vocabulary_size]."""
        return functional.linear(hidden, self.weight)


class Embedding(nn.Module):
    """What a token is plus where it stands, both learned; or what it is alone, where attention tells the distance."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.block_size = config.block_size
        self.token = TokenEmbedding(config.vocabulary_size, config.width)
        self.position = (
            nn.Embedding(config.block_size, config.width) if config.positions == "learned" else None
        )
        self.dropout = Dropout(config.dropout)

    def forward(self, ids: Tensor, positions: Tensor | None = None) -> Tensor:
        """ids [B, T] at positions [B, T], or 0 to T - 1 -> [B, T, width]. ValueError if T is above block_size."""
        length = ids.shape[1]
        if length > self.block_size:
            raise ValueError(
                f"{length} tokens do not fit the network's context of {self.block_size}; crop the text"
            )
        embedded: Tensor = self.token(ids)
        if self.position:
            embedded = embedded + self.position.weight[slice(length) if positions is None else positions]
        dropped: Tensor = self.dropout(embedded)
        return dropped


def build_network(config: NetworkConfig, *, seed: int) -> LanguageModel:
    """The network of a config with its first weights, on the CPU; the same bytes for the same seed."""
    network = empty_network(config)  # PyTorch's own first weights would draw from the global generator
    initialise(network, layers=config.layers, seed=seed)
    return network


def empty_network(config: NetworkConfig) -> LanguageModel:
    """The network of a config on "meta": with shapes, and no numbers in them."""
    with torch.device("meta"):
        return BigramTable(config) if config.kind == "bigram" else Gpt(config)


def network_from(config: NetworkConfig, tensors: Mapping[str, Tensor]) -> LanguageModel:
    """The network of a config with given weights, on the CPU, ready to predict (eval mode).

    `tensors` as in `TrainingState.tensors`: those named "network.…" are copied, others ignored. ValueError
    names a tensor that is missing, unexpected or of another shape.
    """
    network = build_network(config, seed=0)
    load_tensors(network, tensors)
    return network.eval()


def load_tensors(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copies the tensors named "network.…" into a network, all or nothing. ValueError as in `network_from`."""
    given = {name: tensor for name, tensor in tensors.items() if name.startswith("network.")}
    check_tensors(given, {f"network.{name}": tensor for name, tensor in network.state_dict().items()})
    with torch.no_grad():
        for name, own in network.state_dict().items():
            own.copy_(part_of(given[f"network.{name}"].to(own.device), like=own))


def check_tensors(given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """ValueError in one line that names the first tensor missing, unexpected, or of another shape."""
    for name in sorted(given.keys() ^ expected.keys()):
        found = "is missing" if name in expected else "is not expected"
        raise ValueError(f"tensor {name} {found}; the checkpoint is of another network, check its config")
    for name, tensor in expected.items():
        if given[name].shape != tensor.shape:
            shapes = f"{list(given[name].shape)}, expected {list(tensor.shape)}"
            raise ValueError(f"tensor {name} has the shape {shapes}; the checkpoint is of another network")


def initialise(network: nn.Module, *, layers: int, seed: int) -> None:
    """Gives a network of "meta" its memory, on the CPU, and GPT-2's first weights.

    Those are normal with deviation 0.02, biases 0, norms 1. The matrices that write into the residual stream,
    two a layer, start smaller by sqrt(2 x layers), so that their sum does not grow with depth (Radford et al.
    2019, section 2.3).
    """
    network.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    for name, module in network.named_modules():
        if isinstance(module, nn.LayerNorm | Rotary):
            module.reset_parameters()
        elif isinstance(module, nn.Linear | nn.Embedding):
            deviation = INITIAL_DEVIATION
            if name.endswith(".projection"):
                deviation /= math.sqrt(2 * layers)
            nn.init.normal_(module.weight, std=deviation, generator=generator)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)


def parameter_count(network: nn.Module) -> int:
    """Numbers to learn; shared ones count once."""
    return sum(parameter.numel() for parameter in network.parameters())


@contextlib.contextmanager
def predicting(network: nn.Module) -> Iterator[None]:
    """Inside, the network is in eval mode (no dropout) and keeps no gradients; afterwards it is as it was."""
    was_training = network.training
    if was_training:  # walking through all its parts takes as long as a token of a small network
        network.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        if was_training:
            network.train()


def device_of(network: nn.Module) -> torch.device:
    """Where the network's weights are."""
    return next(network.parameters()).device
