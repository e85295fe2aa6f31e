"""`brickroad doctor`: what is wrong with this machine, and how to mend it."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from rich.markup import escape
from rich.table import Table

from flows.console import words
from storage.workspace import Workspace
from tasks.patience import begun

CHECK_SECONDS = 10.0  # of all checks together: they look at the same time


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at. `found` is in one line, without secrets; `way_out` is there if it is not `ok`."""

    what: str
    ok: bool
    found: str
    way_out: str = ""


#: A check by what it looks at.
Checks = Mapping[str, Callable[[], list[Finding]]]


def examine(workspace: Workspace, *, prefect_api: str | None) -> list[Finding]:
    """All that is looked at, in order. `prefect_api` is the address that the user has chosen, be it that nothing answers there."""
    from flows.doctor_machine import checks_of_machine
    from flows.doctor_mlflow import checks_of_mlflow
    from flows.doctor_prefect import checks_of_prefect

    return look(checks_of_machine(workspace) | checks_of_mlflow(workspace) | checks_of_prefect(prefect_api))


def look(checks: Checks, *, seconds: float = CHECK_SECONDS) -> list[Finding]:
    """What all checks find, in their order. One that is not over in time, or fails itself, is a finding too."""
    deadline = time.monotonic() + seconds
    looking = {what: begun(check) for what, check in checks.items()}
    return [
        finding
        for what, outcome in looking.items()
        for finding in _found(what, outcome, deadline - time.monotonic(), seconds)
    ]


def _found(what: str, outcome: "Future[list[Finding]]", left: float, seconds: float) -> list[Finding]:
    try:
        return outcome.result(max(0.0, left))
    except TimeoutError:
        found, way_out = f"no answer in {seconds:.0f} s", "look whether it hangs, then run this again"
    except Exception as error:  # a check that fails in a way that nobody has thought of tells of it
        found, way_out = f"could not be looked at: {error!r}", "mend that, then run this again"
    return [Finding(what=what, ok=False, found=found, way_out=way_out)]


def show_findings(findings: Sequence[Finding]) -> None:
    """One a line, and below what is wrong the way out of it."""
    shown = Table(show_header=False, box=None, padding=(0, 1, 0, 0))
    shown.add_column(no_wrap=True)
    shown.add_column(no_wrap=True)
    shown.add_column(overflow="fold")
    for finding in findings:
        mark = "[green]✓[/green]" if finding.ok else "[red]✗[/red]"
        way_out = "" if finding.ok else f"\n[bold]{escape(finding.way_out)}[/bold]"
        shown.add_row(mark, f"[dim]{finding.what}[/dim]", escape(finding.found) + way_out)
    words.print(shown)
