"""Pools and models side by side: the same steps as tasks on the workers of a Dask cluster, from files to files.

A task gets settings and a name and leaves files; nothing that is fitted travels between processes. Fits with their walks,
one task a pool and model, and then the comparison of each pool run on workers. What writes to MLflow and to the
champions, record and promote, stays here, in order, while workers go on with later pools. One thread a worker: as
many workers as cores.

Comes in: settings, and someone who watches. Goes out: `Retrained` of each pool, and runs in Prefect. The only file
that knows Dask; imported by the command line through `embedded`, after Prefect's environment is set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from prefect import Flow, Task, flow
from prefect.client.orchestration import get_client
from prefect.futures import PrefectFuture
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect_dask import DaskTaskRunner

from flows.prefect_flows import as_task
from flows.retrain import COMPUTE, SERVICE, Retrained, Watch
from models.errors import ModelError, StatecastError
from pipeline import judging, promotion, steps
from pipeline.config import Config
from pipeline.judging import Compared
from pipeline.scale_config import ScaleConfig
from pipeline.steps import Ingested

THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"), "1")
"""Environment of a worker: two of them with two threads each on two cores would only wait for each other."""


def fit_and_walk(config: Config, name: str) -> None:
    """Fit one model and walk it forward."""
    steps.train(config, name)
    steps.backtest(config, name)


def runner(scale: ScaleConfig) -> DaskTaskRunner:
    """Give tasks to a cluster that is running, or to processes of this machine that live as long as the flow."""
    if scale.address is not None:
        return DaskTaskRunner(address=scale.address)
    return DaskTaskRunner(cluster_kwargs=local(scale.workers))


def local(workers: int) -> dict[str, Any]:
    """Describe a cluster of processes on this machine, as `distributed.LocalCluster` takes it."""
    return {
        "n_workers": workers,
        "threads_per_worker": 1,
        "host": "127.0.0.1",
        "dashboard_address": None,
        "env": THREADS,
    }


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """What workers do for a pool: a fit and walk for each model, and the comparison that waits for them."""

    config: Config
    fits: Mapping[str, PrefectFuture[None]]
    compared: PrefectFuture[Compared]


def submit(pool: str, config: Config) -> Submitted:
    """Give the tasks of a pool to the workers, each with its name as Prefect lists it."""
    there = replace(config, folder=config.folder.resolve(), home=config.base.resolve())
    fits = {name: _named(fit_and_walk, pool, name).submit(there, name) for name in config.models}
    compared = _named(judging.compare, pool).submit(there, wait_for=list(fits.values()))
    return Submitted(config=config, fits=fits, compared=compared)


def _named(step: Callable[..., Any], *of: str) -> Task[..., Any]:
    """Make a task whose runs are called after the step and what it is done to."""
    return as_task(step, COMPUTE).with_options(task_run_name=" ".join(filter(None, (step.__name__, *of))))


def finish(pool: str, submitted: Submitted, ingested: Ingested, watch: Watch) -> Retrained:
    """Wait for the workers, then record and promote."""
    named = f"{pool}: " if pool else ""
    for name, fit in submitted.fits.items():
        watch.begins(f"{named}fitting {name} and walking it forward")
        fit.result()
    watch.begins(f"{named}comparing models")
    compared = submitted.compared.result()
    watch.begins(f"{named}recording in MLflow")
    run = as_task(judging.record, SERVICE)(submitted.config)
    watch.begins(f"{named}exporting through the parity gate, and promoting")
    promoted = as_task(promotion.promote, SERVICE)(submitted.config)
    return Retrained(ingested=ingested, compared=compared, run=run, promoted=promoted)


def retrain(config: Config, watch: Watch) -> dict[str, Retrained]:
    """Retrain every pool, against one server: workers are told its address, else each would start a server of its own."""
    with get_client(sync_client=True) as client:
        address = str(client.api_url)
    with temporary_settings({PREFECT_API_URL: address}):
        return retrain_watched_by(watch, config.scale)(config)


def retrain_watched_by(watch: Watch, scale: ScaleConfig) -> Flow[..., dict[str, Retrained]]:
    """Make the flow of a retrain whose tasks run side by side."""

    @flow(name="statecast-retrain-side-by-side", persist_result=False, task_runner=runner(scale))
    def retrain(config: Config = Config()) -> dict[str, Retrained]:  # noqa: B008  frozen
        """Ingest once, then retrain every pool; one that fails leaves the others their turn.

        Raises
        ------
        ModelError
            Some of several pools failed; the message names them with their reasons, and the others serve.
        """
        watch.begins("reading prices")
        ingested = as_task(steps.ingest, SERVICE)(config)
        watch.ingested(ingested)
        submitted = {pool: submit(pool, one) for pool, one in config.each.items()}
        done, failed = {}, {}
        for pool, one in submitted.items():
            try:
                done[pool] = finish(pool, one, ingested, watch)
            except StatecastError as error:
                if len(submitted) == 1:
                    raise
                failed[pool] = error
        if failed:
            reasons = "; ".join(f"{pool}: {error}" for pool, error in failed.items())
            raise ModelError(f"{len(failed)} of {len(submitted)} pools failed, the others are done: {reasons}")
        return done

    return retrain
