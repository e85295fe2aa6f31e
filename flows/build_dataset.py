"""The flow that turns a corpus into a data set: the same inputs give the same bytes, and what is done is not done again."""

import contextlib
import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from prefect import State, Task, flow, get_run_logger
from prefect.futures import PrefectConcurrentFuture, PrefectFuture
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.utilities.annotations import quote
from prefect.utilities.callables import get_call_parameters

from flows.events import tell_of_dataset
from storage.store import Store
from storage.workspace import Workspace
from tasks.artifacts import show_dataset
from tasks.at_work import leased
from tasks.build import BuiltDataset, build_in_steps
from tasks.corpora import CorpusConfig, locate_shards
from tasks.dataset import count_parts, join, learn_tokenizer, leave_out, publish
from tasks.encode import encode, encode_in_place
from tasks.encode_afar import encode_afar
from tasks.engine import HEALING, road_task
from tasks.engines.start import EngineConfig, started_workers
from tasks.examine import examine
from tasks.ingest import ingest
from tasks.reuse import earlier_tokens
from tasks.sharing import bring_dataset, share_dataset, share_texts
from tasks.watch import Watch
from tasks.workers import Workers

P = ParamSpec("P")
R = TypeVar("R")

#: The steps of a build as Prefect shows them.
_TASKS: dict[Callable[..., Any], Task[..., Any]] = {
    locate_shards: road_task("locate shards", **HEALING)(locate_shards),
    ingest: road_task("ingest shards")(ingest),
    examine: road_task("examine documents")(examine),
    leave_out: road_task("leave documents out")(leave_out),
    count_parts: road_task("count characters")(count_parts),
    learn_tokenizer: road_task("learn tokenizer")(learn_tokenizer),
    earlier_tokens: road_task("find earlier tokens")(earlier_tokens),
    encode: road_task("encode shards")(encode),
    encode_afar: road_task("encode shards")(encode_afar),
    encode_in_place: road_task("encode blocks")(encode_in_place),
    join: road_task("join data set")(join),
    publish: road_task("publish data set")(publish),
    share_texts: road_task("share stored text")(share_texts),
    share_dataset: road_task("share data set")(share_dataset),
    bring_dataset: road_task("fetch data set")(bring_dataset),
}
#: What a bar says of the steps that go over all shards, and in which units it counts.
_PROGRESS: dict[Callable[..., Any], tuple[str, str]] = {
    ingest: ("ingest", "files"),
    examine: ("examine", "shards"),
    encode: ("encode", "shards"),
    encode_afar: ("encode", "shards"),
    encode_in_place: ("encode", "blocks"),
}


@flow(name="build-dataset", flow_run_name="build {config.shown_corpus}", persist_result=False)
@leased
def build_dataset(
    config: CorpusConfig | None = None,
    workspace: Path | None = None,
    engine: EngineConfig | None = None,
    store: str | None = None,
) -> BuiltDataset:
    """Corpus to token files.

    Args:
        config: what to build from, and how; by default the documentation inside Python, which needs no network.
        workspace: the folder that holds everything; by default $BRICKROAD_WORKSPACE, else ./workspace.
        engine: where shards are read and encoded: on this machine, or on a cluster of Dask or Ray, to the same bytes.
        store: what machines without a common file system share: s3://bucket/prefix, gs://bucket/prefix or a folder; by default
            $BRICKROAD_STORE; empty: none.
    """
    config, place, shared = config or CorpusConfig(), Workspace.at(workspace), Store.chosen(store)
    start_workers = partial(
        started_workers,
        engine or EngineConfig(),
        place.root,
        config.workers,
        config.memory_budget_bytes,
        shared,
    )
    built = build_in_steps(config, place, _TaskSteps(), start_workers, shared)
    show_dataset(built, place)
    tell_of_dataset(built.dataset)
    return built


class _TaskSteps:
    """Steps as task runs of this flow run, with a bar and a progress artifact for those that take long.

    Arguments are quoted: Prefect would look through all of them for results of other tasks, which takes seconds a task where
    there are twenty thousand shards. What came before what it is told instead.
    """

    def __init__(self) -> None:
        self._before: list[PrefectFuture[Any]] = []  # of the last step that has ended

    @property
    def log(self) -> "logging.Logger | logging.LoggerAdapter[Any]":
        return get_run_logger()

    def one(self, step: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        named = _quoted(get_call_parameters(step, args, kwargs))
        state = _TASKS[step](**named, wait_for=self._before, return_state=True)
        self._before = [_ended(state)]
        result: R = state.result()
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
        results = self._results(step, groups, total, settings | {"workers": workers})
        next(results)  # so that it begins now, and not as a part of the step that wants the results
        return results

    def _results(
        self, step: Callable[..., Any], groups: Iterable[Sequence[Any]], total: int, settings: dict[str, Any]
    ) -> Generator[Any]:
        """Nothing, as soon as all has begun; then the results."""
        what, unit = _PROGRESS[step]
        workers: Workers = settings["workers"]
        futures: list[PrefectFuture[Any]] = []
        with (
            Watch(what, total=total, unit=unit, artifact_key=what) as watch,
            ThreadPoolTaskRunner(max_workers=workers.count) as runner,
            _stopped_on_error(workers),  # else the runner would wait for all groups
        ):
            for group in groups:
                named = _quoted(get_call_parameters(step, (group,), settings))
                futures.append(runner.submit(_TASKS[step], named, wait_for=self._before))
            yield None
            for future in futures:
                results = future.result()
                watch.advance(len(results))
                yield from results
        self._before = futures


def _ended(state: State[Any]) -> PrefectFuture[Any]:
    """A step that has ended, for those that come after it. Of a state Prefect would look through all that the step came to."""
    assert state.state_details.task_run_id is not None
    future: Future[State[Any]] = Future()
    future.set_result(state)
    return PrefectConcurrentFuture(state.state_details.task_run_id, future)


def _quoted(named: dict[str, Any]) -> dict[str, Any]:
    return {name: quote(value) for name, value in named.items()}


@contextlib.contextmanager
def _stopped_on_error(workers: Workers) -> Iterator[None]:
    try:
        yield
    except BaseException:
        workers.stop()
        raise
