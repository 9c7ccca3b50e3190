"""The experiments of the study by name, in the order in which the document tells them.

Comes in: names. Goes out: experiments. Imported by what runs the study.
"""

from __future__ import annotations

from collections.abc import Sequence

from models.errors import ConfigError, unknown
from pipeline.study import (
    batch_size,
    cells,
    clipping,
    clipping_on_prices,
    cost,
    decoder,
    dropout,
    gradients,
    kinds,
    memory,
    packing,
    regimes,
    shapes,
    sine,
    state,
    temperature,
    transformer,
    truncation,
)
from pipeline.study.experiment import Experiment

_ORDER = (
    shapes.SHAPES,
    shapes.QUESTIONS,
    kinds.EXPERIMENT,
    gradients.EXPERIMENT,
    memory.EXPERIMENT,
    clipping.EXPERIMENT,
    clipping_on_prices.EXPERIMENT,
    cost.EXPERIMENT,
    packing.EXPERIMENT,
    sine.EXPERIMENT,
    state.EXPERIMENT,
    truncation.EXPERIMENT,
    batch_size.EXPERIMENT,
    dropout.EXPERIMENT,
    cells.EXPERIMENT,
    transformer.EXPERIMENT,
    decoder.ECHO,
    decoder.ATTENTION,
    decoder.FORCING,
    temperature.EXPERIMENT,
    regimes.EXPERIMENT,
)

EXPERIMENTS: dict[str, Experiment] = {experiment.name: experiment for experiment in _ORDER}


def chosen(names: Sequence[str]) -> list[Experiment]:
    """Take the experiments named, in the order of the document; all where none is.

    Raises
    ------
    ConfigError
        A name is unknown.
    """
    for name in names:
        if name not in EXPERIMENTS:
            raise ConfigError(unknown("experiment", name, EXPERIMENTS))
    return [experiment for name, experiment in EXPERIMENTS.items() if not names or name in names]
