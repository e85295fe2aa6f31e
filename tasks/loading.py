"""A trained model in memory: from a checkpoint folder alone, without orchestrator or tracker."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.config import Recipe, recipe_from_dict
from model.device import choose_device
from model.generation import generate
from model.network import LanguageModel, network_from
from model.tokenizer import Tokenizer
from storage.checkpoints import Checkpoint, load_tensors, read_checkpoint
from tasks.tokenizers import load_tokenizer

_MOST_BYTES_A_CHARACTER = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A network on its device, with the tokenizer it was trained with, and the recipe it was trained by."""

    checkpoint: Checkpoint
    recipe: Recipe
    network: LanguageModel
    tokenizer: Tokenizer

    def write(
        self,
        prompt: str,
        *,
        tokens: int,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
    ) -> Iterator[str]:
        """Text that continues the prompt, piece by piece, until `tokens` are written or the document ends.

        An empty prompt starts a new document. Raises ValueError for a setting that cannot be meant.
        """
        return write(
            self.network,
            self.tokenizer,
            prompt,
            tokens=tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
        )


def load_model(path: Path) -> LoadedModel:
    """The model of a checkpoint folder, every byte verified. Raises CheckpointError or ValueError if it is not one."""
    checkpoint = read_checkpoint(path)
    recipe = recipe_from_dict(checkpoint.facts["recipe"])
    network = network_from(recipe.network, load_tensors(checkpoint, network_only=True))
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


def write(
    network: LanguageModel, tokenizer: Tokenizer, prompt: str, *, tokens: int, **choices: Any
) -> Iterator[str]:
    """As `LoadedModel.write`, by a network that may still be in training."""
    start = tokenizer.encode(prompt) if prompt else [tokenizer.end_of_text]
    ids = generate(network, start, tokens=tokens, stop_id=tokenizer.end_of_text, **choices)
    return _text(ids, tokenizer)


def _text(ids: Iterator[int], tokenizer: Tokenizer) -> Iterator[str]:
    """Decodes as ids arrive; the bytes of a character that is spelt in bytes wait for one another."""
    waiting: list[int] = []
    for token in ids:
        waiting.append(token)
        text = tokenizer.decode(waiting)
        if "\ufffd" not in text or len(waiting) >= _MOST_BYTES_A_CHARACTER:
            yield text
            waiting = []
    if waiting:
        yield tokenizer.decode(waiting)
