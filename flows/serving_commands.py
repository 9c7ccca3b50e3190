"""Verbs that serve: the HTTP service, and series restated beside it.

Comes in: arguments. Goes out: a running service, or a journal that was mended. Imported by the command line.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.options import (
    AsJson,
    ConfigFile,
    Durability,
    Folder,
    JournalFolder,
    Rebase,
    Settings,
    answer,
    lineup,
    past_of,
    settled_to_serve,
    store,
)


def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but a loopback one needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes one that is free.")] = 8080,
    token_file: Annotated[
        Path | None, typer.Option(help="File with the bearer token, not readable for others; else STATECAST_TOKEN.")
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Name that may stand in the Host header. May repeat.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="Origin of a page that may send requests. May repeat.")
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=NUMBER", help="A bound of the service, such as body_bytes=1000000. May repeat."),
    ] = None,
    journal: JournalFolder = None,
    out: Annotated[Path | None, typer.Option(help="Every forecast, as JSON lines, beside the answers.")] = None,
    warm: Annotated[
        bool, typer.Option("--warm", help="A new journal begins with the history in the price store.")
    ] = False,
    durability: Durability = None,
    rebase: Rebase = False,
    model: Annotated[Path | None, typer.Option(help="An ONNX step; left out: the champion.")] = None,
    config: ConfigFile = None,
    settings: Settings = None,
    folder: Folder = None,
) -> None:
    """Serve forecasts over HTTP: POST /ticks answers when they are committed; a champion is taken over as it comes.

    Also GET /forecasts/SERIES, /series, /status, /events (server-sent), /metrics (Prometheus), /healthz, /readyz and
    /openapi.json. Ends on SIGTERM or Ctrl-C after answering what it had accepted. It speaks plain HTTP: put TLS before
    it where others can listen.

    Example: statecast serve --warm --port 8080
    """
    from pipeline import opening
    from pipeline.limits import find_token, with_limits
    from pipeline.outputs import FileOutput
    from pipeline.serve import Server

    chosen = settled_to_serve(config, settings, folder, durability)
    bounds = with_limits(
        limit or [],
        host=host,
        port=port,
        token=find_token(token_file),
        hosts=tuple(allow_host or ()),
        origins=tuple(allow_origin or ()),
        batch=chosen.stream.batch,
    )
    where = journal or chosen.folder / "journal"
    past = past_of(chosen) if warm else None

    def opened() -> opening.Stream:
        return opening.open_stream(
            opening.Opening(
                lineup=lambda: lineup(model, chosen),
                journal=where,
                out=None if out is None else FileOutput(out),
                dead=FileOutput(opening.folder_of(where, where) / "dead-letters.jsonl"),
                told=opening.notes_of(where),
                history=past,
                watched=None if model else (chosen.folder / "champions", chosen.champion),
                rebase=rebase,
            ),
            chosen.stream,
        )

    Server(opened, bounds).run(lambda url: typer.echo(f"serving at {url}, journal {where}", err=True))


def reconcile(
    series: Annotated[list[str], typer.Argument(metavar="SERIES...", help="Series whose prices were restated.")],
    journal: JournalFolder = None,
    config: ConfigFile = None,
    settings: Settings = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Compute the states of restated series anew from the price store, up to the last tick that the stream has seen.

    The stream must not be running: its journal is opened. Forecasts that were given stay as they are; other series keep
    every bit.

    Example: statecast reconcile AAPL
    """
    from pipeline.opening import Opening, notes_of, opened
    from pipeline.replay import restated
    from pipeline.restating import reconcile as recomputed

    chosen = settled_to_serve(config, settings, folder)
    where = journal or chosen.folder / "journal"
    wanted = Opening(lineup=None, journal=where, told=notes_of(where))
    with opened(wanted, chosen.stream) as stream:
        told = recomputed(stream, {name: restated(store(chosen), name) for name in series})
    answer(as_json, told, lambda: typer.echo("\n".join(f"{name}: {count} ticks" for name, count in told.items())))
