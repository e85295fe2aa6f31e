"""The gate before the registry: whether a new model takes the place of the champion, and why."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from storage.errors import StorageError
from storage.workspace import Workspace
from tasks.comparison import Comparison, compare
from tasks.evaluation import Evaluation

Alias = Literal["champion", "challenger"]
NEEDED_DEVIATIONS: Final = (
    2.0  # standard errors by which a champion must be beaten: by chance, one in 44 times
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a model is to be, and all that spoke for or against it, a sentence each."""

    alias: Alias
    reasons: list[str]
    comparison: Comparison | None = None  # with the champion, which is the first of the two


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a model stands to the champion before it, on the same documents, in nats per token; below 0 it is better."""

    champion: str
    champion_loss: float
    difference: float
    standard_error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Champion:
    """The version that is to be beaten: its number, and its checkpoint folder if it can be had."""

    version: str
    path: Path | None


def judge(evaluation: Evaluation, champion: Champion | None, workspace: Workspace) -> Verdict:
    """Champion if nothing speaks against the model, and it beats the champion on the same val split beyond chance.

    The champion is measured on the split that the model was measured on, whatever it was measured on before.
    """
    against = objections(evaluation)
    if champion is None:
        if against:
            return Verdict(alias="challenger", reasons=against)
        return Verdict(alias="champion", reasons=[f"it is the first, with {_told(evaluation)}"])
    comparison, sentence = _compared(evaluation, champion, workspace)
    is_champion = comparison is not None and _is_better(comparison) and not against
    return Verdict(
        alias="champion" if is_champion else "challenger", reasons=[sentence, *against], comparison=comparison
    )


def objections(evaluation: Evaluation) -> list[str]:
    """What keeps a model from being champion however low its loss is."""
    found, samples = [], evaluation.samples
    if evaluation.updates_left_out:
        found.append(f"the guard left {evaluation.updates_left_out:,} updates out of its training")
    if samples.are_degenerate:
        found.append(
            f"what it writes is degenerate: {samples.repetition:.0%} of it repeats itself, {samples.val_repetition:.0%} of val text does"
        )
    return found


def _compared(
    evaluation: Evaluation, champion: Champion, workspace: Workspace
) -> tuple[Comparison | None, str]:
    """How the model stands to the champion, as numbers and as a sentence."""
    name = f"champion version {champion.version}"
    if champion.path is None:
        return None, f"{name} cannot be had to compare it; promote this one by hand"
    try:
        found = compare(
            champion.path, Path(evaluation.model), workspace, dataset_reference=evaluation.dataset
        )
    except (StorageError, ValueError) as error:
        return None, f"{name} cannot be measured on {evaluation.dataset} ({error})"
    difference = found.difference
    verdict = "better than" if _is_better(found) else "not better beyond chance than"
    return found, (
        f"{_told(evaluation)} is {verdict} the {found.first.loss:.4f} nats per token of {name} on the same "
        f"{len(found.first.document_nats):,} documents: {difference.difference:+.4f} ± {difference.standard_error:.4f}, "
        f"{abs(difference.deviations):.1f} standard errors where {NEEDED_DEVIATIONS:g} are needed"
    )


def _is_better(comparison: Comparison) -> bool:
    return comparison.difference.deviations < -NEEDED_DEVIATIONS


def _told(evaluation: Evaluation) -> str:
    return f"{evaluation.val_loss:.4f} nats per token ({evaluation.val_bits_per_byte:.4f} bits per byte) on {evaluation.dataset}"
