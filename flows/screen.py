"""What a person sees: progress of everything over a second, tables, and the verdicts in words.

Comes in: results of steps. Goes out: text on the terminal. Knows rich; imported by the flows and the command line.
"""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, Group
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from pipeline.report import done
from pipeline.verdicts import references_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from polars import DataFrame

    from flows.retrain import Retrained
    from pipeline.audit import Audit
    from pipeline.classify import Classified
    from pipeline.compare import Row
    from pipeline.downstream import Outdated
    from pipeline.drive import StreamReport
    from pipeline.inspection import Inspection
    from pipeline.judging import Compared
    from pipeline.promotion import Promoted
    from pipeline.rate_range import Rated
    from pipeline.replay import Replayed
    from pipeline.report import Fault, IngestReport
    from pipeline.scenarios import Outlook
    from pipeline.search import Searched
    from pipeline.steps import Ingested
    from pipeline.study.runs import Result
    from pipeline.training import EpochRecord
    from pipeline.verdicts import Comparison, Verdict
    from pipeline.vintages import WriteResult


class Screen:
    """Progress while work goes on, and a line with its time for everything done; use as a context.

    On a terminal the line at work moves; elsewhere, such as in a log, only the lines of what is done appear.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("[dim]{task.fields[note]}[/]"),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._task: TaskID | None = None
        self._what, self._note, self._since = "", "", 0.0

    def __enter__(self) -> Screen:
        self._progress.start()
        return self

    def __exit__(self, failed: object, *error: object) -> None:
        if not failed:
            self._done()
        self._progress.stop()

    def begins(self, what: str, epochs: int = 0) -> None:
        """Show something new at work; with epochs a bar that fills."""
        self._done()
        self._what, self._note, self._since = what, "", time.perf_counter()
        self._task = self._progress.add_task(what, total=epochs or None, note="")

    def epoch(self, record: EpochRecord) -> None:
        """Move the bar on by an epoch."""
        self._note = f"epoch {record.epoch}: validation loss {record.validation_loss:.4f}"
        if self._task is not None:
            self._progress.update(self._task, completed=record.epoch, note=self._note)

    def note(self, what: str) -> None:
        """Show what part of the work is at hand."""
        self._note = what
        if self._task is not None:
            self._progress.update(self._task, note=what)

    def refitted(self, done: int) -> None:
        """Show how many refits of a walk are done."""
        self._note = f"{done} refits"
        if self._task is not None:
            self._progress.update(self._task, note=self._note)

    def _done(self) -> None:
        if self._task is None:
            return
        self._progress.remove_task(self._task)
        self._task = None
        note = f" [dim]{self._note}[/]" if self._note else ""
        seconds = time.perf_counter() - self._since
        self.console.print(f"[green]✓[/] {self._what}{note} [dim]{seconds:.1f} s[/]", highlight=False)

    def ingested(self, result: Ingested) -> None:
        """Show what was read, and every fault that was met."""
        self._done()
        self.console.print(ingest_report(result.report))
        if result.written is not None:
            self.console.print(written_line(result.written), highlight=False)


SHOWN = 12
"""Lines of one kind that are shown; the rest is counted."""


def ingest_report(report: IngestReport) -> Group:
    """Lay out what was read, what was recognised in it, and every fault that was met."""
    title = f"{report.rows_read:,} rows read, {report.rows_kept:,} kept, {len(report.series):,} series (times in UTC)"
    parts: list[Any] = [f"[bold]{title}[/]"]
    for file in report.files[:SHOWN]:
        parts.append(f"  {escape(file.file)}: {file.rows:,} rows")
        parts += [f"    [dim]{escape(said)}[/]" for said in file.said]
    parts += _more(len(report.files), "files")
    parts += [f"  {escape(said)}" for said in (*report.said, *_bars(report))]
    met, unmet = _met(report)
    return Group(*parts, *_fault_lines(met), *([f"[dim]none of these: {', '.join(unmet)}[/]"] if unmet else []))


def _bars(report: IngestReport) -> list[str]:
    """Say what became of ticks."""
    if report.grid is None:
        return []
    counts = f"{report.merged:,} ticks merged, {report.forming:,} left out with a bar that was not whole"
    return [f"{report.grid}: {counts}, {report.empty:,} bars without a tick"]


def _met(report: IngestReport) -> tuple[list[Fault], list[str]]:
    return [f for f in report.faults if f.count], [f.name for f in report.faults if not f.count]


def _fault_lines(faults: Sequence[Fault]) -> list[str]:
    """Tell each fault in a line, and below it the first few cases."""
    lines = []
    for fault in faults:
        style = "bold red" if fault.policy == "raise" else "bold"
        what = done(fault) or ("refused" if fault.policy == "raise" else fault.policy)
        where = f" in {len(fault.series):,} series" if len(fault.series) > 1 else ""
        lines.append(f"  [{style}]{fault.name}[/] {fault.count:,}{where}: {what}")
        lines += [f"    [dim]{escape(str(example))}[/]" for example in fault.examples]
    return lines


def _more(count: int, what: str) -> list[str]:
    return [f"  ... and {count - SHOWN:,} more {what}"] if count > SHOWN else []


def told_ingest(result: Ingested, store: Path) -> None:
    """Print what was read, found and written, and what it makes out of date."""
    console = Console()
    console.print(ingest_report(result.report), highlight=False)
    if result.written is None:
        names = ", ".join(fault.name for fault in result.report.refused)
        refused = f"; {names} would be refused, and then nothing is written" if names else ""
        console.print(f"nothing written: a dry run{refused}", highlight=False)
        return
    console.print(f"{written_line(result.written)}: {store}", highlight=False, soft_wrap=True)
    if result.outdated:
        console.print(outdated_table(result.outdated))


def written_line(written: WriteResult) -> str:
    """Say how many rows are new in the store."""
    revised = f", {written.revisions:,} of them revisions" if written.revisions else ""
    return f"{written.added} rows added{revised}, {written.unchanged} already there"


def outdated_table(outdated: Sequence[Outdated]) -> Table:
    """Lay out what saw a price before it was revised, and what brings it up to date."""
    table = Table("made from revised prices", "why", "to renew", box=box.SIMPLE)
    for item in outdated:
        table.add_row(escape(item.what), escape(item.why), item.command)
    return table


WORDS = {"better": "better", "worse": "worse", "identical": "same", "indistinguishable": "even"}
COLUMNS = 80
"""Width that a table is to fit; where it does not, its columns move closer together."""

FEW = 6
"""So many series are shown one by one; of more, only the sets and pooled."""


def comparison_table(rows: Sequence[Row], best: Mapping[str, float] | None = None) -> Group:
    """Lay out pooled, sets and series: effect, test and verdicts, then the pooled verdicts in words; 80 columns.

    Parameters
    ----------
    rows : sequence of Row
        As `pipeline.compare.comparison_table` gives them.
    best : mapping of model to p-value
        As `pipeline.compare.best_set` gives it.
    """
    references = references_of(row.verdict for row in rows)[:2]
    table = Table(box=box.HORIZONTALS, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    first = [f"CRPS vs {references[0]}", "p"] if references else []
    numbers = ["rMAE", *first, "80 %"]
    for name in ["model", *numbers, *references, "skill", *(["best"] if best else [])]:
        table.add_column(escape(name), justify="right" if name in numbers else "left", no_wrap=True)
    shown = _shown(rows)
    for before, row in zip([None, *shown], shown, strict=False):
        if before is None or row.series != before.series:
            table.add_section()
            table.add_row(_place(row))
        table.add_row(*_cells(row, references), *_membership(row, best))
    if Console(width=10 * COLUMNS).measure(table).maximum > COLUMNS:
        table.padding = 0
    hidden = len({row.series for row in rows} - {row.series for row in shown})
    hidden = hidden if hidden > 1 else 0
    rest = [f"{hidden} series more one by one: `--json`, or the page of the comparison.", ""] if hidden else []
    said = [_sentence(row) for row in rows if row.series == "pooled"]
    title = "Walk-forward forecasts on the test split"
    return Group("", title, "", table, "", *rest, _legend(references, best), "", *said, "")


def _shown(rows: Sequence[Row]) -> list[Row]:
    """Put pooled first, then the sets, then the series where they are few; a single one is what is pooled."""
    pooled = [row for row in rows if row.series == "pooled"]
    sets = [row for row in rows if row.members and row.series != "pooled"]
    series = [row for row in rows if not row.members and row.series != "pooled"]
    few = 1 < len({row.series for row in series}) <= FEW or not pooled
    return [*pooled, *sets, *(series if few else [])]


def _place(row: Row) -> str:
    if row.series == "pooled" and len(row.members) == 1:
        return f"[bold]{escape(row.members[0])}[/]"
    of = f" [dim]({len(row.members)})[/]" if row.members else ""
    return f"[bold]{escape(row.series)}[/]{of}"


def _cells(row: Row, references: Sequence[str]) -> list[str]:
    verdict = row.verdict
    against = {test.reference: test for test in verdict.against}
    tests = [against.get(name) for name in references]
    return [
        escape(row.model),
        f"{row.scores['rmae']:.4f}",
        *(_effect(test) for test in tests[:1]),
        *(_p(test) for test in tests[:1]),
        f"{row.scores['coverage_80']:.1%}".rstrip("%"),
        *(WORDS[test.verdict] if test else "" for test in tests),
        _skill(verdict),
    ]


def _skill(verdict: Verdict) -> str:
    """Name what a model has skill on: price, calls, both or none; nothing where neither was tested."""
    price = verdict.price is not None and verdict.price.verdict == "better"
    calls = verdict.direction is not None and verdict.direction.skill
    if verdict.price is None and verdict.direction is None:
        return ""
    return "both" if price and calls else "price" if price else "calls" if calls else "none"


def _effect(test: Comparison | None) -> str:
    """Say a skill and its interval in percent."""
    if test is None:
        return ""
    digits = 1 if max(abs(test.low), abs(test.high)) < 0.9995 else 0
    low, skill, high = (x * 100 for x in (test.low, test.skill, test.high))
    return escape(f"{skill:+.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]")


def _p(test: Comparison | None) -> str:
    return "" if test is None else "<.001" if test.p_adjusted < 0.001 else f"{test.p_adjusted:.3f}".lstrip("0")


def _membership(row: Row, best: Mapping[str, float] | None) -> list[str]:
    return [f"{best[row.model]:.2f}" if best and row.series == "pooled" and row.model in best else ""] if best else []


def _sentence(row: Row) -> str:
    return f"[bold]{escape(row.model)}[/]{escape(row.verdict.text.removeprefix(row.model))}"


def _legend(references: Sequence[str], best: Mapping[str, float] | None) -> str:
    """Explain the columns."""
    first = (
        f"CRPS vs {references[0]}: percent by which the CRPS, the loss of the whole distribution, is lower, with its "
        "bootstrap interval. p: of the Diebold-Mariano test of it, adjusted for the number of series and models. "
        f"{', '.join(references)}: better, worse, even (not told apart) or same by that test. "
        if references
        else ""
    )
    lines = (
        "In brackets the number of series. rMAE: mean absolute error over that of the last value. "
        f"{first}80 %: prices inside the 80 % interval, in percent. "
        "skill: on the price, if the absolute error is significantly below that of the last value; on calls, if the "
        "called direction and the real one are related; on both or none."
    )
    member = " best: p-value of belonging to the set of the best models; from alpha on it does." if best else ""
    return escape(lines + member)


def stream_line(report: StreamReport) -> str:
    """Say in one line what a stream did."""
    refused = ", ".join(f"{count} {reason}" for reason, count in report.rejected.items()) or "none"
    adjusted = f"{report.adjusted} adjustments, " if report.adjusted else ""
    dropped = f" ({report.dropped} of them not written: the file of dead letters is full)" if report.dropped else ""
    return (
        f"{report.ticks:,} ticks in {report.seconds:.2f} s: {report.ticks_per_second:,.0f} ticks/s; "
        f"{report.forecasts:,} forecasts, {report.holes} holes, {adjusted}refused: {refused}{dropped}"
    )


def replay_line(replayed: Replayed) -> str:
    """Say what a replay gave."""
    copies = f" ({replayed.copies} copies of each series)" if replayed.copies > 1 else ""
    said = f"{stream_line(replayed.stream)}{copies}"
    if replayed.scored:
        held = f"{replayed.coverage_95:.1%} of the {replayed.scored:,} prices in the last {replayed.days} days"
        said += f"\nthe 95 % interval held {held}{', which its fit has seen: no test of it' if replayed.seen else ''}"
    return said


def champion_line(promoted: Promoted) -> str:
    """Say who serves and why."""
    what = "serves" if promoted.changed else "keeps serving"
    return f"[bold]{promoted.model}[/] {what} as version {promoted.version} ({promoted.sha256[:12]}): {promoted.reason}"


def told_champion(promoted: Promoted) -> None:
    """Print who serves, why, and from which file."""
    console = Console()
    console.print(champion_line(promoted), highlight=False)
    console.print(f"file: {promoted.file}", highlight=False, soft_wrap=True)


def told_comparison(compared: Compared, run: str) -> None:
    """Print the table, the decision, and where more is to be seen."""
    console = Console()
    console.print(comparison_table(compared.rows, compared.best))
    console.print(f"decision: {compared.decision.model}: {compared.decision.reason}", highlight=False)
    console.print(f"MLflow run {run}", highlight=False)
    console.print(f"page: {compared.page}", highlight=False, soft_wrap=True)


def told_retrain(retrained: Mapping[str, Retrained]) -> None:
    """Print who serves and why, and of a single pool the table, if there was anything to judge."""
    for pool, one in retrained.items():
        if one.compared is not None and len(retrained) == 1:
            Console().print(comparison_table(one.compared.rows, one.compared.best))
        Console().print(f"{pool + ': ' if pool else ''}{champion_line(one.promoted)}", highlight=False)
        Console().print(f"file: {one.promoted.file}", highlight=False, soft_wrap=True)
        if one.compared is not None:
            Console().print(f"page: {one.compared.page}", highlight=False, soft_wrap=True)


def told_inspection(inspection: Inspection, figure: Path | None) -> None:
    """Print what a model file says of itself, and where the picture of its states is."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in inspection.rows():
        table.add_row(f"[bold]{escape(name)}[/]", escape(value))
    Console().print(table)
    if figure is not None:
        Console().print(f"hidden state: {figure}", highlight=False, soft_wrap=True)


def told_scenarios(outlooks: Sequence[Outlook], steps: int, files: Sequence[Path]) -> None:
    """Print a row a series: what its paths say of the price some steps ahead, and where all of them are."""
    shown = (0.05, 0.25, 0.5, 0.75, 0.95)
    table = Table(box=box.SIMPLE, padding=(0, 1), pad_edge=False)
    table.add_column("series")
    for name in ("last", *(f"{100 * level:g} %" for level in shown), "above", "drawdown", "VaR 95 %"):
        table.add_column(name, justify="right")
    for o in outlooks:
        prices = (f"{price:.6g}" for price in (o.last, *(o.quantiles[level] for level in shown)))
        table.add_row(escape(o.series), *prices, f"{o.above:.0%}", f"{o.drawdown:.4g}", f"{o.value_at_risk:.4g}")
    console = Console()
    console.print(table)
    said = (
        f"After {steps} steps, in price units: quantiles of the price; above: paths that end above the last price; "
        "drawdown: mean largest fall from a high on the way; VaR: loss that 5 % of the paths exceed."
    )
    console.print(said, highlight=False)
    for file in files:
        console.print(str(file), highlight=False, soft_wrap=True)


def told_audit(audit: Audit) -> None:
    """Print a row for each stage and a column for each model, and every check that failed with what it saw."""
    from pipeline.audit import STAGES

    ok: dict[tuple[str, str], bool] = {}
    for f in audit.findings:
        ok[f.stage, f.model] = f.ok and ok.get((f.stage, f.model), True)
    stages = [s.name for s in STAGES if any(f.stage == s.name for f in audit.findings)]
    models = list(dict.fromkeys(f.model for f in audit.findings))
    table = Table(box=box.SIMPLE, padding=(0, 1), pad_edge=False)
    for name in ("stage", *models):
        table.add_column(escape(name))
    for stage in stages:
        cells = (ok.get((stage, model)) for model in models)
        table.add_row(stage, *("" if c is None else "[green]✓[/]" if c else "[red]✗[/]" for c in cells))
    console = Console()
    console.print(table)
    for f in audit.leaks:
        console.print(f"[red]✗[/] {f.model}, {f.stage}, {f.check}: {escape(f.detail)}", highlight=False)
    console.print(f"{len(audit.findings)} checks, {len(audit.leaks)} failed", highlight=False)


def told_classified(found: Classified) -> None:
    """Print the scores beside the references, how far the probabilities can be trusted, and the verdict."""
    metrics = list(found.scores["network"])
    table = Table("", *metrics, title=f"{found.target}: {found.origins:,} moments", box=box.SIMPLE, pad_edge=False)
    for name, row in found.scores.items():
        table.add_row(name, *(f"{row[metric]:.4f}" for metric in metrics))
    trust = Table("said", "came", "moments", title="reliability", box=box.SIMPLE, pad_edge=False)
    for row in found.reliability:
        trust.add_row(f"{row.confidence:.3f}", f"{row.accuracy:.3f}", f"{row.count:,}")
    console = Console()
    console.print(table, trust)
    for line in (found.verdict, found.file or found.model, f"MLflow run {found.run}"):
        console.print(str(line), markup=False, highlight=False, soft_wrap=True)


def told_study(results: Sequence[Result], page: Path) -> None:
    """Print the table and the answer of every experiment, and where the document is."""
    from pipeline.study.document import cell

    console = Console()
    for result in results:
        table = Table(*map(escape, result.rows[0]), title=result.name, box=box.SIMPLE, padding=(0, 1), pad_edge=False)
        for row in result.rows:
            table.add_row(*(escape(cell(value)) for value in row.values()))
        console.print(table)
        console.print(f"{escape(result.answer)}\n", highlight=False)
    console.print(f"document: {page}", highlight=False, soft_wrap=True)


def told_search(searched: Searched) -> None:
    """Print the trials, the best first, how many were tried, and the settings to paste."""
    console = Console()
    ranked = sorted(searched.trials, key=lambda t: (t.state != "finished", t.score is None, t.score or 0.0))
    table = Table(box=box.SIMPLE, padding=(0, 1), pad_edge=False)
    for name in ("trial", "score", "epochs", "ended"):
        table.add_column(name, no_wrap=True)
    table.add_column("settings", overflow="fold")
    for trial in ranked[:SHOWN]:
        score = "" if trial.score is None else f"{trial.score:.5f}"
        values = ", ".join(f"{name.rpartition('.')[2]} {value}" for name, value in trial.settings.items())
        table.add_row(str(trial.number), score, str(trial.epochs), trial.state, escape(values))
    console.print(table, *_more(len(ranked), "trials"))
    shares = ", ".join(f"{name.rpartition('.')[2]} {share:.0%}" for name, share in searched.importance.items())
    said = [f"variance of the score explained: {shares}"] if shares else []
    said += [f"best of {len(searched.trials)} trials, chosen on the validation split: judge it on the test split once"]
    said += ["", searched.toml, "", f"figure: {searched.figure}", f"MLflow run: {searched.run}"]
    console.print(escape("\n".join(said)), highlight=False, soft_wrap=True)


def told_rate(rated: Rated) -> None:
    """Print the rates that were read, and the line to paste."""
    found = rated.found
    why = {"steepest": "where the loss falls fastest", "tenth": "a tenth of the rate at which it diverged"}[found.rule]
    read = {"falls fastest at": found.steepest, "diverged at": found.diverged}
    said = [f"the loss {what} {at:.2g}" for what, at in read.items() if at is not None]
    said += [f"suggested: {found.suggestion:.2g}, {why}", "", "[fit.training]"]
    said += [f"learning_rate = {found.suggestion:.2g}", "", f"figure: {rated.figure}", f"MLflow run: {rated.run}"]
    Console().print(escape("\n".join(said)), highlight=False, soft_wrap=True)


def told_table(frame: DataFrame) -> None:
    """Print a table of any columns; times in UTC."""
    frame = frame.select(column for column in frame if column.null_count() < max(len(column), 1))
    table = Table(box=box.SIMPLE, padding=(0, 1), pad_edge=False)
    for name in frame.columns:
        table.add_column(escape(name.replace("_", " ")), overflow="fold")
    for row in frame.iter_rows():
        table.add_row(*("" if value is None else escape(_cell(value)) for value in row))
    Console().print(table)


def _cell(value: object) -> str:
    return (
        f"{value:%Y-%m-%d %H:%M:%S}".removesuffix(":00").removesuffix(" 00:00")
        if isinstance(value, datetime)
        else str(value)
    )


def told_faults(faults: Sequence[Fault]) -> None:
    """Print the faults that were found, each with its first examples."""
    met = [f for f in faults if f.count]
    Console().print("\n".join(_fault_lines(met)) or "nothing found", highlight=False)
