"""The model card: what an exported model is, what it learnt from, how good it is, how to run it, and what it cannot do."""

import functools
import json
import math
from pathlib import Path
from typing import Any

import jinja2

from model.config import Recipe, recipe_to_dict
from storage.checkpoints import Checkpoint
from storage.datasets import Dataset, find_dataset
from storage.errors import DatasetError
from storage.workspace import Workspace
from tasks.corpora import CATALOGUE

_PROMPT_TOKENS = 8  # at most, of the card's own example
_SHOWN_TOKENS = 100


def model_card(
    checkpoint: Checkpoint,
    recipe: Recipe,
    workspace: Workspace,
    *,
    parameters: int,
    needs_own_code: bool,
    spells_in_bytes: bool,
) -> str:
    """The text of README.md: YAML front matter as the Hugging Face hub reads it, and Markdown. It has no path of this machine.

    `spells_in_bytes` if the tokenizer is one of characters, which spells the rare ones.
    """
    facts = checkpoint.facts
    dataset = _dataset(facts, workspace)
    return _template().render(
        name=f"brickroad-{_origin(facts)}",
        origin=_origin(facts),
        facts=facts,
        step=checkpoint.step,
        recipe=recipe,
        recipe_json=json.dumps(recipe_to_dict(recipe), indent=1),
        parameters=parameters,
        dataset=dataset,
        licences=_licences(dataset) if dataset else [],
        bits_per_byte=_bits_per_byte(facts["val_loss"], dataset),
        shown_tokens=max(1, min(_SHOWN_TOKENS, recipe.network.block_size - _PROMPT_TOKENS)),
        needs_own_code=needs_own_code,
        spells_in_bytes=spells_in_bytes,
    )


@functools.cache
def _template() -> jinja2.Template:
    text = (Path(__file__).parent / "templates" / "model_card.md").read_text(encoding="utf-8")
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)  # nosec B701 # makes Markdown, where HTML's escapes would be read as text
    # Markdown, not HTML: nothing is escaped but what goes into YAML, as JSON, which is YAML.
    environment.filters["quoted"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string(text)


def _origin(facts: dict[str, Any]) -> str:
    """What the model was trained on, or imported from."""
    if facts["dataset"]:
        return Path(facts["dataset"]).name.partition("@")[0]
    return Path(facts.get("imported", {}).get("source", "model")).name


def _dataset(facts: dict[str, Any], workspace: Workspace) -> Dataset | None:
    """The data set that the model was trained on, if it is here still."""
    try:
        found = find_dataset(workspace.datasets, facts["dataset"]) if facts["dataset"] else None
    except DatasetError:
        return None
    return found if found and found.manifest.digest == facts["dataset_digest"] else None


def _licences(dataset: Dataset) -> list[str]:
    """What the catalogue says of the texts' licence, for the sources and the corpus that it knows."""
    corpus = dataset.manifest.build.get("config", {}).get("corpus")
    sha256 = {source.sha256 for source in dataset.manifest.sources}
    known = [entry for entry in CATALOGUE.values() if entry.name == corpus or entry.sha256 in sha256]
    return [f"{entry.name}: {entry.licence}" for entry in known]


def _bits_per_byte(val_loss: float | None, dataset: Dataset | None) -> float | None:
    if val_loss is None or dataset is None:
        return None
    val = dataset.manifest.val
    return val_loss * val.tokens / val.text_bytes / math.log(2)
