"""Evaluation as a unit of work: how well a model predicts a whole val split, where it does, and what it writes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model.evaluation import EvaluationProgress, EvaluationReport, evaluate
from model.examples import Rows, evaluate_rows
from model.references import References, reference_lines
from storage.checkpoints import network_sha256
from storage.datasets import Dataset
from storage.evaluations import read_evaluation, save_evaluation
from storage.workspace import Workspace
from tasks.at_hand import dataset_at_hand
from tasks.engine import HEALING, road_task
from tasks.loading import LoadedModel, load_model
from tasks.questions import QuestionScore, answer_questions
from tasks.samples import Samples, write_samples
from tasks.watch import Watch, pulse

_SHORTEST_CLASS_TOKENS = 64  # documents of fewer are one class; the classes above double


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentGroup:
    """Val documents that have something in common, and their loss in nats per token."""

    name: str
    documents: int
    tokens: int
    loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CertaintyBin:
    """Predictions by how sure the model was: its mean certainty, and how often it was right, both of 1."""

    tokens: int
    certainty: float
    right: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """How well a model predicts a val split. Losses in nats per token; `references` are what counting alone reaches."""

    model: str
    network_sha256: str
    dataset: str
    dataset_digest: str
    val_loss: float
    perplexity: float
    val_bits_per_byte: float
    accuracy: float  # share of tokens that were the likeliest
    calibration_error: float  # mean distance of certainty from how often it was right
    tokens: int
    by_position: list[float]  # loss by how many tokens of the window the model had seen before, less one
    by_length: list[DocumentGroup]
    by_source: list[DocumentGroup]
    calibration: list[CertaintyBin]
    references: References
    samples: Samples
    answers: list[QuestionScore]
    updates_left_out: int  # by the guard, in the model's training

    @property
    def sample(self) -> str:
        """The first text that the model wrote."""
        return self.samples.texts[0]


def evaluate_checkpoint(
    path: Path, dataset_reference: str | None, workspace: Workspace, questions: Sequence[Path] = ()
) -> Evaluation:
    """Evaluates the model of a checkpoint folder on a data set's whole val split; by default the one it was trained on.

    `questions` are files as `tasks.questions` reads them. Raises ValueError if the data set was made with another tokenizer, or if none
    is given for a model that was not trained here.
    """
    loaded = load_model(path)
    dataset = dataset_for(loaded, dataset_reference, workspace)
    answers = [answer_questions(loaded, file) for file in questions]
    report = measure(loaded, dataset, workspace)
    manifest = dataset.manifest
    with pulse("count pairs"):
        references = reference_lines(
            dataset.token_file("train").open(),
            dataset.token_file("val").open(),
            vocabulary_size=manifest.vocabulary_size,
            end_of_text=manifest.end_of_text,
            train_learnt=dataset.learnt("train"),
            val_learnt=dataset.learnt("val"),
        )
    positions = np.maximum(report.position_tokens, 1)
    return Evaluation(
        model=str(path),
        network_sha256=network_sha256(loaded.checkpoint),
        dataset=dataset.reference,
        dataset_digest=manifest.digest,
        val_loss=report.loss,
        perplexity=report.perplexity,
        val_bits_per_byte=report.bits_per_byte,
        accuracy=report.accuracy,
        calibration_error=report.calibration_error,
        tokens=report.tokens,
        by_position=(report.position_nats / positions)[report.position_tokens > 0].tolist(),
        by_length=_by_length(report),
        by_source=_by_source(report, dataset),
        calibration=_calibration(report),
        references=references,
        samples=write_samples(loaded, dataset),
        answers=answers,
        updates_left_out=loaded.checkpoint.facts.get("so_far", {}).get("skipped_updates", 0),
    )


def measure(loaded: LoadedModel, dataset: Dataset, workspace: Workspace) -> EvaluationReport:
    """The predictions of a network on a data set's whole val split, of prompts on the responses alone; those that are known by
    the bytes of both are not made again.

    Raises ValueError if the data set was made with another tokenizer, or of prompts for a model that reads more or fewer tokens.
    """
    refuse_other_tokenizer(loaded, dataset)
    refuse_other_rows(dataset, loaded.network.config.block_size)
    digest, network = dataset.manifest.digest, network_sha256(loaded.checkpoint)
    prompts, val = dataset.prompts(), dataset.manifest.val
    text_bytes = prompts.val_response_bytes if prompts else val.text_bytes
    if known := read_evaluation(workspace.evaluations, network, digest):
        return EvaluationReport(text_bytes=text_bytes, **known)
    report = None
    with Watch("evaluate", total=val.tokens, unit="tokens", artifact_key="evaluate") as watch:
        done = 0
        for progress in _predictions(loaded, dataset, text_bytes):
            watch.advance(progress.tokens_done - done)
            done, report = progress.tokens_done, progress.report
    assert report is not None
    arrays = {
        field.name: getattr(report, field.name) for field in fields(report) if field.name != "text_bytes"
    }
    save_evaluation(workspace.evaluations, network, digest, arrays)
    return report


def _predictions(loaded: LoadedModel, dataset: Dataset, text_bytes: int) -> Iterator[EvaluationProgress]:
    tokens, end_of_text = dataset.token_file("val").open(), dataset.manifest.end_of_text
    learnt = dataset.learnt("val")
    if learnt is None:
        return evaluate(loaded.network, tokens, end_of_text=end_of_text, text_bytes=text_bytes)
    rows = Rows(tokens=tokens, learnt=learnt)
    return evaluate_rows(loaded.network, rows, end_of_text=end_of_text, text_bytes=text_bytes)


def dataset_for(loaded: LoadedModel, reference: str | None, workspace: Workspace) -> Dataset:
    """The data set to measure a model on, by default the one it was trained on. Raises ValueError if there is none, or if the
    model cannot read its tokens."""
    reference = reference or loaded.checkpoint.facts["dataset"]
    if not reference:
        raise ValueError(
            f"{loaded.checkpoint.path} was not trained here; say with --dataset what to evaluate it on"
        )
    dataset = dataset_at_hand(reference, workspace)
    refuse_other_tokenizer(loaded, dataset)  # before anything takes time
    return dataset


def refuse_other_rows(dataset: Dataset, block_size: int) -> None:
    """Raises ValueError if a data set of prompts was made for networks of another block size."""
    facts = dataset.prompts()
    if facts and facts.row_tokens != block_size + 1:
        raise ValueError(
            f"{dataset.reference} was made of prompts for a model that reads {facts.row_tokens - 1:,} tokens, and this one reads "
            f"{block_size:,}; make it anew from its file: brickroad finetune MODEL --prompts FILE"
        )


def refuse_other_tokenizer(loaded: LoadedModel, dataset: Dataset) -> None:
    """Raises ValueError if the model cannot read the data set's tokens."""
    if loaded.tokenizer.fingerprint != dataset.manifest.tokenizer_fingerprint:
        raise ValueError(
            f"{dataset.reference} was encoded with another tokenizer than the model's: its ids mean other text; "
            "evaluate on a data set that was built with the model's tokenizer"
        )


def _by_length(report: EvaluationReport) -> list[DocumentGroup]:
    """Documents by their length in tokens, in classes that double."""
    classes = np.ceil(np.log2(np.maximum(report.document_tokens, 1) / _SHORTEST_CLASS_TOKENS)).astype(int)
    classes = np.maximum(classes, 0)
    names = [
        f"{_SHORTEST_CLASS_TOKENS << (number - 1):,} to {_SHORTEST_CLASS_TOKENS << number:,}"
        if number
        else f"up to {_SHORTEST_CLASS_TOKENS}"
        for number in range(int(classes.max()) + 1)
    ]
    return _groups(report, classes, names)


def _by_source(report: EvaluationReport, dataset: Dataset) -> list[DocumentGroup]:
    """Documents by the shard they came from: those of a split are in the order of the shards."""
    sources = dataset.manifest.sources
    if dataset.prompts():  # of which one without an end, since it was cut, counts to the next
        return []
    shards = np.repeat(np.arange(len(sources)), [source.val_documents for source in sources])
    return _groups(report, shards, [source.name for source in sources])


def _groups(report: EvaluationReport, groups: npt.NDArray[np.int64], names: list[str]) -> list[DocumentGroup]:
    documents = np.bincount(groups, minlength=len(names)).tolist()
    tokens = np.bincount(groups, report.document_tokens, len(names)).tolist()
    nats = np.bincount(groups, report.document_nats, len(names)).tolist()
    return [
        DocumentGroup(name=name, documents=documents[i], tokens=int(tokens[i]), loss=nats[i] / tokens[i])
        for i, name in enumerate(names)
        if documents[i]
    ]


def _calibration(report: EvaluationReport) -> list[CertaintyBin]:
    rows = zip(
        report.bin_tokens.tolist(), report.bin_certainty.tolist(), report.bin_right.tolist(), strict=True
    )
    return [
        CertaintyBin(tokens=tokens, certainty=certainty / tokens, right=right / tokens)
        for tokens, certainty, right in rows
        if tokens
    ]


evaluate_task = road_task("evaluate", **HEALING)(evaluate_checkpoint)
