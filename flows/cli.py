"""The command line: every verb is a step or the whole order of them, and runs without Prefect.

Comes in: arguments. Goes out: text or JSON, files, and an exit code by class of error (`models/errors.py`). Heavy
libraries are imported inside the verbs, so that `--help` answers at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from flows import backup_commands, data_commands, registry_commands, serving_commands, tuning_commands
from flows.options import (
    AsJson,
    ConfigFile,
    Durability,
    Folder,
    Model,
    Models,
    Rebase,
    SeriesNames,
    Settings,
    answer,
    console,
    lineup,
    past_of,
    served,
    settled,
    settled_to_serve,
    store,
)
from models.errors import DataError, StatecastError

if TYPE_CHECKING:
    from typing import Any, BinaryIO

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells count it."""

app = typer.Typer(
    help="Forecasts that carry their state: prices in, a tested champion out, live forecasts from its ONNX step.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--folder", "-f", help="Data folder.")] = Path(".statecast/demo"),
    as_json: AsJson = False,
) -> None:
    """Run the whole way once on real prices that come with a dependency (S&P 500, NASDAQ, WTI).

    Ingest, fit eight models, walk them forward over the last 20 %, test, log to MLflow, promote a champion, export
    it to ONNX, and replay the past as a stream from that file.

    Example: statecast demo
    """
    from flows.demo import run_demo, told_demo

    result = run_demo(folder, console(as_json))
    answer(as_json, result, lambda: told_demo(result))


@app.command()
def ingest(
    paths: Annotated[
        list[str] | None, typer.Argument(help="Files, folders, globs, or a source by name. Left out: as configured.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what is found, and write nothing.")] = False,
    config: ConfigFile = None,
    settings: Settings = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Read prices through named policies into the store; the same rows again change nothing.

    Files are CSV, TSV, JSON lines, Parquet or Arrow, also compressed, long (a row a price) or wide (a column a series);
    folders and globs are searched. What is recognised in them is said, and every guess can be replaced by a setting
    (ingest.columns, ingest.format). In place of files: `sample` for bundled prices, `epf PATH` for the electricity
    benchmark as published, `yfinance AAPL MSFT` and `ccxt BTC/USDT` for prices from the net. With --dry-run the exit
    code is 3 where a policy would refuse.

    Example: statecast ingest prices.csv --set ingest.columns.price=close --set ingest.policy.spike=drop
    """
    from dataclasses import replace

    from flows.screen import Screen, told_ingest
    from pipeline import steps

    chosen = settled(config, settings, folder)
    if paths:
        chosen = replace(chosen, ingest=replace(chosen.ingest, paths=tuple(paths)))
    with Screen(console(as_json)) as screen:
        result = steps.ingest(chosen, screen.begins, dry=dry_run)
    answer(as_json, result, lambda: told_ingest(result, chosen.prices))
    if result.report.refused:
        raise typer.Exit(DataError.exit_code)


@app.command()
def train(
    model: Model, config: ConfigFile = None, settings: Settings = None, folder: Folder = None, as_json: AsJson = False
) -> None:
    """Fit one model on the prices in the store; a network killed on the way goes on from its last epoch.

    Example: statecast train lstm --set fit.network.hidden=48
    """
    from flows.screen import Screen
    from pipeline import steps
    from pipeline.fitting import NETWORKS

    chosen = settled(config, settings, folder)
    with Screen(console(as_json)) as screen:
        screen.begins(f"fitting {model}", chosen.fit.training.epochs if model in NETWORKS else 0)
        seconds = steps.train(chosen, model, screen.epoch)
    file = chosen.folder / "models" / f"{model}.safetensors"
    told = {"model": model, "seconds": seconds, "file": file}
    answer(as_json, told, lambda: typer.echo(f"{model} fitted in {seconds:.1f} s: {file}"))


@app.command()
def backtest(
    model: Model, config: ConfigFile = None, settings: Settings = None, folder: Folder = None, as_json: AsJson = False
) -> None:
    """Walk a fitted model forward over the test split, every origin in one stateful pass.

    Example: statecast backtest lstm
    """
    from flows.screen import Screen
    from pipeline import steps

    chosen = settled(config, settings, folder)
    with Screen(console(as_json)) as screen:
        screen.begins(f"walking {model} forward")
        forecasts = steps.backtest(chosen, model, screen.refitted)
    file = chosen.folder / "forecasts" / model
    told = {"model": model, "forecasts": len(forecasts), "file": file}
    answer(as_json, told, lambda: typer.echo(f"{len(forecasts):,} forecasts: {file}"))


@app.command()
def compare(
    config: ConfigFile = None, settings: Settings = None, folder: Folder = None, as_json: AsJson = False
) -> None:
    """Score and test all configured models on identical origins, and log the result to MLflow.

    Example: statecast compare --set 'models=["last_value", "ar", "garch", "lstm"]'
    """
    from flows.screen import Screen, told_comparison
    from pipeline import judging

    chosen = settled(config, settings, folder)
    with Screen(console(as_json)) as screen:
        screen.begins("comparing models")
        result = judging.compare(chosen)
        screen.begins("recording in MLflow")
        run = judging.record(chosen)
    answer(as_json, {"run": run, "compared": result}, lambda: told_comparison(result, run))


@app.command()
def promote(
    model: Annotated[str | None, typer.Argument(help="Promote this one, whatever the decision was.")] = None,
    config: ConfigFile = None,
    settings: Settings = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Carry out the decision of the last comparison: export, parity gate, registry, champions folder.

    Example: statecast promote
    """
    from flows.screen import Screen, told_champion
    from pipeline import promotion

    chosen = settled(config, settings, folder)
    with Screen(console(as_json)) as screen:
        screen.begins("exporting through the parity gate, and promoting")
        promoted = promotion.promote(chosen, model)
    answer(as_json, promoted, lambda: told_champion(promoted))


@app.command()
def rollback(
    config: ConfigFile = None, settings: Settings = None, folder: Folder = None, as_json: AsJson = False
) -> None:
    """Let the champion before the current one serve again; once more goes one further back.

    Example: statecast rollback
    """
    from flows.screen import told_champion
    from pipeline import promotion

    promoted = promotion.rollback(settled(config, settings, folder))
    answer(as_json, promoted, lambda: told_champion(promoted))


app.command()(registry_commands.models)
app.command()(backup_commands.backup)
app.command()(backup_commands.restore)


@app.command()
def export(
    model: Model,
    out: Annotated[Path, typer.Argument(help="ONNX file to write.")],
    config: ConfigFile = None,
    settings: Settings = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Export a fitted model as one self-contained ONNX step; a file that fails the parity gate is not written.

    Example: statecast export gru gru.onnx
    """
    from flows.screen import Screen
    from pipeline import promotion

    with Screen(console(as_json)) as screen:
        screen.begins(f"exporting {model} through the parity gate")
        promotion.export_model(settled(config, settings, folder), model, out)
    answer(as_json, {"model": model, "file": out}, lambda: typer.echo(str(out)))


@app.command()
def stream(
    source: Annotated[
        Path | None, typer.Argument(help="JSON lines or CSV: a file, or a folder of them; left out: standard input.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Forecasts as JSON lines; left out: standard output.")] = None,
    dead_letters: Annotated[
        Path | None,
        typer.Option(
            help="Refused lines, with number and reason; left out: dead-letters.jsonl in the journal or data folder."
        ),
    ] = None,
    journal: Annotated[
        Path | None, typer.Option(help="Folder of a journal: after a kill the same command goes on, to the same bytes.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Wait for more at the end of the file or folder.")] = False,
    repeats: Annotated[
        bool, typer.Option("--repeats", help="Standard input begins again from its start: pass over what was read.")
    ] = False,
    warm: Annotated[
        bool, typer.Option("--warm", help="Carry each series on from its history in the price store.")
    ] = False,
    durability: Durability = None,
    rebase: Rebase = False,
    model: Annotated[Path | None, typer.Option(help="An ONNX step; left out: the champion.")] = None,
    config: ConfigFile = None,
    settings: Settings = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Forecast after every tick: one state a series, one ONNX call a micro-batch.

    With --journal no tick is lost or taken twice, whatever ends the process; it survives the loss of power too unless
    --durability is lowered. A new champion is taken over while the stream runs. SIGTERM and Ctrl-C end it after the
    batch in hand.

    Example: echo '{"series": "SP500", "time": "2019-01-02", "price": 2510.03}' | statecast stream --warm
    """
    import orjson

    from flows.screen import stream_line
    from flows.stopping import stopping
    from pipeline import drive, intake, opening
    from pipeline.lines import IntakeConfig
    from pipeline.outputs import FileOutput, PipeOutput

    chosen = settled_to_serve(config, settings, folder, durability)
    chosen.folder.mkdir(parents=True, exist_ok=True)
    dead_letters = dead_letters or opening.folder_of(journal, chosen.folder) / "dead-letters.jsonl"
    notes = [] if journal is None else [journal / opening.NOTES]
    intake.apart(source or "-", [*([out] if out else []), dead_letters, *notes])
    wanted = opening.Opening(
        lineup=lambda: lineup(model, chosen),
        journal=journal,
        out=FileOutput(out) if out else PipeOutput(cast("BinaryIO", sys.stdout.buffer)),
        dead=FileOutput(dead_letters),
        told=None if journal is None else opening.notes_of(journal),
        history=past_of(chosen) if warm else None,
        watched=None if model else (chosen.folder / "champions", chosen.champion),
        rebase=rebase,
    )
    told = IntakeConfig(batch=chosen.stream.batch, max_line_bytes=chosen.stream.max_line_bytes)
    with stopping() as stop, opening.opened(wanted, chosen.stream) as stream:
        given = intake.source_of(source or "-", follow=follow, repeats=repeats, config=told, stop=stop)
        report = drive.run(stream, intake.blocks(given, drive.positions(stream)))
    typer.echo(orjson.dumps(report) if as_json else stream_line(report), err=True)
    if report.rejected:
        typer.echo(f"refused lines, with the reason: {dead_letters}", err=True)
    if not (warm or journal):
        typer.echo("the series started cold; --warm carries them on from the price store", err=True)


app.command()(serving_commands.serve)
app.command()(serving_commands.reconcile)


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
    as_json: AsJson = False,
) -> None:
    """Drive the stream from the price store, as the past would have come, and say how fast and how well.

    Example: statecast replay --ticks 100000
    """
    from flows.screen import Screen, replay_line
    from pipeline import replay as replaying

    chosen = settled(config, settings, folder)
    models = lineup(model, chosen)
    out = out or chosen.folder / "replay.jsonl"
    with Screen(console(as_json)) as screen:
        screen.begins("replaying the price store")
        which = {"series": chosen.series, "part": chosen.part}
        replayed = replaying.replay(models, chosen.prices, out, days=days, ticks=ticks, config=chosen.stream, **which)
    answer(as_json, replayed, lambda: typer.echo(f"{replay_line(replayed)}\n{out}"))


@app.command()
def scenarios(
    series: SeriesNames = None,
    steps: Annotated[int, typer.Option(min=1, help="Observations ahead.")] = 24,
    paths: Annotated[int, typer.Option(min=1, help="Paths a series.")] = 500,
    temperature: Annotated[
        float, typer.Option(min=0, help="Factor of the spread of each step: 1 as calibrated, 0 the path of medians.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds give equal paths.")] = 0,
    start: Annotated[
        str, typer.Option("--from", metavar="START", help="now, nothing, or a market regime: calm, usual, wild.")
    ] = "now",
    out: Annotated[Path | None, typer.Option(help="File for every path: .parquet or .csv.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Picture of the fans, such as fan.png; the first six series.")
    ] = None,
    model: Annotated[Path | None, typer.Option(help="An ONNX step; left out: the champion.")] = None,
    config: ConfigFile = None,
    settings: Settings = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Draw many futures of each series, and say what they hold: quantiles, chance of a rise, drawdown, value at risk.

    A path is drawn step by step from the forecast of the next price, which then counts as the next price, so that
    volatility goes on as it does in the model. All paths begin at the last price: from the state of today (now), of a
    series that was never seen (nothing), or of moments at which the series was calm, usual or wild.

    Example: statecast scenarios SP500 --steps 60 --from wild --plot fan.png
    """
    from flows.screen import Screen, told_scenarios

    chosen = settled(config, settings, folder)
    from pipeline import figures
    from pipeline import scenarios as sampling

    sampling.check_out(out)
    figures.check_file(plot)
    with Screen(console(as_json)) as screen:
        screen.begins(f"drawing {paths:,} paths a series from {start}")
        drawn = sampling.scenarios(
            served(model, chosen),
            store(chosen),
            series,
            steps=steps,
            paths=paths,
            temperature=temperature,
            seed=seed,
            start=start,
        )
    files = {"out": out and drawn.save(out), "plot": plot and drawn.plot(plot)}
    told = {"model": drawn.model, "from": start, "steps": steps, "paths": paths} | files
    told["series"] = outlooks = drawn.outlooks()
    answer(as_json, told, lambda: told_scenarios(outlooks, steps, [file for file in files.values() if file]))


@app.command()
def retrain(
    prefect: Annotated[
        bool, typer.Option("--prefect", help="Run it as a Prefect flow, with an embedded server if none is set.")
    ] = False,
    every: Annotated[
        str | None,
        typer.Option(
            metavar="hour|day|week|CRON",
            help="Keep running, and retrain by this schedule (UTC) where something is new.",
        ),
    ] = None,
    config: ConfigFile = None,
    settings: Settings = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Do everything in order: ingest, judge what was fitted before on what came since, record, fit anew, promote.

    The first time, and with other settings, models or series, models are judged by a walk over the test split. On the
    prices of the retrain before there is nothing to do, and one that was killed goes on by the same command. With
    --every a Prefect server runs on loopback as long as the command, its home in the data folder; a moment that was
    missed is caught up with once; SIGTERM and Ctrl-C end it.

    Example: statecast retrain --config desk.toml --every day
    """
    from flows.screen import Screen, told_retrain
    from pipeline.turn import turn

    chosen = settled(config, settings, folder)
    if every is not None:
        from flows.embedded import retrain_every
        from flows.every import cron_of

        cron = cron_of(every)
        retrain_every(chosen, cron, lambda url: typer.echo(f"retraining at {cron!r} UTC; runs: {url}", err=True))
        return
    with Screen(console(as_json)) as screen:
        if chosen.scale.wanted:
            from flows.embedded import retrain_side_by_side

            with turn(chosen.folder):
                result = retrain_side_by_side(chosen, screen)
        elif prefect:
            from flows.embedded import retrain_in_prefect

            result = retrain_in_prefect(chosen, screen)
        else:
            from flows.retrain import retrain_each

            with turn(chosen.folder):
                result = retrain_each(chosen, screen)
    answer(as_json, result.get("", result), lambda: told_retrain(result))


@app.command()
def init(
    paths: Annotated[list[str], typer.Argument(help="Files, folders, globs, or a source by name, as for ingest.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Settings file to write.")] = Path("statecast.toml"),
    force: Annotated[bool, typer.Option("--force", help="Replace the settings file if it is there.")] = False,
    config: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Look at your prices and write settings for them, each with its reason, to start from.

    Proposes the transform, bars for trades, the horizon, covariates, and which series are too short.

    Example: statecast init prices.csv && statecast retrain -c statecast.toml
    """
    from dataclasses import replace

    from flows.screen import Screen
    from models.errors import ConfigError
    from pipeline.proposal import propose

    if out.exists() and not force:
        raise ConfigError(f"{out} is there already. Name another file with --out, or replace it with --force")
    chosen = settled(config, settings, None).ingest
    with Screen(console(as_json)) as screen:
        proposal = propose(replace(chosen, paths=tuple(paths)), screen.begins)
    out.write_text(proposal.toml(), encoding="utf-8")
    answer(
        as_json, proposal, lambda: typer.echo(f"{proposal.toml()}\nwritten to {out}. Next: statecast retrain -c {out}")
    )


@app.command()
def inspect(
    model: Annotated[Path | None, typer.Argument(help="An ONNX step; left out: the champion.")] = None,
    series: Annotated[
        str | None, typer.Option(help="Draw the hidden state that this series of the price store leaves.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="PNG file of that; left out: in the data folder's figures.")] = None,
    config: ConfigFile = None,
    settings: Settings = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Show what a model file says of itself: kind, state tensors and their meaning, cut-off, parity.

    Example: statecast inspect --series SP500
    """
    from flows.screen import told_inspection
    from pipeline.inspection import inspect as looked_into

    chosen = settled(config, settings, folder)
    session = served(model, chosen)
    inspection, figure = looked_into(session), None
    if series is not None:
        from pipeline import inventory

        figure = inventory.hidden_state(session, store(chosen), series, out or chosen.folder / "figures")
    answer(as_json, inspection.to_dict() | {"figure": figure}, lambda: told_inspection(inspection, figure))


@app.command()
def audit(
    models: Models = None,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of a network's fit.")] = 3,
    config: ConfigFile = None,
    settings: Settings = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Prove on your own prices that nothing of the past depends on the future, from the store to the ONNX step.

    Every stage runs again with garbage for a future, with all prices one observation later, and with a leak planted;
    the first one that differs is named, with the place and both values, and the exit code is 8. Runs on the last 3,000
    observations of the four longest series, and writes nothing.

    Example: statecast audit ar lstm
    """
    from flows.screen import Screen, told_audit
    from pipeline import audit as auditing

    chosen = settled(config, settings, folder)
    with Screen(console(as_json)) as screen:
        screen.begins("loading prices into other worlds")
        found = auditing.audit(
            chosen,
            tuple(models or chosen.models),
            epochs=epochs,
            on_model=lambda name: screen.begins(f"auditing {name}"),
        )
    if not as_json:
        told_audit(found)
    found.require()
    answer(as_json, found, lambda: None)


@app.command()
def classify(
    target: Annotated[str, typer.Argument(help="direction, volatility, or a column of the store that holds labels.")],
    cell: Annotated[str, typer.Option(help="rnn, lstm, gru or transformer.")] = "gru",
    pooling: Annotated[str, typer.Option(help="What a label is read from: last or attention.")] = "last",
    bidirectional: Annotated[
        bool, typer.Option("--bidirectional", help="Label whole series from past and future; no stream, no file.")
    ] = False,
    steps: Annotated[int, typer.Option(min=1, help="Observations over which the direction is told.")] = 1,
    window: Annotated[int, typer.Option(min=2, help="Moves of a volatility.")] = 20,
    regimes: Annotated[int, typer.Option(min=2, max=3, help="2 by the median of train, 3 by terciles.")] = 2,
    config: ConfigFile = None,
    settings: Settings = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Label moments: will the price rise, will the next moves be wild, or what a column of your own says.

    Fits a network on the train split, scores it on the test split beside the base rate (for volatility also beside the
    persistence of the present regime), tests the difference, and says in words whether there is skill. Records an
    MLflow run and exports the step as an ONNX file. Where the store is empty, prices are ingested first.

    Example: statecast classify volatility --pooling attention
    """
    from flows.screen import Screen, told_classified
    from pipeline import classify as classifying

    chosen = settled(config, settings, folder)
    shape = {"bidirectional": bidirectional, "steps": steps, "window": window, "regimes": regimes}
    question = classifying.Question(target=target, cell=cell, pooling=cast("Any", pooling), **shape)
    with Screen(console(as_json)) as screen:
        screen.begins(f"classifying {target}", chosen.fit.training.epochs)
        found = classifying.classify(chosen, question, screen.epoch)
    answer(as_json, found, lambda: told_classified(found))


@app.command()
def study(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAMES", help="Experiments. Left out: all.")] = None,
    full: Annotated[bool, typer.Option("--full", help="The size of the document; left out: a quick look.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="Name the experiments with their questions.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder of results; OUT.md beside it. Left out: study in the data folder.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Run also what has been found already.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all that is drawn.")] = 0,
    config: ConfigFile = None,
    settings: Settings = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Measure what each part of a recurrent forecaster is for: gradients, memory, clipping, the carried state.

    Each experiment gives a table, a figure, an answer in words and an MLflow run. What has been found with the same
    code, settings and prices is not run again. Prices are those of the store; where it is empty they are ingested
    first, the sample if nothing else is configured.

    Example: statecast study gradients packing
    """
    from flows.screen import Screen, told_study
    from pipeline.study import document, runs
    from pipeline.study.experiments import EXPERIMENTS, chosen

    experiments = chosen(names or [])
    if listed:
        questions = {e.name: e.question for e in experiments}
        answer(as_json, questions, lambda: typer.echo("\n".join(f"{n}: {q}" for n, q in questions.items())))
        return
    decided = settled(config, settings, folder)
    plan = runs.Plan(folder=out or decided.folder / "study", scale="full" if full else "quick", seed=seed, again=again)
    with Screen(console(as_json)) as screen:
        results = runs.run(experiments, plan, decided, screen.begins, screen.note)
    everything = {name: found for name in EXPERIMENTS if (found := runs.kept(plan.folder, name)) is not None}
    page = document.write(EXPERIMENTS.values(), everything, plan.folder)
    answer(as_json, {"results": results, "page": page}, lambda: told_study(results, page))


app.command()(tuning_commands.search)
app.command()(tuning_commands.rate)


@app.command("config")
def show_config(as_json: AsJson = False) -> None:
    """Print every setting with its default and its meaning, as TOML to start from.

    Example: statecast config > desk.toml
    """
    from pipeline.config import Config
    from pipeline.settings import annotated_toml, to_dict

    answer(as_json, to_dict(Config()), lambda: typer.echo(annotated_toml(Config)))


app.add_typer(data_commands.app, name="data")


def main() -> None:
    """Run the command line; an expected error is one line and an exit code by its class."""
    try:
        app()
    except (StatecastError, OSError) as error:
        said, code = " ".join(str(error).split()), error.exit_code if isinstance(error, StatecastError) else 1
        typer.echo(f"error: {said}", err=True)
        if "--json" in sys.argv:
            told = {"error": said, "code": code, "report": getattr(error, "report", None)}
            answer(True, told, lambda: None)
        sys.exit(code)
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            typer.echo(
                "interrupted: run the same command again to go on; a network continues from its last epoch, a stream "
                "from its --journal",
                err=True,
            )
        raise
