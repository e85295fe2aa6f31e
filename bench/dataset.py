"""What a data set costs, against the floor that xz sets: `python -m bench.dataset SHARDS [--repeats 3]`.

One JSON object on stdout: for each repeat, in this order, `xz -dc` of all shards on all cores to nowhere, a cold build with
characters, a cold build with GPT-2's tokenizer, the same corpus with the other tokenizer from the stored text, and once
more with nothing to do. Medians, and ratios within the same repeat, since machines change from minute to minute.

Engine time: plain functions, the workers' start included, no orchestrator. `--rates` also measures tokens a second on one
core against tiktoken and tokenizers, on the same documents, and of characters by numpy and by the compiled loops.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from model import compiled
from model.texts import Texts
from model.tokenizer import CharacterCounts, CharTokenizer
from storage.forms import Reading, read_batches
from storage.shards import Shard, find_shards
from storage.workspace import Workspace
from tasks.build import build
from tasks.corpora import CorpusConfig
from tasks.memory import MemoryWatch
from tasks.tokenizers import LibraryTokenizer, TokenizerFile, fast_encoder, gpt2_json
from tasks.workers import Workers, chosen_workers

_RATE_BYTES = 4_000_000  # of text that the slower encoders are measured on


def main() -> None:
    """Measures, and prints one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shards", help="a folder of .xz shards, such as owt-medium")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rates", action="store_true", help="also compare encoders on one core")
    parser.add_argument(
        "--folder", type=Path, default=None, help="where to build; by default a temporary folder"
    )
    arguments = parser.parse_args()
    shards = find_shards(arguments.shards)
    runs: list[dict[str, float]] = []
    facts: dict[str, Any] = {}
    for repeat in range(arguments.repeats):
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            print(f"repeat {repeat + 1} of {arguments.repeats}", file=sys.stderr)
            run, facts = measure(arguments.shards, shards, Path(folder))
            runs.append(run)
    result = machine() | facts | {"repeats": arguments.repeats, "shards": len(shards)}
    result |= {key: round(statistics.median(run[key] for run in runs), 3) for key in runs[0]}
    result |= {
        f"{key.removesuffix('_seconds')}_over_xz": round(
            statistics.median(run[key] / run["xz_seconds"] for run in runs), 2
        )
        for key in runs[0]
        if key.endswith("_seconds") and key != "xz_seconds"
    }
    result["rebuild_char_speedup"] = round(
        statistics.median(run["gpt2_seconds"] / run["gpt2_to_char_seconds"] for run in runs), 2
    )
    result["rebuild_gpt2_speedup"] = round(
        statistics.median(run["char_seconds"] / run["char_to_gpt2_seconds"] for run in runs), 2
    )
    if arguments.rates:
        result |= rates(shards)
    print(json.dumps(result, indent=1))


def measure(corpus: str, shards: list[Shard], folder: Path) -> tuple[dict[str, float], dict[str, Any]]:
    """Seconds and peak memory of each kind of build, and facts that are the same every time."""
    count = chosen_workers(None)
    run: dict[str, float] = {}
    _, run["xz_seconds"] = timed(lambda: decompress(shards, count))
    facts: dict[str, Any] = {"workers": count}
    for first, second in (("char", "gpt2"), ("gpt2", "char")):
        place = Workspace.at(folder / first)
        for key, tokenizer in ((first, first), (f"{first}_to_{second}", second), (f"{first}_again", first)):
            config = CorpusConfig(corpus=corpus, name="bench", tokenizer=tokenizer)
            (dataset, peak), run[f"{key}_seconds"] = timed(
                lambda config=config, place=place: built(config, place, count)
            )
            run[f"{key}_peak_bytes"] = peak
            facts[f"{tokenizer}_tokens"] = dataset.manifest.train.tokens + dataset.manifest.val.tokens
            facts[f"{tokenizer}_digest"] = dataset.manifest.digest
        facts["text_bytes"] = dataset.manifest.train.text_bytes + dataset.manifest.val.text_bytes
        shutil.rmtree(place.root)
    return run, facts


def built(config: CorpusConfig, place: Workspace, count: int) -> tuple[Any, int]:
    """A data set, and the peak memory of all processes."""
    with Workers(count) as workers, MemoryWatch(workers.process_ids) as memory:
        dataset = build(config, place, workers)
    return dataset, memory.peak_bytes


def rates(shards: list[Shard]) -> dict[str, float]:
    """MB of text a second on one core, of encoders with the same tokenizer, on the same documents."""
    import tiktoken

    texts: list[bytes] = []
    for shard in shards:
        for batch in read_batches(shard, Reading()):
            texts += Texts(batch.texts.utf8, batch.texts.sizes)
        if sum(map(len, texts)) > _RATE_BYTES * 5:
            break
    few, size = list[bytes](), 0
    for text in texts:
        if size < _RATE_BYTES:
            few.append(text)
            size += len(text)
    with tempfile.TemporaryDirectory() as folder:
        encoders = {
            name: fast_encoder(written, 4 << 30) for name, written in fast_tokenizers(Path(folder)).items()
        }
    reference = LibraryTokenizer(gpt2_json())
    bpe = tiktoken.Encoding("gpt2", pat_str=_GPT2_WORDS, mergeable_ranks=mergeable_ranks(), special_tokens={})
    joined = Texts.of(texts)
    seconds = {
        f"{name}_{state}": timed(lambda own=encoder: own.encode_documents(joined))[1] / sum(map(len, texts))
        for name, encoder in encoders.items()
        for state in ("cold", "warm")
    }
    seconds |= {
        "tokenizers": timed(lambda: reference.encode_documents(Texts.of(few)))[1] / size,
        "tiktoken": timed(lambda: [bpe.encode_ordinary(text.decode()) for text in few])[1] / size,
    }
    seconds |= character_seconds(texts)
    return {f"{name}_mb_per_second": round(1e-6 / each, 1) for name, each in seconds.items()}


def fast_tokenizers(folder: Path) -> dict[str, TokenizerFile]:
    """GPT-2's tokenizer for each of the fast encoders that are here: gigatoken, and our compiled loop."""
    found, compiled_loops = dict[str, TokenizerFile](), compiled.loops
    for loops in (None, compiled_loops):
        compiled.loops = loops
        (folder / str(loops)).mkdir(exist_ok=True)
        written = TokenizerFile.write(gpt2_json(), folder / str(loops))
        found[written.encoder.replace(" ", "_")] = written
    return found


def character_seconds(texts: list[bytes]) -> dict[str, float]:
    """Seconds a byte to count characters and to encode them, shard by shard, as a worker does that has done it before: by
    numpy, and by the compiled loops where they are there."""
    shards = [Texts.of(texts[start : start + 400]) for start in range(0, len(texts), 400)]
    found, compiled_loops = dict[str, float](), compiled.loops
    for name, loops in (("numpy", None), ("compiled", compiled_loops)):
        compiled.loops = loops
        counts = CharacterCounts()
        for _ in range(2):
            _, counting = timed(lambda own=counts: [own.update_utf8(bytes(shard.utf8)) for shard in shards])
        tokenizer = CharTokenizer.from_counts(counts)
        for _ in range(2):
            _, encoding = timed(lambda own=tokenizer: [own.encode_documents(shard) for shard in shards])
        size = sum(map(len, texts))
        found |= {f"count_{name}": counting / size, f"characters_{name}": encoding / size}
    compiled.loops = compiled_loops
    return found


_GPT2_WORDS = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""


def mergeable_ranks() -> dict[bytes, int]:
    """GPT-2's tokens as tiktoken wants them."""
    from model.bpe import END_OF_TEXT, byte_characters

    byte_of = {character: byte for byte, character in enumerate(byte_characters())}
    vocabulary = json.loads(gpt2_json())["model"]["vocab"]
    return {
        bytes(byte_of[character] for character in token): number
        for token, number in vocabulary.items()
        if token != END_OF_TEXT
    }


def decompress(shards: list[Shard], count: int) -> None:
    """All shards through the xz program, so many processes side by side, to nowhere."""
    processes = [
        subprocess.Popen(
            ["xz", "-dc", *(shard.location for shard in shards[number::count])], stdout=subprocess.DEVNULL
        )
        for number in range(count)
    ]
    if any(process.wait() for process in processes):
        raise SystemExit("xz cannot decompress these shards")


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """A result and how long it took, in seconds."""
    began = time.perf_counter()
    result = function()
    return result, time.perf_counter() - began


def machine() -> dict[str, Any]:
    """What it was measured with."""
    xz = subprocess.run(["xz", "--version"], capture_output=True, text=True, check=True).stdout.split("\n")[0]
    return {
        "cpu_count": os.cpu_count(),
        "python": platform.python_version(),
        "xz": xz,
        **{name: version(name) for name in ("lzma-mt", "pyarrow", "gigatoken", "tokenizers")},
    }


if __name__ == "__main__":
    main()
