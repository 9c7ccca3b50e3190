"""The demo: the whole way once on the bundled prices, with the embedded Prefect and MLflow.

Comes in: a folder. Goes out: a table, figures, a champion, a replayed stream. Imported by the command line only.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from flows.embedded import retrain_in_prefect
from flows.retrain import Retrained
from flows.screen import Screen, replay_line, told_retrain
from pipeline import champions
from pipeline.config import Config
from pipeline.lineup import published
from pipeline.replay import Replayed, replay
from pipeline.tracking import Tracker

STREAM_DAYS = 365


@dataclass(frozen=True, kw_only=True)
class Demonstrated:
    """What the demo gave, and how long it took."""

    retrained: Retrained
    replayed: Replayed
    mlflow: str
    seconds: float


def run_demo(folder: Path, console: Console) -> Demonstrated:
    """Run the default settings in `folder`, with progress on `console`."""
    started = time.perf_counter()
    config = Config(folder=folder)
    with Screen(console) as screen:
        (retrained,) = retrain_in_prefect(config, screen).values()
        screen.begins("replaying the past as a stream from the champion's ONNX file")
        replayed = _replay(config)
    command = Tracker(config.tracking, config.base).ui_command()
    seconds = time.perf_counter() - started
    return Demonstrated(retrained=retrained, replayed=replayed, mlflow=command, seconds=seconds)


def told_demo(result: Demonstrated) -> None:
    """Print what came out."""
    console = Console()
    told_retrain({"": result.retrained})
    console.print(f"Replay: {replay_line(result.replayed)}", highlight=False)
    console.print(f"Open MLflow:\n  {result.mlflow}", highlight=False, soft_wrap=True)
    console.print(f"Done in {result.seconds:.0f} s.", highlight=False)


def _replay(config: Config) -> Replayed:
    folder = config.folder / "champions"
    lineup = published(folder, champions.current(folder, config.champion))
    return replay(lineup, config.prices, config.folder / "replay.jsonl", days=STREAM_DAYS)
