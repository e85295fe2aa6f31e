"""What a build costs piece by piece, measured on this machine for `bench.scaling`: rates of workers, the builder's own work, calls.

A real build of half of the shards on one worker tells the rates of workers. The builder's own work goes on beside theirs, so it is counted in
CPU-seconds, in builds of many short documents, and of many small shards.
"""

import json
import os
import pickle  # nosec B403 # objects of ours, copied within this process
import statistics
import subprocess  # nosec B404 # a program of ours, without a shell
import sys
import tempfile
import threading
import time
import tracemalloc
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from storage.datasets import Dataset
from storage.shards import find_shards
from storage.workspace import Workspace
from tasks.build import build_in_steps
from tasks.corpora import CorpusConfig
from tasks.dataset import Material
from tasks.engines.start import Engine, EngineConfig, started_workers
from tasks.steps import PlainSteps
from tasks.workers import Workers

P = ParamSpec("P")
R = TypeVar("R")

_CALLS = 200
_TASK_RUNS = 2_000
_FEW, _DOCUMENTS, _SHARDS = (20, 10), (20, 20_000), (2_000, 10)  # shards, and documents in each
_COPIES = 20  # of what the builder keeps of a shard
TOKENIZERS = ("char", "gpt2")
_ENCODES = ("encode_blocks", "encode_parts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A build: its seconds, those that its worker was at each function, and the builder's in each step (CPU)."""

    dataset: Dataset
    seconds: float
    worker_seconds: dict[str, float]
    builder_seconds: dict[str, float]
    shard_bytes: float
    stored_bytes: int

    @property
    def documents(self) -> int:
        """Of both splits."""
        return self.dataset.manifest.train.documents + self.dataset.manifest.val.documents

    @property
    def compressed_bytes(self) -> int:
        """Of all shards."""
        return sum(one.compressed_bytes for one in self.dataset.manifest.sources)

    @property
    def text_megabytes(self) -> float:
        """Of both splits."""
        return (self.dataset.manifest.train.text_bytes + self.dataset.manifest.val.text_bytes) / 1e6


class _TimedWorkers(Workers):
    """Workers that note how long they were at each function."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.seconds: dict[str, float] = defaultdict(float)
        self._noting = threading.Lock()

    def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        began = time.perf_counter()
        result = super().run(function, *args, **kwargs)
        with self._noting:
            self.seconds[function.__name__] += time.perf_counter() - began
        return result


class _TimedSteps(PlainSteps):
    """Steps that note the CPU-seconds of this process, and what it keeps in memory of a shard."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.shard_bytes = 0.0

    def one(self, step: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        if step.__name__ == "join":
            self.shard_bytes = _kept_bytes(next(each for each in args if isinstance(each, Material)))
        began = time.process_time()
        result = super().one(step, *args, **kwargs)
        self.seconds[step.__name__] = time.process_time() - began
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
        began = time.process_time()
        yield from super().many(step, groups, total=total, workers=workers, **settings)
        if step.__name__ == "ingest":  # encoding goes on within the join
            self.seconds["ingest"] = time.process_time() - began


def _kept_bytes(material: Material) -> float:
    """Memory that the builder's notes of a shard take, from that of many copies."""
    packed = pickle.dumps(material.shards)
    tracemalloc.start()
    copies = [pickle.loads(packed) for _ in range(_COPIES)]  # nosec B301 # made in the line above
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return kept / len(copies) / len(material.shards)


def recorded_build(shards: str, tokenizer: str, limit_shards: int) -> Recorded:
    """A cold build on one worker."""
    with tempfile.TemporaryDirectory() as folder, _TimedWorkers(1) as workers:
        workers.run(os.getpid)
        steps = _TimedSteps()
        config = CorpusConfig(corpus=shards, name="bench", tokenizer=tokenizer, limit_shards=limit_shards)
        place = Workspace.at(Path(folder))
        built = build_in_steps(config, place, steps, lambda: nullcontext(workers))
        return Recorded(
            dataset=built.dataset,
            seconds=built.seconds,
            worker_seconds=dict(workers.seconds),
            builder_seconds=steps.seconds,
            shard_bytes=steps.shard_bytes,
            stored_bytes=sum(one.stat().st_size for one in place.documents.glob("*.parquet")),
        )


def measured(shards: str, repeats: int) -> dict[str, Any]:
    """The constants, as plain values: of each tokenizer, of each engine, of the text."""
    count = len(find_shards(shards)) // 2
    found: dict[str, Any] = {"shards_measured": count}
    for tokenizer in TOKENIZERS:
        builds = [recorded_build(shards, tokenizer, count) for _ in range(repeats)]
        best = min(builds, key=lambda one: one.seconds)  # that other users of the machine disturbed least
        found[tokenizer] = _rates(best) | {"builder": _builder_costs(tokenizer)}
    found["text_over_xz"] = best.text_megabytes * 1e6 / best.compressed_bytes
    found["stored_over_xz"] = best.stored_bytes / best.compressed_bytes
    found["builder_bytes_per_shard"] = best.shard_bytes
    found["task_run_seconds"] = task_run_seconds()
    found["engines"] = {engine: call_costs(engine) for engine in ("threads", "dask", "ray")}
    return found


def _rates(build: Recorded) -> dict[str, Any]:
    worker = build.worker_seconds
    encoding = sum(worker.get(name, 0.0) for name in _ENCODES)
    return {
        "ingest_megabytes_per_second": build.text_megabytes / worker["ingest_shards"],
        "encode_megabytes_per_second": build.text_megabytes / encoding,
        "write_megabytes_per_second": _token_megabytes(build) / worker["write_block"],
        "token_bytes_per_text_byte": _token_megabytes(build) / build.text_megabytes,
        "documents_bytes": build.dataset.manifest.files["documents.parquet"].bytes / build.documents,
    }


def _builder_costs(tokenizer: str) -> dict[str, dict[str, float]]:
    """CPU-seconds of each step of the builder, from builds of few, of many documents, and of many shards, all short."""
    few, documents, shards = (_short_build(tokenizer, *sizes) for sizes in (_FEW, _DOCUMENTS, _SHARDS))
    more_documents = _DOCUMENTS[0] * _DOCUMENTS[1] - _FEW[0] * _FEW[1]
    return {
        step: {
            "seconds": fixed,
            "seconds_per_million_documents": max(0.0, documents[step] - fixed) / more_documents * 1e6,
            "seconds_per_million_shards": max(0.0, shards[step] - fixed) / (_SHARDS[0] - _FEW[0]) * 1e6,
        }
        for step, fixed in few.items()
    }


def _short_build(tokenizer: str, shards: int, documents_a_shard: int) -> dict[str, float]:
    """The builder's CPU-seconds in each step of a build of made-up short documents."""
    with tempfile.TemporaryDirectory() as folder:
        for shard in range(shards):
            lines = [
                json.dumps({"text": f"Document {number} of {shard}, short."})
                for number in range(documents_a_shard)
            ]
            (Path(folder) / f"{shard}.jsonl").write_text("\n".join(lines), encoding="utf-8")
        return recorded_build(folder, tokenizer, shards).builder_seconds


def _token_megabytes(build: Recorded) -> float:
    return sum(build.dataset.manifest.files[f"{split}.bin"].bytes for split in ("train", "val")) / 1e6


def task_run_seconds() -> float:
    """The builder's CPU-seconds of a task run, in a process of its own, with which Prefect's server ends."""
    command = [sys.executable, "-m", "bench.orchestration", "--task-runs", str(_TASK_RUNS)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)  # nosec B603 # ours; no shell
    return float(json.loads(done.stdout)["task_runs"]["builder_seconds"])


def call_costs(engine: Engine) -> dict[str, float]:
    """Seconds of an empty call there and back, and CPU-seconds of this process for one, with two workers busy."""
    with (
        tempfile.TemporaryDirectory() as folder,
        started_workers(EngineConfig(engine=engine), Path(folder), 2, None) as workers,
    ):
        for _ in range(10):
            workers.run(os.getpid)
        seconds = []
        for _ in range(_CALLS):
            began = time.perf_counter()
            workers.run(os.getpid)
            seconds.append(time.perf_counter() - began)
        began_cpu = time.process_time()
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(lambda _: workers.run(os.getpid), range(_CALLS)))
        return {
            "call_seconds": statistics.median(seconds),
            "builder_seconds": (time.process_time() - began_cpu) / _CALLS,
        }


def real_seconds(shards: str, tokenizer: str, engine: Engine, workers: int) -> tuple[float, Dataset]:
    """A real cold build on an engine that is started already: its seconds, and what it made."""
    with (
        tempfile.TemporaryDirectory() as folder,
        started_workers(EngineConfig(engine=engine), Path(folder), workers, None) as running,
    ):
        for _ in range(4 * workers):
            running.run(os.getpid)
        config = CorpusConfig(corpus=shards, name="bench", tokenizer=tokenizer)
        place = Workspace.at(Path(folder))
        built = build_in_steps(config, place, PlainSteps(), lambda: nullcontext(running))
        return built.seconds, built.dataset
