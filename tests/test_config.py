"""The tree of all settings: its defaults, its ranges, and its documentation."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.errors import ConfigError
from pipeline.config import Config
from pipeline.fitting import MODELS
from pipeline.settings import annotated_toml, describe, load


def test_the_defaults_are_the_reference_run() -> None:
    """Without a file everything is set: the bundled sample, every model, log returns, one step ahead."""
    config = load(Config, {})
    assert config == Config()
    assert (config.ingest.paths, config.models, config.transform, config.fit.horizon) == (("sample",), MODELS, "log", 1)


def test_what_is_printed_loads_back(tmp_path: Path) -> None:
    """The annotated TOML of the defaults is the defaults."""
    path = tmp_path / "all.toml"
    path.write_text(annotated_toml(Config))
    assert load(Config, path) == Config()


def test_every_setting_is_documented_and_reached_by_its_name() -> None:
    """Each line of documentation names a setting that can be given back to its default."""
    settings = {s.name: s for s in describe(Config)}
    assert {"folder", "fit.training.epochs", "compare.alpha", "tracking.uri", "stream.batch"} <= settings.keys()
    assert [name for name, s in settings.items() if not s.meaning.endswith(".")] == []
    given = {name: s.default for name, s in settings.items() if s.default is not None}
    assert load(Config, {}, given) == Config()


@pytest.mark.parametrize(
    ("differences", "says"),
    [
        ({"models": ["last_value", "lsmt"]}, "unknown model 'lsmt': did you mean 'lstm'"),
        ({"models": []}, "at least one"),
        ({"models": ["ar", "last_value", "ar"]}, "none twice"),
        ({"models": ["ar", "garch"]}, "last_value is missing"),
        ({"transform": "lgo"}, "did you mean 'log'"),
        ({"fit": {"trainig": {}}}, "did you mean 'fit.training'"),
        ({"fit": {"horizon": 0}}, "1 to 1000 steps, got 0"),
    ],
)
def test_a_wrong_setting_is_named_with_what_was_expected(differences: dict, says: str) -> None:
    """The message has what came, and the nearest name or the range."""
    with pytest.raises(ConfigError, match=says):
        load(Config, differences)


POOLS = {
    "folder": "data",
    "fit": {"horizon": 3},
    "pools": {
        "stocks": {"series": ["us_*"], "fit": {"training": {"epochs": 2}}},
        "power": {"series": ["DE"], "transform": "asinh", "champion": "night"},
    },
}


def test_a_pool_is_the_settings_around_it_with_its_differences() -> None:
    """A pool has a folder, series and a registered model of its own, the prices of all, and what it does not change."""
    config = load(Config, POOLS)
    stocks, power = config.each["stocks"], config.of("power")
    assert list(config.each) == ["stocks", "power"]
    assert (stocks.fit.horizon, stocks.fit.training.epochs, stocks.series) == (3, 2, ("us_*",))
    assert (power.transform, power.champion, power.fit) == ("asinh", "night", config.fit)
    assert (stocks.folder, stocks.prices, stocks.base) == (Path("data/pools/stocks"), Path("data/prices"), Path("data"))
    assert (stocks.tracking.model, power.pools) == (f"{config.tracking.model}-stocks", {})


def test_one_pool_may_be_meant_and_without_pools_there_is_one_without_a_name() -> None:
    """`pool` chooses; the settings of a deployment without pools stand for themselves."""
    assert list(load(Config, POOLS, {"pool": "power"}).each) == ["power"]
    assert load(Config, {}).each == {"": Config()}


@pytest.mark.parametrize(
    ("pools", "says"),
    [
        ({"a": {"fit": {"epochs": 2}}}, "unknown setting 'fit.epochs'.*pools.a"),
        ({"a": {"folder": "elsewhere"}}, "pools.a.folder: expected outside of the pool"),
        ({"No": {}}, "pools: expected names"),
        ({"a": 3}, "'pools' must be table of tables"),
    ],
)
def test_a_wrong_pool_is_refused_when_the_settings_are_read(pools: object, says: str) -> None:
    """What is wrong in a pool is said before anything runs, with the place where it stands."""
    with pytest.raises(ConfigError, match=says):
        load(Config, {"pools": pools})
    with pytest.raises(ConfigError, match="unknown pool 'c'"):
        load(Config, POOLS, {"pool": "c"})
