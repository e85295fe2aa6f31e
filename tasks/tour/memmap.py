"""Memory maps: tokens on disk as if they were in memory, windows from anywhere in them, and the way back to the text."""

import time
from collections.abc import Callable, Iterator

import numpy as np
import torch

from model.batches import gather
from storage.datasets import verify_dataset
from tasks.look import trace_token
from tasks.tour.ground import Ground
from tasks.tour.sights import Code, Facts, Printed, Sight, Words


def walk(ground: Ground) -> Iterator[Sight]:
    """A file as an array, a token's origin, and the same bytes again."""
    dataset = ground.dataset
    file = dataset.token_file("train")
    yield Words(
        f"The data set is its tokens one after another, {file.itemsize} bytes each, and nothing else: nanoGPT reads the file as it is. "
        "numpy.memmap makes an array of it without reading it; what is asked for is fetched from the disk, and the rest stays there."
    )
    yield Printed(
        f"{file.path}\n{file.path.stat().st_size:,} bytes = {file.tokens:,} tokens x {file.itemsize}"
    )
    tokens = file.open()
    place = len(tokens) // 2
    yield Printed(
        f"tokens[{place:,} : +8] = {tokens[place : place + 8].tolist()} = {ground.tokenizer.decode(tokens[place : place + 8])!r}"
    )
    yield Words("A batch is windows from anywhere in the file, gathered at once:")
    yield Code.of(gather)
    yield Facts(title="Time for a batch of 32 windows of 64 tokens", values=_times(ground))
    origin = trace_token(dataset, "train", place)
    yield Words(f"And back: token {place:,} came from")
    yield Facts(values={"shard": origin.shard, "document": origin.member, "text around": repr(origin.around)})
    yield from _again(ground)


def _times(ground: Ground) -> dict[str, float]:
    """Microseconds, each the median of several."""
    file, size = ground.dataset.token_file("train"), ground.tokenizer.vocabulary_size
    starts = np.linspace(0, file.tokens - 65, 32).astype(np.int64)

    def mapped() -> None:
        gather(file.open(), starts, block_size=64, vocabulary_size=size, device=torch.device("cpu"))

    def all_read() -> None:
        tokens = np.fromfile(file.path, dtype=file.dtype)
        gather(tokens, starts, block_size=64, vocabulary_size=size, device=torch.device("cpu"))

    return {
        "mapped, microseconds": _median_microseconds(mapped),
        "all read first": _median_microseconds(all_read),
    }


def _median_microseconds(work: Callable[[], None]) -> float:
    spent = []
    for _ in range(15):
        began = time.perf_counter()
        work()
        spent.append(1e6 * (time.perf_counter() - began))
    return float(np.median(spent))


def _again(ground: Ground) -> Iterator[Sight]:
    yield Words(
        "The name of a data set is a digest of its bytes. Asked for again, it is found; if anything about the input changed, only that is "
        "read again; and every byte can be checked:"
    )
    began = time.perf_counter()
    again = ground.built(ground.config)
    seconds = time.perf_counter() - began
    checked = list(verify_dataset(again))
    yield Facts(
        values={
            "digest": again.manifest.digest[:16],
            "asked for again, the same": "yes" if again == ground.dataset else "no",
            "seconds that took": seconds,
            "bytes checked": sum(size for _, size, _ in checked),
            "found wrong": sum(len(wrong) for _, _, wrong in checked),
        }
    )
