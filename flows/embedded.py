"""Prefect without a server to start: the environment of runs whose server lives as long as the command.

Comes in: a data folder. Goes out: environment variables, then a finished flow, or a schedule that is served. Must run
before prefect is first imported; imported by the command line only.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from models.errors import ConfigError

if TYPE_CHECKING:
    from flows.retrain import Retrained, Watch
    from pipeline.config import Config


def environment(folder: Path) -> dict[str, str]:
    """Give the settings of an embedded Prefect: its home in the data folder, nothing sent out, time to start."""
    return {
        "PREFECT_HOME": str((folder / "prefect").resolve()),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
        "DO_NOT_TRACK": "true",
    }


def _prepare(folder: Path) -> str | None:
    """Set the environment, where what is set already stays; give the address of a server that is set."""
    for name, value in environment(folder).items():
        os.environ.setdefault(name, value)
    # Prefect's server does not make its own home
    Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)
    return os.environ.get("PREFECT_API_URL")


def _connecting(config: Config, watch: Watch) -> None:
    server = _prepare(config.folder)
    watch.begins(f"connecting to Prefect at {server}" if server else "starting the embedded Prefect")


def retrain_in_prefect(config: Config, watch: Watch) -> dict[str, Retrained]:
    """Run the retrain as a Prefect flow against a server that lives as long as this call.

    Raises
    ------
    BusyError
        Another process retrains the data folder.
    """
    _connecting(config, watch)
    from flows.prefect_flows import SKIPPED, retrain_watched_by
    from pipeline.turn import BusyError

    state = retrain_watched_by(watch)(config, return_state=True)
    if state.name == SKIPPED:
        raise BusyError(state.message)
    return state.result()


def retrain_side_by_side(config: Config, watch: Watch) -> dict[str, Retrained]:
    """Run the retrain of every pool as a Prefect flow whose tasks run on Dask workers.

    Raises
    ------
    ConfigError
        The libraries of this are not installed.
    """
    _connecting(config, watch)
    try:
        from flows.side_by_side import retrain
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"scale: expected the extra `scale` beside statecast, got {error}. Install 'statecast[scale]', or leave "
            "scale.workers and scale.address out"
        ) from error
    return retrain(config, watch)


def retrain_every(config: Config, cron: str, tell: Callable[[str], None]) -> None:
    """Serve a schedule of retrains until SIGTERM or Ctrl-C, on a server that ends with it; `tell` hears where to look.

    The server is a thread of this process: whatever ends the process leaves no server behind.
    """
    server, listening = _prepare(config.folder), None
    if server is None:
        listening = socket.create_server(("127.0.0.1", 0))
        server = f"http://127.0.0.1:{listening.getsockname()[1]}/api"
        os.environ["PREFECT_API_URL"] = server
    from flows import scheduled

    with nullcontext() if listening is None else scheduled.server(listening):
        scheduled.serve(config, cron, lambda: tell(server.removesuffix("/api")))
