"""What the stops stand on: a data set and a small GPT trained on it, made when a stop first wants them, and kept."""

import json
from functools import cached_property
from pathlib import Path
from typing import Final

from model.tokenizer import Tokenizer
from storage.checkpoints import list_checkpoints
from storage.datasets import Dataset
from storage.files import write_json
from storage.workspace import Workspace
from tasks.build import build
from tasks.corpora import DEFAULT_CORPUS, CorpusConfig
from tasks.loading import LoadedModel, load_model
from tasks.registry import FoundModel, find_model
from tasks.tokenizers import load_tokenizer
from tasks.workers import Workers, chosen_workers

#: What the small GPT is trained by: half of the preset pocket, by Muon, which learns more where steps are few (docs/decisions.md).
GPT_STEPS: Final = 300
GPT_SETTINGS: Final = {
    "network.layers": "2",
    "training.batch_size": "16",
    "training.optimizer": "muon",
    "training.schedule": "stable",
    "training.learning_rate": "0.006",
    "training.warmup_steps": "20",
}
_VAL_FRACTION: Final = 0.1  # a tour's corpus may have a few dozen documents


class Ground:
    """A workspace with a corpus. What is made in it stays: the next tour begins with it."""

    def __init__(
        self, workspace: Workspace, *, corpus: str = DEFAULT_CORPUS, gpt_steps: int = GPT_STEPS
    ) -> None:
        self.workspace = workspace
        self.corpus = corpus
        self.gpt_steps = gpt_steps

    @property
    def folder(self) -> Path:
        """Where the tour keeps what is its own."""
        return self.workspace.root / "tour"

    @property
    def config(self) -> CorpusConfig:
        """What the data set is made of."""
        return CorpusConfig(corpus=self.corpus, val_fraction=_VAL_FRACTION)

    @cached_property
    def dataset(self) -> Dataset:
        """The corpus as tokens, by characters."""
        return self.built(self.config)

    def built(self, config: CorpusConfig) -> Dataset:
        """A data set; one that is there already is not built again."""
        with Workers(chosen_workers(config.workers)) as workers:
            return build(config, self.workspace, workers)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The data set's."""
        return load_tokenizer(self.dataset.tokenizer_json())

    @cached_property
    def text(self) -> str:
        """The beginning of the train split."""
        return self.tokenizer.decode(self.dataset.token_file("train").open()[:20_000])

    @cached_property
    def gpt(self) -> FoundModel:
        """A small GPT that was trained on the data set, now or on an earlier tour."""
        from tasks.training import train  # Prefect comes with it, which takes a while
        from tasks.training_request import TrainingRequest

        if (run_id := self._earlier_run()) is None:
            settings = GPT_SETTINGS | {"training.steps": str(self.gpt_steps)}
            trained = train(
                TrainingRequest(dataset=self.dataset.reference, settings=settings), self.workspace
            )
            assert trained is not None, "one machine trains"
            run_id = trained.run_id
            write_json(self._record, {"run_id": run_id, "made_from": self._made_from})
        return find_model(run_id, self.workspace)

    @cached_property
    def model(self) -> LoadedModel:
        """The small GPT in memory."""
        return load_model(self.gpt.path)

    @property
    def _record(self) -> Path:
        return self.folder / "gpt.json"

    @property
    def _made_from(self) -> list[object]:
        return [self.dataset.manifest.digest, self.gpt_steps, GPT_SETTINGS]

    def _earlier_run(self) -> str | None:
        """The run of an earlier tour, if it trained the same and its checkpoints are still there."""
        if not self._record.is_file():
            return None
        record = json.loads(self._record.read_text(encoding="utf-8"))
        is_there = bool(list_checkpoints(self.workspace.checkpoints / record["run_id"]))
        return record["run_id"] if is_there and record["made_from"] == self._made_from else None
