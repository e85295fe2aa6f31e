"""What commands say at their end: what was made, where it is, and how good it is."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.panel import Panel

from flows.console import columns, duration, printable, say, size, table, words

if TYPE_CHECKING:  # heavy imports, and whoever has one of these has made them
    from flows.finetune_model import FineTunedModel
    from storage.datasets import Dataset
    from tasks.build import BuiltDataset
    from tasks.certificate import Certificate
    from tasks.dropped import DroppedDocument
    from tasks.evaluation import Evaluation
    from tasks.look import Origin
    from tasks.quantization import QuantizationReport
    from tasks.training_plan import TrainingPlan

SAMPLE_LINES = 10


def at(workspace: Path | None) -> str:
    """The option to repeat in a suggested command, if the workspace is not the default one."""
    return f" --workspace {workspace}" if workspace else ""


def show_dataset(dataset: "Dataset") -> None:
    """Sizes of a data set and where it is."""
    manifest = dataset.manifest
    table(
        f"Data set {dataset.reference}",
        {
            "documents": f"{manifest.train.documents:,} train, {manifest.val.documents:,} val",
            "tokens": f"{manifest.train.tokens:,} train, {manifest.val.tokens:,} val",
            "text": f"{size(manifest.train.text_bytes)} train, {size(manifest.val.text_bytes)} val",
            "vocabulary": f"{manifest.vocabulary_size:,} ids, {manifest.dtype}",
            "folder": str(dataset.path),
        },
    )


def show_left_out(dataset: "Dataset") -> None:
    """What quality steps left out, a line for each."""
    from tasks.quality import in_words

    for one in dataset.manifest.left_out:
        say(f"[yellow]left out[/yellow] {in_words(one.step, one.documents)} ({size(one.text_bytes)})")


def show_dropped(documents: Iterable["DroppedDocument"]) -> None:
    """Documents that were left out: where each came from, and why it went."""
    for one in documents:
        words.print(
            f"{escape(printable(one.shard))} {escape(printable(one.member))}\n"
            f"  [yellow]{one.step}[/yellow] [dim]{escape(printable(one.detail))}[/dim]",
            soft_wrap=True,
        )


def show_built(built: "BuiltDataset") -> None:
    """A data set, and what it took."""
    show_dataset(built.dataset)
    work = f"{built.built_parts} shards read now, {built.reused_parts} reused"
    table("", {"work": f"{work}; {built.seconds:.1f} s, peak memory {size(built.peak_rss_bytes)}"})
    show_left_out(built.dataset)
    for shard in built.dataset.manifest.quarantined:
        words.print(f"[yellow]left out[/yellow] {escape(shard.name)}: {escape(shard.reason)}", soft_wrap=True)


def show_origin(origin: "Origin") -> None:
    """A document, or the place of a token in one, and where it came from."""
    rows = {
        "document": f"{origin.member}, sha256 {origin.sha256[:16]}…",
        "shard": f"{origin.shard}, sha256 {origin.shard_sha256[:16]}…",
        "tokens": f"{origin.split} {origin.token_start:,} to {origin.token_start + origin.token_count - 1:,}",
        "text": size(origin.text_bytes),
    }
    if origin.token is not None:
        rows["token"] = f"number {origin.token:,} of the document"
    table("", {name: escape(printable(value)) for name, value in rows.items()})
    show_sample(origin.around or origin.text, "Around it" if origin.around else "It begins")


def show_evaluation(evaluation: "Evaluation") -> None:
    """The exact loss between the reference lines."""
    lines = evaluation.references
    below = lines.bigram - evaluation.val_loss
    verdict = (
        f"{below:.2f} nats better" if below > 0 else f"[red]{-below:.2f} nats worse[/red], train it longer"
    )
    table(
        f"Evaluation on all {evaluation.tokens:,} val tokens",
        {
            "this model": f"[bold]{evaluation.val_loss:.4f}[/bold] nats per token, {evaluation.val_bits_per_byte:.4f} bits per byte",
            "bigram": f"{lines.bigram:.4f}: this model is {verdict}",
            "unigram": f"{lines.unigram:.4f}",
            "uniform": f"{lines.uniform:.4f}",
            "certainty": f"likeliest token right {evaluation.accuracy:.1%}, calibration error {evaluation.calibration_error:.2%}",
            "it writes": f"repeats itself {evaluation.samples.repetition:.1%}, training text {evaluation.samples.seen:.1%}",
        }
        | {
            f"questions {one.name}": f"{one.accuracy:.1%} ± {one.standard_error:.1%} of {one.questions:,} right, by byte "
            f"{one.accuracy_by_byte:.1%}, chance {one.chance:.1%}"
            for one in evaluation.answers
        },
    )


def show_fine_tuned(tuned: "FineTunedModel") -> None:
    """What a fine-tuning learnt, and what it forgot."""
    plan, trained = tuned.plan, tuned.trained
    rows = {
        "parent": str(plan.parent.checkpoint.path),
        "learnt": f"{plan.trainable_parameters:,} of {plan.parameters:,} parameters, {100 * plan.trainable_share:.2f} %",
    }
    for what, change in (("its own data", tuned.own), ("its parent's", tuned.forgetting)):
        rows[what] = (
            f"{change.before:.4f} nats per token before, [bold]{change.after:.4f}[/bold] after, {change.difference:+.4f}, on "
            f"{change.dataset}"
            if change
            else "is not here: what was forgotten is not known"
        )
    if plan.cut_responses:
        rows["cut"] = (
            f"[yellow]{plan.cut_responses:,} responses[/yellow] were too long for the model, and lost their end"
        )
    rows |= {"steps": f"{trained.steps:,}", "checkpoint": str(trained.checkpoint)}
    if tuned.adapter:
        rows["adapter"] = f"{tuned.adapter.name} version {tuned.adapter.version}, {tuned.adapter.path}"
    table("Fine-tuning", rows | {"MLflow run": trained.run_id})


def show_sample(text: str, title: str = "It writes") -> None:
    """The beginning of a text in a frame."""
    lines = text.strip("\n").splitlines()[:SAMPLE_LINES]
    words.print(
        Panel(escape(printable("\n".join(lines))), title=title, title_align="left", border_style="dim")
    )


def share_or_unknown(share: float | None) -> str:
    """A share of 1 in per cent; "n/a" if it is not known."""
    return "n/a" if share is None else f"{100 * share:.1f} %"


def show_certificate(certificate: "Certificate") -> None:
    """Whether trainings that were killed came to the same, and which of them did not."""
    whole = certificate.whole
    rows = {
        "data set": certificate.dataset,
        "steps": f"{certificate.steps:,}",
        "never stopped": f"weights {whole.weights_sha256[:12]}, run {whole.run_id}",
    }
    for each in certificate.rounds:
        verdict = "the same" if each.outcome.is_same(whole) else f"DIFFERENT, run {each.outcome.run_id}"
        rows[f"killed {each.moment}"] = f"on from step {each.resumed_from:,}: {verdict}"
    rows["compared"] = "weights, optimizer, and the loss of each step"
    table("Certificate" if certificate.ok else "No certificate: resuming does not repeat this training", rows)


def show_training_plan(plan: "TrainingPlan") -> None:
    """What a training would take."""
    memory = plan.memory
    speed = f"{plan.tokens_per_second:,.0f} tokens/s, MFU {share_or_unknown(plan.utilisation)}, measured here"
    if plan.processes > 1:
        speed += f"; {plan.processes} x one, as if their talk took no time"
    cost = "unknown: give --price-per-hour" if plan.cost is None else f"{plan.cost:,.2f}"
    table(
        f"Training on {plan.dataset}",
        {
            "network": f"{plan.parameters:,} parameters, {plan.layers} layers, {plan.width} wide",
            "data": f"{plan.tokens:,} tokens in {plan.steps:,} steps, {plan.epochs:,.2f} epochs",
            "arithmetic": f"{plan.flops:.2e} FLOPs, {plan.flops_per_token:,} a token",
            "memory": f"{size(plan.memory_bytes)} of {size(plan.device_bytes)} on {plan.device}",
            "  of which": f"{size(memory.weights)} weights, {size(memory.gradients)} gradients, {size(memory.optimizer)} "
            f"optimizer, {size(memory.window_activations)} for each of {plan.windows_a_part:,} windows",
            "speed": speed,
            "time": f"{duration(plan.seconds)}, steps alone",
            "cost": cost,
        },
    )


def show_quantization(report: "QuantizationReport") -> None:
    """A quantized model beside the one it was made from."""
    columns(
        f"On all {report.tokens:,} val tokens of {report.dataset}",
        ["", "file", "loss", "over bfloat16", "bits/byte", "reads", "writes"],
        [
            [
                one.name,
                size(one.bytes),
                f"{one.val_loss:.4f}",
                f"{one.over_bfloat16.difference:+.4f}±{one.over_bfloat16.standard_error:.4f}",
                f"{one.val_bits_per_byte:.4f}",
                f"{one.evaluation_tokens_per_second:,.0f}",
                f"{one.generation_tokens_per_second:,.0f}",
            ]
            for one in report.variants
        ],
    )
    say(
        f"[dim]Nats per token, ± one standard error over {report.windows:,} windows; tokens a second read and written; bfloat16's file is counted.[/dim]"
    )
    table(
        "Model",
        {"size": f"{report.bytes_over_float32:.3f} of float32's", "folder": escape(str(report.checkpoint))},
    )
