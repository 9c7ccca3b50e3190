"""How far back a loss reaches: the gradient with respect to earlier states, by backpropagation through time.

Legend: B batch, T time, F features, H hidden.

Comes in: sizes. Goes out: a finding. Imported by the list of experiments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.drawing import canvas, strokes
from pipeline.study.experiment import Conditions, Experiment, Finding
from pipeline.study.layers import KINDS, Reader, norm_clip, scale_recurrence, updates
from pipeline.study.tasks import INPUTS, batch, loss

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TASK = "adding"


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large the experiment is.

    Attributes
    ----------
    length : int
        Steps of a sequence.
    hidden, rows : int
        Units of a layer, and sequences of a batch.
    updates : int
        Updates on the adding task between the two measurements.
    radii : tuple of float
        Spectral radii of the recurrent matrix of the plain networks.
    """

    length: int = 101
    hidden: int = 32
    rows: int = 32
    updates: int = 150
    radii: tuple[float, ...] = (0.5, 0.8, 1.0, 1.2, 1.5)


def reach(network: Reader, length: int, rows: int, seed: int) -> NDArray[np.float64]:
    """Measure the norm of d loss_T / d state_{T-k} against the distance k.

    The state of lstm is h and c together, since a loss reaches back through either. The loss is that of the adding task
    at the last step T; norms are root mean squares over the sequences of the batch.

    Returns
    -------
    float64 [length]
        Entry k is of distance k; the last one is the first state that the sequence leaves.
    """
    generator = torch.Generator().manual_seed(seed)
    x, y = batch(TASK, length, rows, generator)
    states, state = [], None
    for t in range(length):
        _, state = network.run(x[:, t : t + 1], state)
        states.append(state)
    output = network.readout(states[-1][0].transpose(0, 1))
    flat = [part for state in states for part in state]
    gradients = torch.autograd.grad(loss(TASK, output, y) * rows, flat, allow_unused=True, materialize_grads=True)
    squares = torch.stack([g.double().square().sum() for g in gradients]).reshape(length, -1).sum(1)
    return (squares / rows).sqrt().flip(0).numpy()


def trained(kind: str, sizes: Sizes, seed: int) -> Reader:
    """Train a network on the adding task for a while."""
    torch.manual_seed(seed)
    network, generator = Reader(kind, INPUTS[TASK], sizes.hidden), torch.Generator().manual_seed(seed + 1)

    def on_a_batch() -> torch.Tensor:
        x, y = batch(TASK, sizes.length, sizes.rows, generator)
        return loss(TASK, network(x), y)

    run = updates(network, torch.optim.Adam(network.parameters(), 3e-3), on_a_batch, norm_clip(1.0))
    for _ in islice(run, sizes.updates):
        pass
    return network


def run(sizes: Sizes, conditions: Conditions) -> Finding:
    """Measure how far the gradient reaches, by kind, and by spectral radius."""
    lines: dict[str, NDArray[np.float64]] = {}
    seed, look = conditions.seed, partial(reach, length=sizes.length, rows=sizes.rows, seed=conditions.seed + 7)
    for kind in KINDS:
        conditions.progress(f"gradients of {kind}")
        torch.manual_seed(seed)
        lines[f"{kind}, at the start"] = look(Reader(kind, INPUTS[TASK], sizes.hidden))
        lines[f"{kind}, trained"] = look(trained(kind, sizes, seed))
    for kind in ("tanh", "relu"):
        for radius in sizes.radii:
            lines[f"{kind}, radius {radius:g}"] = look(_with_radius(kind, radius, sizes.hidden, seed))
    kept = {name: float(line[-1] / line[0]) for name, line in lines.items()}
    return Finding(
        rows=[_row(name, line) for name, line in lines.items()],
        answer=_answer(kept, sizes),
        numbers={f"kept.{name.replace(', ', '.').replace(' ', '_')}": value for name, value in kept.items()},
        figure=partial(_figure, lines, len(sizes.radii)),
    )


def _with_radius(kind: str, radius: float, hidden: int, seed: int) -> Reader:
    """Make a network with a random recurrent matrix of a given spectral radius."""
    torch.manual_seed(seed)
    network = Reader(kind, INPUTS[TASK], hidden)
    torch.nn.init.normal_(network.layer.get_parameter("weight_hh_l0"))
    scale_recurrence(network.layer, radius)
    return network


def _row(name: str, line: NDArray[np.float64]) -> dict[str, str | float]:
    """Tell a line at a few distances, and by which factor a step multiplies the gradient on average."""
    last = len(line) - 1
    places = [k for k in (1, 10, 50, last) if k <= last]
    per_step = float((line[-1] / line[0]) ** (1 / last))
    return {"network": name, **{f"k = {k}": float(line[k] / line[0]) for k in places}, "factor a step": per_step}


def _answer(kept: dict[str, float], sizes: Sizes) -> str:
    """Say which kind keeps most of its gradient, and what the radius does."""
    starts = {kind: kept[f"{kind}, at the start"] for kind in KINDS}
    ends = {kind: kept[f"{kind}, trained"] for kind in KINDS}
    low, high = (kept[f"relu, radius {radius:g}"] for radius in (sizes.radii[0], sizes.radii[-1]))
    told = ", ".join(f"{kind} {starts[kind]:.1e} to {ends[kind]:.1e}" for kind in KINDS)
    most = max(ends, key=lambda kind: ends[kind])
    return (
        f"Of the gradient at the last step, {sizes.length - 1} steps back there is left (before to after training): "
        f"{told}; {most} keeps most once trained. A random relu network multiplies it by {low:.1e} with "
        f"spectral radius {sizes.radii[0]:g} and by {high:.1e} with {sizes.radii[-1]:g}: "
        f"{'it vanishes below one and explodes above' if low < 1 < high else 'the radius alone does not decide here'}."
    )


def _figure(lines: dict[str, NDArray[np.float64]], radii: int) -> Figure:
    """Draw the lines of the kinds, and of the radii."""
    names = list(lines)
    groups: Sequence[tuple[str, list[str]]] = (
        ("kinds, at the start", names[: 2 * len(KINDS) : 2]),
        ("kinds, trained on adding", names[1 : 2 * len(KINDS) : 2]),
        ("tanh, by spectral radius", names[2 * len(KINDS) : 2 * len(KINDS) + radii]),
        ("relu, by spectral radius", names[2 * len(KINDS) + radii :]),
    )
    figure, axes = canvas(2, 2, width=9.0, height=6.4, sharex=True)
    for ax, (title, members) in zip(axes, groups, strict=True):
        style = strokes(members)
        for name in members:
            line = np.maximum(lines[name] / lines[name][0], 1e-30)
            label = name.partition(", ")[2 if "radius" in name else 0]
            ax.plot(line, lw=1.4, ms=4, markevery=max(1, len(line) // 5), label=label, **style[name])
        ax.set_yscale("log")
        ax.set_title(title, fontsize="medium")
        ax.legend(fontsize="small", frameon=False)
    figure.supxlabel("distance k (steps before the loss)")
    figure.supylabel("gradient, over that at k = 0")
    figure.set_label("Norm of the gradient of the last loss with respect to earlier states, by kind and by radius")
    return figure


EXPERIMENT = Experiment(
    name="gradients",
    question="How far back does the gradient of a loss reach, and what makes it vanish or explode?",
    about=(
        "A loss at time T changes the weights through all earlier states. Its gradient with respect to the state k "
        "steps before is a product of k Jacobians; for a plain network that is bounded by the k-th power of the "
        "largest singular value of the recurrent matrix times the steepest slope of its nonlinearity (Pascanu, Mikolov "
        "& Bengio 2013, *On the difficulty of training recurrent neural networks*, ICML, section 2). Here it is "
        "measured by autograd, without truncation, on the adding task: for each kind at the start and after "
        "training, and for random recurrent matrices scaled to a spectral radius. For the lstm the state is h and c. "
        "Values are shares of the gradient at the last step."
    ),
    sizes={"quick": Sizes(), "full": Sizes(length=201, updates=1500)},
    run=run,
)
