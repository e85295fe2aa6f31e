"""What an engine costs: `python -m bench.engines SHARDS [--repeats 3] [--workers 2]`: threads, Dask and Ray, by turns.

One JSON object on stdout: for each engine the seconds that it took to start, and those of a cold build with characters from its
first to its last step; medians, ratios to threads within the same repeat, and the digest, which must be one.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time

from bench.ratios import ratios_over
from storage.workspace import Workspace
from tasks.build import build
from tasks.corpora import CorpusConfig
from tasks.engines.start import Engine, EngineConfig, started_workers

_ENGINES: tuple[Engine, ...] = ("threads", "dask", "ray")


def main() -> None:
    """Measures, and prints one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shards", help="a folder of .xz shards")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    started: dict[str, list[float]] = {engine: [] for engine in _ENGINES}
    built: dict[str, list[float]] = {engine: [] for engine in _ENGINES}
    digests = set[str]()
    for repeat in range(arguments.repeats):
        print(f"repeat {repeat + 1} of {arguments.repeats}", file=sys.stderr)
        for engine in _ENGINES:
            start, seconds, digest = measure(engine, arguments.shards, arguments.workers)
            started[engine].append(start)
            built[engine].append(seconds)
            digests.add(digest)
    if len(digests) != 1:
        raise SystemExit(f"the engines made different data sets: {', '.join(sorted(digests))}")
    result: dict[str, object] = {"digest": digests.pop(), "workers": arguments.workers}
    for engine in _ENGINES:
        result[engine] = {
            "start_seconds": round(statistics.median(started[engine]), 2),
            "build_seconds": round(statistics.median(built[engine]), 2),
            "over_threads": ratios_over(built["threads"], built[engine]),
        }
    print(json.dumps(result, indent=1))


def measure(engine: Engine, shards: str, workers: int) -> tuple[float, float, str]:
    """Seconds to start, seconds to build, and the digest."""
    with tempfile.TemporaryDirectory() as folder:
        place, began = Workspace.at(folder), time.perf_counter()
        with started_workers(EngineConfig(engine=engine), place.root, workers, None) as running:
            ready = time.perf_counter()
            dataset = build(CorpusConfig(corpus=shards, name="bench"), place, running)
            ended = time.perf_counter()
    return ready - began, ended - ready, dataset.manifest.digest


if __name__ == "__main__":
    main()
