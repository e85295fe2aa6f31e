"""Several hosts, as network namespaces of this machine: a build and a training on them come to what one host comes to."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hosts import Host, hosts_on_a_bridge
from tiny_data import build_plainly
from tiny_trainings import TINY, TRAIN

from storage.datasets import Dataset
from storage.workspace import Workspace
from tasks.tracking import Tracker
from tasks.training import train
from tasks.training_request import Cadence, TrainingRequest

ROOT = Path(__file__).parents[2]
BUILDER = str(ROOT / "tests" / "support" / "builds_on_a_cluster.py")
ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(ROOT),
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "12s",  # until a host that is silent is taken for dead; not fewer
}
PATIENCE_SECONDS = 120


@pytest.fixture
def hosts() -> Iterator[list[Host]]:
    """One that builds, and two of a cluster."""
    with hosts_on_a_bridge(3) as found:
        yield found


@contextlib.contextmanager
def running(host: Host, *command: str) -> Iterator[subprocess.Popen[str]]:
    """A Python on a host, which ends with the body."""
    with subprocess.Popen(
        host.command(sys.executable, *command),
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def cluster(hosts: list[Host]) -> Iterator[tuple[str, list[subprocess.Popen[str]]]]:
    """The address of a Dask scheduler on the second host, and the workers of the second and the third."""
    address = f"tcp://{hosts[1].address}:8786"
    with contextlib.ExitStack() as stack:
        scheduler = ["-m", "distributed.cli.dask_scheduler", "--host", hosts[1].address, "--no-dashboard"]
        stack.enter_context(running(hosts[1], *scheduler))
        worker = ["-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard"]
        workers = [
            stack.enter_context(running(host, *worker, "--no-nanny", "--host", host.address))
            for host in hosts[1:]
        ]
        waiting = "import sys, distributed; distributed.Client(sys.argv[1]).wait_for_workers(2, timeout=60)"
        subprocess.run(hosts[0].command(sys.executable, "-c", waiting, address), env=ENVIRONMENT, check=True)
        yield address, workers


@pytest.mark.parametrize("end", ["cut off", "killed"])
def test_a_build_on_two_hosts_ends_with_the_same_digest_though_one_of_them_is_lost(
    end: str,
    tiny_corpus: Path,
    tmp_path: Path,
    hosts: list[Host],
    cluster: tuple[str, list[subprocess.Popen[str]]],
) -> None:
    expected = build_plainly(tiny_corpus, Workspace.at(tmp_path / "threads")).manifest.digest
    address, (_, lost) = cluster
    asked = [BUILDER, "dask", address, str(tiny_corpus)]
    with running(hosts[0], *asked, str(tmp_path / "whole")) as builder:
        said, _ = builder.communicate("\n", timeout=PATIENCE_SECONDS)
        assert said.split()[-2] == expected, "both hosts are there"
    with running(hosts[0], *asked, str(tmp_path / "lost")) as builder:
        assert builder.stdin
        assert builder.stdout
        builder.stdout.readline()
        lost.send_signal(signal.SIGSTOP)  # a call that it is given stays with it
        builder.stdin.write("\n")
        builder.stdin.flush()
        assert builder.stdout.readline() == "held\n"
        if end == "cut off":
            hosts[2].cut_off()
            lost.send_signal(signal.SIGCONT)  # it makes its call, and can tell nobody
        else:
            lost.kill()
        said, _ = builder.communicate(timeout=PATIENCE_SECONDS)
    assert said.split()[0] == expected


def test_a_training_on_two_hosts_comes_to_the_losses_of_one(
    dataset: Dataset, workspace: Workspace, hosts: list[Host]
) -> None:
    changed = TINY | {"training.batch_size": "8", "training.device": "cpu"}
    request = TrainingRequest(
        dataset=dataset.reference, settings=changed, cadence=Cadence(report_every_steps=1), processes=2
    )
    by_one_host = train(request, workspace)
    assert by_one_host
    apart = replace(request, processes=1, nodes=2, rendezvous=f"{hosts[1].address}:29500")
    requests = [json.dumps(replace(apart, node=node).to_json()) for node in range(2)]
    with (
        running(hosts[1], "-c", TRAIN, requests[0], str(workspace.root)) as first,
        running(hosts[2], "-c", TRAIN, requests[1], str(workspace.root)) as second,
    ):
        for process in (first, second):
            process.communicate(timeout=PATIENCE_SECONDS)
            assert process.returncode == 0
    tracker = Tracker(workspace)
    by_two = next(
        run
        for run in tracker.client.search_runs([tracker.experiment_id])
        if run.info.run_id != by_one_host.run_id
    )
    ours, theirs = (
        [point.value for point in tracker.client.get_metric_history(run_id, "train_loss")]
        for run_id in (by_two.info.run_id, by_one_host.run_id)
    )
    assert len(ours) == 12
    assert ours == theirs
