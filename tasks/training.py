"""Training as a unit of work: the loop of `model.training`, with saving, logging and stopping around it."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from model.config import Recipe, preset, recipe_from_dict, recipe_to_dict, with_settings
from model.device import device_name
from model.evaluation import estimate_loss
from model.flops import utilisation
from model.network import parameter_count
from model.training import StepReport, Training, TrainingState
from storage.checkpoints import (
    Checkpoint,
    latest_checkpoint,
    list_checkpoints,
    load_tensors,
    remove_checkpoint,
    save_checkpoint,
)
from storage.datasets import find_dataset, refuse_damaged
from storage.files import remove_partials
from storage.workspace import Workspace
from tasks.corpora import DEFAULT_CORPUS
from tasks.engine import road_task, run_links
from tasks.interruption import InterruptedByUser, StopRequests
from tasks.loading import LoadedModel, best_of
from tasks.tokenizers import load_tokenizer
from tasks.tracking import RunLog, Tracker
from tasks.watch import Watch, pulse

DEFAULT_PRESET = "pocket"
SAMPLE_CHARACTERS = 300
CHECKED_BLOCKS = 4  # of 64 MiB, of each token file: a quarter of a second


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


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel:
    """What a training came to. `checkpoint` is the one with the lowest val loss on the sampled windows."""

    run_id: str
    checkpoint: Path
    steps: int
    train_loss: float
    tokens_per_second: float
    utilisation: (
        float | None
    )  # MFU, by the convention of `model.flops`; None of a device that is not known there
    seconds: float


class Session:
    """One training on its way: the loop's state, and what is known about it so far."""

    def __init__(self, request: TrainingRequest, workspace: Workspace) -> None:
        self.dataset = find_dataset(workspace.datasets, request.dataset)
        refuse_damaged(self.dataset, blocks=None if request.check_all_data else CHECKED_BLOCKS)
        self.tokenizer = load_tokenizer(self.dataset.tokenizer_json())
        self.tracker = Tracker(workspace)
        resumed = latest_checkpoint(workspace.checkpoints / request.resume) if request.resume else None
        self.recipe = self._recipe(request, resumed)
        self.cadence = request.cadence.of(self.recipe.training.steps)
        self.training = Training(
            self.recipe, self.dataset.token_file("train").open(), dataset_digest=self.dataset.manifest.digest
        )
        self.val_tokens = self.dataset.token_file("val").open()
        if resumed:
            self.training.load(TrainingState(step=resumed.step, tensors=load_tensors(resumed)))
        self.run = self._run(request)
        self.folder = workspace.checkpoints / self.run.run_id
        remove_partials(self.folder)  # of a save that was killed, if the run is resumed
        self.train_loss: float = resumed.facts["train_loss"] if resumed else math.nan

    def _recipe(self, request: TrainingRequest, resumed: Checkpoint | None) -> Recipe:
        if resumed is None:
            return request.recipe(vocabulary_size=self.tokenizer.vocabulary_size)
        trained_on = resumed.facts["dataset_digest"]
        if trained_on != self.dataset.manifest.digest:
            raise ValueError(
                f"run {request.resume} was trained on data set {trained_on}, not on {self.dataset.reference}; "
                "resume it with its own"
            )
        return recipe_from_dict(resumed.facts["recipe"])

    def _run(self, request: TrainingRequest) -> RunLog:
        if request.resume:
            return self.tracker.resume_run(request.resume, run_links())
        depth = "" if request.depth is None else f"-{request.depth}"
        name = f"{request.chosen_preset}{depth}-{self.dataset.manifest.name}"
        parameters = {
            f"{part}.{key}": value
            for part, fields in recipe_to_dict(self.recipe).items()
            for key, value in fields.items()
        }
        facts = {
            "dataset": self.dataset.reference,
            "parameters": parameter_count(self.training.network),
            "device": self.training.device.type,
            "precision_used": self.training.precision,
        }
        return self.tracker.start_run(name, self.dataset, parameters | facts, run_links())

    def val_loss(self) -> float:
        """Nats per token on a fixed, evenly spaced sample of val windows."""
        return estimate_loss(self.training.network, self.val_tokens, precision=self.training.precision)

    def utilisation(self, throughput: "Throughput") -> float | None:
        """MFU so far, or None of a device that is not known."""
        name = device_name(self.training.device)
        return utilisation(throughput.tokens_per_second, self.recipe.network, name)

    def save(self, val_loss: float) -> None:
        """A checkpoint of this step in the workspace and in MLflow, and a sample beside it; old ones go."""
        self.run.flush()  # a training that goes on from here finds the points that lead to it
        state = self.training.state()
        checkpoint = save_checkpoint(
            self.folder,
            step=state.step,
            tensors=state.tensors,
            facts=self._facts(val_loss),
            tokenizer_json=self.dataset.tokenizer_json(),
        )
        self.run.checkpoint(checkpoint, {"val_loss": val_loss}, self.dataset)
        self.run.text(self.sample(checkpoint), f"samples/{checkpoint.path.name}.txt")
        best = self.best_checkpoint()
        for old in list_checkpoints(self.folder)[: -self.cadence.keep_last]:
            if old.path != best.path:
                self.run.forget_checkpoint(old.step)
                remove_checkpoint(old)

    def best_checkpoint(self) -> Checkpoint:
        """The best of the checkpoints that are kept."""
        return best_of(list_checkpoints(self.folder))

    def sample(self, checkpoint: Checkpoint) -> str:
        """A new document, as the network would write it now."""
        loaded = LoadedModel(
            checkpoint=checkpoint, recipe=self.recipe, network=self.training.network, tokenizer=self.tokenizer
        )
        return "".join(loaded.write("", tokens=SAMPLE_CHARACTERS))

    def _facts(self, val_loss: float) -> dict[str, Any]:
        return {
            "run_id": self.run.run_id,
            "recipe": recipe_to_dict(self.recipe),
            "dataset": self.dataset.reference,
            "dataset_digest": self.dataset.manifest.digest,
            "tokenizer_fingerprint": self.dataset.manifest.tokenizer_fingerprint,
            "train_loss": self.train_loss,
            "val_loss": val_loss,
            "torch": version("torch"),
            "brickroad": version("brickroad"),
        }


class Throughput:
    """Tokens a second of the steps alone: what lies between `pause` and `go_on` does not count."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.tokens = 0
        self._began = time.monotonic()

    def count(self, tokens: int) -> None:
        """So many tokens were trained on since the last call or `go_on`."""
        now = time.monotonic()
        self.seconds += now - self._began
        self.tokens += tokens
        self._began = now

    def go_on(self) -> None:
        """What happened since the last `count` was something else."""
        self._began = time.monotonic()

    @property
    def tokens_per_second(self) -> float:
        """Mean so far."""
        return self.tokens / self.seconds if self.seconds else 0.0


def train(request: TrainingRequest, workspace: Workspace) -> TrainedModel:
    """Trains to the recipe's last step, or goes on with a run. A signal saves, and raises InterruptedByUser.

    Raises ValueError for a request that cannot be meant, DivergedError if the loss is no number any more.
    """
    with pulse("open run"):
        session = Session(request, workspace)
    return finish(session)


def finish(session: Session) -> TrainedModel:
    """Trains a session to its end, as `train` does, and closes its run."""
    try:
        with StopRequests() as stop:
            trained = _run_steps(session, stop)
    except InterruptedByUser:
        session.run.end("KILLED")
        raise
    except BaseException:
        session.run.end("FAILED")
        raise
    session.run.end("FINISHED")
    return trained


def _run_steps(session: Session, stop: StopRequests) -> TrainedModel:
    training, cadence = session.training, session.cadence
    last, began, throughput = session.recipe.training.steps, time.monotonic(), Throughput()
    tokens_a_step = session.recipe.training.batch_size * session.recipe.network.block_size
    with Watch("train", total=last, done=training.step, unit="steps", artifact_key="train") as watch:
        for report in training.steps():
            step, ends = report.step, report.step == last or stop.signal_number is not None
            throughput.count(tokens_a_step)
            if ends or step % cadence.report_every_steps == 0 or step % cadence.save_every_steps == 0:
                session.train_loss = report.train_loss
                session.run.metrics(step, _points(report, throughput, session))
            saves = ends or step % cadence.save_every_steps == 0
            if saves or step % cadence.evaluate_every_steps == 0:
                val_loss = session.val_loss()
                session.run.metrics(step, {"val_loss": val_loss})
                if saves:
                    session.save(val_loss)
                throughput.go_on()
            watch.advance(1, facts=f"loss {session.train_loss:.3f}")
            if stop.signal_number is not None and step < last:
                raise InterruptedByUser(
                    f"stopped at step {step:,} of {last:,}, all saved; "
                    f"go on with: brickroad train {session.dataset.reference} --resume {session.run.run_id}",
                    stop.signal_number,
                )
    return TrainedModel(
        run_id=session.run.run_id,
        checkpoint=session.best_checkpoint().path,
        steps=training.step,
        train_loss=session.train_loss,
        tokens_per_second=throughput.tokens_per_second,
        utilisation=session.utilisation(throughput),
        seconds=time.monotonic() - began,
    )


def _points(report: StepReport, throughput: Throughput, session: Session) -> dict[str, float]:
    used = session.utilisation(throughput)
    return ({} if used is None else {"mfu": used}) | {
        "train_loss": report.train_loss,
        "learning_rate": report.learning_rate,
        "gradient_norm": report.gradient_norm,
        "tokens": report.tokens,
        "epoch": report.epoch,
        "tokens_per_second": throughput.tokens_per_second,
    }


train_task = road_task("train", tags=["gpu"])(train)
