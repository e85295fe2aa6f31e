"""What a person sees of a run in the Prefect UI: cards in Markdown. Nothing decides anything by them."""

from prefect.artifacts import create_markdown_artifact
from prefect.context import FlowRunContext

from tasks.dataset import BuiltDataset


def show_dataset(built: BuiltDataset) -> None:
    """A card of the data set: what it holds, where it is, what was reused, and what was left out."""
    manifest, dataset = built.dataset.manifest, built.dataset
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
        + (f"\n## Quarantined\n| shard | reason |\n|---|---|\n{quarantined}" if quarantined else ""),
        f"Data set {dataset.reference}",
    )


def _card(key: str, markdown: str, description: str) -> None:
    if FlowRunContext.get() is not None:
        create_markdown_artifact(markdown, key=key, description=description)
