"""The same steps as Prefect flows and tasks: retries, timeouts, artifacts, schedules. No arithmetic.

Only errors that say of themselves that they may pass are retried. `deploy/prefect.yaml` deploys these flows; the
environment that an embedded run wants is set by `embedded` before Prefect is first imported.

Comes in: settings. Goes out: runs in Prefect. The only file that imports prefect.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from flows.retrain import COMPUTE, SERVICE, Policy, Retrained, Watch, fit_and_walk
from flows.retrain import retrain as ordered
from flows.screen import Unwatched
from models.errors import StatecastError
from pipeline import steps
from pipeline.config import Config
from pipeline.steps import Promoted


def may_pass(_task: Any, _run: Any, state: Any) -> bool:
    """Tell whether a failed task is worth another try."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, StatecastError) and error.transient


def as_task(step: Callable[..., Any], policy: Policy) -> Callable[..., Any]:
    """Wrap a step as a Prefect task with its retries and its timeout."""
    return task(
        step,
        name=step.__name__,
        retries=policy.retries,
        retry_delay_seconds=[2.0**k for k in range(1, policy.retries + 1)] or None,
        retry_condition_fn=may_pass,
        timeout_seconds=policy.timeout_s,
        cache_policy=NO_CACHE,
        persist_result=False,
    )


@flow(name="statecast-ingest", persist_result=False)
def ingest(config: Config = Config()) -> None:  # noqa: B008  frozen
    """Read new prices into the store."""
    report, written = as_task(steps.ingest, SERVICE)(config)
    create_table_artifact(
        key="ingest",
        table=[dict(zip(("fault", "policy", "rows", "dropped", "first"), row, strict=True)) for row in report.rows()],
        description=f"{written.added} rows added, {written.unchanged} already there",
    )


@flow(name="statecast-train", persist_result=False)
def train(model: str, config: Config = Config()) -> None:  # noqa: B008
    """Fit one model."""
    as_task(steps.train, COMPUTE)(config, model)


@flow(name="statecast-backtest", persist_result=False)
def backtest(model: str, config: Config = Config()) -> None:  # noqa: B008
    """Fit one model and walk it forward."""
    fit_and_walk(config, model, Unwatched(), as_task)


@flow(name="statecast-promote", persist_result=False)
def promote(model: str | None = None, config: Config = Config()) -> None:  # noqa: B008
    """Carry out the decision of the last comparison, or promote a model named by hand."""
    _report_promotion(as_task(steps.promote, SERVICE)(config, model))


@flow(name="statecast-retrain", persist_result=False)
def retrain(config: Config = Config()) -> None:  # noqa: B008
    """Ingest, fit, walk forward, compare, record, promote."""
    watched_retrain(config, Unwatched())


def watched_retrain(config: Config, watch: Watch) -> Retrained:
    """Run the retrain inside a flow, with each step a task, and leave its artifacts."""
    result = ordered(config, watch, as_task)
    create_table_artifact(
        key="comparison",
        table=[row.to_dict() for row in result.compared.rows],
        description=f"MLflow run {result.run}. {result.compared.decision.reason}",
    )
    _report_promotion(result.promoted)
    return result


def _report_promotion(promoted: Promoted) -> None:
    what = "now serves" if promoted.changed else "keeps serving"
    create_markdown_artifact(
        key="champion",
        markdown=f"**{promoted.model}** {what} as version {promoted.version} (`{promoted.sha256[:12]}`).\n\n"
        f"{promoted.reason}",
    )
