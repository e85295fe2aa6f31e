"""What each quality step costs, beside reading the stored text alone: `python -m bench.quality SHARDS [--repeats 3]`.

One JSON object on stdout: CPU-seconds of one process for each step by itself, and what it drops; medians. With datasketch
installed, also its time for the same signatures as rensa makes.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from model.words import hashed_ngrams, hashed_words
from storage.documents.parts import DocumentPart, read_texts
from storage.forms import Reading
from storage.shards import find_shards
from tasks.dropped import choose_dropped
from tasks.examine import band_hashes, examine_part, prepare_examination
from tasks.ingest import IngestedShard, ingest
from tasks.quality import SHINGLE_WORDS, SIGNATURE_NUMBERS, QualityConfig
from tasks.workers import Workers

_STEPS = {
    "exact duplicates": QualityConfig(drop_exact_duplicates=True),
    "near duplicates": QualityConfig(drop_near_duplicates=0.8),
    "characters": QualityConfig(minimum_characters=200, maximum_characters=100_000),
    "letters": QualityConfig(minimum_letters=0.75),
    "languages": QualityConfig(languages=("en",)),
}


def main() -> None:
    """Measures, and prints one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shards", help="a folder of .xz shards, such as owt-medium")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Workers(1) as workers:
        found = ingest(find_shards(arguments.shards), Path(folder) / "documents", Reading(), 0.1, workers)
        parts = [one.part for one in found if isinstance(one, IngestedShard)]
        result: dict[str, Any] = {
            "documents": sum(part.documents for part in parts),
            "text_bytes": sum(part.text_bytes for part in parts),
            "read_seconds": measured(lambda: read(parts), arguments.repeats),
        }
        for name, quality in _STEPS.items():
            place = Path(folder) / "examined"
            result[f"{name}: seconds"] = measured(
                lambda quality=quality, place=place: drop(parts, quality, place, workers),  # type: ignore[misc]
                arguments.repeats,
            )
            result[f"{name}: dropped"] = drop(parts, quality, place, workers)
        result |= signatures(parts)
    print(json.dumps(result, indent=1))


def measured(function: Callable[[], Any], repeats: int) -> float:
    """The median of the CPU-seconds that calls take in this process."""
    seconds = []
    for _ in range(repeats):
        began = time.process_time()
        function()
        seconds.append(time.process_time() - began)
    return round(statistics.median(seconds), 3)


def read(parts: Sequence[DocumentPart]) -> int:
    """Reads all stored text, as every step does."""
    return sum(len(stored.texts) for part in parts for stored in read_texts(part))


def drop(parts: Sequence[DocumentPart], quality: QualityConfig, folder: Path, workers: Workers) -> int:
    """Examines all parts here, and chooses; returns how many documents are dropped."""
    examination = prepare_examination(quality, folder)
    examined = [(part, examine_part(part, number, examination)) for number, part in enumerate(parts)]
    return sum(count.documents for count in choose_dropped(examined, quality, workers).counts().values())


def signatures(parts: Sequence[DocumentPart]) -> dict[str, float]:
    """CPU-seconds for the signatures of the first part, by rensa and by datasketch."""
    texts = [text for stored in read_texts(parts[0]) for text in stored.texts]
    words, counts = hashed_words(texts)
    shingles, found = hashed_ngrams(words, counts, SHINGLE_WORDS, short_texts=True)
    result = {"rensa_first_part_seconds": measured(lambda: band_hashes(words, counts, 0.8), 3)}
    if find_spec("datasketch"):
        from datasketch import MinHash

        def sketch() -> None:
            start = 0
            for count in found.tolist():
                one = MinHash(SIGNATURE_NUMBERS, hashfunc=lambda value: value)
                one.update_batch((shingles[start : start + count] & 0xFFFFFFFF).tolist())
                start += count

        result["datasketch_first_part_seconds"] = measured(sketch, 1)
    return result


if __name__ == "__main__":
    main()
