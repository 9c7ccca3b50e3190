"""What the page of a flow run shows: tables, progress, links, and what was decided with its numbers and its reason.

Comes in: results of the steps, inside a flow run. Goes out: artifacts in Prefect. Imported by the flows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from pipeline import champions
from pipeline.compare import Decision
from pipeline.config import Config
from pipeline.due import Due
from pipeline.judging import Compared
from pipeline.metrics import POOLED
from pipeline.promotion import Promoted
from pipeline.report import Fault, done
from pipeline.scorecard import Scored
from pipeline.steps import Ingested, read_json
from pipeline.tracking import Tracker


class Progress:
    """How far a run is, as a bar on its page."""

    def __init__(self, steps: int) -> None:
        self._steps, self._done = steps, 0
        made = create_progress_artifact(0.0, key="progress", description=f"0 of {steps} steps")
        self._id = cast("UUID", made)  # no coroutine, for this is not one

    def over(self, step: Callable[..., Any], name: str) -> Callable[..., Any]:
        """Count a step when it is done."""

        def counted(*given: Any) -> Any:
            result = step(*given)
            self._done += 1
            told = f"{self._done} of {self._steps} steps, {name} done"
            update_progress_artifact(self._id, min(100.0 * self._done / self._steps, 100.0), told)
            return result

        return counted

    def end(self) -> None:
        """Fill the bar: fewer steps than the most were needed."""
        update_progress_artifact(self._id, 100.0, f"done, after {self._done} steps")


def ingested(result: Ingested) -> None:
    """Show what was found in the prices and what was written."""
    written = result.written
    what = "nothing written" if written is None else f"{written.added} rows added, {written.unchanged} already there"
    create_table_artifact(key="ingest", table=[_fault_row(fault) for fault in result.report.faults], description=what)


def _fault_row(fault: Fault) -> dict[str, Any]:
    first = str(fault.examples[0]) if fault.examples else ""
    return {"fault": fault.name, "policy": fault.policy, "rows": fault.count, "done": done(fault), "first": first}


def compared(config: Config, result: Compared, run: str) -> None:
    """Show the scores and verdicts of every model, the decision with its numbers, the page, and the run in MLflow."""
    rows = [row.to_dict() for row in result.rows]
    create_table_artifact(key="comparison", table=rows, description=f"MLflow run {run}. {result.decision.reason}")
    create_markdown_artifact(key="decision", markdown=_decision(result.decision))
    create_link_artifact(
        key="comparison-page", link=result.page.resolve().as_uri(), link_text="the comparison as a page"
    )
    mlflow(config, run)


def mlflow(config: Config, run: str) -> None:
    """Link the run in MLflow; where no server shows the store, say how to open it."""
    tracker = Tracker(config.tracking, config.base)
    page = tracker.page_of(run)
    if page is None:
        told = f"Run `{run}` of `{tracker.uri}`. To look at it:\n\n```sh\n{tracker.ui_command()}\n```"
        create_markdown_artifact(key="mlflow-run", markdown=told)
    else:
        create_link_artifact(key="mlflow-run", link=page, link_text=f"MLflow run {run}")


def _decision(decision: Decision) -> str:
    numbers = "".join(f"| {name} | {value:.6g} |\n" for name, value in decision.numbers.items())
    rival = f", challenger **{decision.challenger}**" if decision.challenger else ""
    return f"**{decision.model}** is to serve{rival}.\n\n{decision.reason}\n\n| number | value |\n|---|---|\n{numbers}"


def promoted(result: Promoted) -> None:
    """Show who serves now, whether it is new, and why."""
    what = "now serves" if result.changed else "keeps serving"
    served = f"**{result.model}** {what} as version {result.version} (`{result.sha256[:12]}`)."
    create_markdown_artifact(key="champion", markdown=f"{served}\n\n{result.reason}")


def scored(scores: Sequence[Scored], found: Due, drifted: str | None) -> None:
    """Show how the live forecasts hold, whether they have drifted since the fit, and whether a retrain is due."""
    create_table_artifact(
        key="scores",
        table=[asdict(row) for row in scores],
        description="Forecasts of the next price against the prices that came. rcrps, rmae: as shares of the absolute "
        "error of the last value, below 1 is better.",
    )
    drift = f"Newer than all that the champion's fit has seen: {drifted}." if drifted else "No drift since its fit."
    is_due = "A retrain is due" if found.yes else "No retrain is due"
    create_markdown_artifact(key="drift", markdown=f"{drift}\n\n{is_due}: {found.why}.")


def serving(config: Config) -> None:
    """Show which model serves since when, and the pooled scores of the last comparison with its page."""
    folder = config.folder / "champions"
    champion = champions.current(folder, config.champion)
    since = datetime.fromtimestamp(champions.entry_of(folder, config.champion).stat().st_mtime, UTC)
    comparison = read_json(config.folder / "comparison.json", "compare")
    rows = [
        {"model": row["model"], **row["scores"], "verdict": row["verdict"]["text"]}
        for row in comparison["rows"]
        if row["series"] == POOLED
    ]
    create_table_artifact(key="ranking", table=rows, description="All series together, from the last comparison.")
    served = (
        f"**{champion.fields.get('model', config.champion)}** serves as version {champion.version} "
        f"(`{champion.sha256[:12]}`) since {since:%Y-%m-%d %H:%M} UTC.\n\n{champion.fields.get('reason', '')}"
    )
    create_markdown_artifact(key="serving", markdown=f"{served}\n\nLast: {comparison['decision']['reason']}")
    page = (config.folder / "comparison.html").resolve()
    create_link_artifact(key="comparison-page", link=page.as_uri(), link_text="the comparison as a page")
    mlflow(config, read_json(config.folder / "runs.json", "compare")["parent"])
