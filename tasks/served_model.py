"""The registered model as MLflow runs it: this file is stored with each version and executed there ("models from code").

`mlflow.pyfunc.load_model("models:/brickroad-gpt@champion").predict([{"prompt": "The "}])` gives a list of texts.
"""

from pathlib import Path
from typing import Self

import mlflow
from mlflow.pyfunc import PythonModel, PythonModelContext
from pydantic import BaseModel, ConfigDict, Field, model_validator

from model.sampling import Sampling
from model.writing import WritingRequest
from tasks.loading import LoadedModel, load_model

MAXIMUM_TOKENS = 4096
MAXIMUM_ROWS = 16  # written at once; each takes the memory of its keys and values


class TextRequest(BaseModel):
    """What to write, as `WritingRequest` and `Sampling` have it. The limits keep one request from holding a server for ever.

    All that is wrong with one is found here: MLflow answers that with its reason, and what `predict` raises without any.
    """

    model_config = ConfigDict(extra="forbid")  # a setting that is misspelt would be left out in silence

    prompt: str = Field(default="", max_length=100_000)
    tokens: int = Field(default=200, ge=1, le=MAXIMUM_TOKENS)
    temperature: float = Field(default=0.8, ge=0)
    top_k: int | None = Field(default=None, ge=1)
    top_p: float | None = Field(default=None, gt=0, le=1)
    min_p: float | None = Field(default=None, ge=0, le=1)
    repetition_penalty: float = Field(default=1.0, gt=0)
    seed: int = 0
    stop: list[str] = Field(default=[], max_length=16)

    @model_validator(mode="after")
    def _can_be_meant(self) -> Self:
        self.as_asked()
        return self

    def as_asked(self) -> WritingRequest:
        """The same for the network."""
        settings = self.model_dump(exclude={"prompt", "tokens", "stop"})
        return WritingRequest(
            prompt=self.prompt, tokens=self.tokens, sampling=Sampling(**settings), stop=tuple(self.stop)
        )


class BrickroadModel(PythonModel):
    """Loads a checkpoint folder without pickle, and continues prompts."""

    loaded: LoadedModel

    def load_context(self, context: PythonModelContext) -> None:
        """Called once by MLflow, with the folder of this version."""
        self.loaded = load_model(Path(context.artifacts["checkpoint"]))

    def predict(self, model_input: list[TextRequest]) -> list[str]:
        """One text for each request, the prompt not repeated."""
        requests = [request.as_asked() for request in model_input]
        return [
            text
            for begin in range(0, len(requests), MAXIMUM_ROWS)
            for text in self._texts(requests[begin : begin + MAXIMUM_ROWS])
        ]

    def _texts(self, requests: list[WritingRequest]) -> list[str]:
        texts = [""] * len(requests)
        for piece in self.loaded.write_batch(requests):
            texts[piece.row] += piece.text
        return texts


mlflow.models.set_model(BrickroadModel())
