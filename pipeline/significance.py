"""Tests of equal forecast accuracy that hold their size where losses are autocorrelated.

All take losses in the order of the origin times, one value an origin: the losses of a panel are averaged over its
series first (`metrics.by_origin`), so that series that move together are not counted as evidence twice.

Comes in: losses of two or more models. Goes out: statistics, p-values, intervals and the best set, by pure
functions. Knows numpy and scipy, and arch where it is called; imported by compare
and the benchmarks.

References
----------
Diebold & Mariano (1995), Comparing predictive accuracy, Journal of Business & Economic Statistics 13, 253-263,
doi:10.1080/07350015.1995.10524599. Lazarus, Lewis, Stock & Watson (2018), HAR inference: recommendations for
practice, Journal of Business & Economic Statistics 36, 541-559, doi:10.1080/07350015.2018.1506926. Coroneo & Iacone
(2020), Comparing predictive accuracy in small samples using fixed-smoothing asymptotics, Journal of Applied
Econometrics 35, 391-409, doi:10.1002/jae.2756. Giacomini & White (2006), Tests of conditional predictive ability,
Econometrica 74, 1545-1578, doi:10.1111/j.1468-0262.2006.00718.x. Ziel & Weron (2018), Day-ahead electricity price
forecasting with high-dimensional structures, Energy Economics 70, 396-420, doi:10.1016/j.eneco.2017.12.016. Lago,
Marcjasz, De Schutter & Weron (2021), Forecasting day-ahead electricity prices, Applied Energy 293, 116983,
doi:10.1016/j.apenergy.2021.116983. Hansen, Lunde & Nason (2011), The model confidence set, Econometrica 79, 453-497,
doi:10.3982/ECTA5771. Politis & Romano (1992), A circular block-resampling procedure for stationary data, in
Exploring the Limits of Bootstrap, Wiley. Patton, Politis & White (2009), Correction to "Automatic block-length
selection for the dependent bootstrap", Econometric Reviews 28, 372-375, doi:10.1080/07474930802459016.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import fft, special, stats

from models.errors import ComparisonError

Vector = NDArray[np.float64]

IDENTICAL = 1e-9
"""Losses that differ nowhere by more than this share of the reference's mean loss are the same number."""

REPLICATIONS = 1000
"""Bootstrap replications: the ends of a 95 % interval then rest on 25 of them each."""

SEED = 20210427
"""Of every bootstrap, so that the same forecasts give the same interval."""


def identical(loss: Vector, reference_loss: Vector) -> bool:
    """Say whether losses differ nowhere by more than rounding, a share `IDENTICAL` of the reference's mean."""
    return bool(np.max(np.abs(loss - reference_loss)) <= IDENTICAL * np.mean(np.abs(reference_loss)))


# ---------------------------------------------------------------------------------------------- two models


def diebold_mariano(loss: Vector, reference_loss: Vector, horizon: int = 1) -> tuple[float, float]:
    """Test that two losses, [n] in time order, have the same mean: (statistic, two-sided p-value).

    `zero_mean` of their difference. Negative is in favour of `loss`; `identical` losses give exactly (0, 1).

    Parameters
    ----------
    horizon : int
        Longest step of the forecasts: their errors overlap over horizon - 1 origins.
    """
    if identical(loss, reference_loss):
        return 0.0, 1.0
    statistic, p_value = zero_mean(loss - reference_loss, horizon)
    return float(statistic), float(p_value)


def zero_mean(values: Vector, horizon: int = 1) -> tuple[Vector, Vector]:
    r"""Test that stationary, perhaps autocorrelated values [..., n] have mean zero: (statistics, p-values), [...].

    The t-statistic of the mean with the equal-weighted cosine estimator of the long-run variance

        Ω = 1/B Σ_{j=1..B} Λ_j²        Λ_j = √(2/n) Σ_t v_t cos(π j (t - ½) / n)

    against Student t with B degrees of freedom, which accounts for the noise of Ω: B = 0.4 n^(2/3) (Lazarus et al.
    2018; Coroneo & Iacone 2020), and at most n / (2 horizon), so that the frequencies stay inside the first
    quarter of the band in which sums of overlapping steps have their power. The p-value is two-sided. Values
    that never vary give an infinite statistic and p = 0.
    """
    n = values.shape[-1]
    mean = values.mean(axis=-1)
    variance = np.mean(_cosines(values, _frequencies(n, horizon)) ** 2, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = np.where(mean == 0, 0.0, mean / np.sqrt(variance / n))
    return statistic, 2 * special.stdtr(_frequencies(n, horizon), -np.abs(statistic))


def _frequencies(n: int, horizon: int) -> int:
    """Give B, the number of cosines and the degrees of freedom."""
    return max(1, min(int(0.4 * n ** (2 / 3)), n // (2 * horizon)))


def _cosines(values: Vector, count: int) -> Vector:
    """Give Λ_1 … Λ_count of values [..., n]: [..., count], an orthonormal cosine transform."""
    centred = values - values.mean(axis=-1, keepdims=True)
    return np.asarray(fft.dct(centred, type=2, norm="ortho", axis=-1))[..., 1 : count + 1]


def giacomini_white(loss: Vector, reference_loss: Vector, horizon: int = 1) -> tuple[float, float]:
    """Test that nobody could have told beforehand which of two models would lose less: (statistic, p-value).

    With d the difference of the losses and z_t = (1, d_{t-horizon}) · d_t, whose second part is what was known at
    the origin, the mean of z is zero under equal conditional predictive ability (Giacomini & White 2006, eq. 5).
    One step: n z̄' (Z'Z/n)⁻¹ z̄ against chi² with 2 degrees of freedom. More steps: z is autocorrelated, its long-run
    variance is that of `zero_mean`, and (B - 1) / (2B) times the statistic goes against F(2, B - 1), the
    fixed-smoothing counterpart of chi²/2 (Lazarus et al. 2018, sec. 3). `identical` losses give (0, 1).
    With overlapping steps it still rejects a little too often (`benchmarks/size_of_tests.py`).

    Raises
    ------
    ComparisonError
        There are fewer than 9 times as many origins as steps.
    """
    if identical(loss, reference_loss):
        return 0.0, 1.0
    if len(loss) < 9 * horizon:
        raise ComparisonError(
            f"a test of conditional ability needs at least {9 * horizon} origins for steps up to {horizon}; "
            f"came {len(loss)}. Take a longer test split"
        )
    d = loss - reference_loss
    if not np.ptp(d):
        return np.inf, 0.0
    now, known = d[horizon:], d[:-horizon]
    z = np.stack((now, known / np.std(d) * now))
    count = z.shape[1]
    if horizon == 1:
        statistic = _wald(z.mean(axis=1), z @ z.T / count, count)
        return statistic, float(stats.chi2.sf(statistic, 2))
    cosines = _cosines(z, b := max(_frequencies(count, horizon), 3))
    statistic = _wald(z.mean(axis=1), cosines @ cosines.T / b, count)
    return statistic, float(stats.f.sf(statistic * (b - 1) / (2 * b), 2, b - 1))


def _wald(mean: Vector, variance: Vector, count: int) -> float:
    return float(count * mean @ np.linalg.pinv(variance, hermitian=True) @ mean)


def multivariate_diebold_mariano(
    error: Vector, reference_error: Vector, norm: Literal[1, 2] = 1
) -> tuple[float, float]:
    """Test the errors of whole days, [days, hours] each, as Ziel & Weron (2018) do: (statistic, one-sided p-value).

    d is the difference of the daily norms Σ_h |e_h| (norm 1) or √Σ_h e_h² (norm 2), the statistic is its mean over
    its standard error, d taken as uncorrelated from day to day, against the normal. In the convention of epftoolbox
    (Lago et al. 2021, sec. 6.3) a small p-value says that the *reference* is significantly better; swapping the
    two gives 1 - p. For published tables: on autocorrelated losses it rejects too often, where `diebold_mariano`
    of the daily norms does not. `identical` norms give (0, 0.5).
    """
    ours, theirs = (np.linalg.norm(e, ord=norm, axis=1) for e in (error, reference_error))
    if identical(ours, theirs):
        return 0.0, 0.5
    d = ours - theirs
    with np.errstate(divide="ignore"):
        statistic = float(np.mean(d) / np.sqrt(np.var(d) / len(d)))
    return statistic, float(special.ndtr(-statistic))


# ------------------------------------------------------------------------------------------------ bootstrap


def block_bootstrap_skill(loss: Vector, reference_loss: Vector, alpha: float = 0.05) -> tuple[float, float]:
    """Give the percentile interval at 1 - alpha of the skill 1 - mean loss / mean reference loss; losses [n].

    Circular blocks of pairs (Politis & Romano 1992) with the length of Patton, Politis & White (2009) for the
    difference of the losses, `REPLICATIONS` of them, the seed fixed. An interval of finite blocks is a little narrow
    where few origins are strongly autocorrelated: the verdict is by the test, the interval is the size of the effect.
    """
    n = len(loss)
    length = _block_length([loss - reference_loss])
    first = np.random.default_rng(SEED).integers(n, size=(REPLICATIONS, -(-n // length)))
    total, reference_total = (_resampled(x, first, length) for x in (loss, reference_loss))
    with np.errstate(divide="ignore", invalid="ignore"):
        skill = np.where(total == reference_total, 0.0, 1 - total / reference_total)
    low, high = np.quantile(skill, (alpha / 2, 1 - alpha / 2), method="inverted_cdf")
    return float(low), float(high)


def _resampled(x: Vector, first: NDArray[np.int64], length: int) -> Vector:
    """Sum x [n] over circular blocks that begin at `first` [R, blocks], the last one cut so that n remain; [R]."""
    n, blocks = len(x), first.shape[1]
    running = np.concatenate(([0.0], np.cumsum(np.concatenate((x, x[:length])))))
    whole, rest = first[:, :-1], first[:, -1]
    total = np.sum(running[whole + length] - running[whole], axis=1)
    return total + running[rest + n - (blocks - 1) * length] - running[rest]


def _block_length(values: Sequence[Vector]) -> int:
    """Choose the length of circular blocks: the largest that one of the series [n] asks for, n^(1/3) to n / 4.

    One that varies by no more than rounding asks for none.
    """
    from arch.bootstrap import optimal_block_length

    n = len(values[0])
    varying = [x / np.max(np.abs(x)) for x in values if not _constant(x)]
    with np.errstate(divide="ignore", invalid="ignore"):  # below ten values it divides by no lags at all
        asked = [np.asarray(optimal_block_length(x)["circular"])[0] for x in varying]
    return int(min(np.ceil(np.fmax.reduce(asked, initial=n ** (1 / 3))), max(1, n // 4)))


def _constant(x: Vector) -> bool:
    """Say whether x [n] varies by no more than rounding, a share `IDENTICAL` of its largest value."""
    return bool(np.ptp(x) <= IDENTICAL * np.max(np.abs(x)))


def model_confidence_set(losses: Mapping[str, Vector]) -> dict[str, float]:
    """Give the p-value with which each model belongs to the set of the best (Hansen, Lunde & Nason 2011).

    The models of p ≥ alpha hold the best one with probability 1 - alpha: those that the data cannot tell from it.
    arch's own, range statistic, circular blocks, the seed fixed. Models of identical losses share a p-value; one that
    always loses the same amount more than another has p = 0, as nothing is left to chance.

    Parameters
    ----------
    losses : mapping of name to [n]
        In time order, on the same origins.
    """
    from arch.bootstrap import MCS

    apart: list[str] = []
    same: dict[str, str] = {}
    for name, loss in losses.items():
        same[name] = next((other for other in apart if identical(loss, losses[other])), name)
        apart += [name] if same[name] == name else []
    differences = {name: [losses[name] - losses[other] for other in apart] for name in apart}
    beaten = {name for name, d in differences.items() if any(x.mean() > 0 and _constant(x) for x in d)}
    apart = [name for name in apart if name not in beaten]
    if len(apart) == 1:
        return {name: float(same[name] not in beaten) for name in losses}
    table = np.column_stack([losses[name] for name in apart])
    length = _block_length(list((table - table.mean(axis=1, keepdims=True)).T))
    test = MCS(table, 0.05, reps=REPLICATIONS, block_size=length, method="R", bootstrap="circular", seed=SEED)
    test.compute()
    found = test.pvalues  # in the order of elimination; its index is the column
    p_value = dict(zip(np.asarray(found.index), np.asarray(found["Pvalue"]), strict=True))
    return {name: 0.0 if same[name] in beaten else float(p_value[apart.index(same[name])]) for name in losses}


# --------------------------------------------------------------------------------------------- many at once


def adjusted(p_values: Sequence[float], method: Literal["fdr_bh", "holm"]) -> list[float]:
    """Adjust p-values for having been asked together: by Benjamini & Hochberg (1995), or by Holm (1979).

    Holm: the k-th smallest of m times m + 1 - k, no smaller than the one before. (statsmodels collects garbage at
    every call, which takes longer than all the tests of a table.)
    """
    p, m = np.asarray(p_values, np.float64), len(p_values)
    if method == "fdr_bh" or not m:
        return stats.false_discovery_control(p).tolist() if m else []
    order = np.argsort(p)
    result = np.empty(m)
    result[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(m, 0, -1)))
    return result.tolist()
