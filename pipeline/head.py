"""What a batch decided, beside its events: how far the run is after it.

Comes in: a batch. Goes out: `Head`, as JSON in the journal. Imported by stream and recovery.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

from pipeline.book import NEVER
from pipeline.rendering import Label


@dataclass(frozen=True, kw_only=True)
class Head:
    """How far a run is.

    Attributes
    ----------
    batch : int
        Number of the batch.
    events : int
        Events of this batch.
    series : int
        Series that there are.
    newest : int
        Latest time that passed the rules, microseconds since 1970.
    counts : dict of int
        Lines by reason code, of the whole run.
    out_bytes, dead_bytes : int
        Length of the outputs.
    note_bytes : int
        Length of the file of notes.
    dropped : int
        Dead letters that were counted and not written.
    model, sha256, version
        Which model serves from this batch on.
    ring : int
        The history on disk holds all that batches before this one have for it.
    notes : list of dict
        What happened beside the ticks: a swap, a drift, a move to another machine.
    """

    batch: int = 0
    events: int = 0
    series: int = 0
    newest: int = NEVER
    counts: dict[str, int] = field(default_factory=dict)
    out_bytes: int = 0
    dead_bytes: int = 0
    note_bytes: int = 0
    dropped: int = 0
    model: str = ""
    sha256: str = ""
    version: int = 0
    ring: int = 0
    notes: list[dict[str, Any]] = field(default_factory=list)

    @property
    def label(self) -> Label:
        """What the forecasts of this batch are marked with."""
        return Label(model=self.model, sha256=self.sha256, version=self.version)

    def following(self) -> Head:
        """Begin the head of the next batch: nothing has happened in it yet."""
        return replace(self, batch=self.batch + 1, events=0, notes=[])

    def labelled(self, label: Label) -> Head:
        """Let another model serve from here on."""
        return replace(self, **{name: getattr(label, name) for name in ("model", "sha256", "version")})

    def to_dict(self) -> dict[str, Any]:
        """Write it for the journal."""
        return {f.name: getattr(self, f.name) for f in fields(self)}
