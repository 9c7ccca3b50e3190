"""What a person sees: progress of everything over a second, tables, and the verdicts in words.

Comes in: results of steps. Goes out: text on the terminal. Knows rich; imported by the flows and the command line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.compare import Row
    from pipeline.ingest import IngestReport
    from pipeline.replay import Replayed
    from pipeline.steps import Compared, Promoted
    from pipeline.stream import StreamReport
    from pipeline.training import EpochRecord


class Unwatched:
    """Nobody looks: nothing is shown."""

    def ingested(self, report: IngestReport) -> None:
        """Show nothing."""

    def begins(self, what: str, epochs: int = 0) -> None:
        """Show nothing."""

    def epoch(self, record: EpochRecord) -> None:
        """Show nothing."""

    def compared(self, result: Compared) -> None:
        """Show nothing."""

    def promoted(self, result: Promoted) -> None:
        """Show nothing."""


class Screen:
    """Progress lines while work goes on, each left with its time when the next one begins; use as a context."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("[dim]{task.fields[note]}[/]"),
            TimeElapsedColumn(),
            console=self.console,
        )
        self._current: TaskID | None = None

    def __enter__(self) -> Screen:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done()
        self._progress.stop()

    def begins(self, what: str, epochs: int = 0) -> None:
        """Show a new line; with epochs a bar that fills."""
        self._done()
        self._current = self._progress.add_task(what, total=epochs or None, note="")

    def epoch(self, record: EpochRecord) -> None:
        """Move the bar on by an epoch."""
        if self._current is not None:
            note = f"epoch {record.epoch}: validation loss {record.validation_loss:.4f}"
            self._progress.update(self._current, advance=1, note=note)

    def _done(self) -> None:
        if self._current is not None:
            self._progress.update(self._current, total=1, completed=1)
            self._progress.stop_task(self._current)
            self._current = None

    def ingested(self, report: IngestReport) -> None:
        """Show what was read, and every fault that was met."""
        self.console.print(ingest_table(report))

    def compared(self, result: Compared) -> None:
        """Show nothing yet: the table comes at the end."""

    def promoted(self, result: Promoted) -> None:
        """Show nothing yet: the champion comes at the end."""


def ingest_table(report: IngestReport) -> Table:
    """Lay out what was read and what was found."""
    title = f"{report.rows_read:,} rows read, {report.rows_kept:,} kept, {len(report.series)} series (times in UTC)"
    table = Table("fault", "policy", "rows", "dropped", "first", title=title, box=box.SIMPLE, title_justify="left")
    for row in report.rows():
        table.add_row(*row, style="" if int(row[2]) else "dim")
    return table


def comparison_table(rows: Sequence[Row]) -> Table:
    """Lay out model by series: scores, test and verdict."""
    table = Table(
        box=box.SIMPLE, title="Walk-forward forecasts of the next price on the test split", title_justify="left"
    )
    for name, justify in (("series", "left"), ("model", "left"), ("MAE / last value", "right"), ("CRPS ·10⁴", "right")):
        table.add_column(name, justify=justify, no_wrap=True)
    for name in ("log score", "cover 80 %", "cover 95 %", "DM p vs AR"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict")
    before = None
    for row in rows:
        if before not in (None, row.series):
            table.add_section()
        table.add_row(*_cells(row.to_dict(), repeat=row.series == before))
        before = row.series
    return table


def _cells(row: dict[str, Any], *, repeat: bool) -> list[str]:
    p = row["p_ar"]
    return [
        "" if repeat else row["series"],
        row["model"],
        f"{row['rmae']:.4f}",
        f"{row['crps'] * 1e4:.2f}",
        f"{row['log_score']:.3f}",
        f"{row['coverage_80']:.1%}",
        f"{row['coverage_95']:.1%}",
        "" if p is None else "<0.0001" if p < 1e-4 else f"{p:.4f}",
        row["verdict"],
    ]


def stream_line(report: StreamReport) -> str:
    """Say in one line what a stream did."""
    refused = ", ".join(f"{count} {reason}" for reason, count in report.rejected.items()) or "none"
    return (
        f"{report.ticks:,} ticks in {report.seconds:.2f} s: {report.ticks_per_second:,.0f} ticks/s; "
        f"{report.forecasts:,} forecasts, {report.holes} holes, refused: {refused}"
    )


def replay_line(replayed: Replayed) -> str:
    """Say in two lines what a replay gave."""
    copies = f" ({replayed.copies} copies of each series)" if replayed.copies > 1 else ""
    held = f"the 95 % interval held {replayed.coverage_95:.1%} of the last {replayed.scored:,} prices scored"
    return f"{stream_line(replayed.stream)}{copies}\n{held}"


def champion_line(promoted: Promoted) -> str:
    """Say who serves and why."""
    what = "serves" if promoted.changed else "keeps serving"
    return f"[bold]{promoted.model}[/] {what} as version {promoted.version} ({promoted.sha256[:12]}): {promoted.reason}"
