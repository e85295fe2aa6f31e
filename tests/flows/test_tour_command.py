"""`brickroad tour` as a person and as a script calls it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from terminals import Terminal

BRICKROAD = Path(sys.executable).parent / "brickroad"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "oz.jsonl"
    texts = [f"The road of yellow brick number {number} goes on to the city.\n" * 9 for number in range(60)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def tour(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BRICKROAD, "tour", *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"COLUMNS": "80", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )


def test_a_script_gets_one_object(corpus: Path, tmp_path: Path) -> None:
    done = tour("tensors", "batches", "--corpus", corpus, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert [stop["name"] for stop in facts["stops"]] == ["tensors", "batches"]
    assert facts["stops"][1]["facts"]["asked again, the same"] == "yes"
    for page in (facts["page"], facts["stops"][0]["page"]):
        assert "<!doctype html>" in Path(page).read_text()
    assert "def cross_entropy_by_hand(" in done.stderr
    assert max(map(len, done.stderr.splitlines())) <= 80 + len(str(tmp_path))


def test_a_stop_that_is_none_is_wrong_usage(tmp_path: Path) -> None:
    done = tour("oz", cwd=tmp_path)
    assert done.returncode == 2
    assert "no stop is called 'oz'" in " ".join(done.stderr.split())
    assert not (tmp_path / "workspace" / "datasets").exists()


def test_the_stops_are_told(tmp_path: Path) -> None:
    facts = json.loads(tour("--list", "--json", cwd=tmp_path).stdout)
    assert [stop["name"] for stop in facts["stops"]][:3] == ["characters", "tensors", "bigram"]


def test_a_person_goes_from_stop_to_stop(corpus: Path, tmp_path: Path) -> None:
    seat = Terminal(BRICKROAD, "tour", "tensors", "batches", "memmap", "--corpus", corpus, cwd=tmp_path)
    try:
        seat.wait_for("2 of 13")
        seat.wait_for("Enter goes on, q ends")
        seat.type("\n")
        seat.wait_for("4 of 13")
        seat.wait_for("Enter goes on, q ends")
        seat.type("q\n")
        assert seat.process.wait(timeout=30) == 0
    finally:
        seat.close()
    assert not (tmp_path / "workspace" / "tour" / "memmap.html").exists()
