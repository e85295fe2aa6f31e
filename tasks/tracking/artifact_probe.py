"""Whether the store takes files: asked before the work, by one tiny file that goes the way of a checkpoint."""

import re
import tempfile
import uuid
from pathlib import Path

from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from storage.network import is_remote, shown
from storage.workspace import Workspace
from tasks.patience import within
from tasks.tracking.store import Store, TrackingError, one_line

_PATIENCE_SECONDS = 30.0
_FOLDER = "brickroad-probe"
_REASONS = {
    r"NoSuchBucket": "its bucket is not there; make it, or start MLflow with an artifact root that is",
    r"InvalidAccessKeyId|SignatureDoesNotMatch|AccessDenied|InvalidToken|ExpiredToken|Forbidden|credentials": (
        "its key is refused or missing; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    ),
    r"No module named 'boto": "boto3 is not installed; run: pip install 'brickroad[team]'",
    r"Permission denied|Read-only": "it may not be written; let this user write there",
    r"too many 50\d|\b50\d (Server|Internal|Bad|Service|Gateway)": "the server could not put one there; look in its log whether its bucket is there and takes its key",  # it goes through the server, which says no more
}
_found_writable = set[str]()


def refuse_unwritable_artifacts(workspace: Workspace) -> None:
    """Raises TrackingError, in one line, if a tracking server of the user's takes no files. A process asks each server once.

    A run of hours would hear of it with its first checkpoint. The database in the workspace has its files beside it.
    """
    if not Store.is_elsewhere():
        return
    store = Store(workspace)
    if store.uri not in _found_writable:
        probe_artifacts(store)
        _found_writable.add(store.uri)


def probe_artifacts(store: Store, *, patience_seconds: float = _PATIENCE_SECONDS) -> str:
    """Puts a file into our experiment's place for artifacts, gets it back, and deletes it. Returns the place; TrackingError says what failed."""
    with store.answering():
        location = str(store.client.get_experiment(store.experiment_id).artifact_location)
    place = shown(location) if is_remote(location) else location  # mlflow-artifacts:/1 is no address
    try:
        within(patience_seconds, lambda: _put_get_delete(location, store.uri))
    except TimeoutError:
        raise TrackingError(
            f"{_named(store, place)}: no answer in {patience_seconds:.0f} s; look whether it runs"
        ) from None
    except Exception as error:  # whatever a store of artifacts raises: there are dozens of kinds
        text = str(error)
        unknown = f"{one_line(error)}; look whether it runs"
        reason = next((reason for sign, reason in _REASONS.items() if re.search(sign, text)), unknown)
        raise TrackingError(f"{_named(store, place)}: {reason}") from error
    return place


def _named(store: Store, place: str) -> str:
    return f"MLflow at {store.place} keeps files in {place}, which takes none"


def _put_get_delete(place: str, uri: str) -> None:
    repository = get_artifact_repository(place, tracking_uri=uri)
    content = uuid.uuid4().hex  # its name as well: others may be asking at this moment
    with tempfile.TemporaryDirectory() as folder:
        sent = Path(folder) / f"{content}.txt"
        sent.write_text(content, encoding="utf-8")
        repository.log_artifact(str(sent), _FOLDER)
        got = repository.download_artifacts(f"{_FOLDER}/{sent.name}", tempfile.mkdtemp(dir=folder))
        if Path(got).read_text(encoding="utf-8") != content:
            raise OSError("a file came back with other bytes")
    repository.delete_artifacts(f"{_FOLDER}/{sent.name}")
