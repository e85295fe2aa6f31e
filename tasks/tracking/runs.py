"""Runs: begun, gone on with, found again; and what each tells, its metrics in batches and its checkpoints as logged models."""

import logging
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from matplotlib.figure import Figure
from mlflow.entities import Dataset as DatasetEntity
from mlflow.entities import DatasetInput, InputTag, LoggedModelOutput, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from storage.checkpoints import Checkpoint, checkpoint_name
from storage.datasets import Dataset
from storage.files import link_or_copy
from tasks.engine import ROOT_FLOW_RUN
from tasks.tracking.store import Store, local_path

logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)  # it says when it starts and stops

DEFAULT_MLFLOW_UI = "http://127.0.0.1:5000"
FLUSH_SECONDS = 5.0
_MOST_METRICS_A_CALL = 900  # the server takes 1,000
_MOST_PARAMS_A_CALL = 100


class Tracker(Store):
    """The runs of a store."""

    def start_run(
        self, name: str, dataset: Dataset, parameters: Mapping[str, Any], tags: Mapping[str, str]
    ) -> "RunLog":
        """A new run, with the data set as its input."""
        run_id = self.client.create_run(self.experiment_id, run_name=name, tags=dict(tags)).info.run_id
        params = [Param(key, str(value)) for key, value in parameters.items()]
        for start in range(0, len(params), _MOST_PARAMS_A_CALL):
            self.client.log_batch(run_id, params=params[start : start + _MOST_PARAMS_A_CALL])
        self.client.log_inputs(run_id, [_dataset_input(dataset)])
        return RunLog(self, run_id)

    def resume_run(self, run_id: str, tags: Mapping[str, str]) -> "RunLog":
        """An earlier run, to go on. Points up to its last logged step are there and will not be logged twice."""
        self.client.update_run(run_id, status="RUNNING")
        self.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
        logged_through = {
            key: max((point.step for point in self.client.get_metric_history(run_id, key)), default=0)
            for key in ("train_loss", "val_loss")
        }
        return RunLog(self, run_id, logged_through=logged_through)

    def unfinished_runs(self, flow_run_id: str) -> list[str]:
        """Ids of the runs that this Prefect flow run has begun and not brought to their end, the latest first."""
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

    def run_url(self, run_id: str) -> str:
        """The page of a run: on the tracking server, or where `brickroad up` shows this workspace, or will."""
        shown_at = self.workspace.services().get("mlflow_url", DEFAULT_MLFLOW_UI)
        server = self.uri if self.uri.startswith("http") else shown_at
        return f"{server.rstrip('/')}/#/experiments/{self.experiment_id}/runs/{run_id}"


class RunLog:
    """What one run tells MLflow. Metrics wait for one another and go in batches.

    A tracker that does not answer never ends a training: what could not be sent is kept, and tried again.
    """

    def __init__(self, store: Store, run_id: str, *, logged_through: Mapping[str, int] | None = None) -> None:
        self.store = store
        self.run_id = run_id
        self._client = store.client
        #: The last step of curves that are there; curves not named are logged together with the train loss.
        self._logged_through = logged_through or {"train_loss": 0}
        self._waiting: list[Metric] = []
        self._flushed = time.monotonic()
        self._failing = False

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Points of curves at a step."""
        now = int(time.time() * 1000)
        self._waiting += [
            Metric(key, value, now, step)
            for key, value in values.items()
            if step > self._logged_through.get(key, self._logged_through["train_loss"])
        ]
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def summary(self, values: Mapping[str, float]) -> None:
        """Numbers of the whole run, such as the exact loss."""
        now = int(time.time() * 1000)
        self._waiting += [Metric(key, value, now, 0) for key, value in values.items()]
        self.flush()

    def flush(self) -> None:
        """Sends what is waiting; if that fails, says so once and keeps it."""
        try:
            while self._waiting:
                self._client.log_batch(self.run_id, metrics=self._waiting[:_MOST_METRICS_A_CALL])
                del self._waiting[:_MOST_METRICS_A_CALL]
            self._failing = False
        except MlflowException as error:
            if not self._failing:
                print(
                    f"MLflow at {self.store.uri} does not take metrics ({error}); going on", file=sys.stderr
                )
            self._failing = True
        self._flushed = time.monotonic()

    def text(self, text: str, name: str) -> None:
        """A text file among the run's artifacts."""
        self._client.log_text(self.run_id, text, name)

    def table(self, columns: Mapping[str, list[Any]], name: str) -> None:
        """A table among the run's artifacts, which the run's page shows as one."""
        self._client.log_table(self.run_id, dict(columns), name)

    def figure(self, figure: Figure, name: str) -> None:
        """A picture among the run's artifacts."""
        self._client.log_figure(self.run_id, figure, name)

    def describe(self, markdown: str) -> None:
        """The description on the run's page."""
        self._client.set_tag(self.run_id, "mlflow.note.content", markdown)

    def tag(self, key: str) -> str | None:
        """The value of a tag of the run, if it is set."""
        value: str | None = self._client.get_run(self.run_id).data.tags.get(key)
        return value

    def was_trained_on(self, dataset_digest: str) -> bool:
        """Whether a data set with this digest is an input of the run."""
        inputs = self._client.get_run(self.run_id).inputs.dataset_inputs
        return any(one.dataset.digest == dataset_digest for one in inputs)

    def history(self, key: str) -> list[tuple[int, float]]:
        """(step, value) of a curve, by step, across all restarts of the run."""
        points = self._client.get_metric_history(self.run_id, key)
        return sorted({point.step: point.value for point in points}.items())

    def checkpoint(self, checkpoint: Checkpoint, metrics: Mapping[str, float], dataset: Dataset) -> str:
        """Stores a checkpoint as a logged model of the run, ranked by its metrics; returns the model's id."""
        model = self._client.create_logged_model(
            self.store.experiment_id,
            name=checkpoint.path.name,
            source_run_id=self.run_id,
            params={"step": str(checkpoint.step)},
            model_type="checkpoint",
        )
        if place := local_path(model.artifact_location):
            place.mkdir(parents=True, exist_ok=True)
            for file in checkpoint.path.iterdir():
                link_or_copy(file, place / file.name)
        else:
            self._client.log_model_artifacts(model.model_id, str(checkpoint.path))
        self._client.finalize_logged_model(model.model_id, "READY")
        self._client.log_outputs(self.run_id, [LoggedModelOutput(model.model_id, step=checkpoint.step)])
        for key, value in metrics.items():
            self._client.log_metric(
                self.run_id,
                key,
                value,
                step=checkpoint.step,
                model_id=model.model_id,
                dataset_name=dataset.manifest.name,
                dataset_digest=dataset.manifest.digest,
            )
        return str(model.model_id)

    def forget_checkpoint(self, step: int) -> None:
        """Removes the logged model of a checkpoint that is not kept, and its bytes where they are on this disk."""
        models = self._client.search_logged_models(
            [self.store.experiment_id],
            filter_string=f"source_run_id = '{self.run_id}' AND name = '{checkpoint_name(step)}'",
        )
        for model in models:
            self._client.delete_logged_model(model.model_id)
            if place := local_path(model.artifact_location):
                shutil.rmtree(place, ignore_errors=True)

    @contextmanager
    def watching_machine(self) -> Iterator[None]:
        """Inside, CPU, memory, disk, network and NVIDIA GPUs are told every ten seconds, as MLflow's "System metrics"."""
        monitor = SystemMetricsMonitor(self.run_id, resume_logging=True, tracking_uri=self.store.uri)
        monitor.start()
        try:
            yield
        finally:
            monitor.finish()

    def end(self, status: str) -> None:
        """Sends the rest, and closes the run as FINISHED, FAILED or KILLED."""
        self.flush()
        self._client.set_terminated(self.run_id, status)


class SilentLog(RunLog):
    """The log of a process that does not speak for its training: MLflow hears nothing."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Nothing."""

    def text(self, text: str, name: str) -> None:
        """Nothing."""

    def watching_machine(self) -> AbstractContextManager[None]:
        """Nothing."""
        return nullcontext()

    def end(self, status: str) -> None:
        """Nothing."""


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
