"""How fast a training is: tokens a second of its steps alone."""

import time
from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class Throughput:
    """Tokens, and the seconds that steps took for them, over all sittings of a training.

    What lies between the end of one `count` and a `go_on` is not a step's time: evaluations, checkpoints. Nor is what comes
    before the first `count` of a sitting: there a compiler works, and memory is touched for the first time.
    """

    tokens: int = 0
    seconds: float = 0.0
    _warm_up: tuple[int, float] | None = None  # tokens and seconds before the first `count`
    _began: float = field(default_factory=time.monotonic)

    def count(self, tokens: int) -> None:
        """So many tokens were trained on since the last call or `go_on`. The device must have done them."""
        seconds = time.monotonic() - self._began
        if self._warm_up is None:
            self._warm_up = tokens, seconds
        else:
            self.tokens += tokens
            self.seconds += seconds
        self.go_on()

    def go_on(self) -> None:
        """What happened since the last `count` was something else."""
        self._began = time.monotonic()

    @property
    def tokens_per_second(self) -> float:
        """Mean so far; of the warm-up, while there is nothing else; 0 before."""
        tokens, seconds = (self.tokens, self.seconds) if self.tokens else self._warm_up or (0, 0.0)
        return tokens / seconds if seconds else 0.0
