"""What a person sees of a run in the Prefect UI: cards in Markdown. Nothing decides anything by them."""

import base64
from collections.abc import Mapping
from typing import TYPE_CHECKING

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext

from storage.datasets import Dataset, previous_dataset
from storage.tokens import SPLITS
from storage.workspace import Workspace
from tasks.answers import Unanswered
from tasks.curves import Frame, Level, loss_svg
from tasks.engine import dataset_key
from tasks.overview import tracking

if TYPE_CHECKING:  # torch and MLflow come with these: a build of a data set needs neither
    from tasks.build import BuiltDataset
    from tasks.evaluation import Evaluation
    from tasks.fine_tuning import Change
    from tasks.quantization import QuantizationReport
    from tasks.registry import ModelVersion
    from tasks.training_request import TrainedModel

_MOST_NAMES = 5  # of shards


def show_dataset(built: "BuiltDataset", workspace: Workspace) -> None:
    """A card of the data set: what it holds, what came and went since the one before, what was reused, and left out."""
    manifest, dataset = built.dataset.manifest, built.dataset
    left_out = "".join(
        f"| {one.step} | {one.documents:,} | {one.text_bytes:,} |\n" for one in manifest.left_out
    )
    quarantined = "".join(f"| {shard.name} | {shard.reason} |\n" for shard in manifest.quarantined)
    _card(
        dataset_key(dataset.manifest.name, dataset.manifest.digest),
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
* `brickroad train {dataset.reference}`

## Since the one before
{_since_before(previous_dataset(workspace.datasets, dataset), dataset)}
"""
        + (
            f"\n## Left out\n| step | documents | bytes of text |\n|---|---:|---:|\n{left_out}"
            if left_out
            else ""
        )
        + (f"\n## Quarantined\n| shard | reason |\n|---|---|\n{quarantined}" if quarantined else ""),
        f"Data set {dataset.reference}",
    )
    tag_run(f"dataset:{manifest.name}", dataset.reference)


def _since_before(before: "Dataset | None", dataset: "Dataset") -> str:
    """What came and went, by shards and sizes: told from manifests alone, so a large data set takes no longer."""
    if before is None:
        return f"It is the first called `{dataset.manifest.name}`."
    old, new = ({one.name: one.sha256 for one in each.manifest.sources} for each in (before, dataset))
    tellings = {
        "came": [name for name in new if name not in old],
        "went": [name for name in old if name not in new],
        "changed": [name for name in new if name in old and new[name] != old[name]],
    }
    lines = [f"`{before.reference}`, with `brickroad dataset diff {before.reference} {dataset.reference}`:\n"]
    for split in SPLITS:
        one, two = before.facts(split), dataset.facts(split)
        lines.append(
            f"* {split}: {two.documents - one.documents:+,} documents, {two.tokens - one.tokens:+,} tokens"
        )
    for what, names in tellings.items():
        some = ", ".join(f"`{name}`" for name in names[:_MOST_NAMES])
        more = f" and {len(names) - _MOST_NAMES:,} more" if len(names) > _MOST_NAMES else ""
        lines.append(f"* shards that {what}: {len(names):,}{f' ({some}{more})' if names else ''}")
    return "\n".join(lines)


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


def tag_run(*tags: str) -> None:
    """Puts tags on the flow run that this is called in, by which its page's list finds it; outside one, nothing."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    with get_client(sync_client=True) as client:
        known = client.read_flow_run(context.flow_run.id).tags
        client.update_flow_run(context.flow_run.id, tags=sorted({*known, *tags}))


def show_training(
    trained: "TrainedModel", evaluation: "Evaluation", workspace: Workspace, mlflow_url: str
) -> None:
    """A card of a training: its loss curve between the lines that counting reaches, and where the rest is."""
    loss = "unknown" if trained.train_loss is None else f"{trained.train_loss:.4f}"
    lines = evaluation.references
    _card(
        "training",
        f"""# {evaluation.val_loss:.4f} nats per token on {evaluation.dataset}

{_curve(trained.run_id, evaluation, workspace)}

* [the run in MLflow]({mlflow_url}): curves, samples, checkpoints
* val loss **{evaluation.val_loss:.4f}** on all {evaluation.tokens:,} val tokens; unigram {lines.unigram:.4f}, bigram {lines.bigram:.4f}
* {trained.steps:,} steps, last train loss **{loss}**; updates left out: {trained.skipped_updates:,}
* {trained.tokens_per_second:,.0f} tokens/s{_used(trained)}, {trained.seconds:.0f} s
* best checkpoint: `{trained.checkpoint}`
* `brickroad generate {trained.run_id} --prompt "The "`
""",
        f"Training {trained.run_id}",
    )
    name = evaluation.dataset.partition("@")[0]
    tag_run(f"dataset:{name}", evaluation.dataset)


def _used(trained: "TrainedModel") -> str:
    return "" if trained.utilisation is None else f", MFU {trained.utilisation:.1%}"


def _curve(run_id: str, evaluation: "Evaluation", workspace: Workspace) -> str:
    """The curve as an image in Markdown, the one form of a picture that the Prefect pages show (inline SVG they drop)."""
    lines = evaluation.references
    levels = [Level(name="unigram", value=lines.unigram), Level(name="bigram", value=lines.bigram)]
    try:
        store = tracking(workspace, [])
        train, val = (store.curve(run_id, key) for key in ("train_loss", "val_loss"))
    except Unanswered as error:
        return f"*No curve: {error}.*"
    picture = loss_svg(train, val, levels, Frame(width=680, height=300, ink="#333", paper="#fff"))
    return f"![Loss by step](data:image/svg+xml;base64,{base64.b64encode(picture.encode()).decode()})"


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


def show_version(version: "ModelVersion", evaluation: "Evaluation", mlflow_url: str) -> None:
    """A card of what the gate made of a model: how it stands to the champion, and every reason, a line each."""
    reasons = "\n".join(f"* {reason}" for reason in version.reasons)
    _card(
        "gate",
        f"""# {version.name} version {version.version} is {version.alias}

{_standing(version, evaluation)}
## Why
{reasons}

## Where
* [its run in MLflow]({mlflow_url})
* `brickroad generate {version.name}/{version.version} --prompt "The "`
* by hand: `brickroad promote {version.name}/{version.version}`, and back: `brickroad promote --back`
""",
        f"{version.name} version {version.version}: {version.alias}",
    )
    name = evaluation.dataset.partition("@")[0]
    tag_run(version.alias, f"{version.name}/{version.version}", f"dataset:{name}", evaluation.dataset)


def _standing(version: "ModelVersion", evaluation: "Evaluation") -> str:
    """The model beside the champion that it had to beat, on the same documents."""
    standing = version.standing
    rows = f"| this model | **{evaluation.val_loss:.4f}** | **{evaluation.val_bits_per_byte:.4f}** |\n"
    if standing:
        rows = f"| champion before, version {standing.champion} | {standing.champion_loss:.4f} | |\n{rows}"
        rows += f"| difference | {standing.difference:+.4f} ± {standing.standard_error:.4f} | |\n"
    return f"| on {evaluation.dataset} | nats per token | bits per byte |\n|---|---:|---:|\n{rows}"


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
