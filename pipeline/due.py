"""Whether a retrain that nobody asked for by hand is worth its time: what is new since the last one.

    closed   calendar                -> an exchange that has not been open since has no new prices
    due      price store, notes      -> new prices, settings, code, or a drift of the live forecasts

The last retrain is the one that was recorded last, as runs.json has it.

Comes in: settings, and the notes of a stream, which may be running. Goes out: yes or no, and why. Imported by the
flows.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from models.errors import ConfigError
from pipeline.calendars import trades
from pipeline.config import Config
from pipeline.judging import prices_of, retrain_key
from pipeline.opening import NOTES
from pipeline.steps import iso, load, read_json


@dataclass(frozen=True, kw_only=True)
class DueConfig:
    """What makes a retrain due.

    Attributes
    ----------
    new_rows : int
        Prices that have come since the last retrain, 1 or more. A revised price counts as one.
    on_drift : bool
        A drift of the live forecasts after the last price of the last retrain makes one due by the first new price.
    journal : Path or None
        Folder of the journal of the stream whose notes tell of drifts; left out: journal in the data folder.
    """

    new_rows: int = 1
    on_drift: bool = True
    journal: Path | None = None

    def __post_init__(self) -> None:
        if self.new_rows < 1:
            raise ConfigError(f"new_rows: expected 1 or more, got {self.new_rows}")


@dataclass(frozen=True, kw_only=True)
class Due:
    """Whether a retrain is due, and why it is or is not."""

    yes: bool
    why: str


def closed(config: Config, now: datetime) -> str | None:
    """Say that the exchange of the settings has not been open since the last retrain; None where it may have been."""
    name, last = config.ingest.calendar.name, _last(config)
    if name is None or last is None:
        return None
    since = datetime.fromisoformat(last["time"])
    if trades(name, round(since.timestamp() * 1e6), round(now.timestamp() * 1e6)):
        return None
    return f"{name} has not been open since the last retrain at {since:%Y-%m-%d %H:%M} UTC"


def due(config: Config, wanted: DueConfig) -> Due:
    """Say whether a retrain on what the store holds now is due."""
    data, last = load(config), _last(config)
    if last is None:
        return Due(yes=True, why="there is no retrain yet")
    when = f"since the last retrain at {datetime.fromisoformat(last['time']):%Y-%m-%d %H:%M} UTC"
    if retrain_key(config, data) == last["key"]:
        return Due(yes=False, why=f"nothing is new {when}")
    if data.sha256 == last["data_sha256"]:
        return Due(yes=True, why=f"settings or code have changed {when}")
    if wanted.on_drift and (drifted := drift_since(config, wanted, last["data_end"])):
        return Due(yes=True, why=drifted)
    new = max(prices_of(data) - last["rows"], 1)  # revised prices alone change the digest and no count
    return Due(yes=new >= wanted.new_rows, why=f"{new:,} new prices {when}; {wanted.new_rows:,} make one due")


def drift_since(config: Config, wanted: DueConfig, end: str) -> str | None:
    """Tell of the last drift after a moment (ISO 8601); None where there is none."""
    after = round(datetime.fromisoformat(end).timestamp() * 1e6)
    found = [note for note in drifts(wanted.journal or config.folder / "journal") if note["time"] > after]
    return f"{told(found[-1])}, after {end}" if found else None


def drifts(journal: Path) -> list[dict[str, Any]]:
    """Read the drifts that a stream has noted, the oldest first; a line that is being written is left out."""
    path = journal / NOTES
    whole = path.read_bytes().rpartition(b"\n")[0].splitlines() if path.exists() else []
    return [note for note in map(orjson.loads, whole) if note["kind"] == "drift"]


def told(drift: dict[str, Any]) -> str:
    """Tell of a drift in words."""
    against = f" against {drift['against']}" if "against" in drift else ""
    numbers = f"{drift['value']:.3g} where {drift['expected']:.3g} was expected, over {drift['outcomes']:,} outcomes"
    return f"{drift['what']}{against} drifted at {iso(drift['time'])}: {numbers}"


def _last(config: Config) -> dict[str, Any] | None:
    """Read what the last retrain has recorded; None where there is none, or an older version recorded it."""
    account = config.folder / "runs.json"
    noted = read_json(account, "retrain") if account.exists() else {}
    return noted if "key" in noted else None
