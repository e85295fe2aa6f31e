"""What is known of a training over all its sittings, and whether it still gets better."""

from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class SoFar:
    """Saved with each checkpoint. Losses in nats per token."""

    train_loss: float | None = None  # of the last step that was looked at, and whose update was made
    best_val_loss: float | None = None
    worse_evaluations: int = 0  # in a row, up to now, with no better val loss
    skipped_updates: int = 0

    def count_val_loss(self, loss: float) -> None:
        """One more evaluation came to this."""
        if self.best_val_loss is None or loss < self.best_val_loss:
            self.best_val_loss, self.worse_evaluations = loss, 0
        else:
            self.worse_evaluations += 1

    def has_tried(self, patience: int) -> bool:
        """Whether so many val losses in a row were no better than the best; 0 is endless patience."""
        return 0 < patience <= self.worse_evaluations
