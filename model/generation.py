"""Owns writing in ids: a network continues prompts, one sampled token after the other."""

from collections.abc import Iterator, Sequence
from itertools import count, groupby

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.cache import KeyValueCache, joined
from model.network import LanguageModel, device_of, predicting
from model.sampling import Sampler, Sampling


def generate(
    network: LanguageModel,
    prompt_ids: npt.ArrayLike,
    *,
    tokens: int,
    sampling: Sampling | None = None,
    stop_id: int | None = None,
    cached: bool = True,
) -> Iterator[int]:
    """Yields up to `tokens` ids that continue the prompt, each as soon as it is there; `stop_id` ends them and is not yielded.

    As `Generation` for one prompt. ValueError at once for a value that cannot be meant.
    """
    generation = Generation(
        network,
        [prompt_ids],
        tokens=[tokens],
        samplings=[sampling or Sampling()],
        stop_id=stop_id,
        cached=cached,
    )
    return (token for _, token in generation if token != stop_id)


class Generation:
    """Several texts on their way: iterating yields (row, id) as ids come, a row's last one being `stop_id` if it chose that.

    Each row has a prompt, a most number of `tokens` to write, and a sampling of its own; what it writes does not depend on the
    others (but for the last bits of sums, which differ with the number of rows). Rows may begin and be ended at any time, also
    between two ids. The global random numbers are left alone, and the network keeps its mode.

    The network sees the last block_size tokens of a prompt. When a text outgrows the context, the later half of it is kept and
    read anew: positions are learned for places in the context, so it cannot slide on by one without reading it all each time.
    With `cached` false everything is read anew for each token, to the same ids: the slow way, to compare with.

    ValueError for a value that cannot be meant.
    """

    def __init__(
        self,
        network: LanguageModel,
        prompts: Sequence[npt.ArrayLike] = (),
        *,
        tokens: Sequence[int] = (),
        samplings: Sequence[Sampling] = (),
        stop_id: int | None = None,
        cached: bool = True,
    ) -> None:
        self.network = network
        self.stop_id = stop_id
        self.cached = cached
        self._cache: KeyValueCache | None = None
        self._rows: list[_Row] = []
        self._numbers = count()
        for prompt, most, sampling in zip(prompts, tokens, samplings, strict=True):
            self.begin(prompt, tokens=most, sampling=sampling)

    def begin(self, prompt_ids: npt.ArrayLike, *, tokens: int, sampling: Sampling) -> int:
        """Adds a row, and returns its number: they count up from 0. ValueError for a value that cannot be meant."""
        prompt, sampler = _checked(prompt_ids, self.network), Sampler(sampling, never_penalised=self.stop_id)
        row = _Row(next(self._numbers), prompt, tokens, sampler, self.network)
        self._rows.append(row)
        return row.number

    def end(self, row: int) -> None:
        """Ends a row before its time; one that has ended stays so."""
        for each in self._rows:
            if each.number == row:
                each.tokens_left = 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        while any(row.tokens_left for row in self._rows):
            yield from self.step()

    def step(self) -> Iterator[tuple[int, int]]:
        """One id for each row that has not ended."""
        self._rows = [row for row in self._rows if row.tokens_left]
        if not self._rows:
            return
        scores = self._read()
        for row, logits in zip(tuple(self._rows), scores, strict=True):  # a copy: rows may begin meanwhile
            if row.tokens_left:  # or it has been ended meanwhile
                chosen = row.sampler.choose(logits)
                row.add(chosen)
                if chosen == self.stop_id:
                    row.tokens_left = 0
                yield row.number, chosen

    def _read(self) -> Tensor:
        """Lets the network read what it has not: scores of what may follow, [rows, vocabulary_size], float32 on the CPU.

        Puts the rows into the order of the scores: first those that go on, then those that are read anew.
        """
        going_on = [row for row in self._rows if row.place is not None]
        anew = sorted((row for row in self._rows if row.place is None), key=_context_length)
        caches: list[KeyValueCache] = []
        scores: list[Tensor] = []
        with predicting(self.network):
            if going_on:
                caches.append(self._cache_of(going_on))
                scores.append(self._scores([row.context[-1:] for row in going_on], caches[-1]))
            for _, rows in groupby(anew, key=_context_length):
                contexts = [row.context for row in rows]
                if self.cached:
                    caches.append(self.network.empty_cache(len(contexts)))
                scores.append(self._scores(contexts, caches[-1] if self.cached else None))
            self._rows = going_on + anew
            if self.cached:
                self._cache = joined(caches)
                for place, row in enumerate(self._rows):
                    row.place = place
            return torch.cat(scores).float().cpu()

    def _cache_of(self, rows: "list[_Row]") -> KeyValueCache:
        assert self._cache is not None
        if len(rows) == len(self._cache.lengths):
            return self._cache
        return self._cache.select([row.place for row in rows if row.place is not None])

    def _scores(self, ids: list[list[int]], cache: KeyValueCache | None) -> Tensor:
        scores: Tensor = self.network(torch.tensor(ids, device=device_of(self.network)), cache)[:, -1]
        return scores


class _Row:
    """One text on its way."""

    def __init__(
        self, number: int, prompt: list[int], tokens: int, sampler: Sampler, network: LanguageModel
    ) -> None:
        if tokens < 0:
            raise ValueError(f"tokens is {tokens}; it is how many to write, at least 0")
        self.number = number
        self.tokens_left = tokens
        self.sampler = sampler
        self.sampler.see(prompt)
        self.block_size = network.config.block_size
        is_apart = network.config.documents == "apart"
        self.document_begin = network.config.end_of_text if is_apart else None
        if self.document_begin in prompt:  # of the documents before the last nothing is seen
            prompt = prompt[len(prompt) - 1 - prompt[::-1].index(self.document_begin) :]
        self.context = prompt[-self.block_size :]  # what the network sees
        self.place: int | None = None  # the row of the cache that has all of it but the last token

    def add(self, token: int) -> None:
        self.tokens_left -= 1
        self.context.append(token)
        if token == self.document_begin:
            self.context, self.place = [token], None
        if len(self.context) > self.block_size:
            self.context = self.context[-((self.block_size + 1) // 2) :]
            self.place = None


def _context_length(row: _Row) -> int:
    return len(row.context)


def _checked(prompt_ids: npt.ArrayLike, network: LanguageModel) -> list[int]:
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
    ids: list[int] = prompt.tolist()
    return ids
