"""OpenWebText: what its shards look like, how they are read with little memory, and what all of it would take."""

import time
import tracemalloc
from collections.abc import Iterator

from storage.shards import Shard, shard_content, uncompressed_bytes
from tasks.corpora import CATALOGUE, CorpusConfig, locate_shards
from tasks.look import sample_documents
from tasks.tour.ground import Ground
from tasks.tour.sights import Code, Facts, Printed, Sight, Table, Words


def read_through(shard: Shard) -> tuple[int, int]:
    """(bytes of content, bytes of the largest piece) of a shard, piece by piece."""
    total, largest = 0, 0
    with shard.open() as file:
        for piece in shard_content(file, shard):
            total, largest = total + len(piece), max(largest, len(piece))
    return total, largest


def walk(ground: Ground) -> Iterator[Sight]:
    """Shards, their content, and the whole."""
    whole = CATALOGUE["openwebtext"]
    yield Words(
        f"OpenWebText is {whole.documents:,} web pages that were linked to on Reddit, the open twin of what GPT-2 was trained on: "
        f"{whole.text_bytes / 1e9:.1f} GB of text in {whole.shards:,} shards. A shard is an archive of pages, compressed as .xz. The "
        "default corpus of this repository has the same layout, so what is seen here holds there."
    )
    shards = locate_shards(CorpusConfig(), ground.workspace)
    rows = [(shard.name, shard.compressed_bytes, uncompressed_bytes(shard)) for shard in shards]
    yield Words("An .xz file says at its end how large its content is, so a build knows what it will take before it reads:")
    yield Table(header=("shard", "bytes as .xz", "bytes of content"), rows=rows)
    yield Words("The course unpacks everything first. Ours goes through a shard in pieces, and never has more than one of them:")
    yield Code.of(read_through)
    yield from _measured(shards)
    dataset = ground.dataset
    origin = next(sample_documents(dataset, "val", 1, 0))
    yield Words("Each document keeps its place: shard, file within, and checksum.")
    yield Facts(values={"shard": origin.shard, "document": origin.member, "sha256": origin.sha256, "bytes": origin.text_bytes})
    yield Printed(origin.text[:300])


def _measured(shards: list[Shard]) -> Iterator[Sight]:
    tracemalloc.start()
    began = time.perf_counter()
    try:
        read = [read_through(shard) for shard in shards]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    content, seconds = sum(total for total, _ in read), time.perf_counter() - began
    whole = CATALOGUE["openwebtext"]
    yield Facts(
        values={
            "bytes read": content,
            "largest piece, bytes": max(largest for _, largest in read),
            "memory of Python at most, bytes": peak,
            "MB a second, one process": content / seconds / 1e6,
            f"so all {whole.text_bytes / 1e9:.0f} GB in hours": whole.text_bytes / (content / seconds) / 3600,
        }
    )
    yield Words(
        "A build runs such readers side by side, one a CPU, and stores the text as it goes: brickroad dataset plan FOLDER says what a "
        "corpus will take, brickroad dataset build FOLDER does it, and goes on where it was if it is stopped."
    )
