"""The registered model as MLflow runs it: this file is stored with each version and executed there ("models from code").

`mlflow.pyfunc.load_model("models:/brickroad-gpt@champion").predict([{"prompt": "The "}])` gives a list of texts.
"""

from pathlib import Path

import mlflow
from mlflow.pyfunc import PythonModel, PythonModelContext
from pydantic import BaseModel, Field

from tasks.loading import LoadedModel, load_model

MAXIMUM_TOKENS = 4096


class TextRequest(BaseModel):
    """What to write. The limits keep one request from holding a server for ever."""

    prompt: str = Field(default="", max_length=100_000)
    tokens: int = Field(default=200, ge=1, le=MAXIMUM_TOKENS)
    temperature: float = Field(default=0.8, ge=0)
    top_k: int | None = Field(default=None, ge=1)
    seed: int = 0


class BrickroadModel(PythonModel):
    """Loads a checkpoint folder without pickle, and continues prompts."""

    loaded: LoadedModel

    def load_context(self, context: PythonModelContext) -> None:
        """Called once by MLflow, with the folder of this version."""
        self.loaded = load_model(Path(context.artifacts["checkpoint"]))

    def predict(self, model_input: list[TextRequest]) -> list[str]:
        """One text for each request, the prompt not repeated."""
        return [
            "".join(
                self.loaded.write(
                    request.prompt,
                    tokens=request.tokens,
                    temperature=request.temperature,
                    top_k=request.top_k,
                    seed=request.seed,
                )
            )
            for request in model_input
        ]


mlflow.models.set_model(BrickroadModel())
