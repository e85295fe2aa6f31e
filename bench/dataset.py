"""`python -m bench.dataset [SHARDS]`: a build's stages against the floor, `xz -dc` on all cores to nowhere; JSON to stdout.

Each repeat takes the floor and then our stages, so that a machine that drifts drifts for all; medians are reported.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from storage.shards import Shard, find_shards
from storage.workspace import Workspace
from tasks.corpora import CorpusConfig
from tasks.dataset import encode, groups_of, ingest, learn_tokenizer, publish, refuse_bad_shards, token_folder
from tasks.stdlib_docs import pack_stdlib_docs
from tasks.workers import chosen_workers


def main() -> None:
    """Measures, and prints one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "shards", nargs="?", help="folder of .xz shards; by default Python's own documentation"
    )
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        corpus = arguments.shards or str(pack_stdlib_docs(Path(temporary)))
        shards = find_shards(corpus)
        runs = [measure(corpus, shards, Path(temporary) / str(repeat)) for repeat in range(arguments.repeats)]
    medians = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    floor = medians["xz_seconds"]
    stages = [key.removesuffix("_seconds") for key in medians if key != "xz_seconds"]
    ratios = {f"{stage}_over_xz": round(medians[f"{stage}_seconds"] / floor, 2) for stage in stages}
    facts = {"shards": len(shards), "workers": chosen_workers(None), "repeats": arguments.repeats}
    print(json.dumps(facts | {key: round(value, 3) for key, value in medians.items()} | ratios, indent=1))


def measure(corpus: str, shards: list[Shard], folder: Path) -> dict[str, float]:
    """Seconds of the floor, and of each stage of one cold build in `folder`."""
    config, place, workers = CorpusConfig(corpus=corpus), Workspace.at(folder), chosen_workers(None)
    seconds = {"xz_seconds": timed(lambda: side_by_side(decompress, shards, workers))[1]}
    read = partial(ingest, folder=place.documents, invalid_utf8="refuse")
    groups = groups_of(shards, workers)
    results, seconds["ingest_seconds"] = timed(lambda: joined(side_by_side(read, groups, workers)))
    parts = [item.part for item in refuse_bad_shards(results, 0)]
    fraction = config.chosen_val_fraction
    tokenizer, seconds["learn_seconds"] = timed(
        lambda: learn_tokenizer(parts, place.tokens, val_fraction=fraction, coverage=0.9999, workers=workers)
    )
    write = partial(
        encode, tokenizer=tokenizer, folder=token_folder(place, tokenizer, fraction), val_fraction=fraction
    )
    encoded, seconds["encode_seconds"] = timed(
        lambda: joined(side_by_side(write, groups_of(parts, workers), workers))
    )
    _, seconds["publish_seconds"] = timed(lambda: publish(config, place, results, tokenizer, encoded))
    seconds["build_seconds"] = sum(value for key, value in seconds.items() if key != "xz_seconds")
    seconds["again_seconds"] = timed(lambda: side_by_side(read, groups, workers))[1]
    return seconds


def decompress(shard: Shard) -> None:
    """One shard through the xz program, to nowhere."""
    subprocess.run(["xz", "-dc", shard.path], stdout=subprocess.DEVNULL, check=True)


def side_by_side(function: Callable[[Any], Any], items: Any, workers: int) -> list[Any]:
    """The results of a function on each item, in order, `workers` at a time."""
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(function, items))


def joined(groups: list[list[Any]]) -> list[Any]:
    """The items of all groups, in order."""
    return [item for group in groups for item in group]


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """A result and how long it took, in seconds."""
    began = time.perf_counter()
    result = function()
    return result, time.perf_counter() - began


if __name__ == "__main__":
    main()
