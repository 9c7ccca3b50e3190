"""A signal is a question that the loop asks, once; the second one ends the process as ever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from flows.stopping import stopping

SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_asks_to_stop(number: signal.Signals) -> None:
    """Nothing is asked before it; after the block every handler is what it was."""
    before = [signal.getsignal(one) for one in SIGNALS]
    with stopping() as stop:
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop()
        assert signal.getsignal(number) == before[SIGNALS.index(number)]
    assert [signal.getsignal(one) for one in SIGNALS] == before


def test_handlers_come_back_after_an_error() -> None:
    """Whatever ends the block."""
    before = [signal.getsignal(one) for one in SIGNALS]
    with pytest.raises(ZeroDivisionError), stopping():
        _ = 1 // 0
    assert [signal.getsignal(one) for one in SIGNALS] == before


_LOOP = """
import signal, sys, time
from flows.stopping import stopping
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # a test run under nohup hands down that it is ignored
with stopping() as stop:
    print("ready", flush=True)
    while not stop():
        time.sleep(0.01)
    print("asked", flush=True)
    if sys.argv[1] == "hangs":
        time.sleep(60)
print("done", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_second_signal_ends_a_process_that_hangs(number: signal.Signals) -> None:
    """One is enough for a loop that asks; a second one acts as without a handler."""
    for how in ("asks", "hangs"):
        command = [sys.executable, "-c", _LOOP, how]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            child.send_signal(number)
            assert child.stdout.readline() == b"asked\n"
            if how == "hangs":
                child.send_signal(number)
            assert child.stdout.read() == (b"done\n" if how == "asks" else b"")
        assert child.returncode == (0 if how == "asks" else -number)
