"""The same steps as Prefect flows and tasks: retries, timeouts, artifacts, schedules. No arithmetic.

Only errors that say of themselves that they may pass are retried. `deploy/prefect.yaml` deploys these flows; the
environment that an embedded run wants is set by `embedded` before Prefect is first imported.

Comes in: settings. Goes out: runs in Prefect. Imported where a flow runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefect import Flow, flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import task_run

from flows.retrain import COMPUTE, SERVICE, Policy, Retrained, Watch, retrain_each
from models.errors import StatecastError
from pipeline import judging, promotion, steps
from pipeline.compare import Row
from pipeline.config import Config
from pipeline.promotion import Promoted
from pipeline.report import Fault, done
from pipeline.steps import Ingested
from pipeline.training import EpochRecord


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


def may_pass(_task: Any, _run: Any, state: Any) -> bool:
    """Tell whether a failed task is worth another try."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, StatecastError) and error.transient


def as_task(step: Callable[..., Any], policy: Policy) -> Callable[..., Any]:
    """Wrap a step as a Prefect task with its retries and its timeout."""
    return task(
        name=step.__name__,
        task_run_name=_step_and_model,
        retries=policy.retries,
        retry_delay_seconds=[2.0**k for k in range(1, policy.retries + 1)] or None,
        retry_condition_fn=may_pass,
        timeout_seconds=policy.timeout_s,
        cache_policy=NO_CACHE,
        persist_result=False,
    )(step)


def _step_and_model() -> str:
    """Name a task run for who reads the list of them: `train gru`."""
    return " ".join(filter(None, (task_run.task_name, task_run.parameters.get("name"))))


@flow(name="statecast-ingest", persist_result=False)
def ingest(config: Config = Config()) -> None:  # noqa: B008  frozen
    """Read new prices into the store."""
    result = as_task(steps.ingest, SERVICE)(config)
    create_table_artifact(
        key="ingest",
        table=[_fault_row(fault) for fault in result.report.faults],
        description=f"{result.written.added} rows added, {result.written.unchanged} already there",
    )


def _fault_row(fault: Fault) -> dict[str, Any]:
    first = str(fault.examples[0]) if fault.examples else ""
    return {"fault": fault.name, "policy": fault.policy, "rows": fault.count, "done": done(fault), "first": first}


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
    run = as_task(judging.record, SERVICE)(config)
    _report_comparison(compared.rows, f"MLflow run {run}. {compared.decision.reason}")


@flow(name="statecast-promote", persist_result=False)
def promote(model: str | None = None, config: Config = Config()) -> None:  # noqa: B008
    """Carry out the decision of the last comparison, or promote a model named by hand."""
    _report_promotion(as_task(promotion.promote, SERVICE)(config, model))


def retrain_watched_by(watch: Watch) -> Flow[..., dict[str, Retrained]]:
    """Make the flow of a retrain; a watch is no parameter, for parameters are written down by Prefect."""

    @flow(name="statecast-retrain", persist_result=False)
    def retrain(config: Config = Config()) -> dict[str, Retrained]:  # noqa: B008
        """Ingest, judge, record, fit anew and promote, for each pool."""
        results = retrain_each(config, watch, as_task)
        for result in results.values():
            if result.compared is not None:
                _report_comparison(result.compared.rows, f"MLflow run {result.run}. {result.compared.decision.reason}")
            _report_promotion(result.promoted)
        return results

    return retrain


retrain = retrain_watched_by(Logged())


def _report_comparison(rows: list[Row], description: str) -> None:
    create_table_artifact(key="comparison", table=[row.to_dict() for row in rows], description=description)


def _report_promotion(promoted: Promoted) -> None:
    what = "now serves" if promoted.changed else "keeps serving"
    create_markdown_artifact(
        key="champion",
        markdown=f"**{promoted.model}** {what} as version {promoted.version} (`{promoted.sha256[:12]}`).\n\n"
        f"{promoted.reason}",
    )
