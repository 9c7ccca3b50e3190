"""What a training step costs by the length of the sequence: backpropagation in full and truncated.

Memory is counted exactly: the bytes that autograd keeps for the backward pass, each storage once, as the hooks of
`torch.autograd.graph.saved_tensors_hooks` see them. That is what grows with the length; weights do not.

Comes in: sizes. Goes out: a finding. Imported by the list of experiments.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from pipeline.drawing import canvas, strokes
from pipeline.study.experiment import Conditions, Experiment, Finding
from pipeline.study.layers import Hidden, Reader

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WAYS = ("full", "truncated")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large the experiment is.

    Attributes
    ----------
    lengths : tuple of int
        Steps of a sequence.
    chunk : int
        Steps of one truncated backpropagation.
    hidden, rows : int
        Units, and sequences of a batch.
    repeats : int
        Training steps that are timed; the median is taken.
    """

    lengths: tuple[int, ...] = (64, 256, 1024)
    chunk: int = 32
    hidden: int = 32
    rows: int = 16
    repeats: int = 3


class Kept:
    """The bytes that autograd holds for a backward pass, and the most that it held at once; use as a context."""

    def __init__(self) -> None:
        self.most = 0
        self._storages: dict[int, int] = {}
        self._hooks = saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def __enter__(self) -> Kept:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self._storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    def freed(self) -> None:
        """Note that a backward pass has let go of everything."""
        self.most = max(self.most, sum(self._storages.values()))
        self._storages.clear()


def training_step(network: Reader, x_BTF: Tensor, chunk: int) -> int:
    """Go forward and backward over a sequence, chunk by chunk with the state carried; give the most bytes kept."""
    state: Hidden | None = None
    with Kept() as kept:
        for start in range(0, x_BTF.shape[1], chunk):
            output, state = network.run(x_BTF[:, start : start + chunk], state)
            output.square().sum().backward()
            kept.freed()
            state = tuple(part.detach() for part in state)
    return kept.most


def measured(length: int, way: str, sizes: Sizes, seed: int) -> tuple[float, float]:
    """Give (mebibytes kept, median milliseconds) of a training step of an lstm."""
    torch.manual_seed(seed)
    network, x = Reader("lstm", 4, sizes.hidden), torch.randn(sizes.rows, length, 4)
    chunk = length if way == "full" else min(sizes.chunk, length)
    kept, taken = training_step(network, x, chunk), []
    for _ in range(sizes.repeats):
        began = time.perf_counter()
        training_step(network, x, chunk)
        taken.append(time.perf_counter() - began)
    return kept / 2**20, 1000 * float(np.median(taken))


def slope(lengths: Sequence[int], values: Sequence[float]) -> float:
    """Give the exponent of a power law by least squares on logarithmic axes: 0 is flat, 1 is proportional."""
    return float(np.polyfit(np.log(lengths), np.log(values), 1)[0])


def run(sizes: Sizes, conditions: Conditions) -> Finding:
    """Measure both ways at every length."""
    cost = {}
    for way in WAYS:
        conditions.progress(f"cost: {way} backpropagation")
        cost[way] = np.array([measured(n, way, sizes, conditions.seed) for n in sizes.lengths]).T
    rows = [
        {"backpropagation": way, "length": n, "kept (MiB)": float(cost[way][0][k]), "time (ms)": float(cost[way][1][k])}
        for way in WAYS
        for k, n in enumerate(sizes.lengths)
    ]
    numbers = {
        f"slope.{what}.{way}": slope(sizes.lengths, cost[way][k])
        for way in WAYS
        for k, what in enumerate(("memory", "time"))
    }
    return Finding(rows=rows, answer=_answer(numbers, sizes), numbers=numbers, figure=partial(_figure, cost, sizes))


def _answer(numbers: Mapping[str, float], sizes: Sizes) -> str:
    """Say the exponents."""
    full, cut = numbers["slope.memory.full"], numbers["slope.memory.truncated"]
    flat = "stays as it is" if abs(cut) < 0.1 else f"grows as length^{cut:.2f}"
    return (
        f"The memory of full backpropagation grows as length^{full:.2f}, truncated to {sizes.chunk} steps it {flat}; "
        f"time grows as length^{numbers['slope.time.full']:.2f} and length^{numbers['slope.time.truncated']:.2f}."
    )


def _figure(cost: Mapping[str, np.ndarray], sizes: Sizes) -> Figure:
    """Draw memory and time against the length, on logarithmic axes."""
    figure, axes = canvas(1, 2, width=9.0, height=3.6, sharex=True)
    style = strokes(WAYS)
    for k, (ax, what) in enumerate(zip(axes, ("kept for the backward pass (MiB)", "training step (ms)"), strict=True)):
        for way in WAYS:
            ax.plot(sizes.lengths, cost[way][k], lw=1.4, ms=5, label=way, **style[way])
        ax.set(xscale="log", yscale="log", xlabel="length (steps)", ylabel=what)
    axes[0].legend(fontsize="small", frameon=False)
    figure.set_label("Memory and time of a training step against the length of the sequence")
    return figure


EXPERIMENT = Experiment(
    name="cost",
    question="What does a training step cost, in memory and time, by the length of the sequence?",
    about=(
        "Backpropagation through time keeps what every step computed until the backward pass has used it. Truncated "
        "(Williams & Peng 1990, Neural Computation 2(4)) it goes back over one chunk at a time and carries the values "
        "of the state, without their history, into the next. Memory is what autograd keeps, counted by its own hooks; "
        "time is of forward and backward together, on this machine. The last line of the answer is the slope on "
        "logarithmic axes."
    ),
    sizes={"quick": Sizes(), "full": Sizes(lengths=(64, 256, 1024, 4096), repeats=5)},
    run=run,
)
