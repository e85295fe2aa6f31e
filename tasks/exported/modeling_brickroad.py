"""A model that brickroad trained, for Hugging Face's library: AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True).

The network itself is in network.py beside this file. That file and those that it imports are brickroad's own, unchanged but for
their imports; attention.py and blocks.py are where to read how it works. Here is only what the library wants around it.
"""

from typing import Any

from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from model.attention import Rotary
from model.config import NetworkConfig
from model.network import BigramTable, Gpt
from tasks.exported.configuration_brickroad import BrickroadConfig


class BrickroadForCausalLM(PreTrainedModel, GenerationMixin):
    """Reads token ids and gives, for each position, a score for every id that may come next.

    Texts of one batch must be equally long, or padded on the right: the network has no way to be told of padding, and what
    stands on the right cannot be seen from the left. There is no cache of keys and values: each new token reads the text again.
    """

    config_class = BrickroadConfig

    def __init__(self, config: BrickroadConfig) -> None:
        super().__init__(config)
        shape = NetworkConfig(**config.network)
        self.network = BigramTable(shape) if shape.kind == "bigram" else Gpt(shape)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **others: Any,
    ) -> CausalLMOutput:
        """ids [B, T] -> logits [B, T, vocabulary]; with `labels` [B, T], which are the ids again, also the loss in nats a token.

        A label of -100 is not counted. ValueError if T is more than the network's context, or a text is padded on the left.
        """
        if attention_mask is not None and (attention_mask[:, 1:] > attention_mask[:, :-1]).any():
            raise ValueError(
                "texts are padded on the left, which this network cannot know; pad them on the right"
            )
        logits = self.network(input_ids)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=self.config.vocab_size)
        return CausalLMOutput(loss=loss, logits=logits)

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **others: Any
    ) -> dict[str, Any]:
        """What `generate` feeds in for the next token: as much of the end of the text as the network sees."""
        seen = self.config.max_position_embeddings
        mask = None if attention_mask is None else attention_mask[:, -seen:]
        return {"input_ids": input_ids[:, -seen:], "attention_mask": mask}

    def get_input_embeddings(self) -> nn.Embedding:
        """The table that ids are looked up in."""
        return self.network.table if isinstance(self.network, BigramTable) else self.network.embedding.token

    def _init_weights(self, module: nn.Module) -> None:
        """What no file has: the tables of rotary positions, and, of a new network, the first weights."""
        if isinstance(module, Rotary):
            module.reset_parameters()
        else:
            super()._init_weights(module)
