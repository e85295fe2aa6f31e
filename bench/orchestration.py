"""What orchestration costs: `python -m bench.orchestration [--shards FOLDER] [--dataset PATH] [--task-runs N] [--repeats 5]`.

One JSON object on stdout. The same work is done as plain functions and as its flow, turn and turn about in one process, against one
Prefect server that runs on this machine all the while: a cold build of the shards; a training of the data set with its evaluation. Of
each pair the ratio is taken, since machines change from minute to minute; the median of these is the figure, and their quartiles
say how far it can be trusted. `fastest_ratio` is that of the fastest of each, since what others do on the machine can only add.
`cpu_ratio` is that of CPU seconds of this process, its children and the server: it hardly notices others. The bar is 1.03 at a
minute of work.

`--task-runs` has a flow make so many task runs that do nothing, as a build does for a cluster of a quarter as many workers, and waits
until the server has recorded all of them.
"""

import argparse
import json
import math
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from flows.prefect_server import prefect_ready
from storage.workspace import Workspace

Work = Callable[[Path], Any]

_RECORDED_SECONDS = 600.0  # that the server has for it, before the missing ones count as lost


def main() -> None:
    """Measures, and prints one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shards", help="a folder of .xz shards to build from")
    parser.add_argument("--limit-shards", type=int, default=None)
    parser.add_argument("--tokenizer", default="char")
    parser.add_argument("--dataset", help="a data set to train on, by its path")
    parser.add_argument("--preset", default="course")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--task-runs", type=int, help="how many that do nothing, such as 4000")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--folder",
        type=Path,
        default=None,
        help="where to work; by default a temporary one; /dev/shm is without a disk's moods",
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        prefect_ready(Path(folder), debug=False)
        found: dict[str, Any] = {"processors": os.cpu_count(), "repeats": arguments.repeats}
        if arguments.shards:
            works = building(arguments.shards, arguments.limit_shards, arguments.tokenizer)
            found["build"] = compared(works, arguments.repeats, Path(folder))
        if arguments.dataset:
            works = training(arguments.dataset, arguments.preset, arguments.steps)
            found["train"] = compared(works, arguments.repeats, Path(folder))
        if arguments.task_runs:
            found["task_runs"] = task_runs(arguments.task_runs)
        print(json.dumps(found, indent=1))


def building(shards: str, limit_shards: int | None, tokenizer: str) -> tuple[Work, Work]:
    """A cold build: as plain functions, and as the flow."""
    from flows.build_dataset import build_dataset
    from tasks.build import build_in_steps
    from tasks.corpora import CorpusConfig
    from tasks.steps import PlainSteps
    from tasks.workers import Workers, chosen_workers

    config = CorpusConfig(corpus=shards, name="bench", limit_shards=limit_shards, tokenizer=tokenizer)

    def plain(folder: Path) -> Any:
        return build_in_steps(
            config, Workspace.at(folder), PlainSteps(), lambda: Workers(chosen_workers(None))
        )

    return plain, lambda folder: build_dataset(config, workspace=folder)


def training(dataset: str, preset: str, steps: int) -> tuple[Work, Work]:
    """A training with its evaluation: as plain functions, and as the flow."""
    from flows.train_model import train_model
    from storage.datasets import read_dataset
    from tasks.evaluation import evaluate_checkpoint
    from tasks.registry import find_model
    from tasks.report import log_evaluation
    from tasks.training import train
    from tasks.training_request import TrainingRequest

    lent = read_dataset(Path(dataset).absolute())
    request = TrainingRequest(dataset=lent.reference, preset=preset, settings={"training.steps": str(steps)})

    def lend(folder: Path) -> Workspace:
        place = Workspace.at(folder)
        there = place.datasets / lent.manifest.name
        there.mkdir(parents=True)
        (there / lent.manifest.digest).symlink_to(lent.path)
        return place

    def plain(folder: Path) -> Any:
        place = lend(folder)
        trained = train(request, place)
        assert trained is not None
        found = find_model(trained.run_id, place)
        log_evaluation(evaluate_checkpoint(found.path, None, place), found, place)

    return plain, lambda folder: train_model(request, workspace=lend(folder).root)


def task_runs(count: int) -> dict[str, float]:
    """CPU seconds of a task run that does nothing, of this process and of the server; and whether all were recorded.

    To be called where a server of this process is ready.
    """
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.runtime import flow_run
    from prefect.task_runners import ThreadPoolTaskRunner

    from tasks.engine import road_task

    empty = road_task("nothing")(lambda number: number)

    @flow(name="task-runs")
    def make(count: int) -> str:
        with ThreadPoolTaskRunner(max_workers=math.ceil(count / 4)) as runner:
            for future in [runner.submit(empty, {"number": number}) for number in range(count)]:
                future.result()
        return str(flow_run.id)

    def recorded(flow_run_id: str) -> int:
        wanted = {
            "flow_runs": {"id": {"any_": [flow_run_id]}},
            "task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
        }
        with get_client(sync_client=True) as client:
            return int(client.request("POST", "/task_runs/count", json=wanted).json())

    make(1)  # what only the first flow of a process costs
    began, own_began, cpu_began = time.perf_counter(), time.process_time(), cpu_seconds()
    flow_run_id = make(count)
    seconds, own = time.perf_counter() - began, time.process_time() - own_began
    while (found := recorded(flow_run_id)) < count and time.perf_counter() - began < _RECORDED_SECONDS:
        time.sleep(1.0)
    return {
        "task_runs": count,
        "recorded": found,
        "seconds": round(seconds, 2),
        "recorded_after_seconds": round(time.perf_counter() - began, 2),
        "builder_seconds": round(own / count, 5),
        "server_seconds": round((cpu_seconds() - cpu_began - own) / count, 5),
    }


def compared(works: tuple[Work, Work], repeats: int, folder: Path) -> dict[str, Any]:
    """Medians and ratios of the flow over the plain functions, after a turn of each that is not counted."""
    for work in works:
        timed(work, folder)
    pairs = []
    for repeat in range(repeats):
        order = (0, 1) if repeat % 2 == 0 else (1, 0)  # whoever comes second may find caches warmer
        measured = {number: timed(works[number], folder) for number in order}
        pairs.append((measured[0], measured[1]))
        seconds, ratio = pairs[-1][0][0], pairs[-1][1][0] / pairs[-1][0][0]
        print(f"pair {repeat + 1} of {repeats}: {seconds:.1f} s plain, ratio {ratio:.3f}", file=sys.stderr)
    ratios, cpu_ratios = ([flow[part] / plain[part] for plain, flow in pairs] for part in (0, 1))
    return {
        "plain_seconds": round(statistics.median(plain[0] for plain, _ in pairs), 2),
        "flow_seconds": round(statistics.median(flow[0] for _, flow in pairs), 2),
        "ratio": round(statistics.median(ratios), 4),
        "ratio_quartiles": [round(value, 4) for value in statistics.quantiles(ratios, n=4)[::2]],
        "fastest_ratio": round(min(flow[0] for _, flow in pairs) / min(plain[0] for plain, _ in pairs), 4),
        "extra_seconds": round(statistics.median(flow[0] - plain[0] for plain, flow in pairs), 2),
        "plain_cpu_seconds": round(statistics.median(plain[1] for plain, _ in pairs), 2),
        "flow_cpu_seconds": round(statistics.median(flow[1] for _, flow in pairs), 2),
        "cpu_ratio": round(statistics.median(cpu_ratios), 4),
    }


def timed(work: Work, folder: Path) -> tuple[float, float]:
    """Seconds, and CPU seconds of all processes, of a piece of work in a workspace with nothing but its tracking database."""
    place = Workspace.at(folder / "work")
    for each in (place.datasets, place.documents, place.tokens, place.checkpoints, place.evaluations):
        shutil.rmtree(each, ignore_errors=True)
    began, cpu_began = time.perf_counter(), cpu_seconds()
    work(place.root)
    return time.perf_counter() - began, cpu_seconds() - cpu_began


def cpu_seconds() -> float:
    """CPU seconds of this process, of the children that ended, and of those that run, such as the server."""
    own = os.times()
    running = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return (
        own.user
        + own.system
        + own.children_user
        + own.children_system
        + sum(times.user + times.system for times in running)
    )


if __name__ == "__main__":
    main()
