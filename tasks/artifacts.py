"""What a person sees of a run in the Prefect UI: cards in Markdown. Nothing decides anything by them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.context import FlowRunContext

if TYPE_CHECKING:  # torch and MLflow come with these: a build of a data set needs neither
    from tasks.build import BuiltDataset
    from tasks.evaluation import Evaluation
    from tasks.fine_tuning import Change
    from tasks.quantization import QuantizationReport
    from tasks.registry import ModelVersion
    from tasks.training_request import TrainedModel


def show_dataset(built: "BuiltDataset") -> None:
    """A card of the data set: what it holds, where it is, what was reused, and what was left out."""
    manifest, dataset = built.dataset.manifest, built.dataset
    left_out = "".join(
        f"| {one.step} | {one.documents:,} | {one.text_bytes:,} |\n" for one in manifest.left_out
    )
    quarantined = "".join(f"| {shard.name} | {shard.reason} |\n" for shard in manifest.quarantined)
    _card(
        "dataset",
        f"""# {dataset.reference}

| | train | val |
|---|---:|---:|
| documents | {manifest.train.documents:,} | {manifest.val.documents:,} |
| tokens | {manifest.train.tokens:,} | {manifest.val.tokens:,} |
| bytes of text | {manifest.train.text_bytes:,} | {manifest.val.text_bytes:,} |

* vocabulary: **{manifest.vocabulary_size:,}** ids, {manifest.dtype}
* shards: {built.built_parts} read now, {built.reused_parts} reused
* digest: `{manifest.digest}`
* folder: `{dataset.path}`
* {built.seconds:.1f} s, peak memory {built.peak_rss_bytes / 2**20:,.0f} MiB
"""
        + (
            f"\n## Left out\n| step | documents | bytes of text |\n|---|---:|---:|\n{left_out}"
            if left_out
            else ""
        )
        + (f"\n## Quarantined\n| shard | reason |\n|---|---|\n{quarantined}" if quarantined else ""),
        f"Data set {dataset.reference}",
    )


def show_verified(found: Mapping[str, list[str]], rebuilt: bool) -> None:
    """A card of a verification: each data set, and what is wrong with it."""
    as_recorded = f"every byte as recorded{', and built again to the same bytes' if rebuilt else ''}"
    rows = "".join(
        f"| `{reference}` | {'<br>'.join(wrong) or as_recorded} |\n" for reference, wrong in found.items()
    )
    _card(
        "verification",
        f"# Verification\n\n| data set | |\n|---|---|\n{rows}",
        f"Verified {len(found)} data sets",
    )


def _card(key: str, markdown: str, description: str) -> None:
    if FlowRunContext.get() is not None:
        get_run_logger().info(description)
        create_markdown_artifact(markdown, key=key, description=description)


def show_training(trained: "TrainedModel", mlflow_url: str) -> None:
    """A card of a training: where its curves and checkpoints are."""
    loss = "unknown" if trained.train_loss is None else f"{trained.train_loss:.4f}"
    _card(
        "training",
        f"""# Run {trained.run_id}

* [the run in MLflow]({mlflow_url}): curves, samples, checkpoints
* steps: {trained.steps:,}, last train loss **{loss}** nats per token
* {trained.tokens_per_second:,.0f} tokens/s, {trained.seconds:.0f} s
* updates left out: {trained.skipped_updates:,}
* best checkpoint: `{trained.checkpoint}`
""",
        f"Training {trained.run_id}",
    )


def show_evaluation(evaluation: "Evaluation") -> None:
    """A card of an evaluation: the exact loss between the reference lines, and what the model writes."""
    lines = evaluation.references
    fence = "`" * 4
    _card(
        "evaluation",
        f"""# {evaluation.val_loss:.4f} nats per token on {evaluation.dataset}

| on the whole val split ({evaluation.tokens:,} tokens) | nats per token |
|---|---:|
| uniform: every token equally likely | {lines.uniform:.4f} |
| unigram: by frequency | {lines.unigram:.4f} |
| bigram: by the token before | {lines.bigram:.4f} |
| **this model** | **{evaluation.val_loss:.4f}** |

* perplexity {evaluation.perplexity:.3f}, **{evaluation.val_bits_per_byte:.4f} bits per byte**
* {lines.bigram - evaluation.val_loss:.3f} nats below the bigram
* the likeliest token is right {evaluation.accuracy:.1%} of the time; calibration error {evaluation.calibration_error:.2%}
* of what it writes, {evaluation.samples.repetition:.1%} repeats itself, {evaluation.samples.seen:.1%} stands in the training data
{_answers(evaluation)}* model: `{evaluation.model}`

## It writes
{fence}
{evaluation.sample}
{fence}
""",
        f"Evaluation on {evaluation.dataset}",
    )


def _answers(evaluation: "Evaluation") -> str:
    return "".join(
        f"* questions {one.name}: **{one.accuracy:.1%}** ± {one.standard_error:.1%} of {one.questions:,} right, chance {one.chance:.1%}\n"
        for one in evaluation.answers
    )


def show_version(version: "ModelVersion", mlflow_url: str) -> None:
    """A card of a registered version: its alias and why it has it."""
    _card(
        "registered-model",
        f"""# {version.name} version {version.version}: {version.alias}

{version.reason}

* [its run in MLflow]({mlflow_url})
* `brickroad generate {version.name}@{version.alias} --prompt "The "`
""",
        f"{version.name} version {version.version}",
    )


def show_changes(trainable_share: float, own: "Change", forgetting: "Change | None") -> None:
    """A card of a fine-tuning: what it learnt, and what it forgot."""
    rows = "".join(
        f"| {what}: {change.dataset} | {change.before:.4f} | **{change.after:.4f}** | {change.difference:+.4f} |\n"
        for what, change in (("its own", own), ("its parent's", forgetting))
        if change
    )
    not_here = "" if forgetting else "\nThe parent's data set is not here: what was forgotten is not known.\n"
    _card(
        "fine-tuning",
        f"""# {own.difference:+.4f} nats per token on {own.dataset}

| nats per token on the whole val split of | before | after | change |
|---|---:|---:|---:|
{rows}{not_here}
* weights that learnt: {100 * trainable_share:.2f} %
""",
        f"Fine-tuning on {own.dataset}",
    )


def show_quantization(report: "QuantizationReport") -> None:
    """A card of a quantized model: what it saves and what it costs, beside the model it was made from."""
    rows = "".join(
        f"| {one.name} | {one.bytes:,} | {one.val_loss:.4f} | {one.val_bits_per_byte:.4f} "
        f"| {one.over_bfloat16.difference:+.5f} ± {one.over_bfloat16.standard_error:.5f} "
        f"| {one.evaluation_tokens_per_second:,.0f} | {one.generation_tokens_per_second:,.0f} |\n"
        for one in report.variants
    )
    _card(
        f"quantized-{report.kind}",
        f"""# {report.kind}: {report.bytes_over_float32:.3f} of float32's bytes

On all {report.tokens:,} val tokens of `{report.dataset}`; differences over {report.windows:,} windows, ± one standard error.

| | bytes | nats per token | bits per byte | over bfloat16 | evaluates, tokens/s | writes, tokens/s |
|---|---:|---:|---:|---:|---:|---:|
{rows}
* `brickroad generate {report.checkpoint} --prompt "The "`
""",
        f"Quantized to {report.kind}",
    )
