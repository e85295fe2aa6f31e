"""A build on 1 to 1,000 workers, simulated with what its pieces cost here: `python -m bench.scaling [--measure SHARDS]`.

`--measure` builds half of a folder of shards, measures calls on each engine, then builds all of it on one and
two workers and tells how far the simulation was off; one JSON object, which is kept as docs/scaling-constants.json. Without it the
simulation is run with those constants, and its table is printed for docs/scaling.md. What cannot be measured on one machine is in
`Cluster`: the rates of storage, deaths and stragglers. It takes seconds, and is the same each time.

A row's bottleneck is what would save most if it cost nothing; "workers" if nothing would save a twentieth.
"""

import argparse
import heapq
import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.scaling_constants import TOKENIZERS, measured, real_seconds
from storage.blocks import BLOCK_BYTES
from storage.datasets import Dataset
from storage.shards import find_shards
from tasks.dataset import groups_of
from tasks.encode import PARTS_AT_ONCE
from tasks.engines.start import Engine
from tasks.ingest import STORED_TOGETHER  # OpenWebText's shards are too small for its other limit

_CONSTANTS = Path(__file__).parent.parent / "docs" / "scaling-constants.json"
_WORKERS = (1, 2, 8, 32, 100, 200, 1000)
_PIECES = 20_000  # of the items of a stage at most
_EVENTS = 10_000  # calls of a stage are simulated in about so many pieces at most
_SERIAL = ("locate_shards", "count_parts", "learn_tokenizer", "earlier_tokens", "publish")
_VALIDATED: tuple[tuple[Engine, int], ...] = (("threads", 1), ("threads", 2), ("dask", 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A corpus, by its sizes."""

    name: str
    megabytes: float
    shards: int
    documents: int


OPENWEBTEXT = Text(name="OpenWebText", megabytes=39_769, shards=20_610, documents=8_013_769)
TEN_TERABYTES = Text(
    name="10 TB",
    megabytes=1e7,
    shards=round(20_610 * 1e7 / 39_769),
    documents=round(8_013_769 * 1e7 / 39_769),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """What is assumed of a cluster, as it was not measured here."""

    storage_megabytes_per_second: float = (
        5_000.0  # of all hosts together: a good NFS server or a small Lustre
    )
    link_megabytes_per_second: float = 400.0  # a worker's share of its host's 25 Gbit/s
    hours_between_deaths: float = 720.0  # of one worker: once a month
    seconds_to_replace: float = 30.0
    one_in_is_slow: float = 100.0
    slow_times: float = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """What is simulated: constants as measured, and what is made free to see what it costs."""

    text: Text
    workers: int
    tokenizer: str
    engine: str
    constants: dict[str, Any]
    cluster: Cluster = field(default_factory=Cluster)
    has_builder: bool = True

    @property
    def rates(self) -> dict[str, Any]:
        """Of the tokenizer."""
        return self.constants[self.tokenizer]  # type: ignore[no-any-return]

    def builder(self, step: str) -> tuple[float, float]:
        """Seconds of the builder's own: fixed, and for all documents."""
        cost = self.rates["builder"][step]
        growing = cost["seconds_per_million_documents"] * self.text.documents / 1e6
        growing += cost["seconds_per_million_shards"] * self.text.shards / 1e6
        return (cost["seconds"], growing) if self.has_builder else (0.0, 0.0)


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What a simulated build came to."""

    seconds: float = 0.0
    worker_seconds: float = 0.0  # that are needed at least, on workers that never die and are never slow
    calls_made_again: float = 0.0  # to be expected


def simulate(build: Build, seed: int = 1) -> Outcome:
    """A build from its first step to its name."""
    rng, outcome = np.random.default_rng(seed), Outcome()
    outcome.seconds = sum(sum(build.builder(step)) for step in _SERIAL)
    text, rates = build.text, build.rates
    read = text.megabytes / build.constants["text_over_xz"]
    stored = read * build.constants["stored_over_xz"]
    ingest_seconds = text.megabytes / rates["ingest_megabytes_per_second"]
    fixed, growing = build.builder("ingest")
    ends = _stage(
        build, rng, outcome, text.shards, STORED_TOGETHER, ingest_seconds, read + stored, fixed + growing
    )
    outcome.seconds += max(ends)
    tokens = text.megabytes * rates["token_bytes_per_text_byte"]
    encode_seconds = text.megabytes / rates["encode_megabytes_per_second"]
    if build.tokenizer == "char":
        items, at_once, moved = math.ceil(tokens * 1e6 / BLOCK_BYTES), 1, stored + tokens
    else:  # written as parts, then read and written once more as blocks
        items, at_once, moved = text.shards, PARTS_AT_ONCE, stored + 3 * tokens
        encode_seconds += tokens / rates["write_megabytes_per_second"]
    ends = _stage(build, rng, outcome, items, at_once, encode_seconds, moved, 0.0)
    fixed, growing = build.builder("join")
    joined = 0.0
    shares = [size / items for size in _groups(build, items)]
    for end, share in zip(ends, shares, strict=True):  # in corpus order, whoever ends first
        joined = max(joined, end) + growing * share
    outcome.seconds += joined + fixed
    return outcome


def _groups(build: Build, items: int) -> Iterator[int]:
    """How many items are in each group that the builder makes."""
    size = math.ceil(items / _PIECES)  # items by the thousand, where there are millions
    pieces = (range(start, min(items, start + size)) for start in range(0, items, size))
    return (sum(map(len, group)) for group in groups_of(pieces, items, build.workers, len))


def _stage(
    build: Build,
    rng: np.random.Generator,
    outcome: Outcome,
    items: int,
    at_once: int,
    worker_seconds: float,
    megabytes: float,
    builder_seconds: float,
) -> list[float]:
    """When each group has ended: every thread takes the next group, and makes its calls one after another."""
    cluster, cost = build.cluster, build.constants["engines"][build.engine]
    groups = list(_groups(build, items))
    active = min(build.workers, len(groups))
    storage = max(1 / cluster.link_megabytes_per_second, active / cluster.storage_megabytes_per_second)
    if build.engine == "threads":  # on this machine's disk, which is in the measured rates
        storage = 0.0
    threads = [(0.0, number) for number in range(active)]  # a heap: (is free at, its number)
    left: dict[
        int, list[float]
    ] = {}  # of the group that a thread is at: its number, pieces left, items a piece
    ends, upcoming, builder_free = [0.0] * len(groups), 0, 0.0
    outcome.worker_seconds += worker_seconds
    while threads:
        now, thread = heapq.heappop(threads)
        if thread not in left:
            if upcoming == len(groups):
                continue
            pieces = min(1 + _EVENTS // len(groups), math.ceil(groups[upcoming] / at_once))
            left[thread] = [upcoming, pieces, groups[upcoming] / pieces]
            upcoming += 1
            if build.has_builder:
                builder_free = max(builder_free, now) + build.constants["task_run_seconds"]
        group, pieces_left, size = left[thread]
        calls = max(1.0, size / at_once)
        share = size / items
        own = cost["builder_seconds"] * calls if build.has_builder else 0.0
        builder_free = max(builder_free, now) + builder_seconds * share + own
        slow = rng.binomial(math.ceil(calls), 1 / cluster.one_in_is_slow) * (cluster.slow_times - 1) / calls
        took = max(worker_seconds * share * (1 + slow), megabytes * share * storage)  # the system reads ahead
        took += max(0.0, cost["call_seconds"] - cost["builder_seconds"]) * calls
        deaths = int(rng.poisson(took / 3600 / cluster.hours_between_deaths))
        outcome.calls_made_again += took / 3600 / cluster.hours_between_deaths
        took += deaths * (cluster.seconds_to_replace + took / calls / 2)
        end = builder_free + took
        left[thread][1] -= 1
        if pieces_left == 1:
            ends[int(group)] = end
            del left[thread]
        heapq.heappush(threads, (end, thread))
    return ends


def bottleneck(build: Build, outcome: Outcome) -> str:
    """What would save most if it cost nothing."""
    cluster = build.cluster
    fast = replace(cluster, storage_megabytes_per_second=math.inf, link_megabytes_per_second=math.inf)
    calm = replace(cluster, hours_between_deaths=math.inf, one_in_is_slow=math.inf)
    without = {
        "the builder": replace(build, has_builder=False),
        "storage": replace(build, cluster=fast),
        "deaths and stragglers": replace(build, cluster=calm),
    }
    found = {name: simulate(other).seconds for name, other in without.items()}
    best = min(found, key=lambda name: found[name])
    return best if found[best] < 0.95 * outcome.seconds else "workers"


def table(constants: dict[str, Any], tokenizer: str, cluster: Cluster) -> Iterator[str]:
    """Rows in Markdown, of builds on Dask."""
    yield "| text | workers | hours | efficiency | bottleneck | calls made again |"
    yield "|---|---|---|---|---|---|"
    for text, workers in itertools.product((OPENWEBTEXT, TEN_TERABYTES), _WORKERS):
        build = Build(
            text=text,
            workers=workers,
            tokenizer=tokenizer,
            engine="dask",
            constants=constants,
            cluster=cluster,
        )
        outcome = simulate(build)
        efficiency = outcome.worker_seconds / workers / outcome.seconds
        hours = f"{outcome.seconds / 3600:,.3g}"
        yield (
            f"| {text.name} | {workers:,} | {hours} | {efficiency:.0%} | {bottleneck(build, outcome)} | "
            f"{outcome.calls_made_again:.2f} |"
        )


def validated(constants: dict[str, Any], shards: str, repeats: int) -> list[dict[str, Any]]:
    """Real builds of all shards beside simulated ones, where nothing dies."""
    rows = []
    calm = Cluster(
        storage_megabytes_per_second=math.inf,
        link_megabytes_per_second=math.inf,
        hours_between_deaths=math.inf,
        one_in_is_slow=math.inf,
    )
    for tokenizer in TOKENIZERS:
        for engine, workers in _VALIDATED:
            found = [real_seconds(shards, tokenizer, engine, workers) for _ in range(repeats)]
            build = Build(
                text=_text_of(found[0][1], shards),
                workers=workers,
                tokenizer=tokenizer,
                engine=engine,
                constants=constants,
                cluster=calm,
            )
            real, simulated = min(seconds for seconds, _ in found), simulate(build).seconds
            rows.append(
                {
                    "tokenizer": tokenizer,
                    "engine": engine,
                    "workers": workers,
                    "real_seconds": round(real, 2),
                    "simulated_seconds": round(simulated, 2),
                    "error": round(simulated / real - 1, 3),
                }
            )
    return rows


def _text_of(dataset: Dataset, shards: str) -> Text:
    whole = dataset.manifest.train + dataset.manifest.val
    return Text(
        name=shards,
        megabytes=whole.text_bytes / 1e6,
        shards=len(find_shards(shards)),
        documents=whole.documents,
    )


def main() -> None:
    """Measures, or simulates."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--measure", metavar="SHARDS", help="a folder of .xz shards, the more the better")
    parser.add_argument("--repeats", type=int, default=2, help="of each build; the fastest counts")
    parser.add_argument(
        "--storage", type=float, default=5_000.0, help="MB/s of what all hosts share, together"
    )
    arguments = parser.parse_args()
    if arguments.measure:
        constants = measured(arguments.measure, arguments.repeats)
        constants["validation"] = validated(constants, arguments.measure, arguments.repeats)
        print(json.dumps(constants, indent=1))
        return
    constants = json.loads(_CONSTANTS.read_text(encoding="utf-8"))
    cluster = Cluster(storage_megabytes_per_second=arguments.storage)
    for tokenizer in TOKENIZERS:
        print(f"\n{tokenizer}:\n")
        print(*table(constants, tokenizer, cluster), sep="\n")


if __name__ == "__main__":
    main()
