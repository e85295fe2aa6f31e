"""The language of OpenAI's `/v1/completions`: requests read and checked, answers, chunks and errors written."""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from model.sampling import Sampling
from model.writing import Piece, WritingRequest, first_ids
from tasks.loading import LoadedModel
from tasks.serving import Limits, Text

#: Parameters of OpenAI's that are not here, and the value that changes nothing.
_NEUTRAL = {
    "best_of": 1,
    "echo": False,
    "frequency_penalty": 0,
    "logit_bias": {},
    "presence_penalty": 0,
    "suffix": "",
}
_WITHOUT_MEANING = {"user"}
_MOST_STOPS = 16
_MOST_NAME = 200  # characters of a name that is not ours, when it is told


class ApiError(Exception):
    """An answer that is an error, in OpenAI's form: one line, whatever it tells of what was sent."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(" ".join(message.split()))
        self.status, self.param, self.code = status, param, code

    def as_json(self) -> dict[str, Any]:
        """What clients expect."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


class StreamOptions(BaseModel):
    """How a stream is to be."""

    model_config = ConfigDict(strict=True, extra="forbid")

    include_usage: bool = False
    include_obfuscation: bool = False  # padding against those who read a network's traffic; not done


class CompletionRequest(BaseModel):
    """OpenAI's parameters with OpenAI's defaults, and those of `Sampling` that OpenAI does not have."""

    model_config = ConfigDict(strict=True, extra="forbid")

    model: str
    prompt: str | list[str] | list[int] | list[list[int]] = ""
    max_tokens: int = Field(default=16, ge=0)
    temperature: float = 1.0
    top_p: float = 1.0
    n: int = Field(default=1, ge=1)
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    stop: str | list[str] = Field(default=[])
    seed: int = Field(default_factory=lambda: secrets.randbits(62))
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0

    @classmethod
    def read(cls, body: bytes) -> Self:
        """The request of a body. ApiError says in one line what is wrong with it; what would change the meaning is refused."""
        try:
            given = from_json(body)
        except ValueError as error:
            raise ApiError(400, f"the body is not JSON: {error}") from None
        if not isinstance(given, dict):
            raise ApiError(400, "the body is not a JSON object")
        meant = {
            name: value
            for name, value in given.items()
            if value is not None
            and name not in _WITHOUT_MEANING
            and not (name in _NEUTRAL and value == _NEUTRAL[name])
        }
        try:
            return cls.model_validate(meant)
        except ValidationError as error:
            raise _as_api_error(error) from None

    def samplings(self) -> list[Sampling]:
        """One for each choice of a prompt: the seeds count up."""
        return [
            Sampling(
                temperature=self.temperature,
                top_k=self.top_k,
                top_p=self.top_p if self.top_p != 1 else None,
                min_p=self.min_p,
                repetition_penalty=self.repetition_penalty,
                seed=self.seed + number,
            )
            for number in range(self.n)
        ]


def _as_api_error(error: ValidationError) -> ApiError:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    name = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        name = ".".join(map(str, first["loc"]))[:_MOST_NAME]
        return ApiError(400, f"{name} is not supported here; leave it out", param=name)
    if name == "prompt":
        return ApiError(400, "prompt must be a text, token ids, or a list of either", param=name)
    return ApiError(400, f"{name}: {first['msg']}", param=name)


def texts_of(asked: CompletionRequest, model: LoadedModel, limits: Limits) -> list[Text]:
    """What is to be written: for each prompt `n` texts. ApiError for what is beyond the limits or cannot be meant."""
    if asked.max_tokens > limits.tokens:
        raise ApiError(
            400,
            f"max_tokens is {asked.max_tokens}; at most {limits.tokens} are written here",
            param="max_tokens",
        )
    prompts = _prompts(asked.prompt)
    if not 1 <= len(prompts) * asked.n <= limits.rows:
        raise ApiError(
            400,
            f"{len(prompts)} prompts x {asked.n} choices: a request may have 1 to {limits.rows}",
            param="prompt",
        )
    stop = (asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop)
    if len(stop) > _MOST_STOPS:
        raise ApiError(400, f"stop has {len(stop)} texts; at most {_MOST_STOPS}", param="stop")
    try:
        requests = [
            WritingRequest(tokens=asked.max_tokens, sampling=sampling, stop=stop)
            for sampling in asked.samplings()
        ]
    except ValueError as error:
        raise ApiError(400, str(error)) from None
    return [
        Text(request=request, prompt_ids=ids)
        for ids in (_ids(prompt, model, limits) for prompt in prompts)
        for request in requests
    ]


def _prompts(prompt: str | list[str] | list[int] | list[list[int]]) -> Sequence[str | list[int]]:
    if isinstance(prompt, str):
        return [prompt]
    if prompt and isinstance(prompt[0], int):
        return [prompt]  # type: ignore[list-item]
    return prompt  # type: ignore[return-value]


def _ids(prompt: str | list[int], model: LoadedModel, limits: Limits) -> list[int]:
    """The prompt's ids; an empty one starts a new document."""
    if len(prompt) > limits.prompt_characters:
        unit = "characters" if isinstance(prompt, str) else "ids"
        raise ApiError(
            400,
            f"the prompt has {len(prompt):,} {unit}; at most {limits.prompt_characters:,} are read here",
            param="prompt",
            code="context_length_exceeded",
        )
    if isinstance(prompt, str):
        return first_ids(model.tokenizer, prompt)
    if not all(0 <= token < model.tokenizer.vocabulary_size for token in prompt):
        raise ApiError(400, f"ids are from 0 to {model.tokenizer.vocabulary_size - 1}", param="prompt")
    return prompt or first_ids(model.tokenizer, "")


@dataclass(slots=True, kw_only=True)
class Completion:
    """A request's answer as it grows."""

    model: str
    texts: list[Text]
    choices_a_prompt: int
    context: int  # tokens that the network sees
    id: str = field(default_factory=lambda: f"cmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))
    written_tokens: int = 0
    pieces: list[list[Piece]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pieces = [[] for _ in self.texts]

    def add(self, piece: Piece) -> None:
        """Notes what was written."""
        self.written_tokens += piece.tokens
        self.pieces[piece.row].append(piece)

    def whole(self) -> dict[str, Any]:
        """The answer to a request without a stream."""
        choices = [
            _choice(row, "".join(piece.text for piece in pieces), pieces[-1].ending)
            for row, pieces in enumerate(self.pieces)
        ]
        return self._head() | {"choices": choices, "usage": self.usage()}

    def chunk(self, piece: Piece, options: StreamOptions) -> dict[str, Any]:
        """A part of a stream."""
        body = self._head() | {"choices": [_choice(piece.row, piece.text, piece.ending)]}
        return body | ({"usage": None} if options.include_usage else {})

    def last_chunk(self) -> dict[str, Any]:
        """The part that tells the usage, if that was asked for."""
        return self._head() | {"choices": [], "usage": self.usage()}

    def usage(self) -> dict[str, int]:
        """Tokens of the prompts and of what was written; and how many first ones of the prompts the network does not see."""
        prompts = [len(text.prompt_ids) for text in self.texts[:: self.choices_a_prompt]]
        return {
            "prompt_tokens": sum(prompts),
            "completion_tokens": self.written_tokens,
            "total_tokens": sum(prompts) + self.written_tokens,
            "unseen_prompt_tokens": sum(max(0, length - self.context) for length in prompts),
        }

    def _head(self) -> dict[str, Any]:
        return {"id": self.id, "object": "text_completion", "created": self.created, "model": self.model}


def _choice(row: int, text: str, ending: str | None) -> dict[str, Any]:
    return {"text": text, "index": row, "logprobs": None, "finish_reason": ending}
