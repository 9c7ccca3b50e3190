"""What can be said of a model: comparisons with the references, and the sentence that follows from them by rule.

An effect, its interval and its p-value always come together.

Comes in: tests. Goes out: `Comparison`, `Direction`, `Verdict` and its words. Knows nothing but these; imported by
compare, comparison_figures, page and the screen.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

Loss = Literal["crps", "scaled_crps", "scaled_error"]
Outcome = Literal["better", "worse", "identical", "indistinguishable"]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One model against one reference on the rows of a series, of a set, or "pooled".

    Attributes
    ----------
    skill : float
        1 - mean loss / mean loss of the reference; positive is better, -inf where the reference never errs.
    low, high : float
        Its block-bootstrap interval at 1 - alpha.
    statistic, p_value : float
        Diebold-Mariano statistic, negative where the model is better, and its two-sided p-value; 0 and 1 for
        identical losses.
    p_adjusted : float
        The p-value after Benjamini-Hochberg over series and models, or after Holm over sets.
    n : int
        Number of origin times.
    verdict : {"better", "worse", "identical", "indistinguishable"}
        By `p_adjusted`.
    """

    model: str
    reference: str
    series: str
    loss: Loss
    skill: float
    low: float
    high: float
    statistic: float
    p_value: float
    p_adjusted: float
    n: int
    verdict: Outcome


@dataclass(frozen=True, kw_only=True)
class Direction:
    """How often the median calls the direction of the price, and whether call and outcome are related.

    Attributes
    ----------
    hit_rate, low, high : float
        Share of right calls, and its interval by Wilson at 1 - alpha, which takes rows as independent.
    p_value, p_adjusted : float
        One-sided, of no relation between call and outcome; a series that always rises is called right for nothing.
        The test is over origin times; adjusted like those of a `Comparison`.
    n : int
        Number of calls.
    skill : bool
        Whether `p_adjusted` is below alpha.
    """

    hit_rate: float
    low: float
    high: float
    p_value: float
    p_adjusted: float
    n: int
    skill: bool


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What can be said of one model on one series, on a set, or "pooled".

    Attributes
    ----------
    against : tuple of Comparison
        CRPS against each of the references that is there and is not the model itself.
    price : Comparison or None
        Scaled absolute error against the last value.
    direction : Direction or None
        None where the model calls no direction, as the last value.
    text : str
        All of it in one sentence.
    untested : dict of str
        Why a comparison is missing, by the name of the reference.
    """

    model: str
    series: str
    against: tuple[Comparison, ...]
    price: Comparison | None
    direction: Direction | None
    text: str
    untested: dict[str, str] = field(default_factory=dict)


def references_of(verdicts: Iterable[Verdict]) -> list[str]:
    """List the references of the tests by CRPS in their own order, which a reference's own verdict does not have."""
    most_first = sorted(verdicts, key=lambda v: -len(v.against))
    return list(dict.fromkeys(c.reference for v in most_first for c in v.against))


def worded(verdict: Verdict) -> Verdict:
    """Derive the sentence from the tests."""
    clauses = [_crps_clause(test) for test in verdict.against]
    clauses += [_price_clause(verdict.price)] if verdict.price else []
    clauses += [_direction_clause(verdict.direction)] if verdict.direction else []
    reasons: dict[str, list[str]] = {}
    for reference, reason in verdict.untested.items():
        reasons.setdefault(reason, []).append(reference)
    clauses += [f"is not tested against {', '.join(them)} ({reason})" for reason, them in reasons.items()]
    return replace(verdict, text=f"{verdict.model} {'; '.join(clauses)}" if clauses else f"{verdict.model}: no tests")


def _crps_clause(test: Comparison) -> str:
    if test.verdict == "identical":
        return f"is the same as {test.reference}"
    if test.verdict == "indistinguishable":
        return f"is not distinguishable from {test.reference} ({effect_text(test)})"
    better = test.verdict == "better"
    low, effect, high = (test.low, test.skill, test.high) if better else (-test.high, -test.skill, -test.low)
    interval = f"[{low * 100:.1f}, {high * 100:.1f}], {p_text(test.p_adjusted)}"
    return f"{'beats' if better else 'loses to'} {test.reference} by {effect * 100:.1f} % CRPS {interval}"


def _price_clause(test: Comparison) -> str:
    said = "skill on the price" if test.verdict == "better" else "no skill on the price"
    worse = f", worse than {test.reference}" if test.verdict == "worse" else ""
    return f"has {said} ({'the last value' if test.verdict == 'identical' else effect_text(test) + worse})"


def _direction_clause(test: Direction) -> str:
    said = "skill on direction" if test.skill else "no skill on direction"
    low, rate, high = (f"{x * 100:.1f}" for x in (test.low, test.hit_rate, test.high))
    return f"has {said} (hits {rate} % [{low}, {high}], {p_text(test.p_adjusted)})"


def effect_text(test: Comparison) -> str:
    """Say effect, interval and p-value of a comparison."""
    return f"{test.skill * 100:+.1f} % [{test.low * 100:+.1f}, {test.high * 100:+.1f}], {p_text(test.p_adjusted)}"


def p_text(p: float) -> str:
    """Say a p-value: two digits, or three places where it is small.

    >>> p_text(0.214), p_text(0.0043), p_text(1e-9)
    ('p 0.21', 'p 0.004', 'p < 0.001')
    """
    return "p < 0.001" if p < 0.001 else f"p {p:.3f}" if p < 0.1 else f"p {p:.2f}"
