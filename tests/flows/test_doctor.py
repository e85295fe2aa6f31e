"""What doctor finds, on this machine and of real servers: each thing that is wrong has one way out, and no secret."""

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

from programs import free_port, without_prefect
from servers import web_server
from tracking_servers import hanging_server

from flows import doctor_machine, doctor_prefect
from flows.doctor import Finding, look
from storage.workspace import Workspace

BIN = Path(sys.executable).parent
DEPLOYMENTS = Path(__file__).parent.parent.parent / "prefect.yaml"


def doctor(workspace: Workspace, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [BIN / "brickroad", "doctor", "--workspace", workspace.root, "--json"],
        env=without_prefect() | variables,
        cwd=workspace.root.parent,
        capture_output=True,
        text=True,
        timeout=120,
    )


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.what: finding for finding in findings}


def test_a_sound_machine_is_exit_0_and_left_as_it_was(workspace: Workspace) -> None:
    before = sorted(workspace.root.rglob("*probe*"))
    done = doctor(workspace)
    facts = json.loads(done.stdout)
    assert done.returncode == 0, facts
    assert facts["ok"]
    found = {one["what"]: one["found"] for one in facts["findings"]}
    assert found["packages"] == "all within their bounds"
    assert "takes, gives and deletes a file" in found["artifacts"]
    assert "no server runs" in found["Prefect"]
    assert sorted(workspace.root.rglob("*probe*/*")) == before


def test_servers_that_hang_or_are_away_are_exit_1_with_a_way_out_and_no_password(
    workspace: Workspace,
) -> None:
    away = f"http://me:secret-one@127.0.0.1:{free_port()}/api"
    with hanging_server() as address:
        hanging = address.replace("//", "//me:secret-two@")
        done = doctor(workspace, PREFECT_API_URL=away, MLFLOW_TRACKING_URI=hanging)
    assert done.returncode == 1
    assert "secret" not in done.stdout + done.stderr
    wrong = {one["what"]: one for one in json.loads(done.stdout)["findings"] if not one["ok"]}
    assert set(wrong) == {"MLflow", "Prefect"}
    assert wrong["MLflow"]["found"] == f"{address} does not answer"
    assert "unset MLFLOW_TRACKING_URI" in wrong["MLflow"]["way_out"]
    assert "refused" in wrong["Prefect"]["found"]
    assert "unset PREFECT_API_URL" in wrong["Prefect"]["way_out"]


def test_a_check_that_hangs_or_fails_holds_up_no_other() -> None:
    never = threading.Event()

    def hang() -> list[Finding]:
        never.wait()
        return []

    def fail() -> list[Finding]:
        raise ZeroDivisionError("of it")

    well = Finding(what="well", ok=True, found="yes")
    found = by_name(look({"hangs": hang, "fails": fail, "well": lambda: [well]}, seconds=0.2))
    assert found["well"] == well
    assert found["hangs"].found.startswith("no answer in")
    assert "ZeroDivisionError('of it')" in found["fails"].found
    assert not found["hangs"].ok
    assert not found["fails"].ok
    never.set()


def test_versions_out_of_bounds_are_told_with_what_breaks() -> None:
    wrong = [
        *doctor_machine.wrong_versions(
            ["fastapi<0.1", "nowhere-to-be-found>=1", 'also-nowhere; extra == "x"']
        )
    ]
    assert len(wrong) == 2
    assert "every local Prefect server crashes" in wrong[0]
    assert wrong[1] == "nowhere-to-be-found is missing"


def test_versions_that_are_not_the_locks_are_told() -> None:
    import torch

    public = torch.__version__.partition("+")[0]
    lock = f"torch=={public}\nnumpy==0.0.1\nnowhere-to-be-found==1\npywin32==1 ; sys_platform == 'win32'\n"
    same, others = doctor_machine.compare_with_lock(lock)
    assert same == 1
    assert len(others) == 1
    assert others[0].endswith("instead of 0.0.1")


def test_a_folder_that_takes_no_file_is_wrong(tmp_path: Path) -> None:
    place = Workspace.at(Path("/proc/brickroad"))
    found = by_name(look(doctor_machine.checks_of_machine(place)))["workspace"]
    assert not found.ok
    assert "--workspace" in found.way_out


def test_who_has_a_port_is_told(workspace: Workspace) -> None:
    number = free_port()
    assert doctor_machine.port("MLflow", number, workspace).found == "free, for MLflow"
    with socket.create_server(("127.0.0.1", 0)) as holder:
        number = holder.getsockname()[1]
        found = doctor_machine.port("Prefect", number, workspace)
        assert "another program has it: brickroad up --prefect-port " in found.found
        assert found.ok
        workspace.services_file.write_text(json.dumps({"prefect_api_url": f"http://127.0.0.1:{number}/api"}))
        assert "brickroad up on this workspace" in doctor_machine.port("Prefect", number, workspace).found
    with web_server({"/health": b"OK"}) as server:
        found = doctor_machine.port("MLflow", int(server.url.rpartition(":")[2]), workspace)
        assert "another MLflow" in found.found


def test_what_a_prefect_server_lacks_is_told(prefect_api: dict[str, str]) -> None:
    from prefect.client.orchestration import get_client

    def examine() -> dict[str, Finding]:
        return by_name(look(doctor_prefect.checks_of_prefect(prefect_api["PREFECT_API_URL"])))

    assert examine()["Prefect"].ok
    command = [sys.executable, "-m", "flows.set_up", DEPLOYMENTS]
    subprocess.run(command, env=os.environ | prefect_api, check=True, capture_output=True, timeout=120)
    found = examine()
    assert found["deployments"].found == "11"
    assert (found["pool gpu"].ok, found["pool gpu"].found) == (False, "0 workers online")
    assert "prefect worker start --pool gpu" in found["pool gpu"].way_out
    assert found["limit of the GPU"].found == "1 at a time, 0 now"
    assert found["late runs"].found == "none"
    with get_client(sync_client=True) as client:
        client.delete_global_concurrency_limit_by_name("gpu")
        found = examine()
        assert not found["limit of the GPU"].ok
        assert "flows.set_up" in found["limit of the GPU"].way_out
        for deployment in client.read_deployments():
            client.delete_deployment(deployment.id)
