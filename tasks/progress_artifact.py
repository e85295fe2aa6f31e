"""How far something is, as an artifact in Prefect: told on the side, so that a server that is slow or away holds up nothing."""

import sys
from concurrent.futures import Future
from typing import TYPE_CHECKING, Self
from uuid import UUID

from tasks.patience import begun

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

_LAST_SECONDS = 5.0  # for the last word, which says that it is done


class ProgressArtifact:
    """A bar on the page of a flow run, until it is closed.

    Prefect's own function for it makes a client, and tells all who listen to events, each time: three times the work, while
    others want the processor.
    """

    def __init__(self, artifact: UUID, client: "SyncPrefectClient") -> None:
        self._id = artifact
        self._client = client.__enter__()
        self._on_its_way: Future[None] | None = None
        self._has_failed = False

    @classmethod
    def of_this_run(cls, key: str, what: str) -> Self | None:
        """A new one under a key; None outside a flow run."""
        if "prefect.context" not in sys.modules:  # no flow runs here, and importing it would take seconds
            return None
        from prefect import get_client
        from prefect.artifacts import create_progress_artifact
        from prefect.context import FlowRunContext

        if FlowRunContext.get() is None:
            return None
        created = create_progress_artifact(progress=0.0, key=key, description=what)
        assert isinstance(created, UUID)
        return cls(created, get_client(sync_client=True))

    def tell(self, percent: float, description: str) -> None:
        """Returns at once. While the word before is on its way this one is left out: another comes."""
        if self._on_its_way is None or self._on_its_way.done():
            self._note_failure(0.0)
            self._on_its_way = begun(lambda: self._update(percent, description))

    def finish(self, description: str) -> None:
        """The last word, which gets some seconds to arrive."""
        self._note_failure(_LAST_SECONDS)
        self._on_its_way = begun(lambda: self._update(100.0, description))
        self._note_failure(_LAST_SECONDS)

    def close(self) -> None:
        """Nothing more will be told."""
        self._client.__exit__()

    def _update(self, percent: float, description: str) -> None:
        told = {"data": min(percent, 100.0), "description": description}
        self._client.request("PATCH", "/artifacts/{id}", json=told, path_params={"id": self._id})

    def _note_failure(self, seconds: float) -> None:
        """Says once that a word did not arrive. Whatever the way to the server raises: the work is not about that."""
        if self._on_its_way is None:
            return
        try:
            self._on_its_way.result(seconds)
        except Exception as error:
            if not self._has_failed:
                reason = " ".join(str(error).split())[:200] or "no answer"
                print(f"Prefect does not take how far it is ({reason}); the work goes on", file=sys.stderr)
            self._has_failed = True
