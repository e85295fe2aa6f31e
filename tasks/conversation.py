"""A conversation with a model: a document that both write in, by turns."""

import dataclasses
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path

from model.sampling import Sampling
from storage.errors import CheckpointError
from storage.files import atomic_file
from tasks.loading import LoadedModel

PROMPT = "{prompt}"
_BETWEEN_TURNS = "\n\n"  # of a model that knows prompts and responses


@dataclass(slots=True, kw_only=True)
class Turn:
    """What was said, as it stands in the document, and what the model wrote to it so far."""

    said: str
    written: str = ""


@dataclass(slots=True, kw_only=True)
class Conversation:
    """The turns so far, and how the model writes.

    A model that was trained on plain documents goes on with the text. One that was fine-tuned on prompts and responses has a
    template among its facts, `prompt_format`, into which each turn is put. Each turn draws other random numbers, so the same
    seed repeats a whole conversation. CheckpointError if that template has no place for a prompt; ValueError if `tokens` is below 1.
    """

    model: LoadedModel
    tokens: int = 200  # a turn at most
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    turns: list[Turn] = field(default_factory=list)

    def __post_init__(self) -> None:
        _at_least_one(self.tokens)
        if self.template is not None and PROMPT not in self.template:
            raise CheckpointError(
                f"{self.model.checkpoint.path}: its prompt_format has no {PROMPT}; fine-tune it with one that has"
            )

    @property
    def template(self) -> str | None:
        """What a prompt is put into; none for a model that simply goes on with a text."""
        prompt_format: str | None = self.model.checkpoint.facts.get("prompt_format")
        return prompt_format

    @property
    def document(self) -> str:
        """All of the text."""
        return "".join(turn.said + turn.written for turn in self.turns)

    def say(self, words: str) -> Iterator[str]:
        """Adds a turn, and yields what the model writes to it; what was yielded when that is broken off stays written."""
        self.turns.append(Turn(said=self._as_said(words)))
        return self._written(self.turns[-1])

    def undo(self) -> bool:
        """Takes the last turn back, both sides of it; false if there is none."""
        return bool(self.turns) and self.turns.pop() is not None

    def reset(self) -> None:
        """Begins anew, with the settings as they are."""
        self.turns.clear()

    def set(self, assignment: str) -> None:
        """`temperature=0.7`, `top_k=none`, `tokens=50`. ValueError names a setting that is not there or a value that cannot be."""
        name, equals, text = (part.strip() for part in assignment.partition("="))
        kinds = {one.name: typing.get_type_hints(Sampling)[one.name] for one in fields(Sampling)}
        if not equals or name not in {"tokens", *kinds}:
            raise ValueError(
                f"{assignment!r} is no setting; write NAME=VALUE with one of tokens, {', '.join(kinds)}"
            )
        if name == "tokens":
            tokens = _number(name, text, int)
            assert tokens is not None
            self.tokens = _at_least_one(int(tokens))
        else:
            value = _number(name, text, kinds[name])
            self.sampling = dataclasses.replace(self.sampling, **{name: value})  # type: ignore[arg-type]

    def settings(self) -> dict[str, float | None]:
        """What `set` can change, as it is."""
        return {"tokens": self.tokens} | dataclasses.asdict(self.sampling)

    def save(self, path: Path) -> None:
        """Writes the document to a file."""
        with atomic_file(path) as file:
            file.write(self.document.encode("utf-8", "replace"))

    def _as_said(self, words: str) -> str:
        if self.template is None:
            return words
        return (_BETWEEN_TURNS if self.turns else "") + self.template.replace(PROMPT, words)

    def _written(self, turn: Turn) -> Iterator[str]:
        sampling = dataclasses.replace(self.sampling, seed=self.sampling.seed + len(self.turns) - 1)
        for piece in self.model.write(
            self.document, tokens=self.tokens, sampling=sampling, stop=self._all_stops()
        ):
            turn.written += piece
            yield piece

    def _all_stops(self) -> tuple[str, ...]:
        """The person's own words are not for the model to write."""
        opening = self.template.partition(PROMPT)[0].strip() if self.template else ""
        return (*self.stop, opening) if opening else self.stop


def _at_least_one(tokens: int) -> int:
    if tokens < 1:
        raise ValueError(f"tokens is {tokens}; it is how many to write at most, at least 1")
    return tokens


def _number(name: str, text: str, kind: type) -> float | None:
    """A value as the field's type, such as `int | None`, has it. ValueError if it is none."""
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if text.lower() == "none" and types.NoneType in kinds:
        return None
    try:
        number: float = kinds[0](text)
    except ValueError:
        wanted = "a whole number" if kinds[0] is int else "a number"
        raise ValueError(f"{name} is {text!r}; it must be {wanted}") from None
    return number
