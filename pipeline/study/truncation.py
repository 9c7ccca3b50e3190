"""How long the chunks of truncated backpropagation must be on prices.

Comes in: prices. Goes out: a finding. Imported by the list of experiments.
"""

from __future__ import annotations

from pipeline.study.arms import Arm, Sizes, compared
from pipeline.study.experiment import Conditions, Experiment, Finding

CHUNKS = (32, 1, 4, 16, 64, 256)
"""The default first: the others are tested against it."""

ARMS = [Arm(label=str(n), settings={"training.chunk": n}) for n in CHUNKS]


def run(sizes: Sizes, conditions: Conditions) -> Finding:
    """Fit with chunks of every length."""
    return compared(ARMS, sizes, conditions, setting="chunk")


EXPERIMENT = Experiment(
    name="truncation",
    question="How far back must the gradient go on prices?",
    about=(
        "The state is carried over all of a series, but the gradient goes back over one chunk only (`training.chunk`). "
        "With chunks of 1 the network learns nothing of what its state is for, except that the running scales among "
        "its inputs have a memory of their own. Epochs, not updates, are equal: a short chunk updates the weights more "
        "often."
    ),
    sizes={"quick": Sizes(), "full": Sizes(epochs=25, seeds=2, levels=0)},
    run=run,
    on_prices=True,
)
