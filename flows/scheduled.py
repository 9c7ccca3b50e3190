"""A schedule of retrains, and the Prefect server that keeps it, in this process.

A moment that was missed, because nothing ran or the run died, is caught up with once when the schedule begins.

Comes in: settings, a cron expression, and a socket. Goes out: runs, each in a process of its own, until a signal.
Imported by `embedded`, which sets the environment before.
"""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from socket import socket
from typing import Any
from uuid import UUID

import uvicorn
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
)
from prefect.client.schemas.objects import StateType
from prefect.deployments.flow_runs import arun_deployment
from prefect.runner import Runner
from prefect.types.entrypoint import EntrypointType

from flows import prefect_flows
from flows.every import last_before
from models.errors import TransientError
from pipeline import settings
from pipeline.config import Config

NAME = "every"
"""Name of the deployments."""

_GRACE_S = 5
"""Seconds that open connections are given when the server ends."""

_BEGAN = {StateType.COMPLETED, StateType.FAILED, StateType.RUNNING, StateType.PENDING}


@contextmanager
def server(listening: socket) -> Iterator[None]:
    """Run a Prefect server with its scheduler in a thread.

    Raises
    ------
    TransientError
        It did not begin.
    """
    from prefect.server.api.server import create_app

    config = uvicorn.Config(create_app(), log_level="error", lifespan="on", timeout_graceful_shutdown=_GRACE_S)
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, args=([listening],), name="prefect-server", daemon=True)
    thread.start()
    while thread.is_alive() and not running.started:
        time.sleep(0.05)
    if not thread.is_alive():
        raise TransientError("the embedded Prefect server: expected it to begin, but it ended. Its home may be damaged")
    try:
        yield
    finally:
        running.should_exit = True
        thread.join(4 * _GRACE_S)


def serve(config: Config, cron: str, tell: Callable[[], None]) -> None:
    """Run retrains by a schedule, and scores every hour, until SIGTERM or Ctrl-C."""
    with suppress(asyncio.CancelledError):
        asyncio.run(_serve(config, cron, tell))


async def _serve(config: Config, cron: str, tell: Callable[[], None]) -> None:
    runner = Runner(name="statecast", limit=None)
    given = {"config": settings.to_dict(replace(config, folder=config.folder.resolve()))}
    retrain = await _added(runner, prefect_flows.retrain, cron, given | {"due": {}})
    name = f"{prefect_flows.retrain.name}/{NAME}"
    await _added(runner, prefect_flows.score, "45 * * * *", given | {"retrain": name})
    serving = asyncio.ensure_future(runner.start())
    while not runner.started and not serving.done():
        await asyncio.sleep(0.05)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, serving.cancel)
    if await _missed(retrain, cron):
        await arun_deployment(name, timeout=0, as_subflow=False)
    tell()
    await serving


async def _added(runner: Runner, flow: Any, cron: str, parameters: dict[str, Any]) -> UUID:
    """Deploy a flow by the name of its module, so that a run imports it whatever folder this is called from."""
    deployment = await flow.ato_deployment(
        NAME, cron=cron, paused=False, parameters=parameters, entrypoint_type=EntrypointType.MODULE_PATH
    )
    return await runner.aadd_deployment(deployment)


async def _missed(deployment: UUID, cron: str) -> bool:
    """Tell whether no run has begun since the last scheduled moment that did not die."""
    last = last_before(cron, datetime.now(UTC))
    since = FlowRunFilterExpectedStartTime(after_=last)  # pyright: ignore[reportArgumentType]  it takes any datetime
    async with get_client() as client:
        runs = await client.read_flow_runs(
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment])),
            flow_run_filter=FlowRunFilter(expected_start_time=since),
        )
    return not any(run.state_type in _BEGAN for run in runs)
