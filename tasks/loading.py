"""A trained model in memory: from a checkpoint folder alone, without orchestrator or tracker."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from model.config import Recipe, recipe_from_dict
from model.device import choose_device
from model.network import LanguageModel, network_from
from model.quantization import quantized_network_from
from model.sampling import Sampling
from model.tokenizer import Tokenizer
from model.writing import Piece, WritingRequest, write, write_batch
from storage.checkpoints import Checkpoint, load_tensors, read_checkpoint
from tasks.adapters import network_tensors
from tasks.tokenizers import load_tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A network on its device, with the tokenizer it was trained with, and the recipe it was trained by."""

    checkpoint: Checkpoint
    recipe: Recipe
    network: LanguageModel
    tokenizer: Tokenizer

    def write(
        self, prompt: str, *, tokens: int, sampling: Sampling | None = None, stop: str | Sequence[str] = ()
    ) -> Iterator[str]:
        """Text that continues the prompt, piece by piece, as `WritingRequest` says; `stop` may be one text or several.

        ValueError for a setting that cannot be meant.
        """
        stops = (stop,) if isinstance(stop, str) else tuple(stop)
        request = WritingRequest(prompt=prompt, tokens=tokens, sampling=sampling or Sampling(), stop=stops)
        return write(self.network, self.tokenizer, request)

    def write_batch(self, requests: Sequence[WritingRequest]) -> Iterator[Piece]:
        """Texts that continue several prompts at once, pieces as they come. ValueError for a setting that cannot be meant."""
        return write_batch(self.network, self.tokenizer, requests)

    def unseen_tokens(self, prompt: str) -> int:
        """How many tokens at the beginning of a prompt the network does not see, since its context holds no more."""
        return max(0, len(self.tokenizer.encode(prompt)) - self.network.config.block_size)


def load_model(path: Path, *, base: Path | None = None) -> LoadedModel:
    """The model of a checkpoint folder, every byte verified; adapters are merged. An adapter alone is put on its base, the
    checkpoint folder `base` or the one it remembers. Raises CheckpointError or ValueError if it is not one.
    """
    checkpoint = read_checkpoint(path)
    recipe = recipe_from_dict(checkpoint.facts["recipe"])
    if kind := checkpoint.facts.get("quantization"):
        network = quantized_network_from(recipe.network, kind, load_tensors(checkpoint, network_only=True))
    else:
        network = network_from(recipe.network, network_tensors(checkpoint, base))
    return LoadedModel(
        checkpoint=checkpoint,
        recipe=recipe,
        network=network.to(choose_device("auto")),
        tokenizer=load_tokenizer(checkpoint.tokenizer_json()),
    )


def best_of(checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    """The checkpoint with the lowest val loss; of equals the earliest. If none has one yet, the last."""
    measured = [checkpoint for checkpoint in checkpoints if checkpoint.facts["val_loss"] is not None]
    return min(measured or checkpoints[-1:], key=lambda checkpoint: checkpoint.facts["val_loss"])
