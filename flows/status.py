"""`brickroad status` at the terminal: an overview in 80 columns, the most pressing first."""

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from flows.console import duration, next_steps, printable, size, words
from tasks.mlflow_facts import RegisteredVersion, TrainingRun
from tasks.overview import NamedDataset, Overview
from tasks.prefect_facts import FlowRun
from tasks.state_words import alike, progress_of, reason_of, state_of

_MOST_LINES = 8  # of a section: what is more is one line that says so
_MOST_VERSIONS = 3
_MOST_SCHEDULED = 3
_MOST_FAILURES = 3
_WIDTH = 80


def show_overview(overview: Overview, at: str) -> None:
    """All sections; one that has nothing is left out, and what is unknown says why. `at` goes behind suggested commands."""
    free = f"{size(overview.free_bytes)} free"
    words.print(
        f"[bold]brickroad[/bold] [dim]{escape(str(overview.workspace))} · {free}[/dim]", soft_wrap=True
    )
    for what, why in overview.unknown.items():
        words.print(f"[yellow]{what} is unknown:[/yellow] {escape(why)}", soft_wrap=True)
    if not (overview.datasets or overview.runs or overview.on_their_way):
        words.print("Nothing here yet.")
    _section("On their way", [_on_its_way(overview, run) for run in overview.on_their_way], "up")
    _section(
        "Coming",
        [
            [escape(run.name), f"[dim]{escape(run.flow)}[/dim]", f"in {_span(run.expected_at, overview)}"]
            for run in overview.scheduled[:_MOST_SCHEDULED]
        ],
        "",
    )
    datasets = [_dataset(overview, one) for one in overview.datasets]
    header = ["Data sets", "tokens", "size", "older", "made", "trainings"]
    _section(header, datasets, "dataset list", total=overview.names_total)
    header = ["Trainings", "state", "step", "loss", "val", "tokens/s", "when"]
    runs = [_training(overview, run) for run in overview.runs]
    _section(header, runs, "up", total=overview.runs_total)
    versions = _versions_first(overview.versions)
    header = ["Models", "alias", "val", "bits/byte", "made"]
    _section(
        header, [_version(overview, one) for one in versions], "", notes=[one.reason for one in versions[:1]]
    )
    _disk(overview)
    _failures(overview)
    up = [f"{one.name} {one.address}" for one in overview.services if one.answers]
    if up:
        words.print(f"[bold]Up[/bold]  {'  '.join(up)}", soft_wrap=True)
    next_steps(*(f"{step.command}{at}  # {step.why}" for step in overview.next))


def _section(
    header: str | list[str],
    rows: Sequence[list[str]],
    all_of_it: str,
    *,
    total: int | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Rows in columns under a title; below each its note, if there are notes; and how many are not shown."""
    if not rows:
        return
    titles = header if isinstance(header, list) else [header, *[""] * (len(rows[0]) - 1)]
    shown = Table(box=None, padding=(0, 2, 0, 0), width=min(_WIDTH, words.width), pad_edge=False)
    for number, title in enumerate(titles):
        style = "bold" if number == 0 else "dim"
        shown.add_column(
            title,
            header_style=style,
            ratio=1 if number == 0 else None,
            justify="right" if number and isinstance(header, list) else "left",
            no_wrap=True,
            overflow="ellipsis",
        )
    for row in rows[:_MOST_LINES]:
        shown.add_row(*row)
    words.print(shown)
    for note in notes[:_MOST_LINES]:
        words.print(f"  [dim]{escape(printable(note))}[/dim]")
    more = (total or len(rows)) - min(len(rows), _MOST_LINES)
    if more > 0:
        where = f": brickroad {all_of_it}" if all_of_it else ""
        words.print(f"[dim]… and {more:,} more{where}[/dim]")


def _on_its_way(overview: Overview, run: FlowRun) -> list[str]:
    said = escape(progress_of(run)) or f"[dim]{run.state.lower()}[/dim]"
    if overview.is_silent(run):
        said = f"[yellow]silent for {_span(run.last_sign_at, overview)}[/yellow]"
    return [escape(printable(run.name)), said, _span(run.began_at, overview)]


def _dataset(overview: Overview, one: NamedDataset) -> list[str]:
    record = one.newest
    name, older = escape(record.reference), f"{one.earlier:,}" if one.earlier else ""
    if record.wrong:
        return [name, "[yellow]unreadable[/yellow]", "", older, _ago(record.made_at, overview), ""]
    return [
        name,
        _count(record.train_tokens + record.val_tokens),
        size(record.bytes),
        older,
        _ago(record.made_at, overview),
        f"{one.needed_by:,}" if one.needed_by else "[dim]none[/dim]",
    ]


def _training(overview: Overview, run: TrainingRun) -> list[str]:
    word, colour = state_of(run, is_silent=overview.is_silent(run))
    steps = f"{run.step:,}" + (f"/{run.steps:,}" if run.steps and run.step < run.steps else "")
    return [
        escape(printable(run.name)),
        f"[{colour}]{word}[/{colour}]",
        steps,
        _loss(run.train_loss),
        _loss(run.val_loss),
        _count(run.tokens_per_second) if run.tokens_per_second else "",
        _ago(run.ended_at or run.last_sign_at, overview),
    ]


def _versions_first(versions: Sequence[RegisteredVersion]) -> list[RegisteredVersion]:
    """The champion, then the newest others."""
    champions = [one for one in versions if one.is_champion]
    others = [one for one in versions if one not in champions]
    return [*champions, *others][:_MOST_VERSIONS]


def _version(overview: Overview, one: RegisteredVersion) -> list[str]:
    return [
        f"{one.name}/{one.version}",
        f"[green]{', '.join(one.aliases)}[/green]" if one.is_champion else ", ".join(one.aliases),
        _loss(one.val_loss),
        _loss(one.val_bits_per_byte),
        _ago(one.made_at, overview),
    ]


def _disk(overview: Overview) -> None:
    """What each kind takes, the largest first, in as few lines as hold them."""
    largest = sorted(overview.disk, key=lambda use: -use.bytes)
    lines = ["[bold]Disk[/bold]"]
    for use in largest:
        item = f"  {use.kind} {'' if use.whole else 'over '}{size(use.bytes)}"
        if len(Text.from_markup(lines[-1] + item)) > _WIDTH:
            lines.append("    ")
        lines[-1] += item
    if largest:
        words.print("\n".join(lines))


def _failures(overview: Overview) -> None:
    """A line what, a line why, a line where to look."""
    told = alike(overview.failed)
    for number, (run, times) in enumerate(told[:_MOST_FAILURES]):
        if number == 0:
            words.print("[bold]Last failures[/bold]")
        often = f", {times} times" if times > 1 else ""
        words.print(
            f"[red]{escape(printable(run.name))}[/red]  [dim]{_ago(run.changed_at, overview)}{often}[/dim]"
        )
        where = overview.flow_run_url(run) or f"brickroad up shows it: /runs/flow-run/{run.id}"
        words.print(f"  {escape(printable(reason_of(run)))}", no_wrap=True, overflow="ellipsis")
        words.print(f"  [dim]{where}[/dim]", soft_wrap=True)


def _span(moment: float | None, overview: Overview) -> str:
    return "" if moment is None else duration(abs(overview.looked_at - moment))


def _ago(moment: float | None, overview: Overview) -> str:
    return "" if moment is None else f"{_span(moment, overview)} ago"


def _loss(value: float | None) -> str:
    return "[dim]–[/dim]" if value is None else f"{value:.4f}"


def _count(number: float) -> str:
    """A large number for a person: 2.2 M."""
    for unit in ("", " k", " M", " G"):
        if number < 1000:
            return f"{number:,.0f}" if not unit else f"{number:,.1f}{unit}"
        number /= 1000
    return f"{number:,.1f} T"
