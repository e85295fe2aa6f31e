"""What an evaluation leaves in MLflow: the exact numbers, the reference lines, the picture of the curves, a sample."""

from storage.checkpoints import read_checkpoint
from storage.run_records import ExactLoss
from storage.workspace import Workspace
from tasks.engine import dataset_key, prefect_ui, road_task
from tasks.evaluation import Evaluation
from tasks.evaluation_report import evaluation_page
from tasks.kept_record import note_exact_loss
from tasks.pictures import loss_curves
from tasks.registry import FoundModel
from tasks.tracking import RunLog, Tracker


def log_evaluation(evaluation: Evaluation, model: FoundModel, workspace: Workspace) -> None:
    """Logs an evaluation to the model's run; one on another data set than its own stands under that one's name."""
    assert model.run_id is not None, "only a model with a run can be logged to"
    run = RunLog(Tracker(workspace), model.run_id)
    numbers = {
        "val_loss_exact": evaluation.val_loss,
        "val_bits_per_byte": evaluation.val_bits_per_byte,
        "perplexity": evaluation.perplexity,
        "val_accuracy": evaluation.accuracy,
        "val_calibration_error": evaluation.calibration_error,
        "sample_repetition": evaluation.samples.repetition,
        "sample_seen_in_training": evaluation.samples.seen,
        "reference_uniform": evaluation.references.uniform,
        "reference_unigram": evaluation.references.unigram,
        "reference_bigram": evaluation.references.bigram,
    }
    for answers in evaluation.answers:
        numbers[f"questions_{answers.name}_accuracy"] = answers.accuracy
        numbers[f"questions_{answers.name}_accuracy_by_byte"] = answers.accuracy_by_byte
    folder = f"evaluation/{evaluation.dataset.replace('@', '-')}"
    run.text(evaluation_page(evaluation), f"{folder}/report.html")
    run.table(
        {
            "source": [group.name for group in evaluation.by_source],
            "documents": [group.documents for group in evaluation.by_source],
            "tokens": [group.tokens for group in evaluation.by_source],
            "nats_per_token": [group.loss for group in evaluation.by_source],
        },
        f"{folder}/by-source.json",
    )
    if not run.was_trained_on(evaluation.dataset_digest):
        prefix = evaluation.dataset.replace("@", "-")
        run.summary({f"{prefix}/{key}": value for key, value in numbers.items()})
        return
    run.summary(numbers)
    folder_of_run, step = workspace.checkpoints / model.run_id, read_checkpoint(model.path).step
    note_exact_loss(folder_of_run, run, ExactLoss(step=step, val_loss=evaluation.val_loss))
    run.describe(_description(evaluation, run.tag("prefect.flow_run_url")))
    run.text(evaluation.sample, "samples/best.txt")
    picture = loss_curves(
        f"{evaluation.dataset}: {evaluation.val_loss:.3f} nats per token, "
        f"{evaluation.val_bits_per_byte:.3f} bits per byte",
        run.history("train_loss"),
        run.history("val_loss"),
        evaluation.references,
        evaluation.val_loss,
    )
    run.figure(picture, "loss-curves.png")


def _description(evaluation: Evaluation, prefect_url: str | None) -> str:
    """What the run's page says above its numbers, in Markdown."""
    name = evaluation.dataset.partition("@")[0]
    card = f"{prefect_ui()}/artifacts/key/{dataset_key(name, evaluation.dataset_digest)}"
    lines = [
        f"**{evaluation.val_loss:.4f} nats per token, {evaluation.val_bits_per_byte:.4f} bits per byte** on all "
        f"{evaluation.tokens:,} val tokens of `{evaluation.dataset}`; "
        f"the bigram reaches {evaluation.references.bigram:.4f}.",
        f"Orchestrated by [this Prefect run]({prefect_url}), on [this data set]({card})."
        if prefect_url
        else "",
        "Pictures, samples and the page of the evaluation are among the artifacts.",
    ]
    return "\n\n".join(filter(None, lines))


log_evaluation_task = road_task("log evaluation")(log_evaluation)
