"""Proof that a training that was killed and resumed equals one that never stopped: both are run here, and compared by sha256.

Each training is a process of its own, as a user's is. What is compared: the weights and what the optimizers keep, byte for byte,
and the loss of each step as MLflow has it.
"""

import hashlib
import json
import os
import signal
import subprocess  # nosec B404 # programs of ours are started, each without a shell
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from storage.checkpoints import latest_checkpoint, list_checkpoints, verified_sha256
from storage.errors import StorageError
from storage.files import PARTIAL_SUFFIX
from storage.workspace import Workspace
from tasks.interruption import StopRequests, end_with_parent
from tasks.session import Session
from tasks.tracking import RunLog, Tracker
from tasks.training import finish
from tasks.training_request import Cadence, TrainingRequest
from tasks.watch import Watch

Moment = Literal["between checkpoints", "while a checkpoint was written"]

DEFAULT_STEPS = 40
_SAVES = 4  # checkpoints of a training, so that there is one to go on from while another is written
_LOOK_SECONDS = 0.0005


class CertificationError(StorageError):
    """A training of a certification did not do what it was to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a training came to, in sha256, hex."""

    run_id: str
    weights_sha256: str
    optimizer_sha256: str
    losses_sha256: str

    @classmethod
    def of(cls, run_id: str, sha256: Mapping[str, str], losses: Iterable[tuple[int, float]]) -> "Outcome":
        """What a checkpoint's files, and the loss of each step, come to."""
        exact = sorted((step, loss.hex()) for step, loss in losses)
        return cls(
            run_id=run_id,
            weights_sha256=sha256["network"],
            optimizer_sha256=sha256["optimizer"],
            losses_sha256=hashlib.sha256(json.dumps(exact).encode()).hexdigest(),
        )

    def is_same(self, other: "Outcome") -> bool:
        """Whether both are the same training, but for the run."""
        return replace(self, run_id="") == replace(other, run_id="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """A training that was killed once: when, from which step it went on, and what it came to."""

    moment: Moment
    resumed_from: int
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """The training that never stopped, and those that were killed."""

    dataset: str
    recipe: str  # sha256, hex, of its JSON
    steps: int
    whole: Outcome
    rounds: list[Round]

    @property
    def ok(self) -> bool:
        """Whether all are the same."""
        return all(one.outcome.is_same(self.whole) for one in self.rounds)


def certify_resume(request: TrainingRequest, workspace: Workspace) -> Certificate:
    """Trains once without and twice with a kill -9 and --resume, and writes `certificate.json` to each run in MLflow.

    Trains for DEFAULT_STEPS, unless the request sets "training.steps". ValueError for a request that is a resume itself;
    CertificationError if a training ends otherwise than it should.
    """
    if request.resume:
        raise ValueError("--certify-resume resumes runs of its own: leave out --resume")
    if request.processes * request.nodes > 1:
        raise ValueError("--certify-resume certifies trainings of one process: leave out --nproc and --nodes")
    settings = {"training.steps": str(DEFAULT_STEPS)} | dict(request.settings or {})
    recipe = replace(request, settings=settings).recipe(vocabulary_size=1)
    steps = recipe.training.steps
    if steps < _SAVES:
        raise ValueError(f"training.steps is {steps}; a certificate needs at least {_SAVES}")
    cadence = Cadence(
        report_every_steps=1,
        evaluate_every_steps=steps,
        save_every_steps=steps // _SAVES,
        keep_last=_SAVES + 1,
    )
    request, tracker = replace(request, settings=settings, cadence=cadence), Tracker(workspace)
    whole = _outcome(_trained(request, workspace), tracker)
    rounds = []
    for moment in ("between checkpoints", "while a checkpoint was written"):
        run_id = _killed(request, workspace, moment)
        resumed_from = latest_checkpoint(workspace.checkpoints / run_id).step
        resumed = TrainingRequest(dataset=request.dataset, resume=run_id, cadence=cadence)
        outcome = _outcome(_trained(resumed, workspace), tracker)
        rounds.append(Round(moment=moment, resumed_from=resumed_from, outcome=outcome))
    last = latest_checkpoint(workspace.checkpoints / whole.run_id)
    certificate = Certificate(
        dataset=last.facts["dataset"],
        recipe=hashlib.sha256(json.dumps(last.facts["recipe"], sort_keys=True).encode()).hexdigest(),
        steps=steps,
        whole=whole,
        rounds=rounds,
    )
    text = json.dumps(asdict(certificate) | {"ok": certificate.ok}, indent=1)
    for outcome in (whole, *(one.outcome for one in rounds)):
        RunLog(tracker, outcome.run_id).text(text, "certificate.json")
        tracker.client.set_tag(outcome.run_id, "certificate", "the same" if certificate.ok else "different")
    return certificate


def _trained(request: TrainingRequest, workspace: Workspace) -> str:
    """Trains to the end, in a process of its own; returns the run's id."""
    with _training(request, workspace) as (process, told):
        if process.wait() != 0:
            raise CertificationError(
                f"a training ended with status {process.returncode}; see its words above"
            )
        return told.read_text()


def _killed(request: TrainingRequest, workspace: Workspace, moment: Moment) -> str:
    """Trains until there is a checkpoint to go on from, and then kills the training at this moment; returns the run's id."""
    with _training(request, workspace) as (process, told):
        _wait(process, told.exists)
        folder = workspace.checkpoints / told.read_text() if told.exists() else workspace.checkpoints
        _wait(process, lambda: bool(list_checkpoints(folder)))
        _wait(process, lambda: _is_writing(folder) == (moment == "while a checkpoint was written"))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        if process.wait() != -signal.SIGKILL:
            raise CertificationError(
                f"a training ended before it could be killed {moment}; certify more steps: --set training.steps=200"
            )
        return told.read_text()


def _wait(process: "subprocess.Popen[bytes]", condition: Callable[[], bool]) -> None:
    """Until it is so, or the process has ended."""
    while process.poll() is None and not condition():
        time.sleep(_LOOK_SECONDS)


def _is_writing(folder: Path) -> bool:
    return any(path.name.endswith(PARTIAL_SUFFIX) for path in folder.iterdir())


@contextmanager
def _training(
    request: TrainingRequest, workspace: Workspace
) -> Iterator[tuple["subprocess.Popen[bytes]", Path]]:
    """A training in a process of its own, which ends with the context; and the file in which it tells its run's id."""
    with tempfile.TemporaryDirectory() as folder:
        asked, told = Path(folder, "request"), Path(folder, "run")
        asked.write_text(json.dumps({"request": request.to_json(), "workspace": str(workspace.root)}))
        command = [sys.executable, "-m", "tasks.certificate", str(asked), str(told)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)  # nosec B603 # this Python, and a module of ours; no shell
        try:
            yield process, told
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _outcome(run_id: str, tracker: Tracker) -> Outcome:
    sha256 = verified_sha256(latest_checkpoint(tracker.workspace.checkpoints / run_id))
    history = tracker.client.get_metric_history(run_id, "train_loss")
    return Outcome.of(run_id, sha256, [(point.step, point.value) for point in history])


def main() -> None:
    """What the process of a training does."""
    asked, told = map(Path, sys.argv[1:])
    end_with_parent(signal.SIGKILL)
    fields = json.loads(asked.read_text())
    # Anew: one that was killed before would be no training that never stopped.
    session = Session(
        TrainingRequest.from_json(fields["request"]), Workspace.at(Path(fields["workspace"])), goes_on=False
    )
    partial = told.with_suffix(PARTIAL_SUFFIX)
    partial.write_text(session.run.run_id)
    partial.rename(told)
    with StopRequests() as stop:
        finish(session, stop, Watch("train", total=session.recipe.training.steps, unit="steps"))


if __name__ == "__main__":
    main()
