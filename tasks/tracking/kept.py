"""What MLflow's runs and versions need of a workspace, and which logged models nothing needs."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities import LoggedModel, LoggedModelStatus, Run, ViewType

from storage.workspace import Workspace
from tasks.tracking.store import Store, local_path

_PAGE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownVersion:
    """A registered version: the logged model it is, the run it came from, whether an alias names it, its tags and its folder
    if that is on this disk."""

    model_id: str | None
    run_id: str | None
    has_alias: bool
    tags: dict[str, str]
    folder: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredModel:
    """A logged model: its id, kind, run, name (a checkpoint's), where its files are, and their folder if that is on this disk."""

    id: str
    kind: str
    is_ready: bool
    run_id: str | None
    name: str
    created_at: float  # seconds since 1970
    location: str

    @property
    def folder(self) -> Path | None:
        """None if its files are on a server."""
        return local_path(self.location)


class Kept(Store):
    """Looks at all of a store, once."""

    def __init__(self, workspace: Workspace) -> None:
        super().__init__(workspace)
        self.runs = {run.info.run_id: run for run in self._runs(ViewType.ACTIVE_ONLY)}
        self.deleted_run_ids = {run.info.run_id for run in self._runs(ViewType.DELETED_ONLY)}
        self.versions = list(self._versions())

    def dataset_digests(self) -> set[str]:
        """Of data sets that a run or a version was made from."""
        of_runs = {one.dataset.digest for run in self.runs.values() for one in run.inputs.dataset_inputs}
        return of_runs | {one.tags["dataset_digest"] for one in self.versions if "dataset_digest" in one.tags}

    def stored_models(self) -> Iterator[StoredModel]:
        """All logged models but those that are registered versions: these are never to be deleted."""
        registered = {one.model_id for one in self.versions}
        folders = {one.folder for one in self.versions}
        token = None
        while True:
            page = self.client.search_logged_models([self.experiment_id], page_token=token)
            for model in page:
                stored = _stored(model)
                if stored.id not in registered and (stored.folder is None or stored.folder not in folders):
                    yield stored
            token = page.token
            if not token:
                return

    def bytes_on_server(self, model: StoredModel, folder: str | None = None) -> int:
        """Of a logged model's files that are not on this disk, as the server lists them."""
        return sum(
            self.bytes_on_server(model, one.path) if one.is_dir else int(one.file_size or 0)
            for one in self.client.list_logged_model_artifacts(model.id, folder)
        )

    def _runs(self, view: int) -> Iterator[Run]:
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment_id], run_view_type=view, max_results=_PAGE, page_token=token
            )
            yield from page
            token = page.token
            if not token:
                return

    def _versions(self) -> Iterator[KnownVersion]:
        names, token = list[str](), None
        while True:
            models = self.client.search_registered_models(page_token=token)
            names += [model.name for model in models]
            token = models.token
            if not token:
                break
        for name in names:
            aliased = set(self.client.get_registered_model(name).aliases.values())
            token = None
            while True:
                page = self.client.search_model_versions(f"name = '{name}'", page_token=token)
                for one in page:
                    yield KnownVersion(
                        model_id=one.model_id,
                        run_id=one.run_id,
                        has_alias=one.version in aliased,
                        tags=dict(one.tags),
                        folder=local_path(self.client.get_model_version_download_uri(name, one.version)),
                    )
                token = page.token
                if not token:
                    break


def _stored(model: LoggedModel) -> StoredModel:
    return StoredModel(
        id=model.model_id,
        kind=model.model_type or "",
        is_ready=model.status == LoggedModelStatus.READY,
        run_id=model.source_run_id,
        name=model.name,
        created_at=model.creation_timestamp / 1000,
        location=model.artifact_location,
    )
