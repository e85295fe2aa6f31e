"""Runs in MLflow and the leases of those who train them: which are being trained, and which a dead process has left."""

from storage.errors import JournalHeldError
from storage.journal import list_journals
from storage.leases import HeldLease, Lease, dead_leases, is_alive, remove_lease, take_lease
from storage.workspace import Workspace
from tasks.tracking import Tracker

LEASE_TAG = "brickroad.lease"
_TRAINING = "training"
_TRACKING_URI = "tracking_uri"


def lease_for_training(workspace: Workspace, tracker: Tracker) -> HeldLease:
    """A lease for a sitting of a training; its run in MLflow is to have it as the tag LEASE_TAG."""
    return take_lease(workspace.leases, _TRAINING, {_TRACKING_URI: tracker.place})


def refuse_at_work(run_id: str, tracker: Tracker) -> None:
    """Raises ValueError if a process is at this run now."""
    lease_id = tracker.running_tag(run_id, LEASE_TAG)
    if lease_id and (lease := is_alive(tracker.workspace.leases, lease_id)):
        raise ValueError(f"run {run_id} goes on already: {lease}; wait for it, or stop it")


def close_left_runs(workspace: Workspace) -> list[str]:
    """Runs that dead processes have left RUNNING are KILLED from now on; returns their ids.

    The run names the lease of whoever is at it: one that another process goes on with names another, and is not touched.
    """
    closed, tracker = list[str](), None
    for lease in dead_leases(workspace.leases):
        if lease.what != _TRAINING:
            continue
        tracker = tracker or Tracker(workspace)
        if lease.facts[_TRACKING_URI] != tracker.place:  # its run is with another server
            continue
        try:
            with workspace.lock("runs"):  # nobody goes on with one meanwhile
                closed += _closed(lease, tracker)
        except (
            JournalHeldError
        ):  # the training is over, and its process still waits for the store: it may yet say so itself
            continue
        remove_lease(workspace.leases, lease)
    return closed


def tell_what_is_left(workspace: Workspace) -> list[str]:
    """Tells MLflow what runs that are over have left in their journals; returns why some stays there, a line each."""
    if not list_journals(workspace.journals):
        return []
    told = Tracker(workspace).ship_left()
    return [f"the journal of run {one.run_id}: {one.failure}" for one in told if one.failure]


def _closed(lease: Lease, tracker: Tracker) -> list[str]:
    found = tracker.client.search_runs(
        [tracker.experiment_id],
        filter_string=f"tags.`{LEASE_TAG}` = '{lease.id}' AND attributes.status = 'RUNNING'",
    )
    for run in found:
        tracker.end_dead_run(run.info.run_id)  # after all that it had still to tell
    return [run.info.run_id for run in found]
