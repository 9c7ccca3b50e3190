"""Who forecasts better, on identical origins: tests, verdicts in words, and the rule of promotion.

A model that is not significantly better than the last value in absolute error is said to have no skill on
the price. A model replaces the one that serves only if it is significantly better in pooled CRPS.

Comes in: `Forecasts` of several models on the same rows. Goes out: `Comparison`, `Verdict`, `Row` and
`Decision`, by pure functions. Knows numpy and statsmodels; imported by steps.

References
----------
Diebold & Mariano (1995), Comparing predictive accuracy, Journal of Business & Economic Statistics 13,
253-263, doi:10.1080/07350015.1995.10524599. Harvey, Leybourne & Newbold (1997), Testing the equality of
prediction mean squared errors, International Journal of Forecasting 13, 281-291,
doi:10.1016/S0169-2070(96)00719-4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from models.errors import ComparisonError, ConfigError, unknown
from pipeline.forecasts import Forecasts
from pipeline.metrics import (
    POOLED,
    Scores,
    Vector,
    by_model,
    by_origin,
    crps,
    parts,
    scaled_error,
    scores,
)

Loss = Literal["crps", "scaled_error"]
Outcome = Literal["better", "worse", "identical", "indistinguishable"]

IDENTICAL = 1e-9
"""Losses that differ nowhere by more than this share of the reference's mean loss are the same number."""


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Settings of the tests and names of the references.

    Attributes
    ----------
    alpha : float
        Level of the two-sided test, in (0, 0.5). A hundredth, since many models and series are compared.
    min_origins : int
        Fewest origins of a test, at least 8: its variance is estimated from their autocovariances.
    last_value, ar, garch : str
        Names of the models that a verdict refers to.
    """

    alpha: float = 0.01
    min_origins: int = 30
    last_value: str = "last_value"
    ar: str = "ar"
    garch: str = "garch"

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 0.5:
            raise ConfigError(f"alpha must lie in (0, 0.5); came {self.alpha}")
        if self.min_origins < 8:
            raise ConfigError(f"min_origins must be at least 8; came {self.min_origins}")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One model against one reference on the rows of one series, or "pooled".

    Attributes
    ----------
    skill : float
        1 - mean loss / mean loss of the reference; positive is better, -inf where the reference never errs.
    statistic, p_value : float
        Diebold-Mariano statistic, negative where the model is better, and its two-sided p-value; 0 and 1 for
        identical losses.
    n : int
        Number of origin times.
    """

    model: str
    reference: str
    series: str
    loss: Loss
    skill: float
    statistic: float
    p_value: float
    n: int
    verdict: Outcome


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What can be said of one model on one series, or "pooled".

    A comparison is None where the reference was not given, is the model itself, or where `text` says why no
    test could be made.
    """

    model: str
    series: str
    against_ar: Comparison | None = None
    against_garch: Comparison | None = None
    against_last_value: Comparison | None = None
    text: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table that compares models: `scores` of `pipeline.metrics`, and the verdict."""

    model: str
    series: str
    scores: Scores
    verdict: Verdict

    def to_dict(self) -> dict[str, Any]:
        """Flatten to what a reader wants in a table; all else is in `dataclasses.asdict(row)`."""
        shown = ("rmae", "crps", "log_score", "coverage_80", "coverage_95")
        against_ar = self.verdict.against_ar
        return {
            "model": self.model,
            "series": self.series,
            **{name: self.scores[name] for name in shown},
            "p_ar": against_ar.p_value if against_ar else None,
            "verdict": self.verdict.text,
        }


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Which model serves next, which is its challenger, and why.

    Attributes
    ----------
    challenger : str or None
        The model of lowest pooled CRPS among the others; None where there is no other.
    numbers : dict
        `crps_<model>`: mean over origin times of the mean over series; and `skill`, `statistic`, `p_value`,
        `origins` of the best candidate against the incumbent where these are two.
    """

    model: str
    challenger: str | None
    reason: str
    numbers: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as plain types."""
        return asdict(self)


# --------------------------------------------------------------------------------------------- the same rows


def aligned(a: Forecasts, b: Forecasts) -> tuple[Forecasts, Forecasts]:
    """Give both back if they forecast the same things; refuse them otherwise.

    Raises
    ------
    ComparisonError
        Rows differ in series, origin time, step or target time, or in the outcome they are scored against.
        The message has both counts and the first difference.
    """
    shared = min(len(a), len(b))
    differ = np.zeros(shared, dtype=bool)
    for ours, theirs in zip(_keys(a), _keys(b), strict=True):
        differ |= ours[:shared] != theirs[:shared]
    if differ.any() or len(a) != len(b):
        k = int(np.argmax(differ)) if differ.any() else shared
        raise ComparisonError(
            "forecasts must be for the same origins and steps; "
            f"{a.model} has {len(a)} rows and {b.model} {len(b)}. First difference in row {k}: "
            f"{a.model} has {_name_row(a, k)}; {b.model} has {_name_row(b, k)}. "
            "Backtest both on the same prices and test split"
        )
    moved = ~np.isclose(a.actual, b.actual, rtol=1e-6) | ~np.isclose(a.outcome, b.outcome, rtol=1e-3, atol=1e-6)
    if moved.any():
        k = int(np.argmax(moved))
        raise ComparisonError(
            f"forecasts must be scored against the same outcomes; {np.sum(moved)} of {len(a)} rows differ, "
            f"first {_name_row(a, k)}: {a.model} has actual {a.actual[k]:.10g}, outcome {a.outcome[k]:.6g}; "
            f"{b.model} has actual {b.actual[k]:.10g}, outcome {b.outcome[k]:.6g}. "
            "Give both the same prices and the same transform"
        )
    return a, b


def _keys(f: Forecasts) -> tuple[np.ndarray, ...]:
    """Give what names a row, [n] each; series by name, since two models may number them differently."""
    return np.array(f.names)[f.series], f.origin_time, f.step, f.target_time


def _name_row(f: Forecasts, k: int) -> str:
    if k >= len(f):
        return "no such row"
    origin = np.datetime_as_string(f.origin_time[k].astype("datetime64[us]"), unit="auto")
    return f"series {f.names[f.series[k]]}, origin {origin} UTC, step {f.step[k]}"


# -------------------------------------------------------------------------------------------------- the test


def diebold_mariano(loss: Vector, reference_loss: Vector, horizon: int = 1) -> tuple[float, float]:
    """Test that two losses, [n] in time order, have the same mean: (statistic, two-sided p-value).

    The t-statistic of the mean difference, its variance by Newey and West over max(horizon - 1, ⌈n^(1/3)⌉)
    lags, with the small-sample factor of Harvey, Leybourne and Newbold, against t with n - 1 degrees of
    freedom: statsmodels' own. Negative is in favour of `loss`. `identical` losses give exactly (0, 1).
    Differences that are strongly autocorrelated over few origins make it reject too often.

    Parameters
    ----------
    horizon : int
        Longest step of the forecasts: their errors overlap over horizon - 1 origins.
    """
    if identical(loss, reference_loss):
        return 0.0, 1.0
    from statsmodels.tsa.stattools import diebold_mariano_test

    with np.errstate(divide="ignore"):  # a difference that never varies: infinite statistic, p-value 0
        result = diebold_mariano_test(
            np.zeros_like(loss),
            loss,
            reference_loss,
            criterion=lambda _, given: given,  # pyright: ignore[reportArgumentType]: documented, not annotated
            harvey_adj=True,
            horizon=horizon,
        )
    return float(result.statistic), float(result.pvalue)


def identical(loss: Vector, reference_loss: Vector) -> bool:
    """Say whether losses differ nowhere by more than rounding, a share `IDENTICAL` of the reference's mean."""
    return bool(np.max(np.abs(loss - reference_loss)) <= IDENTICAL * np.mean(np.abs(reference_loss)))


def compare(
    model: Forecasts,
    reference: Forecasts,
    *,
    loss: Loss = "crps",
    series: str = POOLED,
    naive_scale: Mapping[str, float] | None = None,
    config: CompareConfig | None = None,
) -> Comparison:
    """Compare two models on one series or pooled.

    Losses are averaged over the series and steps of each origin time first; the test is over origin times.

    Parameters
    ----------
    loss : {"crps", "scaled_error"}
        CRPS on the transformed scale, or absolute error over the naive scale of the series.
    naive_scale : mapping of series name to float
        Needed for "scaled_error"; from the train split.

    Raises
    ------
    ComparisonError
        The rows differ, a loss is NaN, or there are too few origins; the message says how many are needed.
    """
    aligned(model, reference)
    if series != POOLED:
        for f in (model, reference):
            if series not in f.names:
                raise ComparisonError(unknown("series", series, f.names))
        model, reference = model.of(series), reference.of(series)
    return _compare(model, reference, loss, series=series, naive_scale=naive_scale, config=config)


def _compare(
    model: Forecasts,
    reference: Forecasts,
    loss: Loss,
    *,
    series: str,
    naive_scale: Mapping[str, float] | None,
    config: CompareConfig | None,
) -> Comparison:
    """Compare all rows of forecasts that are known to be aligned."""
    config = config or CompareConfig()
    ours, theirs = (_loss_by_origin(f, loss, naive_scale) for f in (model, reference))
    horizon = int(model.step.max(initial=1))
    needed = max(config.min_origins, 2 * horizon)
    if len(ours) < needed:
        raise ComparisonError(
            f"a test on {series} needs at least {needed} origins for steps up to {horizon}; came {len(ours)}. "
            "Take a longer test split"
        )
    statistic, p_value = diebold_mariano(ours, theirs, horizon)
    if identical(ours, theirs):
        verdict, skill = "identical", 0.0
    else:
        verdict = _outcome(statistic, p_value, config.alpha)
        with np.errstate(divide="ignore"):
            skill = float(1 - np.mean(ours) / np.mean(theirs))
    return Comparison(
        model=model.model,
        reference=reference.model,
        series=series,
        loss=loss,
        skill=skill,
        statistic=statistic,
        p_value=p_value,
        n=len(ours),
        verdict=verdict,
    )


def _loss_by_origin(f: Forecasts, loss: Loss, naive_scale: Mapping[str, float] | None) -> Vector:
    if loss == "crps":
        rows = crps(f)
    elif loss == "scaled_error":
        rows = scaled_error(f, naive_scale or {})
    else:
        raise ComparisonError(unknown("loss", loss, ("crps", "scaled_error")))
    undefined = np.isnan(rows)
    if undefined.any():
        raise ComparisonError(
            f"{loss} of {f.model} is undefined in {np.sum(undefined)} of {len(f)} rows, first "
            f"{_name_row(f, int(np.argmax(undefined)))}. "
            "Take these rows out of every model, or give it a density"
        )
    return by_origin(f, rows)[1]


def _outcome(statistic: float, p_value: float, alpha: float) -> Outcome:
    if p_value >= alpha:
        return "indistinguishable"
    return "better" if statistic < 0 else "worse"


# ----------------------------------------------------------------------------------------- verdicts in words


def judge(
    models: Mapping[str, Forecasts],
    name: str,
    naive_scale: Mapping[str, float],
    *,
    series: str = POOLED,
    config: CompareConfig | None = None,
) -> Verdict:
    """Say what can be said of the model `name` from three comparisons with the references among `models`.

    CRPS against the AR and the GARCH, absolute error against the last value. All rows of `models` are taken,
    as those of `series`. Where a test cannot be made, the text says why.

    Raises
    ------
    ComparisonError
        The rows of a reference are not those of the model.
    """
    config = config or CompareConfig()
    made: dict[str, Comparison] = {}
    untested: dict[str, list[str]] = {}
    for field, reference, loss in _questions(config):
        if reference == name:
            continue
        if reference not in models:
            untested.setdefault("no forecasts", []).append(reference)
            continue
        pair = aligned(models[name], models[reference])
        try:
            made[field] = _compare(*pair, loss, series=series, naive_scale=naive_scale, config=config)
        except ComparisonError as reason:
            untested.setdefault(str(reason), []).append(reference)
    clauses = [_clause(comparison) for comparison in made.values()]
    clauses += [f"not tested against {', '.join(them)} ({reason})" for reason, them in untested.items()]
    return Verdict(model=name, series=series, text=", ".join(clauses), **made)


def _questions(config: CompareConfig) -> tuple[tuple[str, str, Loss], ...]:
    return (
        ("against_ar", config.ar, "crps"),
        ("against_garch", config.garch, "crps"),
        ("against_last_value", config.last_value, "scaled_error"),
    )


def _clause(comparison: Comparison) -> str:
    if comparison.loss == "scaled_error":
        return "skill on the price" if comparison.verdict == "better" else "no skill on the price"
    joint = {"better": "than", "worse": "than", "identical": "to", "indistinguishable": "from"}
    return f"{comparison.verdict} {joint[comparison.verdict]} {comparison.reference}"


def comparison_table(
    forecasts: Sequence[Forecasts],
    naive_scale: Mapping[str, float],
    config: CompareConfig | None = None,
) -> list[Row]:
    """Score and judge every model on every series, then pooled.

    Parameters
    ----------
    forecasts : sequence of Forecasts
        One a model, all on the same rows. References that are absent leave None in the verdicts.
    naive_scale : mapping of series name to float
        Mean absolute one-step change of the train split.

    Returns
    -------
    list of Row
        Series in the order of the rows, "pooled" last; within a series the models in the order given.

    Raises
    ------
    ComparisonError
        Nothing came, rows differ between models, or two models have one name.
    """
    models = _by_aligned_model(forecasts)
    split = {name: parts(f) for name, f in models.items()}
    rows = []
    for series in split[forecasts[0].model]:
        here = {name: pieces[series] for name, pieces in split.items()}
        for name, f in here.items():
            verdict = judge(here, name, naive_scale, series=series, config=config)
            rows.append(Row(model=name, series=series, scores=scores(f, naive_scale), verdict=verdict))
    return rows


def _by_aligned_model(forecasts: Sequence[Forecasts]) -> dict[str, Forecasts]:
    if not forecasts:
        raise ComparisonError("a comparison needs the forecasts of at least one model; none came")
    for other in forecasts[1:]:
        aligned(forecasts[0], other)
    return by_model(forecasts)


# ------------------------------------------------------------------------------------- the rule of promotion


def champion(
    forecasts: Sequence[Forecasts],
    incumbent: str | None = None,
    config: CompareConfig | None = None,
) -> Decision:
    """Decide which model serves next.

    The candidate is the model of lowest pooled mean CRPS. It replaces the incumbent only if it is better at
    `config.alpha` by the pooled test. Without an incumbent it must beat the last value, else the last value
    serves and the reason says "no skill".

    Raises
    ------
    ComparisonError
        The incumbent (or, without one, the last value) is not among the forecasts, rows differ, a CRPS is
        undefined, or there are too few origins for the test.
    """
    config = config or CompareConfig()
    models = _by_aligned_model(forecasts)
    holder = incumbent or config.last_value
    if holder not in models:
        raise ComparisonError(f"the decision needs forecasts of the model to beat: {unknown('model', holder, models)}")
    mean_crps = {name: float(np.mean(_loss_by_origin(f, "crps", None))) for name, f in models.items()}
    ranking = sorted(mean_crps, key=mean_crps.__getitem__)
    numbers = {f"crps_{name}": mean_crps[name] for name in ranking}
    winner, reason = holder, f"{holder} has the lowest pooled CRPS"
    if ranking[0] != holder:
        test = compare(models[ranking[0]], models[holder], config=config)
        winner = test.model if test.verdict == "better" else holder
        reason = _say(test, config.alpha)
        numbers |= {
            "skill": test.skill,
            "statistic": test.statistic,
            "p_value": test.p_value,
            "origins": test.n,
        }
    if winner == holder and incumbent is None:
        reason = f"no skill: {reason}"
    others = [name for name in ranking if name != winner]
    return Decision(model=winner, challenger=others[0] if others else None, reason=reason, numbers=numbers)


def _say(test: Comparison, alpha: float) -> str:
    """Put the deciding test in one sentence."""
    found = "significantly better than" if test.verdict == "better" else "not significantly better than"
    p = "< 1e-16" if test.p_value < 1e-16 else f"{test.p_value:.2g}"
    return (
        f"{test.model} has the lowest pooled CRPS and is {found} {test.reference} "
        f"(CRPS lower by {test.skill:.2%}, p {p} at level {alpha:g}, {test.n} origins)"
    )
