"""A simulated year of a deployment: prices come week by week, models are judged, promoted and served, and much fails.

A market clock goes over a year of real prices. Each week its ticks go to a live stream for each pool, its prices are
appended to the source files, and a retrain follows; a stream takes over by itself what is promoted. In seeded weeks
something fails: a source is down or holds garbage, last week's prices are restated, the worker is killed, the disk is
full, MLflow does not answer, the stream is killed. What must come of each is checked, and at the end: every tick has
one forecast, the stream's are those of the record, every promotion has its reason. What it was worth is scored against
never retraining, promoting always and the last value (`year_score.py`).

    python benchmarks/year.py [--power FILE] [--stocks FILE] [--weeks 52] [--seed 7] [--json FILE] [--figure FILE]

Files are Parquet with the columns series_id, timestamp and price: hourly electricity, daily stocks. Without them the
bundled sample is the one pool. Ends with 1 where a check failed.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
from year_desk import Desk, Live, Outcome, Pool, Worker, pools
from year_score import TOLERANCE, Year, figure, gaps, given, reckon, skills

from flows.retrain import ingest
from models.errors import StatecastError
from pipeline import figures
from pipeline.session import RUNTIME_VERSION
from pipeline.steps import Ingested

DOWN, GARBAGE, RESTATED = "source down", "corrupt file", "late revision"
KILLED, FULL, SILENT, STREAM = "worker killed", "disk nearly full", "MLflow down", "stream killed"
FAULTS = (DOWN, GARBAGE, RESTATED, KILLED, FULL, SILENT, STREAM)
WEEK = timedelta(weeks=1)


class Quiet:
    """Watches the reading of prices and says nothing."""

    def ingested(self, result: Ingested) -> None:
        """Nothing is to be said."""

    def begins(self, what: str, epochs: int = 0) -> None:
        """Nor of what begins."""

    def epoch(self, record: object) -> None:
        """Nor of an epoch."""

    def refitted(self, done: int) -> None:
        """Nor of a refit."""


class Account:
    """What happened, a JSON line each, and on the screen what a person wants to see."""

    def __init__(self, file: Path | None) -> None:
        self._file = None if file is None else file.open("wb")
        self.failed: list[str] = []

    def note(self, kind: str, line: str, **told: Any) -> None:
        """Tell of something."""
        print(line, flush=True)
        if self._file is not None:
            self._file.write(orjson.dumps({"kind": kind} | told, option=orjson.OPT_SERIALIZE_NUMPY) + b"\n")
            self._file.flush()

    def check(self, what: str, good: bool, **told: Any) -> None:
        """Tell whether something came as it had to."""
        if not good:
            self.failed.append(what)
        self.note("check", f"    {'ok    ' if good else 'FAILED'} {what}", what=what, good=good, **told)


class Clock:
    """The market clock: what comes in a week, and what fails in it."""

    def __init__(self, desk: Desk, account: Account, plan: dict[int, str], rng: random.Random) -> None:
        self.desk, self.account, self.plan, self.rng = desk, account, plan, rng
        self.fed: dict[str, list[pl.DataFrame]] = {name: [] for name in desk.pools}
        self.promoted: dict[str, list[int]] = {name: [] for name in desk.pools}
        self.last: dict[str, dict[str, Any]] = {}
        self.first: dict[str, Path] = {}
        self.restated: dict[str, tuple[str, int]] = {}

    def open(self) -> None:
        """Train on the history, keep a copy of each first champion, and let the streams begin."""
        self.desk.tracking.start()
        for worker in self.desk.workers.values():
            worker.start()
        ingested = ingest(self.desk.config, Quiet())
        for name, worker in self.desk.workers.items():
            worker.ask(ingested)
            self._settled(0, name, worker.outcome())
            self.first[name] = self.desk.home / f"first-{name}.onnx"
            config = self.desk.config.of(name)
            shutil.copy(config.folder / "prequential" / "served" / "0001.onnx", self.first[name])
        for live in self.desk.live.values():
            live.start()

    def go_on(self, weeks: int) -> None:
        """Let the weeks pass; one that breaks down is the last, and what there is then is reckoned."""
        try:
            for number in range(1, weeks + 1):
                self.week(number)
        except Exception as error:
            traceback.print_exc()
            self.account.check(f"every week comes to its end: {type(error).__name__}: {error}", False)

    def week(self, number: int) -> None:
        """Let a week pass."""
        fault, begin = self.plan.get(number), self.desk.now
        if fault:
            self.account.note("fault", f"week {number}: {fault}", week=number, fault=fault)
        if fault == RESTATED:
            self._restate()
        self.desk.now = begin + WEEK
        for name, live in self.desk.live.items():
            rows = self.desk.pools[name].between(begin, self.desk.now)
            self.fed[name].append(rows)
            self._feed(live, rows, fault)
        for name in self.desk.pools:
            self.desk.write_source(name)
        with_prices = {DOWN: self._without_source, GARBAGE: self._with_garbage}.get(fault or "")
        if with_prices:
            with_prices()
        else:
            self._retrain(number, fault)
        running = all(live.process.poll() is None for live in self.desk.live.values())
        if fault:
            self.account.check("the streams go on", running)

    # ------------------------------------------------------------------------------------------------------ ticks

    def _feed(self, live: Live, rows: pl.DataFrame, fault: str | None) -> None:
        """Let the ticks of a week come; in the middle the stream may be killed, or meet a full disk."""
        half = rows.height // 2
        live.feed(rows.head(half))
        if fault == STREAM:
            time.sleep(self.rng.uniform(0, 0.3))
            code = live.stop(signal.SIGKILL)
            live.start()
            self.account.check("a killed stream goes on from its journal", code == -signal.SIGKILL)
        if fault == FULL:
            live.caught_up()
            resource.prlimit(live.process.pid, resource.RLIMIT_FSIZE, (live.out.stat().st_size + 500, -1))
        live.feed(rows.tail(rows.height - half))
        if fault == FULL:
            code = live.ended()
            self.account.check("a stream without room ends with an error, and goes on with room", code > 0)
            live.start()
        live.caught_up()

    # ----------------------------------------------------------------------------------------------------- prices

    def _without_source(self) -> None:
        """Take a source away while prices are read."""
        name = self.rng.choice(sorted(self.desk.pools))
        path = self.desk.source(name)
        path.rename(path.with_suffix(".away"))
        self._refused(f"no prices of {name}: refused, nothing changes", path.name)
        path.with_suffix(".away").rename(path)

    def _with_garbage(self) -> None:
        """Let a source end in the middle of a line, in bytes that are no price, or in columns too many."""
        name = self.rng.choice(sorted(self.desk.pools))
        path, series = self.desk.source(name), self.desk.pools[name].series[0]
        garbage = self.rng.choice([f"{series},20", "\x00\ufffd<html>502", f"{series},{self.desk.now},1,2,3\n"])
        path.write_text(path.read_text() + garbage)
        self._refused(f"garbage at the end of {name}: refused, nothing changes", "unreadable")

    def _refused(self, what: str, word: str) -> None:
        """Read prices that must be refused."""
        before = [self.desk.serving(name) for name in self.desk.pools]
        try:
            ingest(self.desk.config, Quiet())
            said = "nothing was refused"
        except StatecastError as error:
            said = str(error)
        after = [self.desk.serving(name) for name in self.desk.pools]
        self.account.check(what, word in said and before == after, answer=said)

    def _restate(self) -> None:
        """Restate the later half of last week's prices of a series, and bring its stream up to date."""
        name = self.rng.choice(sorted(self.desk.pools))
        pool, live, series = self.desk.pools[name], self.desk.live[name], self.rng.choice(self.desk.pools[name].series)
        late = (pl.col("series") == series) & pl.col("time").is_between(
            self.desk.now - WEEK / 2, self.desk.now, closed="left"
        )
        count = pool.prices.filter(late).height
        restated = pool.prices.with_columns(
            pl.when(late).then(pl.col("price") * 1.01).otherwise("price").alias("price")
        )
        # the stream has forecast that week from other prices than those that the record will see
        week_ago = np.datetime64((self.desk.now - WEEK).replace(tzinfo=None), "us")
        self.restated[name] = series, int(week_ago.astype(np.int64))
        self.desk.pools[name] = Pool(name=name, prices=restated, settings=pool.settings)
        self.desk.write_source(name)
        written = ingest(self.desk.config, Quiet()).written
        code = live.stop()
        live.reconcile(series)
        live.start()
        revisions = written.revisions if written is not None else 0
        self.account.check(
            f"{count} prices of {series} are restated: {revisions} new vintages, and its states are computed anew",
            revisions == count > 0 and code == 0 and len(live.notes("reconciled")) == 1,
        )

    # ---------------------------------------------------------------------------------------------------- retrains

    def _retrain(self, number: int, fault: str | None) -> None:
        """Read prices and retrain every pool side by side; after what failed, again."""
        ingested = ingest(self.desk.config, Quiet())
        if fault == SILENT:
            self.desk.tracking.stop()
        if fault == FULL:
            for worker in self.desk.workers.values():
                room = self.rng.randrange(20_000, 200_000)
                resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE, (room, -1))
        outcomes = self._killed(ingested) if fault == KILLED else self._asked(ingested)
        if fault in (KILLED, FULL, SILENT):
            self._failed(fault, outcomes)
        if fault == SILENT:
            self.desk.tracking.start()
            return  # the next week's retrain has to catch up
        if fault in (KILLED, FULL):
            before = self._left()
            for worker in self.desk.workers.values():
                if fault == KILLED:
                    worker.start()
                else:
                    resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE, (-1, -1))
            outcomes = self._asked(ingested)
            whole = all(path.exists() and path.stat().st_mtime_ns == when for path, when in before.items())
            self.account.check(f"the next retrain goes on: {len(before)} files of the round stay as they were", whole)
        for name, outcome in outcomes.items():
            self._settled(number, name, outcome)

    def _asked(self, ingested: Ingested) -> dict[str, Outcome]:
        """Retrain every pool at the same time."""
        for worker in self.desk.workers.values():
            worker.ask(ingested)
        return {name: worker.outcome() for name, worker in self.desk.workers.items()}

    def _killed(self, ingested: Ingested) -> dict[str, Outcome]:
        """Kill each worker as one of its steps begins."""
        outcomes = {}
        for name, worker in self.desk.workers.items():
            worker.ask(ingested)
            outcomes[name] = worker.outcome(kill_at=self.rng.randrange(2, 10))
        return outcomes

    def _failed(self, fault: str, outcomes: dict[str, Outcome]) -> None:
        """Check how a retrain ended that could not succeed."""
        for name, outcome in outcomes.items():
            serving, told = self.desk.serving(name), outcome.error or {}
            stands = serving.sha256 == self.last[name]["sha256"]
            worker: Worker = self.desk.workers[name]
            if fault == KILLED:
                good, said = outcome == Outcome(), f"killed as it began {worker.begun[-1]!r}"
            elif fault == SILENT:
                good, said = told.get("transient", False), "a transient error"
            else:
                good, said = bool(told), f"{told.get('error')}: {told.get('text')}"
            self.account.check(f"retrain of {name}: {said[:110]}; the champion stands", good and stands, **told)

    def _left(self) -> dict[Path, int]:
        """List the rows and fits of the rounds that are being made, and when each was written."""
        found = {}
        for name in self.desk.pools:
            folder = self.desk.config.of(name).folder / "prequential"
            done = len(orjson.loads((folder / "state.json").read_bytes())["rounds"])
            paths = [*folder.glob(f"rows/*/fold={done:04}/*"), *folder.glob(f"fits/*/{done + 1:04}.safetensors")]
            found |= {path: path.stat().st_mtime_ns for path in paths}
        return found

    def _settled(self, number: int, name: str, outcome: Outcome) -> None:
        """Note what a retrain gave, and wait until the stream has taken it over."""
        told = outcome.result
        if told is None:
            self.account.check(f"week {number}, {name}: the retrain ends well", False, error=outcome.error)
            return
        config, live = self.desk.config.of(name), self.desk.live[name]
        before = self.last[name]["model"] if number else None
        self.last[name] = told
        if told["changed"] and number:
            live.serves(told["version"])
        kind = "first" if before is None else "refit" if before == told["model"] else "promotion"
        now = int(np.datetime64(self.desk.now.replace(tzinfo=None), "us").astype(np.int64))
        self.account.note(
            kind if told["changed"] else "kept",
            f"week {number} {self.desk.now:%Y-%m-%d} {name}: {told['model']} v{told['version']}"
            + ("" if kind == "refit" else f", {told['reason']}"),
            week=number,
            pool=name,
            before=before,
            **told,
        )
        if kind == "promotion":
            self.promoted[name].append(now)
            numbers = told["numbers"] or {}
            sound = told["decided"] == told["model"] and numbers.get("p_adjusted", 1.0) <= config.compare.alpha
            self.account.check(
                f"{name}: {before} -> {told['model']} has a reason, evidence {numbers.get('evidence', 0):.3g}", sound
            )


def closing(clock: Clock) -> dict[str, Year]:
    """Check what the year left, and reckon what it was worth."""
    years = {}
    for name, live in clock.desk.live.items():
        code = live.stop()
        kept, keys = given(live.out)
        fed = pl.concat(clock.fed[name])
        missing, extra = gaps(fed, keys)
        swaps, refused = live.notes("swap"), live.refused()
        clock.account.check(
            f"{name}: {fed.height:,} ticks, {len(keys):,} forecasts, {missing} missing, {extra} too many, "
            f"{len(refused)} refused, {len(swaps)} swaps",
            code == 0 and missing == extra == 0 == len(refused),
        )
        if name in clock.restated:
            series, since = clock.restated[name]
            until = since + 7 * 86_400_000_000
            kept = {key: x for key, x in kept.items() if key[0] != series or not since <= key[1] < until}
        year = years[name] = reckon(clock.desk.config.of(name), clock.first[name], kept)
        clock.account.check(
            f"{name}: {year.compared:,} forecasts of the stream are the record's, farthest {year.farthest:.1e} of "
            f"an interquartile range; {year.others} from the last tick before a swap; {year.strangers} others",
            year.farthest < TOLERANCE and year.strangers == 0 < year.compared,
        )
        told = skills(year) | {"restated": year.restated}
        clock.account.note("skill", _said(name, told), pool=name, **told)
    return years


def _said(name: str, told: dict[str, Any]) -> str:
    """Say what the year was worth."""

    def effect(x: list[float]) -> str:
        return f"{x[0]:+.2%} [{x[1]:+.2%}, {x[2]:+.2%}]"

    saved = told["against_never"]
    return (
        f"{name}: {told['forecasts']:,} forecasts from {told['origins']:,} origins; CRPS saved against never "
        f"retraining: served live {effect(saved['live'])}, promoting always {effect(saved['always'])}, last value "
        f"{effect(saved['last'])}; served live against promoting always {effect(told['live_against_always'])}"
    )


def plan_of(weeks: int, rng: random.Random) -> dict[int, str]:
    """Draw the week of each fault: one a week, none in the first and the last week; those that find no place go."""
    places = range(2, weeks)
    faults = rng.sample(FAULTS, min(len(FAULTS), len(places)))
    return dict(zip(rng.sample(places, len(faults)), faults, strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--power", type=Path, help="hourly prices of electricity")
    parser.add_argument("--stocks", type=Path, help="daily prices of stocks")
    parser.add_argument("--weeks", type=int, default=52)
    parser.add_argument("--history", type=float, default=2.0, help="years of prices before the first week")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write what happened to this file, a JSON line each")
    parser.add_argument("--figure", type=Path, help="draw what was saved to this PNG file")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that every process is ended
    begun, rng, account = time.monotonic(), random.Random(asked.seed), Account(asked.json)
    found = pools(asked.power, asked.stocks)
    last: datetime = min(pool.prices["time"].max() for pool in found)  # type: ignore[type-var]
    start = last.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1) - asked.weeks * WEEK
    plan = plan_of(asked.weeks, rng)
    versions = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    account.note(
        "begin",
        f"{asked.weeks} weeks from {start:%Y-%m-%d} on, seed {asked.seed}; {versions}, onnxruntime {RUNTIME_VERSION}",
        weeks=asked.weeks,
        seed=asked.seed,
        pools={pool.name: pool.series for pool in found},
        plan={str(week): plan[week] for week in sorted(plan)},
    )
    for fault in sorted(set(FAULTS) - set(plan.values())):
        account.note("left out", f"not tried, for the weeks are too few: {fault}", fault=fault)
    with tempfile.TemporaryDirectory(prefix="statecast-year-") as folder:
        desk = Desk(Path(folder), found, start - timedelta(days=365.25 * asked.history), start)
        try:
            clock = Clock(desk, account, plan, rng)
            clock.open()
            clock.go_on(asked.weeks)
            years = closing(clock)
            if asked.figure:
                asked.figure.parent.mkdir(parents=True, exist_ok=True)
                figures.save(figure(years, clock.promoted), asked.figure)
        finally:
            desk.close()
    minutes = (time.monotonic() - begun) / 60
    account.note(
        "end",
        f"{minutes:.1f} minutes; {len(account.failed)} checks failed" + "".join(f"\n  {x}" for x in account.failed),
        minutes=minutes,
        failed=account.failed,
    )
    return 1 if account.failed else 0


if __name__ == "__main__":
    sys.exit(main())
