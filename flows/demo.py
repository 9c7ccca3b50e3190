"""The demo: the whole way once on the bundled prices, with the embedded Prefect and MLflow.

Comes in: a folder. Goes out: a table, figures, a champion, a replayed stream. Imported by the command line only.
"""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console

from flows.embedded import retrain_in_prefect
from flows.screen import Screen, champion_line, comparison_table, replay_line
from pipeline import champions
from pipeline.config import Config
from pipeline.replay import Replayed, replay
from pipeline.tracking import Tracker

STREAM_DAYS = 365


def run_demo(folder: Path) -> None:
    """Run the default settings in `folder` and print what came out."""
    started = time.perf_counter()
    config, console = Config(folder=folder), Console()
    with Screen(console) as screen:
        result = retrain_in_prefect(config, screen)
        screen.begins("replaying the past as a stream from the champion's ONNX file")
        replayed = _replay(config)
    console.print(comparison_table(result.compared.rows))
    console.print(champion_line(result.promoted), highlight=False)
    console.print(f"Champion's file: {result.promoted.file}", highlight=False, soft_wrap=True)
    console.print(f"Replay: {replay_line(replayed)}", highlight=False)
    for path in result.compared.figures:
        console.print(f"Figure: {path}", highlight=False, soft_wrap=True)
    command = Tracker(config.tracking, config.folder).ui_command()
    console.print(f"Open MLflow:\n  {command}", highlight=False, soft_wrap=True)
    console.print(f"Done in {time.perf_counter() - started:.0f} s.", highlight=False)


def _replay(config: Config) -> Replayed:
    session = champions.load(config.folder / "champions", config.champion)
    return replay(session, config.folder / "prices", config.folder / "replay.jsonl", days=STREAM_DAYS)
