"""What a model writes, and what can be said of it without reading: whether it repeats itself, or its training data."""

from dataclasses import dataclass

import numpy as np

from model.ngrams import SeenRuns, repetition
from model.sampling import Sampling
from model.writing import WritingRequest
from storage.datasets import Dataset
from tasks.loading import LoadedModel
from tasks.watch import Watch

SAMPLES = 4
SAMPLE_TOKENS = 400
_BYTES_A_WORD = 6  # of English, with the blank
_REPEATED_WORDS = 4
_SEEN_WORDS = 13  # Brown et al. 2020, arXiv:2005.14165, appendix C: a run that long is no accident


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """New documents that a model wrote.

    `repetition` is the share of runs as long as 4 words that stand earlier in the same text; `val_repetition` that of val text
    of the same length. `seen` is the share of runs as long as 13 words that stand in the train split. Shares of 1.
    """

    texts: list[str]
    repetition: float
    val_repetition: float
    seen: float

    @property
    def are_degenerate(self) -> bool:
        """Whether the model has nothing to say, or says most of it again and again."""
        return not any(text.strip() for text in self.texts) or self.repetition > max(
            0.5, 2 * self.val_repetition
        )


def write_samples(loaded: LoadedModel, dataset: Dataset) -> Samples:
    """Lets a model write, and looks for what it wrote in the text and in the data set it was trained on."""
    texts = [""] * SAMPLES
    requests = [
        WritingRequest(prompt="", tokens=SAMPLE_TOKENS, sampling=Sampling(seed=seed))
        for seed in range(SAMPLES)
    ]
    for piece in loaded.write_batch(requests):
        texts[piece.row] += piece.text
    ids = [np.array(loaded.tokenizer.encode(text), np.int64) for text in texts]
    val = dataset.manifest.val
    tokens_a_word = _BYTES_A_WORD * val.tokens / val.text_bytes
    repeated, seen_length = (max(2, round(words * tokens_a_word)) for words in (_REPEATED_WORDS, _SEEN_WORDS))
    val_pieces = np.array_split(dataset.token_file("val").open()[: SAMPLES * SAMPLE_TOKENS], SAMPLES)
    seen = SeenRuns(ids, seen_length)
    train_tokens = dataset.token_file("train").open()
    with Watch("look for copies", total=len(train_tokens), unit="tokens") as watch:
        for tokens in seen.look_in(train_tokens):
            watch.advance(tokens)
    return Samples(
        texts=texts,
        repetition=float(np.mean([repetition(each, repeated) for each in ids])),
        val_repetition=float(np.mean([repetition(each, repeated) for each in val_pieces])),
        seen=seen.share,
    )
