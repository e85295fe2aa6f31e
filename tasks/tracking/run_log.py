"""A run that is there: what it is asked, and told at once."""

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from tasks.tracking.store import Store


class RunLog:
    """A run of a store. Each call is answered by the store, or raises what it raises."""

    def __init__(self, store: Store, run_id: str) -> None:
        self.store = store
        self.run_id = run_id
        self._client = store.client

    def summary(self, values: Mapping[str, float]) -> None:
        """Numbers of the whole run, such as the exact loss."""
        now = int(time.time() * 1000)
        self._client.log_batch(self.run_id, [Metric(key, value, now, 0) for key, value in values.items()])

    def text(self, text: str, name: str) -> None:
        """A text file among the run's artifacts."""
        self._client.log_text(self.run_id, text, name)

    def read_text(self, name: str) -> str | None:
        """A text file among the run's artifacts; None if there is no such file, or no such run."""
        try:
            with tempfile.TemporaryDirectory() as folder:
                path = self._client.download_artifacts(self.run_id, name, folder)
                return Path(path).read_text(encoding="utf-8")
        except (MlflowException, FileNotFoundError):
            return None

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
