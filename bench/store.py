"""What a store costs and saves: `python -m bench.store SHARDS [--store ADDRESS] [--repeats 3] [--workers 2]`, by turns.

One JSON object on stdout: seconds of a cold build with characters without a store (alone), with an empty one (first), and of the
same build on another machine's workspace (second); medians, ratios to `alone` within the same repeat, and the digest, which
must be one. Each repeat has a store of its own below ADDRESS, by default a folder of this machine, which is removed.
"""

import argparse
import json
import secrets
import statistics
import sys
import tempfile
import time
from pathlib import Path

from bench.ratios import ratios_over
from storage.store import Store
from storage.workspace import Workspace
from tasks.build import build
from tasks.corpora import CorpusConfig
from tasks.engines.start import EngineConfig, started_workers

_MACHINES = ("alone", "first", "second")


def main() -> None:
    """Measures, and prints one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shards", help="a folder of .xz shards, or an address")
    parser.add_argument("--store", help="such as s3://bucket/bench; nothing is removed there")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    seconds: dict[str, list[float]] = {machine: [] for machine in _MACHINES}
    digests = set[str]()
    for repeat in range(arguments.repeats):
        print(f"repeat {repeat + 1} of {arguments.repeats}", file=sys.stderr)
        with tempfile.TemporaryDirectory() as folder:
            store = Store.at(f"{arguments.store or folder}/{secrets.token_hex(4)}")
            if not arguments.store:
                Path(store.address).mkdir()
            for machine in _MACHINES:
                own = None if machine == "alone" else store
                took, digest = measure(arguments.shards, Path(folder) / machine, own, arguments.workers)
                seconds[machine].append(took)
                digests.add(digest)
    if len(digests) != 1:
        raise SystemExit(f"there are different data sets: {', '.join(sorted(digests))}")
    result: dict[str, object] = {"digest": digests.pop(), "workers": arguments.workers}
    for machine in _MACHINES:
        result[machine] = {
            "seconds": round(statistics.median(seconds[machine]), 2),
            "over_alone": ratios_over(seconds["alone"], seconds[machine]),
        }
    print(json.dumps(result, indent=1))


def measure(shards: str, workspace: Path, store: Store | None, workers: int) -> tuple[float, str]:
    """Seconds to build once the workers are there, and the digest."""
    place = Workspace.at(workspace)
    with started_workers(EngineConfig(), place.root, workers, None, store) as running:
        began = time.perf_counter()
        dataset = build(CorpusConfig(corpus=shards, name="bench"), place, running, store)
        return time.perf_counter() - began, dataset.manifest.digest


if __name__ == "__main__":
    main()
