"""Pools and models side by side: the same steps as tasks on the workers of a Dask cluster, from files to files.

A task gets settings and a name and leaves files; nothing that is fitted travels between processes. Prices are ingested
here, once. Then each pool is the steps of its round, those of single models side by side; a pool waits for no other.
One thread a worker: as many workers as cores.

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
from prefect_dask.task_runners import DaskTaskRunner

from flows.prefect_flows import as_task
from flows.retrain import COMPUTE, SERVICE, Policy, Retrained, Watch, each_in_turn, ingest, stays, together
from pipeline import judging, prequential, promotion, steps
from pipeline.config import Config
from pipeline.judging import Compared
from pipeline.prequential import Plan
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


def compare(config: Config, number: int) -> Compared:
    """Compare all models in a round; the rows of single series stay in comparison.json, of which there may be many."""
    whole = judging.compare(config) if number == 1 else prequential.compare(config)
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

    judged: Mapping[str, PrefectFuture[None]]
    compared: PrefectFuture[Compared]
    run: PrefectFuture[str]
    refits: Mapping[str, PrefectFuture[str]]
    promoted: PrefectFuture[Promoted]
    closed: PrefectFuture[None]


def submit(pool: str, config: Config, plan: Plan) -> Submitted:
    """Give the tasks of a pool's round to the workers."""
    first = plan.number == 1
    judge, names = (fit_and_walk, config.models) if first else (prequential.judge, (*config.models, judging.INCUMBENT))
    judged = {name: _task(judge, COMPUTE, pool, name).submit(config, name) for name in names}
    compared = _task(compare, COMPUTE, pool).submit(config, plan.number, wait_for=list(judged.values()))
    run = _task(judging.record, SERVICE, pool).submit(config, wait_for=[compared])
    refits = {
        name: _task(prequential.refit, COMPUTE, pool, name).submit(config, name, wait_for=[run])
        for name in config.models
    }
    promoted = _task(promotion.follow, SERVICE, pool).submit(config, wait_for=list(refits.values()))
    closed = _task(prequential.close, COMPUTE, pool).submit(config, wait_for=[promoted])
    return Submitted(judged=judged, compared=compared, run=run, refits=refits, promoted=promoted, closed=closed)


def _task(step: Callable[..., Any], policy: Policy, *of: str) -> Task[..., Any]:
    """Make a task whose runs Prefect lists by the step and what it is done to."""
    return as_task(step, policy).with_options(task_run_name=" ".join(filter(None, (step.__name__, *of))))


def finish(pool: str, submitted: Submitted, ingested: Ingested, watch: Watch) -> Retrained:
    """Wait for the workers, and say for what."""
    named = f"{pool}: " if pool else ""
    for name, judged in submitted.judged.items():
        watch.begins(f"{named}judging {name}")
        judged.result()
    watch.begins(f"{named}comparing models")
    compared = submitted.compared.result()
    watch.begins(f"{named}recording in MLflow")
    run = submitted.run.result()
    for name, refit in submitted.refits.items():
        watch.begins(f"{named}fitting {name} on everything")
        refit.result()
    watch.begins(f"{named}exporting through the parity gate, and promoting")
    promoted = submitted.promoted.result()
    submitted.closed.result()
    return Retrained(ingested=ingested, compared=compared, run=run, promoted=promoted)


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
    workers: Any = runner(scale)  # Prefect's own type of a task runner has no room for that of Dask

    @flow(name="statecast-retrain-side-by-side", persist_result=False, task_runner=workers)
    def retrain(config: Config = Config()) -> dict[str, Retrained]:  # noqa: B008  frozen
        """Ingest once, then retrain every pool; one that fails leaves the others their turn.

        Raises
        ------
        StatecastError
            A pool failed; the message names all that did with their reasons, and the others serve.
        """
        ingested = ingest(config, watch, as_task)
        there = {pool: _resolved(one) for pool, one in config.each.items()}
        _open_mlflow(there.values())
        plans = {pool: _task(prequential.begin, COMPUTE, pool).submit(one) for pool, one in there.items()}
        submitted: dict[str, Submitted] = {}
        done: dict[str, Retrained] = {}

        def begin(pool: str) -> None:
            plan = plans[pool].result()
            if plan.news:
                submitted[pool] = submit(pool, there[pool], plan)
            else:
                done[pool] = stays(there[pool], ingested)

        def end(pool: str) -> None:
            if pool in submitted:
                done[pool] = finish(pool, submitted[pool], ingested, watch)

        failed = each_in_turn(begin, there)
        failed |= each_in_turn(end, there)
        if failed:
            raise together(failed, len(there))
        return {pool: done[pool] for pool in there}

    return retrain


def _resolved(config: Config) -> Config:
    """Name folders in full, for workers may stand in another one."""
    return replace(config, folder=config.folder.resolve(), home=config.base.resolve())
