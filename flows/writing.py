"""The terminal's side of `brickroad generate`: texts as they come, and what came in numbers."""

import dataclasses
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flows.console import printable, say

if TYPE_CHECKING:
    from model.writing import WritingRequest
    from tasks.loading import LoadedModel


def write_samples(
    loaded: "LoadedModel", request: "WritingRequest", samples: int, *, shown: bool
) -> Mapping[str, Any]:
    """Writes so many texts at once, with seeds that count up: one text is shown as it goes, several when all are done."""
    if unseen := loaded.unseen_tokens(request.prompt):
        context = loaded.network.config.block_size
        say(f"The model sees the last {context:,} tokens; the first {unseen:,} of the prompt are not used.")
    seeds = [request.sampling.seed + number for number in range(samples)]
    requests = [
        dataclasses.replace(request, sampling=dataclasses.replace(request.sampling, seed=seed))
        for seed in seeds
    ]
    texts, tokens, began = [""] * samples, 0, time.monotonic()
    pieces = loaded.write_batch(requests)
    is_streamed = shown and samples == 1
    if is_streamed:
        print(printable(request.prompt), end="")
    for piece in pieces:
        texts[piece.row] += piece.text
        tokens += piece.tokens
        if is_streamed:
            print(printable(piece.text), end="", flush=True)
    seconds = time.monotonic() - began
    if is_streamed:
        print()
    elif shown:
        for seed, text in zip(seeds, texts, strict=True):
            say(f"[dim]seed {seed}[/dim]")
            print(printable(request.prompt + text), flush=True)
    facts = {"text": texts[0], "tokens_per_second": tokens / seconds if seconds else 0.0, "tokens": tokens}
    return facts | ({"texts": texts} if samples > 1 else {})
