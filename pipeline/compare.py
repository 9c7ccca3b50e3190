"""Who forecasts better, on identical origins: verdicts in words, and the rule of promotion.

An effect, its interval and its p-value always come together. A model that is not significantly better than the last
value in absolute error is said to have no skill on the price. A model replaces the one that serves only if it is
significantly better in pooled CRPS, by evidence that may be looked at after every retrain (`wager.py`), the choice
among several candidates accounted for.

Comes in: `Forecasts` of several models on the same rows. Goes out: `Row`, `Decision` and the set of the best, by pure
functions. Knows numpy; imported by page, config, judging and promotion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

import numpy as np

from models.errors import ComparisonError, ConfigError, unknown
from pipeline.alignment import aligned, name_row, sound
from pipeline.direction import calls, hit_rate
from pipeline.forecasts import Forecasts
from pipeline.metrics import POOLED, Scores, Vector, by_model, by_origin, crps, scaled_crps, scaled_error, scores
from pipeline.significance import (
    adjusted,
    block_bootstrap_skill,
    diebold_mariano,
    identical,
    model_confidence_set,
    zero_mean,
)
from pipeline.verdicts import Comparison, Direction, Loss, Outcome, Verdict, effect_text, worded
from pipeline.wager import capital, wagers

Correction = Literal["fdr_bh", "holm"]

ORIGINS_PER_STEP = 8
"""A test needs so many origins for each step of the horizon: fewer do not tell how the errors overlap."""


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Settings of the tests, names of the references, and sets of series.

    Attributes
    ----------
    alpha : float
        Level of the tests and 1 - the confidence of the intervals, in (0, 0.5).
    min_origins : int
        Fewest origins of a test, at least 8: its variance is estimated from their autocovariances.
    last_value : str
        Name of the model that has to be beaten for skill on the price.
    references : tuple of str
        Names of the models that every other is compared with in CRPS, where they are among the models; the first one
        has a column of its own.
    sets : dict of str
        Names of sets of series with their patterns, separated by spaces: `energy = "WTI BRENT* gas-?"`.
    """

    alpha: float = 0.05
    min_origins: int = 30
    last_value: str = "last_value"
    references: tuple[str, ...] = ("ar", "garch")
    sets: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 0.5:
            raise ConfigError(f"alpha must lie in (0, 0.5); came {self.alpha}")
        if self.min_origins < 8:
            raise ConfigError(f"min_origins must be at least 8; came {self.min_origins}")
        for name, patterns in self.sets.items():
            if name in {POOLED, ""} or not patterns.split():
                raise ConfigError(
                    f"a set needs a name other than {POOLED!r} and patterns of series; came {name!r}: {patterns!r}"
                )


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table that compares models: `scores` of `pipeline.metrics`, and the verdict.

    Attributes
    ----------
    series : str
        A series, a set of the settings, or "pooled".
    members : tuple of str
        The series of a set, or all of them for "pooled"; nothing for a series.
    """

    model: str
    series: str
    scores: Scores
    verdict: Verdict
    members: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Flatten to what a reader wants in a table; all else is in `dataclasses.asdict(row)`."""
        shown = ("rmae", "crps", "log_score", "coverage_80", "coverage_95")
        tests = {}
        for test in self.verdict.against:
            tests |= {f"skill_{test.reference}": test.skill, f"p_{test.reference}": test.p_adjusted}
        return {
            "model": self.model,
            "series": self.series,
            **{name: self.scores[name] for name in shown},
            **tests,
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
        `crps_<model>`: mean over origin times of the mean over series, each divided by its scale; and `skill`, `low`,
        `high`, `statistic`, `p_value`, `p_adjusted`, `origins`, `candidates` of the best candidate against the
        incumbent where these are two; `evidence`, the e-value of the candidate, where a champion serves: its p-value is
        then 1 / evidence.
    """

    model: str
    challenger: str | None
    reason: str
    numbers: dict[str, float]


# ------------------------------------------------------------------------------------------------- the tests


class _Field:
    """Forecasts of several models on the same rows, whose losses by origin time are worked out once."""

    def __init__(
        self, models: Mapping[str, Forecasts], naive_scale: Mapping[str, float], config: CompareConfig, series: str
    ) -> None:
        self.models, self.config, self.series = models, config, series
        self._scale = naive_scale
        self._losses: dict[tuple[str, Loss], Vector] = {}
        self._horizon = max(int(f.step.max(initial=1)) for f in models.values())

    def loss(self, name: str, loss: Loss) -> Vector:
        """Give the loss of a model by origin time, [n]; refuse one that is undefined somewhere."""
        if (name, loss) not in self._losses:
            self._losses[name, loss] = _loss_by_origin(self.models[name], loss, self._scale)
        return self._losses[name, loss]

    def compare(self, name: str, reference: str, loss: Loss) -> Comparison:
        """Test one model against another; refuse too few origins."""
        ours, theirs = self.loss(name, loss), self.loss(reference, loss)
        self.refuse_few(len(ours))
        statistic, p_value = diebold_mariano(ours, theirs, self._horizon)
        same = identical(ours, theirs)
        with np.errstate(divide="ignore"):
            skill = 0.0 if same else float(1 - np.mean(ours) / np.mean(theirs))
        low, high = (0.0, 0.0) if same else block_bootstrap_skill(ours, theirs, self.config.alpha)
        return Comparison(
            model=name,
            reference=reference,
            series=self.series,
            loss=loss,
            skill=skill,
            low=low,
            high=high,
            statistic=statistic,
            p_value=p_value,
            p_adjusted=p_value,
            n=len(ours),
            verdict="identical" if same else _outcome(statistic, p_value, self.config.alpha),
        )

    def evidence(self, name: str, reference: str, loss: Loss) -> float:
        """Give the e-value that a model has the lower loss, over all origins so far."""
        gains = self.loss(reference, loss) - self.loss(name, loss)
        return float(np.append(1.0, capital(wagers(gains, self._horizon)))[-1])

    def direction(self, name: str) -> Direction | None:
        """Test whether call and outcome are related; None where nothing is called."""
        f = self.models[name]
        called, went, counts = calls(f)
        if not counts.any() or np.isnan(f.quantile).any():
            return None
        rate, low, high = hit_rate(f, 1 - self.config.alpha)
        cell = f.series[counts].astype(np.int64) * (self._horizon + 1) + f.step[counts]
        together = _centred(called[counts], cell) * _centred(went[counts], cell)
        _, by_time = by_origin(f.where(counts), together)
        self.refuse_few(len(by_time))
        statistic, two_sided = zero_mean(by_time, self._horizon)
        p_value = float(two_sided / 2 if statistic > 0 else 1 - two_sided / 2)
        return Direction(
            hit_rate=rate,
            low=low,
            high=high,
            p_value=p_value,
            p_adjusted=p_value,
            n=int(counts.sum()),
            skill=p_value < self.config.alpha,
        )

    def refuse_few(self, origins: int) -> None:
        """Refuse a test over fewer origins than it needs."""
        needed = fewest(self.config, self._horizon)
        if origins < needed:
            raise ComparisonError(
                f"a test on {self.series} needs at least {needed} origins for steps up to {self._horizon}; "
                f"came {origins}. Take a longer test split"
            )


def fewest_origins(forecasts: Forecasts, config: CompareConfig | None = None) -> int:
    """Say how many origins a test of these forecasts needs."""
    return fewest(config or CompareConfig(), int(forecasts.step.max(initial=1)))


def fewest(config: CompareConfig, horizon: int) -> int:
    """Say how many origins a test of forecasts up to so many steps ahead needs."""
    return max(config.min_origins, ORIGINS_PER_STEP * horizon)


def _centred(flags: np.ndarray, group: np.ndarray) -> Vector:
    """Take from flags [n] the mean of their group [n]."""
    _, group = np.unique(group, return_inverse=True)
    return flags - (np.bincount(group, weights=flags) / np.bincount(group))[group]


def _loss_by_origin(f: Forecasts, loss: Loss, scale: Mapping[str, float]) -> Vector:
    if loss == "scaled_error":
        rows = scaled_error(f, scale)
    elif loss in ("crps", "scaled_crps"):
        rows = crps(f) if loss == "crps" else scaled_crps(f, scale)
    else:
        raise ComparisonError(unknown("loss", loss, get_args(Loss)))
    undefined = np.isnan(rows)
    if undefined.any():
        raise ComparisonError(
            f"{loss} of {f.model} is undefined in {np.sum(undefined)} of {len(f)} rows, first "
            f"{name_row(f, int(np.argmax(undefined)))}. "
            "Take these rows out of every model, or give it a density"
        )
    return by_origin(f, rows)[1]


def _outcome(statistic: float, p_value: float, alpha: float) -> Outcome:
    if p_value >= alpha:
        return "indistinguishable"
    return "better" if statistic < 0 else "worse"


def _at(test: Comparison, p: float, alpha: float) -> Comparison:
    """Judge a comparison by its adjusted p-value."""
    verdict = "identical" if test.verdict == "identical" else _outcome(test.statistic, p, alpha)
    return replace(test, p_adjusted=p, verdict=verdict)


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
    pair = {"model": model, "reference": reference}
    found = _Field(pair, naive_scale or {}, config or CompareConfig(), series).compare("model", "reference", loss)
    return replace(found, model=model.model, reference=reference.model)


# ----------------------------------------------------------------------------------------- verdicts in words


def judge(
    models: Mapping[str, Forecasts],
    name: str,
    naive_scale: Mapping[str, float],
    *,
    series: str = POOLED,
    config: CompareConfig | None = None,
) -> Verdict:
    """Say what can be said of the model `name` against the references among `models`, from one look alone.

    CRPS against the references, absolute error against the last value, and direction. All rows of `models` are
    taken, as those of `series`. Where a test cannot be made, the text says why.

    Raises
    ------
    ComparisonError
        The rows of a reference are not those of the model.
    """
    for other in models.values():
        aligned(models[name], other)
    return _judge(_Field(models, naive_scale, config or CompareConfig(), series), name)


def _judge(rivals: _Field, name: str) -> Verdict:
    made: list[Comparison] = []
    untested: dict[str, str] = {}
    config = rivals.config
    questions: list[tuple[str, Loss]] = [(reference, "crps") for reference in config.references]
    for reference, loss in [*questions, (config.last_value, "scaled_error")]:
        if reference == name or reference not in rivals.models:
            continue
        try:
            made.append(rivals.compare(name, reference, loss))
        except ComparisonError as reason:
            untested[reference] = str(reason)
    try:
        direction = rivals.direction(name)
    except ComparisonError as reason:
        direction, untested = None, untested | {"direction": str(reason)}
    return worded(
        Verdict(
            model=name,
            series=rivals.series,
            against=tuple(test for test in made if test.loss == "crps"),
            price=next((test for test in made if test.loss == "scaled_error"), None),
            direction=direction,
            text="",
            untested=untested,
        )
    )


# ------------------------------------------------------------------------------------------------ the table


def comparison_table(
    forecasts: Sequence[Forecasts],
    naive_scale: Mapping[str, float],
    config: CompareConfig | None = None,
) -> list[Row]:
    """Score and judge every model on every series, on every set, and pooled.

    P-values of one question are adjusted. On series and pooled by Benjamini & Hochberg, over all series and models
    together: of the claims that a table makes about series, and of those it makes about all of them, a share of alpha
    is false, however many models are looked at for one with skill. On sets by Holm over the sets, for each model,
    since each of few is a claim of its own.

    Parameters
    ----------
    forecasts : sequence of Forecasts
        One a model, all on the same rows. References that are absent are told in the verdicts.
    naive_scale : mapping of series name to float
        Mean absolute one-step change of the train split.

    Returns
    -------
    list of Row
        Series in the order of the rows, then sets in that of the settings, "pooled" last; in each the models in the
        order given.

    Raises
    ------
    ComparisonError
        Nothing came, rows differ between models, two models have one name, or a model has rows without a
        distribution (see `sound`).
    ConfigError
        A set has no series, or the name of one.
    """
    config = config or CompareConfig()
    models = _by_aligned_model(forecasts)
    groups = _groups(forecasts[0], config)
    rows = []
    for correction, places in groups:
        fields = {
            name: _Field({model: _of(f, members) for model, f in models.items()}, naive_scale, config, name)
            for name, members in places.items()
        }
        judged = _judged(fields, tuple(models), correction, config.alpha)
        for name, rivals in fields.items():
            members = places[name] if places[name] != (name,) else ()
            for model, f in rivals.models.items():
                scored = scores(f, naive_scale)
                row = Row(model=model, series=name, scores=scored, verdict=judged[name, model], members=members)
                rows.append(row)
    return rows


def _judged(
    fields: Mapping[str, _Field], models: tuple[str, ...], correction: Correction, alpha: float
) -> dict[tuple[str, str], Verdict]:
    """Judge every model on every place, the tests of a family adjusted together: verdicts by (place, model)."""
    every = [(place, model) for model in models for place in fields]
    families = [every] if correction == "fdr_bh" else [[k for k in every if k[1] == model] for model in models]
    verdicts = {}
    for family in families:
        told = _together([_judge(fields[place], model) for place, model in family], correction, alpha)
        verdicts |= dict(zip(family, told, strict=True))
    return verdicts


def _by_aligned_model(forecasts: Sequence[Forecasts]) -> dict[str, Forecasts]:
    if not forecasts:
        raise ComparisonError("a comparison needs the forecasts of at least one model; none came")
    for other in forecasts:
        aligned(forecasts[0], sound(other))
    return by_model(forecasts)


def _groups(f: Forecasts, config: CompareConfig) -> list[tuple[Correction, dict[str, tuple[str, ...]]]]:
    """List what is tested together, with its correction: places (a series, a set, pooled) and their series."""
    present = tuple(f.names[i] for i in np.unique(f.series))
    if POOLED in present:
        raise ConfigError(f"a series is called {POOLED!r}, as all of them together are; give it another name")
    sets = {name: _members(name, patterns, present) for name, patterns in config.sets.items()}
    return [("fdr_bh", {name: (name,) for name in present}), ("holm", sets), ("fdr_bh", {POOLED: present})]


def _members(name: str, patterns: str, series: Sequence[str]) -> tuple[str, ...]:
    members = tuple(s for s in series if any(fnmatchcase(s, pattern) for pattern in patterns.split()))
    there = f"the series are {', '.join(series[:20])}{' ...' if len(series) > 20 else ''}"
    if name in series:
        raise ConfigError(f"the set {name!r} has the name of a series; {there}. Give it another name")
    if not members:
        raise ConfigError(f"no series matches the set {name!r}, {patterns!r}; {there}")
    return members


def _of(f: Forecasts, members: Sequence[str]) -> Forecasts:
    """Take the rows of some series."""
    return f.where(np.isin(np.array(f.names)[f.series], members))


def _together(verdicts: Sequence[Verdict], correction: Correction, alpha: float) -> list[Verdict]:
    """Adjust the tests of a family, question by question, and word them anew."""
    tests = [test for v in verdicts for test in (*v.against, v.price, v.direction) if test is not None]
    corrected: dict[int, float] = {}
    for question in {_question(test) for test in tests}:
        family = [test for test in tests if _question(test) == question]
        p_values = adjusted([test.p_value for test in family], correction)
        corrected |= {id(test): p for test, p in zip(family, p_values, strict=True)}
    return [_corrected(v, corrected, alpha) for v in verdicts]


def _question(test: Comparison | Direction) -> tuple[str, ...]:
    return (test.reference, test.loss) if isinstance(test, Comparison) else ("direction",)


def _corrected(verdict: Verdict, p: Mapping[int, float], alpha: float) -> Verdict:
    """Judge all tests of a verdict by adjusted p-values, given by the identity of the test."""
    price, direction = verdict.price, verdict.direction
    if direction is not None:
        direction = replace(direction, p_adjusted=p[id(direction)], skill=p[id(direction)] < alpha)
    return worded(
        replace(
            verdict,
            against=tuple(_at(test, p[id(test)], alpha) for test in verdict.against),
            price=price and _at(price, p[id(price)], alpha),
            direction=direction,
        )
    )


def best_set(forecasts: Sequence[Forecasts], config: CompareConfig | None = None) -> dict[str, float]:
    """Give each model's p-value of belonging to the set of the best by pooled CRPS; members have p ≥ alpha.

    Raises
    ------
    ComparisonError
        What `comparison_table` refuses, an undefined CRPS, or too few origins.
    """
    models = _by_aligned_model(forecasts)
    rivals = _Field(models, {}, config or CompareConfig(), POOLED)
    losses = {name: rivals.loss(name, "crps") for name in models}
    rivals.refuse_few(len(losses[forecasts[0].model]))
    return model_confidence_set(losses)


# ------------------------------------------------------------------------------------- the rule of promotion


def champion(
    forecasts: Sequence[Forecasts],
    incumbent: str | None = None,
    config: CompareConfig | None = None,
    scales: Mapping[str, float] | None = None,
) -> Decision:
    """Decide which model serves next.

    The candidate is the model of lowest pooled mean CRPS, where that of each series is divided by its scale, so that
    no series counts for more because it moves more. It replaces the incumbent only if it is better at
    `config.alpha`, its p-value multiplied by the number of candidates it was chosen from (Bonferroni, the first step of
    Holm). The p-value is one over the e-value of `wager.capital`: decisions come back with every retrain, and an
    incumbent as good as the candidates is replaced with a probability of at most alpha, however often a growing
    record of the same forecasts is looked at, as far as gains are symmetric. Without an incumbent there is one
    look, by the pooled test, and the last value must be beaten; else it serves and the reason says "no skill".

    Parameters
    ----------
    scales : mapping of series name to float, optional
        Mean absolute moves on the transformed scale, of a time before all rows; left out: 1 each.

    Raises
    ------
    ComparisonError
        The incumbent (or, without one, the last value) is not among the forecasts, rows differ, a CRPS is
        undefined, a model has rows without a distribution, or there are too few origins for the test.
    """
    config = config or CompareConfig()
    models = _by_aligned_model(forecasts)
    holder = incumbent or config.last_value
    if holder not in models:
        raise ComparisonError(f"the decision needs forecasts of the model to beat: {unknown('model', holder, models)}")
    loss: Loss = "crps" if scales is None else "scaled_crps"
    rivals = _Field(models, scales or {}, config, POOLED)
    mean_crps = {name: float(np.mean(rivals.loss(name, loss))) for name in models}
    ranking = sorted(mean_crps, key=mean_crps.__getitem__)
    numbers = {f"crps_{name}": mean_crps[name] for name in ranking}
    winner, reason = holder, f"{holder} has the lowest pooled CRPS"
    if ranking[0] != holder:
        test, candidates = rivals.compare(ranking[0], holder, loss), len(models) - 1
        if incumbent is not None:
            evidence = rivals.evidence(ranking[0], holder, loss)
            test = replace(test, p_value=min(1.0, 1 / evidence))
            numbers["evidence"] = evidence
        test = _at(test, min(1.0, test.p_value * candidates), config.alpha)
        winner = test.model if test.verdict == "better" else holder
        reason = _say(test, candidates, config.alpha)
        numbers |= _numbers(test, candidates)
    if winner == holder and incumbent is None:
        reason = f"no skill: {reason}"
    others = [name for name in ranking if name != winner]
    return Decision(model=winner, challenger=others[0] if others else None, reason=reason, numbers=numbers)


def _numbers(test: Comparison, candidates: int) -> dict[str, float]:
    shown = ("skill", "low", "high", "statistic", "p_value", "p_adjusted")
    counts = {"origins": float(test.n), "candidates": float(candidates)}
    return {name: float(getattr(test, name)) for name in shown} | counts


def _say(test: Comparison, candidates: int, alpha: float) -> str:
    """Put the deciding test in one sentence."""
    found = "significantly better than" if test.verdict == "better" else "not significantly better than"
    of = f", adjusted for {candidates} candidates" if candidates > 1 else ""
    return (
        f"{test.model} has the lowest pooled CRPS and is {found} {test.reference} "
        f"(CRPS {effect_text(test)}{of}, at level {alpha:g}, {test.n} origins)"
    )
