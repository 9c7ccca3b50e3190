"""Copies of the program that were made worse on purpose: each has to fail the short trial of faults."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TESTS = Path(__file__).parent

Change = tuple[str, str, str]
"""A module of `pipeline`, a text in it, and what stands there instead."""

MUTANTS: dict[str, list[Change]] = {
    "keys are not compared": [("rounds", "newer = np.diff(top, prepend=-1) > 0", "newer = np.ones(len(lane), bool)")],
    "outputs are not cut": [("outputs", "if self.length > committed:", "if False:")],
    "outputs are believed by their length": [
        ("outputs", "if start <= self.length and", "if start <= self.length < start + len(data) and")
    ],
    "positions stay where they were": [
        ("stream", "for b in blocks if b.position is not None}", "for b in blocks[:0] if b.position}")
    ],
    "prices that are no numbers reach the model": [("book", "tick & ~finite.all(1)", "tick & False")],
    "prices outside the domain reach the model": [
        ("book", "tick & ((price <= lower) | (price >= upper)).any(1)", "tick & False")
    ],
    "pages count as of one batch later": [("recovery", "as_of[number] = batch", "as_of[number] = batch + 1")],
    "pages count as of one batch earlier": [("recovery", "as_of[number] = batch", "as_of[number] = batch - 1")],
    "forecasts go out before they are committed": [
        (
            "stream",
            "        self._commit(\n            head,\n            applied,",
            '        self.ledger.publish(head, {"out": out, "dead": dead, "note": told})\n'
            "        self._commit(\n            head,\n            applied,",
        ),
        (
            "stream",
            '        self.ledger.publish(self.head, {"out": out, "dead": dead, "note": told})\n        return given',
            "        return given",
        ),
    ],
    "the ring is not written": [("history", "if not self.length or len(events) == 0:", "if True:")],
    "the ring is not on disk when events are forgotten": [("history", "self._map.flush()", "pass")],
    "outputs are not on disk when batches are forgotten": [("outputs", "os.fsync(self._file)", "pass")],
    "batches are forgotten too early": [("ledger", "min([*needed, last])", "last")],
    "a commit does not wait for the disk": [("journal", '"full": "FULL"', '"full": "OFF"')],
    "tables of different moments are taken": [("journal", "if found != told.get(name, 0) and", "if False and")],
}


FOUND_BY = {
    "outputs are not cut": "normal",
    "outputs are believed by their length": "power",
    "the ring is not on disk when events are forgotten": "power",
    "outputs are not on disk when batches are forgotten": "power",
    "a commit does not wait for the disk": "power",
    "tables of different moments are taken": "bits",
}
"""Campaigns of the trial by which a mutant is found; the others are by the story itself or by deaths."""


def worse(folder: Path, changes: list[Change]) -> Path:
    """Copy the packages with texts replaced."""
    for package in ("models", "flows"):
        (folder / package).symlink_to(ROOT / package)
    shutil.copytree(ROOT / "pipeline", folder / "pipeline", ignore=shutil.ignore_patterns("__pycache__", "study"))
    for module, text, instead in changes:
        path = folder / "pipeline" / f"{module}.py"
        whole = path.read_text()
        assert whole.count(text) == 1, f"{module} does not hold {text!r} once: the mutant must follow the program"
        path.write_text(whole.replace(text, instead))
    return folder


def tried(name: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Let a worse program stand its trial."""
    copy = folder / "program"
    copy.mkdir(parents=True)
    worse(copy, MUTANTS[name])
    path = os.pathsep.join([str(copy), str(TESTS)])
    return subprocess.run(
        [sys.executable, TESTS / "trial.py", folder / "runs", FOUND_BY.get(name, "deaths")],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", MUTANTS)
def test_a_worse_program_fails_the_trial(name: str, tmp_path: Path) -> None:
    """A program that forgets one of the things that keep ticks from being lost, doubled or spoiled is found out."""
    told = tried(name, tmp_path)
    assert told.returncode == 1, told.stdout + told.stderr
    broken = re.findall(r"\b(?:Name|Type|Syntax|Import|Attribute)Error\b", told.stdout + told.stderr)
    assert not broken, "the mutant does not run at all"
