"""The commands with a store: what is wrong with it is one line before any work, and what is not here comes from it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from clusters import running_dask
from servers import s3_server
from stores import ROOT, asking_for_keys

SECRET = "s3cret"
Brickroad = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def brickroad(prefect_api: dict[str, str], tmp_path: Path) -> Brickroad:
    """Exit code, JSON and words of a command, in a workspace of that name."""

    def run(workspace: str, *arguments: str, **environment: str) -> tuple[int, dict[str, Any], str]:
        code = "from flows.command_line import main; main()"
        ran = subprocess.run(
            [sys.executable, "-c", code, *arguments, "--workspace", str(tmp_path / workspace), "--json"],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=os.environ | prefect_api | environment,
        )
        return ran.returncode, json.loads(ran.stdout) if ran.stdout.strip() else {}, ran.stderr

    return run


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with s3_server(monkeypatch) as running:
        yield running.url


def test_a_data_set_of_another_machine_is_looked_at_and_trained_on(
    brickroad: Brickroad, bucket: str, tiny_corpus: Path
) -> None:
    store = f"{bucket}/team"
    code, built, said = brickroad(
        "first", "dataset", "build", str(tiny_corpus), "--store", store, "--val-fraction", "0.1"
    )
    assert (code, built["built_parts"]) == (0, 12), said
    digest = built["digest"]
    code, shown, said = brickroad("second", "dataset", "show", "tiny", BRICKROAD_STORE=store)
    assert (code, shown["digest"]) == (0, digest), said
    address = f"{store}/datasets/tiny/{digest}"
    code, verified, said = brickroad("third", "dataset", "verify", address)
    assert (code, verified["ok"]) == (0, True), said
    recipe = ("--preset", "bigram", "--set", "training.steps=2")
    code, trained, said = brickroad("fourth", "train", f"tiny@{digest[:8]}", *recipe, BRICKROAD_STORE=store)
    assert (code, trained["steps"]) == (0, 2), said
    code, _, said = brickroad("fifth", "dataset", "show", "other", BRICKROAD_STORE=store)
    assert code == 1
    assert f"nor is it in the store {store}" in said


def test_a_cluster_without_a_common_file_system_makes_it_and_another_machine_fetches_it(
    brickroad: Brickroad, bucket: str, tiny_corpus: Path, tmp_path: Path
) -> None:
    arguments = ("dataset", "build", str(tiny_corpus), "--val-fraction", "0.1", "--store", f"{bucket}/team")
    with running_dask(tmp_path) as cluster:
        engine = cluster.start_hosts(tmp_path / "host 1", tmp_path / "host 2")
        afar = ("--engine", "dask", "--engine-address", str(engine.address))
        code, built, said = brickroad("first", *arguments, *afar)
    assert (code, built["built_parts"]) == (0, 12), said
    code, again, said = brickroad("second", *arguments)
    assert (code, again["built_parts"], again["reused_parts"]) == (0, 0, 12), said
    assert again["digest"] == built["digest"]
    code, alone, said = brickroad("third", *arguments[:-2])
    assert (code, alone["digest"]) == (0, built["digest"]), said


def test_a_rebuild_is_not_fetched(brickroad: Brickroad, tiny_corpus: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    arguments = ("dataset", "build", str(tiny_corpus), "--val-fraction", "0.1")
    code, _, said = brickroad("first", *arguments, BRICKROAD_STORE=str(store))
    assert code == 0, said
    next(tiny_corpus.glob("*.xz")).unlink()
    code, found, said = brickroad(
        "first", "dataset", "verify", "tiny", "--rebuild", BRICKROAD_STORE=str(store)
    )
    assert (code, found["ok"]) == (1, False), said


@pytest.mark.parametrize(
    ("store", "code", "words"),
    [
        (
            "s3://nowhere/team",
            1,
            "error: s3://nowhere/team: cannot be used as a store: there is no bucket nowhere",
        ),
        ("/nowhere/team", 1, "error: /nowhere/team: is no folder that is there"),
        (f"s3://key:{SECRET}@bucket/team", 2, "leave user, password and query out"),
        ("https://host/team", 2, "is no store"),
    ],
)
def test_a_store_that_cannot_be_used_is_told_before_any_work(
    brickroad: Brickroad, bucket: str, tiny_corpus: Path, tmp_path: Path, store: str, code: int, words: str
) -> None:
    found, _, said = brickroad("first", "dataset", "build", str(tiny_corpus), "--store", store)
    assert found == code, said
    assert words in " ".join(said.split()).replace("│ ", "")
    assert SECRET not in said
    assert not (tmp_path / "first" / "documents").exists()


def test_a_wrong_key_is_told_before_any_work(
    brickroad: Brickroad, bucket: str, tiny_corpus: Path, tmp_path: Path
) -> None:
    with asking_for_keys():
        code, _, said = brickroad("first", "dataset", "build", str(tiny_corpus), "--store", f"{bucket}/team")
    assert code == 1
    (line,) = [line for line in said.splitlines() if line.startswith("error:")]
    assert line.startswith(
        f"error: {bucket}/team: cannot be used as a store: its server refuses to take it (403)"
    )
    assert "AWS_PROFILE" in line
    assert not (tmp_path / "first" / "documents").exists()
