"""Telling MLflow what a training has noted, so that the same told twice is the same told once.

Points have their time, and the databases of MLflow keep one row of the same point. Checkpoints are looked for before they are
made. What else there is replaces what was there.
"""

import sys
from collections.abc import Mapping, Sequence

from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Metric, Run, RunTag
from mlflow.exceptions import MlflowException

from storage.checkpoints import checkpoint_name
from storage.files import PARTIAL_SUFFIX, link_or_copy
from tasks.tracking.entries import Dropped, Ended, Entry, Points, Resumed, Saved, Text
from tasks.tracking.store import Store, local_path, one_line

MOST_POINTS_A_CALL = 900  # the server takes 1,000
_REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")  # which no waiting heals


class Teller:
    """Tells a store entries of a run.

    `heard` are the last steps of the curves that the store has already: what is noted of them up to there is there, told by us or
    by another machine that went on with the run.
    """

    def __init__(self, store: Store, run_id: str, *, heard: Mapping[str, int]) -> None:
        self.store = store
        self.run_id = run_id
        self.refused = 0
        self._heard = heard
        self._client = store.client

    def tell(self, entries: Sequence[Entry]) -> None:
        """Several entries of points, or one other. Raises what the store raises; what it refuses for good is named, and left."""
        try:
            self._tell(entries)
        except MlflowException as error:
            if error.error_code not in _REFUSALS:
                raise
            if len(entries) > 1:  # one of them, and not the others for its sake
                for entry in entries:
                    self.tell([entry])
                return
            if not self.refused:
                print(
                    f"MLflow at {self.store.place} refuses a {type(entries[0]).__name__.lower()} entry of run "
                    f"{self.run_id}, and will not have it ({one_line(error)})",
                    file=sys.stderr,
                )
            self.refused += 1

    def _tell(self, entries: Sequence[Entry]) -> None:
        points = [entry for entry in entries if isinstance(entry, Points)]
        if points:
            self._points(points)
        for entry in entries:
            match entry:
                case Text(name=name, text=text):
                    self._client.log_text(self.run_id, text, name)
                case Resumed(tags=tags):
                    self._client.update_run(self.run_id, status="RUNNING")
                    self._client.log_batch(
                        self.run_id, tags=[RunTag(key, value) for key, value in tags.items()]
                    )
                case Saved():
                    self._saved(entry)
                case Dropped(step=step):
                    self._dropped(step)
                case Ended(status=status, at_ms=at_ms):
                    self._client.set_terminated(self.run_id, status, end_time=at_ms)

    def _points(self, points: Sequence[Points]) -> None:
        metrics = [
            Metric(key, value, one.at_ms, one.step)
            for one in points
            for key, value in one.values.items()
            if one.step > self._heard.get(key, -1)
        ]
        for start in range(0, len(metrics), MOST_POINTS_A_CALL):
            self._client.log_batch(self.run_id, metrics=metrics[start : start + MOST_POINTS_A_CALL])

    def _saved(self, entry: Saved) -> None:
        """A checkpoint as a logged model of the run, ranked by its metrics; none if it is there no more."""
        model = self._stored(entry.step)
        if model is None:
            return
        outputs = self._client.get_run(self.run_id).outputs
        if model.model_id not in [one.model_id for one in (outputs.model_outputs if outputs else [])]:
            self._client.log_outputs(self.run_id, [LoggedModelOutput(model.model_id, step=entry.step)])
        for key, value in entry.metrics.items():
            self._client.log_metric(
                self.run_id,
                key,
                value,
                timestamp=self._time_of(key, entry.step),
                step=entry.step,
                model_id=model.model_id,
                dataset_name=entry.dataset_name,
                dataset_digest=entry.dataset_digest,
            )

    def _stored(self, step: int) -> LoggedModel | None:
        """The model of a checkpoint with all its files, or None if those are gone: an entry to come says that it was dropped."""
        folder = self.store.workspace.checkpoints / self.run_id / checkpoint_name(step)
        known = self._models(step)
        if known and known[0].status == LoggedModelStatus.READY:
            return known[0]
        if not (folder / "checkpoint.json").is_file():
            return None
        model = known[0] if known else self._new_model(step)
        try:
            if place := local_path(model.artifact_location):
                place.mkdir(parents=True, exist_ok=True)
                for file in folder.iterdir():
                    if not file.name.endswith(PARTIAL_SUFFIX):
                        link_or_copy(file, place / file.name)
            else:
                self._client.log_model_artifacts(model.model_id, str(folder))
        except OSError:
            if (folder / "checkpoint.json").is_file():
                raise
            return None  # dropped while we read it
        return self._client.finalize_logged_model(model.model_id, "READY")

    def _new_model(self, step: int) -> LoggedModel:
        return self._client.create_logged_model(
            self.store.experiment_id,
            name=checkpoint_name(step),
            source_run_id=self.run_id,
            params={"step": str(step)},
            model_type="checkpoint",
        )

    def _dropped(self, step: int) -> None:
        """Removes the models of a checkpoint."""
        for model in self._models(step):
            self.store.discard_model(model.model_id, model.artifact_location)

    def _models(self, step: int) -> list[LoggedModel]:
        return list(
            self._client.search_logged_models(
                [self.store.experiment_id],
                filter_string=f"source_run_id = '{self.run_id}' AND name = '{checkpoint_name(step)}'",
            )
        )

    def _time_of(self, key: str, step: int) -> int | None:
        """When the run's own point of this step was made: told for its model with the same time, the run has it once."""
        times = [
            point.timestamp
            for point in self._client.get_metric_history(self.run_id, key)
            if point.step == step
        ]
        return times[0] if times else None


def last_steps(run: Run) -> dict[str, int]:
    """The last step of each curve that the store has of a run."""
    return {point.key: point.step for point in run.data.to_proto().metrics}
