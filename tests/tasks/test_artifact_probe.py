"""Whether MLflow takes files is asked before the work, of a real S3 server, and what is wrong is one line."""

from pathlib import Path

import boto3
import pytest
from mlflow import MlflowClient
from mlflow.store.artifact.s3_artifact_repo import _cached_get_s3_client
from servers import s3_server
from tracking_servers import hanging_server

from storage.workspace import Workspace
from tasks.tracking import EXPERIMENT, Store, TrackingError, probe_artifacts, refuse_unwritable_artifacts
from tasks.tracking.artifact_probe import _found_writable

KEY = "a-secret-key"


@pytest.fixture
def elsewhere(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace whose user has chosen a database with artifacts in the bucket `team`."""
    uri = f"sqlite:///{workspace.mlflow / 'mlflow.db'}"
    MlflowClient(tracking_uri=uri).create_experiment(EXPERIMENT, artifact_location="s3://team/mlflow/1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return workspace


def forget() -> None:
    """What this process knows of stores, and MLflow's clients of them, which keep address and key."""
    _found_writable.clear()
    _cached_get_s3_client.cache_clear()
    boto3.setup_default_session()


def refusal(workspace: Workspace) -> str:
    with pytest.raises(TrackingError) as caught:
        refuse_unwritable_artifacts(workspace)
    line = str(caught.value)
    assert "\n" not in line
    assert KEY not in line
    assert "s3://team/mlflow/1, which takes none" in line
    return line


def test_a_bucket_that_is_not_there_is_refused_and_one_that_is_is_left_as_it_was(
    elsewhere: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_server(monkeypatch):
        assert "its bucket is not there" in refusal(elsewhere)
        s3 = boto3.client("s3")
        s3.create_bucket(Bucket="team")
        refuse_unwritable_artifacts(elsewhere)
        assert "Contents" not in s3.list_objects_v2(Bucket="team")
        s3.delete_bucket(Bucket="team")
        refuse_unwritable_artifacts(elsewhere)  # asked once a sitting: what goes away later is the outbox's
        forget()
        assert "its bucket is not there" in refusal(elsewhere)


def test_a_key_that_is_missing_is_refused(elsewhere: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server(monkeypatch):
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        forget()
        assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in refusal(elsewhere)


def test_a_wrong_key_is_refused(elsewhere: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """moto asks who signs, and whether the signature is right, once it is told to."""
    from moto.core import enable_iam_authentication

    with s3_server(monkeypatch):
        boto3.client("s3").create_bucket(Bucket="team")
        iam = boto3.client("iam")
        iam.create_user(UserName="brickroad")
        iam.attach_user_policy(UserName="brickroad", PolicyArn=_all_of_s3(iam))
        key = iam.create_access_key(UserName="brickroad")["AccessKey"]
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEY)
        with enable_iam_authentication():
            forget()
            assert "its key is refused" in refusal(elsewhere)
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
            forget()
            refuse_unwritable_artifacts(elsewhere)


def _all_of_s3(iam: object) -> str:
    policy = (
        '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}'
    )
    arn: str = iam.create_policy(PolicyName="s3", PolicyDocument=policy)["Policy"]["Arn"]  # type: ignore[attr-defined]
    return arn


def test_one_that_hangs_is_given_up(elsewhere: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server(monkeypatch), hanging_server() as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        with pytest.raises(TrackingError, match="no answer in 1 s"):
            probe_artifacts(Store(elsewhere), patience_seconds=1.0)


def test_the_workspaces_own_database_is_not_asked(workspace: Workspace, tmp_path: Path) -> None:
    (workspace.mlflow / "mlflow.db").unlink()
    refuse_unwritable_artifacts(workspace)
    assert not (workspace.mlflow / "mlflow.db").exists(), "it is made when it is needed"


@pytest.fixture(autouse=True)
def _nobody_was_asked() -> None:
    forget()
