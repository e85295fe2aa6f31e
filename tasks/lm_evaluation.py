"""The door to lm-evaluation-harness: any model of ours, as its tasks ask for it. Needs `pip install 'brickroad[evaluation]'`.

model = BrickroadLM(load_model(path))
lm_eval.simple_evaluate(model=model, tasks=["lambada_openai"])
"""

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from model.sampling import Sampling
from model.scoring import score_continuations
from tasks.loading import LoadedModel
from tasks.questions import encode_pair

_MOST_TOKENS = 256  # of an answer, where the task sets no limit


class BrickroadLM(LM):  # type: ignore[misc]  # lm_eval has no types
    """A model, scored by its own probabilities. Contexts longer than its window are cut in front."""

    def __init__(self, loaded: LoadedModel) -> None:
        super().__init__()
        self.loaded = loaded

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """For each (context, continuation): ln of its probability, and whether each token was the likeliest."""
        pairs = [encode_pair(self.loaded.tokenizer, *request.args) for request in requests]
        return [
            (-score.nats, score.is_likeliest) for score in score_continuations(self.loaded.network, pairs)
        ]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """For each (text,): ln of the probability of all of it, as a document of its own."""
        tokenizer = self.loaded.tokenizer
        pairs = [([tokenizer.end_of_text], list(tokenizer.encode(request.args[0]))) for request in requests]
        return [-score.nats for score in score_continuations(self.loaded.network, pairs)]

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """For each (context, settings): what the model writes, up to the first of the strings in `until`."""
        return [self._answer(*request.args) for request in requests]

    def _answer(self, context: str, settings: dict[str, object]) -> str:
        until = settings.get("until") or []
        return "".join(
            self.loaded.write(
                context,
                tokens=int(settings.get("max_gen_toks", _MOST_TOKENS)),  # type: ignore[call-overload]
                sampling=Sampling(temperature=float(settings.get("temperature", 0.0))),  # type: ignore[arg-type]
                stop=[until] if isinstance(until, str) else list(until),  # type: ignore[call-overload]
            )
        )
