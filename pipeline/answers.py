"""What one block of lines gave: forecasts, dead letters, counts; as it goes back to a sender, and to the journal.

Comes in: what a batch gave. Goes out: `Answer`. Imported by stream.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import orjson
from numpy.typing import NDArray

from models.errors import DataError
from pipeline.lines import Block
from pipeline.ticks import Reason


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What one block of lines gave.

    Attributes
    ----------
    forecasts : bytes
        JSON lines, one for each accepted tick, in the order of arrival.
    refused : bytes
        JSON lines, one for each dead letter.
    counts : dict of int
        Lines by reason code; those that hold nothing are left out.
    repeated : bool
        The request was answered before, and this is that answer again.
    """

    forecasts: bytes
    refused: bytes
    counts: dict[str, int]
    repeated: bool = False

    @property
    def accepted(self) -> int:
        """Ticks that were taken in."""
        return self.counts.get(Reason.ACCEPTED.code, 0)

    def to_bytes(self, block: Block) -> bytes:
        """Write it for the journal, with a digest of the lines that it answers."""
        texts = {"forecasts": self.forecasts.decode(), "refused": self.refused.decode()}
        return orjson.dumps(texts | {"counts": self.counts, "of": _digest(block)})

    @classmethod
    def from_bytes(cls, data: bytes, block: Block) -> Answer:
        """Read what `to_bytes` wrote, as a repetition.

        Raises
        ------
        DataError
            It answers other lines.
        """
        told = orjson.loads(data)
        if told["of"] != _digest(block):
            raise other_lines(block)
        texts = {name: told[name].encode() for name in ("forecasts", "refused")}
        return cls(**texts, counts=told["counts"], repeated=True)


def other_lines(block: Block) -> DataError:
    """Say that a request id came with other lines than before."""
    return DataError(
        f"request {block.request!r}: it was answered for other lines before. Send new lines under a new id"
    )


def answers(
    blocks: Sequence[Block],
    reason: NDArray[np.uint8],
    tick: NDArray[np.int64],
    lines: Sequence[bytes],
    letters: Sequence[Sequence[bytes]],
) -> list[Answer]:
    """Cut what a batch gave into what each block gave.

    Parameters
    ----------
    blocks : sequence of Block
    reason : uint8 [n]
        Of every line of all blocks.
    tick : int64 [a]
        The accepted ones, ascending.
    lines : sequence of bytes [a]
        Their forecasts.
    letters : sequence
        Dead letters of each block.
    """
    if len(blocks) == 1:
        return [Answer(forecasts=b"".join(lines), refused=b"".join(letters[0]), counts=counted(reason))]
    ends = np.cumsum([len(block.lines) for block in blocks]).tolist()
    cuts = np.searchsorted(tick, ends).tolist()
    given = []
    for begin, end, first, stop, dead in zip([0, *cuts], cuts, [0, *ends], ends, letters, strict=False):
        counts = counted(reason[first:stop])
        given.append(Answer(forecasts=b"".join(lines[begin:end]), refused=b"".join(dead), counts=counts))
    return given


def _digest(block: Block) -> str:
    return hashlib.sha256(b"\n".join([block.head, *block.lines])).hexdigest()


def counted(reason: NDArray[np.uint8]) -> dict[str, int]:
    """Count the lines by reason code; blank ones are left out."""
    count = np.bincount(reason, minlength=len(Reason)).tolist()
    return {r.code: count[r] for r in Reason if count[r] and r != Reason.BLANK}
