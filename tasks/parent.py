"""The model that a fine-tuning begins from: what is recorded of it, and what fits it."""

import shlex
from dataclasses import dataclass
from typing import Any

from model.config import Recipe, recipe_from_dict
from storage.checkpoints import Checkpoint, network_sha256, read_checkpoint
from storage.datasets import Dataset
from storage.errors import CheckpointError
from storage.workspace import Workspace
from tasks.registry import find_model
from tasks.tokenizers import load_tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """A checkpoint, as it was asked for by `reference`."""

    reference: str
    checkpoint: Checkpoint

    @property
    def recipe(self) -> Recipe:
        """The recipe that it was trained by."""
        return recipe_from_dict(self.checkpoint.facts["recipe"])

    @property
    def dataset(self) -> str | None:
        """The data set it was trained on, by its reference; None of a model that came from elsewhere."""
        return self.checkpoint.facts.get("dataset")

    def facts(self) -> dict[str, Any]:
        """What its children's checkpoints say of it."""
        known = self.checkpoint.facts
        return {
            "run_id": known.get("run_id"),
            "step": self.checkpoint.step,
            "path": str(self.checkpoint.path.absolute()),
            "network_sha256": network_sha256(self.checkpoint),
            "dataset": known.get("dataset"),
            "dataset_digest": known.get("dataset_digest"),
        }

    def tags(self) -> dict[str, str]:
        """What its children's runs in MLflow say of it."""
        facts = self.facts()
        return {
            "parent.run_id": str(facts["run_id"]),
            "parent.checkpoint_sha256": facts["network_sha256"],
            "parent.checkpoint": facts["path"],
        }

    def refuse_other_tokenizer(self, dataset: Dataset) -> None:
        """Raises ValueError, with the way out, if the model cannot read the data set's tokens."""
        own = load_tokenizer(self.checkpoint.tokenizer_json())
        if own.fingerprint != dataset.manifest.tokenizer_fingerprint:
            tokenizer = self.checkpoint.path / "tokenizer.json"
            corpus = dataset.manifest.build.get("config", {}).get("corpus", "CORPUS")
            raise ValueError(
                f"{dataset.reference} was encoded with another tokenizer than {self.reference}'s; build it with: brickroad dataset "
                f"build {shlex.quote(corpus)} --name {dataset.manifest.name} --tokenizer {shlex.quote(str(tokenizer))}"
            )

    def refuse_child_of_another(self, child: Checkpoint) -> None:
        """Raises ValueError if a checkpoint to go on from did not begin from this model."""
        recorded = child.facts.get("parent")
        if recorded is None or recorded["network_sha256"] != network_sha256(self.checkpoint):
            parent = recorded["path"] if recorded else "a seed's weights: go on with brickroad train"
            raise ValueError(
                f"{child.path.parent.name} did not begin from {self.reference}, but from {parent}"
            )


def find_parent(reference: str, workspace: Workspace) -> Parent:
    """The model of a reference as `find_model` takes it. Raises CheckpointError if there is none, or it is quantized."""
    checkpoint = read_checkpoint(find_model(reference, workspace).path)
    if kind := checkpoint.facts.get("quantization"):
        made_from = checkpoint.facts["parent"]["path"]
        raise CheckpointError(
            f"{reference}: is quantized to {kind}, and learns no more; fine-tune the model it was made from, {made_from}"
        )
    return Parent(reference=reference, checkpoint=checkpoint)
