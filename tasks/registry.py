"""Models by reference, and the registry: which version is champion, and why."""

from dataclasses import dataclass
from pathlib import Path

from storage.checkpoints import list_checkpoints, read_checkpoint
from storage.errors import CheckpointError
from storage.workspace import Workspace
from tasks.engine import road_task
from tasks.evaluation import Evaluation
from tasks.loading import best_of
from tasks.tracking import Tracker, VersionFacts

MODEL_NAME = "brickroad-gpt"


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundModel:
    """A checkpoint folder that a reference leads to, and the MLflow run it comes from, if that is known here."""

    path: Path
    run_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """A registered version, the alias it was given, and why."""

    name: str
    version: str
    alias: str
    reason: str


def find_model(reference: str, workspace: Workspace) -> FoundModel:
    """The model of a checkpoint folder, a run id, `name/version` or `name@alias`.

    A folder or run with several checkpoints gives the one with the lowest val loss. Raises CheckpointError otherwise.
    """
    for folder in (Path(reference), workspace.checkpoints / reference):
        if (folder / "checkpoint.json").is_file():
            return _found(folder)
        if folder.is_dir() and (checkpoints := list_checkpoints(folder)):
            return _found(best_of(checkpoints).path)
    is_version = "@" in reference or "/" in reference
    has_registry = workspace.mlflow.is_dir() or Tracker.is_elsewhere()
    if is_version and has_registry and (found := Tracker(workspace).version_folder(reference)):
        return FoundModel(path=found[0], run_id=found[1])
    raise CheckpointError(
        f"{reference}: no such model in {workspace.root}; give a run id, name/version, name@alias "
        f"(as {MODEL_NAME}@champion) or a checkpoint folder"
    )


def _found(folder: Path) -> FoundModel:
    return FoundModel(path=folder.absolute(), run_id=read_checkpoint(folder).facts.get("run_id"))


def register(model: FoundModel, evaluation: Evaluation, workspace: Workspace) -> ModelVersion:
    """Registers a model: as `champion` if there is none or it is better on the same val split, else as `challenger`."""
    assert model.run_id is not None, "only a model with a run is registered"
    tracker = Tracker(workspace)
    alias, reason = choose_alias(evaluation, tracker.champion(MODEL_NAME))
    version = tracker.register(
        MODEL_NAME,
        model.run_id,
        read_checkpoint(model.path),
        alias=alias,
        description=reason,
        tags={
            "dataset_digest": evaluation.dataset_digest,
            "val_loss": repr(evaluation.val_loss),
            "val_bits_per_byte": repr(evaluation.val_bits_per_byte),
        },
    )
    return ModelVersion(name=MODEL_NAME, version=version, alias=alias, reason=reason)


def choose_alias(evaluation: Evaluation, champion: VersionFacts | None) -> tuple[str, str]:
    """The alias that a new version deserves, and the reason in one sentence."""
    ours = evaluation.val_bits_per_byte
    if champion is None:
        return "champion", f"champion: the first version, {ours:.4f} bits/byte"
    if champion.tags.get("dataset_digest") != evaluation.dataset_digest:
        return "challenger", (
            f"challenger: {ours:.4f} bits/byte on {evaluation.dataset}, while champion version {champion.version} "
            "was measured on another data set"
        )
    theirs = float(champion.tags["val_bits_per_byte"])
    alias, verdict = ("champion", "better than") if ours < theirs else ("challenger", "not better than")
    return alias, (
        f"{alias}: {ours:.4f} bits/byte is {verdict} the {theirs:.4f} of champion version {champion.version} "
        "on the same val split"
    )


register_task = road_task("register")(register)
