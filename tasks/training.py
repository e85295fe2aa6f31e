"""Training as a unit of work: the loop of `model.training`, with saving, logging and stopping around it."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from model.training import DivergedError, StepReport
from storage.workspace import Workspace
from tasks.engine import can_heal, road_task
from tasks.interruption import BrokenOff, InterruptedByUser, StopRequests
from tasks.session import Session
from tasks.training_request import TrainingRequest
from tasks.watch import Watch, pulse


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel:
    """What a training came to. `checkpoint` is the one with the lowest val loss on the sampled windows."""

    run_id: str
    checkpoint: Path
    steps: int
    train_loss: float | None  # None if no update was made
    tokens_per_second: float  # without warm-up, over all sittings
    utilisation: (
        float | None
    )  # MFU, by the convention of `model.flops`; None of a device that is not known there
    seconds: float  # of this sitting
    skipped_updates: int
    ran_out_of_patience: bool


def train(request: TrainingRequest, workspace: Workspace) -> TrainedModel:
    """Trains to the recipe's last step, or goes on with a run. A signal saves, and raises InterruptedByUser.

    Raises ValueError for a request that cannot be meant, DivergedError if the weights have become worthless.
    """
    with pulse("open run"):
        session = Session(request, workspace)
    return finish(session)


def finish(session: Session) -> TrainedModel:
    """Trains a session to its end, as `train` does, and closes its run."""
    try:
        with StopRequests() as stop:
            trained = _run_steps(session, stop)
    except InterruptedByUser:
        session.run.end("KILLED")
        raise
    except DivergedError as error:
        session.run.end("FAILED")
        raise DivergedError(f"{error}; {session.way_back()}") from error
    except BaseException:
        session.run.end("FAILED")
        raise
    session.run.end("FINISHED")
    return trained


def _run_steps(session: Session, stop: StopRequests) -> TrainedModel:
    training, last, began = session.training, session.recipe.training.steps, time.monotonic()
    unread: list[StepReport] = []
    with (
        Watch("train", total=last, done=training.step, unit="steps", artifact_key="train") as watch,
        contextlib.suppress(BrokenOff),  # of an evaluation, which is made up for when the training goes on
    ):
        if session.is_owed_a_val_loss:
            _evaluate(session, stop)
        for report in _until_asked_to_stop(session, stop):
            unread.append(report)
            is_time_to_evaluate = session.is_due_a_val_loss
            if is_time_to_evaluate or report.step % session.cadence.report_every_steps == 0:
                session.look_at(unread)
                unread = []
            if is_time_to_evaluate:
                _evaluate(session, stop)
            watch.advance(1, facts=_facts(session))
    if stop.signal_number is not None and not session.is_over:
        if unread:
            session.look_at(unread)
        if not session.is_saved:
            session.save(None)
        raise InterruptedByUser(
            f"stopped at step {training.step:,} of {last:,}, all saved; "
            f"go on with: brickroad train {session.dataset.reference} --resume {session.run.run_id}",
            stop.signal_number,
        )
    return TrainedModel(
        run_id=session.run.run_id,
        checkpoint=session.best_checkpoint().path,
        steps=training.step,
        train_loss=session.so_far.train_loss,
        tokens_per_second=session.throughput.tokens_per_second,
        utilisation=session.utilisation,
        seconds=time.monotonic() - began,
        skipped_updates=session.so_far.skipped_updates,
        ran_out_of_patience=session.is_out_of_patience,
    )


def _evaluate(session: Session, stop: StopRequests) -> None:
    """The val loss of this step, and a checkpoint if it is time for one. BrokenOff if there is no time for either."""
    with stop.breaking_off():
        val_loss = session.evaluate()
    if session.is_due_a_checkpoint or session.is_out_of_patience:
        session.save(val_loss)
    session.throughput.go_on()


def _until_asked_to_stop(session: Session, stop: StopRequests) -> Iterator[StepReport]:
    """The steps to come, until there is enough; on request the one on its way is given up, if its update has not begun."""
    steps = session.training.steps()
    while not session.is_out_of_patience:
        try:
            with stop.breaking_off(lambda: session.training.may_be_broken_off):
                report = next(steps)
        except (StopIteration, BrokenOff):
            return
        yield report


def _facts(session: Session) -> str:
    """What is worth a glance, beside the bar."""
    loss = session.so_far.train_loss
    return "" if loss is None else f"loss {loss:.3f}"


train_task = road_task("train", tags=["gpu"], retries=2, retry_delay_seconds=10, retry_condition_fn=can_heal)(
    train
)
