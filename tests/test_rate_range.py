"""A range test reads the steepest descent and the divergence, and trains by the rates that it names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import Workspace
from test_training import CONFIG, begin, persistent

from flows.tuning_commands import rate as verb
from models.errors import ConfigError, FitError
from pipeline.config import Config
from pipeline.rate_range import CHUNKS, HIGHEST, LOWEST, range_test, rate, read

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:The ``noload`` loader strategy is deprecated:sqlalchemy.exc.SADeprecationWarning"
    ),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),
]

RATES = np.geomspace(LOWEST, HIGHEST, CHUNKS)


def curve(falls_at: float, rises_at: float) -> np.ndarray:
    """Give a loss that falls by 1 around one rate and rises by 5 around another."""
    z = np.log(RATES)
    return -1 / (1 + np.exp(-4 * (z - np.log(falls_at)))) + 5 / (1 + np.exp(-4 * (z - np.log(rises_at))))


@pytest.mark.parametrize(("falls_at", "rises_at"), [(1e-3, 0.3), (1e-4, 1e-2)])
def test_the_rates_of_a_known_curve_are_found(falls_at: float, rises_at: float) -> None:
    """Steepest descent and divergence are where they were put, up to the lag of smoothing; the lower one is taken."""
    found = read(RATES, curve(falls_at, rises_at))
    assert found.steepest is not None
    assert found.diverged is not None
    assert falls_at / 1.2 < found.steepest < 4 * falls_at
    assert rises_at / 2 < found.diverged < 4 * rises_at
    assert found.suggestion == min(found.steepest, found.diverged / 10)
    assert found.rule == ("steepest" if found.steepest < found.diverged / 10 else "tenth")


def test_a_loss_that_only_rises_gives_a_tenth_of_where_it_does() -> None:
    """Without descent there is one rule left."""
    noise = np.random.default_rng(0).normal(scale=0.01, size=CHUNKS)
    found = read(RATES, 5 / (1 + np.exp(-4 * np.log(RATES / 1e-2))) + noise)
    assert found.rule == "tenth"
    assert found.suggestion < 1e-2


def test_a_loss_that_ends_in_no_number_has_diverged_there() -> None:
    """The last rate that gave a number is where it diverged, if the loss had not risen before."""
    found = read(RATES[:80], curve(1e-3, 1e9)[:80])
    assert found.diverged == RATES[79]


@pytest.mark.parametrize(("losses", "message"), [(np.full(CHUNKS, 2.0), "stayed near 2.0"), (np.ones(4), "after 4 ch")])
def test_a_curve_that_says_nothing_is_refused(losses: np.ndarray, message: str) -> None:
    """A flat loss, or one that is no number from the start, suggests no rate."""
    with pytest.raises(FitError, match=message):
        read(RATES[: len(losses)], losses)


def test_chunks_are_trained_at_the_rates_given() -> None:
    """A rate of nothing leaves the weights, the losses of the passes repeat; a rate that is one changes them."""
    still, moving = (begin(*persistent(), CONFIG) for _ in range(2))
    chunks = -(-still.train.inputs.shape[1] // CONFIG.chunk)
    losses = list(still.at_rates([1e-30] * 3 * chunks))
    first = list(moving.at_rates([1e-30, *([0.02] * (3 * chunks - 1))]))
    assert first[0] == losses[0]
    assert np.mean(first[-chunks:]) < np.mean(losses[-chunks:]) - 0.1
    assert losses[0] == pytest.approx(losses[chunks], abs=0.1)
    assert still.epoch == moving.epoch == 0


def test_the_suggested_rate_learns_and_the_diverged_one_does_not() -> None:
    """On moves that are autoregressive, training at the suggestion ends lower than at the start and at divergence."""
    found = range_test(begin(*persistent(), CONFIG))
    assert LOWEST < found.suggestion < HIGHEST
    kept, wild = (begin(*persistent(), CONFIG) for _ in range(2))
    at_suggestion = list(kept.at_rates([found.suggestion] * 60))
    at_highest = list(wild.at_rates([HIGHEST] * 60))
    assert np.mean(at_suggestion[-20:]) < min(np.mean(at_suggestion[:5]), np.mean(at_highest[-20:])) - 0.05


def test_only_networks_have_a_rate() -> None:
    """A model without epochs is refused with those that have them."""
    with pytest.raises(ConfigError, match="unknown network 'garch'"):
        rate(Config(), "garch")


def test_a_picture_that_cannot_be_written_is_refused_before_the_training(tmp_path: Path) -> None:
    """Without a price in the store, what is wrong with the figure is told first, with the formats there are."""
    with pytest.raises(ConfigError, match=r"x\.nope: unknown format of a picture '\.nope'.*\.pdf, .*\.png"):
        rate(Config(folder=tmp_path), "gru", Path("x.nope"))


def test_the_command_tells_the_rate(workspace: Workspace, copied: Config, capsys: pytest.CaptureFixture[str]) -> None:
    """On prices of the store, the verb prints the line to paste, and leaves a figure and a run."""
    figure = copied.folder / "rate.png"
    verb("gru", figure, workspace.settings, None, copied.folder)
    assert "learning_rate = " in capsys.readouterr().out
    assert figure.read_bytes()[:4] == b"\x89PNG"
