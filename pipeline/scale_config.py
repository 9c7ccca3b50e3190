"""Settings of how far a retrain is spread: over how many processes, or over which cluster.

Comes in: nothing. Goes out: `ScaleConfig`. Imported by config and by the flow that spreads a retrain.
"""

from __future__ import annotations

from dataclasses import dataclass

from models.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ScaleConfig:
    """Processes over which fits, walks and comparisons are spread, by Prefect and Dask.

    Attributes
    ----------
    workers : int
        Processes on this machine, of one thread each, 0 to 1024. 0: none, one thing is done after the other.
    address : str or None
        Scheduler of a Dask cluster that is running, such as "tcp://10.0.0.5:8786", in place of processes of this
        machine. Its workers see the data folder under the same path and have the same version of statecast.
    """

    workers: int = 0
    address: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.workers <= 1024:
            raise ConfigError(f"workers: expected 0 to 1024 processes, got {self.workers}")
        if self.workers and self.address is not None:
            raise ConfigError(f"workers: expected 0 beside address, whose cluster has its own, got {self.workers}")

    @property
    def wanted(self) -> bool:
        """Whether a retrain is to be spread at all."""
        return self.workers > 0 or self.address is not None
