"""Owns writing: a network continues a prompt, one sampled token after the other."""

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.network import LanguageModel, device_of, predicting


def generate(
    network: LanguageModel,
    prompt_ids: npt.ArrayLike,
    *,
    tokens: int,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    stop_id: int | None = None,
) -> Iterator[int]:
    """Yields up to `tokens` ids that continue the prompt, each as soon as it is there.

    `temperature` 0 takes the likeliest id each time; below 1 the network is bolder, above 1 wilder than it
    learnt to be. `top_k` keeps the k likeliest ids; `top_p` the fewest likeliest ones that together have at
    least probability p (Holtzman et al. 2020, arXiv:1904.09751). The same seed writes the same text, and the
    global random numbers are left alone. `stop_id` ends the text and is not yielded. The network sees the last
    block_size tokens and keeps its mode.

    ValueError at once for a value that cannot be meant.
    """
    vocabulary_size = network.config.vocabulary_size
    prompt = np.asarray(prompt_ids).reshape(-1)
    if prompt.size == 0:
        raise ValueError(
            "the prompt is empty; start from the end-of-text id, which stands before every document"
        )
    if prompt.dtype.kind not in "iu" or prompt.min() < 0 or prompt.max() >= vocabulary_size:
        raise ValueError(
            f"the prompt has ids outside the network's vocabulary of {vocabulary_size}; check its tokenizer"
        )
    if tokens < 0:
        raise ValueError(f"tokens is {tokens}; it is how many to write, at least 0")
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature is {temperature}; it must be a number of at least 0")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k is {top_k}; it must be at least 1, or none for no limit")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p}; it must be above 0 and at most 1, or none for no limit")
    choose = _Sampler(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    return _generate(network, torch.from_numpy(prompt.astype(np.int64)), tokens, choose, stop_id)


def _generate(
    network: LanguageModel, prompt: Tensor, tokens: int, choose: "_Sampler", stop_id: int | None
) -> Iterator[int]:
    block_size = network.config.block_size
    context = prompt[-block_size:].to(device_of(network))
    for _ in range(tokens):
        with predicting(network):
            logits = network(context[None])[0, -1]
        chosen = choose(logits.float().cpu())
        if chosen == stop_id:
            return
        yield chosen
        context = torch.cat([context, context.new_tensor([chosen])])[-block_size:]


class _Sampler:
    """Chooses an id by its logits [vocabulary_size], on the CPU, so that a seed means the same on every device."""

    def __init__(self, *, temperature: float, top_k: int | None, top_p: float | None, seed: int) -> None:
        self.temperature = temperature
        self.top_k = top_k
        self.top_p = top_p
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, logits: Tensor) -> int:
        if self.temperature == 0:
            return int(logits.argmax())
        logits = logits / self.temperature
        if self.top_k is not None and self.top_k < len(logits):
            logits = logits.masked_fill(logits < logits.topk(self.top_k).values[-1], -math.inf)
        probabilities = logits.softmax(dim=-1)
        if self.top_p is not None:
            probabilities = _nucleus(probabilities, self.top_p)
        return int(torch.multinomial(probabilities, 1, generator=self.generator))


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """The probabilities with all but the fewest likeliest ids that reach `top_p` set to 0."""
    ordered, places = probabilities.sort(descending=True, stable=True)
    before = ordered.cumsum(dim=-1) - ordered  # what those likelier than this one have together
    return torch.zeros_like(probabilities).scatter(0, places, ordered.where(before < top_p, 0.0))
