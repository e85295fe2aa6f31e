"""The road on the team stack: PostgreSQL, S3, passwords; what goes wrong there; a back-up that brings everything back."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from team_stack import BIN, BUCKET, TeamStack
from tiny_trainings import TINY

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


def brickroad(
    stack: TeamStack, place: Path, *arguments: object, **wrong: str
) -> "subprocess.CompletedProcess[str]":
    """The command, with nothing but the variables of a worker; no secret is in what it says."""
    done = subprocess.run(
        [BIN / "brickroad", *map(str, arguments), "--workspace", place],
        env=stack.worker | wrong,
        cwd=place.parent,
        capture_output=True,
        text=True,
        timeout=300,
    )
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


def road(corpus: Path) -> list[object]:
    """The arguments of a run that is over in a moment."""
    tiny = [part for key, value in TINY.items() for part in ("--set", f"{key}={value}")]
    return ["run", corpus, "--val-fraction", "0.1", "--workers", "2", *tiny, "--json"]


def test_the_road_on_the_team_stack_its_troubles_and_its_backup(
    stack: TeamStack, tiny_corpus: Path, tmp_path: Path
) -> None:
    place = tmp_path / "workspace"
    first = facts(brickroad(stack, place, *road(tiny_corpus)))
    assert (first["model_alias"], first["built_parts"]) == ("champion", 12)
    second = facts(brickroad(stack, place, *road(tiny_corpus)))
    assert (second["model_alias"], second["built_parts"]) == ("challenger", 0)
    assert not (place / "mlflow").exists(), "all of it is on the servers"
    s3 = boto3.client(
        "s3",
        endpoint_url=stack.s3_url,
        aws_access_key_id="brickroad",
        aws_secret_access_key=stack.secrets.s3,
        region_name="us-east-1",
    )
    keys = [one["Key"] for one in s3.list_objects_v2(Bucket=BUCKET)["Contents"]]
    assert any(key.endswith(("network.safetensors", ".safetensors")) for key in keys), keys[:20]

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

    backups = tmp_path / "backups"
    stack.script("backup.sh", backups, BRICKROAD_WORKSPACE=str(place))
    stack.postgres.stop()
    assert "database" in refused(brickroad(stack, place, *road(tiny_corpus)))
    stack.postgres.start()

    stack.stop_servers()
    stack.stop_storage()
    for database in ("prefect", "mlflow", "mlflow_auth"):
        stack.psql("postgres", f"DROP DATABASE {database} WITH (FORCE)")
    stack.start_storage()
    stack.script("databases.sh", PGUSER="postgres", PGPASSWORD=stack.secrets.postgres)
    (saved,) = (one for one in backups.iterdir() if one.name != "objects")
    stack.script("restore.sh", saved)
    stack.start_servers()
    assert facts(brickroad(stack, elsewhere, *writing))["text"] == written, "the champion of before"
    assert int(stack.psql("prefect", "SELECT count(*) FROM flow_run WHERE state_type = 'COMPLETED'")) >= 2

    s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": key} for key in keys if key]})
    for found in s3.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        s3.delete_object(Bucket=BUCKET, Key=found["Key"])
    s3.delete_bucket(Bucket=BUCKET)
    assert refused(brickroad(stack, elsewhere, *writing))

    for folder in (place, stack.logs, saved, backups / "objects"):
        for path in folder.rglob("*"):
            if path.is_file():
                assert stack.secrets.found_in(path.read_bytes()) == [], path
    assert stack.secrets.found_in(stack.postgres.log.read_bytes()) == []
    for database in ("prefect", "mlflow", "mlflow_auth"):
        assert stack.secrets.found_in(stack.dump(database)) == [], database
