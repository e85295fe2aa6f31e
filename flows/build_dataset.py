"""The flow that turns a corpus into a data set: the same inputs give the same bytes, and what is done is not done again."""

import contextlib
import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from prefect import Task, flow, get_run_logger
from prefect.futures import PrefectFuture
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.utilities.callables import get_call_parameters

from storage.workspace import Workspace
from tasks.artifacts import show_dataset
from tasks.build import BuiltDataset, build_in_steps
from tasks.corpora import CorpusConfig, locate_shards
from tasks.dataset import count_parts, join, learn_tokenizer, leave_out, publish
from tasks.encode import encode, encode_in_place
from tasks.engine import can_heal, road_task
from tasks.examine import examine
from tasks.ingest import ingest
from tasks.reuse import earlier_tokens
from tasks.watch import Watch
from tasks.workers import Workers, chosen_workers

P = ParamSpec("P")
R = TypeVar("R")

#: The steps of a build as Prefect shows them.
_TASKS: dict[Callable[..., Any], Task[..., Any]] = {
    locate_shards: road_task("locate shards", retries=2, retry_delay_seconds=5, retry_condition_fn=can_heal)(
        locate_shards
    ),
    ingest: road_task("ingest shards", tags=["xz"])(ingest),
    examine: road_task("examine documents")(examine),
    leave_out: road_task("leave documents out")(leave_out),
    count_parts: road_task("count characters")(count_parts),
    learn_tokenizer: road_task("learn tokenizer")(learn_tokenizer),
    earlier_tokens: road_task("find earlier tokens")(earlier_tokens),
    encode: road_task("encode shards")(encode),
    encode_in_place: road_task("encode blocks")(encode_in_place),
    join: road_task("join data set")(join),
    publish: road_task("publish data set")(publish),
}
#: What a bar says of the steps that go over all shards, and in which units it counts.
_PROGRESS: dict[Callable[..., Any], tuple[str, str]] = {
    ingest: ("ingest", "files"),
    examine: ("examine", "shards"),
    encode: ("encode", "shards"),
    encode_in_place: ("encode", "blocks"),
}


@flow(name="build-dataset", flow_run_name="build {config.shown_corpus}", persist_result=False)
def build_dataset(config: CorpusConfig | None = None, workspace: Path | None = None) -> BuiltDataset:
    """Corpus to token files.

    Args:
        config: what to build from, and how; by default the documentation inside Python, which needs no network.
        workspace: the folder that holds everything; by default $BRICKROAD_WORKSPACE, else ./workspace.
    """
    config = config or CorpusConfig()

    def start_workers() -> Workers:
        count = chosen_workers(config.workers, config.memory_budget_bytes)
        return Workers(count, memory_budget_bytes=config.memory_budget_bytes)

    built = build_in_steps(config, Workspace.at(workspace), _TaskSteps(), start_workers)
    show_dataset(built)
    return built


class _TaskSteps:
    """Steps as task runs of this flow run, with a bar and a progress artifact for those that take long."""

    @property
    def log(self) -> "logging.Logger | logging.LoggerAdapter[Any]":
        return get_run_logger()

    def one(self, step: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        result: R = _TASKS[step](*args, **kwargs)
        return result

    def many(
        self,
        step: Callable[..., Sequence[R]],
        groups: Iterable[Sequence[Any]],
        *,
        total: int,
        workers: Workers,
        **settings: Any,
    ) -> Generator[R]:
        what, unit = _PROGRESS[step]
        task, settings = _TASKS[step], settings | {"workers": workers}
        futures: list[PrefectFuture[list[R]]] = []
        with (
            Watch(what, total=total, unit=unit, artifact_key=what) as watch,
            ThreadPoolTaskRunner(max_workers=workers.count) as runner,
            _stopped_on_error(workers),  # else the runner would wait for all groups
        ):
            for group in groups:
                futures.append(runner.submit(task, get_call_parameters(step, (group,), settings)))
            for future in futures:
                results = future.result()
                watch.advance(len(results))
                yield from results


@contextlib.contextmanager
def _stopped_on_error(workers: Workers) -> Iterator[None]:
    try:
        yield
    except BaseException:
        workers.stop()
        raise
