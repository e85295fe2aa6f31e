"""What is asked of a training, as the data set, the recipe or the run to go on with, and what it came to."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from model.config import LoraConfig, Recipe, preset, with_settings
from model.fine_tuning import fine_tuning_recipe
from tasks.corpora import DEFAULT_CORPUS

DEFAULT_PRESET = "pocket"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cadence:
    """How often the shell looks: reports to MLflow, val loss on a fixed sample of windows, checkpoints.

    None means by the length of the training: 20 val losses and 5 checkpoints, but at least every 1,000 steps. The last
    `keep_last` checkpoints are kept, and the one with the lowest val loss.
    """

    report_every_steps: int = 10
    evaluate_every_steps: int | None = None
    save_every_steps: int | None = None
    keep_last: int = 2

    def __post_init__(self) -> None:
        for name in ("report_every_steps", "evaluate_every_steps", "save_every_steps", "keep_last"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"cadence.{name} is {value}; it must be at least 1")

    def of(self, steps: int) -> "Cadence":
        """The cadence with every number filled in, for a training of so many steps."""
        return replace(
            self,
            evaluate_every_steps=self.evaluate_every_steps or min(1000, math.ceil(steps / 20)),
            save_every_steps=self.save_every_steps or min(1000, math.ceil(steps / 5)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuning:
    """What a training begins from: `model` is a run id, name/version, name@alias or checkpoint folder. With `lora` adapters
    learn, and nothing else."""

    model: str
    lora: LoraConfig | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRequest:
    """What to train. `dataset` is name, name@digest or path; `settings` are as in --set, e.g. {"training.steps": "500"}.

    `depth` is the dial of the preset modern, which it chooses by itself. `resume` is the id of a run to go on with; its recipe is
    the checkpoint's, and no preset, depth or setting may be given. `check_all_data` reads every byte of the data set before, not
    some blocks alone. With `fine_tuning` it begins from a model that there is, whose network it keeps.

    `processes` train together on each of `nodes` machines; `node` is this one's number, from 0, and `rendezvous` the host:port
    of the first, at which all meet. All of them see the same workspace, or at least the first has it.
    """

    dataset: str = DEFAULT_CORPUS
    preset: str | None = None
    depth: int | None = None
    settings: Mapping[str, str] | None = None
    resume: str | None = None
    check_all_data: bool = False
    cadence: Cadence = Cadence()
    processes: int = 1
    nodes: int = 1
    node: int = 0
    rendezvous: str | None = None
    fine_tuning: FineTuning | None = None

    def __post_init__(self) -> None:
        if self.processes < 1 or self.nodes < 1 or not 0 <= self.node < self.nodes:
            raise ValueError(
                f"--nproc {self.processes}, --nodes {self.nodes} and --node {self.node} cannot be: the first two are at least 1, "
                "and nodes are counted from 0"
            )
        if (self.nodes > 1) != (self.rendezvous is not None):
            raise ValueError("several --nodes need --rendezvous HOST:PORT of the first, and one needs none")
        if self.resume and (self.preset or self.depth is not None or self.settings):
            raise ValueError(
                "a resumed run keeps its recipe: leave out --preset, --depth and --set, or start a new run"
            )
        if self.fine_tuning and (self.preset or self.depth is not None):
            raise ValueError("a fine-tuning has its parent's network: leave out --preset and --depth")
        if self.fine_tuning and self.fine_tuning.lora and self.resume:
            raise ValueError("a resumed run keeps its recipe: leave out --lora, or start a new run")
        if not self.fine_tuning:  # a misspelt setting is better found now than after a data set was built
            self.recipe(vocabulary_size=1)

    def recipe(self, *, vocabulary_size: int, end_of_text: int = -1, parent: Recipe | None = None) -> Recipe:
        """The preset with its settings, for a vocabulary; of a fine-tuning the parent's recipe with other rates, and its
        settings. Where documents are to be apart, it says which id parts them. ValueError if a setting cannot be meant."""
        chosen = self._chosen_recipe(vocabulary_size, parent)
        if chosen.network.documents == "apart":
            return replace(chosen, network=replace(chosen.network, end_of_text=end_of_text))
        return chosen

    def _chosen_recipe(self, vocabulary_size: int, parent: Recipe | None) -> Recipe:
        if self.fine_tuning:
            assert parent is not None, "whoever fine-tunes knows from what"
            return fine_tuning_recipe(parent, self.fine_tuning.lora, self.settings or {})
        chosen = preset(self.chosen_preset, vocabulary_size=vocabulary_size, depth=self.depth)
        return with_settings(chosen, self.settings or {})

    def to_json(self) -> dict[str, Any]:
        """As plain values, for a process of its own."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "TrainingRequest":
        """The inverse of `to_json`."""
        return cls(
            **values
            | {"cadence": Cadence(**values["cadence"]), "fine_tuning": _fine_tuning(values["fine_tuning"])}
        )

    def going_on(self, dataset: str, run_id: str) -> str:
        """The command that goes on with a run of this request."""
        what = f"finetune {self.fine_tuning.model} --dataset" if self.fine_tuning else "train"
        return f"brickroad {what} {dataset} --resume {run_id}"

    @property
    def chosen_preset(self) -> str:
        """The preset asked for, or meant."""
        return self.preset or (DEFAULT_PRESET if self.depth is None else "modern")


def _fine_tuning(values: dict[str, Any] | None) -> FineTuning | None:
    if values is None:
        return None
    lora = values["lora"] and LoraConfig(**values["lora"] | {"targets": tuple(values["lora"]["targets"])})
    return FineTuning(model=values["model"], lora=lora)


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
