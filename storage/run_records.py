"""What is needed to repeat a training, and what it came to: `run.json`, beside the checkpoints of a run.

It holds the data set's settings and its sources with their sha256, the recipe, where each sitting ran, and, up to the last
checkpoint, each loss that was read and the sha256 of what was saved. Numbers are exact: JSON has every digit of them.
"""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from storage.blocks import FileFacts
from storage.datasets import Dataset
from storage.errors import CheckpointError
from storage.files import write_json

RECORD_NAME = "run.json"
RECORD_FORMAT = 1

Curve = Literal["train_loss", "val_loss"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedSource:
    """One shard that the data set was made from."""

    name: str
    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedDataset:
    """A data set: how it is built again (`config`), from what, and to which bytes. `has_prompts`: it was made for a model."""

    reference: str
    name: str
    digest: str
    has_prompts: bool
    config: dict[str, Any]
    sources: list[RecordedSource]
    files: dict[str, FileFacts]

    @classmethod
    def of(cls, dataset: Dataset) -> Self:
        """The record of a data set that is here."""
        manifest = dataset.manifest
        return cls(
            reference=dataset.reference,
            name=manifest.name,
            digest=manifest.digest,
            has_prompts=dataset.prompts() is not None,
            config=manifest.build["config"],
            sources=[
                RecordedSource(name=one.name, sha256=one.sha256, bytes=one.compressed_bytes)
                for one in manifest.sources
            ],
            files=manifest.files,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sitting:
    """From which step on a run was trained in these surroundings: facts by name, and packages as name==version."""

    from_step: int
    facts: dict[str, str]
    packages: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactLoss:
    """The loss on the whole val split, in nats per token, of the checkpoint of a step."""

    step: int
    val_loss: float


@dataclass(slots=True, kw_only=True)
class RunRecord:
    """A training as it goes. `sha256` is of the last checkpoint's network and optimizer, `step` that checkpoint's."""

    run_id: str
    dataset: RecordedDataset
    recipe: dict[str, Any]
    cadence: dict[str, Any]
    parent: dict[str, Any] | None
    sittings: list[Sitting]
    step: int = 0
    sha256: dict[str, str] = field(default_factory=dict)
    losses: dict[Curve, dict[int, float]] = field(default_factory=lambda: {"train_loss": {}, "val_loss": {}})
    exact: ExactLoss | None = None

    def up_to(self, step: int, sha256: dict[str, str]) -> None:
        """A checkpoint is what the run has come to: losses that were read after it are of steps that are to be made again, and
        a sitting that began there or later came to nothing."""
        self.step, self.sha256 = step, sha256
        self.sittings = self.sittings[:1] + [one for one in self.sittings[1:] if one.from_step < step]
        for curve, points in self.losses.items():
            self.losses[curve] = {at: loss for at, loss in points.items() if at <= step}

    def to_json(self) -> str:
        """Text for a file. Of a loss that is no number, JSON has the name."""
        return json.dumps(self._plain(), indent=1)

    def write(self, folder: Path) -> None:
        """Writes `run.json`, atomically."""
        write_json(folder / RECORD_NAME, self._plain())

    def _plain(self) -> dict[str, Any]:
        losses = {
            curve: [[step, value if math.isfinite(value) else str(value)] for step, value in points.items()]
            for curve, points in self.losses.items()
        }
        return asdict(self) | {"losses": losses, "format_version": RECORD_FORMAT}

    @classmethod
    def from_json(cls, text: str, place: str) -> Self:
        """The inverse of `to_json`. CheckpointError, with the `place` it is from, if it is no record."""
        try:
            value = json.loads(text)
            if (found := value.pop("format_version")) != RECORD_FORMAT:
                raise CheckpointError(f"{place}: format {found} of a run's record is not {RECORD_FORMAT}")
            dataset = value["dataset"]
            known = {
                "dataset": RecordedDataset(
                    **dataset
                    | {
                        "sources": [RecordedSource(**one) for one in dataset["sources"]],
                        "files": {name: FileFacts(**facts) for name, facts in dataset["files"].items()},
                    }
                ),
                "sittings": [Sitting(**one) for one in value["sittings"]],
                "losses": {
                    curve: {step: float(loss) for step, loss in points}
                    for curve, points in value["losses"].items()
                },
                "exact": value["exact"] and ExactLoss(**value["exact"]),
            }
            return cls(**value | known)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{place}: not the record of a run ({error})") from None


def read_record(folder: Path) -> RunRecord | None:
    """The record of the run whose checkpoints are in a folder; None if it has none. CheckpointError if it cannot be read."""
    path = folder / RECORD_NAME
    return RunRecord.from_json(path.read_text(encoding="utf-8"), str(path)) if path.is_file() else None
