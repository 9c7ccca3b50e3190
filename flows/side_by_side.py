"""Pools and models side by side: the same steps as tasks on the workers of a Dask cluster, from files to files.

A task gets settings and a name and leaves files; nothing that is fitted travels between processes. Prices are ingested
here, once. Then each pool is a fit with its walk a model, and behind them compare, record and promote; a pool waits for
no other. One thread a worker: as many workers as cores.

Comes in: settings, and someone who watches. Goes out: `Retrained` of each pool, and runs in Prefect. The only file
that knows Dask; imported by the command line through `embedded`, after Prefect's environment is set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from prefect import Flow, Task, flow
from prefect.client.orchestration import get_client
from prefect.futures import PrefectFuture
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect_dask import DaskTaskRunner

from flows.prefect_flows import as_task
from flows.retrain import COMPUTE, SERVICE, Policy, Retrained, Watch
from models.errors import ModelError, StatecastError
from pipeline import judging, promotion, steps
from pipeline.config import Config
from pipeline.judging import Compared
from pipeline.promotion import Promoted
from pipeline.scale_config import ScaleConfig
from pipeline.steps import Ingested
from pipeline.tracking import Tracker, TrackingConfig

THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"), "1")
"""Environment of a worker: two of them with two threads each on two cores would only wait for each other."""


def fit_and_walk(config: Config, name: str) -> None:
    """Fit one model and walk it forward."""
    steps.train(config, name)
    steps.backtest(config, name)


def compare(config: Config) -> Compared:
    """Compare all models; the rows of single series stay in comparison.json, for there may be thousands of them."""
    whole = judging.compare(config)
    return replace(whole, rows=[row for row in whole.rows if row.members])


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
        "dashboard_address": "127.0.0.1:0",
        "env": THREADS,
    }


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """What workers do for a pool, in the order in which each waits for those before it."""

    fits: Mapping[str, PrefectFuture[None]]
    compared: PrefectFuture[Compared]
    run: PrefectFuture[str]
    promoted: PrefectFuture[Promoted]


def submit(pool: str, config: Config) -> Submitted:
    """Give the tasks of a pool to the workers, who may stand in another folder."""
    config = replace(config, folder=config.folder.resolve(), home=config.base.resolve())
    fits = {name: _task(fit_and_walk, COMPUTE, pool, name).submit(config, name) for name in config.models}
    compared = _task(compare, COMPUTE, pool).submit(config, wait_for=list(fits.values()))
    run = _task(judging.record, SERVICE, pool).submit(config, wait_for=[compared])
    promoted = _task(promotion.promote, SERVICE, pool).submit(config, wait_for=[run])
    return Submitted(fits=fits, compared=compared, run=run, promoted=promoted)


def _task(step: Callable[..., Any], policy: Policy, *of: str) -> Task[..., Any]:
    """Make a task whose runs Prefect lists by the step and what it is done to."""
    return as_task(step, policy).with_options(task_run_name=" ".join(filter(None, (step.__name__, *of))))


def finish(pool: str, submitted: Submitted, ingested: Ingested, watch: Watch) -> Retrained:
    """Wait for the workers, and say for what."""
    named = f"{pool}: " if pool else ""
    for name, fit in submitted.fits.items():
        watch.begins(f"{named}fitting {name} and walking it forward")
        fit.result()
    watch.begins(f"{named}comparing models")
    compared = submitted.compared.result()
    watch.begins(f"{named}recording in MLflow")
    run = submitted.run.result()
    watch.begins(f"{named}exporting through the parity gate, and promoting")
    return Retrained(ingested=ingested, compared=compared, run=run, promoted=submitted.promoted.result())


def _open_mlflow(configs: Iterable[Config]) -> None:
    """Make stores and experiments that are not there yet, before several workers would at once."""
    for tracking, base in {(replace(config.tracking, model=TrackingConfig.model), config.base) for config in configs}:
        Tracker(tracking, base)


def retrain(config: Config, watch: Watch) -> dict[str, Retrained]:
    """Retrain every pool against one server: workers are told its address, or each would start one of its own."""
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
        _open_mlflow(config.each.values())
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
