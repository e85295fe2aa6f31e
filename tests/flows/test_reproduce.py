"""`brickroad reproduce` as a flow and as a command: the same bytes, and one clear line where that cannot be."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_data import build_plainly

from storage.errors import CorpusError
from storage.workspace import Workspace
from tasks.training import train
from tasks.training_request import Cadence, TrainingRequest

pytestmark = pytest.mark.usefixtures("prefect_server")
BRICKROAD = Path(sys.executable).parent / "brickroad"


@pytest.fixture
def run_id(tiny_corpus: Path, workspace: Workspace) -> str:
    settings = {
        "training.steps": "6", "training.batch_size": "4", "network.block_size": "16",
        "network.width": "16", "network.layers": "1", "network.heads": "2",
    }  # fmt: skip
    dataset = build_plainly(tiny_corpus, workspace)
    request = TrainingRequest(
        dataset=dataset.reference, settings=settings, cadence=Cadence(report_every_steps=1)
    )
    trained = train(request, workspace)
    assert trained is not None
    return trained.run_id


def test_a_run_is_repeated_and_nothing_stays_unless_it_is_kept(
    run_id: str, tiny_corpus: Path, workspace: Workspace, tmp_path: Path
) -> None:
    from flows.reproduce_run import reproduce_run

    assert reproduce_run(run_id, workspace=workspace.root).ok
    assert not list(workspace.root.glob(".reproduce-*"))
    kept = tmp_path / "kept"
    assert reproduce_run(run_id, kept, workspace=workspace.root).ok
    assert (kept / "checkpoints" / run_id / "run.json").is_file()
    with pytest.raises(ValueError, match="kept: is not empty"):
        reproduce_run(run_id, kept, workspace=workspace.root)
    shutil.rmtree(tiny_corpus)
    with pytest.raises(CorpusError, match="tiny"):
        reproduce_run(run_id, workspace=workspace.root)


def test_the_command_ends_with_1_where_the_two_part(
    run_id: str, workspace: Workspace, prefect_api: dict[str, str]
) -> None:
    path = workspace.checkpoints / run_id / "run.json"
    value = json.loads(path.read_text())
    value["losses"]["train_loss"][3][1] += 0.25
    path.write_text(json.dumps(value))
    done = subprocess.run(
        [BRICKROAD, "reproduce", run_id, "--workspace", workspace.root, "--json"],
        env=os.environ | prefect_api | {"COLUMNS": "80", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    facts = json.loads(done.stdout)
    assert facts["ok"] is False
    assert facts["parts_at"].startswith("losses: train loss at step 4, ")
    assert "(-2.5e-01)" in facts["parts_at"]
    assert "They first part in the losses" in done.stderr
