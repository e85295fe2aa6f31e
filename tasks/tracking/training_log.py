"""What a training tells of its run while it is on its way: by the outbox, so that it never waits for MLflow."""

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

from storage.checkpoints import Checkpoint
from storage.datasets import Dataset
from storage.journal import Journal
from tasks.tracking.entries import Dropped, Ended, Points, Resumed, Saved, Text, from_fields
from tasks.tracking.machine import PREFIX, MachineWatch
from tasks.tracking.outbox import Outbox
from tasks.tracking.run_log import RunLog
from tasks.tracking.store import Store
from tasks.tracking.telling import Teller

_JOURNAL_SECONDS = 60.0  # that another, which ships what the run had left, may take to give it back


class TrainingLog(RunLog):
    """The log of a training, whose journal it holds until the end. Of a run that goes on, `heard` is what the store has of it:
    steps up to the last that the store or the journal has are not told again."""

    def __init__(self, store: Store, run_id: str, *, heard: Mapping[str, int]) -> None:
        super().__init__(store, run_id)
        journal = Journal(store.workspace.journals / f"{run_id}.jsonl", wait_seconds=_JOURNAL_SECONDS)
        self._outbox = Outbox(journal, Teller(store, run_id, heard=heard))
        self._told = dict(heard)
        for line in journal.lines():
            entry = from_fields(line.entry)
            if isinstance(entry, Points):
                for key in entry.values:
                    self._told[key] = max(entry.step, self._told.get(key, -1))

    def resumed(self, tags: Mapping[str, str]) -> None:
        """The run goes on."""
        self._outbox.put(Resumed(tags=dict(tags)))

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Points of curves at a step."""
        new = {key: float(value) for key, value in values.items() if step > self._told.get(key, -1)}
        if new:
            self._outbox.put(Points(step=step, at_ms=_now_ms(), values=new))

    def text(self, text: str, name: str) -> None:
        """A text file among the run's artifacts."""
        self._outbox.put(Text(name=name, text=text))

    def flush(self) -> None:
        """Returns when all that was told is on the disk: what goes on from here finds it."""
        self._outbox.secure()

    def checkpoint(self, checkpoint: Checkpoint, metrics: Mapping[str, float], dataset: Dataset) -> None:
        """A checkpoint in the run's folder, which is to be a logged model of the run, ranked by its metrics."""
        name, digest = dataset.manifest.name, dataset.manifest.digest
        self._outbox.put(
            Saved(step=checkpoint.step, metrics=dict(metrics), dataset_name=name, dataset_digest=digest)
        )

    def forget_checkpoint(self, step: int) -> None:
        """The checkpoint of a step is not kept: its logged model goes, and its bytes where they are on this disk."""
        self._outbox.put(Dropped(step=step))

    def watching_machine(self) -> AbstractContextManager[object]:
        """Inside, CPU, memory, disk, network and NVIDIA GPUs are told every ten seconds, as MLflow's "System metrics"."""
        first = 1 + max((step for key, step in self._told.items() if key.startswith(PREFIX)), default=-1)
        return MachineWatch(self.metrics, run_id=self.run_id, uri=self.store.uri, first_step=first)

    def end(self, status: str) -> None:
        """Closes the run as FINISHED, FAILED or KILLED, and ships the rest while the store answers."""
        self._outbox.put(Ended(status=status, at_ms=_now_ms()))
        self._outbox.close()


class SilentLog(TrainingLog):
    """The log of a process that does not speak for its training: MLflow hears nothing."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Nothing."""

    def text(self, text: str, name: str) -> None:
        """Nothing."""

    def watching_machine(self) -> AbstractContextManager[object]:
        """Nothing."""
        return nullcontext()

    def end(self, status: str) -> None:
        """Nothing."""


def _now_ms() -> int:
    return int(time.time() * 1000)
