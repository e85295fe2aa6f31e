"""Training as a unit of work: the loop of `model.training`, with saving, logging and stopping around it."""

import contextlib
import time
from collections.abc import Callable, Iterator

from model.training import DivergedError, StepReport
from storage.workspace import Workspace
from tasks.engine import HEALING, road_task
from tasks.interruption import BrokenOff, InterruptedByUser, StopRequests
from tasks.launch import train_by_processes
from tasks.session import Session
from tasks.training_request import TrainedModel, TrainingRequest
from tasks.watch import Watch, Watcher, pulse


def train(request: TrainingRequest, workspace: Workspace) -> TrainedModel | None:
    """Trains to the recipe's last step, or goes on with a run. A signal saves, and raises InterruptedByUser.

    Raises ValueError for a request that cannot be meant, DivergedError if the weights have become worthless. Of a training by
    several machines only the first has the model; the others get None.
    """
    if request.processes * request.nodes > 1:
        return train_by_processes(request, workspace)
    with StopRequests() as stop:
        with pulse("open run"):
            session = Session(request, workspace)
        steps, done = session.recipe.training.steps, session.training.step
        watch = Watch("train", total=steps, done=done, unit="steps", artifact_key="train")
        return finish(session, stop, watch)


def finish(session: Session, stop: StopRequests, watcher: Watcher) -> TrainedModel:
    """Trains a session to its end, as `train` does, and closes its run."""
    try:
        with session.run.watching_machine():
            trained = _run_steps(session, stop, watcher)
    except InterruptedByUser:
        session.run.end("KILLED")
        raise
    except DivergedError as error:
        session.run.end("FAILED")
        raise DivergedError(f"{error}; {session.kept.way_back()}") from error
    except Exception:
        session.run.end("FAILED")
        raise
    except BaseException:  # a second Ctrl-C, or Prefect's word for a cancelled run
        session.run.end("KILLED")
        raise
    else:
        session.run.end("FINISHED")
    finally:
        session.close()
    return trained


def _run_steps(session: Session, stop: StopRequests, watcher: Watcher) -> TrainedModel:
    last, began, unread = session.recipe.training.steps, time.monotonic(), list[StepReport]()
    # What is suppressed is an evaluation's: it is made up for when the training goes on.
    with watcher, contextlib.suppress(BrokenOff):
        if session.is_owed_a_val_loss:
            _evaluate(session, stop)
        for report in _until_asked_to_stop(session, stop):
            unread.append(report)
            if session.is_due_a_look:
                session.look_at(unread)
                unread = []
            if session.is_due_a_val_loss:
                _evaluate(session, stop)
            watcher.advance(1, facts=_facts(session))
    signal_number = _asked_of_any(session, stop)
    if signal_number is not None and not session.is_over:
        if unread:
            session.look_at(unread)
        if not session.is_saved:
            session.save(None)
        raise InterruptedByUser(
            f"stopped at step {session.training.step:,} of {last:,}, all saved; "
            f"go on with: {session.request.going_on(session.dataset.reference, session.run.run_id)}",
            signal_number,
        )
    return session.outcome(seconds=time.monotonic() - began)


def _evaluate(session: Session, stop: StopRequests) -> None:
    """The val loss of this step, and a checkpoint if it is time for one. BrokenOff if there is no time for either."""
    with _breaking_off(session, stop, lambda: True):
        val_loss = session.evaluate()
    if session.is_due_a_checkpoint or session.is_out_of_patience:
        session.save(val_loss)
    session.throughput.go_on()


def _until_asked_to_stop(session: Session, stop: StopRequests) -> Iterator[StepReport]:
    """The steps to come, until there is enough; on request the one on its way is given up, if its update has not begun."""
    steps = session.training.steps()
    while not session.is_out_of_patience:
        try:
            with _breaking_off(session, stop, lambda: session.training.may_be_broken_off):
                report = next(steps)
        except (StopIteration, BrokenOff):
            return
        yield report
        if session.is_due_a_look and _asked_of_any(session, stop) is not None:
            return


def _breaking_off(
    session: Session, stop: StopRequests, may_break_off: Callable[[], bool]
) -> contextlib.AbstractContextManager[None]:
    """Lets a request break off what is lost without harm. Several ranks work together, and can stop only where they agree."""
    return stop.breaking_off(may_break_off) if session.ranks.size == 1 else contextlib.nullcontext()


def _asked_of_any(session: Session, stop: StopRequests) -> int | None:
    """What one rank was asked, all were: the same signal's number on each, None if there is no request.

    One that comes while the ranks talk stays with `stop`, and is heard the next time.
    """
    asked = [number for number in session.ranks.all_of(stop.signal_number) if number is not None]
    return asked[0] if asked else None


def _facts(session: Session) -> str:
    """What is worth a glance, beside the bar."""
    if session.so_far.train_loss is None:
        return ""
    return f"loss {session.so_far.train_loss:.3f}, {session.throughput.tokens_per_second:,.0f} tokens/s"


train_task = road_task("train", **HEALING)(train)
