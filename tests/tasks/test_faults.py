"""A disk that fails at any one of a build's writes: an error that names the place, nothing left, and the same bytes in the end."""

import random
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faulty_builds import Calls, Fault, FaultyBuilds, faults_at
from forked_builds import config_of
from tiny_data import tiny_documents

from storage.datasets import Dataset, read_dataset, verify_dataset
from storage.files import sha256_file
from storage.shards import write_shard
from storage.workspace import Workspace
from tasks.build import build
from tasks.workers import Workers

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler for a disk that fails")

FILES = ("train.bin", "val.bin", "tokenizer.json", "documents.parquet")
# Characters are written to their place; GPT-2's tokens into parts, which are joined.
SETTINGS: dict[str, dict[str, Any]] = {
    "char": {"tokenizer": "char"},
    "gpt2": {
        "tokenizer": "gpt2",
        "quality": {"drop_exact_duplicates": True, "drop_near_duplicates": 0.8},
    },
}


def make_corpus(folder: Path) -> Path:
    """Ten shards, so that eight are stored together and two after them; with documents that are the same, and nearly so."""
    for number in range(10):
        texts = tiny_documents(6, seed=number % 9)
        texts.append(f"{texts[0]} and home again")
        members = [(f"{number}-{i}.txt", text.encode()) for i, text in enumerate(texts)]
        write_shard(folder / f"{number}.xz", members)
    return folder


def hashes(dataset: Dataset) -> dict[str, str]:
    return {name: sha256_file(dataset.path / name) for name in FILES}


class Trial:
    """Builds with faults, each followed by the same build without one."""

    def __init__(self, folder: Path, kind: str, workers: Workers) -> None:
        settings = SETTINGS[kind] | {
            "corpus": str(make_corpus(folder / "corpus")),
            "name": "faults",
            "val_fraction": 0.2,
        }
        self._config = config_of(settings)
        self._workers = workers
        self.builds = FaultyBuilds(folder, settings | {"workers": workers.count})
        self._expected = hashes(build(self._config, Workspace.at(folder / "expected"), workers))

    def meet(self, fault: Fault) -> int:
        """Asserts what must be so after a fault; returns the exit code of the build that met it."""
        place = self.builds.workspace
        ended = self.builds.run(fault)
        assert ended.struck, f"{fault}: there was no such call"
        assert ended.code in (0, 1), f"{fault}: killed or hanging, {ended.code}, {ended.said}"
        assert not ended.code or str(place) in ended.said, f"{fault}: {ended.said}"
        assert not ended.left, f"{fault}: processes are left"
        assert not list(place.rglob("*.partial")), f"{fault}: {ended.said}"
        for manifest in place.glob("datasets/*/*/manifest.json"):
            wrong = [line for _, _, lines in verify_dataset(read_dataset(manifest.parent)) for line in lines]
            assert not wrong, f"{fault}: {wrong}"
        assert not fault.error_number or ended.code, f"{fault}: the build says that all is well"
        assert fault.error_number or not ended.code, f"{fault}: {ended.said}"
        assert hashes(build(self._config, Workspace.at(place), self._workers)) == self._expected, str(fault)
        return ended.code


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers(2) as workers:
        yield workers


def test_each_kind_of_file_may_fail_to_be_written(tmp_path: Path, workers: Workers) -> None:
    rng = random.Random(1)
    (tmp_path / "char").mkdir()
    (tmp_path / "gpt2").mkdir()
    characters = Trial(tmp_path / "char", "char", workers)
    with characters.builds.started():
        by_file = calls_by_file(characters.builds.counted())
        for counted in by_file.values():
            characters.meet(any_fault(counted, rng))
    parts = Trial(tmp_path / "gpt2", "gpt2", workers)
    with parts.builds.started():
        others = calls_by_file(parts.builds.counted())
        for file in sorted(others.keys() - by_file.keys()):
            parts.meet(any_fault(others[file], rng))


def calls_by_file(counted: Counter[Calls]) -> dict[str, Counter[Calls]]:
    """The calls that were counted, by the file that they are about, whether it had its final name or not yet."""
    by_file: dict[str, Counter[Calls]] = {}
    for calls, count in counted.items():
        file = re.sub(r"\.([^/]+)\.\*\.partial", r"\1", calls.pattern)
        by_file.setdefault(file, Counter())[calls] = count
    return by_file


def any_fault(counted: Counter[Calls], rng: random.Random) -> Fault:
    """Any way in which any of these calls may fail: as often the first or last one as one between."""
    calls = rng.choice(list(counted))
    return rng.choice(faults_at(calls, rng.choice([1, counted[calls], rng.randint(1, counted[calls])])))
