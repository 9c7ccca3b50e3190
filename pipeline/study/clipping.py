"""What clipping the gradient is for: a network whose gradients explode, with and without.

Comes in: sizes. Goes out: a finding. Imported by the list of experiments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipeline.drawing import GREY, canvas, strokes
from pipeline.study.experiment import Conditions, Experiment, Finding
from pipeline.study.layers import Clip, Reader, Update, norm_clip, scale_recurrence, unclipped, updates, value_clip
from pipeline.study.tasks import INPUTS, MEMORYLESS, batch, loss

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TASK = "adding"
CLIPS: dict[str, Clip] = {
    "off": unclipped,
    "norm 1": norm_clip(1.0),
    "norm 5": norm_clip(5.0),
    "value 0.5": value_clip(0.5),
}


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large the experiment is.

    Attributes
    ----------
    length : int
        Steps of a sequence of the adding task.
    updates : int
        Updates of the weights.
    seeds : int
        Trainings of each kind of clipping.
    radius : float
        Spectral radius of the recurrent matrix at the start; above 1 gradients explode.
    hidden, rows : int
        Units, and sequences of a batch.
    learning_rate : float
        Rate of plain gradient descent with momentum 0.9.
    """

    length: int = 50
    updates: int = 200
    seeds: int = 3
    radius: float = 1.1
    hidden: int = 32
    rows: int = 32
    learning_rate: float = 5e-3


def curve(clip: Clip, sizes: Sizes, seed: int) -> list[Update]:
    """Train a relu network by gradient descent; the list ends early where the loss is no number any more."""
    torch.manual_seed(seed)
    network, generator = Reader("relu", INPUTS[TASK], sizes.hidden), torch.Generator().manual_seed(seed + 1)
    scale_recurrence(network.layer, sizes.radius)

    def on_a_batch() -> torch.Tensor:
        x, y = batch(TASK, sizes.length, sizes.rows, generator)
        return loss(TASK, network(x), y)

    optimiser = torch.optim.SGD(network.parameters(), sizes.learning_rate, momentum=0.9)
    return list(islice(updates(network, optimiser, on_a_batch, clip), sizes.updates))


def run(sizes: Sizes, conditions: Conditions) -> Finding:
    """Train with every kind of clipping from the same weights on the same batches."""
    curves = {}
    for name, clip in CLIPS.items():
        conditions.progress(f"clipping: {name}")
        curves[name] = [curve(clip, sizes, conditions.seed + k) for k in range(sizes.seeds)]
    rows = [_row(name, runs) for name, runs in curves.items()]
    return Finding(
        rows=rows,
        answer=_answer(rows, sizes),
        numbers={f"{what}.{row['clipping']}": float(row[what]) for row in rows for what in ("diverged", "final loss")},
        figure=partial(_figure, curves),
    )


def _row(name: str, runs: Sequence[list[Update]]) -> dict[str, str | float]:
    """Tell how many trainings ended in numbers that are none, the last loss of the others, and the largest gradient."""
    alive = [np.mean([u.loss for u in run[-20:]]) for run in runs if run[-1].finite]
    norms = [u.norm for run in runs for u in run if np.isfinite(u.norm)]
    return {
        "clipping": name,
        "trainings": len(runs),
        "diverged": sum(not run[-1].finite for run in runs),
        "final loss": float(np.median(alive)) if alive else float("nan"),
        "largest norm": max(norms),
        "updates with norm > 1": float(np.mean([n > 1 for n in norms])),
    }


def _answer(rows: Sequence[Mapping[str, str | float]], sizes: Sizes) -> str:
    """Say how many trainings diverged, and which clipping ended lowest."""
    told = ", ".join(f"{row['clipping']} {row['diverged']}" for row in rows)
    standing = [row for row in rows if np.isfinite(float(row["final loss"]))]
    best = min(standing, key=lambda row: float(row["final loss"]), default=None)
    end = f"; the lowest final loss is that of {best['clipping']}, {best['final loss']:.3g}" if best else ""
    return f"Trainings of {sizes.seeds} that diverged: {told}{end} (without memory {MEMORYLESS[TASK]:.3g})."


def _figure(curves: Mapping[str, Sequence[list[Update]]]) -> Figure:
    """Draw the loss of the first training of each kind, and the norms of its gradients."""
    figure, (left, right) = canvas(1, 2, width=9.0, height=3.8, sharex=True)
    style = strokes(curves)
    for name, runs in curves.items():
        drawn = {"lw": 1.2, "ms": 4, "markevery": 0.2, "label": name, **style[name]}
        left.plot([u.loss for u in runs[0]], **drawn)
        right.plot([u.norm for u in runs[0]], **drawn)
    left.axhline(MEMORYLESS[TASK], color=GREY, lw=1.0, ls="--")
    for ax, what in ((left, "loss"), (right, "norm of the gradient, before clipping")):
        ax.set_yscale("log")
        ax.set_ylabel(what)
        ax.set_xlabel("update")
    left.legend(fontsize="small", frameon=False)
    figure.set_label("Loss and gradient norm over the updates with each kind of clipping, first training")
    return figure


EXPERIMENT = Experiment(
    name="clipping",
    question="What is clipping the gradient for?",
    about=(
        "A relu network whose recurrent matrix begins with a spectral radius above one is trained on the adding task "
        "by plain gradient descent with momentum, from the same weights and on the same batches: without clipping, "
        "with the norm of the whole gradient bounded (Pascanu, Mikolov & Bengio 2013, ICML, algorithm 1), and with "
        "each element bounded by itself, which changes the direction. A training has diverged when the loss or the "
        "gradient is no number any more. The final loss is the mean of the last 20 updates, the median over those "
        "that did not diverge. What clipping does on prices is asked below (`clipping_on_prices`)."
    ),
    sizes={"quick": Sizes(), "full": Sizes(length=100, updates=1500, seeds=5)},
    run=run,
)
