"""A noisy sine: whether a small network comes down to the noise, and what the carried state has to do with it.

Legend: B series, T time.

Comes in: sizes. Goes out: a finding. Imported by the list of experiments.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from pipeline.drawing import GREY, canvas, strokes
from pipeline.study.experiment import Conditions, Experiment, Finding
from pipeline.study.layers import Hidden, Reader, norm_clip, updates

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STATES = ("carried", "reset")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large the experiment is.

    Attributes
    ----------
    period : float
        Steps of a period.
    noise : float
        Standard deviation of the noise; the amplitude is 1.
    window : int
        Steps of a chunk, after which the state is carried on or reset.
    chunks : int
        Chunks of a series.
    rows, hidden : int
        Series, each with a phase of its own, and units.
    epochs : int
        Passes over the series.
    """

    period: float = 37.0
    noise: float = 0.5
    window: int = 16
    chunks: int = 16
    rows: int = 48
    hidden: int = 24
    epochs: int = 40


def series(sizes: Sizes, seed: int) -> Tensor:
    """Draw y_t = sin(2π t / period + phase) + noise ε_t with phases uniform on the circle, [B, T + 1]."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(sizes.window * sizes.chunks + 1)
    phase = 2 * math.pi * torch.rand(sizes.rows, 1, generator=generator)
    noise = torch.randn(sizes.rows, len(time), generator=generator)
    return torch.sin(2 * math.pi * time / sizes.period + phase) + sizes.noise * noise


def trained(state: str, sizes: Sizes, seed: int) -> Reader:
    """Train a gru on the mean squared error of the next value, the state carried between chunks or reset."""
    torch.manual_seed(seed)
    network, y_BT = Reader("gru", 1, sizes.hidden), series(sizes, seed + 1)
    hidden: list[Hidden | None] = [None]
    at = [0]

    def on_a_chunk() -> Tensor:
        start = at[0] * sizes.window
        before = hidden[0] if state == "carried" and start else None
        cut = y_BT[:, start : start + sizes.window + 1]
        output, after = network.run(cut[:, :-1, None], before)
        hidden[0], at[0] = tuple(part.detach() for part in after), (at[0] + 1) % sizes.chunks
        return mse_loss(output[..., 0], cut[:, 1:])

    optimiser = torch.optim.Adam(network.parameters(), 5e-3)
    for _ in islice(updates(network, optimiser, on_a_chunk, norm_clip(1.0)), sizes.epochs * sizes.chunks):
        pass
    return network


@torch.no_grad()
def errors(network: Reader, state: str, y_BT: Tensor, sizes: Sizes) -> np.ndarray:
    """Give the mean squared error at each step over the variance of the noise, [T]; the floor is 1.

    Entry t is of the forecast made with data up to and including t, for t + 1.
    """
    read_BT1 = y_BT[:, :-1, None]
    if state == "reset":
        output = network(read_BT1.reshape(-1, sizes.window, 1)).reshape(read_BT1.shape)
    else:
        output = network(read_BT1)
    return ((output[..., 0] - y_BT[:, 1:]).square().mean(0) / sizes.noise**2).numpy()


def run(sizes: Sizes, conditions: Conditions) -> Finding:
    """Train with each treatment of the state, and serve with each."""
    seed, rows, curves = conditions.seed, [], {}
    test = series(sizes, seed + 1000)
    for training in STATES:
        conditions.progress(f"noisy sine: state {training} in training")
        network = trained(training, sizes, seed)
        for serving in STATES:
            error = errors(network, serving, test, sizes)
            curves[training, serving] = error
            settled = float(error[sizes.window :].mean())  # the first chunk starts from nothing in either way
            rows.append({"state in training": training, "state when served": serving, "MSE over noise": settled})
    best = {(row["state in training"], row["state when served"]): row["MSE over noise"] for row in rows}
    return Finding(
        rows=rows,
        answer=_answer(best, sizes),
        numbers={f"mse_over_noise.{'.'.join(key)}": value for key, value in best.items()},
        figure=partial(_figure, curves, sizes),
    )


def _answer(ratio: Mapping[tuple[str, str], float], sizes: Sizes) -> str:
    """Say how near each comes to the floor."""
    carried, reset = ratio["carried", "carried"], ratio["reset", "reset"]
    less = (reset - carried) / (reset - 1) if reset > 1 else 0.0
    gain = f"carrying takes away {less:.0%} of what is above it" if less > 0 else "carrying takes nothing away"
    return (
        f"With the state carried the error is {carried:.3f} times the noise, with a reset every {sizes.window} steps "
        f"{reset:.3f} times; the floor is 1, and {gain}."
    )


def _figure(curves: Mapping[tuple[str, str], Sequence[float]], sizes: Sizes) -> Figure:
    """Draw the error against time for both treatments of the state."""
    figure, (ax,) = canvas(1, 1, width=7.5, height=3.8)
    shown = 5 * sizes.window
    for state, style in strokes(STATES).items():
        ax.plot(curves[state, state][:shown], lw=1.4, ms=4, markevery=sizes.window // 2, label=state, **style)
    ax.axhline(1.0, color=GREY, lw=1.0, ls="--")
    ax.set(xlabel="step", ylabel="squared error over the noise", yscale="log")
    ax.legend(fontsize="small", frameon=False)
    figure.set_label("Squared error over the variance of the noise at each step, the state carried or reset")
    return figure


EXPERIMENT = Experiment(
    name="sine",
    question="Does a small network come down to the noise floor of a noisy sine, with and without a carried state?",
    about=(
        "Series are sines of one period, each with a phase of its own, under white noise. A gru forecasts the next "
        "value, trained with Adam on the mean squared error, the optimal loss of a point forecast. No forecast "
        "can be better than the variance of the noise; what is above it is the price of not knowing the phase well "
        "enough. A window sees the phase through a few noisy values only; a carried state has seen them all. Values "
        "are mean squared errors on new series over the variance of the noise, after the first chunk."
    ),
    sizes={"quick": Sizes(), "full": Sizes(chunks=24, rows=64, epochs=200)},
    run=run,
)
