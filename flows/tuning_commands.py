"""The verbs that look for settings of a network: `statecast search` and `statecast rate`.

Comes in: arguments. Goes out: text or JSON, figures. Registered by the command line.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.options import AsJson, ConfigFile, Folder, Model, Settings, answer, console, settled


def search(
    model: Model,
    trials: Annotated[int, typer.Option(min=1, help="Trials in the end, those made before counted.")] = 30,
    space: Annotated[
        Path | None, typer.Option(help="TOML: per setting a range or a list of values. Left out: a usual one.")
    ] = None,
    config: ConfigFile = None,
    settings: Settings = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Search for the settings of a network, judged on the validation split alone; the test split is not read.

    A space has lines such as `fit.network.hidden = { low = 8, high = 64, log = true }` and
    `fit.training.chunk = [16, 32, 64]`. A search that was interrupted goes on by the same command, and so does one that
    is given more trials. Each trial is an MLflow run below that of the search.

    Example: statecast search lstm --trials 30
    """
    from flows.screen import Screen, told_search
    from pipeline import search as searching

    chosen = settled(config, settings, folder)
    declared = searching.read_space(space) if space is not None else None
    with Screen(console(as_json)) as screen:
        told = {"begins": screen.begins, "on_epoch": screen.epoch}
        searched = searching.search(chosen, model, trials=trials, space=declared, **told)
    answer(as_json, searched, lambda: told_search(searched))


def rate(
    model: Model,
    plot: Annotated[Path | None, typer.Option(help="Figure; left out: in the data folder's figures.")] = None,
    config: ConfigFile = None,
    settings: Settings = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Find a learning rate for a network: one short training in which the rate rises from chunk to chunk.

    Example: statecast rate lstm --plot rate.png
    """
    from flows.screen import Screen, told_rate
    from pipeline import rate_range

    chosen = settled(config, settings, folder)
    with Screen(console(as_json)) as screen:
        screen.begins(f"raising the learning rate of {model}")
        rated = rate_range.rate(chosen, model, plot, screen.note)
    answer(as_json, rated, lambda: told_rate(rated))
