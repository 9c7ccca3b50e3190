"""The verbs of `statecast data`: what the price store holds, how sound it is, how it looks, and a way out of it.

Comes in: arguments. Goes out: text or JSON, pictures and files. Imported by the command line.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.options import (
    AsJson,
    ConfigFile,
    Folder,
    KnownAt,
    SeriesName,
    SeriesNames,
    Settings,
    answer,
    console,
    settled,
    store,
)

app = typer.Typer(help="Look at, check, draw and export what the price store holds.", no_args_is_help=True)

Since = Annotated[str | None, typer.Option(metavar="TIME", help="From this moment on.")]
Until = Annotated[str | None, typer.Option(metavar="TIME", help="Before this moment.")]
Raw = Annotated[bool, typer.Option("--raw", help="As stored, without the adjustments for corporate actions.")]


@app.command("ls")
def ls(config: ConfigFile = None, settings: Settings = None, folder: Folder = None, as_json: AsJson = False) -> None:
    """List the series: rows, first and last time, grid of bars, calendar; with --json also the source and its zone.

    Example: statecast data ls
    """
    from flows.screen import told_table

    held = store(settled(config, settings, folder)).series()
    answer(as_json, held, lambda: told_table(held.drop("source", "time_zone")))


@app.command()
def show(
    series: SeriesName,
    rows: Annotated[int, typer.Option(min=1, help="Last rows to show.")] = 20,
    since: Since = None,
    until: Until = None,
    known_at: KnownAt = None,
    raw: Raw = False,
    vintages: Annotated[bool, typer.Option("--vintages", help="Every value that a price ever had.")] = False,
    config: ConfigFile = None,
    settings: Settings = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Show the prices of a series, as they are known now or were known at a moment.

    Example: statecast data show SP500 --known-at 2018-06-01 --rows 5
    """
    from flows.screen import told_table
    from pipeline import inventory

    held = store(settled(config, settings, folder))
    choice = inventory.Choice.of([series], since=since, until=until, known_at=known_at, raw=raw)
    found = (inventory.vintages(held, choice) if vintages else inventory.prices(held, choice)).tail(rows)
    answer(as_json, found, lambda: told_table(found))


@app.command()
def check(
    series: SeriesNames = None,
    config: ConfigFile = None,
    settings: Settings = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Look for oddities in what is stored: spikes, splits, changed units, flat stretches, gaps, short histories.

    Nothing is changed. The thresholds are those of ingest.policy in the settings.

    Example: statecast data check SP500
    """
    from flows.screen import Screen, told_faults
    from pipeline import inventory

    chosen = settled(config, settings, folder)
    with Screen(console(as_json)) as screen:
        screen.begins("checking the price store")
        found = inventory.check(store(chosen), series, chosen.ingest)
    answer(as_json, found, lambda: told_faults(found))


@app.command()
def plot(
    series: SeriesName,
    out: Annotated[Path | None, typer.Option(help="PNG file; left out: figures/SERIES.png in the data folder.")] = None,
    since: Since = None,
    until: Until = None,
    known_at: KnownAt = None,
    raw: Raw = False,
    config: ConfigFile = None,
    settings: Settings = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Draw a series: its price, and its moves with what the checks find marked.

    Example: statecast data plot SP500 --since 2018-01-01 --out sp500.png
    """
    from pipeline import inventory

    chosen = settled(config, settings, folder)
    choice = inventory.Choice.of([series], since=since, until=until, known_at=known_at, raw=raw)
    file = inventory.plot(store(chosen), choice, chosen.ingest, out or chosen.folder / "figures")
    answer(as_json, {"series": series, "file": file}, lambda: typer.echo(str(file)))


@app.command()
def export(
    out: Annotated[Path, typer.Argument(help="File to write: .csv, .parquet, .arrow or .jsonl.")],
    series: SeriesNames = None,
    since: Since = None,
    until: Until = None,
    known_at: KnownAt = None,
    adjusted: Annotated[
        bool, typer.Option("--adjusted", help="Apply the corporate actions: for other programs.")
    ] = False,
    config: ConfigFile = None,
    settings: Settings = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Write prices as stored, and what was kept beside them, to a file that `statecast ingest` reads back.

    Example: statecast data export prices.csv SP500 NASDAQ
    """
    from pipeline import inventory

    held = store(settled(config, settings, folder))
    choice = inventory.Choice.of(series, since=since, until=until, known_at=known_at, raw=not adjusted)
    count = inventory.export(held, choice, out)
    answer(as_json, {"rows": count, "file": out}, lambda: typer.echo(f"{count:,} rows: {out}"))


@app.command()
def adjust(
    file: Annotated[Path, typer.Argument(help="Columns series_id, time, factor; available_time may be there too.")],
    config: ConfigFile = None,
    settings: Settings = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Add corporate actions: on read, prices before TIME are multiplied by FACTOR (0.5 for a split of 2:1).

    Example: statecast data adjust splits.csv
    """
    from pipeline import inventory

    held = store(settled(config, settings, folder))
    written = inventory.adjust(held, file)
    said = f"{written.added} factors added, {written.unchanged} already there"
    answer(as_json, written, lambda: typer.echo(said))


@app.command()
def revisions(
    series: SeriesNames = None,
    config: ConfigFile = None,
    settings: Settings = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """List prices that were revised, and the models, forecasts and champions that saw the old ones.

    Example: statecast data revisions
    """
    from flows.screen import outdated_table, told_table
    from pipeline import inventory
    from pipeline.downstream import outdated

    chosen = settled(config, settings, folder)
    revised = inventory.revised(store(chosen), series)
    made = outdated(chosen.folder, revised, chosen.champion)

    def tell() -> None:
        told_table(revised)
        console(False).print(outdated_table(made))

    answer(as_json, {"revised": revised, "outdated": made}, tell)
