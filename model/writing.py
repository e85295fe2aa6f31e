"""Owns writing in text: ids become whole characters as they come, and a text ends before the strings that stop it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from model.generation import Generation
from model.network import LanguageModel
from model.sampling import Sampling
from model.tokenizer import Tokenizer

Ending = Literal["stop", "length"]
_UNDECIDED: Final = "\ufffd"  # what bytes decode to that are no character, or not yet
_MOST_WAITING: Final = 8  # ids; a character has 4 bytes at most, so these are no text


@dataclass(frozen=True, slots=True, kw_only=True)
class WritingRequest:
    """What to write: up to `tokens` that continue the prompt, until the document ends or one of `stop` would be written.

    An empty prompt starts a new document. ValueError for a value that cannot be meant.
    """

    prompt: str = ""
    tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):  # its letters would each be one
            raise ValueError(f"stop is the text {self.stop!r}; give a tuple of texts")
        if "" in self.stop:
            raise ValueError("a stop string is empty, which every text has at once; give it a character")


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What a row of a batch wrote next: text of whole characters, often none, and for how many tokens it stands."""

    row: int
    text: str
    tokens: int
    ending: Ending | None = (
        None  # of the row's last piece: by a stop string or the document's end, or by its tokens
    )


def write(network: LanguageModel, tokenizer: Tokenizer, request: WritingRequest) -> Iterator[str]:
    """Text that continues a prompt, piece by piece. ValueError at once for a value that cannot be meant."""
    return (piece.text for piece in write_batch(network, tokenizer, [request]) if piece.text)


def write_batch(
    network: LanguageModel, tokenizer: Tokenizer, requests: Sequence[WritingRequest]
) -> Iterator[Piece]:
    """Texts that continue several prompts at once, pieces as they come. ValueError at once for a value that cannot be meant."""
    batch = WritingBatch(network, tokenizer)
    for request in requests:
        batch.begin(request, first_ids(tokenizer, request.prompt))
    return _all_pieces(batch)


def _all_pieces(batch: "WritingBatch") -> Iterator[Piece]:
    while len(batch):
        yield from batch.step()


def first_ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """The ids that a network continues: the prompt's, or the end of a document, after which a new one starts."""
    ids: list[int] = tokenizer.encode(prompt).tolist() if prompt else [tokenizer.end_of_text]
    return ids


class WritingBatch:
    """Texts that are written together: they may begin, and be given up, while others go on."""

    def __init__(self, network: LanguageModel, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._generation = Generation(network, stop_id=tokenizer.end_of_text)
        self._texts: dict[int, _Text] = {}  # by row

    def __len__(self) -> int:
        """How many texts are on their way."""
        return len(self._texts)

    def begin(self, request: WritingRequest, prompt_ids: Sequence[int]) -> int:
        """Adds a text, which continues these ids rather than the request's prompt, and returns its row: they count up from 0.

        ValueError for a value that cannot be meant.
        """
        row = self._generation.begin(prompt_ids, tokens=request.tokens, sampling=request.sampling)
        self._texts[row] = _Text(TextStream(self._tokenizer, request.stop), request.tokens)
        return row

    def end(self, row: int) -> str:
        """Gives a text up, and returns what was held back of it."""
        self._generation.end(row)
        text = self._texts.pop(row, None)
        return text.stream.rest() if text else ""

    def step(self) -> Iterator[Piece]:
        """What the next token of each text gives; the last piece of a text says how it ended."""
        for row, token in self._generation.step():
            text = self._texts[row]
            text.tokens_left -= 1
            is_end = token == self._tokenizer.end_of_text
            new = text.stream.rest() if is_end else text.stream.add(token)
            if text.stream.has_ended:
                self.end(row)
            yield Piece(row=row, text=new, tokens=1, ending="stop" if text.stream.has_ended else None)
        for row in [row for row, text in self._texts.items() if not text.tokens_left]:
            yield Piece(row=row, text=self.end(row), tokens=0, ending="length")


@dataclass(slots=True)
class _Text:
    """One text on its way."""

    stream: "TextStream"
    tokens_left: int


class TextStream:
    """Ids of one text in, text out as soon as it is sure: what may become a character or a stop string is held back."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self.has_ended = False
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._waiting: list[int] = []  # ids since the last character that was whole
        self._decoded = 0  # characters of these that are decoded already
        self._held = ""

    def add(self, token: int) -> str:
        """The text that one more id makes sure."""
        self._waiting.append(token)
        text = self._tokenizer.decode(self._waiting)
        new = text[self._decoded :]
        if text.endswith(_UNDECIDED) and len(self._waiting) < _MOST_WAITING:
            new = new.removesuffix(_UNDECIDED)
            self._decoded += len(new)
        else:
            self._waiting, self._decoded = [], 0
        return self._released(new)

    def rest(self) -> str:
        """The text that was held back, when no more ids come."""
        text = self._tokenizer.decode(self._waiting)[self._decoded :]
        released = self._released(text)
        if not self.has_ended:
            released += self._held
        self.has_ended = True
        return released

    def _released(self, text: str) -> str:
        """What may be shown of the text held back and this; ends the stream where a stop string is whole."""
        self._held += text
        found = [(self._held.index(stop) + len(stop), stop) for stop in self._stop if stop in self._held]
        if found:  # the one that is whole first, wherever pieces begin and end; of several the longest
            end, stop = min(found, key=lambda one: (one[0], -len(one[1])))
            self.has_ended = True
            return self._held[: end - len(stop)]
        kept = max((_begun(self._held, stop) for stop in self._stop), default=0)
        cut = len(self._held) - kept
        released, self._held = self._held[:cut], self._held[cut:]
        return released


def _begun(text: str, stop: str) -> int:
    """How many characters at the end of a text may be the beginning of a stop string."""
    return next(size for size in range(min(len(stop) - 1, len(text)), -1, -1) if text.endswith(stop[:size]))
