"""How runs are told to a person: their state in a word with a colour, their progress and their failure in a line."""

import re
from collections.abc import Sequence

from tasks.mlflow_facts import TrainingRun
from tasks.prefect_facts import FlowRun

_STATES = {
    "FINISHED": ("done", "green"),
    "RUNNING": ("running", "cyan"),
    "KILLED": ("stopped", "yellow"),
    "FAILED": ("failed", "red"),
}
_PREAMBLE = re.compile(r"^(Flow run encountered an exception|Task run encountered an exception):?\s*")


def state_of(run: TrainingRun, *, is_silent: bool) -> tuple[str, str]:
    """The state of a training, and its colour."""
    if run.status == "RUNNING" and is_silent:
        return "silent", "yellow"
    return _STATES.get(run.status, ("unknown", "yellow"))


def progress_of(run: FlowRun) -> str:
    """How far it is, without its first word twice."""
    return run.progress.replace("\n", " ")


def reason_of(run: FlowRun) -> str:
    """Why it failed: the first line of what was said, without what is said of every failure."""
    lines = [line.strip() for line in _PREAMBLE.sub("", run.message).splitlines() if line.strip()]
    return lines[0] if lines else run.state


def alike(failed: Sequence[FlowRun]) -> list[tuple[FlowRun, int]]:
    """The newest of each kind of failure, and how often it happened: a flow that fails every night is told once."""
    found: dict[tuple[str, str], list[FlowRun]] = {}
    for run in failed:
        found.setdefault((run.flow, reason_of(run)), []).append(run)
    return [(runs[0], len(runs)) for runs in found.values()]
