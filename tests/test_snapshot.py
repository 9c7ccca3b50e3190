"""A snapshot comes back as it was saved, or is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.errors import IntegrityError
from pipeline import snapshot

HEADER = {"names": ["A", "é"], "position": {"lines": 3}}
ARRAYS = {"time": np.arange(2), "state.price": np.array([[np.nan], [-0.0]]), "state.h": np.zeros((2, 3), np.float32)}


def same(arrays: dict[str, np.ndarray]) -> bool:
    """Tell whether arrays are those that were saved, to the bit."""
    return {k: (x.dtype, x.shape, x.tobytes()) for k, x in arrays.items()} == {
        k: (x.dtype, x.shape, x.tobytes()) for k, x in ARRAYS.items()
    }


def test_a_snapshot_comes_back_bit_for_bit(tmp_path: Path) -> None:
    """Header and arrays are equal after a round trip, NaN and minus zero included."""
    snapshot.save(tmp_path / "s", HEADER, ARRAYS)
    header, arrays = snapshot.read(tmp_path / "s")
    assert header == HEADER
    assert same(arrays)


def test_a_flipped_byte_is_refused_or_harmless(tmp_path: Path) -> None:
    """Each byte of the file changed in turn gives the same content or IntegrityError, never other numbers."""
    path = tmp_path / "s"
    snapshot.save(path, HEADER, ARRAYS)
    whole, refused = path.read_bytes(), 0
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            header, arrays = snapshot.read(path)
        except IntegrityError:
            refused += 1
            continue
        assert header == HEADER
        assert same(arrays)
    assert refused > len(whole) / 2


@pytest.mark.parametrize("length", [0, 1, 100, -1])
def test_a_cut_snapshot_is_refused(tmp_path: Path, length: int) -> None:
    """A file that ends early raises IntegrityError and says what to do."""
    path = tmp_path / "s"
    snapshot.save(path, HEADER, ARRAYS)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(IntegrityError, match="Start again"):
        snapshot.read(path)


def test_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot of a later version is not read."""
    with monkeypatch.context() as patch:
        patch.setattr(snapshot, "FORMAT", 2)
        snapshot.save(tmp_path / "s", HEADER, ARRAYS)
    with pytest.raises(IntegrityError, match="format 2, expected 1"):
        snapshot.read(tmp_path / "s")
