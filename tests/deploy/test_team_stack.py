"""The road on the team stack: PostgreSQL, S3, passwords; what goes wrong there; a back-up that brings everything back."""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from team_stack import BIN, BUCKET, TeamStack
from tiny_trainings import TINY

STEPS = 8000  # some twenty seconds
AWAY_SECONDS = 8.0
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TeamStack]:
    """The whole stack, as `deploy/` sets it up."""
    stack = TeamStack(tmp_path_factory.mktemp("stack"))
    try:
        stack.start()
        yield stack
    finally:
        stack.remove()


def command(
    stack: TeamStack, place: Path, *arguments: object, **wrong: str
) -> tuple[list[object], dict[str, object]]:
    """The command, with nothing but the variables of a worker."""
    place.parent.mkdir(exist_ok=True)
    options = {"env": stack.worker | wrong, "cwd": place.parent, "text": True}
    return [BIN / "brickroad", *map(str, arguments), "--workspace", place], options


def brickroad(
    stack: TeamStack, place: Path, *arguments: object, **wrong: str
) -> "subprocess.CompletedProcess[str]":
    """What the command came to; no secret is in what it says."""
    program, options = command(stack, place, *arguments, **wrong)
    done = subprocess.run(program, capture_output=True, timeout=300, **options)  # type: ignore[call-overload]
    assert stack.secrets.found_in((done.stdout + done.stderr).encode()) == []
    return done


def facts(done: "subprocess.CompletedProcess[str]") -> dict[str, object]:
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def refused(done: "subprocess.CompletedProcess[str]") -> str:
    """The one line of a command that failed."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def examined(stack: TeamStack, place: Path, **wrong: str) -> dict[str, dict[str, object]]:
    """What doctor finds, by what it looked at."""
    done = brickroad(stack, place, "doctor", "--json", **wrong)
    return {one["what"]: one for one in json.loads(done.stdout)["findings"]}


def bucket_client(stack: TeamStack) -> Any:
    """As its owner sees it."""
    return boto3.client(
        "s3",
        endpoint_url=stack.s3_url,
        aws_access_key_id="brickroad",
        aws_secret_access_key=stack.secrets.s3,
        region_name="us-east-1",
    )


def road(corpus: Path) -> list[object]:
    """The arguments of a run that is over in a moment."""
    tiny = [part for key, value in TINY.items() for part in ("--set", f"{key}={value}")]
    return ["run", corpus, "--val-fraction", "0.1", "--workers", "2", *tiny, "--json"]


def test_the_databases_go_away_in_the_middle_of_a_training_and_it_ends_right(
    stack: TeamStack, tiny_corpus: Path, tmp_path: Path
) -> None:
    place = tmp_path / "workspace"
    built = facts(brickroad(stack, place, "dataset", "build", tiny_corpus, "--val-fraction", "0.1", "--json"))
    settings = TINY | {"training.steps": str(STEPS)}
    options = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    program, how = command(stack, place, "train", Path(str(built["path"])).parent.name, *options, "--json")
    points = "SELECT count(*) FROM metrics WHERE key = 'train_loss'"
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **how) as training:  # type: ignore[call-overload]
        try:
            deadline = time.monotonic() + 120
            while int(stack.psql("mlflow", points)) == 0:
                assert training.poll() is None, training.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.2)
            stack.postgres.stop()
            assert training.poll() is None, "it is on its way"
            time.sleep(AWAY_SECONDS)
            stack.postgres.start()
            said, words = training.communicate(timeout=240)
        finally:
            training.kill()
    assert training.returncode == 0, words
    assert stack.secrets.found_in((said + words).encode()) == []
    run = json.loads(said)["run_id"]
    mine = f"FROM metrics WHERE run_uuid = '{run}' AND key"
    assert stack.psql("mlflow", f"SELECT status FROM runs WHERE run_uuid = '{run}'").strip() == "FINISHED"
    for key, expected in (
        ("train_loss", STEPS // 10),
        ("val_loss", len(set(range(400, STEPS + 1, 400)) | set(range(1000, STEPS + 1, 1000)))),
    ):
        counted = stack.psql("mlflow", f"SELECT count(*), count(DISTINCT step), max(step) {mine} = '{key}'")
        assert counted.replace(" ", "").strip() == f"{expected}|{expected}|{STEPS}", (
            f"every point of {key} once"
        )
    states = stack.psql("prefect", "SELECT state_type FROM flow_run WHERE name LIKE 'train %'").split()
    assert states == ["COMPLETED"]
    standing = stack.psql("mlflow", "SELECT model_id FROM logged_models WHERE lifecycle_stage = 'active'")
    pages = bucket_client(stack).get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    keys = [one["Key"] for page in pages for one in page["Contents"]]
    stored = {key.split("/models/")[1].split("/")[0] for key in keys if "/models/" in key}
    assert stored == set(standing.split()), "files of checkpoints that were dropped are gone"
    assert int(stack.psql("mlflow", "SELECT count(*) FROM logged_models")) > len(stored)


def test_the_road_on_the_team_stack_its_troubles_and_its_backup(
    stack: TeamStack, tiny_corpus: Path, tmp_path: Path
) -> None:
    place = tmp_path / "workspace"
    first = facts(brickroad(stack, place, *road(tiny_corpus)))
    assert (first["model_alias"], first["built_parts"]) == ("champion", 12)
    second = facts(brickroad(stack, place, *road(tiny_corpus)))
    assert (second["model_alias"], second["built_parts"]) == ("challenger", 0)
    assert not (place / "mlflow").exists(), "all of it is on the servers"
    s3 = bucket_client(stack)
    keys = [one["Key"] for one in s3.list_objects_v2(Bucket=BUCKET)["Contents"]]
    assert any(key.endswith(("network.safetensors", ".safetensors")) for key in keys), keys[:20]

    found = examined(stack, place)
    wrong = {what for what, one in found.items() if not one["ok"]}
    assert wrong - {"late runs"} == {"pool cpu", "pool gpu"}, found  # no worker runs here
    assert "mlflow-artifacts:/" in str(found["artifacts"]["found"])
    assert found["limit of the GPU"]["found"] == "1 at a time, 0 now"
    triggers = stack.psql("prefect", "SELECT count(*) FROM automation")
    assert int(triggers) == 2, "what flows start by"

    elsewhere = tmp_path / "another-machine"
    writing = (
        "generate",
        "brickroad-gpt@champion",
        "--prompt",
        "The ",
        "--tokens",
        "5",
        "--seed",
        "7",
        "--json",
    )
    written = facts(brickroad(stack, elsewhere, *writing))["text"]

    line = refused(brickroad(stack, place, *road(tiny_corpus), PREFECT_API_AUTH_STRING="brickroad:stale"))
    assert "Prefect refuses the user or the password" in line
    line = refused(brickroad(stack, place, "promote", "brickroad-gpt/1", MLFLOW_TRACKING_PASSWORD="stale"))
    assert "refuses the user or the password; set MLFLOW_TRACKING_USERNAME" in line

    found = examined(
        stack, place, PREFECT_API_AUTH_STRING="brickroad:stale", MLFLOW_TRACKING_PASSWORD="stale"
    )
    assert "refuses the user or the password" in str(found["Prefect"]["found"])
    assert "refuses the user or the password" in str(found["MLflow"]["found"])

    backups = tmp_path / "backups"
    stack.script("backup.sh", backups, BRICKROAD_WORKSPACE=str(place))
    (backups / "20200101T000000Z").mkdir()  # one that was never finished
    (backups / "objects" / ("0" * 64)).write_bytes(b"of a back-up that is gone")
    stack.script("backup.sh", backups, 1, BRICKROAD_WORKSPACE=str(place))
    (saved,) = (one for one in backups.iterdir() if one.name not in ("objects", ".lock"))
    named = {one["sha256"] for one in json.loads((saved / "bucket.json").read_text())}
    assert {one.name for one in (backups / "objects").iterdir()} == named
    stack.postgres.stop()
    assert "database" in refused(brickroad(stack, place, *road(tiny_corpus)))
    found = examined(stack, place)
    assert "its database does not" in str(found["Prefect"]["found"])
    assert "database" in f"{found['MLflow']}"
    stack.postgres.start()

    stack.stop_servers()
    stack.stop_storage()
    for database in ("prefect", "mlflow", "mlflow_auth"):
        stack.psql("postgres", f"DROP DATABASE {database} WITH (FORCE)")
    stack.start_storage()
    stack.script("databases.sh", PGUSER="postgres", PGPASSWORD=stack.secrets.postgres)
    stack.script("restore.sh", saved)
    stack.start_servers()
    assert facts(brickroad(stack, elsewhere, *writing))["text"] == written, "the champion of before"
    assert int(stack.psql("prefect", "SELECT count(*) FROM flow_run WHERE state_type = 'COMPLETED'")) >= 2

    s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": key} for key in keys if key]})
    for found in s3.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        s3.delete_object(Bucket=BUCKET, Key=found["Key"])
    s3.delete_bucket(Bucket=BUCKET)
    assert refused(brickroad(stack, elsewhere, *writing))
    line = refused(brickroad(stack, tmp_path / "nothing-built", *road(tiny_corpus)))
    assert "which takes none" in line
    assert not list((tmp_path / "nothing-built").glob("datasets/*/*")), "said before the work"
    assert not examined(stack, place)["artifacts"]["ok"]

    for folder in (place, stack.logs, saved, backups / "objects"):
        for path in folder.rglob("*"):
            if path.is_file():
                assert stack.secrets.found_in(path.read_bytes()) == [], path
    assert stack.secrets.found_in(stack.postgres.log.read_bytes()) == []
    for database in ("prefect", "mlflow", "mlflow_auth"):
        assert stack.secrets.found_in(stack.dump(database)) == [], database
