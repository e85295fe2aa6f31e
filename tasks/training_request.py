"""What is asked of a training: the data set, the recipe or the run to go on with, and how often to look."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from model.config import Recipe, preset, with_settings
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
class TrainingRequest:
    """What to train. `dataset` is name, name@digest or path; `settings` are as in --set, e.g. {"training.steps": "500"}.

    `depth` is the dial of the preset modern, which it chooses by itself. `resume` is the id of a run to go on with; its recipe is
    the checkpoint's, and no preset, depth or setting may be given. `check_all_data` reads every byte of the data set before, not
    some blocks alone.
    """

    dataset: str = DEFAULT_CORPUS
    preset: str | None = None
    depth: int | None = None
    settings: Mapping[str, str] | None = None
    resume: str | None = None
    check_all_data: bool = False
    cadence: Cadence = Cadence()

    def __post_init__(self) -> None:
        if self.resume and (self.preset or self.depth is not None or self.settings):
            raise ValueError(
                "a resumed run keeps its recipe: leave out --preset, --depth and --set, or start a new run"
            )
        self.recipe(
            vocabulary_size=1
        )  # a misspelt setting is better found now than after a data set was built

    def recipe(self, *, vocabulary_size: int) -> Recipe:
        """The preset with its settings, for a vocabulary. ValueError if one of them cannot be meant."""
        chosen = preset(self.chosen_preset, vocabulary_size=vocabulary_size, depth=self.depth)
        return with_settings(chosen, self.settings or {})

    @property
    def chosen_preset(self) -> str:
        """The preset asked for, or meant."""
        return self.preset or (DEFAULT_PRESET if self.depth is None else "modern")
