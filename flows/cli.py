"""The command line: every verb is a step or the whole order of them, and runs without Prefect.

Comes in: arguments. Goes out: text, files, and an exit code by class of error (`models/errors.py`). Heavy libraries
are imported inside the verbs, so that `--help` answers at once.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from models.errors import StatecastError

if TYPE_CHECKING:
    from io import BufferedReader

    from pipeline.config import Config
    from pipeline.session import Session

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells count it."""

app = typer.Typer(
    help="Forecasts that carry their state: prices in, a tested champion out, live forecasts from its ONNX step.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigFile = Annotated[
    Path | None, typer.Option("--config", "-c", help="TOML file that holds only differences from the defaults.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="NAME=VALUE", help="One setting, such as fit.training.epochs=20. May repeat."),
]
Folder = Annotated[
    Path | None, typer.Option("--folder", "-f", help="Data folder; left out: .statecast, or as configured.")
]
Model = Annotated[str, typer.Argument(help="Name of the model: last_value, drift, ar, ar_t, garch, rnn, lstm, gru.")]


def settled(config: Path | None, settings: list[str] | None, folder: Path | None) -> Config:
    """Read the settings: defaults, then the file, then the command line."""
    from rich.console import Console

    with Console(stderr=True).status("starting"):
        from pipeline import steps  # noqa: F401  the heavy libraries, while something moves on the terminal
        from pipeline.config import Config
        from pipeline.settings import assignments, load
    # polars puts a handler of its own in front, under which a read that waits for ticks would not be interrupted
    signal.signal(signal.SIGINT, signal.getsignal(signal.SIGINT))
    overrides = assignments(settings or [])
    if folder is not None:
        overrides["folder"] = str(folder)
    return load(Config, config if config is not None else {}, overrides)


def served(model: Path | None, config: Config) -> Session:
    """Open the model file named, or the champion."""
    from pipeline import champions
    from pipeline.session import Session

    return Session.load(model) if model else champions.load(config.folder / "champions", config.champion)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--folder", "-f", help="Data folder.")] = Path(".statecast/demo"),
) -> None:
    """Run the whole way once on real prices that come with a dependency (S&P 500, NASDAQ, WTI).

    Ingest, fit eight models, walk them forward over the last 20 %, test, log to MLflow, promote a champion, export
    it to ONNX, and replay the past as a stream from that file.

    Example: statecast demo
    """
    from flows.demo import run_demo

    run_demo(folder)


@app.command()
def ingest(
    paths: Annotated[
        list[str] | None, typer.Argument(help='CSV or Parquet files in long form, or "sample". Default: as configured.')
    ] = None,
    config: ConfigFile = None,
    settings: Settings = None,
    folder: Folder = None,
) -> None:
    """Read prices through named policies into the store; the same rows again change nothing.

    Example: statecast ingest prices.csv --set ingest.columns.price=close --set ingest.columns.series_id=symbol
    """
    from dataclasses import replace

    from rich.console import Console

    from flows.screen import Screen, ingest_table
    from pipeline import steps

    chosen = settled(config, settings, folder)
    if paths:
        chosen = replace(chosen, ingest=replace(chosen.ingest, paths=tuple(paths)))
    with Screen() as screen:
        screen.begins("reading prices")
        report, written = steps.ingest(chosen)
    Console().print(ingest_table(report))
    typer.echo(f"{written.added} rows added, {written.unchanged} already there: {chosen.folder / 'prices'}")


@app.command()
def train(model: Model, config: ConfigFile = None, settings: Settings = None, folder: Folder = None) -> None:
    """Fit one model on the prices in the store; a network killed on the way goes on from its last epoch.

    Example: statecast train lstm --set fit.network.hidden=48
    """
    from flows.screen import Screen
    from pipeline import steps
    from pipeline.fitting import NETWORKS

    chosen = settled(config, settings, folder)
    with Screen() as screen:
        screen.begins(f"fitting {model}", chosen.fit.training.epochs if model in NETWORKS else 0)
        seconds = steps.train(chosen, model, screen.epoch)
    typer.echo(f"{model} fitted in {seconds:.1f} s: {chosen.folder / 'models' / model}.safetensors")


@app.command()
def backtest(model: Model, config: ConfigFile = None, settings: Settings = None, folder: Folder = None) -> None:
    """Walk a fitted model forward over the test split, every origin in one stateful pass.

    Example: statecast backtest lstm
    """
    from flows.screen import Screen
    from pipeline import steps

    chosen = settled(config, settings, folder)
    with Screen() as screen:
        screen.begins(f"walking {model} forward")
        forecasts = steps.backtest(chosen, model)
    typer.echo(f"{len(forecasts):,} forecasts: {chosen.folder / 'forecasts' / model}.parquet")


@app.command()
def compare(config: ConfigFile = None, settings: Settings = None, folder: Folder = None) -> None:
    """Score and test all configured models on identical origins, and log the result to MLflow.

    Example: statecast compare --set 'models=["last_value", "ar", "garch", "lstm"]'
    """
    from rich.console import Console

    from flows.screen import Screen, comparison_table
    from pipeline import steps

    chosen = settled(config, settings, folder)
    with Screen() as screen:
        screen.begins("comparing models")
        result = steps.compare(chosen)
        screen.begins("recording in MLflow")
        run = steps.record(chosen)
    Console().print(comparison_table(result.rows))
    typer.echo(f"decision: {result.decision.model}: {result.decision.reason}\nMLflow run {run}")
    for path in result.figures:
        typer.echo(f"figure: {path}")


@app.command()
def promote(
    model: Annotated[str | None, typer.Argument(help="Promote this one, whatever the decision was.")] = None,
    config: ConfigFile = None,
    settings: Settings = None,
    folder: Folder = None,
) -> None:
    """Carry out the decision of the last comparison: export, parity gate, registry, champions folder.

    Example: statecast promote
    """
    from rich.console import Console

    from flows.screen import Screen, champion_line
    from pipeline import steps

    chosen = settled(config, settings, folder)
    with Screen() as screen:
        screen.begins("exporting through the parity gate, and promoting")
        promoted = steps.promote(chosen, model)
    Console().print(champion_line(promoted), highlight=False)
    typer.echo(str(promoted.file))


@app.command()
def rollback(config: ConfigFile = None, settings: Settings = None, folder: Folder = None) -> None:
    """Let the champion before the current one serve again; once more goes one further back.

    Example: statecast rollback
    """
    from rich.console import Console

    from flows.screen import champion_line
    from pipeline import steps

    Console().print(champion_line(steps.rollback(settled(config, settings, folder))), highlight=False)


@app.command()
def export(
    model: Model,
    out: Annotated[Path, typer.Argument(help="ONNX file to write.")],
    config: ConfigFile = None,
    settings: Settings = None,
    folder: Folder = None,
) -> None:
    """Export a fitted model as one self-contained ONNX step; a file that fails the parity gate is not written.

    Example: statecast export gru gru.onnx
    """
    from flows.screen import Screen
    from pipeline import steps

    with Screen() as screen:
        screen.begins(f"exporting {model} through the parity gate")
        steps.export_model(settled(config, settings, folder), model, out)
    typer.echo(str(out))


@app.command()
def stream(
    source: Annotated[Path | None, typer.Argument(help="JSON lines or CSV; left out: standard input.")] = None,
    out: Annotated[Path | None, typer.Option(help="Forecasts as JSON lines; left out: standard output.")] = None,
    dead_letters: Annotated[
        Path | None,
        typer.Option(help="Refused lines, with number and reason; left out: dead-letters.jsonl in the data folder."),
    ] = None,
    model: Annotated[Path | None, typer.Option(help="An ONNX step; left out: the champion.")] = None,
    snapshot: Annotated[Path | None, typer.Option(help="Keep the states here; needs --out.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the snapshot, to the same bytes.")] = False,
    warm: Annotated[
        bool, typer.Option("--warm", help="Carry each series on from its history in the price store.")
    ] = False,
    config: ConfigFile = None,
    settings: Settings = None,
    folder: Folder = None,
) -> None:
    """Forecast after every tick: one state a series, one ONNX call a micro-batch.

    Example: echo '{"series": "SP500", "time": "2019-01-02", "price": 2510.03}' | statecast stream --warm
    """
    from flows.screen import stream_line
    from pipeline import stream as streaming

    chosen = settled(config, settings, folder)
    session = served(model, chosen)
    chosen.folder.mkdir(parents=True, exist_ok=True)
    history = None
    if warm:
        from pipeline.replay import history as stored

        history = stored(chosen.folder / "prices")
    dead_letters = dead_letters or chosen.folder / "dead-letters.jsonl"
    report = streaming.run(
        session,
        source or cast("BufferedReader", sys.stdin.buffer),
        out or sys.stdout.buffer,
        dead_letters,
        config=chosen.stream,
        snapshot=snapshot,
        resume=resume,
        history=history,
    )
    typer.echo(stream_line(report), err=True)
    if report.rejected:
        typer.echo(f"refused lines, with the reason: {dead_letters}", err=True)
    if not (warm or resume):
        typer.echo("the series started cold; --warm carries them on from the price store", err=True)


@app.command()
def replay(
    out: Annotated[Path | None, typer.Option(help="Forecasts as JSON lines.")] = None,
    days: Annotated[int, typer.Option(min=1, help="Days before the last price that are scored.")] = 365,
    ticks: Annotated[
        int | None, typer.Option(min=1, help="Exactly so many ticks, from copies of the series if need be.")
    ] = None,
    model: Annotated[Path | None, typer.Option(help="An ONNX step; left out: the champion.")] = None,
    config: ConfigFile = None,
    settings: Settings = None,
    folder: Folder = None,
) -> None:
    """Drive the stream from the price store, as the past would have come, and say how fast and how well.

    Example: statecast replay --ticks 100000
    """
    from flows.screen import Screen, replay_line
    from pipeline import replay as replaying

    chosen = settled(config, settings, folder)
    session = served(model, chosen)
    out = out or chosen.folder / "replay.jsonl"
    with Screen() as screen:
        screen.begins("replaying the price store")
        replayed = replaying.replay(
            session, chosen.folder / "prices", out, days=days, ticks=ticks, config=chosen.stream
        )
    typer.echo(f"{replay_line(replayed)}\n{out}")


@app.command()
def retrain(
    prefect: Annotated[
        bool, typer.Option("--prefect", help="Run it as a Prefect flow, with an embedded server if none is set.")
    ] = False,
    config: ConfigFile = None,
    settings: Settings = None,
    folder: Folder = None,
) -> None:
    """Do everything in order: ingest, fit, walk forward, compare, record, promote.

    Example: statecast retrain --config desk.toml
    """
    from rich.console import Console

    from flows.screen import Screen, champion_line, comparison_table

    chosen = settled(config, settings, folder)
    with Screen() as screen:
        if prefect:
            from flows.embedded import retrain_in_prefect

            result = retrain_in_prefect(chosen, screen)
        else:
            from flows.retrain import retrain as in_order

            result = in_order(chosen, screen)
    console = Console()
    console.print(comparison_table(result.compared.rows))
    console.print(champion_line(result.promoted), highlight=False)


@app.command("config")
def show_config() -> None:
    """Print every setting with its default and its meaning, as TOML to start from.

    Example: statecast config > desk.toml
    """
    from pipeline.config import Config
    from pipeline.settings import annotated_toml

    typer.echo(annotated_toml(Config))


def main() -> None:
    """Run the command line; an expected error is one line and an exit code by its class."""
    try:
        app()
    except (StatecastError, OSError) as error:
        typer.echo(f"error: {' '.join(str(error).split())}", err=True)
        sys.exit(error.exit_code if isinstance(error, StatecastError) else 1)
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            typer.echo(
                "interrupted: run the same command again to go on; a network continues from its last epoch, a stream "
                "with --snapshot from there if --resume is added",
                err=True,
            )
        raise
