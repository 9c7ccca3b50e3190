"""The verb that looks after registered models: `statecast models`.

Comes in: arguments. Goes out: a table or JSON; old versions go from the registry. Registered by the command line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.options import AsJson, ConfigFile, Folder, Settings, answer, console, settled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.config import Config
    from pipeline.tracking import Registered

SHORT = 12
"""Characters of a commit that are shown."""


def models(
    keep: Annotated[
        int | None,
        typer.Option(min=1, help="Remove all but so many of the newest, and those that are needed. Left out: none."),
    ] = None,
    config: ConfigFile = None,
    settings: Settings = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """List the versions of the registered model: which serves, on which prices and code it rests, and why.

    With --keep old versions are removed with their files, after they have been named. Those with an alias, and those
    that the champions folder names, now or in its history, always stay: every rollback goes on working. Of a registry
    that several data folders share, only the champions of this one are known.

    Example: statecast models --keep 20
    """
    from flows.screen import Screen
    from pipeline import champions
    from pipeline.tracking import Tracker

    chosen = settled(config, settings, folder)
    with Screen(console(as_json)) as screen:
        screen.begins("asking the registry")
        tracker = Tracker(chosen.tracking, chosen.base)
        needed = champions.needed(chosen.folder / "champions")
        going = [] if keep is None else tracker.prunable(keep, needed)
    removed = []
    if keep is not None and going:
        typer.echo(f"removing {', '.join(map(_named, going))}", err=True)
        removed = tracker.prune(keep, needed)
    serving, left = _serving(chosen), tracker.versions()
    told: dict[str, Any] = {"versions": [_plain(v, serving) for v in left]}
    told["removed"] = [_plain(r.version, serving) for r in removed]
    told["files_left"] = [r.version.number for r in removed if not r.file_deleted]
    answer(as_json, told, lambda: _tell(left, serving))
    if told["files_left"] and not as_json:
        typer.echo(f"files that are not in this data folder stay: versions {told['files_left']}", err=True)


def _named(version: Registered) -> str:
    return f"version {version.number} ({version.tags.get('model', 'unknown')})"


def _serving(config: Config) -> str:
    """Give the digest of the file that serves now; nothing where none does."""
    from pipeline import champions

    folder = config.folder / "champions"
    if not champions.entry_of(folder, config.champion).exists():
        return ""
    return champions.current(folder, config.champion).sha256


def _plain(version: Registered, serving: str) -> dict[str, Any]:
    return {
        "version": version.number,
        "served": bool(serving) and version.sha256 == serving,
        "aliases": version.aliases,
        "created_time": version.created_time,
        "run_id": version.run_id,
        "tags": version.tags,
    }


def _tell(versions: Sequence[Registered], serving: str) -> None:
    """Print a row a version, then the verdict on each."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    if not versions:
        typer.echo("no model is registered yet: `statecast promote` registers the champion")
        return
    table = Table(box=box.SIMPLE, padding=(0, 1), pad_edge=False)
    for name in ("version", "model", "alias", "served", "data until", "commit", "fit s"):
        table.add_column(name, overflow="fold", justify="right" if name in ("version", "fit s") else "left")
    for v in versions:
        tags = v.tags
        served = "now" if serving and v.sha256 == serving else ""
        seconds = f"{float(tags['seconds']):.1f}" if "seconds" in tags else ""
        until, code = tags.get("data_end", "").removesuffix("T00:00:00Z"), tags.get("commit", "")[:SHORT]
        cells = (str(v.number), tags.get("model", ""), ", ".join(v.aliases), served, until, code, seconds)
        table.add_row(*map(escape, cells))
    Console().print(table)
    for v in versions:
        typer.echo(f"{v.number}: {v.tags.get('verdict') or v.tags.get('reason', '')}")
