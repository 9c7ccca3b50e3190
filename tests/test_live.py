"""Live scores are those of a backtest on the same forecasts, and no kill, batch or restart shows in them."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from served import SERIES, metadata, model_bytes
from swapping import CONFIG, died, flipped, lineup, notes, started, take, taken
from ticking import feed, split, tick
from variants import blocks, returning

from models.observation import LEVELS, MEDIAN
from pipeline import metrics
from pipeline.lineup import Lineup
from pipeline.stream import Stream

COUNT = 400
WILD = replace(CONFIG, drift=replace(CONFIG.drift, least=20, threshold=8.0))
"""Settings under which the small model, whose intervals are made up, is soon told of."""


def prices(count: int = COUNT, seed: int = 3, scale: float = 0.01) -> list[bytes]:
    """Write walks of three series, an hour a tick, one tick in ten without a price."""
    rng, price, out = random.Random(seed), dict.fromkeys((*SERIES, "CCC"), 100.0), []
    for i in range(count):
        name = rng.choice(list(price))
        price[name] *= 1 + scale * rng.gauss(0, 1)
        out.append(tick(name, i, None if rng.random() < 0.1 else price[name]))
    return out


def both() -> Lineup:
    """Give a model that sees returns, and one that sees prices beside it."""
    beside = {"last": model_bytes(metadata(name="last"))}
    return Lineup(version=1, serving=returning(name="returns"), beside=beside)


def outcomes(forecasts: list[dict[str, Any]], lines: list[bytes]) -> Iterator[tuple[float, float, np.ndarray]]:
    """Pair the price of each tick with the price before and the forecast that was made then."""
    waiting: dict[str, tuple[float, np.ndarray]] = {}
    told = iter(forecasts)
    for record in map(orjson.loads, lines):
        if record["price"] is None:
            continue
        name = record["series"]
        if name in waiting:
            yield record["price"], *waiting[name]
        waiting[name] = record["price"], np.array(next(told)["quantiles"][0])


def expected(forecasts: list[dict[str, Any]], lines: list[bytes]) -> dict[str, float]:
    """Score forecasts of the next step as the backtest does, on the scale of log returns."""
    price, before, quantile = map(np.array, zip(*outcomes(forecasts, lines), strict=True))
    told = {"crps": metrics.quantile_crps(np.log(price / before), np.log(quantile / before[:, None])).mean()}
    for percent, low, high in ((50, 0.25, 0.75), (80, 0.1, 0.9), (95, 0.025, 0.975)):
        lower, upper = (quantile[:, LEVELS.index(level)] for level in (low, high))
        told[f"covered_{percent}"] = ((lower <= price) & (price <= upper)).mean()
    return told | {"absolute_error": np.abs(price - quantile[:, MEDIAN]).mean()}


def test_scores_are_those_of_a_backtest_of_the_forecasts_given_out(tmp_path: Path) -> None:
    """Of the champion from its own lines, of the reference from those it gives when it serves; on the same ticks."""
    lines = prices()
    reports = {}
    for name, models in {"both": both(), "alone": Lineup(version=1, serving=both().beside["last"])}.items():
        (tmp_path / name).mkdir()
        stream = started(tmp_path / name, first=models)
        take(stream, lines)
        reports[name] = stream.live.report()
        stream.close()
    for file, role in (("both", "serving"), ("alone", "last")):
        forecasts = [orjson.loads(line) for line in (tmp_path / file / "out.jsonl").read_bytes().splitlines()]
        hand = expected(forecasts, lines)
        given_ = reports["both"]["models"][role]["all"]
        assert {name: given_[name] for name in hand} == pytest.approx(hand, rel=1e-9)
    assert reports["both"]["outcomes"] == sum(1 for line in lines if b"null" not in line) - 3
    assert reports["both"]["models"]["last"]["all"]["crps"] != reports["both"]["models"]["serving"]["all"]["crps"]
    skill = reports["both"]["skill"]["last"]["all"]["skill"]
    ours, theirs = (reports["both"]["models"][role]["all"]["crps"] for role in ("serving", "last"))
    assert skill == pytest.approx(1 - ours / theirs, rel=1e-9)


def test_a_split_is_no_surprise(tmp_path: Path) -> None:
    """The forecast that waits is adjusted with the series: scores are those of a series without the split."""
    lines = {
        "split": [tick("A", i, 100.0 + i % 3) for i in range(20)]
        + [split("A", 19.5)]
        + [tick("A", i, (100.0 + i % 3) / 2) for i in range(20, 40)],
        "plain": [tick("A", i, 100.0 + i % 3) for i in range(40)],
    }
    reports = []
    for name, some in lines.items():
        (tmp_path / name).mkdir()
        stream = started(tmp_path / name, first=Lineup(version=1, serving=returning()))
        take(stream, some)
        reports.append(stream.live.report()["models"]["serving"]["all"])
        stream.close()
    assert reports[0]["covered_80"] == reports[1]["covered_80"]
    assert reports[0]["crps"] == pytest.approx(reports[1]["crps"], rel=1e-6)


@settings(max_examples=15)
@given(st.lists(st.integers(1, 60), max_size=15), st.integers(0, 2**32))
def test_no_batch_and_no_restart_shows_in_the_scores(cuts: list[int], seed: int) -> None:
    """Whatever the batches, and wherever the process died in between: the same bytes, the same report."""
    lines = [line for line in feed(200, seed).split(b"\n") if line.strip()]
    whole = Stream(both(), WILD)
    take(whole, lines)
    with tempfile.TemporaryDirectory() as name:
        folder, at = Path(name), 0
        stream = started(folder, WILD, both())
        for k, cut in enumerate([*cuts, len(lines)]):
            take(stream, lines[at : at + cut], at)
            at = min(at + cut, len(lines))
            if k % 4 == 1:
                died(stream)
                stream = started(folder, WILD, both())
        assert stream.live.to_bytes() == whole.live.to_bytes()
        assert stream.live.report() == whole.live.report()
        stream.close()
    whole.close()


def test_every_price_of_a_block_is_an_outcome(tmp_path: Path) -> None:
    """Those that are missing, or had none before them, are none; no model is told to have failed them."""
    stream = started(tmp_path, first=Lineup(version=1, serving=blocks()))
    take(stream, [tick("A", hour, [100.0, 101.0, None if hour == 2 else 102.0]) for hour in range(5)])
    take(stream, [tick("A", 5, [100.0, None, 102.0])], 5)
    report = stream.live.report()
    assert stream.head.counts == {"accepted": 6}
    assert report["outcomes"] == 5 * 3 - 1 - 1 - 1
    assert report["moments"] == 5
    assert report["left_out"] == {"outcomes": 0, "serving": 0}
    died(stream)
    again = started(tmp_path)
    assert again.live.to_bytes() == stream.live.to_bytes()
    again.close()


def test_after_a_swap_scores_begin_anew(tmp_path: Path) -> None:
    """The first outcome of the new lineup is scored against its own warmed forecast, and none before it counts."""
    lines = prices()
    stream = started(tmp_path)
    take(stream, lines[:200])
    before = stream.live.report()["outcomes"]
    stream.announce(lineup(2))
    flipped(stream)
    assert before > 100
    assert stream.live.report()["outcomes"] == 0
    assert list(stream.live.report()["models"]) == ["serving", "last"]
    taken_before = stream.head.counts["accepted"]
    take(stream, lines[200:], 200)
    assert stream.live.report()["outcomes"] == stream.head.counts["accepted"] - taken_before
    died(stream)
    again = started(tmp_path)
    assert again.live.to_bytes() == stream.live.to_bytes()
    again.close()


def drifting(folder: Path, rng: random.Random, kills: int) -> list[dict]:
    """Take in prices that become wild half way, with deaths on the way, and give the drifts that were told."""
    lines = prices(400, scale=0.002) + [
        line.replace(b'"time":17', b'"time":19') for line in prices(400, seed=4, scale=0.05)
    ]
    stream, at = started(folder, WILD), 0
    stops = sorted(rng.sample(range(len(lines)), kills))
    while at < len(lines):
        until = min([at + rng.randint(1, 64), *[stop for stop in stops if stop > at], len(lines)])
        take(stream, lines[at:until], at)
        at = until
        if at in stops:
            died(stream)
            stream = started(folder, WILD)
            assert taken(stream) == at
    assert stream.status()["drift"] == notes(folder, "drift")[-1]
    stream.close()
    return notes(folder, "drift")


def test_a_drift_is_told_once(tmp_path: Path) -> None:
    """Notes name what was watched; deaths and batches neither repeat nor lose a line of them."""
    told = []
    for kills in (0, 6, 15):
        (tmp_path / str(kills)).mkdir()
        told.append(drifting(tmp_path / str(kills), random.Random(kills), kills))
    assert told[0] == told[1] == told[2]
    assert {note["what"] for note in told[0]} & {"coverage", "spread"}
    assert len({(note["what"], note["time"]) for note in told[0]}) == len(told[0])
