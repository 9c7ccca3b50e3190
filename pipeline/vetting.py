"""Try a model file in a process of its own, so that nothing in the file can stop, fill or end the one that serves.

    vetting = Vetting.start(path, sha256)
    while (verdict := vetting.poll()) is None:
        ...                                  # go on serving

The child reads the file once, compares its digest, opens it and lets it show what it can (`trial`). It runs at a
lower priority in a session of its own, within limits of memory, processor time, open files and wall-clock time; it
cannot write a file; it has no standard input and few variables of the environment. It ends by itself soon after its
time is over, even where nobody is left to end it. The limit of memory is one of writable memory (RLIMIT_DATA): the
runtime maps much more than it uses, and Linux since 4.7 counts what is mapped for writing.

A verdict is of the bytes with that digest: whoever loads the file afterwards compares the digest again.

Comes in: the path of a model file and its digest. Goes out: `Verdict`. Imported by stream; run as a program by itself.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import orjson

from models.errors import ConfigError, ModelError, StatecastError
from pipeline.session import MAX_BYTES, Session
from pipeline.trial import Terms, trial

MIB = 1 << 20

_INHERITED = ("PATH", "LD_LIBRARY_PATH", "PYTHONHOME", "LANG", "LC_ALL", "TZ")
_OUTPUT = 1 << 16
"""Bytes of the child's output that are kept; a child that writes more is stopped."""

_FILES = 32
_NICENESS = 10
_LEAST_MEMORY = MAX_BYTES + 128 * MIB
_NO_MEMORY = ("Failed to allocate memory", "bad_alloc")


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a child may take.

    Raises
    ------
    ConfigError
        When a limit is too small for any model.
    """

    wall_s: float = 120.0
    """Seconds until an answer must be there."""
    cpu_s: int = 60
    """Seconds of processor time, about one of which goes into starting."""
    memory: int = 2048 * MIB
    """Bytes of writable memory; the runtime takes about 60 MiB by itself, and `session.read` makes room for the largest
    file at once."""

    def __post_init__(self) -> None:
        if self.wall_s <= 0 or self.cpu_s < 1 or self.memory < _LEAST_MEMORY:
            raise ConfigError(
                f"limits of vetting: expected wall_s above 0, cpu_s of at least 1 and memory of at least "
                f"{_LEAST_MEMORY} bytes; got {self.wall_s}, {self.cpu_s} and {self.memory}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What was found about one file."""

    ok: bool
    """Whether the file may serve."""
    why: str
    """Why not, as a sentence; empty where it may."""
    path: Path
    """The file."""
    sha256: str
    """The digest that it had to have, and, where `ok`, has."""
    name: str = ""
    """Name of the model, where `ok`."""
    step_s: float | None = None
    """Seconds that a step of one grain of rows took, where `ok`."""


class Vetting:
    """One file being tried. Only `start` makes one; `poll` until it gives a verdict, or `kill` it."""

    def __init__(self, path: Path, sha256: str, limits: Limits) -> None:
        self.path = path
        self.sha256 = sha256
        self.limits = limits
        self._process: subprocess.Popen[bytes] | None = None
        self._deadline = time.monotonic() + limits.wall_s
        self._written: dict[int, bytearray] = {}
        self._stopped: str | None = None
        self._verdict: Verdict | None = None

    @classmethod
    def start(cls, path: Path, sha256: str, *, terms: Terms = Terms(), limits: Limits = Limits()) -> Vetting:  # noqa: B008  frozen
        """Begin to try a file; what goes wrong here is a verdict too.

        Parameters
        ----------
        path : Path
        sha256 : str
            The digest that the file must have.
        terms : Terms
            What the caller can give a model, and how it will step it.
        limits : Limits
        """
        vetting = cls(path.absolute(), sha256, limits)
        order = orjson.dumps({"sha256": sha256, "terms": asdict(terms), "limits": asdict(limits)}).decode()
        try:
            process = subprocess.Popen(  # noqa: S603  this program again
                [sys.executable, "-P", "-B", "-m", "pipeline.vetting", os.fspath(vetting.path), order],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                cwd="/",
                env=_environment(),
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            vetting._verdict = vetting._refuse(f"its process could not be started ({error})")
            return vetting
        vetting._process = process
        for pipe in vetting._pipes(process):
            os.set_blocking(pipe.fileno(), False)
            vetting._written[pipe.fileno()] = bytearray()
        return vetting

    def poll(self) -> Verdict | None:
        """Give the verdict once there is one, from then on the same each time; returns at once."""
        if self._verdict is None and self._process is not None:
            self._listen()
            if self._gone(self._process):
                self._verdict = self._collect(self._process)
            elif self._stopped is None and max(map(len, self._written.values())) > _OUTPUT:
                self._stop(f"its process wrote more than {_OUTPUT} bytes")
            elif self._stopped is None and time.monotonic() > self._deadline:
                self._stop(f"no answer within {self.limits.wall_s:g} s")
        return self._verdict

    def kill(self, wait_s: float = 5.0) -> None:
        """Stop the child and all that it started, and wait for its end, at most so long; harmless once it has ended."""
        if self._verdict is None and self._stopped is None:
            self._stop("it was stopped before its end")
        deadline = time.monotonic() + wait_s
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)

    def _stop(self, why: str) -> None:
        self._stopped = why
        self._signal()

    def _signal(self) -> None:
        """Kill the child's group; not to be called once the child has been collected, for its number is free then."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _gone(self, process: subprocess.Popen[bytes]) -> bool:
        """Tell whether the child has ended, and end what it may have left; its number stays taken meanwhile."""
        try:
            ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            self._stopped = self._stopped or "its process was collected by other code, so its end is not known"
            return True
        if ended is not None:
            self._signal()
        return ended is not None

    def _listen(self) -> None:
        """Take what has been written so far."""
        for handle, written in self._written.items():
            with suppress(BlockingIOError):
                while len(written) <= _OUTPUT and (more := os.read(handle, _OUTPUT)):
                    written.extend(more)

    def _collect(self, process: subprocess.Popen[bytes]) -> Verdict:
        """Take what is left of an ended child, and judge it."""
        self._listen()
        code, pipes = process.wait(), self._pipes(process)
        out, err = (bytes(self._written[pipe.fileno()]) for pipe in pipes)
        for pipe in pipes:
            pipe.close()
        if self._stopped is not None:
            return self._refuse(self._stopped)
        if code != 0:
            said = err.decode(errors="replace").strip().splitlines()[-1:]
            return self._refuse(f"{_ending(code, self.limits)}{''.join(f', saying {line[:200]!r}' for line in said)}")
        return self._read(out)

    def _read(self, out: bytes) -> Verdict:
        """Read the child's answer: one line, of just this form."""
        try:
            line, rest = out.split(b"\n", 1)
            answer: dict[str, Any] = orjson.loads(line)
            found = {key: type(value) for key, value in answer.items()}
            right = {"ok": bool, "why": str, "name": str, "step_s": float}
            if rest or found != (right if answer["ok"] is True else right | {"step_s": type(None)}):
                raise ValueError("another form")
        except (ValueError, KeyError, AttributeError, TypeError):
            return self._refuse(f"expected one line of JSON from its process, got {out[:80]!r}")
        return Verdict(path=self.path, sha256=self.sha256, **answer)

    def _refuse(self, why: str) -> Verdict:
        why = f"model file {self.path}: vetting: {why}. It does not serve; publish another model"
        return Verdict(ok=False, why=why, path=self.path, sha256=self.sha256)

    @staticmethod
    def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
        assert process.stdout is not None
        assert process.stderr is not None
        return process.stdout, process.stderr


def _environment() -> dict[str, str]:
    """Give the child what Python needs to find the same code as here, and nothing that it could tell others."""
    kept = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    paths = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return kept | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def _ending(code: int, limits: Limits) -> str:
    """Say how a child ended that did not end well."""
    if code > 0:
        return f"its process ended with exit code {code}"
    known: dict[int, str] = {
        signal.SIGXCPU: f"it used more than {limits.cpu_s} s of processor time",
        signal.SIGALRM: f"no answer within {limits.wall_s:g} s",
        signal.SIGKILL: "its process was killed from outside, as a system does that runs out of memory",
    }
    return known.get(-code, f"its process was ended by signal {-code} ({signal.strsignal(-code)})")


def _confine(limits: Limits) -> None:
    """Give up what the model does not need; there is no way back."""
    os.nice(_NICENESS)
    signal.setitimer(signal.ITIMER_REAL, limits.wall_s + 1)
    for kind in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        _bound(kind, 0)
    _bound(resource.RLIMIT_NOFILE, _FILES)
    _bound(resource.RLIMIT_DATA, limits.memory)
    # at the soft limit of processor time comes a signal that tells what happened, at the hard one the plain end
    _bound(resource.RLIMIT_CPU, limits.cpu_s, grace=1)


def _bound(kind: int, most: int, grace: int = 0) -> None:
    """Set a limit, and `grace` above it the hard one; neither above the hard one that was there."""
    hard = resource.getrlimit(kind)[1]
    hard = most + grace if hard == resource.RLIM_INFINITY else min(most + grace, hard)
    resource.setrlimit(kind, (min(most, hard), hard))


def _examine(path: Path, sha256: str, terms: Terms, limits: Limits) -> dict[str, Any]:
    """Try the file, and answer."""
    answer: dict[str, Any] = {"ok": False, "why": "", "name": "", "step_s": None}
    try:
        session = Session.load(path, sha256)
        return answer | {"ok": True, "step_s": trial(session, terms), "name": session.metadata.name}
    except (StatecastError, MemoryError) as error:
        why = str(error)
        if isinstance(error, MemoryError) or any(word in why for word in _NO_MEMORY):
            why = f"it asks for more than {limits.memory // MIB} MiB of memory. Publish a smaller model"
        elif isinstance(error, ModelError) and str(path) in why:
            return answer | {"why": why}
    except Exception as error:
        why = f"an unforeseen {type(error).__name__} ({error}). Publish another model"
    return answer | {"why": f"model file {path}: {why}"}


def main() -> None:
    """Read the order, try the file, answer in one line."""
    order = orjson.loads(sys.argv[2])
    limits = Limits(**order["limits"])
    _confine(limits)
    wanted: dict[str, Any] = order["terms"]
    wanted |= {name: tuple(wanted[name]) for name in ("past", "future")}
    terms = Terms(**wanted)
    answer = _examine(Path(sys.argv[1]), order["sha256"], terms, limits)
    answer["why"] = answer["why"][:2000].encode("utf-8", "replace").decode()
    sys.stdout.buffer.write(orjson.dumps(answer) + b"\n")


if __name__ == "__main__":
    main()
