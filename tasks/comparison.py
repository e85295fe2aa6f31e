"""Two models beside each other on the same val split."""

from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from model.evaluation import EvaluationReport
from model.paired import PairedDifference, paired_difference
from storage.workspace import Workspace
from tasks.evaluation import dataset_for, measure, refuse_other_tokenizer
from tasks.loading import load_model
from tasks.pictures import two_models

_NAME_CHARACTERS = 24  # of a model in a picture; run ids are longer


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What two models make of a val split; `difference` is the second's loss less the first's."""

    dataset: str
    first: EvaluationReport
    second: EvaluationReport
    difference: PairedDifference

    def picture(self, first_name: str, second_name: str) -> Figure:
        """Both by place in the window, and document against document."""
        names = [
            name if len(name) <= _NAME_CHARACTERS else f"{name[:8]}…" for name in (first_name, second_name)
        ]
        return two_models((names[0], names[1]), (self.first, self.second), self.difference)


def compare(
    first: Path, second: Path, workspace: Workspace, *, dataset_reference: str | None = None
) -> Comparison:
    """Compares the models of two checkpoint folders on a val split, by default of the data set the first was trained on.

    What was measured before is not measured again. ValueError if either cannot read the data set's tokens.
    """
    loaded = [load_model(path) for path in (first, second)]
    dataset = dataset_for(loaded[0], dataset_reference, workspace)
    refuse_other_tokenizer(loaded[1], dataset)
    one, two = (measure(each, dataset, workspace) for each in loaded)
    found = paired_difference(one.document_nats, two.document_nats, one.document_tokens)
    return Comparison(dataset=dataset.reference, first=one, second=two, difference=found)
