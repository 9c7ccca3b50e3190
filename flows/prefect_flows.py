"""The same steps as Prefect flows and tasks: retries, timeouts, artifacts, turns. No arithmetic.

Only errors that say of themselves that they may pass are retried. Nothing is cached by Prefect: a step that finds its
result on disk, of the same prices, settings and code, returns at once, here as on the command line. A run that has
nothing to do ends as Skipped, with the reason. `deploy/prefect.yaml` deploys these flows; the environment that an
embedded run wants is set by `embedded` before Prefect is first imported.

Comes in: settings. Goes out: runs in Prefect. Imported where a flow runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any

from prefect import Flow, State, Task, flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.deployments import run_deployment
from prefect.runtime import task_run
from prefect.states import Completed

from flows import artifacts
from flows.gpu import slot
from flows.retrain import COMPUTE, SERVICE, Policy, Retrained, Watch, retrain_each, steps_of
from flows.takeover import turn_of_run
from models.errors import StatecastError
from pipeline import champions, judging, prequential, promotion, steps
from pipeline.config import Config
from pipeline.due import Due, DueConfig, closed, drift_since
from pipeline.due import due as is_due
from pipeline.prices import PriceStore
from pipeline.scorecard import Scored, scorecard
from pipeline.steps import Ingested
from pipeline.training import EpochRecord
from pipeline.turn import BusyError

SKIPPED = "Skipped"
"""Name of the state in which a run ends that had nothing to do."""


class Logged:
    """Watch a run from Prefect's own log."""

    def ingested(self, result: Ingested) -> None:
        """Log what was read."""
        get_run_logger().info("%d rows read, %d kept", result.report.rows_read, result.report.rows_kept)

    def begins(self, what: str, epochs: int = 0) -> None:  # noqa: ARG002  the log has no bar
        """Log what begins."""
        get_run_logger().info(what)

    def epoch(self, record: EpochRecord) -> None:
        """Log the losses of an epoch."""
        losses = (record.epoch, record.train_loss, record.validation_loss)
        get_run_logger().info("epoch %d: train loss %.4f, validation loss %.4f", *losses)

    def refitted(self, done: int) -> None:
        """Log how many refits of a walk are done."""
        get_run_logger().info("%d refits done", done)


# ---------------------------------------------------------------------------------------------------- steps as tasks


def may_pass(_task: Any, _run: Any, state: Any) -> bool:
    """Tell whether a failed task is worth another try."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, StatecastError) and error.transient


def as_task(step: Callable[..., Any], policy: Policy) -> Task[..., Any]:
    """Wrap a step as a Prefect task with its retries and its timeout; one that fits takes the slot of the GPU."""
    return task(
        name=step.__name__,
        task_run_name=_step_and_model,
        retries=policy.retries,
        retry_delay_seconds=[2.0**k for k in range(1, policy.retries + 1)] or None,
        retry_condition_fn=may_pass,
        timeout_seconds=policy.timeout_s,
        cache_policy=NO_CACHE,
        persist_result=False,
    )(_in_slot(step) if step in (steps.train, steps.backtest, prequential.refit) else step)


def _in_slot(step: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(step)
    def held(config: Config, name: str, *told: Any) -> Any:
        with slot(config, name):
            return step(config, name, *told)

    return held


def _step_and_model() -> str:
    """Name a task run for who reads the list of them: `train gru`."""
    return " ".join(filter(None, (task_run.task_name, task_run.parameters.get("name"))))


# --------------------------------------------------------------------------------------------------- one step a flow


@flow(name="statecast-ingest", persist_result=False)
def ingest(config: Config = Config()) -> State | None:  # noqa: B008  frozen
    """Read new prices into the store; while the data folder is retrained, which reads them too, end as Skipped."""
    try:
        with turn_of_run(config.folder):
            artifacts.ingested(as_task(steps.ingest, SERVICE)(config))
    except BusyError as why:
        return Completed(name=SKIPPED, message=str(why))
    return None


@flow(name="statecast-train", persist_result=False)
def train(model: str, config: Config = Config()) -> None:  # noqa: B008
    """Fit one model."""
    as_task(steps.train, COMPUTE)(config, model, Logged().epoch)


@flow(name="statecast-backtest", persist_result=False)
def backtest(model: str, config: Config = Config()) -> None:  # noqa: B008
    """Walk a fitted model forward over the test split."""
    as_task(steps.backtest, COMPUTE)(config, model, Logged().refitted)


@flow(name="statecast-compare", persist_result=False)
def compare(config: Config = Config()) -> None:  # noqa: B008
    """Score and test all configured models on identical origins, and log the result to MLflow."""
    compared = as_task(judging.compare, COMPUTE)(config)
    artifacts.compared(config, compared, as_task(judging.record, SERVICE)(config))


@flow(name="statecast-promote", persist_result=True, result_serializer="json")
def promote(model: str | None = None, config: Config = Config()) -> dict[str, Any]:  # noqa: B008
    """Carry out the decision of the last comparison, or promote a model named by hand."""
    promoted = as_task(promotion.promote, SERVICE)(config, model)
    artifacts.promoted(promoted)
    return asdict(promoted) | {"file": str(promoted.file)}


# -------------------------------------------------------------------------------------------------------- all of them


def retrain_watched_by(watch: Watch) -> Flow[..., Any]:
    """Make the flow of a retrain; a watch is no parameter, for parameters are written down by Prefect."""

    @flow(name="statecast-retrain", persist_result=False)
    def retrain(config: Config = Config(), due: DueConfig | None = None) -> dict[str, Retrained] | State:  # noqa: B008
        """Ingest, judge, record, fit anew and promote, for each pool; with `due`, only where that is worth it.

        Ends as Skipped where another run retrains the same data folder, and where nothing makes a retrain due.
        """
        try:
            with turn_of_run(config.folder):
                if due is not None and (why := _closed(config)):
                    return Completed(name=SKIPPED, message=why)
                results = _retrained(config, due, watch)
        except BusyError as why:
            return Completed(name=SKIPPED, message=str(why))
        if due is not None and all(result.compared is None for result in results.values()):
            return Completed(name=SKIPPED, message="; ".join({r.promoted.reason for r in results.values()}))
        return results

    return retrain


def _closed(config: Config) -> str | None:
    """Say that the exchange has not been open since the last retrain of any pool."""
    told = [closed(one, datetime.now(UTC)) for one in config.each.values()]
    return told[0] if all(told) else None


def _retrained(config: Config, due: DueConfig | None, watch: Watch) -> dict[str, Retrained]:
    progress = artifacts.Progress(steps_of(config))

    def wrap(step: Callable[..., Any], policy: Policy) -> Callable[..., Any]:
        return progress.over(as_task(step, policy), step.__name__)

    def why_not(config: Config) -> str | None:
        found = None if due is None else is_due(config, due)
        return None if found is None or found.yes else found.why

    results = retrain_each(config, watch, wrap, why_not)
    progress.end()
    artifacts.ingested(next(iter(results.values())).ingested)
    for pool, result in results.items():
        if result.compared is not None and result.run is not None:
            artifacts.compared(config.each[pool], result.compared, result.run)
        artifacts.promoted(result.promoted)
    return results


retrain = retrain_watched_by(Logged())


# ------------------------------------------------------------------------------------------------------- what serves


@flow(name="statecast-score", persist_result=True, result_serializer="json")
def score(
    config: Config = Config(),  # noqa: B008
    due: DueConfig = DueConfig(),  # noqa: B008
    forecasts: Path | None = None,
    retrain: str | None = None,
) -> dict[str, Any]:
    """Hold the live forecasts against the prices that came, look for drift, and start a retrain where one is due.

    Parameters
    ----------
    config : Config
    due : DueConfig
        What makes a retrain due, and whose notes tell of drifts; the stream may be running.
    forecasts : Path, optional
        File to which the stream gives its forecasts out.
    retrain : str, optional
        Deployment to run where a retrain is due, such as statecast-retrain/daily.
    """
    scores: list[Scored] = []
    if forecasts is not None and forecasts.exists():
        scores = as_task(scorecard, SERVICE)(forecasts, PriceStore(config.prices))
    told = {}
    for pool, one in config.each.items():
        found: Due = as_task(is_due, SERVICE)(one, due)
        cutoff = champions.load(one.folder / "champions", one.champion).metadata.cutoff_time
        drifted = drift_since(one, due, cutoff)
        artifacts.scored(scores, found, drifted)
        told[pool] = {"due": found.yes, "why": found.why, "drift": drifted}
    if retrain is not None and any(one["due"] for one in told.values()):
        run_deployment(retrain, timeout=0, as_subflow=False)
    return {"pools": told, "scores": [asdict(row) for row in scores]}


@flow(name="statecast-report", persist_result=False)
def report(config: Config = Config()) -> None:  # noqa: B008
    """Show which model serves since when, and the last comparison."""
    for one in config.each.values():
        artifacts.serving(one)
