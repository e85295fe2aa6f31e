"""Leases: alive as long as their process lives, however it stands; dead as soon as it is, however it ended."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from storage.leases import (
    LeaseError,
    dead_leases,
    inherit_leases,
    is_alive,
    leases,
    remove_lease,
    take_lease,
)

_HOLDER = """
import os, subprocess, sys, time
from pathlib import Path
from storage.leases import take_lease
held = take_lease(Path(sys.argv[1]), "work", {"run": "1"})
child = subprocess.Popen(["sleep", "60"]) if sys.argv[2] == "exec" else None
reads, writes = os.pipe()
fork = os.fork() if sys.argv[2] == "fork" else None
if fork == 0:
    os.write(writes, b".")
    time.sleep(60)
if fork:
    os.read(reads, 1)  # it has let go
print(child.pid if child else fork or 0, flush=True)
time.sleep(60)
"""


def start_holder(folder: Path, children: str = "none") -> tuple["subprocess.Popen[bytes]", int]:
    """A process that holds a lease, and the id of its child."""
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", _HOLDER, str(folder), children]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": root})
    assert process.stdout is not None
    return process, int(process.stdout.readline())


@pytest.mark.parametrize("children", ["none", "exec", "fork"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_lease_dies_with_its_process_and_not_with_its_children(
    tmp_path: Path, children: str, number: signal.Signals
) -> None:
    process, child = start_holder(tmp_path, children)
    try:
        assert [standing for _, standing in leases(tmp_path)] == ["alive"]
        assert list(dead_leases(tmp_path)) == []
        process.send_signal(signal.SIGSTOP)
        assert list(dead_leases(tmp_path)) == [], "stopped is not dead"
        process.send_signal(signal.SIGCONT)
        process.send_signal(number)
        process.wait()
        assert [lease.facts for lease in dead_leases(tmp_path)] == [{"run": "1"}]
    finally:
        process.kill()
        if child:
            os.kill(child, signal.SIGKILL)


def test_a_lease_that_is_released_stays_until_somebody_has_seen_to_it(tmp_path: Path) -> None:
    held = take_lease(tmp_path, "work", {})
    assert is_alive(tmp_path, held.lease.id) == held.lease
    held.release()
    assert is_alive(tmp_path, held.lease.id) is None
    for lease in dead_leases(tmp_path):
        assert list(dead_leases(tmp_path)) == [], "of two sweepers one sees to it"
        remove_lease(tmp_path, lease)
    assert leases(tmp_path) == []
    assert is_alive(tmp_path, held.lease.id) is None


def test_the_lease_of_another_machine_is_left_alone_and_that_of_an_earlier_start_is_not(
    tmp_path: Path,
) -> None:
    held = take_lease(tmp_path, "work", {})
    held.release()
    path = tmp_path / f"{held.lease.id}.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps(facts | {"boot": "another", "host": "another"}))
    assert list(dead_leases(tmp_path)) == []
    assert [standing for _, standing in leases(tmp_path)] == ["elsewhere"]
    assert is_alive(tmp_path, held.lease.id), "as far as can be told"
    path.write_text(json.dumps(facts | {"boot": "another"}))
    assert len(list(dead_leases(tmp_path))) == 1, "this machine was started anew: nothing lives on"


def test_the_leases_of_a_machine_that_is_no_more_are_inherited(tmp_path: Path) -> None:
    dead, alive = take_lease(tmp_path, "dead", {}), take_lease(tmp_path, "alive", {})
    for held in (dead, alive):
        path = tmp_path / f"{held.lease.id}.json"
        facts = json.loads(path.read_text()) | {"boot": "another", "host": "node-7"}
        path.write_text(json.dumps(facts))  # into the same file: the lock stays
    dead.release()
    with pytest.raises(ValueError, match="is of another machine named 'node-8'; there are: node-7"):
        inherit_leases(tmp_path, "node-8")
    assert [lease.what for lease in inherit_leases(tmp_path, "node-7")] == ["dead"]
    assert [lease.what for lease in dead_leases(tmp_path)] == ["dead"]
    assert [how for _, how in leases(tmp_path)] == ["dead", "alive"], (
        "what is locked is alive, whoever says what"
    )


def test_what_is_no_lease_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(LeaseError, match=r"x.json: is no lease .* delete it"):
        leases(tmp_path)


def test_a_lease_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        take_lease(tmp_path, "work", {})
    assert list(tmp_path.iterdir()) == []
