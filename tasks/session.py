"""One training on its way: the loop's state, what is known about it so far, and how it is saved and told to MLflow."""

import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from model.config import Recipe, recipe_from_dict, recipe_to_dict
from model.device import device_name
from model.evaluation import estimate_loss
from model.examples import Rows, estimate_rows_loss
from model.flops import utilisation
from model.lora import trainable_count
from model.network import parameter_count
from model.ranks import ALONE, Ranks
from model.training import DivergedError, StepReport, Training, TrainingState, skipped_of
from model.writing import WritingRequest, write
from storage.checkpoints import Checkpoint, latest_checkpoint, list_checkpoints, load_tensors
from storage.datasets import refuse_damaged
from storage.workspace import Workspace
from tasks.adapters import network_tensors
from tasks.at_hand import dataset_at_hand
from tasks.engine import ROOT_FLOW_RUN, run_links
from tasks.evaluation import refuse_other_rows
from tasks.kept_checkpoints import KeptCheckpoints
from tasks.kept_record import KeptRecord
from tasks.left_runs import LEASE_TAG, close_left_runs, lease_for_training, refuse_at_work
from tasks.parent import find_parent
from tasks.provenance import provenance
from tasks.skipped import name_skipped
from tasks.so_far import SoFar
from tasks.throughput import Throughput
from tasks.tokenizers import load_tokenizer
from tasks.tracking import SilentLog, Tracker, TrainingLog
from tasks.training_request import TrainedModel, TrainingRequest

SAMPLE_TOKENS = 300
CHECKED_BLOCKS = 4  # of 64 MiB, of each token file: a quarter of a second


class Session:
    """A training, from its first weights or from a checkpoint, and its run in MLflow.

    `is_owed_a_val_loss`: one was due at the step of the checkpoint that it went on from, and there was no time for it.

    Of several `ranks` each has a session, and calls alike whatever is called here; the first alone writes checkpoints and tells
    MLflow. `links` are tags that lead back to Prefect. Unless `goes_on`, a training that was begun before is begun anew.
    """

    def __init__(
        self,
        request: TrainingRequest,
        workspace: Workspace,
        *,
        ranks: Ranks = ALONE,
        links: Mapping[str, str] | None = None,
        goes_on: bool = True,
    ) -> None:
        self.request = request
        self.ranks = ranks
        self._links = run_links() if links is None else links
        self.dataset = dataset_at_hand(request.dataset, workspace)
        refuse_damaged(self.dataset, blocks=None if request.check_all_data else CHECKED_BLOCKS)
        self.tokenizer = load_tokenizer(self.dataset.tokenizer_json())
        self.parent = find_parent(request.fine_tuning.model, workspace) if request.fine_tuning else None
        if self.parent:
            self.parent.refuse_other_tokenizer(self.dataset)
        tracker = Tracker(workspace) if ranks.is_first else None
        self._lease = lease_for_training(workspace, tracker) if tracker else None
        if tracker:
            close_left_runs(workspace)
        earlier = self._earlier_try(request, workspace, tracker) if tracker and goes_on else None
        run_id = request.resume or ranks.from_first(earlier)
        resumed = latest_checkpoint(workspace.checkpoints / run_id) if run_id else None
        self.recipe = self._recipe(request, resumed)
        if tracker and run_id:
            refuse_at_work(run_id, tracker)  # before its tensors are read, which come and go
        refuse_other_rows(self.dataset, self.recipe.network.block_size)
        self.cadence = request.cadence.of(self.recipe.training.steps)
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(workspace.compiled))
        self.training = Training(
            self.recipe,
            self.dataset.token_file("train").open(),
            dataset_digest=self.dataset.manifest.digest,
            ranks=ranks,
            learnt=self.dataset.learnt("train"),
            first_weights=network_tensors(self.parent.checkpoint) if self.parent and not resumed else None,
        )
        self.origin = resumed.facts.get("parent") if resumed else self.parent and self.parent.facts()
        begun_from = resumed or (self.parent and self.parent.checkpoint)
        self.prompt_format = begun_from.facts.get("prompt_format") if begun_from else None
        self.val_tokens = self.dataset.token_file("val").open()
        self.so_far, self.throughput, self.is_owed_a_val_loss = SoFar(), Throughput(), False
        if resumed:
            self._go_on_from(resumed)
        if earlier and not request.resume:
            print(
                f"This training was begun before: run {run_id} goes on from step {self.training.step:,}",
                file=sys.stderr,
            )
        if tracker:
            self.run = self._resumed_run(run_id, tracker) if run_id else self._new_run(request, tracker)
            tracker.ship_left_meanwhile()
        try:
            self.kept = self._kept_checkpoints(workspace)
            self.record = KeptRecord(
                workspace.checkpoints / self.run.run_id,
                self.run,
                training=self.training,
                dataset=self.dataset,
                cadence=self.cadence,
                parent=self.origin,
                resumed=resumed,
            )
        except BaseException:
            if tracker:
                self.run.end("FAILED")
            raise

    def _kept_checkpoints(self, workspace: Workspace) -> KeptCheckpoints:
        """Those of the first rank's run, which all hear of here."""
        run_id: str = self.ranks.from_first(self.run.run_id if self.ranks.is_first else None)
        if not self.ranks.is_first:
            self.run = SilentLog(run_id)
        kept = KeptCheckpoints(workspace.checkpoints / run_id, self.run, keep_last=self.cadence.keep_last)
        if self.ranks.is_first:
            kept.drop_partials()
        return kept

    def close(self) -> None:
        """Nobody is at its run any more."""
        if self._lease:
            self._lease.release()

    @property
    def _tags(self) -> dict[str, str]:
        assert self._lease, "whoever tells MLflow holds a lease"
        return dict(self._links) | {LEASE_TAG: self._lease.lease.id}

    def _resumed_run(self, run_id: str, tracker: Tracker) -> TrainingLog:
        """An earlier run, gone on with by one process at a time. ValueError if another one is at it."""
        with tracker.workspace.lock("runs"):
            refuse_at_work(run_id, tracker)
            return tracker.resume_run(run_id, self._tags)

    def _earlier_try(self, request: TrainingRequest, workspace: Workspace, tracker: Tracker) -> str | None:
        """The run of an earlier try of the same training, if it can go on: so that a retry trains no second model, and what was
        killed is not trained anew. It would come to the same bytes.

        Such a try is one of the same Prefect flow run; or of any, if it was killed, and by the same versions.
        """
        flow_run_id = self._links.get(ROOT_FLOW_RUN)
        recipe = recipe_to_dict(self._recipe(request, None))
        asked = {
            "recipe": recipe,
            "parent": self.parent and self.parent.facts(),
            "dataset_digest": self.dataset.manifest.digest,
        }
        for run_id in tracker.unfinished_runs(flow_run_id) if flow_run_id else []:
            if self._can_go_on(workspace, run_id, asked):
                return run_id
        for run_id in tracker.killed_runs(self.dataset.manifest.digest):
            if self._can_go_on(workspace, run_id, asked | _versions()):
                return run_id
        return None

    @staticmethod
    def _can_go_on(workspace: Workspace, run_id: str, asked: Mapping[str, Any]) -> bool:
        found = list_checkpoints(workspace.checkpoints / run_id)
        return bool(found) and all(found[-1].facts.get(name) == value for name, value in asked.items())

    def _recipe(self, request: TrainingRequest, resumed: Checkpoint | None) -> Recipe:
        if resumed is None:
            parent = self.parent and self.parent.recipe
            return request.recipe(
                vocabulary_size=self.tokenizer.vocabulary_size,
                end_of_text=self.tokenizer.end_of_text,
                parent=parent,
            )
        if self.parent:
            self.parent.refuse_child_of_another(resumed)
        trained_on = resumed.facts["dataset_digest"]
        if trained_on != self.dataset.manifest.digest:
            raise ValueError(
                f"run {request.resume} was trained on data set {trained_on}, not on {self.dataset.reference}; "
                "resume it with its own"
            )
        return recipe_from_dict(resumed.facts["recipe"])

    def _go_on_from(self, checkpoint: Checkpoint) -> None:
        self.training.load(TrainingState(step=checkpoint.step, tensors=load_tensors(checkpoint)))
        # Version 0.1.0 told the train loss, and none of the rest.
        self.so_far = SoFar(
            **checkpoint.facts.get("so_far", {"train_loss": checkpoint.facts.get("train_loss")})
        )
        self.throughput = Throughput(**checkpoint.facts.get("throughput", {}))
        self.is_owed_a_val_loss = checkpoint.facts["val_loss"] is None and self.is_due_a_val_loss

    def _new_run(self, request: TrainingRequest, tracker: Tracker) -> TrainingLog:
        depth = "" if request.depth is None else f"-{request.depth}"
        kind = "finetune" if request.fine_tuning else f"{request.chosen_preset}{depth}"
        name = f"{kind}-{self.dataset.manifest.name}"
        parameters = {
            f"{part}.{key}": value
            for part, fields in recipe_to_dict(self.recipe).items()
            for key, value in fields.items()
        }
        facts = {
            "dataset": self.dataset.reference,
            "parameters": parameter_count(self.training.network),
            "trainable_parameters": trainable_count(self.training.network),
            "device": self.training.device.type,
            "precision_used": self.training.precision,
            "processes": self.ranks.size,
        }
        tags = self._tags | provenance().tags() | (self.parent.tags() if self.parent else {})
        return tracker.start_run(name, self.dataset, parameters | facts, tags)

    @property
    def is_due_a_val_loss(self) -> bool:
        """Whether the cadence, or the end, asks for one at this step."""
        step = self.training.step
        return step > 0 and (step % self.cadence.evaluate_every_steps == 0 or self._is_at_save(step))

    @property
    def is_due_a_look(self) -> bool:
        """Whether it is time to read what the steps came to."""
        return self.is_due_a_val_loss or self.training.step % self.cadence.report_every_steps == 0

    @property
    def is_due_a_checkpoint(self) -> bool:
        """Whether the cadence, or the end, asks for one at this step."""
        return self.training.step > 0 and self._is_at_save(self.training.step)

    def _is_at_save(self, step: int) -> bool:
        return step % self.cadence.save_every_steps == 0 or step == self.recipe.training.steps

    @property
    def is_over(self) -> bool:
        """Whether there is no more to do: all steps are made, or patience has run out, and what came of it is saved."""
        is_at_end = self.training.step == self.recipe.training.steps or self.is_out_of_patience
        return is_at_end and self.is_saved

    @property
    def is_out_of_patience(self) -> bool:
        """Whether so many val losses in a row were no better than the best that it is time to stop."""
        return self.so_far.has_tried(self.recipe.training.patience)

    def look_at(self, reports: Sequence[StepReport]) -> None:
        """Reads the steps since the last look, and tells MLflow. DivergedError if there is no going on."""
        for skipped in skipped_of(reports):
            self.so_far.skipped_updates += 1
            if self.ranks.is_first:
                name_skipped(skipped, self.training.order, self.dataset, self.run)
        report = reports[-1]
        loss = report.train_loss
        tokens_a_step = self.recipe.training.batch_size * self.recipe.network.block_size
        self.throughput.count(len(reports) * tokens_a_step)
        self.record.loss("train_loss", report.step, loss)
        if math.isfinite(loss):
            self.so_far.train_loss = loss
        used = self.utilisation
        points = {
            "train_loss": loss,
            "learning_rate": report.learning_rate,
            "gradient_norm": report.gradient_norm,
            "tokens": report.tokens,
            "epoch": report.epoch,
            "tokens_per_second": self.throughput.tokens_per_second,
            "skipped_updates": self.so_far.skipped_updates,
        }
        self.run.metrics(report.step, points if used is None else points | {"mfu": used})

    @property
    def utilisation(self) -> float | None:
        """MFU so far of all devices together, or None of a device that is not known."""
        name = device_name(self.training.device)
        tokens_per_second = self.throughput.tokens_per_second / self.ranks.size
        return utilisation(tokens_per_second, self.recipe.network, name)

    def evaluate(self) -> float:
        """Nats per token on a fixed, evenly spaced sample of val windows. DivergedError if that is no finite number."""
        loss: float = self.ranks.from_first(self._estimated_loss())
        if not math.isfinite(loss):
            raise DivergedError(
                f"the val loss at step {self.training.step:,} is {loss}; start anew with training.learning_rate below "
                f"{self.recipe.training.learning_rate:g}"
            )
        self.run.metrics(self.training.step, {"val_loss": loss})
        self.record.loss("val_loss", self.training.step, loss)
        self.so_far.count_val_loss(loss)
        return loss

    def _estimated_loss(self) -> float:
        network, precision = self.training.network, self.training.precision
        learnt = self.dataset.learnt("val")
        if learnt is None:
            return estimate_loss(network, self.val_tokens, precision=precision)
        return estimate_rows_loss(network, Rows(tokens=self.val_tokens, learnt=learnt), precision=precision)

    def save(self, val_loss: float | None) -> None:
        """A checkpoint of this step in the workspace and in MLflow; old ones go. Beside it, if there is a val loss, a sample.

        Without one there is haste: the training was asked to stop.
        """
        state = self.training.state()
        sample = None if val_loss is None else self.sample()
        if not self.ranks.is_first:
            return
        self.record.write()
        checkpoint = self.kept.save(state, self._facts(val_loss), self.dataset)
        self.record.saved(checkpoint)
        if sample is not None:
            self.run.text(sample, f"samples/{checkpoint.path.name}.txt")
        self.kept.drop_old()

    @property
    def is_saved(self) -> bool:
        """Whether there is a checkpoint of this step."""
        return self.training.step in self.ranks.from_first(self.kept.steps())

    def sample(self) -> str:
        """A new document, as the network would write it now."""
        request = WritingRequest(tokens=SAMPLE_TOKENS)
        return "".join(write(self.training.network, self.tokenizer, request))

    def outcome(self, seconds: float) -> TrainedModel:
        """What the training has come to, in a sitting of so many seconds."""
        trained = None
        if self.ranks.is_first:
            trained = TrainedModel(
                run_id=self.run.run_id,
                checkpoint=self.kept.best().path,
                steps=self.training.step,
                train_loss=self.so_far.train_loss,
                tokens_per_second=self.throughput.tokens_per_second,
                utilisation=self.utilisation,
                seconds=seconds,
                skipped_updates=self.so_far.skipped_updates,
                ran_out_of_patience=self.is_out_of_patience,
            )
        told: TrainedModel = self.ranks.from_first(trained)
        return told

    def _facts(self, val_loss: float | None) -> dict[str, Any]:
        return {
            "run_id": self.run.run_id,
            "recipe": recipe_to_dict(self.recipe),
            "dataset": self.dataset.reference,
            "dataset_digest": self.dataset.manifest.digest,
            "tokenizer_fingerprint": self.dataset.manifest.tokenizer_fingerprint,
            "val_loss": val_loss,
            "so_far": asdict(self.so_far),
            "throughput": {"tokens": self.throughput.tokens, "seconds": self.throughput.seconds},
            "sitting": self.record.facts,
            **_versions(),
        } | self._origin_facts()

    def _origin_facts(self) -> dict[str, Any]:
        """Of a fine-tuning its parent; and how prompts are spelt, if it or its parent learnt that."""
        prompts = self.dataset.prompts()
        known = {
            "parent": self.origin,
            "prompt_format": prompts.prompt_format if prompts else self.prompt_format,
        }
        return {name: value for name, value in known.items() if value}


def _versions() -> dict[str, str]:
    return {"torch": version("torch"), "brickroad": version("brickroad")}
