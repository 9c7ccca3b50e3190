"""What a person reads: every result in words, in 80 columns, on a terminal and in a log."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

from conftest import Workspace
from rich.console import Console

from flows.screen import Screen, champion_line, comparison_table, ingest_report, replay_line, stream_line
from pipeline.drive import StreamReport
from pipeline.faults import CHOICES
from pipeline.replay import Replayed

REPORT = StreamReport(
    ticks=1200,
    forecasts=1190,
    holes=4,
    adjusted=0,
    rejected={"late": 6},
    dropped=0,
    seconds=0.5,
    ticks_per_second=2400.0,
)


def written(*what: object, terminal: bool = False) -> str:
    """Print on 80 columns and give the text."""
    console = Console(file=io.StringIO(), width=80, force_terminal=terminal)
    for thing in what:
        console.print(thing, highlight=False)
    return console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def test_the_comparison_fits_80_columns_and_says_every_verdict(workspace: Workspace) -> None:
    """No line is cut or too long; each model has its row in each series, pooled first, and its verdict in words."""
    rows = workspace.result.compared.rows
    best = dict.fromkeys(workspace.config.models, 0.25)
    text = written(comparison_table(rows, best))
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for model in workspace.config.models:
        assert sum(line.startswith(f"{model} ") and "." in line[:22] for line in text.splitlines()) >= 4
    for row in rows[-4:]:
        assert row.verdict.text in " ".join(text.split())
    assert text.index("pooled (3)") < text.index("AAA")
    assert text.count("0.25") == 4


def test_the_row_of_a_comparison_has_effect_interval_and_p(workspace: Workspace) -> None:
    """What the first reference's column shows are the numbers of the verdict, and nothing stands for itself."""
    rows = workspace.result.compared.rows
    row = next(row for row in rows if row.series == "pooled" and row.model == "gru")
    test = row.verdict.against[0]
    shown = f"{100 * test.skill:+.1f} [{100 * test.low:.1f}, {100 * test.high:.1f}]"
    lines = written(comparison_table(rows)).splitlines()
    assert f"CRPS vs {test.reference}" in lines[3]
    assert any(line.startswith("gru ") and shown in line for line in lines)
    assert not any(line.startswith(f"{test.reference} ") and "[" in line for line in lines[:12])


def test_the_first_reference_has_the_column_whatever_model_comes_first(workspace: Workspace) -> None:
    """A reference that stands first among the models is not tested against itself, and keeps its column."""
    rows = sorted(workspace.result.compared.rows, key=lambda row: row.model != "ar")
    assert rows[0].model == "ar"
    assert "CRPS vs ar" in written(comparison_table(rows)).splitlines()[3]


def test_wide_intervals_fit_80_columns(workspace: Workspace) -> None:
    """Two digits before the point and a minus everywhere cut nothing."""
    wide = {"skill": -0.188, "low": -0.241, "high": -0.125, "verdict": "worse"}
    rows = [
        replace(row, verdict=replace(row.verdict, against=tuple(replace(c, **wide) for c in row.verdict.against)))
        for row in workspace.result.compared.rows
    ]
    text = written(comparison_table(rows, dict.fromkeys(workspace.config.models, 0.25)))
    assert "-18.8 [-24.1, -12.5]" in text
    assert "…" not in text


def test_a_retrain_says_what_is_new_in_the_store(workspace: Workspace) -> None:
    """After the account of what was read stands how many rows were added."""
    console = Console(file=io.StringIO(), width=80)
    Screen(console).ingested(workspace.result.ingested)
    told = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert told.endswith("2100 rows added, 0 already there\n")


def test_many_series_are_shown_as_sets_and_pooled(workspace: Workspace) -> None:
    """Beyond six series only pooled and sets have lines, and it is said where the rest is."""
    rows = workspace.result.compared.rows
    pooled = rows[-4:]
    many = [replace(row, series=f"N{i}", members=()) for i in range(7) for row in pooled]
    chosen = [replace(row, series="energy", members=("N1", "N2")) for row in pooled]
    text = written(comparison_table([*many, *chosen, *pooled]))
    assert "energy (2)" in text
    assert "N1" not in text
    assert "7 series more one by one: `--json`" in text


def test_one_series_is_shown_once(workspace: Workspace) -> None:
    """What is pooled over one series is that series: one block with its name, nothing hidden."""
    rows = [row for row in workspace.result.compared.rows if row.series in ("AAA", "pooled")]
    alone = [replace(row, members=("AAA",)) if row.series == "pooled" else row for row in rows]
    text = written(comparison_table(alone))
    assert [line.strip() for line in text.splitlines()].count("AAA") == 1
    assert "pooled" not in text
    assert "more one by one" not in text


def test_names_are_shown_as_they_are(workspace: Workspace) -> None:
    """A series called like a style of the terminal is still a series."""
    row = replace(workspace.result.compared.rows[0], series="[red]OIL[/]")
    assert "[red]OIL[/]" in written(comparison_table([row]))


def test_the_ingest_report_has_every_fault(workspace: Workspace) -> None:
    """Met or not, each policy is named; the first case of one that was met is shown, and what was recognised."""
    text = written(ingest_report(workspace.result.ingested.report))
    assert "2,100 rows read, 2,100 kept, 3 series" in text
    assert [name for name in CHOICES if name not in text] == []
    assert "AAA at" in text
    assert "column 'price'" in text


def test_lines_say_what_a_stream_did() -> None:
    """Counts, rate, refusals by reason; a replay adds its copies and its coverage, and whether that is a test."""
    line = stream_line(REPORT)
    assert line == "1,200 ticks in 0.50 s: 2,400 ticks/s; 1,190 forecasts, 4 holes, refused: 6 late"
    assert "refused: none" in stream_line(replace(REPORT, rejected={}))
    assert "4 holes, 2 adjustments, refused" in stream_line(replace(REPORT, adjusted=2))
    assert stream_line(replace(REPORT, dropped=5)).endswith(
        "6 late (5 of them not written: the file of dead letters is full)"
    )
    scored = Replayed(stream=REPORT, copies=3, days=365, scored=200, coverage_95=0.945, seen=False)
    held = "the 95 % interval held 94.5% of the 200 prices in the last 365 days"
    assert replay_line(scored) == f"{line} (3 copies of each series)\n{held}"
    assert replay_line(replace(scored, seen=True)).endswith("365 days, which its fit has seen: no test of it")
    assert replay_line(replace(scored, copies=1, scored=0, coverage_95=float("nan"))) == line


def test_the_champion_serves_or_keeps_serving(workspace: Workspace) -> None:
    """One line says who, which version, which file and why."""
    promoted = workspace.result.promoted
    assert f"gru serves as version 1 ({promoted.sha256[:12]}): gru has the lowest" in written(champion_line(promoted))
    assert "keeps serving" in written(champion_line(replace(promoted, changed=False, file=Path())))


def test_what_is_done_has_a_line_with_its_time(workspace: Workspace) -> None:
    """In a log only finished work appears, an epoch's loss with it; on a terminal the line at work moves too."""
    epochs = [record for kind, record in workspace.watch.told if kind == "epoch"]
    for terminal in (False, True):
        console = Console(file=io.StringIO(), width=80, force_terminal=terminal)
        with Screen(console) as screen:
            screen.begins("fitting gru", 3)
            for record in epochs:
                screen.epoch(record)
            screen.begins("comparing models")
        text = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
        assert f"epoch 3: validation loss {epochs[-1].validation_loss:.4f}" in text
        assert text.count("✓") == 2
        assert ("\x1b[" in text) == terminal


def test_work_that_failed_is_not_said_to_be_done() -> None:
    """What was at work when an error came has no tick."""
    console = Console(file=io.StringIO(), width=80)
    try:
        with Screen(console) as screen:
            screen.begins("first")
            screen.begins("second")
            raise RuntimeError
    except RuntimeError:
        text = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert "✓ first" in text
    assert "second" not in text
