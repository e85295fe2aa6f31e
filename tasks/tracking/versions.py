"""The model registry: versions by reference, their aliases and tags; and a version as MLflow loads and serves it."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from storage.checkpoints import Checkpoint, without_optimizer
from storage.errors import CheckpointError
from tasks.tracking.store import Store, local_path

_NO_SUCH_VERSION = (
    "RESOURCE_DOES_NOT_EXIST",
    "INVALID_PARAMETER_VALUE",
)  # no such model; no such alias, no number


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionFacts:
    """A registered version, with the tags that were set on it."""

    name: str
    version: str
    run_id: str
    tags: dict[str, str]


class ModelRegistry(Store):
    """The registered versions of a store."""

    def version_folder(self, reference: str) -> tuple[Path, str] | None:
        """The local folder and the run id of `name/version` or `name@alias`, or None if the registry has no such.

        Raises CheckpointError if it has, and the files cannot be had.
        """
        found = self._version(reference)
        if found is None:
            return None
        try:
            folder = mlflow.artifacts.download_artifacts(artifact_uri=found.source, tracking_uri=self.uri)
        except (MlflowException, OSError) as error:
            raise CheckpointError(
                f"{reference}: is in the registry, and its files cannot be had from {found.source} ({error})"
            ) from None
        return Path(folder) / "artifacts" / "checkpoint", str(found.run_id)

    def champion(self, name: str) -> VersionFacts | None:
        """The version that holds the alias `champion`, or None if none does."""
        return self.version(f"{name}@champion")

    def version(self, reference: str) -> VersionFacts | None:
        """The version `name/version` or `name@alias`, or None if the registry has no such."""
        found = self._version(reference) if "@" in reference or "/" in reference else None
        if found is None:
            return None
        return VersionFacts(name=found.name, version=str(found.version), run_id=found.run_id, tags=found.tags)

    def give_alias(self, version: VersionFacts, alias: str, reason: str) -> None:
        """Gives a version an alias, which another may lose by it, and says so above what its description says."""
        described = self.client.get_model_version(version.name, version.version).description or ""
        self.client.update_model_version(
            version.name, version.version, f"{alias}: {reason}\n\n{described}".strip()
        )
        self.client.set_registered_model_alias(version.name, alias, version.version)

    def tag_version(self, version: VersionFacts, key: str, value: str) -> None:
        """Sets a tag of a version."""
        self.client.set_model_version_tag(version.name, version.version, key, value)

    def _version(self, reference: str) -> ModelVersion | None:
        """A version of the registry, or None if it says that there is none; a registry that is down raises."""
        try:
            if "@" in reference:
                return self.client.get_model_version_by_alias(*reference.split("@", 1))
            return self.client.get_model_version(*reference.rsplit("/", 1))
        except MlflowException as error:
            name = reference.split("@", 1)[0] if "@" in reference else reference.rsplit("/", 1)[0]
            if error.error_code in _NO_SUCH_VERSION or self._is_unknown(name, error):
                return None
            raise

    def _is_unknown(self, name: str, error: MlflowException) -> bool:
        """Whether access was denied to a model that is not there: what MLflow with passwords says to all but its admin."""
        if error.error_code != "PERMISSION_DENIED":
            return False
        try:
            self.client.get_registered_model(name)
        except MlflowException as reason:
            return bool(reason.error_code == "RESOURCE_DOES_NOT_EXIST")
        return False

    def register(
        self,
        name: str,
        run_id: str,
        checkpoint: Checkpoint,
        *,
        alias: str,
        description: str,
        tags: Mapping[str, str],
    ) -> str:
        """Registers a checkpoint as a version that MLflow can load and serve, and gives it the alias."""
        model = self.client.create_logged_model(
            self.experiment_id, name=name, source_run_id=run_id, model_type="pyfunc"
        )
        with tempfile.TemporaryDirectory() as temporary:
            slim = without_optimizer(checkpoint, Path(temporary) / "checkpoint")
            target = local_path(model.artifact_location) or Path(temporary) / "model"
            save_pyfunc(target, slim.path)
            if local_path(model.artifact_location) is None:
                self.client.log_model_artifacts(model.model_id, str(target))
        self.client.finalize_logged_model(model.model_id, "READY")
        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        created = self.client.create_model_version(
            name,
            model.artifact_location,
            run_id,
            dict(tags),
            description=description,
            model_id=model.model_id,
        )
        self.client.set_registered_model_alias(name, alias, created.version)
        return str(created.version)


def save_pyfunc(target: Path, checkpoint: Path) -> None:
    """Writes what MLflow loads and serves: the checkpoint, our code, and what both require."""
    tasks = Path(__file__).parent.parent
    mlflow.pyfunc.save_model(
        path=str(target),
        python_model=str(tasks / "served_model.py"),
        artifacts={"checkpoint": str(checkpoint)},
        code_paths=[str(tasks.parent / package) for package in ("model", "storage", "tasks")],
        pip_requirements=_served_requirements(),
        input_example=[{"prompt": "The ", "tokens": 16, "temperature": 0.8, "top_k": 40, "seed": 0}],
    )


def _served_requirements() -> list[str]:
    """What `served_model.py` imports, here and in the modules below it, in the versions that are proved."""
    names = (
        "mlflow",
        "torch",
        "numpy",
        "safetensors",
        "pydantic",
        "pyarrow",
        "psutil",
        "zlib-ng",
        "tokenizers",
    )
    return [f"{name}=={version(name).split('+')[0]}" for name in names]
