"""The turn of a data folder, between processes."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.turn import BusyError, turn

HOLDER = """
import sys, time
from pathlib import Path
from pipeline.turn import turn
with turn(Path(sys.argv[1]), sys.argv[2]):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(folder: Path, name: str) -> subprocess.Popen[str]:
    """Start a process that holds the turn, and wait until it does."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder), name], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def killed(process: subprocess.Popen[str]) -> None:
    """Kill a process so that it can do nothing more."""
    with process:
        process.send_signal(signal.SIGKILL)


def test_a_second_one_is_refused_at_once_and_told_who_has_it(tmp_path: Path) -> None:
    """While a process holds the turn, another one gets an error that may pass, with the number of the first."""
    process = holder(tmp_path, "first")
    with pytest.raises(BusyError, match=f"process {process.pid} retrains it now"), turn(tmp_path):
        pass
    assert BusyError.transient
    killed(process)


def test_who_died_is_told_once_to_the_next_that_has_a_name(tmp_path: Path) -> None:
    """SIGKILL leaves the name of the holder; one without a name passes it on, one with a name takes it over."""
    for name in ("first", "second"):
        killed(holder(tmp_path, name))
    with turn(tmp_path) as died:
        assert died == ["first", "second"]
    with turn(tmp_path, "third") as died:
        assert died == ["first", "second"]
    with turn(tmp_path, "fourth") as died:
        assert died == []


def test_an_error_is_no_death(tmp_path: Path) -> None:
    """A holder that ends by an exception leaves no name."""
    with pytest.raises(KeyError), turn(tmp_path, "first"):
        raise KeyError
    with turn(tmp_path) as died:
        assert died == []
