"""Options that the verbs share, how settings are put together from them, and how a verb answers.

Comes in: arguments. Goes out: `Config`, and text or JSON on standard output. Heavy libraries are imported inside the
functions, so that `--help` answers at once. Imported by the command line.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.config import Config
    from pipeline.lineup import Lineup
    from pipeline.prices import PriceStore
    from pipeline.session import Session
    from pipeline.stream import Past
    from pipeline.stream_config import ServedConfig

KINDS = (
    "last_value",
    "drift",
    "week_ago",
    "ar",
    "ar_t",
    "arx",
    "lear",
    "har",
    "garch",
    "egarch",
    "garch_diurnal",
    "rnn",
    "lstm",
    "gru",
    "transformer",
    "seq2seq",
    "point",
    "categorical",
    "dayahead",
    "ensemble",
    "mix",
)
"""Names of the models, for help and completion; those of `pipeline.fitting`, without what fits them."""


def _models(begun: str) -> list[str]:
    return [name for name in KINDS if name.startswith(begun)]


def _series(ctx: typer.Context, begun: str) -> list[str]:
    """List the series of the store that begin so, for the shell."""
    from pipeline.prices import PriceStore

    held = PriceStore((ctx.params.get("folder") or Path(".statecast")) / "prices")
    return [name for name in held.series()["series_id"] if name.startswith(begun)] if held.prices.exists() else []


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
AsJson = Annotated[bool, typer.Option("--json", help="Answer with one JSON document; progress goes to standard error.")]
Model = Annotated[
    str, typer.Argument(help=f"Name of the model: {', '.join(KINDS)}.", autocompletion=_models, show_default=False)
]
Models = Annotated[
    list[str] | None,
    typer.Argument(metavar="MODELS", help=f"Of {', '.join(KINDS)}. Left out: as configured.", autocompletion=_models),
]
SeriesNames = Annotated[
    list[str] | None, typer.Argument(metavar="SERIES...", help="Left out: all series.", autocompletion=_series)
]
SeriesName = Annotated[str, typer.Argument(metavar="SERIES", help="Name of a series.", autocompletion=_series)]
Rebase = Annotated[
    bool,
    typer.Option(
        "--rebase",
        help="Go on with a journal from another processor or runtime: forecasts stay, states are computed anew.",
    ),
]
JournalFolder = Annotated[
    Path | None, typer.Option("--journal", help="Folder of the journal; left out: journal in the data folder.")
]
Durability = Annotated[
    str | None,
    typer.Option(
        metavar="full|normal|none",
        help="What a committed tick survives: the loss of power; that, but for the last moments; the death of the "
        "process only. Left out: as configured.",
    ),
]
KnownAt = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="As the prices were known at this moment; left out: as they are known now."),
]


def settled(config: Path | None, settings: list[str] | None, folder: Path | None) -> Config:
    """Read the settings: defaults, then the file, then the command line."""
    from rich.console import Console

    with Console(stderr=True).status("starting"):
        from pipeline import steps  # noqa: F401  the heavy libraries, while something moves on the terminal
        from pipeline.config import Config
        from pipeline.settings import assignments, load
    _interruptible()
    overrides = assignments(settings or []) | ({} if folder is None else {"folder": str(folder)})
    chosen = load(Config, config if config is not None else {}, overrides)
    return chosen if chosen.pool is None else chosen.of(chosen.pool)


def settled_to_serve(
    config: Path | None, settings: list[str] | None, folder: Path | None, durability: str | None = None
) -> ServedConfig:
    """Read what serving needs of the settings; the libraries that train only where others are set, to check them."""
    from dataclasses import fields

    from models.errors import ConfigError
    from pipeline.settings import assignments, load, read
    from pipeline.stream_config import ServedConfig

    settings = [*(settings or []), *([] if durability is None else [f"stream.durability={durability}"])]
    overrides = assignments(settings) | ({} if folder is None else {"folder": str(folder)})
    named = {name.partition(".")[0] for name in (*overrides, *(read(config) if config is not None else ()))}
    if named <= {field.name for field in fields(ServedConfig)}:
        return load(ServedConfig, config if config is not None else {}, overrides)
    chosen = settled(config, settings, folder)
    if chosen.groups:
        raise ConfigError(f"expected one pool, got {', '.join(chosen.groups)}: choose one (--set pool=NAME)")
    return ServedConfig(**{field.name: getattr(chosen, field.name) for field in fields(ServedConfig)})


def _interruptible() -> None:
    """Put the handler of Ctrl-C in front again.

    Polars puts one of its own there, under which a read that waits for ticks would not be interrupted.
    """
    signal.signal(signal.SIGINT, signal.getsignal(signal.SIGINT))


def served(model: Path | None, config: Config) -> Session:
    """Open the model file named, or the champion."""
    from pipeline import champions
    from pipeline.session import Session

    return Session.load(model) if model else champions.load(config.folder / "champions", config.champion)


def lineup(model: Path | None, config: Config | ServedConfig) -> Lineup:
    """Read the model file named, or the champion and its references."""
    from pipeline import champions
    from pipeline.lineup import Lineup, published
    from pipeline.session import read

    if model:
        return Lineup(serving=read(model))
    folder = config.folder / "champions"
    return published(folder, champions.current(folder, config.champion))


def past_of(config: ServedConfig) -> Past:
    """Give the price store as ticks that a new stream takes in first."""
    from pipeline.replay import history

    _interruptible()
    return history(config.prices, config.stream, config.series, config.part)


def store(config: Config | ServedConfig) -> PriceStore:
    """Open the price store of a data folder."""
    from pipeline.prices import PriceStore

    return PriceStore(config.prices)


def console(as_json: bool) -> Console:
    """Give the terminal for progress: standard error where standard output is for JSON."""
    from rich.console import Console

    return Console(stderr=as_json)


def answer(as_json: bool, result: Any, tell: Callable[[], object]) -> None:
    """Answer with `result` as one JSON document, or by telling it to a person."""
    if not as_json:
        tell()
        return
    import orjson

    form = orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    typer.echo(orjson.dumps(result, default=_plain, option=form))


def _plain(value: Any) -> Any:
    """Give a table as a list of rows, and a path as text."""
    return value.to_dicts() if hasattr(value, "to_dicts") else str(value)
