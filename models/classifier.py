"""The step contract of classifiers: price in, probability of each class out, state carried.

    init_state(batch) -> state
    step(observation, state) -> (label, state)
    forward(observations, state) -> (labels, state)      a step chain, in one call

A classifier is a transform and a core that gives labels, such as a `Network` with classes. Validity, the last known
price and the way to the transformed scale are those of a forecaster (`shell.py`).

Legend: B batch, C classes.

Comes in: observations. Goes out: labels. Imported by checkpoint, training and what classifies.
"""

from __future__ import annotations

from models.core import Core
from models.errors import ModelError
from models.observation import Array, Label
from models.shell import Shell
from models.transforms import Transform


class Classifier(Shell[Label]):
    """A model that labels each moment; its parameters are those of a `Shell`, and the classes.

    Parameters
    ----------
    classes : tuple of str
        Names of the classes, in the order of the probabilities.

    Raises
    ------
    ModelError
        There are fewer than two classes, or one stands twice.
    """

    def __init__(
        self,
        name: str,
        transform: Transform,
        core: Core[Label],
        classes: tuple[str, ...],
        past_names: tuple[str, ...] = (),
        future_names: tuple[str, ...] = (),
    ) -> None:
        super().__init__(name, transform, core, past_names, future_names)
        if len(set(classes)) != len(classes) or len(classes) < 2:
            raise ModelError(f"{name}: expected the names of two or more classes, all different, got {list(classes)}")
        self.classes = classes

    def outputs(self) -> dict[str, tuple[int, ...]]:
        """List the parts of a label."""
        return {"probability": (len(self.classes),)}

    def answer(self, output: Label, price: Array, series: Array) -> Label:  # noqa: ARG002  as of every shell
        """Give the core's label as it is."""
        return output
