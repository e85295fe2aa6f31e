"""Where a run and its repetition part: data, losses, weights, in the order in which they come to be, and what surrounds them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from storage.checkpoints import list_checkpoints, recorded_sha256
from storage.datasets import Dataset
from storage.run_records import RECORD_NAME, RecordedDataset, RunRecord, Sitting
from storage.workspace import Workspace
from tasks.certificate import Outcome
from tasks.verify import different_files

_MOST_NAMED = 6  # packages, or shards, that a line names before it counts the rest


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was compared: whether it is the same, and how it is, or where it parts."""

    what: str
    is_same: bool
    how: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproduction:
    """A run and its repetition: what was compared, in the order in which it came to be, and how the surroundings differ."""

    run_id: str
    step: int
    dataset: str
    findings: list[Finding]
    surroundings: list[str]

    @property
    def ok(self) -> bool:
        """Whether all is the same."""
        return all(finding.is_same for finding in self.findings)

    @property
    def parts_at(self) -> str | None:
        """Where the two first part, in a line."""
        return next((f"{one.what}: {one.how}" for one in self.findings if not one.is_same), None)


def compare_data(recorded: RecordedDataset, again: Dataset) -> list[Finding]:
    """Whether sources and files are the same bytes."""
    there = {one.name: one.sha256 for one in recorded.sources}
    here = {one.name: one.sha256 for one in again.manifest.sources}
    changed = [name for name in there if name in here and here[name] != there[name]]
    told = [f"{name} is {here[name][:12]}… now, and was {there[name][:12]}…" for name in changed[:1]] + (
        [f"{len(changed) - 1:,} more differ"] if len(changed) > 1 else []
    )
    for names, verb in (
        ([n for n in there if n not in here], "gone"),
        ([n for n in here if n not in there], "new"),
    ):
        told += [f"{_some(names)} {'is' if len(names) == 1 else 'are'} {verb}"] if names else []
    sources = f"{len(there):,} {'shard' if len(there) == 1 else 'shards'}, the same bytes"
    files = different_files(recorded.files, again.manifest.files)
    same = f"{len(recorded.files)} files, the same bytes, digest {recorded.digest[:12]}"
    return [
        Finding(what="sources", is_same=not told, how="; ".join(told) or sources),
        Finding(what="data", is_same=not files, how="; ".join(files) or same),
    ]


def compare_training(record: RunRecord, again: RunRecord) -> list[Finding]:
    """Whether losses, weights, optimizer and the exact loss are the same, as numbers and bytes."""
    findings = [_compare_losses(record, again)]
    ours, theirs = (
        Outcome.of(one.run_id, one.sha256, one.losses["train_loss"].items()) for one in (record, again)
    )
    for what, there, here in (
        ("weights", ours.weights_sha256, theirs.weights_sha256),
        ("optimizer", ours.optimizer_sha256, theirs.optimizer_sha256),
    ):
        same = f"at step {record.step:,}, the same bytes, sha256 {there[:12]}"
        how = (
            same
            if there == here
            else f"at step {record.step:,}, sha256 {there[:12]}… there, {here[:12]}… here"
        )
        findings.append(Finding(what=what, is_same=there == here, how=how))
    if record.exact and again.exact:
        step, there, here = record.exact.step, record.exact.val_loss, again.exact.val_loss
        how = f"exact, at step {step:,}, {_beside(there, here)}"
        findings.append(Finding(what="val loss", is_same=there == here, how=how))
    assert ours.is_same(theirs) <= all(one.is_same for one in findings[1:3]), (
        "one comparison is as good as the other"
    )
    return findings


def _compare_losses(record: RunRecord, again: RunRecord) -> Finding:
    """All losses that were read, in the order of the steps; of a step, that of training is from before its update."""
    points = sorted(
        (step, curve, there, again.losses[curve][step])
        for curve, losses in record.losses.items()
        for step, there in losses.items()
    )
    for step, curve, there, here in points:
        if there.hex() != here.hex():
            name = curve.replace("_", " ")
            how = f"{name} at step {step:,}, {_beside(there, here)}"
            return Finding(what="losses", is_same=False, how=how)
    counts = {curve: len(losses) for curve, losses in record.losses.items()}
    how = f"{counts['train_loss']:,} of training and {counts['val_loss']:,} of val, the same numbers"
    return Finding(what="losses", is_same=True, how=how)


def _beside(there: float, here: float) -> str:
    return (
        f"{there!r} both times" if there == here else f"{there!r} there, {here!r} here ({here - there:+.1e})"
    )


def compare_surroundings(record: RunRecord, here: Sitting, own_facts: Mapping[str, Any] | None) -> list[str]:
    """What differs from where the run was trained, a line each. `own_facts` are of its last checkpoint, if that is here."""
    lines = []
    for sitting in record.sittings:
        since = "" if len(record.sittings) == 1 else f" (from step {sitting.from_step:,})"
        for name in dict.fromkeys((*sitting.facts, *here.facts)):
            there, now = sitting.facts.get(name, "not set"), here.facts.get(name, "not set")
            if there != now and name != "packages":
                lines.append(f"{name}: {_short(there)} there{since}, {_short(now)} here")
        if changed := sorted(set(sitting.packages) - set(here.packages)):
            lines.append(f"packages{since}: {_some(changed)} there, not here")
    if own_facts and (wrong := _different(record.recipe, own_facts["recipe"])):
        lines.append(f"{RECORD_NAME} was changed: {_some(wrong)}")
    return lines


def own_facts(record: RunRecord, workspace: Workspace) -> Mapping[str, Any] | None:
    """What the run's own last checkpoint says of it; None if it is not here, or another than the record's."""
    found = [
        one for one in list_checkpoints(workspace.checkpoints / record.run_id) if one.step == record.step
    ]
    return found[0].facts if found and recorded_sha256(found[0]) == record.sha256 else None


def _different(there: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    return [
        f"{part}.{name} is {value!r}, and its checkpoint has {own[part][name]!r}"
        for part, fields in there.items()
        if fields
        for name, value in fields.items()
        if own[part][name] != value
    ]


def _short(value: str) -> str:
    """A checksum is recognised by its beginning."""
    return f"{value[:12]}…" if len(value) in (40, 64) and set(value) <= set("0123456789abcdef") else value


def _some(names: list[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more:,} more" if more > 0 else "")
