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
