"""Which models step on the ticks together: the one that serves, and those that it is held against.

Comes in: the bytes of model files. Goes out: `Lineup`. Imported by stream, swap and opening.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from models.errors import ModelError
from pipeline.champions import Published
from pipeline.session import Session, read

SERVING = "serving"
"""Role of the model that serves; the others are called by their own names."""


@dataclass(frozen=True, kw_only=True)
class Lineup:
    """The models of one version.

    Attributes
    ----------
    version : int
        Under which they were published; 0 for a model named by its path.
    serving : bytes
        Model file.
    beside : mapping of bytes
        Model files by name: references that forecast the same ticks, to be scored beside the one that serves.

    Raises
    ------
    ModelError
        A reference has the name of the role of the model that serves.
    """

    version: int = 0
    serving: bytes
    beside: Mapping[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if SERVING in self.beside:
            raise ModelError(
                f"version {self.version}: a reference is called {SERVING!r}, which is the role of the model that "
                "serves. Publish it under another name"
            )

    @property
    def files(self) -> dict[str, bytes]:
        """Every file by its role, the serving one first."""
        return {SERVING: self.serving, **self.beside}

    @cached_property
    def sessions(self) -> dict[str, Session]:
        """Every model opened, by its role.

        Raises
        ------
        ModelError
            One of them cannot be served.
        """
        return {role: Session(file) for role, file in self.files.items()}

    @property
    def sha256(self) -> str:
        """Digest of the model that serves."""
        return self.sessions[SERVING].sha256


def published(folder: Path, champion: Published) -> Lineup:
    """Read the files of a champion and of its references; each must be the one that was published.

    Raises
    ------
    IntegrityError
        A file is another one.
    ModelError
        A file cannot be read.
    """
    beside = {name: read(folder / one.file, one.sha256) for name, one in champion.beside.items()}
    return Lineup(version=champion.version, serving=read(folder / champion.file, champion.sha256), beside=beside)
