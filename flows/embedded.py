"""Prefect without a server to start: the environment of a run inside this process.

Comes in: a data folder. Goes out: environment variables, then a finished flow. Must run before prefect is first
imported; imported by the command line only.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

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


def retrain_in_prefect(config: Config, watch: Watch) -> dict[str, Retrained]:
    """Run the retrain as a Prefect flow against a server that lives as long as this call; what is set already stays."""
    for name, value in environment(config.folder).items():
        os.environ.setdefault(name, value)
    # Prefect's server does not make its own home
    Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)
    server = os.environ.get("PREFECT_API_URL")
    watch.begins(f"connecting to Prefect at {server}" if server else "starting the embedded Prefect")
    from flows.prefect_flows import retrain_watched_by

    return retrain_watched_by(watch)(config)
