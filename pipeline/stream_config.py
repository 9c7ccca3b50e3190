"""Settings of a stream, and those that it needs of a run.

Comes in: nothing. Goes out: `StreamConfig`, `ServedConfig`. Imported by config, stream and what drives it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from models.errors import ConfigError
from pipeline.clock import span
from pipeline.drift import DriftConfig
from pipeline.journal import Durability
from pipeline.rules import RuleConfig

_LONGEST_US = 100_000 * 86_400_000_000


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """Settings of a stream. What shows in what it gives: `rules`, `max_series`, `max_line_bytes`, `burn_in`, `expires`.

    Attributes
    ----------
    rules : RuleConfig
        Which ticks are taken.
    drift : DriftConfig
        When forecasts are said to have drifted.
    batch : int
        Most lines that are taken in together, 1 to 100,000.
    max_series : int
        Most series that are carried; ticks of further ones are refused. 1 to 100,000,000.
    max_line_bytes : int
        Longest line that is read, 64 bytes to 16 MiB.
    burn_in : int
        Ticks of a series before its forecasts are no longer marked as warming; 0 or more.
    durability : {"full", "normal", "none"}
        What a committed tick survives: full, the loss of power; normal, the death of the process, and the loss of power
        but for the last moments; none, the death of the process only.
    replay : int
        About how many ticks are stepped again after a crash, 1000 or more: states go to disk that often.
    history : int
        Latest ticks of each series that are kept to warm a new model's states, 0 to 100,000; each takes about 50 bytes
        of disk, with the room for what arrives meanwhile.
    expires : str or None
        Age of a model beyond which its forecasts are marked as stale, a number and w, d, h, m or s, such as "90d":
        from the end of the data in its fit to the time of the tick, never by a clock. Left out: never.
    dead_bytes : int
        Largest size of the dead letters; beyond it they are counted but not written. 0 or more.
    """

    rules: RuleConfig = RuleConfig()
    drift: DriftConfig = DriftConfig()
    batch: int = 1000
    max_series: int = 1_000_000
    max_line_bytes: int = 65_536
    burn_in: int = 30
    durability: Durability = "full"
    replay: int = 200_000
    history: int = 256
    expires: str | None = None
    dead_bytes: int = 100_000_000

    def __post_init__(self) -> None:
        ranges = {
            "batch": (1, 100_000),
            "max_series": (1, 10**8),
            "max_line_bytes": (64, 2**24),
            "burn_in": (0, 10**9),
            "replay": (1000, 10**9),
            "history": (0, 100_000),
            "dead_bytes": (0, 2**50),
        }
        for name, (least, most) in ranges.items():
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= most:
                raise ConfigError(f"stream.{name} is {value!r}; expected a whole number from {least} to {most}")
        if (self.expires_us or 0) > _LONGEST_US:
            raise ConfigError(f"stream.expires is {self.expires!r}; expected 100000 days at most")

    @property
    def expires_us(self) -> int | None:
        """The age `expires` in microseconds."""
        return None if self.expires is None else span(self.expires, "stream.expires")


@dataclass(frozen=True, kw_only=True)
class ServedConfig:
    """The settings of a run, by the same names, that serving reads; nothing that trains is imported for them.

    Attributes
    ----------
    folder : Path
        Data folder.
    home : Path or None
        Data folder whose prices are used, where it is not `folder`.
    champion : str
        Name under which the best model is published.
    series : tuple of str
        Patterns of the series in the store that a stream which starts warm takes in first.
    part : [int, int]
        [k, n] leaves, of these, those of part k of n.
    stream : StreamConfig
        The stream of ticks.
    """

    folder: Path = Path(".statecast")
    home: Path | None = None
    champion: str = "champion"
    series: tuple[str, ...] = ("*",)
    part: tuple[int, int] = (0, 1)
    stream: StreamConfig = StreamConfig()

    @property
    def prices(self) -> Path:
        """Folder of the price store."""
        return (self.home or self.folder) / "prices"
