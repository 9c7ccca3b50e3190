"""The turn of a flow run: nobody retrains a data folder beside it, and those that died in their turn are told of.

A process that is killed cannot say so, and its run stays Running in Prefect. The lock of the data folder is let go by
the system, so whoever holds it knows that the runs named in it are dead.

Comes in: a data folder, inside a flow run. Goes out: the turn, and runs marked as crashed. Imported by the flows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from prefect import get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.states import Crashed

from pipeline.turn import turn


@contextmanager
def turn_of_run(folder: Path) -> Iterator[None]:
    """Hold the turn of a data folder for this flow run.

    Raises
    ------
    BusyError
        Another process retrains it.
    """
    name = str(flow_run.get_id() or "")
    with turn(folder, name) as died:
        for other in filter(None, died):
            _crashed(UUID(other))
        yield


def _crashed(run: UUID) -> None:
    """Mark a run and its tasks as crashed, unless they have ended or are those of another server."""
    state = Crashed(message="its process died; another run of the data folder goes on from what it left")
    with get_client(sync_client=True) as client:
        try:
            found = client.read_flow_run(run)
        except ObjectNotFound:
            return
        if found.state is not None and found.state.is_final():
            return
        _tasks_crashed(client, run)
        client.set_flow_run_state(run, state, force=True)
    get_run_logger().warning(
        "run %s had died, and is marked as crashed; this one goes on from what it left", found.name
    )


def _tasks_crashed(client: SyncPrefectClient, run: UUID) -> None:
    inside = FlowRunFilter(id=FlowRunFilterId(any_=[run]))
    for task in client.read_task_runs(flow_run_filter=inside):
        if task.state is not None and not task.state.is_final():
            client.set_task_run_state(task.id, Crashed(message="its process died"), force=True)
