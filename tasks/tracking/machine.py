"""The machine during a training: CPU, memory, disk, network and GPUs, as MLflow's "System metrics"."""

import logging
from collections.abc import Callable, Mapping
from typing import Self

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

PREFIX = "system/"
logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)  # it says when it starts and stops


class MachineWatch(SystemMetricsMonitor):
    """`with MachineWatch(...):`, and every ten seconds `tell` hears how it is. MLflow's own asks the server each time, and ends when that is down."""

    def __init__(
        self, tell: Callable[[int, Mapping[str, float]], None], *, run_id: str, uri: str, first_step: int
    ) -> None:
        super().__init__(run_id, tracking_uri=uri)
        self._tell = tell
        self._logging_step = first_step

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._shutdown_event.set()
        if self._process is not None:
            self._process.join()

    def monitor(self) -> None:
        """What the thread does."""
        while True:
            for _ in range(self.samples_before_logging):
                self.collect_metrics()
                if self._shutdown_event.wait(self.sampling_interval):
                    return
            self.publish_metrics(self.aggregate_metrics())

    def publish_metrics(self, metrics: Mapping[str, float]) -> None:
        """One more point of each curve."""
        self._tell(self._logging_step, {PREFIX + key: value for key, value in metrics.items()})
        self._logging_step += 1
        for monitor in self.monitors:
            monitor.clear_metrics()
