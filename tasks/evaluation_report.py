"""The page of an evaluation: one file that needs no network."""

from markupsafe import Markup

from tasks.evaluation import DocumentGroup, Evaluation
from tasks.pages import Bar, render_page
from tasks.pictures import as_svg, calibration, loss_by_position

_SOURCES_SHOWN = 12


def evaluation_page(evaluation: Evaluation) -> str:
    """The page as HTML."""
    hardest = sorted(evaluation.by_source, key=lambda group: -group.loss)[:_SOURCES_SHOWN]
    bins = evaluation.calibration
    return render_page(
        "evaluation_report.html",
        evaluation=evaluation,
        references=_references(evaluation),
        by_position=Markup(as_svg(loss_by_position(evaluation.by_position))),  # nosec B704 # a picture drawn here from numbers
        calibration=Markup(  # nosec B704 # a picture drawn here from numbers
            as_svg(
                calibration(
                    [each.certainty for each in bins],
                    [each.right for each in bins],
                    [each.tokens for each in bins],
                )
            )
        ),
        by_length=_bars(evaluation.by_length),
        by_source=_bars(hardest),
        more_sources=len(evaluation.by_source) > len(hardest),
    )


def _references(evaluation: Evaluation) -> list[Bar]:
    lines = evaluation.references
    losses = {
        "every token equally likely": lines.uniform,
        "by frequency": lines.unigram,
        "by the token before": lines.bigram,
        "this model": evaluation.val_loss,
    }
    return [
        Bar(label=name, amount=f"{loss:.4f}", share=loss / max(losses.values()))
        for name, loss in losses.items()
    ]


def _bars(groups: list[DocumentGroup]) -> list[Bar]:
    most = max((group.loss for group in groups), default=1.0)
    return [
        Bar(
            label=group.name,
            amount=f"{group.loss:.4f} ({group.documents:,} documents, {group.tokens:,} tokens)",
            share=group.loss / most,
        )
        for group in groups
    ]
