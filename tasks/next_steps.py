"""What a person is likely to want next, by what is there."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from storage.records import CheckpointRecord, DatasetRecord
from tasks.mlflow_facts import RegisteredVersion, TrainingRun

ENOUGH_DISK_BYTES = 2_000_000_000  # as `brickroad doctor` has it
_STOPPED = ("KILLED", "FAILED")
_RECENT_RUNS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class NextStep:
    """What to type after `brickroad`, and why."""

    command: str
    why: str


def next_steps(
    *,
    dataset: DatasetRecord | None,
    runs: Sequence[TrainingRun],
    versions: Sequence[RegisteredVersion],
    checkpoints: Mapping[str, CheckpointRecord],
    is_up: bool,
    free_bytes: int,
) -> tuple[NextStep, ...]:
    """The most pressing first; at most one of a kind."""
    found = []
    if free_bytes < ENOUGH_DISK_BYTES:
        found.append(NextStep(command="doctor", why="the disk is nearly full"))
    if dataset is None:
        found.append(NextStep(command="run", why="the whole road, from text to a registered model"))
    elif not runs:
        found.append(NextStep(command=f"train {dataset.name}", why="a data set that nothing was trained on"))
    if stopped := next((run for run in runs[:_RECENT_RUNS] if _can_go_on(run, checkpoints)), None):
        saved = checkpoints[stopped.id].step
        command = f"train {shlex.quote(stopped.dataset)} --resume {stopped.id}"
        found.append(NextStep(command=command, why=f"it was stopped; step {saved:,} is saved"))
    if champion := next((one for one in versions if one.is_champion), None):
        found.append(NextStep(command=f'generate {champion.name}@champion --prompt "The "', why="it writes"))
    if not is_up:
        found.append(NextStep(command="up", why="the pages of Prefect and MLflow, and a worker"))
    return tuple(found)


def _can_go_on(run: TrainingRun, checkpoints: Mapping[str, CheckpointRecord]) -> bool:
    saved = checkpoints.get(run.id)
    is_over = saved is not None and run.steps is not None and saved.step >= run.steps
    return run.status in _STOPPED and saved is not None and not is_over
