"""The slot of the GPU: of all runs on a Prefect server, one at a time trains on it.

    prefect deploy    reserves it, as the build step of `deploy/prefect.yaml`
    a task            takes it, where its step would train on cuda; nobody waits for it elsewhere

A server that has no such limit does not limit. A run that dies loses the slot when its lease ends, after five minutes.

Comes in: settings and the name of a model. Goes out: the slot, held for a while. Imported by the flows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency

from pipeline.config import Config
from pipeline.fitting import NETWORKS
from pipeline.training import resolve_device

SLOT = "gpu"


def reserve(limit: int = 1) -> dict[str, int]:
    """Let so many steps at once train on the GPUs of a server's machine; a build step gives what it has set."""
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(SLOT, limit)
    return {SLOT: limit}


@contextmanager
def slot(config: Config, name: str) -> Iterator[None]:
    """Hold the slot while a model is fitted on cuda; any other fit needs none."""
    if name in NETWORKS and resolve_device(config.fit.training.device).type == "cuda":
        with concurrency(SLOT):
            yield
    else:
        yield
