"""How far something is, told to a real Prefect server; and to none, which holds up nothing."""

import subprocess
import sys
from uuid import uuid4

import pytest
from prefect import flow, get_client
from prefect.artifacts import Artifact
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from tasks.progress_artifact import ProgressArtifact
from tasks.watch import Watch


def test_the_page_hears_the_last_word(prefect_server: None) -> None:
    @flow
    def work() -> None:
        with Watch("working", unit="steps", total=3, artifact_key="how-far") as watch:
            watch.advance(3)

    work()
    found = Artifact.get("how-far")
    assert found is not None
    assert float(str(found.data)) == 100.0
    assert "3 steps of 3 steps" in str(found.description)


def test_a_server_that_is_away_is_said_once(prefect_server: None, capsys: pytest.CaptureFixture[str]) -> None:
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api", PREFECT_CLIENT_MAX_RETRIES: 0}):
        artifact = ProgressArtifact(uuid4(), get_client(sync_client=True))
        artifact.tell(10.0, "working")
        artifact.finish("worked")
        artifact.close()
    said = capsys.readouterr().err.splitlines()
    assert len([line for line in said if "Prefect does not take how far it is" in line]) == 1


def test_outside_a_flow_run_there_is_none() -> None:
    assert ProgressArtifact.of_this_run("how-far", "working") is None


def test_a_look_with_a_bar_does_not_wait_for_the_orchestrator_to_be_imported() -> None:
    look = (
        "import sys\nfrom tasks.watch import Watch\n"
        "with Watch('fetch', unit='bytes', total=1, artifact_key='fetch') as watch: watch.advance(1)\n"
        "assert 'prefect' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", look], check=True)
