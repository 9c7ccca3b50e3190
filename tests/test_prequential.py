"""Retrain after retrain on growing prices: a recipe is judged by what its fits forecast while they were the latest."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from conftest import DAYS, NAMES, Watched, simulated_rows, write_csv

from flows.retrain import Retrained, retrain
from models import checkpoint
from models.errors import DataError, FitError
from pipeline import archive, champions, folds, prequential, promotion, steps
from pipeline.config import Config
from pipeline.judging import INCUMBENT
from pipeline.settings import load
from pipeline.steps import move_scales

ENDS = (620, 660, 700)
"""Days of prices at each retrain."""


@dataclass(kw_only=True)
class Desk:
    """A data folder after three retrains, and copies of it after each of them."""

    config: Config
    after: list[Path]
    results: list[Retrained]


def days(end: int, garbage_from: int = DAYS) -> list[tuple[str, ...]]:
    """Give the rows of the first days; from some day on garbage."""
    rows = [row for day in range(end) for row in simulated_rows()[day::DAYS]]
    return [(*row[:2], "7777" if k // len(NAMES) >= garbage_from and row[2] else row[2]) for k, row in enumerate(rows)]


def settings(folder: Path, csv: Path, **changes: Any) -> Config:
    """Give settings of models that are fitted in no time."""
    tree = {
        "folder": str(folder),
        "models": ["last_value", "garch"],
        "ingest": {"paths": [str(csv)], "policy": {"null": "keep", "spike": "keep"}},
    }
    return load(Config, tree | changes)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """Retrain three times on growing prices."""
    home = tmp_path_factory.mktemp("desk")
    config = settings(home / "data", home / "prices.csv")
    after, results = [], []
    for k, end in enumerate(ENDS):
        write_csv(home / "prices.csv", days(end))
        results.append(retrain(config, Watched()))
        shutil.copytree(config.folder, home / f"after-{k}")
        after.append(home / f"after-{k}")
    return Desk(config=config, after=after, results=results)


def at(desk: Desk, k: int, folder: Path) -> Config:
    """Give a copy of the desk as it was after a retrain."""
    shutil.copytree(desk.after[k], folder)
    return replace(desk.config, folder=folder)


def at_rest(desk: Desk, k: int) -> Config:
    """Give the desk as it was after a retrain, only to be looked at."""
    return replace(desk.config, folder=desk.after[k])


def with_days(config: Config, prices: list[tuple[str, ...]]) -> Config:
    """Let the settings read other prices, from a file beside the data folder."""
    csv = write_csv(config.folder.parent / "prices.csv", prices)
    return replace(config, ingest=replace(config.ingest, paths=(str(csv),)))


def rows(config: Config, name: str) -> Path:
    """Give the folder of a record."""
    return config.folder / "prequential" / "rows" / name


def state_of(config: Config) -> dict[str, Any]:
    """Read what is noted of the rounds."""
    return orjson.loads((config.folder / "prequential" / "state.json").read_bytes())


def test_each_recipe_is_judged_on_every_origin_once(desk: Desk) -> None:
    """The record of a recipe goes from the first test split to the last price, with no gap and no row twice."""
    for name in desk.config.models:
        record = archive.load(desk.config.folder / "prequential" / "rows" / name)
        assert archive.numbers(desk.config.folder / "prequential" / "rows" / name) == [0, 1, 2]
        for series in range(len(NAMES)):
            origins = record.origin_time[record.series == series]
            assert len(np.unique(origins)) == len(origins)
            published = steps.load(desk.config).panel
            times = published.time[series][published.published[series]]
            assert list(origins) == list(times[times >= origins[0]][:-1])


def test_a_row_is_of_a_fit_that_has_not_seen_its_outcome(desk: Desk) -> None:
    """The fits of a round have seen all that was known; the rows of its fold have their targets after that."""
    for fold in (1, 2):
        for name in desk.config.models:
            path = desk.after[fold] / "prequential" / "fits" / name / f"{fold:04}.safetensors"
            cutoff = checkpoint.load(path)[1]["split"]["validation_end_time"]
            rows = archive.load(desk.config.folder / "prequential" / "rows" / name, fold)
            assert rows.target_time.min() >= cutoff
            last = steps.iso(int(rows.origin_time.min()))
            assert last.startswith(str(np.datetime64("2020-01-01") + ENDS[fold - 1] - 1))


def test_what_serves_is_a_fit_on_everything_known(desk: Desk) -> None:
    """After each retrain the champion's cut-off is its latest price, and the incumbent's rows are those of its file."""
    for k, end in enumerate(ENDS):
        folder = desk.after[k] / "champions"
        session = champions.load(folder, "champion")
        assert session.metadata.cutoff_time.startswith(str(np.datetime64("2020-01-01") + end - 1))
        assert champions.current(folder, "champion").version == k + 1
    serving = desk.results[1].promoted.model
    theirs = archive.load(desk.config.folder / "prequential" / "rows" / INCUMBENT, 2)
    ours = archive.load(desk.config.folder / "prequential" / "rows" / serving, 2)
    np.testing.assert_allclose(theirs.quantile, ours.quantile, rtol=2e-6)


def test_a_reign_is_judged_on_its_own_origins_only(desk: Desk) -> None:
    """A decision over an incumbent counts the origins since its recipe serves, and rests on evidence."""
    first, second, third = (r.compared.decision for r in desk.results if r.compared is not None)
    assert (first.model, "evidence" in first.numbers) == ("last_value", False)
    assert (second.model, second.numbers["origins"]) == ("garch", ENDS[1] - ENDS[0])
    assert second.numbers["evidence"] > 2 / desk.config.compare.alpha
    assert (third.model, desk.results[2].promoted.model) == (INCUMBENT, "garch")
    assert state_of(desk.config)["reign"] == 2


def test_garbage_that_comes_later_leaves_every_row_before_it(desk: Desk, tmp_path: Path) -> None:
    """With every price after the second retrain overwritten, forecasts of what came before are bit for bit the same."""
    config = with_days(at(desk, 0, tmp_path / "data"), days(ENDS[2], garbage_from=ENDS[1]))
    steps.ingest(config)
    prequential.begin(config)
    for name in (*config.models, INCUMBENT):
        prequential.judge(config, name)
        ours, theirs = (archive.load(rows(c, name), 1) for c in (config, at_rest(desk, 1)))
        until = theirs.target_time.max()
        assert (ours.target_time > until).sum() == (ENDS[2] - ENDS[1]) * len(NAMES)
        np.testing.assert_array_equal(ours.where(ours.target_time <= until).quantile, theirs.quantile)


def test_nothing_new_is_nothing_done(desk: Desk, tmp_path: Path) -> None:
    """A retrain on the prices of the one before changes no file but the account of what was read."""
    config = at(desk, 2, tmp_path / "data")
    before = {p: p.read_bytes() for p in config.folder.rglob("*") if p.is_file() and p.name != "ingest.json"}
    again = retrain(config, Watched())
    assert (again.compared, again.run, again.promoted.changed) == (None, None, False)
    assert {p: p.read_bytes() for p in config.folder.rglob("*") if p.is_file() and p.name != "ingest.json"} == before


def test_a_round_that_is_stopped_again_and_again_comes_to_the_same_end(desk: Desk, tmp_path: Path) -> None:
    """Stopped after a step, a retrain goes on to the decision, the champion and the record of one that never was."""
    config = with_days(at(desk, 1, tmp_path / "data"), days(ENDS[2]))
    for stop in ("judge", "refit", "follow"):

        def wrap(step: Any, _: Any, stop: str = stop) -> Any:
            def stopped(*given: Any) -> Any:
                step(*given)
                raise RuntimeError(stop)

            return stopped if step.__name__ == stop else step

        with pytest.raises(RuntimeError, match=stop):
            retrain(config, Watched(), wrap)
    result = retrain(config, Watched())
    assert result.compared is not None
    assert desk.results[2].compared is not None
    assert result.compared.decision == desk.results[2].compared.decision
    assert result.promoted.version == desk.results[2].promoted.version == 3
    ours, theirs = state_of(config), state_of(desk.config)
    for done in (*ours["rounds"], *theirs["rounds"]):
        done.pop("served")  # a file holds the seconds of its fit
    assert ours == theirs


def test_a_champion_put_in_by_hand_begins_a_reign(desk: Desk, tmp_path: Path) -> None:
    """Who was named by hand is judged from the next retrain on; a model fitted by hand meanwhile changes no record."""
    config = with_days(at(desk, 1, tmp_path / "data"), days(ENDS[2]))
    promotion.promote(config, "last_value")
    folds.forget(config.folder, "garch")  # as a fit by hand does
    steps.ingest(config)
    prequential.begin(config)
    for name in (*config.models, INCUMBENT):
        prequential.judge(config, name)
    assert "nothing has come since it serves" in prequential.compare(config).decision.reason
    prequential.close(config)
    assert state_of(config)["reign"] == 3


def test_other_settings_begin_a_new_record(desk: Desk, tmp_path: Path) -> None:
    """A recipe is its settings: with another horizon models are walked anew, and the champion stands as it is."""
    config = at(desk, 2, tmp_path / "data")
    config = replace(config, fit=replace(config.fit, horizon=2))
    assert prequential.begin(config) == prequential.Plan(number=1, news=True)
    assert not (config.folder / "prequential" / "state.json").exists()


def test_prices_that_come_in_the_middle_are_refused(desk: Desk, tmp_path: Path) -> None:
    """Steps of one round see the same prices, or say that they do not fit together; nothing that serves changes."""
    config = with_days(at(desk, 1, tmp_path / "data"), days(ENDS[2] - 10))
    steps.ingest(config)
    prequential.begin(config)
    steps.ingest(with_days(config, days(ENDS[2])))
    with pytest.raises(DataError, match="Run `statecast retrain` again"):
        prequential.judge(config, "last_value")


def test_a_broken_fit_does_not_replace_the_one_before(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fit that fails, or that is clearly worse on what it has seen, leaves the one before waiting, and says so."""
    config = with_days(at(desk, 1, tmp_path / "data"), days(ENDS[2]))
    steps.ingest(config)
    prequential.begin(config)
    whole = prequential.fitted

    def fails(*_: Any) -> Any:
        raise FitError("no convergence")

    def wild(*given: Any) -> Any:
        forecaster, about = whole(*given)
        for name in ("omega", "long_run", "variance_base", "parameters_by_row"):
            forecaster.core.core.state_dict()[name].mul_(30)
        return forecaster, about

    for name, broken, said in (("last_value", fails, "could not be fitted"), ("garch", wild, "worse than the one")):
        monkeypatch.setattr(prequential, "fitted", broken)
        assert said in prequential.refit(config, name)
        before, after = (checkpoint.load(prequential.fit_path(config, name, k))[1] for k in (2, 3))
        assert before["split"] == after["split"]


def test_the_scale_of_a_series_is_of_its_train_split(desk: Desk) -> None:
    """It is the mean absolute log return up to the end of train, for each series."""
    data = steps.load(desk.config)
    scales = move_scales(data)
    for k, name in enumerate(NAMES):
        price = data.panel.price[k, data.panel.time[k] < data.split.train_end_time, 0]
        price = price[np.isfinite(price)]
        assert scales[name] == pytest.approx(np.abs(np.diff(np.log(price))).mean(), rel=1e-12)
