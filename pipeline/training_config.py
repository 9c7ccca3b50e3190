"""How a network is trained: lanes, chunks, epochs, the optimiser and the device.

Comes in: settings. Goes out: settings that are sound. Imported by training, fitting and whoever sets them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from models.errors import ConfigError
from pipeline.clock import span


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How the network is trained.

    Attributes
    ----------
    lanes : int
        Contiguous lanes trained side by side, 1 to 65536; at least one a series.
    chunk : int
        Steps of one truncated backpropagation, 1 to 4096.
    epochs : int
        Most passes over the training span, 1 to 10000.
    patience : int
        Epochs without a better validation loss before training stops.
    learning_rate : float
        Peak rate of AdamW; it falls along a half cosine over the epochs.
    weight_decay : float
        Decoupled weight decay of the matrices, 0 or more; biases and the degrees of freedom have none.
    clip_by : {"norm", "value", "off"}
        What of the gradient is bounded: its norm, or each element by itself (Pascanu, Mikolov & Bengio 2013, ICML).
    clip : float
        The bound, above 0.
    state : {"carried", "reset"}
        Whether a chunk begins at the state in which the one before it ended, as serving does, or at zero, as a window
        does.
    burn_in : int
        Steps before each chunk that bring the state up from zero without counting in the loss; only with state reset,
        0 to 4096.
    first_chunk : int
        Length of the chunks of the first epoch; over the first half of the epochs it grows to `chunk`, by a constant
        factor (Bengio et al. 2009, ICML, curriculum learning). 0: all epochs have `chunk`.
    half_life : str or None
        Age, such as "365d", at which a target counts half in the loss; left out: all count alike.
    seed : int
        Seed of the first weights and of dropout.
    device : {"auto", "cpu", "cuda"}
        Where training runs; auto takes a GPU where there is one.
    threads : int
        CPU threads of an epoch, 1 to 256; networks of less than some 200 units are fastest on one.
    """

    lanes: int = 48
    chunk: int = 32
    epochs: int = 60
    patience: int = 10
    learning_rate: float = 5e-3
    weight_decay: float = 1e-3
    clip_by: Literal["norm", "value", "off"] = "norm"
    clip: float = 1.0
    state: Literal["carried", "reset"] = "carried"
    burn_in: int = 0
    first_chunk: int = 0
    half_life: str | None = None
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 1

    def __post_init__(self) -> None:
        for name, low, high in (
            ("lanes", 1, 65536),
            ("chunk", 1, 4096),
            ("epochs", 1, 10000),
            ("patience", 1, 10000),
            ("threads", 1, 256),
            ("burn_in", 0, 4096),
            ("first_chunk", 0, self.chunk),
        ):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name}: expected {low} to {high}, got {getattr(self, name)}")
        if not (self.learning_rate > 0 and self.clip > 0 and self.weight_decay >= 0):
            raise ConfigError(
                f"expected learning_rate > 0, clip > 0 and weight_decay >= 0, got {self.learning_rate}, {self.clip}, "
                f"{self.weight_decay}"
            )
        if self.burn_in and self.state == "carried":
            raise ConfigError(
                f"burn_in: {self.burn_in} has no effect while the state is carried, because it is never cold. Set "
                "state to 'reset', or burn_in to 0"
            )
        _ = self.half_life_time

    @property
    def half_life_time(self) -> int | None:
        """The half-life in microseconds; None where all targets count alike."""
        return None if self.half_life is None else span(self.half_life, "half_life")

    def chunk_of(self, epoch: int) -> int:
        """Give the length of the chunks of an epoch, counted from 0."""
        grown = min(1.0, epoch / max(1.0, self.epochs / 2))
        if not self.first_chunk:
            return self.chunk
        return round(self.first_chunk * (self.chunk / self.first_chunk) ** grown)
