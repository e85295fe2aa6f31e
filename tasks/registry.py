"""Models by reference, and the registry: which version is champion, and why."""

from dataclasses import dataclass
from pathlib import Path

from storage.checkpoints import list_checkpoints, read_checkpoint
from storage.errors import CheckpointError
from storage.workspace import Workspace
from tasks.engine import road_task
from tasks.evaluation import Evaluation, evaluate_checkpoint
from tasks.gate import Champion, Standing, Verdict, judge
from tasks.loading import best_of
from tasks.tracking import ModelRegistry, RunLog, VersionFacts

MODEL_NAME = "brickroad-gpt"
CHAMPION_BEFORE = "champion_before"  # the tag's name


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
    reasons: tuple[str, ...] = ()  # of the gate, a sentence each
    standing: Standing | None = None


def find_model(reference: str, workspace: Workspace) -> FoundModel:
    """The model of a checkpoint folder, a run id, `name/version` or `name@alias`.

    A folder or run with several checkpoints gives the one with the lowest val loss. Raises CheckpointError otherwise.
    """
    for folder in (Path(reference), workspace.checkpoints / reference):
        if (folder / "checkpoint.json").is_file():
            return _found(folder)
        if folder.is_dir() and (checkpoints := list_checkpoints(folder)):
            return _found(best_of(checkpoints).path)
    if Path(reference).is_file():
        raise CheckpointError(
            f"{reference}: is a file, which was not opened: a pickle can run any code; give the folder of a checkpoint "
            "(checkpoint.json and safetensors), or bring a model in by its folder: brickroad import-hf"
        )
    is_version = "@" in reference or "/" in reference
    has_registry = workspace.mlflow.is_dir() or ModelRegistry.is_elsewhere()
    if is_version and has_registry and (found := ModelRegistry(workspace).version_folder(reference)):
        return FoundModel(path=found[0], run_id=found[1])
    raise CheckpointError(
        f"{reference}: no such model in {workspace.root}; give a run id, name/version, name@alias "
        f"(as {MODEL_NAME}@champion) or a checkpoint folder"
    )


def _found(folder: Path) -> FoundModel:
    return FoundModel(path=folder.absolute(), run_id=read_checkpoint(folder).facts.get("run_id"))


def register(model: FoundModel, evaluation: Evaluation, workspace: Workspace) -> ModelVersion:
    """Registers a model: as `champion` if the gate lets it, else as `challenger`; the version's description says why."""
    assert model.run_id is not None, "only a model with a run is registered"
    registry = ModelRegistry(workspace)
    champion = registry.champion(MODEL_NAME)
    verdict = judge(evaluation, champion and _as_champion(champion, registry), workspace)
    reason = f"{verdict.alias}: {'; '.join(verdict.reasons)}"
    if champion and verdict.comparison:
        picture = verdict.comparison.picture(f"version {champion.version}", "this model")
        RunLog(registry, model.run_id).figure(picture, "evaluation/against-champion.png")
    version = registry.register(
        MODEL_NAME,
        model.run_id,
        read_checkpoint(model.path),
        alias=verdict.alias,
        description=reason,
        tags={
            "dataset_digest": evaluation.dataset_digest,
            "val_loss": repr(evaluation.val_loss),
            "val_bits_per_byte": repr(evaluation.val_bits_per_byte),
        }
        | ({CHAMPION_BEFORE: champion.version} if champion and verdict.alias == "champion" else {}),
    )
    return ModelVersion(
        name=MODEL_NAME,
        version=version,
        alias=verdict.alias,
        reason=reason,
        reasons=tuple(verdict.reasons),
        standing=_standing(champion, verdict),
    )


def _standing(champion: VersionFacts | None, verdict: Verdict) -> Standing | None:
    if champion is None or verdict.comparison is None:
        return None
    found = verdict.comparison.difference
    return Standing(
        champion=champion.version,
        champion_loss=verdict.comparison.first.loss,
        difference=found.difference,
        standard_error=found.standard_error,
    )


def _as_champion(facts: VersionFacts, registry: ModelRegistry) -> Champion:
    try:
        found = registry.version_folder(f"{facts.name}/{facts.version}")
    except CheckpointError:  # its artifacts are gone, or their store is
        found = None
    return Champion(version=facts.version, path=found and found[0])


def promote(reference: str, workspace: Workspace) -> ModelVersion:
    """Makes a version champion by hand, whatever the gate said. A model that is none yet, of a run or a checkpoint folder, is
    registered first, with what the gate says of it.

    Raises CheckpointError if there is no such version or model, or if that has no run.
    """
    registry = ModelRegistry(workspace)
    version = registry.version(reference) or _newly_registered(reference, registry, workspace)
    before = registry.champion(version.name)
    if before is None or before.version == version.version:
        reason = "promoted by hand"
    else:
        reason = f"promoted by hand in place of version {before.version}"
        registry.tag_version(version, CHAMPION_BEFORE, before.version)
    registry.give_alias(version, "champion", reason)
    return ModelVersion(name=version.name, version=version.version, alias="champion", reason=reason)


def _newly_registered(reference: str, registry: ModelRegistry, workspace: Workspace) -> VersionFacts:
    """A version that was made of the model of a run or folder."""
    is_here = Path(reference).is_dir() or (workspace.checkpoints / reference).is_dir()
    if not is_here:
        raise CheckpointError(
            f"{reference}: no such version in the registry, nor run here; give name/version, as in {MODEL_NAME}/3, or a run id"
        )
    found = find_model(reference, workspace)
    if found.run_id is None:
        raise CheckpointError(
            f"{reference}: has no run in MLflow, as a model has none that was imported or quantized; only one that was trained here can "
            "be registered"
        )
    made = register(found, evaluate_checkpoint(found.path, None, workspace), workspace)
    version = registry.version(f"{made.name}/{made.version}")
    assert version is not None
    return version


def roll_back(workspace: Workspace) -> ModelVersion:
    """Makes the version champion again that the champion took the place of. Raises CheckpointError if none is known."""
    registry = ModelRegistry(workspace)
    champion = registry.champion(MODEL_NAME)
    before = champion and champion.tags.get(CHAMPION_BEFORE)
    if champion is None or before is None:
        raise CheckpointError(
            f"{MODEL_NAME}: no champion before this one is known; promote a version by its number"
        )
    version = registry.version(f"{MODEL_NAME}/{before}")
    if version is None:
        raise CheckpointError(
            f"{MODEL_NAME}/{before}: was champion before, and is not in the registry any more"
        )
    reason = f"rolled back from version {champion.version}"
    registry.give_alias(version, "champion", reason)
    return ModelVersion(name=MODEL_NAME, version=before, alias="champion", reason=reason)


register_task = road_task("register")(register)
