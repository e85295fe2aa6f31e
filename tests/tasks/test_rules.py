"""The rules that make a data set trustworthy: same bytes for any workers, order and number of kills; nothing left behind."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from forked_builds import ForkedBuilds, group
from tiny_data import tiny_documents

from storage.datasets import Dataset, find_dataset, read_dataset, verify_dataset
from storage.files import sha256_file
from storage.shards import write_shard
from storage.workspace import Workspace
from tasks.build import build
from tasks.corpora import CorpusConfig
from tasks.dataset import groups_of
from tasks.quality import QualityConfig
from tasks.steps import PlainSteps
from tasks.workers import WorkerDied, Workers

FILES = ("train.bin", "val.bin", "tokenizer.json", "documents.parquet")
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "char": ("char", {}),
    "gpt2": ("gpt2", {}),
    "bpe:400": ("bpe:400", {}),
    "gpt2, quality": ("gpt2", {"drop_exact_duplicates": True, "drop_near_duplicates": 0.8}),
}
BUILD = """
import sys
from pathlib import Path
from storage.workspace import Workspace
from tasks.corpora import CorpusConfig
from tasks.build import build
from tasks.workers import Workers
with Workers(2) as workers:
    config = CorpusConfig(corpus=sys.argv[1], name="rules", tokenizer=sys.argv[3], val_fraction=0.1)
    build(config, Workspace.at(sys.argv[2]), workers)
"""
# What is there while a stage of a build is going on: shards stored, examined, left out, encoded, joined, published.
STAGES = (
    "documents/.*.partial",
    "tokens/examined/*.columns",
    "tokens/examined/*.kept",
    "tokens/*/*.rows",
    "datasets/rules/.stage.*/train.bin",
    "datasets/rules/.stage.*/manifest.json",
    "datasets/rules/by-inputs",
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty shards, of which some hold the same documents."""
    folder = tmp_path_factory.mktemp("rules") / "corpus"
    for number in range(40):
        texts = tiny_documents(12, seed=number % 30)
        members = [(f"{number:03d}-{i}.txt", text.encode()) for i, text in enumerate(texts)]
        write_shard(folder / f"urlsf_subset00-{number + 1}_data.xz", members)
    return folder


def built(corpus: Path, workspace: Path, workers: int = 2, kind: str = "char") -> Dataset:
    tokenizer, quality = KINDS[kind]
    config = CorpusConfig(
        corpus=str(corpus),
        name="rules",
        tokenizer=tokenizer,
        val_fraction=0.1,
        quality=QualityConfig(**quality),
    )
    with Workers(workers) as pool:
        return build(config, Workspace.at(workspace), pool)


def hashes(dataset: Dataset) -> dict[str, str]:
    return {name: sha256_file(dataset.path / name) for name in FILES}


@pytest.fixture(scope="module")
def expected(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """What every build must come to, by kind."""
    place = tmp_path_factory.mktemp("expected")
    return {kind: hashes(built(corpus, place / str(number), 1, kind)) for number, kind in enumerate(KINDS)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("workers", [2, 4])
def test_the_bytes_do_not_depend_on_the_number_of_workers(
    workers: int, kind: str, corpus: Path, tmp_path: Path, expected: dict[str, dict[str, str]]
) -> None:
    assert hashes(built(corpus, tmp_path, workers, kind)) == expected[kind]


def test_the_bytes_do_not_depend_on_the_order_of_the_listing(
    corpus: Path, tmp_path: Path, expected: dict[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    walk = os.walk

    def shuffled(*arguments: object, **options: object) -> object:
        for folder, subfolders, names in walk(*arguments, **options):  # type: ignore[call-overload]
            random.Random(1).shuffle(names)
            yield folder, subfolders, names

    monkeypatch.setattr(os, "walk", shuffled)
    assert hashes(built(corpus, tmp_path)) == expected["char"]


@pytest.mark.parametrize(
    ("workers", "kind", "stages"),
    [
        (1, "gpt2, quality", STAGES[::2]),
        (2, "char", [STAGES[0], *STAGES[3:]]),
        (4, "gpt2, quality", STAGES[1::2]),
    ],
)
def test_killed_with_all_its_processes_in_any_stage_it_goes_on_to_the_same_bytes(
    workers: int,
    kind: str,
    stages: Sequence[str],
    corpus: Path,
    tmp_path: Path,
    expected: dict[str, dict[str, str]],
) -> None:
    tokenizer, quality = KINDS[kind]
    settings = {"corpus": str(corpus), "name": "rules", "val_fraction": 0.1}
    settings |= {"tokenizer": tokenizer, "quality": quality, "workers": workers}
    rng, reached, place = random.Random(7), set(), tmp_path / "killed"
    with ForkedBuilds(tmp_path) as builds:
        for stage in stages:
            process = builds.start(settings, place)
            wait_for(place, stage, process)
            time.sleep(rng.choice([0, rng.uniform(0, 0.03)]))
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process, signal.SIGKILL)
            reached |= {stage} if builds.wait() == -signal.SIGKILL else set()
            assert no_process_is_left(process)
            for manifest in place.glob("datasets/rules/[0-9a-f]*/manifest.json"):
                assert hashes(read_dataset(manifest.parent)) == expected[kind]
                shutil.rmtree(manifest.parent)  # else a later build would have nothing to do
    assert len(reached) >= 2, (
        "some stages take milliseconds, and a build may end before it is killed; not in all"
    )
    assert hashes(built(corpus, place, 2, kind)) == expected[kind]
    assert not list(place.rglob("*.partial"))


def wait_for(place: Path, stage: str, process: int) -> None:
    """Returns when a build has reached a stage, or has ended."""
    while psutil.pid_exists(process):
        with contextlib.suppress(FileNotFoundError):  # of folders that go while they are being looked at
            if any(place.glob(stage)):
                return
        time.sleep(0.002)


def no_process_is_left(leader: int) -> bool:
    """Whether a killed process group is gone, within some seconds: it is the system that ends it."""
    deadline = time.monotonic() + 10
    while group(leader) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not group(leader)


def test_workers_end_with_a_parent_that_was_killed_alone(corpus: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", BUILD, str(corpus), str(tmp_path), "char"], start_new_session=True
    )
    parent = psutil.Process(process.pid)
    deadline = time.monotonic() + 30
    while not (workers := parent.children()) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert len(workers) > 0
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_worker_that_is_killed_costs_one_call_and_is_named(
    count: int,
    corpus: Path,
    tmp_path: Path,
    expected: dict[str, dict[str, str]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = CorpusConfig(corpus=str(corpus), name="rules", val_fraction=0.1)
    with Workers(count) as workers:
        ended = threading.Event()

        def kill_some() -> None:
            rng = random.Random(3)
            for _ in range(5):
                if ended.wait(rng.uniform(0.05, 0.3)):
                    return
                os.kill(rng.choice(workers.process_ids()), signal.SIGKILL)

        killer = threading.Thread(target=kill_some)
        killer.start()
        try:
            dataset = build(config, Workspace.at(tmp_path), workers)
        except WorkerDied:  # two in a row at the same call: the next build goes on
            dataset = None
        finally:
            ended.set()
            killer.join()
        if dataset is None:
            with Workers(2) as others:
                dataset = build(config, Workspace.at(tmp_path), others)
        deaths = list(workers.deaths)
    assert hashes(dataset) == expected["char"]
    assert all("was killed by SIGKILL at " in death for death in deaths)
    assert [record.message for record in caplog.records if "SIGKILL" in record.message][: len(deaths)]


def test_a_call_that_kills_every_worker_is_an_error_that_names_it() -> None:
    with Workers(1) as workers:
        with pytest.raises(WorkerDied, match=r"_exit 3: worker process \d+ ended with code 3, twice"):
            workers.run(os._exit, 3)
        assert workers.run(len, "still there") == 11


def test_a_build_that_fails_ends_what_it_has_begun_and_begins_nothing_more() -> None:
    begun: list[int] = []

    def slow(group: list[int], workers: Workers) -> list[int]:
        begun.append(group[0])
        time.sleep(0.05)
        return group

    with Workers(2) as workers:
        groups = groups_of(range(800), 800, workers.count)
        results = PlainSteps().many(slow, groups, total=800, workers=workers)
        assert next(results) == 0
        results.close()
        count = len(begun)
        time.sleep(0.2)
        assert len(begun) == count < 8  # of 16 groups


def test_two_builders_at_once_make_one_data_set(
    corpus: Path, tmp_path: Path, expected: dict[str, dict[str, str]]
) -> None:
    command = [sys.executable, "-c", BUILD, str(corpus), str(tmp_path), "char"]
    both = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert hashes(find_dataset(tmp_path / "datasets", "rules")) == expected["char"]
    assert not list(tmp_path.rglob("*.partial"))


def test_one_shard_more_or_less_is_that_work_and_the_result_of_a_clean_build(
    corpus: Path, tmp_path: Path
) -> None:
    here = Path(shutil.copytree(corpus, tmp_path / "corpus"))
    built(here, tmp_path / "one")
    write_shard(
        here / "urlsf_subset00-7b_data.xz", [("new.txt", b"a new document"), ("more.txt", b"and one more")]
    )
    (here / "urlsf_subset00-9_data.xz").unlink()
    before = {
        path.name: path.stat().st_mtime_ns for path in (tmp_path / "one" / "documents").glob("*.parquet")
    }
    changed = built(here, tmp_path / "one")
    after = {
        path.name: path.stat().st_mtime_ns for path in (tmp_path / "one" / "documents").glob("*.parquet")
    }
    assert len(after.keys() - before.keys()) == 1
    assert all(after[name] == made for name, made in before.items()), "nothing was stored again"
    assert hashes(changed) == hashes(built(here, tmp_path / "two"))


def test_two_shards_of_the_same_bytes_are_both_in_the_data_set(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    for number in (1, 2, 3):
        write_shard(
            folder / f"{number}.xz", [(f"{i}.txt", t.encode()) for i, t in enumerate(tiny_documents(30))]
        )
    dataset = built(folder, tmp_path / "place", workers=4)
    assert len({source.sha256 for source in dataset.manifest.sources}) == 1
    assert dataset.manifest.train.documents + dataset.manifest.val.documents == 90
    assert [line for _, _, wrong in verify_dataset(dataset) for line in wrong] == []
