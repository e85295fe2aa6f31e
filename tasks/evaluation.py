"""Evaluation as a unit of work: the exact loss of a model on the whole val split, and the reference lines beside it."""

from dataclasses import dataclass
from pathlib import Path

from model.evaluation import evaluate
from model.references import References, reference_lines
from storage.datasets import Dataset, find_dataset
from storage.workspace import Workspace
from tasks.engine import road_task
from tasks.loading import LoadedModel, load_model
from tasks.watch import Watch, pulse


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """How well a model predicts a val split. Losses in nats per token; `references` are what counting alone reaches."""

    model: str
    dataset: str
    dataset_digest: str
    val_loss: float
    perplexity: float
    val_bits_per_byte: float
    tokens: int
    references: References
    sample: str


def evaluate_checkpoint(path: Path, dataset_reference: str | None, workspace: Workspace) -> Evaluation:
    """Evaluates the model of a checkpoint folder on a data set's whole val split; by default the one it was trained on.

    Raises ValueError if the data set was made with another tokenizer.
    """
    loaded = load_model(path)
    dataset = find_dataset(workspace.datasets, dataset_reference or loaded.checkpoint.facts["dataset"])
    refuse_other_tokenizer(loaded, dataset)
    manifest, tokens = dataset.manifest, dataset.token_file("val").open()
    report = None
    with Watch("evaluate", total=len(tokens), unit="tokens", artifact_key="evaluate") as watch:
        done = 0
        for progress in evaluate(
            loaded.network,
            tokens,
            end_of_text=manifest.end_of_text,
            text_bytes=manifest.val.text_bytes,
        ):
            watch.advance(progress.tokens_done - done)
            done, report = progress.tokens_done, progress.report
    assert report is not None
    with pulse("count pairs"):
        references = reference_lines(
            dataset.token_file("train").open(),
            tokens,
            vocabulary_size=manifest.vocabulary_size,
            end_of_text=manifest.end_of_text,
        )
    return Evaluation(
        model=str(path),
        dataset=dataset.reference,
        dataset_digest=manifest.digest,
        val_loss=report.loss,
        perplexity=report.perplexity,
        val_bits_per_byte=report.bits_per_byte,
        tokens=report.tokens,
        references=references,
        sample="".join(loaded.write("", tokens=400)),
    )


def refuse_other_tokenizer(loaded: LoadedModel, dataset: Dataset) -> None:
    """Raises ValueError if the model cannot read the data set's tokens."""
    if loaded.tokenizer.fingerprint != dataset.manifest.tokenizer_fingerprint:
        raise ValueError(
            f"{dataset.reference} was encoded with another tokenizer than the model's: its ids mean other text; "
            "evaluate on a data set that was built with the model's tokenizer"
        )


evaluate_task = road_task("evaluate", tags=["gpu"])(evaluate_checkpoint)
