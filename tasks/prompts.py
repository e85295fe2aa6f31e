"""Prompts with responses, as people write them: JSON lines in three forms, each spelt as the model is to read it."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.errors import CorpusError

DEFAULT_PROMPT_FORMAT = "### Instruction:\n{prompt}\n\n### Response:\n"
_PLACE = "{prompt}"
FORMS = (
    '{"prompt", "response"}, {"instruction", "input", "output"}, or {"messages"} of a user and the assistant'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptsConfig:
    """What a data set of prompts is made of: `file` is JSON lines, `prompt_format` has "{prompt}" where the prompt goes."""

    file: str
    prompt_format: str = DEFAULT_PROMPT_FORMAT
    val_fraction: float = 0.1

    def __post_init__(self) -> None:
        if self.prompt_format.count(_PLACE) != 1:
            raise ValueError(
                f"--prompt-format is {self.prompt_format!r}; it must have {_PLACE} once, where the prompt goes"
            )
        if not 0 < self.val_fraction < 1:
            raise ValueError(f"--val-fraction is {self.val_fraction}; it must be above 0 and below 1")

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.file).expanduser().absolute()

    @property
    def name(self) -> str:
        """The name of the data set: the file's, in letters that are good for a folder."""
        return re.sub(r"[^A-Za-z0-9._-]+", "-", self.path.stem).strip("-.") or "prompts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A prompt as it is spelt, and its response; `line` is where it stands."""

    line: int
    prompt: str
    response: str


def read_examples(config: PromptsConfig) -> Iterator[Example]:
    """The examples of a file, in order; empty lines are none. Raises CorpusError, with the line, for any other."""
    found = False
    with config.path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                prompt, response = _prompt_and_response(json.loads(line))
                prompt.encode(), response.encode()  # half a character, as JSON can spell one, has no UTF-8
            except (ValueError, RecursionError) as error:
                raise CorpusError(f"{config.path}: line {number}: {error}; a line is {FORMS}") from None
            found = True
            yield Example(line=number, prompt=config.prompt_format.replace(_PLACE, prompt), response=response)
    if not found:
        raise CorpusError(f"{config.path}: has no example; a line is {FORMS}")


def _prompt_and_response(value: Any) -> tuple[str, str]:
    """ValueError says what is wrong."""
    if not isinstance(value, dict):
        raise ValueError("is no JSON object")
    if "messages" in value:
        return _of_messages(value["messages"])
    names = ("prompt", "response") if "prompt" in value else ("instruction", "output")
    for name in names:
        if name not in value:
            raise ValueError(
                f"has no {name!r}" if name != "instruction" else "has neither prompt nor instruction"
            )
    texts = [value[names[0]], value.get("input") or "", value[names[1]]]
    if names[0] == "prompt":
        texts[1] = ""
    if wrong := [text for text in texts if not isinstance(text, str)]:
        raise ValueError(f"has {wrong[0]!r:.40} where a text should be")
    return _answered("\n\n".join(filter(None, texts[:2])), texts[2])


def _of_messages(messages: Any) -> tuple[str, str]:
    """A system's word, if there is one, and the user's, and what the assistant says to that."""
    if not isinstance(messages, Sequence) or not all(isinstance(one, dict) for one in messages):
        raise ValueError("has messages that are no list of objects")
    roles = [one.get("role") for one in messages]
    if roles not in (["user", "assistant"], ["system", "user", "assistant"]):
        raise ValueError(
            f"has messages of {', '.join(map(str, roles)) or 'nobody'}; one answer to one question is read"
        )
    texts = [one.get("content") for one in messages]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("has a message whose content is no text")
    return _answered("\n\n".join(filter(None, texts[:-1])), texts[-1])


def _answered(prompt: str, response: str) -> tuple[str, str]:
    if not response.strip():
        raise ValueError("has an empty response")
    return prompt, response
