"""The rules that make a data set trustworthy: same bytes for any workers, order and number of kills; nothing left behind."""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from tiny_data import tiny_documents

from storage.datasets import Dataset, find_dataset, verify_dataset
from storage.files import sha256_file
from storage.shards import write_shard
from storage.workspace import Workspace
from tasks.build import build
from tasks.corpora import CorpusConfig
from tasks.workers import WorkerDied, Workers

FILES = ("train.bin", "val.bin", "tokenizer.json", "documents.parquet")
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


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty shards, of which some hold the same documents."""
    folder = tmp_path_factory.mktemp("rules") / "corpus"
    for number in range(40):
        texts = tiny_documents(12, seed=number % 30)
        members = [(f"{number:03d}-{i}.txt", text.encode()) for i, text in enumerate(texts)]
        write_shard(folder / f"urlsf_subset00-{number + 1}_data.xz", members)
    return folder


def built(corpus: Path, workspace: Path, workers: int = 2, tokenizer: str = "char") -> Dataset:
    config = CorpusConfig(corpus=str(corpus), name="rules", tokenizer=tokenizer, val_fraction=0.1)
    with Workers(workers) as pool:
        return build(config, Workspace.at(workspace), pool)


def hashes(dataset: Dataset) -> dict[str, str]:
    return {name: sha256_file(dataset.path / name) for name in FILES}


@pytest.fixture(scope="module")
def expected(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """What every build must come to, by tokenizer."""
    place = tmp_path_factory.mktemp("expected")
    return {kind: hashes(built(corpus, place / kind[:3], 1, kind)) for kind in ("char", "gpt2", "bpe:400")}


@pytest.mark.parametrize("tokenizer", ["char", "gpt2", "bpe:400"])
@pytest.mark.parametrize("workers", [2, 4])
def test_the_bytes_do_not_depend_on_the_number_of_workers(
    workers: int, tokenizer: str, corpus: Path, tmp_path: Path, expected: dict[str, dict[str, str]]
) -> None:
    assert hashes(built(corpus, tmp_path, workers, tokenizer)) == expected[tokenizer]


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


def descendants() -> set[int]:
    """Processes that are ours, however far down."""
    return {process.pid for process in psutil.Process().children(recursive=True)}


@pytest.mark.parametrize("tokenizer", ["char", "gpt2"])
def test_killed_with_all_its_processes_at_any_moment_it_goes_on_to_the_same_bytes(
    tokenizer: str, corpus: Path, tmp_path: Path, expected: dict[str, dict[str, str]]
) -> None:
    rng, before = random.Random(7), descendants()
    for _ in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", BUILD, str(corpus), str(tmp_path), tokenizer], start_new_session=True
        )
        time.sleep(rng.uniform(0.2, 1.8))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for dataset in (tmp_path / "datasets").glob("*/*/manifest.json"):
            assert hashes(find_dataset(tmp_path / "datasets", str(dataset.parent))) == expected[tokenizer]
    assert hashes(built(corpus, tmp_path, tokenizer=tokenizer)) == expected[tokenizer]
    assert descendants() == before


def test_workers_end_with_a_parent_that_was_killed_alone(corpus: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", BUILD, str(corpus), str(tmp_path), "char"]
    process = subprocess.Popen(command, start_new_session=True)
    parent = psutil.Process(process.pid)
    deadline = time.monotonic() + 30
    while not (workers := parent.children()) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert len(workers) > 0
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive


def test_a_worker_that_is_killed_costs_one_call_and_is_named(
    corpus: Path, tmp_path: Path, expected: dict[str, dict[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    config = CorpusConfig(corpus=str(corpus), name="rules", val_fraction=0.1)
    with Workers(2) as workers:
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
