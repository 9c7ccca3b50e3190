"""Learning-rate range test: one short training in which the rate rises from chunk to chunk by a constant factor.

Smith 2017 (WACV), Cyclical learning rates for training neural networks, 3.3: while the rate is too low the loss hardly
moves, then it falls, and at last it diverges. Two rules read a rate from that:

    steepest    the rate at which the smoothed loss falls fastest, per factor of the rate
    tenth       a tenth of the rate at which it has diverged, which is where it has risen from its lowest value by
                twice what it had fallen, or twice the noise of a chunk

The lower one is suggested, as the peak of the schedule of `TrainingConfig.learning_rate`. The smoothed loss is the
exponential moving average over chunks, free of the bias of its start (Kingma & Ba 2015, ICLR, 3). Some chunks are
harder than others: what the same chunk lost at the first weights, in a pass at rate zero, is taken off. Only losses of
the train split are looked at.

Legend: R rates.

Comes in: `Config`, the kind of a network. Goes out: losses by rate, a suggestion, a figure, a run in MLflow. Imported
by the command line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.errors import ConfigError, FitError, unknown
from pipeline import figures, settings, steps, tuning_figures
from pipeline.config import Config
from pipeline.fitting import NETWORKS
from pipeline.tracking import Tracker
from pipeline.training import Training

LOWEST, HIGHEST, CHUNKS = 1e-5, 10.0, 120
"""Rates that are tried, and over how many chunks they rise."""

MEMORY = 0.9
"""Share of the smoothed loss that stays from chunk to chunk."""

SETTLING = 10
"""Chunks whose mean is the loss at the start, and before which no rate is read."""

ROUNDING = 1e-6
"""Losses that differ by less are the same."""


@dataclass(frozen=True, kw_only=True)
class RateRange:
    """What the test found.

    Attributes
    ----------
    rate, loss, smoothed : float64 [R]
        Loss of the chunk before the step of that rate, less how hard the chunk is.
    steepest, diverged : float or None
        Rates at which the loss fell fastest, and had diverged; None where it did not.
    suggestion : float
    rule : {"steepest", "tenth"}
        By which rule it is suggested.
    """

    rate: NDArray[np.float64]
    loss: NDArray[np.float64]
    smoothed: NDArray[np.float64]
    steepest: float | None
    diverged: float | None
    suggestion: float
    rule: str


@dataclass(frozen=True, kw_only=True)
class Rated:
    """A range test with its figure and its MLflow run."""

    model: str
    found: RateRange
    figure: Path
    run: str


def rate(config: Config, model: str, plot: Path | None = None, note: Callable[[str], None] = lambda _: None) -> Rated:
    """Run the test of a network on the train split of the store, draw it and record it.

    Parameters
    ----------
    config : Config
    model : str
        Kind of the network.
    plot : Path, optional
        File of the figure; left out, in the figures of the data folder.
    note : callable
        Is told of each chunk.

    Raises
    ------
    ConfigError
        The model is no network, or the figure's suffix is none of a picture.
    FitError
        The loss neither fell nor diverged.
    """
    if model not in NETWORKS:
        raise ConfigError(f"rate: {unknown('network', model, NETWORKS)}")
    figures.check_file(plot)
    data = steps.load(config)
    shape = {"network": config.fit.network, "config": config.fit.training, "horizon": config.fit.horizon}
    training = Training(model, data.panel, data.split, data.transform, **shape)
    found = range_test(training, note)
    marks = {f"suggested ({found.rule})": found.suggestion, "diverged": found.diverged}
    drawn = tuning_figures.rates(found.rate, found.loss, found.smoothed, model=model, marks=marks)
    figure = figures.save(drawn, plot or config.folder / "figures" / f"rate-{model}.png")
    tracker = Tracker(config.tracking, config.base)
    with tracker.retrain(settings.flat(config.fit), steps.provenance(config, data), name=f"rate {model}") as run:
        curve = zip(found.rate, found.loss, found.smoothed, strict=True)
        run.curve({"learning_rate": r, "loss": x, "smoothed_loss": s} for r, x, s in curve)
        run.scores({"pooled": {k: v for k, v in asdict(found).items() if isinstance(v, float)}})
        run.tags({"rule": found.rule})
        run.file(figure, "figures")
    return Rated(model=model, found=found, figure=figure, run=run.id)


def range_test(training: Training, note: Callable[[str], None] = lambda _: None) -> RateRange:
    """Raise the rate from chunk to chunk until the loss is no number, and read the two rules."""
    rates, losses = np.geomspace(LOWEST, HIGHEST, CHUNKS), []
    own = list(training.at_rates([0.0] * min(training.chunks, CHUNKS)))
    for k, loss in enumerate(training.at_rates(rates.tolist())):
        note(f"rate {rates[k]:.2g}: loss {loss:.4f}")
        if not np.isfinite(loss):
            break
        losses.append(loss - own[k % len(own)] + np.mean(own))
    return read(rates[: len(losses)], losses)


def read(rates: NDArray[np.float64], losses: ArrayLike) -> RateRange:
    """Read steepest descent and divergence from losses [R] at rising rates [R].

    A series of losses that is shorter than `CHUNKS` ended in one that is no number: at its last rate it has diverged.
    """
    loss = np.asarray(losses, np.float64)
    if len(loss) <= SETTLING:
        raise FitError(
            f"rate: the loss was no number after {len(loss)} chunks, at a rate of {LOWEST:g} and little more"
        )
    smoothed = _smoothed(loss)
    lowest = SETTLING + int(smoothed[SETTLING:].argmin())
    fallen = loss[:SETTLING].mean() - smoothed[lowest]
    noise = float(np.std((loss - smoothed)[: lowest + 1]))
    steepest = _steepest(rates, smoothed, lowest) if fallen > max(noise, ROUNDING) else None
    risen = np.flatnonzero(smoothed[lowest:] > smoothed[lowest] + 2 * max(fallen, noise, ROUNDING))
    ended = len(loss) < CHUNKS
    diverged = float(rates[lowest + risen[0]]) if len(risen) else float(rates[-1]) if ended else None
    rules = {"steepest": steepest, "tenth": diverged and diverged / 10}
    known = {rule: value for rule, value in rules.items() if value is not None}
    if not known:
        raise FitError(
            f"rate: expected a loss that falls or diverges between {LOWEST:g} and {HIGHEST:g}; it stayed near "
            f"{loss.mean():.4f}. There may be nothing to learn, or clip bounds every step"
        )
    rule = min(known, key=lambda name: known[name])
    return RateRange(
        rate=rates,
        loss=loss,
        smoothed=smoothed,
        steepest=steepest,
        diverged=diverged,
        suggestion=known[rule],
        rule=rule,
    )


def _smoothed(loss: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average the past of each loss, the latest most."""
    out, mean = np.empty_like(loss), 0.0
    for k, x in enumerate(loss):
        mean = MEMORY * mean + (1 - MEMORY) * x
        out[k] = mean / (1 - MEMORY ** (k + 1))
    return out


def _steepest(rates: NDArray[np.float64], smoothed: NDArray[np.float64], lowest: int) -> float | None:
    """Give the rate of the steepest descent before the lowest loss; None where nothing falls after the start."""
    slope = np.gradient(smoothed, np.log(rates))[SETTLING : lowest + 1]
    place = int(slope.argmin())
    return float(rates[SETTLING + place]) if slope[place] < 0 else None
