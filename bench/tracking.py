"""What telling MLflow costs a training: `python -m bench.tracking DATASET [--workspace DIR] [--preset pocket] [--steps 600]`.

One JSON object on stdout. Trains, and adds up the seconds that the loop spends in telling metrics, beside those of the steps; and
the CPU seconds of the thread that watches the machine meanwhile. Checkpoints, samples and evaluations are not metrics, and are
not counted. The two are measured within one run: between runs this differs by less than machines do.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from storage.workspace import Workspace
from tasks.tracking import RunLog
from tasks.training import train
from tasks.training_request import Cadence, TrainingRequest

_CHECKPOINTS = 2  # enough steps lie between them to be measured


def main() -> None:
    """Measures, and prints one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset")
    parser.add_argument("--workspace", default=None)
    parser.add_argument("--preset", default="pocket")
    parser.add_argument("--steps", type=int, default=600)
    arguments = parser.parse_args()
    request = TrainingRequest(
        dataset=arguments.dataset,
        preset=arguments.preset,
        settings={"training.steps": str(arguments.steps)},
        cadence=Cadence(save_every_steps=arguments.steps // _CHECKPOINTS),
    )
    with (
        spent_in(RunLog, "metrics", time.monotonic) as telling,
        spent_in(SystemMetricsMonitor, "monitor", time.thread_time) as watching,
    ):
        trained = train(request, Workspace.at(arguments.workspace and Path(arguments.workspace)))
    assert trained is not None
    print(
        json.dumps(
            {
                "preset": arguments.preset,
                "steps": trained.steps,
                "seconds_of_all": round(trained.seconds, 2),
                "telling_metrics_seconds": round(telling[0], 3),
                "watching_machine_cpu_seconds": round(watching[0], 3),
                "share": round((telling[0] + watching[0]) / trained.seconds, 4),
            },
            indent=1,
        )
    )


@contextmanager
def spent_in(owner: type, name: str, clock: Callable[[], float]) -> Iterator[list[float]]:
    """Inside, the seconds of a clock that calls of a method take are added up."""
    original, spent = getattr(owner, name), [0.0]

    def timed(*args: Any, **kwargs: Any) -> Any:
        began = clock()
        try:
            return original(*args, **kwargs)
        finally:
            spent[0] += clock() - began

    setattr(owner, name, timed)
    try:
        yield spent
    finally:
        setattr(owner, name, original)


if __name__ == "__main__":
    main()
