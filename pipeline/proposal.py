"""Proposal: settings for a user's own prices, each with the reason that the prices give for it.

Comes in: paths as `statecast ingest` takes them. Goes out: `Proposal`, and its TOML with a comment above each setting.
Nothing is kept: the prices go through a store that is thrown away. Imported by the command line.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipeline.bars import SUMMED
from pipeline.calendars import explaining
from pipeline.faults import CHOICES
from pipeline.ingest import IngestConfig, ingest
from pipeline.prices import PriceStore
from pipeline.report import IngestReport
from pipeline.settings import flat, toml_value

SHORTEST = 300
"""Prices that a series needs before it is worth fitting a model on it."""

A_YEAR = 250
"""Outcomes in a year of days: on daily stocks intervals held through 2008 with it, and not with 1,000."""

_LOOKED_AT = 3
"""Series from which a calendar is proposed."""

TICKS_A_BAR = 20
"""Ticks that a proposed bar should hold, at the median."""

REGULAR = 0.25
"""Share of equal spacings below which prices have no grid."""

BARS = {"1s": 1, "10s": 10, "1m": 60, "5m": 300, "15m": 900, "1h": 3_600, "1d": 86_400}
"""Lengths of a bar, in seconds, that may be proposed."""

CLOCK = 0.02
"""Share of the variance of log |move| that the hour of the day must explain before networks are told the hour.

Of four coins it explained 1 %, and networks that were told the hour were no better; of four hourly currencies and gold
3 to 14 %, and they were (docs/benchmarks.md)."""

MOVES_AN_HOUR = 50
"""Moves that each hour of the day must have, on average, before that share is believed."""

LENIENT = {name: next(way for way in ("keep", "drop", "adjust") if way in ways) for name, ways in CHOICES.items()}
"""Policies under which everything can be looked at."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One proposed setting: dotted name, value, and why."""

    name: str
    value: Any
    reason: str


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """Settings for the prices that `report` tells of, and what was seen that needs none."""

    settings: tuple[Setting, ...]
    seen: tuple[str, ...]
    report: IngestReport

    def toml(self) -> str:
        """Write the settings as TOML, plain ones first, then by table, each under its reason."""
        lines = [f"# {line}" for line in self.seen]
        plain = [s for s in self.settings if "." not in s.name]
        tables = sorted({s.name.rpartition(".")[0] for s in self.settings if "." in s.name})
        lines += ["", *_lines(plain)]
        for table in tables:
            lines += [f"[{table}]", *_lines([s for s in self.settings if s.name.rpartition(".")[0] == table])]
        return "\n".join(lines).strip() + "\n"


def _lines(settings: Sequence[Setting]) -> list[str]:
    written = []
    for setting in settings:
        key = setting.name.rpartition(".")[2]
        written += [f"# {setting.reason}", f"{key} = {toml_value(setting.value)}", ""]
    return written


def propose(config: IngestConfig, on_step: Callable[[str], None] = lambda _: None) -> Proposal:
    """Look at the prices that `config` names and propose settings for them.

    Parameters
    ----------
    config : IngestConfig
        What to read; its policies are not looked at.
    on_step : callable
        Told in words what begins.

    Raises
    ------
    SchemaError, DataError
        As `pipeline.ingest.ingest`.
    """
    with tempfile.TemporaryDirectory(prefix="statecast-") as folder:
        store = PriceStore(Path(folder) / "prices")
        lenient = replace(config, policy=replace(config.policy, **LENIENT))
        report, _ = ingest(lenient, store, on_step)
        prices = store.read(adjusted=False)
    summary = _summary(prices)
    made = (
        *_source(config, report),
        *_calendar(prices, config),
        *_bars(summary, report),
        *_scale(prices, summary),
        *_horizon(prices, summary),
        *_clock(prices),
        *_memory(summary),
        *_short(summary),
        *_policies(report),
    )
    given = tuple(_given(config))
    proposed = (*given, *(setting for setting in made if setting.name not in {s.name for s in given}))
    return Proposal(settings=proposed, seen=_seen(summary, report), report=report)


def _summary(prices: pl.DataFrame) -> pl.DataFrame:
    """Give for each series: rows, first and last time, median seconds between prices, lowest price."""
    time, price = pl.col("time"), pl.col("price")
    step = time.diff().dt.total_microseconds() / 1e6
    return prices.group_by("series_id", maintain_order=True).agg(
        price.count().alias("rows"),
        time.min().alias("first"),
        time.max().alias("last"),
        step.median().alias("seconds"),
        (step == step.median()).mean().alias("regular"),
        price.min().alias("lowest"),
    )


def _given(config: IngestConfig) -> Iterator[Setting]:
    """Repeat what was said of the files: without it they would be read in another way."""
    plain = flat(IngestConfig())
    for name, value in flat(replace(config, paths=IngestConfig().paths)).items():
        if value != plain.get(name) and value is not None:
            kept = tuple(value) if isinstance(value, list) else value
            yield Setting(name=f"ingest.{name}", value=kept, reason="as it was given")


def _source(config: IngestConfig, report: IngestReport) -> Iterator[Setting]:
    yield Setting(name="ingest.paths", value=config.paths, reason="what to read; a glob takes new files in too")
    if report.others and not config.columns.values:
        why = (
            "numbers beside the price, kept as covariates; past = [...] or ahead = [...] makes them inputs of networks"
        )
        yield Setting(name="ingest.columns.values", value=report.others, reason=why)


def _calendar(prices: pl.DataFrame, config: IngestConfig) -> Iterator[Setting]:
    """Propose an exchange's calendar where it explains most of what is missing."""
    if config.calendar.name is not None or config.bars is not None:
        return
    longest = prices.group_by("series_id").len().top_k(_LOOKED_AT, by="len")["series_id"]
    times = prices.filter(pl.col("series_id").is_in(longest.implode())).select("series_id", "time")
    if name := explaining(times):
        why = "the holidays of this exchange explain what is missing on working days"
        yield Setting(name="ingest.calendar.name", value=name, reason=why)


def _bars(summary: pl.DataFrame, report: IngestReport) -> Iterator[Setting]:
    """Propose time bars where prices come as trades do: at no regular times."""
    if report.grid is not None:
        return
    shared = next((f.count for f in report.faults if f.name == "conflict"), 0) / max(report.rows_read, 1)
    regular = summary["regular"].median()
    if shared < 0.01 and not (isinstance(regular, float) and regular < REGULAR):
        return
    read = {series.series_id: series.rows_read for series in report.series}
    span = (summary["last"] - summary["first"]).dt.total_seconds()
    spacing = float(np.median([s / max(read[n], 2) for s, n in zip(span, summary["series_id"], strict=True)])) or 1e-3
    every = next((name for name, seconds in BARS.items() if seconds >= TICKS_A_BAR * spacing), "1d")
    why = f"a price every {spacing:.3g} s on average, at no regular times ({shared:.0%} share their time stamp)"
    yield Setting(name="ingest.bars.every", value=every, reason=f"{why}: trades; a bar holds {TICKS_A_BAR} or more")
    amount = next((name for name in report.others if name in SUMMED or name.startswith("column_")), None)
    if amount not in (None, "volume"):
        why = "added up in a bar, as the volume; of columns of other names a bar keeps the last value"
        yield Setting(name="ingest.bars.volume_column", value=amount, reason=why)


def _scale(prices: pl.DataFrame, summary: pl.DataFrame) -> Iterator[Setting]:
    """Propose the asinh scale where a price is not above zero."""
    low = prices.filter(pl.col("price") <= 0)
    if not low.height:
        positive = f"all prices are above zero (the lowest is {summary['lowest'].min():g}): log returns"
        yield Setting(name="transform", value="log", reason=positive)
        return
    worst = low.sort("price").row(0, named=True)
    where = f"{worst['series_id']} fell to {worst['price']:g} at {worst['time']:%Y-%m-%d %H:%M}"
    yield Setting(name="transform", value="asinh", reason=f"{low.height:,} prices are zero or less ({where}): no log")
    yield Setting(name="ingest.policy.non_positive", value="keep", reason="the asinh transform takes them")


def _horizon(prices: pl.DataFrame, summary: pl.DataFrame) -> Iterator[Setting]:
    """Propose to forecast a whole block where prices are published together, else the next price."""
    together, spacing = _together(prices), _grid(summary)
    if together >= 2:
        why = f"{together:.0f} prices become known at once: the next of such blocks"
        yield Setting(name="fit.horizon", value=int(together), reason=why)
    else:
        yield Setting(
            name="fit.horizon",
            value=1,
            reason=f"steps ahead, from price to price or from bar to bar; there is {spacing}",
        )


def _together(prices: pl.DataFrame) -> float:
    """Count the prices of a series that become known at once, at the median."""
    return float(prices.group_by("series_id", "available_time").len()["len"].median() or 0)  # pyright: ignore[reportArgumentType]


def _clock(prices: pl.DataFrame) -> Iterator[Setting]:
    """Propose to tell networks the hour where the size of moves follows it and prices come one by one."""
    share = told_by_hour(prices)
    if share >= CLOCK and _together(prices) < 2:
        why = f"the hour of the day explains {share:.0%} of how large moves are (of log |move|): networks are told it"
        yield Setting(name="ahead", value=("@hour_sin", "@hour_cos"), reason=why)
        why = "moves are adjusted for the hour of the week before a network sees them, for the same reason"
        yield Setting(name="fit.network.diurnal", value=True, reason=why)


def told_by_hour(prices: pl.DataFrame) -> float:
    """Give the adjusted R² of log |move| on the UTC hour, series by series and pooled; 0 where it cannot be told."""
    move = pl.col("price").diff().abs().over("series_id")
    sizes = prices.select("series_id", hour=pl.col("time").dt.hour(), size=move).filter(pl.col("size") > 0)
    sizes = sizes.with_columns(pl.col("size").log())
    inside = [
        sizes.group_by(keys).agg(pl.len(), square=(pl.col("size") - pl.col("size").mean()).pow(2).sum())
        for keys in (["series_id", "hour"], ["series_id"])
    ]
    cells, series = (len(frame) for frame in inside)
    if cells == series or sizes.height < MOVES_AN_HOUR * cells:
        return 0.0
    unexplained, total = (float(frame["square"].sum()) for frame in inside)
    return 1 - (unexplained / (sizes.height - cells)) / (total / (sizes.height - series)) if total else 0.0


def _memory(summary: pl.DataFrame) -> Iterator[Setting]:
    """Propose to track quantiles over a year where a price is a day's or longer."""
    if float(summary["seconds"].median() or 0) >= BARS["1d"]:  # pyright: ignore[reportArgumentType]
        why = f"{_grid(summary)}: quantiles follow the outcomes of a year, fast enough for one such as 2008"
        yield Setting(name="fit.conformal.memory", value=A_YEAR, reason=why)


def _short(summary: pl.DataFrame) -> Iterator[Setting]:
    """Propose to leave out what is too short, as long as something stays."""
    short = summary.filter(pl.col("rows") < SHORTEST)
    if short.height and short.height < summary.height:
        why = f"fewer than {SHORTEST} prices: too short to fit a model on"
        yield Setting(name="leave_out", value=tuple(short["series_id"]), reason=why)


def _policies(report: IngestReport) -> Iterator[Setting]:
    """Name the policy of every fault that the defaults would refuse, and say what was found."""
    for fault in report.faults:
        refused = CHOICES[fault.name][0] == "raise" and fault.name != "non_positive"
        if fault.count and refused and not (fault.name == "conflict" and report.grid is None):
            why = f"{fault.count:,} found, such as {fault.examples[0]}; the default is to refuse them"
            yield Setting(name=f"ingest.policy.{fault.name}", value=LENIENT[fault.name], reason=why)


def _seen(summary: pl.DataFrame, report: IngestReport) -> tuple[str, ...]:
    """Say what was found: files, series, spacing, and faults that the defaults live with."""
    span = f"{summary['first'].min():%Y-%m-%d} to {summary['last'].max():%Y-%m-%d}"
    files = [f"{file.file}: {file.rows:,} rows. {'. '.join(file.said)}" for file in report.files[:5]]
    found = [f"{f.name}: {f.count:,}, such as {f.examples[0]}" for f in report.faults if f.count and f.examples]
    rows = int(summary["rows"].max())  # pyright: ignore[reportArgumentType]
    short = (f"the longest series has {rows:,} prices: too few to trust a test on them",) if rows < SHORTEST else ()
    return (
        *files,
        f"{summary.height:,} series, {int(summary['rows'].sum()):,} prices, {span}, {_grid(summary)}",
        *short,
        *found,
        "Settings that are left out keep their defaults: `statecast config` prints all of them.",
    )


def _grid(summary: pl.DataFrame) -> str:
    """Name the usual spacing of prices."""
    seconds = float(summary["seconds"].median() or 0)  # pyright: ignore[reportArgumentType]
    for unit, length in (("week", 604_800), ("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= length:
            count = seconds / length
            return (
                f"a price {'an' if unit == 'hour' else 'a'} {unit}"
                if count == 1
                else f"a price every {count:g} {unit}s"
            )
    return f"a price every {seconds:g} seconds"
