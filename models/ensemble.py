"""Several forecasters as one: their quantiles averaged level by level, all of their states carried.

With weights w_k ≥ 0 that add up to 1, per quantile level τ:

    Q_τ = Σ_k w_k Q_τ,k        loc = Σ_k w_k loc_k        scale = Σ_k w_k scale_k

This is the average of the inverse distribution functions (Vincentization: Ratcliff 1979, Psychological Bulletin 86(3)).
Unlike the average of densities it keeps the shape of its members and is no wider than they are on average
(Lichtendahl, Grushka-Cockayne & Winkler 2013, Management Science 59(7)). Ordered quantiles stay ordered.

The average of Student t of one df is a Student t of that df, so quantiles and density agree. Where the degrees of
freedom differ, the density is the Student t whose standard quantiles are nearest to Σ_k w_k t_τ(df_k), by least squares
over `LEVELS`; the quantiles stay the average. A member without a density leaves the whole without one.

Legend: B batch, T time, R rows of parameters, Q quantile levels.

Comes in: cores and weights. Goes out: a core around them. Weights are fitted by `pipeline/weighting.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

from models.core import LEAST_DF, Core, Distribution, Tick, student_quantiles
from models.errors import ConfigError, ModelError
from models.observation import State, StateTensor
from models.operations import namespace


@dataclass(frozen=True, kw_only=True)
class EnsembleConfig:
    """What the kinds `ensemble` and `mix` are made of.

    Attributes
    ----------
    of : str
        Kind of the members of `ensemble`: a network, trained once from each seed.
    members : int
        How many of them, 2 to 100; member k has the seed of the training plus k.
    mix : tuple of str
        Kinds of the members of `mix`, two or more, all different.
    weights : {"fitted", "equal"}
        Weights of the members of `mix`: those of the least pinball loss on the validation split, or equal ones.
    """

    of: str = "lstm"
    members: int = 5
    mix: tuple[str, ...] = ("lstm", "garch")
    weights: Literal["fitted", "equal"] = "fitted"

    def __post_init__(self) -> None:
        if not 2 <= self.members <= 100:
            raise ConfigError(f"members: expected 2 to 100, got {self.members}")
        if len(self.mix) < 2 or len(set(self.mix)) < len(self.mix):
            raise ConfigError(f"mix: expected two or more kinds, all different, got {list(self.mix)}")


class Ensemble(nn.Module):
    """A core around cores; a state tensor of member k is called `k.` and its name.

    Parameters
    ----------
    kind : str
    cores : sequence of Core
        Of one horizon and block. Each reads the covariates of all, or none.
    weights : float [K]
        Not negative; they are made to add up to 1.
    """

    weights: Tensor
    df: Tensor

    def __init__(self, kind: str, cores: Sequence[Core], weights: Tensor) -> None:
        super().__init__()
        _check_alike(cores)
        self.kind, self.horizon, self.block = kind, cores[0].horizon, cores[0].block
        self.past, self.future = (max(getattr(c, side) for c in cores) for side in ("past", "future"))
        self.elapsed = any(c.elapsed for c in cores)
        self.cores = nn.ModuleList(cores)  # type: ignore[arg-type]
        shares = weights.double() / weights.double().sum()
        self.register_buffer("weights", shares.float())
        self.register_buffer("df", common_df([c.df for c in cores], shares).float())

    def state_tensors(self) -> tuple[StateTensor, ...]:
        """List what is carried: all that each member carries."""
        return tuple(
            StateTensor(f"{k}.{s.name}", s.shape, s.dtype, s.initial, s.unit, s.meaning)
            for k, core in enumerate(self.members)
            for s in core.state_tensors()
        )

    @property
    def members(self) -> list[Core]:
        """The cores in order."""
        return list(self.cores)  # type: ignore[arg-type]

    def step(self, tick: Tick, state: State) -> tuple[Distribution, State]:
        """Take in one tick; the distribution is of the moves after it."""
        made = [core.step(tick, _of_member(state, k)) for k, core in enumerate(self.members)]
        xp = namespace(tick.change)
        rows = tick.series if len(self.df) > 1 else tick.series * 0
        return self._averaged(made, xp.take(xp.constant(self.df), rows))

    @torch.no_grad()
    def unroll(self, ticks: Tick, state: State) -> tuple[Distribution, State]:
        """Take in many ticks [B, T, ...], one member after another."""
        made = [core.unroll(ticks, _of_member(state, k)) for k, core in enumerate(self.members)]
        rows = ticks.series if len(self.df) > 1 else ticks.series * 0
        return self._averaged(made, self.df[rows][:, None].expand(ticks.change.shape[:2]))

    def _averaged(self, made: list[tuple[Distribution, State]], df: Tensor) -> tuple[Distribution, State]:
        """Average distributions, and put the states side by side."""
        following = {f"{k}.{name}": x for k, (_, after) in enumerate(made) for name, x in after.items()}
        mean = {}
        for part in ("loc", "scale", "quantile"):
            xs = [getattr(d, part) for d, _ in made]
            constant = namespace(xs[0]).constant
            mean[part] = xs[0] * constant(self.weights[0])
            for k, x in enumerate(xs[1:], 1):
                mean[part] = mean[part] + x * constant(self.weights[k])
        return Distribution(**mean, df=df), following


def common_df(members: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Give the df of the Student t nearest to the average of members, for each row of parameters.

    Parameters
    ----------
    members : sequence of float [R] or [1]
        Degrees of freedom of each member: inf is the normal, NaN no density.
    weights : float [K]

    Returns
    -------
    float64 [R]
    """
    rows = max(len(df) for df in members)
    df = np.stack([m.detach().cpu().double().expand(rows).numpy() for m in members])
    return torch.tensor([_nearest(df[:, r], weights.numpy()) for r in range(rows)], dtype=torch.float64)


def _nearest(df: np.ndarray, weights: np.ndarray) -> float:
    """Search 1 / df between the normal and `LEAST_DF`."""
    if np.isnan(df).any() or (df == df[0]).all():
        return float("nan") if np.isnan(df).any() else float(df[0])
    wanted = weights @ student_quantiles(df)

    def gap(inverse: float) -> float:
        return float(np.square(student_quantiles(1 / inverse) - wanted).sum())

    found = minimize_scalar(gap, bounds=(1e-6, 1 / LEAST_DF), method="bounded", options={"xatol": 1e-7})
    return float(1 / found.x)


def _of_member(state: State, k: int) -> State:
    """Take the state of one member, under its own names."""
    return {name.removeprefix(f"{k}."): x for name, x in state.items() if name.startswith(f"{k}.")}


def _check_alike(cores: Sequence[Core]) -> None:
    """Refuse members that do not forecast the same, or read different covariates."""
    shapes = {(c.horizon, c.block) for c in cores}
    if len(shapes) > 1:
        raise ModelError(f"ensemble: expected members of one horizon and block, got {sorted(shapes)}")
    for side in ("past", "future"):
        counts = {getattr(c, side) for c in cores} - {0}
        if len(counts) > 1:
            raise ModelError(
                f"ensemble: expected members that read the same {side} covariates, or none; they read {sorted(counts)}"
                ". Leave out a kind that reads its own"
            )
