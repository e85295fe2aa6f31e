"""Runs: begun, gone on with, found again; and those that nobody speaks for any more, told to their end."""

import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlflow.entities import Dataset as DatasetEntity
from mlflow.entities import DatasetInput, InputTag, LifecycleStage, Param
from mlflow.exceptions import MlflowException

from storage.datasets import Dataset
from storage.errors import JournalHeldError
from storage.journal import Journal, list_journals
from tasks.engine import ROOT_FLOW_RUN
from tasks.tracking.entries import Ended, to_fields
from tasks.tracking.outbox import is_empty, is_over, last_sign_ms, ship
from tasks.tracking.store import Store, TrackingError, one_line
from tasks.tracking.telling import Teller, last_steps
from tasks.tracking.training_log import TrainingLog

DEFAULT_MLFLOW_UI = "http://127.0.0.1:5000"
_MOST_PARAMS_A_CALL = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What was done about the journal of a run that nobody speaks for: `failure` says why not all of it was shipped."""

    run_id: str
    failure: str | None


class Tracker(Store):
    """The runs of a store."""

    def start_run(
        self, name: str, dataset: Dataset, parameters: Mapping[str, Any], tags: Mapping[str, str]
    ) -> TrainingLog:
        """A new run, with the data set as its input. TrackingError if the store does not answer."""
        with self.answering():
            run_id = self.client.create_run(self.experiment_id, run_name=name, tags=dict(tags)).info.run_id
        log = TrainingLog(self, run_id, heard={})
        try:
            params = [Param(key, str(value)) for key, value in parameters.items()]
            with self.answering():
                for start in range(0, len(params), _MOST_PARAMS_A_CALL):
                    self.client.log_batch(run_id, params=params[start : start + _MOST_PARAMS_A_CALL])
                self.client.log_inputs(run_id, [_dataset_input(dataset)])
        except BaseException:
            log.end("FAILED")
            raise
        return log

    def resume_run(self, run_id: str, tags: Mapping[str, str]) -> TrainingLog:
        """An earlier run, to go on. Points that it has told, to the store or to its journal, will not be told twice."""
        with self.answering():
            heard = last_steps(self.client.get_run(run_id))
        log = TrainingLog(self, run_id, heard=heard)
        log.resumed(tags)
        return log

    def unfinished_runs(self, flow_run_id: str) -> list[str]:
        """Ids of the runs that this Prefect flow run has begun and not brought to their end, the latest first."""
        with self.answering():
            found = self.client.search_runs(
                [self.experiment_id],
                filter_string=f"tags.`{ROOT_FLOW_RUN}` = '{flow_run_id}' AND attributes.status != 'FINISHED'",
                order_by=["attributes.start_time DESC"],
            )
        return [run.info.run_id for run in found]

    def finished_runs(self, dataset_digest: str) -> list[str]:
        """Ids of the runs that were trained to their end on a data set, the latest first."""
        found = self.client.search_runs(
            [self.experiment_id],
            filter_string=f"dataset.digest = '{dataset_digest}' AND attributes.status = 'FINISHED'",
            order_by=["attributes.start_time DESC"],
        )
        return [run.info.run_id for run in found]

    def killed_runs(self, dataset_digest: str) -> list[str]:
        """Ids of the runs on a data set that were stopped or died on their way, the latest first."""
        found = self.client.search_runs(
            [self.experiment_id],
            filter_string=f"attributes.status = 'KILLED' AND dataset.digest = '{dataset_digest}'",
            order_by=["attributes.start_time DESC"],
        )
        return [run.info.run_id for run in found]

    def running_tag(self, run_id: str, key: str) -> str | None:
        """A tag of a run that is RUNNING; None if it is not, has no such tag, or there is no such run."""
        try:
            run = self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return run.data.tags.get(key) if run.info.status == "RUNNING" else None

    def run_url(self, run_id: str) -> str:
        """The page of a run: on the tracking server, or where `brickroad up` shows this workspace, or will."""
        shown_at = self.workspace.services().get("mlflow_url", DEFAULT_MLFLOW_UI)
        server = self.place if self.uri.startswith("http") else shown_at
        return f"{server.rstrip('/')}/#/experiments/{self.experiment_id}/runs/{run_id}"

    def ship_left(self) -> list[Left]:
        """Ships what runs of this workspace have left in their journals; those that are being told are left alone.

        A run that was killed by kill -9 stays RUNNING: whoever knows that it is dead calls `end_dead_run`.
        """
        found = []
        for path in list_journals(self.workspace.journals):
            try:
                journal = Journal(path)
            except JournalHeldError:
                continue
            found.append(Left(run_id=path.stem, failure=self._ship(path.stem, journal)))
        return found

    def ship_left_meanwhile(self) -> None:
        """The same on a thread of its own, which ends with the process."""

        def tell() -> None:
            for left in self.ship_left():
                if left.failure:
                    print(
                        f"what run {left.run_id} has left stays in its journal: {left.failure}",
                        file=sys.stderr,
                    )

        threading.Thread(target=tell, name="what other runs have left", daemon=True).start()

    def end_dead_run(self, run_id: str, status: str = "KILLED") -> None:
        """Ships what a run has left whose process is dead, and closes it at its last sign of life if it did not say its end itself.

        Raises JournalHeldError if a process speaks for it, TrackingError if the store does not answer: then its end is in the
        journal, and whoever ships what is left tells it.
        """
        journal = Journal(self.workspace.journals / f"{run_id}.jsonl")
        if is_empty(journal):  # all was told before, or it ran on another machine
            journal.remove()
            with self.answering():
                if self.client.get_run(run_id).info.status == "RUNNING":
                    self.client.set_terminated(run_id, status)
            return
        if not is_over(journal):
            journal.append(to_fields(Ended(status=status, at_ms=last_sign_ms(journal))))
        if failure := self._ship(run_id, journal):
            raise TrackingError(
                f"run {run_id} is over, and MLflow at {self.place} has not heard it ({failure})"
            )

    def _ship(self, run_id: str, journal: Journal) -> str | None:
        """Ships a journal and gives it back; one that is told to the run's end is removed. Returns why it could not, if so."""
        try:
            run = self.client.get_run(run_id)
            if run.info.lifecycle_stage != LifecycleStage.ACTIVE:
                raise TrackingError("the run is deleted in MLflow; restore it there, or delete the journal")
            ship(journal, Teller(self, run_id, heard=last_steps(run)))
        except Exception as error:  # whatever a store or a way to its artifacts raises is the reason
            journal.close()
            return one_line(error)
        if is_empty(journal) or is_over(journal):
            journal.remove()
        else:
            journal.close()
        return None


def _dataset_input(dataset: Dataset) -> DatasetInput:
    """A data set as an input of a run. Entities are made by hand: MLflow's `from_numpy` would copy the memory map."""
    manifest = dataset.manifest
    profile = f'{{"train_tokens": {manifest.train.tokens}, "val_tokens": {manifest.val.tokens}}}'
    entity = DatasetEntity(
        name=manifest.name,
        digest=manifest.digest,
        source_type="local",
        source=f'{{"uri": "{dataset.path}"}}',
        profile=profile,
    )
    return DatasetInput(entity, tags=[InputTag("mlflow.data.context", "training")])
