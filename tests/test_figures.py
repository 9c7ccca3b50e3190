import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from simulated import HOUR, forecast_returns

from models.errors import ComparisonError, ConfigError
from models.observation import LEVELS, StateTensor
from pipeline import figures, metrics
from pipeline.inspection import StatePath


@pytest.fixture
def rng():
    """Give every test the same numbers, alone or among others."""
    return np.random.default_rng(20260103)


@pytest.fixture
def models(rng):
    """Give a model that knows the scale, one that does not and one that is too wide, on two series."""
    volatility = 0.004 * np.exp(0.8 * np.sin(np.arange(900) / 60) + np.zeros((2, 1)))
    returns = volatility * rng.standard_t(6, size=(2, 900))
    names = ("EURUSD", "GBPUSD")
    return [
        forecast_returns("ar", returns, scale=0.0046, df=6, names=names),
        forecast_returns("gru", returns, scale=volatility, df=6, names=names),
        forecast_returns("wide", returns, scale=0.007, df=6, names=names),
    ]


def records():
    """Give losses that fall, then overfit after epoch 8."""
    epoch = np.arange(1, 21)
    train = -3.2 - 0.2 * np.log(epoch)
    return list(zip(epoch, train, train + 0.05 + 0.0015 * (epoch - 8.0) ** 2, strict=True))


def remembered(rng, moments=600):
    """Give the state of a series: its last price, two averages, a count that does not move, and six hidden units."""
    phase = np.arange(moments) / 20
    units = np.sin(phase[:, None] + np.array([0, 3, 0, 3, 0, 3])) + 0.05 * rng.normal(size=(moments, 6))
    price = 100 * np.exp(0.01 * rng.normal(size=moments)).cumprod()
    tensors = {"price": price[:, None], "variance": rng.uniform(1, 2, (moments, 2)), "h0": units}
    tensors["count"] = np.full(moments, 9.0)
    described = (
        StateTensor("price", (1,), "float64", np.nan, "price", "last known price"),
        StateTensor("variance", (2,), "float32", 1.0, "return^2", "running mean square move"),
        StateTensor("count", (), "float32", 0.0, "count", "moves seen"),
        StateTensor("h0", (6,), "float32", 0.0, "hidden", "output of layer 0"),
    )
    time = np.arange(moments) * HOUR
    return StatePath(model="gru", series="EURUSD", time=time, price=price, tensors=tensors, described=described)


def drawn(models):
    """Draw each figure once."""
    return {
        "calibration": figures.calibration(models[2]),
        "loss_curves": figures.loss_curves(records(), model="gru", series="2 series", loss="loss"),
        "skill_over_time": figures.skill_over_time(models, "ar"),
        "hidden_state": figures.hidden_state(remembered(np.random.default_rng(1))),
    }


def test_every_figure_is_written_and_says_what_it_shows(models, tmp_path):
    """All axes are labelled, a title names the model and what it is on, and the file is a readable image."""
    for name, figure in drawn(models).items():
        path = figures.save(figure, tmp_path / "new" / f"{name}.png")
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 10_000
        title = " ".join([figure.get_suptitle(), *(ax.get_title() for ax in figure.axes)])
        assert any(f.model in title for f in models), name
        assert "EURUSD" in title or "2 series" in title, name
        assert all(ax.get_ylabel() for ax in figure.axes), name
        assert [ax for ax in figure.axes if ax.get_label() != "<colorbar>"][-1].get_xlabel(), name


def test_reliability_is_the_observed_share_below_each_level(models):
    """The line of a calibrated model lies inside the band, that of one too wide outside."""
    right, wide = (figures.calibration(f).axes[0].get_lines()[1] for f in models[1:])
    level = np.array(LEVELS)
    band = 196 * np.sqrt(level * (1 - level) / len(models[1]))
    assert np.mean(np.abs(right.get_ydata()) <= band) > 0.8
    assert np.max(np.abs(wide.get_ydata()) / band) > 3
    assert wide.get_ydata()[LEVELS.index(0.25)] < 0 < wide.get_ydata()[LEVELS.index(0.75)]


def test_calibration_without_density_says_so(models):
    """A model with quantiles only has no PIT; its reliability is drawn all the same."""
    bare = replace(models[0], df=np.full(len(models[0]), np.nan))
    left, right = figures.calibration(bare).axes
    assert "quantiles only" in right.texts[0].get_text()
    assert len(left.get_lines()) == 2
    with pytest.raises(ComparisonError, match="has none"):
        figures.calibration(bare.where(bare.step == 9))


def test_the_best_epoch_is_marked_and_unknown_losses_do_not_hide_it():
    """The mark sits on the lowest validation loss, NaN or not elsewhere; no epoch at all is refused."""
    losses = records()
    losses[2] = (3, losses[2][1], np.nan)
    lowest = min(losses, key=lambda r: np.inf if np.isnan(r[2]) else r[2])
    lines = figures.loss_curves(losses, model="gru", series="fx", loss="loss").axes[0].get_lines()
    assert (lines[-1].get_xdata()[0], lines[-1].get_ydata()[0]) == (lowest[0], lowest[2])
    with pytest.raises(ComparisonError, match="at least one epoch"):
        figures.loss_curves([], model="gru", series="fx", loss="loss")


def test_skill_over_time_ends_at_the_total_crps_saved(models):
    """Each line is the running sum of the reference's CRPS minus the model's, averaged over the series."""
    ax = figures.skill_over_time(models, "ar").axes[0]
    _, gru, wide = ax.get_lines()
    saved = metrics.crps(models[0]).sum() / 2 - metrics.crps(models[1]).sum() / 2
    assert gru.get_ydata()[-1] == pytest.approx(saved)
    assert saved > 0 > wide.get_ydata()[-1]
    assert len(gru.get_xdata()) == 900


def test_refits_are_ticks_below_the_skill(models):
    """Each model that was fitted again has a row of ticks at these moments, the reference and others have none."""
    when = [int(models[1].origin_time[k]) for k in (100, 400)]
    saved, ticks = figures.skill_over_time(models, "ar", {"gru": when, "wide": [], "ar": when}).axes
    (line,) = ticks.get_lines()
    np.testing.assert_array_equal(line.get_xdata(), np.array(when).astype("datetime64[us]"))
    assert [label.get_text() for label in ticks.get_yticklabels()] == ["gru"]
    assert line.get_color() == saved.get_lines()[1].get_color()


def test_a_hopeless_model_does_not_flatten_the_others(models):
    """The picture ends where the others can be told apart; the legend has the number of the one that left it."""
    hopeless = replace(models[2], model="hopeless", scale=models[2].scale * 100)
    ax = figures.skill_over_time([*models, hopeless], "ar").axes[0]
    *_, last = ax.get_lines()
    assert ax.get_ylim()[0] > last.get_ydata()[-1]
    assert ax.get_ylim()[1] < 3 * max(line.get_ydata()[-1] for line in ax.get_lines()[1:-1])
    assert "hopeless (-" in last.get_label()


def test_skill_over_time_needs_its_reference_and_the_same_rows(models):
    """An unknown reference, a single model and shifted rows are refused."""
    with pytest.raises(ComparisonError, match="unknown reference 'arr': did you mean 'ar'"):
        figures.skill_over_time(models, "arr")
    with pytest.raises(ComparisonError, match="at least one other"):
        figures.skill_over_time(models[:1], "ar")
    shifted = replace(models[1], origin_time=models[1].origin_time + HOUR)
    with pytest.raises(ComparisonError, match="same origins"):
        figures.skill_over_time([models[0], shifted], "ar")


def test_hidden_states_stand_below_the_prices_that_left_them(rng):
    """The latest moments are drawn, each tensor under its meaning; what does not change is named, not drawn."""
    path = remembered(rng)
    price, variance, hidden, _ = figures.hidden_state(path, last=250).axes
    np.testing.assert_array_equal(price.get_lines()[0].get_ydata(), path.price[-250:])
    for i, line in enumerate(variance.get_lines()):
        np.testing.assert_array_equal(line.get_ydata(), np.sqrt(path.tensors["variance"][-250:, i]))
    assert variance.get_title(loc="left") == "variance: running mean square move"
    assert hidden.get_title(loc="left") == "h0: output of layer 0"
    assert "unchanged in it: count" in hidden.get_xlabel()


def test_hidden_units_that_move_together_stand_together(rng):
    """Units of two kinds, mixed, come out as two blocks; no value is lost."""
    path = remembered(rng)
    hidden = figures.hidden_state(path).axes[2]
    rows = np.asarray(hidden.collections[0].get_array()).reshape(6, 500)
    np.testing.assert_array_equal(np.sort(rows, axis=0), np.sort(path.tensors["h0"][-500:].T, axis=0))
    alike = np.corrcoef(rows)[0] > 0
    assert np.sum(alike[1:] != alike[:-1]) == 1


def test_a_short_path_without_change_is_drawn_all_the_same(rng):
    """A single moment changes nothing: the price alone is there."""
    figure = figures.hidden_state(remembered(rng, moments=1))
    assert len(figure.axes) == 1
    assert "variance, count, h0" in figure.axes[0].get_xlabel()


@pytest.mark.parametrize("name", ["p.nope", "p"])
def test_a_figure_is_written_in_a_known_format_or_not_at_all(rng, tmp_path, name):
    """A suffix of no picture, or none, is refused with those there are, and no folder is made."""
    with pytest.raises(ConfigError, match=r"unknown format of a picture.* Known: .*\.pdf, .*\.png, .*\.svg"):
        figures.save(figures.hidden_state(remembered(rng, moments=1)), tmp_path / "folder" / name)
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize("suffix", [*figures.FORMATS, ".PNG"])
def test_every_known_format_is_written(rng, tmp_path, suffix):
    """A file of each suffix, in capitals too, is there and not empty."""
    figure = figures.hidden_state(remembered(rng, moments=1))
    assert figures.save(figure, tmp_path / f"p{suffix}").stat().st_size > 1000


def test_importing_figures_loads_no_matplotlib_and_drawing_no_pyplot():
    """Start-up does not pay for drawing, and no global figure state is made."""
    code = (
        "import sys, pipeline.figures as f; assert 'matplotlib' not in sys.modules; "
        "f.loss_curves([(1, 2.0, 3.0)], model='m', series='s', loss='l'); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
