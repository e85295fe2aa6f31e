"""`brickroad quantize` as a script meets it: one JSON object, a card in Prefect, figures in MLflow, a model that writes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_data import build_plainly

from storage.workspace import Workspace
from tasks.tracking import Tracker
from tasks.training import train
from tasks.training_request import Cadence, TrainingRequest

ROOT = Path(__file__).parent.parent.parent
TINY = {
    "training.steps": "6",
    "training.batch_size": "4",
    "network.block_size": "16",
    "network.width": "64",
    "network.layers": "1",
    "network.heads": "2",
}


def brickroad(*arguments: str, workspace: Workspace, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command, from this checkout."""
    return subprocess.run(
        [sys.executable, "-c", "from flows.command_line import main; main()", *arguments],
        cwd=ROOT,
        env=os.environ | {"BRICKROAD_WORKSPACE": str(workspace.root), "NO_COLOR": "1"} | variables,
        capture_output=True,
        text=True,
        timeout=200,
    )


@pytest.mark.usefixtures("prefect_server")
def test_a_model_is_quantized_and_writes(
    tiny_corpus: Path, workspace: Workspace, prefect_api: dict[str, str]
) -> None:
    from prefect.client.orchestration import get_client

    dataset = build_plainly(tiny_corpus, workspace)
    request = TrainingRequest(dataset=dataset.reference, settings=TINY, cadence=Cadence(report_every_steps=6))
    run_id = train(request, workspace).run_id
    done = brickroad("quantize", run_id, "--to", "int4", "--json", workspace=workspace, **prefect_api)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["bytes"] < 0.25 * found["float32_bytes"]
    assert found["over_bfloat16"]["standard_error"] > 0
    assert [one["name"] for one in found["variants"]] == [
        "float32", "bfloat16", "int4", "int4 in bfloat16",
    ]  # fmt: skip
    assert Path(found["checkpoint"]).parent.name == f"{run_id}-int4"
    assert "one standard error" in done.stderr
    assert f"generate {run_id}-int4" in done.stderr
    metrics = Tracker(workspace).client.get_run(run_id).data.metrics
    assert metrics["quantized_int4/val_loss"] == found["val_loss"]
    with get_client(sync_client=True) as client:
        cards = [str(one.data) for one in client.read_artifacts() if one.key == "quantized-int4"]
    assert any(run_id in card for card in cards)
    written = brickroad("generate", f"{run_id}-int4", "--tokens", "5", "--json", workspace=workspace)
    assert json.loads(written.stdout)["tokens"] > 0
    assert brickroad("quantize", run_id, "--to", "int2", workspace=workspace).returncode == 2
