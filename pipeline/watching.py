"""Sees when a name of the champions folder gets another champion, while its user goes on serving.

Comes in: a champions folder and a name. Goes out: each new champion, once. Knows the standard library only; imported by
stream.
"""

from __future__ import annotations

import os
from pathlib import Path

from models.errors import IntegrityError, ModelError
from pipeline import champions
from pipeline.champions import Published


class Watcher:
    """Sees when a name gets another champion, at the price of one look at its entry.

    Parameters
    ----------
    folder : Path
        May be made later.
    name : str
    version : int
        The version that is served already; 0 where none is.

    Raises
    ------
    ModelError
        When the name is not allowed.
    """

    def __init__(self, folder: Path, name: str, *, version: int = 0) -> None:
        self._path = champions.entry_of(folder, name)
        self.folder = folder
        self.name = name
        self.version = version
        self._seen: Published | None = None
        self._stamp: tuple[int, ...] | None = None

    def changed(self) -> Published | None:
        """Give a champion of a later version once, the newest where there are several; None where nothing is new.

        An entry that is at fault raises once, and is looked at again when it has changed.

        Raises
        ------
        IntegrityError
            When the entry is damaged or cannot be read, has a lower version than was served, or another model under
            the same version.
        """
        try:
            found = os.stat(self._path)
            stamp = (found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size)
        except (FileNotFoundError, NotADirectoryError):
            stamp = None
        except OSError as error:
            stamp = (error.errno or 0,)
        if stamp == self._stamp:
            return None
        self._stamp = stamp
        return None if stamp is None else self._later()

    def _later(self) -> Published | None:
        """Read the entry; a writer may have replaced it since it was looked at, which the next look will see."""
        try:
            champion = champions.current(self.folder, self.name)
        except IntegrityError:
            raise
        except ModelError:
            return None  # gone since it was looked at
        except OSError as error:
            raise IntegrityError(
                f"champion entry {self._path}: cannot be read ({error.strerror}). Make it readable; what serves goes on"
            ) from error
        known = self._seen
        if champion.version < self.version:
            raise IntegrityError(
                f"champion entry {self._path}: version {champion.version} after version {self.version} was served; "
                "versions only grow. Publish the model again until its version is higher; what serves goes on serving"
            )
        if champion.version == self.version:
            if known is not None and (champion.sha256, champion.beside) != (known.sha256, known.beside):
                raise IntegrityError(
                    f"champion entry {self._path}: version {self.version} was {known.file} and now is {champion.file}. "
                    "Publish the model again; what serves goes on serving"
                )
            self._seen = champion
            return None
        self.version, self._seen = champion.version, champion
        return champion
