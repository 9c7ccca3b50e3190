"""Verbs that keep a data folder elsewhere and bring it back: `statecast backup` and `statecast restore`.

Comes in: arguments. Goes out: backups and data folders, and what was done. Registered by the command line.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.options import AsJson, ConfigFile, Folder, JournalFolder, Settings, answer, console, settled

if TYPE_CHECKING:
    from pipeline.backup import BackedUp
    from pipeline.restoration import Restored


def backup(
    to: Annotated[Path, typer.Argument(help="Folder of backups; a file that is there already is not copied again.")],
    journal: JournalFolder = None,
    out: Annotated[
        Path | None, typer.Option(help="The stream's file of forecasts, where it is not in the journal's folder.")
    ] = None,
    keep: Annotated[
        int | None, typer.Option(min=1, help="Remove all but so many of the newest backups. Left out: none.")
    ] = None,
    config: ConfigFile = None,
    settings: Settings = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Keep the data folder elsewhere: prices, models, registry, champions, settings, and the journal of a stream.

    A stream may run on: its journal is kept as of one batch. A retrain or an ingest may run too; what changes while it
    is copied is copied again. Files of MLflow or artifacts outside the data folder are not kept, nor are downloads, the
    home of the embedded Prefect, or any token.

    Example: statecast backup ../backups --keep 14
    """
    from flows.screen import Screen
    from pipeline.backup import backup as keep_all

    chosen = settled(config, settings, folder)
    with Screen(console(as_json)) as screen:
        screen.begins("backing up")
        done = keep_all(chosen, to, journal=journal, out=out, keep=keep)
    answer(as_json, done, lambda: _told_backup(done))
    if done.left and not as_json:
        typer.echo(f"not kept, for it is none of a data folder's files: {', '.join(done.left)}", err=True)
    if done.elsewhere and not as_json:
        typer.echo(f"not kept, for it is not in the data folder: {', '.join(done.elsewhere)}", err=True)


def restore(
    source: Annotated[
        Path, typer.Argument(metavar="FROM", help="Folder of backups, for the newest one; or the list of an older one.")
    ],
    replace: Annotated[
        bool, typer.Option("--replace", help="Move a data folder that is there aside; nothing of it is deleted.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check every file, and write nothing.")] = False,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Bring a data folder back, at its old place or another one, after every byte of it was checked.

    The settings with which it was kept are in statecast.toml of the folder. A stream goes on where its journal ends.

    Example: statecast restore ../backups --folder .statecast
    """
    from flows.screen import Screen
    from pipeline.restoration import restore as bring_back
    from pipeline.stream_config import ServedConfig

    with Screen(console(as_json)) as screen:
        screen.begins("checking" if dry_run else "restoring")
        done = bring_back(source, folder or ServedConfig.folder, replace=replace, dry=dry_run)
    answer(as_json, done, lambda: _told_restore(done, dry=dry_run))


def _told_backup(done: BackedUp) -> None:
    typer.echo(
        f"{done.files} files, {done.bytes / 1e6:,.1f} MB, of these new {done.added} with {done.added_bytes / 1e6:,.1f} "
        f"MB: {done.list}"
    )
    if done.gone:
        typer.echo(f"removed older ones: {len(done.gone)}")


def _told_restore(done: Restored, *, dry: bool) -> None:
    typer.echo(f"{done.files} files, {done.bytes / 1e6:,.1f} MB, all as they were kept: {done.list}")
    if done.aside is not None:
        typer.echo(f"what was there lies in {done.aside}")
    if not dry:
        typer.echo(f"its settings: --config {done.folder / 'statecast.toml'} --folder {done.folder}")
