"""A build on a running cluster, in a process of its own: `builds_on_a_cluster.py ENGINE ADDRESS CORPUS WORKSPACE`.

It says the process of some worker, waits for a line, builds, says when a call lies at a Dask worker that does not answer, or
when all workers of Ray are at a call, and at last the digest and how many calls it made again itself.
"""

import os
import sys
import threading
import time
from pathlib import Path

from storage.workspace import Workspace
from tasks.build import build
from tasks.corpora import CorpusConfig
from tasks.engines.start import EngineConfig, started_workers


def say_when_a_call_is_held(address: str) -> None:
    """A call that is longer there than any takes here, while all others of its kind have gone on."""
    from distributed import Client

    with Client(address, set_as_default=False) as client:
        held, since = set[str](), time.monotonic()
        while time.monotonic() - since < 3:
            time.sleep(0.1)
            keys = {str(key) for keys in client.processing().values() for key in keys}
            if not keys or keys != held:
                held, since = keys, time.monotonic()
    print("held", flush=True)


def main() -> None:
    engine, address, corpus, folder = sys.argv[1:]
    place = Workspace.at(Path(folder))
    config = EngineConfig(engine=engine, address=address)  # type: ignore[arg-type]
    with started_workers(config, place.root, None, None) as workers:
        print(workers.run(os.getpid), flush=True)
        sys.stdin.readline()
        if engine == "dask":
            threading.Thread(target=say_when_a_call_is_held, args=[address], daemon=True).start()
        else:
            threading.Timer(2, print, ["at work"], {"flush": True}).start()
            list(workers.map(time.sleep, [(6.0,)] * workers.count))
        dataset = build(CorpusConfig(corpus=corpus, val_fraction=0.1), place, workers)
    print(dataset.manifest.digest, len(workers.deaths), flush=True)


main()
