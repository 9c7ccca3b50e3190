"""Sequences of unequal lengths in one batch: packed, or padded and masked.

Legend: B batch, T time, F features, O outputs.

Comes in: sizes. Goes out: a finding. Imported by the list of experiments.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from pipeline.drawing import canvas, strokes
from pipeline.study.experiment import Conditions, Experiment, Finding
from pipeline.study.layers import Reader

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PADDING = {0.0: 0.0, 0.25: 1 / 3, 0.5: 1.0, 0.75: 3.0}
"""Share of padding, and the power a for which lengths T u^a of uniform u leave it: a / (1 + a)."""

ROUNDING = 1e-10
"""Largest difference, relative to the largest value, that float64 may leave."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large the experiment is.

    Attributes
    ----------
    length : int
        Steps of the longest sequence.
    rows, hidden : int
        Sequences of a batch, and units.
    repeats : int
        Training steps that are timed; the median is taken.
    """

    length: int = 100
    rows: int = 48
    hidden: int = 32
    repeats: int = 5


def lengths(padding: float, sizes: Sizes) -> Tensor:
    """Spread the lengths [B] of a batch so that a share of it is padding; the longest is T."""
    even = (np.arange(sizes.rows) + 0.5) / sizes.rows
    spread = np.maximum(1, np.round(sizes.length * even ** PADDING[padding]))
    return torch.tensor([sizes.length, *spread[:-1]], dtype=torch.int64)


def padded(network: Reader, x_BTF: Tensor, steps: Tensor) -> Tensor:
    """Read padding as if it were data, and leave it out of the loss by a mask."""
    mask = torch.arange(x_BTF.shape[1]) < steps[:, None]
    return (network(x_BTF)[..., 0].square() * mask).sum() / mask.sum()


def packed(network: Reader, x_BTF: Tensor, steps: Tensor) -> Tensor:
    """Read no padding at all."""
    closed = pack_padded_sequence(x_BTF, steps, batch_first=True, enforce_sorted=False)
    top, _ = pad_packed_sequence(network.layer(closed)[0], batch_first=True)
    mask = torch.arange(x_BTF.shape[1]) < steps[:, None]
    return (network.readout(top)[..., 0].square() * mask).sum() / mask.sum()


def difference(padding: float, sizes: Sizes, seed: int) -> float:
    """Give the largest difference of loss and gradients between the two ways, in float64, over the largest value."""
    torch.manual_seed(seed)
    network, x = Reader("lstm", 4, sizes.hidden).double(), torch.randn(sizes.rows, sizes.length, 4).double()
    steps, seen = lengths(padding, sizes), []
    for way in (padded, packed):
        loss = way(network, x, steps)
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        seen.append(torch.cat([loss.detach()[None], *(g.flatten() for g in gradients)]))
    return float((seen[0] - seen[1]).abs().max() / seen[0].abs().max())


def milliseconds(way: Callable[[Reader, Tensor, Tensor], Tensor], padding: float, sizes: Sizes, seed: int) -> float:
    """Give the median time of a forward and backward pass, in float32."""
    torch.manual_seed(seed)
    network, x, taken = Reader("lstm", 4, sizes.hidden), torch.randn(sizes.rows, sizes.length, 4), []
    steps = lengths(padding, sizes)
    for _ in range(sizes.repeats + 1):  # the first one warms up
        began = time.perf_counter()
        way(network, x, steps).backward()
        taken.append(time.perf_counter() - began)
    return 1000 * float(np.median(taken[1:]))


def run(sizes: Sizes, conditions: Conditions) -> Finding:
    """Compare both ways for growing shares of padding; they must agree to rounding."""
    rows = []
    for padding in PADDING:
        conditions.progress(f"packing: {padding:.0%} padding")
        apart = difference(padding, sizes, conditions.seed)
        assert apart < ROUNDING, f"packing and padding differ by {apart} of the largest value"
        times = {way.__name__: milliseconds(way, padding, sizes, conditions.seed) for way in (padded, packed)}
        rows.append(
            {
                "padding": f"{padding:.0%}",
                "largest difference": apart,
                "padded (ms)": times["padded"],
                "packed (ms)": times["packed"],
                "packed over padded": times["packed"] / times["padded"],
            }
        )
    ratios = {row["padding"]: row["packed over padded"] for row in rows}
    return Finding(
        rows=rows,
        answer=_answer(ratios, max(row["largest difference"] for row in rows)),
        numbers={f"ratio.{padding.rstrip('%')}": ratio for padding, ratio in ratios.items()},
        figure=partial(_figure, rows),
    )


def _answer(ratios: Mapping[str, float], apart: float) -> str:
    """Say that they agree, and at which shares of padding packing is faster by more than times vary, a tenth."""
    faster = [padding for padding, ratio in ratios.items() if ratio < 0.9]
    told = ", ".join(f"{ratio:.2f} at {padding}" for padding, ratio in ratios.items())
    pays = (
        f"packing is a tenth faster or more at a padding of {', '.join(faster)}"
        if faster
        else "packing is never a tenth faster here"
    )
    return (
        f"Losses and gradients agree to {apart:.0e} of the largest value; {pays} (time of packed over padded: {told})."
    )


def _figure(rows: Sequence[Mapping[str, float | str]]) -> Figure:
    """Draw both times against the share of padding."""
    figure, (ax,) = canvas(1, 1, width=5.5, height=3.6)
    for name, style in strokes(("padded (ms)", "packed (ms)")).items():
        ax.plot([str(row["padding"]) for row in rows], [row[name] for row in rows], ms=5, label=name[:6], **style)
    ax.set(xlabel="share of the batch that is padding", ylabel="training step (ms)", ylim=(0, None))
    ax.legend(fontsize="small", frameon=False)
    figure.set_label("Time of a training step, padded and packed, by the share of padding")
    return figure


EXPERIMENT = Experiment(
    name="packing",
    question="Do packed sequences give what padding with a mask gives, and when are they faster?",
    about=(
        "Series differ in length. A batch of them can be padded to the longest, with a mask that keeps the padding out "
        "of the loss, or packed, so that a finished sequence is not computed any further. A recurrent layer reads "
        "forward only, so padding at the end cannot change what stands before it: losses and gradients must be equal "
        "to rounding, which is checked in float64 before anything is timed. What differs is the state at the end: "
        "packed it is that of the last real step, padded that of the last padding."
    ),
    sizes={"quick": Sizes(), "full": Sizes(length=400, rows=64, repeats=11)},
    run=run,
)
