"""What runs of deployments may do at the same time: one of them has the GPU."""

import contextlib
from collections.abc import Iterator
from typing import Final

from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound

GPU: Final = "gpu"  # the name of the limit, and of the work pool
LEASE_SECONDS: Final = 60.0  # until the slot of a killed holder comes back; Prefect takes no shorter one


@contextlib.contextmanager
def gpu_slot() -> Iterator[None]:
    """Inside, the run of a deployment is the only one that trains; what a person types waits for nobody.

    A slot is a lease that is renewed: a holder that is killed loses it within a minute, and one whose server does not answer
    goes on. Raises ValueError if the server has no such limit: without one, two trainings would share a GPU's memory.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or context.flow_run.deployment_id is None:
        yield
        return
    _refuse_missing_limit()
    with concurrency(GPU, strict=True, lease_duration=LEASE_SECONDS, raise_on_lease_renewal_failure=False):
        yield


def _refuse_missing_limit() -> None:
    try:
        with get_client(sync_client=True) as client:
            client.read_global_concurrency_limit_by_name(GPU)
    except ObjectNotFound:
        raise ValueError(
            f"this Prefect server has no concurrency limit {GPU!r}, so nothing keeps two trainings apart; "
            f"make it with: prefect gcl create {GPU} --limit 1 (brickroad up does so by itself)"
        ) from None
