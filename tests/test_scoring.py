"""Live scores are those of the backtest, and nothing that numbers hold makes them fail."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from outcomes import as_forecasts, in_pieces, price_at, rows_of, waiting
from served import metadata

from models.errors import ComparisonError
from models.observation import LEVELS
from pipeline import metrics
from pipeline.metadata import Metadata
from pipeline.scoring import COLUMNS, Scorer, Scores, Waiting

A = 60
ASINH = {"kind": "asinh", "lower": -1e15, "upper": 1e15, "center": [0.0, 20.0, -5.0], "unit": [1.0, 7.0, 0.5]}
NO_DENSITY = (5.0, float("inf"), float("nan"))
DENSE = (5.0, float("inf"), 2.5)


def drawn(models: dict[str, Metadata], seed: int = 0) -> tuple[list[Waiting], np.ndarray, np.ndarray]:
    """Draw what waits for A outcomes, their prices and the prices before, [A]."""
    rng = np.random.default_rng(seed)
    row = rng.integers(0, 3, A)
    last = rng.uniform(1, 50, A)
    given = [waiting(rng, m, row, last) for m in models.values()]
    first = next(iter(models.values()))
    return given, price_at(first, row, last, 0.015 * rng.standard_t(4, A)), last


def column(scores: Scores, name: str, j: int = 0) -> np.ndarray:
    """Give a score of model j."""
    return scores.value[:, j, COLUMNS.index(name)]


@pytest.mark.parametrize("transform", [metadata().transform, ASINH], ids=["log", "asinh"])
@pytest.mark.parametrize("df", [DENSE, (4.0,), NO_DENSITY], ids=["own", "one", "quantiles"])
def test_scores_are_those_of_the_backtest(transform: dict, df: tuple[float, ...]) -> None:
    """Every score equals that of `pipeline.metrics` on both scales, with densities and without."""
    model = metadata(transform=transform, df=df)
    given, price, last = drawn({"m": model})
    f = as_forecasts(model, given[0], price, last)
    scorer = Scorer({"m": model})
    scores = scorer.score(given, price[:, None], last[:, None])
    assert scores.counted.all()
    assert not scores.missing.any()
    assert scorer.closed == (df != NO_DENSITY)
    quantiles_only = metrics.quantile_crps(f.outcome, metrics.quantile_moves(f))
    np.testing.assert_allclose(column(scores, "crps"), metrics.crps(f) if scorer.closed else quantiles_only, rtol=1e-9)
    np.testing.assert_allclose(column(scores, "log_score"), metrics.log_score(f), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(scores.pit[:, 0], metrics.pit(f), rtol=0, atol=1e-9)
    for percent in (50, 80, 95):
        np.testing.assert_array_equal(column(scores, f"covered_{percent}"), metrics.covered(f, percent))
    np.testing.assert_array_equal(column(scores, "absolute_error"), metrics.absolute_error(f))


def test_models_are_compared_by_one_form_of_the_crps() -> None:
    """Beside a model without a density every model is scored by its quantiles; alone, by its density."""
    models = {"m": metadata(df=(4.0,)), "quantiles": metadata(df=(float("nan"),))}
    given, price, last = drawn(models)
    alone = Scorer({"m": models["m"]}).score(given[:1], price[:, None], last[:, None])
    beside = Scorer(models).score(given, price[:, None], last[:, None])
    assert not np.array_equal(column(alone, "crps"), column(beside, "crps"))
    np.testing.assert_allclose(column(alone, "crps").mean(), column(beside, "crps").mean(), rtol=0.01)
    np.testing.assert_array_equal(column(alone, "log_score"), column(beside, "log_score"))
    assert np.isnan(column(beside, "log_score", 1)).all()
    assert beside.counted.all()


def test_models_are_compared_on_the_scale_of_the_first() -> None:
    """A reference on another scale is scored by its quantiles on that of the champion, and has no log score."""
    champion, other = metadata(df=(4.0,)), metadata(df=(4.0,), transform=ASINH)
    given, price, last = drawn({"champion": champion, "other": other})
    scores = Scorer({"champion": champion, "other": other}).score(given, price[:, None], last[:, None])
    f = as_forecasts(champion, given[1], price, last)
    expected = metrics.quantile_crps(f.outcome, metrics.quantile_moves(f))
    np.testing.assert_allclose(column(scores, "crps", 1), expected, rtol=1e-9)
    assert np.isnan(column(scores, "log_score", 1)).all()
    assert np.isfinite(column(scores, "log_score", 0)).all()


def test_only_outcomes_that_every_model_foresaw_count() -> None:
    """An outcome for which one model has no forecast counts for none; at a first tick there is nothing to miss."""
    models = {"a": metadata(df=(4.0,)), "b": metadata(df=(4.0,))}
    given, price, last = drawn(models)
    given[1].quantile[3] = np.nan
    given[0].scale[5] = 0.0
    last[7] = np.nan
    given[0].scale[9], given[1].scale[11], given[1].quantile[13, 0, 0] = -0.01, np.inf, -np.inf
    scores = Scorer(models).score(given, price[:, None], last[:, None])
    assert np.flatnonzero(~scores.counted).tolist() == [3, 5, 7, 9, 11]
    assert np.argwhere(scores.missing).tolist() == [[3, 1], [5, 0], [9, 0], [11, 1]]


ANY = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, 1e-300, 1e15, 3e38, np.inf, -np.inf, np.nan])


@given(st.lists(st.tuples(*[ANY] * 5), min_size=1, max_size=8), st.sampled_from([DENSE, NO_DENSITY]), st.booleans())
def test_no_number_is_too_odd(rows: list[tuple[float, ...]], df: tuple[float, ...], on_asinh: bool) -> None:
    """Whatever location, scale, quantiles and prices are, there is no error and no warning; what counts is finite."""
    model = metadata(df=df, transform=ASINH if on_asinh else metadata().transform)
    loc, scale, quantile, price, last = np.array(rows).T
    given = Waiting(
        row=np.arange(len(rows)) % 3,
        loc=loc[:, None].astype(np.float32),
        scale=scale[:, None].astype(np.float32),
        quantile=np.tile(quantile[:, None, None], (1, 1, len(LEVELS))),
    )
    scores = Scorer({"m": model}).score([given], price[:, None], last[:, None])
    kept = scores.value[scores.counted]
    assert np.isfinite(np.delete(kept, 1, axis=2)).all()
    assert not np.isinf(kept).any()
    assert not (scores.counted & scores.missing[:, 0]).any()


def test_prices_of_one_block_are_outcomes_of_their_own() -> None:
    """M prices at once have the scores that each has alone, one after the other."""
    model = metadata(df=(4.0,), transform=ASINH)
    given, price, last = drawn({"m": model})
    row = np.zeros(A // 2, np.int64)
    fields = {name: getattr(given[0], name) for name in ("loc", "scale", "quantile")}
    wide = Waiting(row=row, **{name: x.reshape(A // 2, 2, *x.shape[2:]) for name, x in fields.items()})
    alone = replace(given[0], row=np.zeros(A, np.int64))
    single = Scorer({"m": model}).score([alone], price[:, None], last[:, None])
    block = Scorer({"m": metadata(df=(4.0,), transform=ASINH, block=2)})
    np.testing.assert_array_equal(block.score([wide], price.reshape(-1, 2), last.reshape(-1, 2)).value, single.value)


@example(cuts=list(range(A)), df=DENSE, on_asinh=True)
@example(cuts=list(range(A)), df=NO_DENSITY, on_asinh=False)
@given(st.lists(st.integers(0, A), max_size=6), st.sampled_from([DENSE, NO_DENSITY]), st.booleans())
def test_no_bit_depends_on_the_batch(cuts: list[int], df: tuple[float, ...], on_asinh: bool) -> None:
    """Outcomes scored in any pieces have the bits that they have together."""
    model = metadata(df=df, transform=ASINH if on_asinh else metadata().transform)
    models = {"m": model, "reference": metadata(df=(3.0,), transform=model.transform)}
    given, price, last = drawn(models)
    scorer = Scorer(models)

    def piece(rows: slice) -> Scores:
        return scorer.score([rows_of(g, rows) for g in given], price[rows, None], last[rows, None])

    whole, pieces = piece(slice(None)), in_pieces(A, cuts, piece)
    for name in ("value", "pit", "counted", "missing"):
        assert np.concatenate([getattr(p, name) for p in pieces]).tobytes() == getattr(whole, name).tobytes()


def test_models_of_different_blocks_are_not_compared() -> None:
    """A reference that forecasts another number of prices at once is refused, by name."""
    with pytest.raises(ComparisonError, match=r"equally many prices.*'b': 2"):
        Scorer({"a": metadata(), "b": metadata(block=2)})
    with pytest.raises(ComparisonError, match="none"):
        Scorer({})
