"""Whether forecasts may be compared at all: the same rows, the same outcomes, a distribution in every one.

Comes in: `Forecasts`. Goes out: the same, or a `ComparisonError` that names the first row at fault. Knows numpy;
imported by compare and figures.
"""

from __future__ import annotations

import numpy as np

from models.errors import ComparisonError
from pipeline.forecasts import Forecasts


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
            f"{a.model} has {name_row(a, k)}; {b.model} has {name_row(b, k)}. "
            "Backtest both on the same prices and test split"
        )
    moved = ~np.isclose(a.actual, b.actual, rtol=1e-6) | ~np.isclose(a.outcome, b.outcome, rtol=1e-3, atol=1e-6)
    if moved.any():
        k = int(np.argmax(moved))
        raise ComparisonError(
            f"forecasts must be scored against the same outcomes; {np.sum(moved)} of {len(a)} rows differ, "
            f"first {name_row(a, k)}: {a.model} has actual {a.actual[k]:.10g}, outcome {a.outcome[k]:.6g}; "
            f"{b.model} has actual {b.actual[k]:.10g}, outcome {b.outcome[k]:.6g}. "
            "Give both the same prices and the same transform"
        )
    return a, b


def _keys(f: Forecasts) -> tuple[np.ndarray, ...]:
    """Give what names a row, [n] each; series by name, since two models may number them differently."""
    return np.array(f.names)[f.series], f.origin_time, f.step, f.target_time


def name_row(f: Forecasts, k: int) -> str:
    """Say which forecast a row is."""
    if k >= len(f):
        return "no such row"
    origin = np.datetime_as_string(f.origin_time[k].astype("datetime64[us]"), unit="auto")
    return f"series {f.names[f.series[k]]}, origin {origin} UTC, step {f.step[k]}"


def sound(forecasts: Forecasts) -> Forecasts:
    """Give forecasts back if every row has a distribution; refuse them otherwise.

    Raises
    ------
    ComparisonError
        A quantile is NaN or infinite, quantiles cross, or all of a row are one number. The message has the model,
        the count and the first row.
    """
    quantile = forecasts.quantile
    faults = {
        "quantiles that are not finite": ~np.isfinite(quantile).all(axis=1),
        "quantiles that cross": (np.diff(quantile, axis=1) < 0).any(axis=1),
        "a distribution of zero width": quantile[:, -1] == quantile[:, 0],
    }
    for what, bad in faults.items():
        if bad.any():
            raise ComparisonError(
                f"a comparison needs finite, increasing quantiles in every row; {forecasts.model} has {what} in "
                f"{np.sum(bad)} of {len(forecasts)} rows, first {name_row(forecasts, int(np.argmax(bad)))}. "
                "Leave the model out, or fit it on prices that move"
            )
    return forecasts
