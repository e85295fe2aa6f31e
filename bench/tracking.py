"""What telling MLflow costs a training: `python -m bench.tracking DATASET [--workspace DIR] [--preset pocket] [--steps 600]`.

One JSON object on stdout. Trains three times: with a store that answers, one that takes connections and never answers, and one
that is down. Of each: the seconds that the loop spends in telling (points, texts, checkpoints), and in the longest call; the CPU
seconds of the threads that ship and that watch the machine; and, as the baseline in the same run, the seconds that shipping took,
which a loop that does it itself would have waited.
"""

import argparse
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from storage.workspace import Workspace
from tasks.tracking import TrainingLog
from tasks.tracking.machine import MachineWatch
from tasks.tracking.store import MlflowClient
from tasks.tracking.telling import Teller
from tasks.training import train
from tasks.training_request import Cadence, TrainingRequest

_CHECKPOINTS = 2  # enough steps lie between them to be measured
_TOLD = ("metrics", "text", "checkpoint", "forget_checkpoint", "flush")


def main() -> None:
    """Measures, and prints one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset")
    parser.add_argument("--workspace", default=None)
    parser.add_argument("--preset", default="pocket")
    parser.add_argument("--steps", type=int, default=600)
    arguments = parser.parse_args()
    request = TrainingRequest(
        dataset=arguments.dataset,
        preset=arguments.preset,
        settings={"training.steps": str(arguments.steps)},
        cadence=Cadence(save_every_steps=arguments.steps // _CHECKPOINTS),
    )
    workspace = Workspace.at(arguments.workspace and Path(arguments.workspace))
    with socket.create_server(("127.0.0.1", 0), backlog=128) as hanging, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and nobody listens
        stores = {
            "answers": None,
            "hangs": f"http://127.0.0.1:{hanging.getsockname()[1]}",
            "is down": f"http://127.0.0.1:{closed.getsockname()[1]}",
        }
        figures = {
            name: _measured(_another(request, seed), workspace, url)
            for seed, (name, url) in enumerate(stores.items(), 1)
        }
    print(json.dumps({"preset": arguments.preset, "steps": arguments.steps, "store": figures}, indent=1))


def _another(request: TrainingRequest, seed: int) -> TrainingRequest:
    """The same with another seed: else a training whose end the store has not heard would be gone on with."""
    return replace(request, settings={**(request.settings or {}), "training.seed": str(seed)})


def _measured(request: TrainingRequest, workspace: Workspace, url: str | None) -> dict[str, float]:
    """What telling costs a training whose run begins in the workspace's store, and is then told to the store at this address."""
    with ExitStack() as measuring:
        if url:
            measuring.enter_context(_told_to(url))
        telling = [measuring.enter_context(spent_in(TrainingLog, name, time.monotonic)) for name in _TOLD]
        shipping = measuring.enter_context(spent_in(Teller, "tell", time.monotonic))
        shipping_cpu = measuring.enter_context(spent_in(Teller, "tell", time.thread_time))
        watching_cpu = measuring.enter_context(spent_in(MachineWatch, "monitor", time.thread_time))
        trained = train(request, workspace)
    assert trained is not None
    told, cpu = sum(map(sum, telling)), sum(shipping_cpu) + sum(watching_cpu)
    return {
        "seconds_of_all": round(trained.seconds, 2),
        "telling_seconds": round(told, 4),
        "longest_call_milliseconds": round(max(max(calls, default=0.0) for calls in telling) * 1000, 2),
        "shipping_and_watching_cpu_seconds": round(cpu, 3),
        "share": round((told + cpu) / trained.seconds, 4),
        "shipping_seconds": round(sum(shipping), 3),
    }


@contextmanager
def _told_to(url: str) -> Iterator[None]:
    """Inside, what a training tells goes to the store at this address."""
    original = Teller.__init__

    def init(self: Teller, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self._client = MlflowClient(tracking_uri=url)

    Teller.__init__ = init  # type: ignore[method-assign]
    try:
        yield
    finally:
        Teller.__init__ = original  # type: ignore[method-assign]


@contextmanager
def spent_in(owner: type, name: str, clock: Callable[[], float]) -> Iterator[list[float]]:
    """Inside, the seconds of a clock that each call of a method takes are noted."""
    original, spent = getattr(owner, name), list[float]()

    def timed(*args: Any, **kwargs: Any) -> Any:
        began = clock()
        try:
            return original(*args, **kwargs)
        finally:
            spent.append(clock() - began)

    setattr(owner, name, timed)
    try:
        yield spent
    finally:
        setattr(owner, name, original)


if __name__ == "__main__":
    main()
