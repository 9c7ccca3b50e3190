"""A search reads the validation split alone, goes on where it was cut off, and its best settings can be pasted."""

from __future__ import annotations

import doctest
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Workspace
from panels import garbage_from, market

from flows.tuning_commands import search as verb
from models.errors import ConfigError, FitError
from models.transforms import LogReturn
from pipeline import search as module
from pipeline import steps
from pipeline.config import Config
from pipeline.search import Range, Searched, Space, check_space, read_space, search, toml_of
from pipeline.settings import load
from pipeline.steps import Data
from pipeline.tracking import Tracker

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:The ``noload`` loader strategy is deprecated:sqlalchemy.exc.SADeprecationWarning"
    ),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),
]

PANEL, SPLIT = market(300, 260)
DATA = Data(panel=PANEL, split=SPLIT, transform=LogReturn(), sha256="0" * 64)
SPACE: Space = {
    "fit.network.hidden": Range(low=2, high=6),
    "fit.network.memories": ((10, 100), (5,)),
    "fit.training.learning_rate": Range(low=1e-3, high=3e-2, log=True),
}


def settled(folder: Path) -> Config:
    """Give settings of a small fit, in a folder of its own."""
    training = {"epochs": 3, "lanes": 4, "chunk": 32, "device": "cpu"}
    return load(Config, {"folder": str(folder), "fit": {"training": training, "network": {"hidden": 4}}})


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Searched]:
    """Search once over twelve trials of a small market."""
    config = settled(tmp_path_factory.mktemp("whole"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "load", lambda _: DATA)
        return config, search(config, "gru", trials=12, space=SPACE)


def made(found: Searched) -> list[tuple]:
    """Give what of the trials does not depend on the clock."""
    return [(t.number, t.state, t.score, t.epochs, t.settings) for t in found.trials]


def test_all_trials_are_told_and_the_best_has_the_lowest_score(searched: tuple[Config, Searched]) -> None:
    """Twelve trials lie in the space, and none that came to its end is better than the best."""
    _, found = searched
    assert [t.number for t in found.trials] == list(range(1, 13))
    for trial in found.trials:
        assert 2 <= trial.settings["fit.network.hidden"] <= 6
        assert trial.settings["fit.network.memories"] in {(10, 100), (5,)}
        assert 1e-3 <= trial.settings["fit.training.learning_rate"] <= 3e-2
    assert found.best.score == min(t.score for t in found.trials if t.state == "finished" and t.score is not None)
    assert sum(found.importance.values()) == pytest.approx(1.0)
    assert found.figure.read_bytes()[:4] == b"\x89PNG"


def test_the_best_settings_can_be_pasted(searched: tuple[Config, Searched], tmp_path: Path) -> None:
    """The TOML that is given, read as settings, trains the very network of the best trial."""
    _, found = searched
    (tmp_path / "best.toml").write_text(found.toml)
    pasted = load(Config, tmp_path / "best.toml")
    assert pasted.fit.network.hidden == found.best.settings["fit.network.hidden"]
    assert pasted.fit.network.memories == found.best.settings["fit.network.memories"]
    assert pasted.fit.training.learning_rate == found.best.settings["fit.training.learning_rate"]


def test_garbage_in_the_test_split_changes_no_trial(
    searched: tuple[Config, Searched], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all prices from the end of validation on overwritten, the same trials have the same scores, bit for bit."""
    dirty = replace(DATA, panel=garbage_from(PANEL, SPLIT.validation_end_time))
    monkeypatch.setattr(steps, "load", lambda _: dirty)
    assert made(search(settled(tmp_path), "gru", trials=12, space=SPACE)) == made(searched[1])


def test_a_search_that_was_cut_off_goes_on_to_the_same_trials(
    searched: tuple[Config, Searched], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the middle of a trial, and begun again twice, it makes what one search makes."""
    monkeypatch.setattr(steps, "load", lambda _: DATA)
    config = settled(tmp_path)

    def stop(what: str, _: int) -> None:
        if what.startswith("trial 10 "):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(config, "gru", trials=12, space=SPACE, begins=stop)
    assert len(search(config, "gru", trials=11, space=SPACE).trials) == 11
    assert made(search(config, "gru", trials=12, space=SPACE)) == made(searched[1])


def test_each_trial_is_a_run_below_that_of_the_search(searched: tuple[Config, Searched]) -> None:
    """MLflow has one nested run a trial, and the number that was tried beside the best score."""
    config, found = searched
    client = Tracker(config.tracking, config.folder)._client
    parent = client.get_run(found.run)
    assert parent.data.metrics["trials"] == 12
    assert parent.data.metrics["validation_score"] == pytest.approx(found.best.score)
    children = client.search_runs([parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{found.run}'")
    assert {run.info.run_name for run in children} == {f"trial {k}" for k in range(1, 13)}
    assert {run.data.tags["state"] for run in children} == {t.state for t in found.trials}


def test_the_score_does_not_depend_on_the_unit_of_the_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that is not trained has nearly the same score with any memory, though not the same loss."""
    monkeypatch.setattr(steps, "load", lambda _: DATA)
    settings = {"fit.training.learning_rate": 1e-30, "fit.training.weight_decay": 0.0, "fit.training.epochs": 1}
    config = module._with(settled(tmp_path), settings)
    space: Space = {"fit.network.memories": ((10, 100), (100,), (5,), (10, 300))}
    scores = [t.score for t in search(config, "gru", trials=8, space=space).trials]
    assert all(score is not None and score < -2.5 for score in scores)
    assert max(scores) - min(scores) < 0.15  # type: ignore[operator]


def test_trials_that_diverge_are_counted_and_never_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every trial diverges nothing is proposed; the message says how many were tried, and what to lower."""
    monkeypatch.setattr(steps, "load", lambda _: DATA)
    config = module._with(settled(tmp_path), {"fit.training.clip": 1e30})
    space: Space = {"fit.training.learning_rate": Range(low=1e30, high=1e35, log=True)}
    said = (
        r"search for gru: none of 2 trials came to its end\. The last that failed: .*the loss is .*Lower learning_rate"
    )
    with pytest.raises(FitError, match=said):
        search(config, "gru", trials=2, space=space)


def test_trials_that_fail_for_another_reason_tell_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a split leaves nothing to train on, that is what the message says, and not to lower learning rates."""
    late = replace(DATA, split=replace(SPLIT, train_end_time=int(PANEL.time.min())))
    monkeypatch.setattr(steps, "load", lambda _: late)
    with pytest.raises(FitError, match=r"none of 2 trials.*The last that failed: expected prices that vary") as told:
        search(settled(tmp_path), "gru", trials=2, space=SPACE)
    assert "learning_rate" not in str(told.value)


def test_a_space_is_read_from_toml(tmp_path: Path) -> None:
    """Ranges and choices come as they stand, under tables or dotted names."""
    path = tmp_path / "space.toml"
    path.write_text(
        "fit.training.chunk = [16, 32]\n[fit.network]\nhidden = { low = 8, high = 64, log = true }\n"
        "memories = [[10, 100], [20]]\n"
    )
    assert read_space(path) == {
        "fit.training.chunk": (16, 32),
        "fit.network.hidden": Range(low=8, high=64, log=True),
        "fit.network.memories": ((10, 100), (20,)),
    }
    path.write_text("fit.network.hidden = 8\n")
    with pytest.raises(ConfigError, match=r"fit.network.hidden: expected \{ low = .., high = .. \} or a list"):
        read_space(path)


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        ('low = "a", high = 64', "low: expected a number, got 'a'"),
        ("low = 8, high = true", "high: expected a number, got True"),
        ('low = 8, high = 64, log = "yes"', "log: expected true or false, got 'yes'"),
        ("low = 64, high = 8", "expected low < high"),
    ],
)
def test_a_range_that_is_none_is_named_with_its_file(tmp_path: Path, ends: str, message: str) -> None:
    """Ends that are no numbers, swapped ones and a log that is no truth value say where they stand."""
    path = tmp_path / "space.toml"
    path.write_text(f"fit.network.hidden = {{ {ends} }}\n")
    with pytest.raises(ConfigError, match=f"space.toml: fit.network.hidden: {message}"):
        read_space(path)


def test_an_empty_space_is_not_the_usual_one(tmp_path: Path) -> None:
    """A file without a setting is refused before the prices are read."""
    (tmp_path / "space.toml").write_text("[fit.network]\n")
    with pytest.raises(ConfigError, match="search space: expected at least one setting, got none"):
        search(settled(tmp_path), "gru", trials=1, space=read_space(tmp_path / "space.toml"))


@pytest.mark.parametrize(
    ("model", "space", "message"),
    [
        ("lsmt", {}, "unknown network 'lsmt': did you mean 'lstm'"),
        ("garch", {}, "unknown network 'garch'"),
        ("gru", {"fit.network.hiden": (1, 2)}, "did you mean 'fit.network.hidden'"),
        ("gru", {"fit.network.hidden": Range(low=0, high=8)}, "hidden: expected 1 to 4096"),
        ("gru", {"fit.network.head": ("t", "quantile")}, "by the same loss"),
        ("gru", {"split.test": (0.1, 0.2)}, "expected settings of fit.network or fit.training"),
        ("point", {"fit.network.memories": ((10,), (20,))}, "unit of every loss but that of a Student t"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused(model: str, space: Space, message: str) -> None:
    """An unknown setting, a value out of range, or one that changes the measure is named before the first trial."""
    with pytest.raises(ConfigError, match=message):
        check_space(space, Config(), model)


@pytest.mark.parametrize("bounds", [(3.0, 3.0), (4.0, 3.0)])
def test_a_range_has_a_low_and_a_high_end(bounds: tuple[float, float]) -> None:
    """Equal or swapped ends are refused, and so is a ratio from zero."""
    with pytest.raises(ConfigError, match="low < high"):
        Range(low=bounds[0], high=bounds[1])
    with pytest.raises(ConfigError, match="low > 0 where log is true"):
        Range(low=0.0, high=1.0, log=True)


def test_the_example_in_the_docstring_holds() -> None:
    """Settings are grouped under their tables."""
    assert doctest.testmod(module).failed == 0
    assert toml_of({"fit.training.chunk": 16}) == "[fit.training]\nchunk = 16"


def test_the_command_tells_the_trials(workspace: Workspace, copied: Config, capsys: pytest.CaptureFixture[str]) -> None:
    """On prices of the store, the verb prints the table and the lines to paste."""
    verb("gru", 2, None, workspace.settings, ["fit.training.epochs=2"], copied.folder)
    said = capsys.readouterr().out
    assert "best of 2 trials, chosen on the validation split" in said
    assert "[fit.network]" in said
