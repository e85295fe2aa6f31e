"""The checkpoints of one training: which are kept, in its folder and in MLflow."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.training import TrainingState
from storage.checkpoints import Checkpoint, list_checkpoints, remove_checkpoint, save_checkpoint, with_facts
from storage.datasets import Dataset
from storage.files import remove_partials
from tasks.loading import best_of
from tasks.tracking import TrainingLog


class KeptCheckpoints:
    """The last few checkpoints in a folder, and the best of all; each is a logged model of the run."""

    def __init__(self, folder: Path, run: TrainingLog, *, keep_last: int) -> None:
        self._folder = folder
        self._run = run
        self._keep_last = keep_last

    def save(self, state: TrainingState, facts: Mapping[str, Any], dataset: Dataset) -> Checkpoint:
        """A checkpoint of this step; one of it that was saved without its val loss has now what is known."""
        self._run.flush()  # a training that goes on from here finds the points that lead to it
        val_loss = facts["val_loss"]
        checkpoint = save_checkpoint(
            self._folder,
            step=state.step,
            tensors=state.tensors,
            facts=facts,
            tokenizer_json=dataset.tokenizer_json(),
        )
        if checkpoint.facts["val_loss"] != val_loss:
            checkpoint = with_facts(checkpoint, facts)
            self._run.forget_checkpoint(checkpoint.step)
        self._run.checkpoint(checkpoint, {} if val_loss is None else {"val_loss": val_loss}, dataset)
        return checkpoint

    def drop_old(self) -> None:
        """Removes all but the last few and the best."""
        best = self.best()
        for old in list_checkpoints(self._folder)[: -self._keep_last]:
            if old.path != best.path:
                self._run.forget_checkpoint(old.step)
                remove_checkpoint(old)

    def drop_partials(self) -> None:
        """Removes what a save has left that was killed."""
        remove_partials(self._folder)

    def best(self) -> Checkpoint:
        """The best of those that are kept."""
        return best_of(list_checkpoints(self._folder))

    def steps(self) -> list[int]:
        """The steps that there are checkpoints of."""
        return [checkpoint.step for checkpoint in list_checkpoints(self._folder)]

    def way_back(self) -> str:
        """Where the last one is from before all was lost, for a person."""
        found = list_checkpoints(self._folder)
        if not found:
            return "there is no checkpoint from before"
        return f"the last good checkpoint is {found[-1].path}"
