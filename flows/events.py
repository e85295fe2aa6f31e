"""What flows tell whoever listens: a new data set, a trained model. By it prefect.yaml starts the flow that comes next."""

from dataclasses import asdict, dataclass
from typing import ClassVar

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.events import Event, RelatedResource, Resource

from storage.announcements import note_announced, was_announced
from storage.datasets import Dataset


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetPublished:
    """A data set is there that was not there before."""

    event: ClassVar[str] = "brickroad.dataset.published"

    reference: str
    name: str
    digest: str

    @property
    def resource_id(self) -> str:
        """What the event is about."""
        return f"brickroad.dataset.{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTrained:
    """A run has a model that may be better than the champion."""

    event: ClassVar[str] = "brickroad.model.trained"

    run_id: str
    dataset: str

    @property
    def resource_id(self) -> str:
        """What the event is about."""
        return f"brickroad.run.{self.run_id}"


#: Every event by its name: what prefect.yaml may wait for, and which fields it may take.
EVENTS: dict[str, type[DatasetPublished] | type[ModelTrained]] = {
    kind.event: kind for kind in (DatasetPublished, ModelTrained)
}


def tell_of_dataset(dataset: Dataset) -> None:
    """Tells of a data set once in its life. Killed in between, the next build tells; a build within another flow leaves
    to that flow what comes of it, and nobody is told."""
    if FlowRunContext.get() is None or was_announced(dataset):
        return
    manifest = dataset.manifest
    tell(DatasetPublished(reference=dataset.reference, name=manifest.name, digest=manifest.digest))
    note_announced(dataset)


def tell(what: DatasetPublished | ModelTrained) -> None:
    """Tells the server of something, and returns when the server has it. Within another flow it tells nothing.

    By a request, not by Prefect's `emit_event`: that hands it to a thread, and drops what it cannot send.
    """
    context = FlowRunContext.get()
    assert context is not None, "flows tell"
    run = context.flow_run
    assert run is not None, "a flow has its run"
    if run.parent_task_run_id is not None and run.deployment_id is None:
        return
    told_by = RelatedResource(
        {"prefect.resource.id": f"prefect.flow-run.{run.id}", "prefect.resource.role": "flow-run"}
    )
    event = Event(
        event=what.event,
        resource=Resource({"prefect.resource.id": what.resource_id}),
        related=[told_by],
        payload=asdict(what),
    )
    with get_client(sync_client=True) as client:
        client.request("POST", "/events", json=[event.model_dump(mode="json")])
