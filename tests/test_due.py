"""When a retrain is due: on the workspace, with prices, notes and settings that change."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from conftest import write_csv

from models.errors import ConfigError
from pipeline import judging, steps
from pipeline.calendars import Calendars
from pipeline.due import Due, DueConfig, closed, due

WANTED = DueConfig(new_rows=3)


@pytest.fixture
def retrained(copied: Any) -> Any:
    """Give settings whose last retrain is recorded as theirs."""
    data = steps.load(copied)
    noted(copied, key=judging.retrain_key(copied, data), time="2022-01-07T22:30:00+00:00")
    return copied


def noted(config: Any, **changes: object) -> None:
    """Change what the last retrain has recorded."""
    path = config.folder / "runs.json"
    path.write_bytes(orjson.dumps(orjson.loads(path.read_bytes()) | changes))


def priced(config: Any, folder: Path, days: int) -> None:
    """Add prices of one series after the last one."""
    rows = [("AAA", f"2021-12-{day:02}", "100.0") for day in range(1, days + 1)]
    steps.ingest(replace(config, ingest=replace(config.ingest, paths=(str(write_csv(folder / "new.csv", rows)),))))


def drifted(config: Any, time: datetime) -> None:
    """Note a drift of a stream, and begin the next line."""
    micros = round(time.timestamp() * 1e6)
    note = {"kind": "drift", "what": "coverage_80", "time": micros, "value": 0.5, "expected": 0.8, "outcomes": 120}
    (config.folder / "journal").mkdir()
    lines = [orjson.dumps({"kind": "swap", "version": 2}), orjson.dumps(note), b'{"kind": "dri']
    (config.folder / "journal" / "notes.jsonl").write_bytes(b"\n".join(lines))


def test_nothing_new_is_not_due(retrained: Any) -> None:
    """The prices, settings and code of the last retrain need no other one, and its moment is told."""
    assert due(retrained, WANTED) == Due(yes=False, why="nothing is new since the last retrain at 2022-01-07 22:30 UTC")


def test_the_first_retrain_is_due(copied: Any) -> None:
    """Where none is recorded, or by an older version, it is due and no calendar is asked."""
    noted(copied)
    path = copied.folder / "runs.json"
    old = {k: v for k, v in orjson.loads(path.read_bytes()).items() if k != "key"}
    path.write_bytes(orjson.dumps(old))
    assert due(copied, WANTED) == Due(yes=True, why="there is no retrain yet")
    assert closed(with_calendar(copied), datetime.now(UTC)) is None


def test_other_settings_are_due(retrained: Any) -> None:
    """A setting that has changed makes a retrain due without a new price."""
    found = due(replace(retrained, transform="asinh"), WANTED)
    assert (found.yes, found.why.partition(" since")[0]) == (True, "settings or code have changed")


@pytest.mark.parametrize(("days", "yes"), [(2, False), (3, True)])
def test_so_many_new_prices_are_due(retrained: Any, tmp_path: Path, days: int, yes: bool) -> None:
    """From the number that is set on, new prices make a retrain due; the number is told."""
    priced(retrained, tmp_path, days)
    found = due(retrained, WANTED)
    assert (found.yes, found.why[: len("2 new prices")]) == (yes, f"{days} new prices")
    assert found.why.endswith("3 make one due")


def test_a_drift_makes_the_first_new_price_due(retrained: Any, tmp_path: Path) -> None:
    """A drift after the last price that was seen counts once there is a new price; switched off it does not."""
    end = datetime.fromisoformat(orjson.loads((retrained.folder / "runs.json").read_bytes())["data_end"])
    drifted(retrained, end + timedelta(hours=1))
    assert not due(retrained, WANTED).yes
    priced(retrained, tmp_path, 1)
    found = due(retrained, WANTED)
    assert found.yes
    assert found.why.startswith("coverage_80 drifted at 2021-11-30T01:00:00Z: 0.5 where 0.8 was expected, over 120")
    assert not due(retrained, replace(WANTED, on_drift=False)).yes
    noted(retrained, data_end=(end + timedelta(hours=2)).isoformat())
    assert not due(retrained, WANTED).yes


def with_calendar(config: Any) -> Any:
    """Give settings whose prices follow the New York Stock Exchange."""
    return replace(config, ingest=replace(config.ingest, calendar=Calendars(name="XNYS")))


@pytest.mark.parametrize(
    ("now", "shut"), [("2022-01-08T22:30", True), ("2022-01-09T22:30", True), ("2022-01-10T22:30", False)]
)
def test_an_exchange_that_stayed_closed_has_nothing_new(retrained: Any, now: str, shut: bool) -> None:
    """After Friday's retrain a Saturday and a Sunday are closed, a Monday is not; without a calendar no day is."""
    moment = datetime.fromisoformat(f"{now}:00+00:00")
    said = closed(with_calendar(retrained), moment)
    assert said == ("XNYS has not been open since the last retrain at 2022-01-07 22:30 UTC" if shut else None)
    assert closed(retrained, moment) is None


def test_a_friday_that_was_missed_is_not_closed_on_saturday(retrained: Any) -> None:
    """What counts is whether the exchange was open since the last retrain, not the day of the week."""
    noted(retrained, time="2022-01-06T22:30:00+00:00")
    assert closed(with_calendar(retrained), datetime(2022, 1, 8, 9, tzinfo=UTC)) is None


def test_no_price_is_no_number_of_prices() -> None:
    """Fewer than one new price is refused."""
    with pytest.raises(ConfigError, match="new_rows: expected 1 or more, got 0"):
        DueConfig(new_rows=0)
