"""The overview of a workspace as one page that needs no network and no script: to be mailed, or served as a file."""

from datetime import UTC, datetime
from pathlib import Path

from markupsafe import Markup

from storage.files import atomic_file
from storage.workspace import Workspace
from tasks.answers import Unanswered
from tasks.curves import loss_svg
from tasks.mlflow_facts import TrainingRun
from tasks.overview import Overview, tracking
from tasks.pages import Bar, in_bytes, render_page
from tasks.state_words import alike, progress_of, reason_of, state_of

_MOST_CURVES = 12
_MOST_ROWS = 20
_MOST_OTHERS = 5


def write_overview_page(overview: Overview, path: Path) -> None:
    """Writes the page; it appears only whole."""
    with atomic_file(path) as file:
        file.write(overview_page(overview).encode())


def overview_page(overview: Overview) -> str:
    """The page as HTML, with the curves of the newest trainings."""
    most = max((use.bytes for use in overview.disk), default=1)
    return render_page(
        "overview.html",
        overview=overview,
        looked_at=_moment(overview.looked_at),
        runs=overview.runs[:_MOST_ROWS],
        curves=_curves(overview),
        champion=next((one for one in overview.versions if one.is_champion), None),
        others=[one for one in overview.versions if not one.is_champion][:_MOST_OTHERS],
        failed=alike(overview.failed),
        disk=[
            Bar(
                label=use.kind,
                amount=("" if use.whole else "over ") + in_bytes(use.bytes),
                share=use.bytes / (most or 1),
            )
            for use in sorted(overview.disk, key=lambda use: -use.bytes)
        ],
        moment=_moment,
        progress_of=progress_of,
        reason_of=reason_of,
        state_of=lambda run: state_of(run, is_silent=overview.is_silent(run)),
    )


def _curves(overview: Overview) -> list[tuple[TrainingRun, Markup]]:
    """The newest trainings that have a curve, with its picture."""
    found: list[tuple[TrainingRun, Markup]] = []
    try:
        source = tracking(Workspace.at(overview.workspace), list(overview.services))
        for run in overview.runs[:_MOST_CURVES]:
            train, val = source.curve(run.id, "train_loss"), source.curve(run.id, "val_loss")
            if train or val:
                found.append((run, Markup(loss_svg(train, val))))  # of our own making, from numbers  # nosec B704 # made of numbers alone
    except Unanswered:
        return found  # the page says why already
    return found


def _moment(seconds: float | None) -> str:
    return "" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%d %b %Y %H:%M} UTC"
