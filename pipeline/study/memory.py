"""Over what gap a network can be taught to remember: the adding and the copying task, by length.

Comes in: sizes. Goes out: a finding. Imported by the list of experiments.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipeline.drawing import GREY, canvas, strokes
from pipeline.study.experiment import Conditions, Experiment, Finding
from pipeline.study.layers import KINDS, Reader, norm_clip, updates
from pipeline.study.tasks import INPUTS, MEMORYLESS, OUTPUTS, batch, loss

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SOLVED = 0.5
"""Share of the memoryless loss below which a task counts as learned."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large the experiment is.

    Attributes
    ----------
    lengths : tuple of int
        Gaps to bridge, steps.
    updates : int
        Updates of the weights, the same for all.
    hidden, rows : int
        Units of a layer, and sequences of a batch.
    learning_rate : float
        Rate of Adam.
    """

    lengths: tuple[int, ...] = (10, 30, 100)
    updates: int = 400
    hidden: int = 32
    rows: int = 32
    learning_rate: float = 1e-2


def share_of_memoryless(task: str, kind: str, length: int, sizes: Sizes, seed: int) -> float:
    """Train on fresh batches and give the loss on 512 new sequences over that of the best forecast without memory.

    Weights that are no numbers any more are a share of infinity.
    """
    torch.manual_seed(seed)
    network = Reader(kind, INPUTS[task], sizes.hidden, OUTPUTS[task])
    generator = torch.Generator().manual_seed(seed + 1)

    def on_a_batch() -> torch.Tensor:
        x, y = batch(task, length, sizes.rows, generator)
        return loss(task, network(x), y)

    optimiser = torch.optim.Adam(network.parameters(), sizes.learning_rate)
    done = list(islice(updates(network, optimiser, on_a_batch, norm_clip(1.0)), sizes.updates))
    if not done[-1].finite:
        return float("inf")
    x, y = batch(task, length, 512, torch.Generator().manual_seed(seed + 2))
    with torch.no_grad():
        return float(loss(task, network(x), y)) / MEMORYLESS[task]


def run(sizes: Sizes, conditions: Conditions) -> Finding:
    """Teach every kind both tasks at every length."""
    shares: dict[tuple[str, str], list[float]] = {}
    for task in INPUTS:
        for kind in KINDS:
            conditions.progress(f"memory: {kind} on {task}")
            shares[task, kind] = [
                share_of_memoryless(task, kind, length, sizes, conditions.seed) for length in sizes.lengths
            ]
    rows = [
        {"task": task, "network": kind, **{f"length {n}": s for n, s in zip(sizes.lengths, line, strict=True)}}
        for (task, kind), line in shares.items()
    ]
    longest = {
        key: max((n for n, s in zip(sizes.lengths, line, strict=True) if s < SOLVED), default=0)
        for key, line in shares.items()
    }
    return Finding(
        rows=rows,
        answer=_answer(longest, sizes),
        numbers={f"longest.{task}.{kind}": float(n) for (task, kind), n in longest.items()},
        figure=partial(_figure, shares, sizes.lengths),
    )


def _answer(longest: dict[tuple[str, str], int], sizes: Sizes) -> str:
    """Say for each task which kinds bridge the longest gap."""
    parts = []
    for task in INPUTS:
        reached = {kind: longest[task, kind] for kind in KINDS}
        best = max(reached.values())
        who = " and ".join(kind for kind in KINDS if reached[kind] == best)
        others = ", ".join(f"{kind} {n}" for kind, n in reached.items() if n < best)
        said = f"{task}: {who} {best} steps" if best else f"{task}: none learns even the shortest"
        parts.append(f"{said}{f' ({others})' if best and others else ''}")
    return (
        f"Longest gap at which the loss falls below half of the memoryless one within {sizes.updates} updates: "
        f"{'; '.join(parts)}."
    )


def _figure(shares: dict[tuple[str, str], list[float]], lengths: tuple[int, ...]) -> Figure:
    """Draw the shares against the length, one panel a task."""
    figure, axes = canvas(1, 2, width=9.0, height=3.8, sharey=True)
    style = strokes(KINDS)
    for ax, task in zip(axes, INPUTS, strict=True):
        for kind in KINDS:
            ax.plot(lengths, np.minimum(shares[task, kind], 2.0), lw=1.4, ms=5, label=kind, **style[kind])
        ax.axhline(1.0, color=GREY, lw=1.0, ls="--")
        ax.set_xscale("log")
        ax.set_xlabel("gap to bridge (steps)")
        ax.set_title(task, fontsize="medium")
    axes[0].set_ylabel("loss over the memoryless loss")
    axes[0].legend(fontsize="small", frameon=False)
    figure.set_label("Loss of every kind on the adding and the copying task, over that of a forecast without memory")
    return figure


EXPERIMENT = Experiment(
    name="memory",
    question="Over what gap can a network be taught to remember?",
    about=(
        "The adding task (Hochreiter & Schmidhuber 1997, Neural Computation 9(8), 5.4) asks for the sum of two marked "
        "numbers, the copying task (Arjovsky, Shah & Bengio 2016, ICML, 4.1) for ten symbols seen before a gap. Values "
        "are losses on new sequences over the loss of the best forecast without memory: 1/6 for adding, ln 8 a symbol "
        "for copying; 1 is nothing learned, 0 is solved. relu starts from the identity (Le, Jaitly & Hinton 2015), "
        "the lstm with an open forget gate (Gers, Schmidhuber & Cummins 2000). All have the same units, updates, rate "
        "and clipping, so a longer training would move every line to the right. Only the ten symbols are scored, "
        "not the blanks before them."
    ),
    sizes={"quick": Sizes(), "full": Sizes(lengths=(10, 50, 200, 1000), updates=1000)},
    run=run,
)
