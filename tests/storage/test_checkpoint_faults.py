"""A disk that fails, or a kill, at any one call of a checkpoint's save: the latest that is whole can be gone on from."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from faulty_builds import Calls, Fault, FaultyDisk
from faulty_saves import save, tensors_of

from storage.checkpoints import latest_checkpoint, list_checkpoints, load_tensors
from storage.files import remove_partials

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler for a disk that fails")

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run with two checkpoints, 1 and 2."""
    folder = tmp_path / "run"
    fill(folder)
    return folder


def fill(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for step in (1, 2):
        save(folder, step)


@pytest.fixture
def disk(tmp_path: Path, run_folder: Path) -> FaultyDisk:
    return FaultyDisk(tmp_path, run_folder)


@pytest.fixture
def save_three(run_folder: Path, disk: FaultyDisk) -> Iterator[Callable[[], int]]:
    """Saves checkpoint 3, which lets 1 go, on the disk that may fail; gives the exit code."""
    with subprocess.Popen(
        [sys.executable, ROOT / "tests" / "support" / "faulty_saves.py", run_folder],
        env=os.environ | disk.variables | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:

        def ask() -> int:
            assert process.stdin
            assert process.stdout
            process.stdin.write("3\n")
            process.stdin.flush()
            return int(process.stdout.readline())

        yield ask


def assert_usable(folder: Path, fault: Fault | None) -> int:
    """The latest checkpoint is whole, and holds what its step had; returns the step."""
    latest = latest_checkpoint(folder)
    found, expected = load_tensors(latest), tensors_of(latest.step)
    assert found.keys() == expected.keys(), fault
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items()), fault
    return latest.step


def test_any_call_may_fail_or_be_the_last(
    run_folder: Path, disk: FaultyDisk, save_three: Callable[[], int]
) -> None:
    counted = disk.counted(lambda: None if save_three() == 0 else pytest.fail("a save without faults"))
    assert {calls.operation for calls in counted} >= {"write", "fsync", "rename", "unlink"}, counted
    outcomes = set()
    for calls, count in counted.items():
        for number in range(1, count + 1):
            for fault in ways(calls, number):
                fill(run_folder)
                disk.arm(fault)
                code = save_three()
                assert disk.struck, f"{fault}: there was no such call"
                disk.arm(None)
                outcomes.add(code)
                assert code in (0, 1, -signal.SIGKILL), fault
                step = assert_usable(run_folder, fault)
                assert step == 3 or code != 0, f"{fault}: said to be saved, and is not"
                remove_partials(run_folder)
                assert save_three() == 0, fault
                assert assert_usable(run_folder, fault) == 3
                assert [one.step for one in list_checkpoints(run_folder)] == [2, 3], fault
                assert not list(run_folder.glob("*.partial")), fault
    assert outcomes == {0, 1, -signal.SIGKILL}


def ways(calls: Calls, number: int) -> Iterator[Fault]:
    """A full disk, a broken one, half a write, and a kill."""
    yield Fault(calls, number, errno.ENOSPC)
    yield Fault(calls, number, errno.EIO, is_for_good=True)
    yield Fault(calls, number, -signal.SIGKILL)
    if calls.operation == "write":
        yield Fault(calls, number, errno.ENOSPC, is_short=True, is_for_good=True)
        yield Fault(calls, number, is_short=True)
