"""Whole sequences through the recurrent layers of a forecaster, in the runtime that serves them.

Over one series torch spends its time between the small operations of every step; the runtime's fused nodes take a
tenth of it, and they are those of the exported file.

Legend: B batch, T time, F features, H hidden.

Comes in: a fitted forecaster. Goes out: what runs its layers in a walk. Imported by passes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from models.graph import over_time
from models.observation import State
from models.recurrent import Recurrent
from pipeline.session import opened


class Sequences:
    """The layers of one recurrent body over sequences, without gradients."""

    def __init__(self, body: Recurrent) -> None:
        self._runtime = opened(over_time(body.cell, body.weights()).SerializeToString())
        self._states = [s.name for s in body.state_tensors()]

    def __call__(self, x_BTF: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        """Give what `Recurrent.run` gives, to the last bits of float32."""
        batch, time = x_BTF.shape[:2]
        steps = torch.full((batch,), time) if lengths is None else lengths
        feeds = {name: np.ascontiguousarray(state[name].numpy())[None] for name in self._states}
        feeds["x"] = np.ascontiguousarray(x_BTF.transpose(0, 1).numpy())
        feeds["lengths"] = steps.clamp(min=1).numpy().astype(np.int32)
        made = self._runtime.run(["top", *(f"next.{name}" for name in self._states)], feeds)
        top, *ended = (torch.from_numpy(y) for y in made)
        none = (steps == 0)[:, None]
        after = {n: torch.where(none, state[n], y[0]) for n, y in zip(self._states, ended, strict=True)}
        return top.transpose(0, 1), after


@contextmanager
def running(engines: Mapping[Recurrent, Sequences]) -> Iterator[None]:
    """Let recurrent bodies run in the runtime while a call lasts."""
    for body, engine in engines.items():
        body.engine = engine
    try:
        yield
    finally:
        for body in engines:
            body.engine = None


def engines(model: nn.Module) -> dict[Recurrent, Sequences]:
    """Give the engine of each recurrent body in a fitted model, with its weights as they are now."""
    return {module: Sequences(module) for module in model.modules() if isinstance(module, Recurrent)}
