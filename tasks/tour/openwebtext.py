"""OpenWebText: what its shards look like, how they are read with little memory, and what all of it would take."""

import time
import tracemalloc
from collections.abc import Iterator

from storage.shards import Shard, find_shards, shard_content, uncompressed_bytes, write_shard
from tasks.corpora import CATALOGUE, CorpusConfig, locate_shards
from tasks.look import sample_documents
from tasks.tour.ground import Ground
from tasks.tour.sights import Code, Facts, Printed, Sight, Table, Words

_LARGE_COPIES = 2_000


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
    yield Words(
        "An .xz file says at its end how large its content is, so a build knows what it will take before it reads:"
    )
    yield Table(header=("shard", "bytes as .xz", "bytes of content"), rows=rows)
    yield Words(
        "The course unpacks everything first. Ours goes through a shard in pieces, and lets go of each before it takes the next:"
    )
    yield Code.of(read_through)
    large = _large_shard(ground)
    measured = [(shard.name, *_measured(shard)) for shard in (shards[0], large)]
    yield Words(
        f"So memory does not grow with the shard. To see it, here is one of {measured[1][1] / measured[0][1]:.0f} times the content:"
    )
    header = ("shard", "bytes of content", "largest piece", "Python's memory, at most")
    yield Table(header=header, rows=measured)
    began = time.perf_counter()
    content = sum(read_through(shard)[0] for shard in shards)
    rate = content / (time.perf_counter() - began)
    yield Facts(
        values={
            "MB a second, one process": rate / 1e6,
            f"so all {whole.text_bytes / 1e9:.0f} GB in minutes": whole.text_bytes / rate / 60,
        }
    )
    yield Words(
        "A build runs such readers side by side, one a CPU, and stores the text as it goes: brickroad dataset plan FOLDER says what a "
        "corpus will take, brickroad dataset build FOLDER does it, and goes on where it was if it is stopped."
    )
    dataset = ground.dataset
    origin = next(sample_documents(dataset, "val", 1, 0))
    yield Words("Each document keeps its place: shard, file within, and checksum.")
    yield Facts(
        values={
            "shard": origin.shard,
            "document": origin.member,
            "sha256": origin.sha256,
            "bytes": origin.text_bytes,
        }
    )
    yield Printed(origin.text[:300])


def _large_shard(ground: Ground) -> Shard:
    """A shard of the corpus's own text, again and again."""
    path = ground.folder / "large-shard.xz"
    if not path.is_file():
        ground.folder.mkdir(parents=True, exist_ok=True)
        text = ground.text.encode()
        write_shard(path, ((f"{number:07d}.txt", text) for number in range(_LARGE_COPIES)))
    return find_shards(str(path))[0]


def _measured(shard: Shard) -> tuple[int, int, int]:
    """Bytes of content, of the largest piece, and of Python's memory at most, of a shard that is read through."""
    tracemalloc.start()
    try:
        return *read_through(shard), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
