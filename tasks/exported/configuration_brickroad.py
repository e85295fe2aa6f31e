"""The shape of a model that brickroad trained, for Hugging Face's library: config.json, read and written."""

from dataclasses import asdict
from typing import Any

from transformers import PretrainedConfig

from model.config import NetworkConfig


class BrickroadConfig(PretrainedConfig):
    """`network` has the fields of NetworkConfig, which config.py beside this file explains one by one."""

    model_type = "brickroad"

    def __init__(self, network: dict[str, Any] | None = None, **others: Any) -> None:
        """Without arguments it is a shape of the default sizes over 256 bytes and an end of text; the library asks for one."""
        self.network = asdict(NetworkConfig(**(network or {"vocabulary_size": 257})))
        super().__init__(**others)

    @property
    def vocab_size(self) -> int:
        """Ids that the network knows; and so on, by the names under which others ask."""
        return int(self.network["vocabulary_size"])

    @property
    def max_position_embeddings(self) -> int:
        """The longest text that the network sees, in tokens."""
        return int(self.network["block_size"])

    @property
    def hidden_size(self) -> int:
        """Numbers that stand for a token between the layers."""
        return int(self.network["width"])

    @property
    def num_hidden_layers(self) -> int:
        """Blocks, one after another."""
        return int(self.network["layers"])

    @property
    def num_attention_heads(self) -> int:
        """Attentions side by side in each block."""
        return int(self.network["heads"])
