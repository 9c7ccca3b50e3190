"""A file is tried in a process of its own: whatever it holds, a verdict comes back and nothing else happens."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import signal
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from served import metadata, model_bytes, proto
from spoiled import classifier, endless, grafted, hungry, with_covariates

from models.errors import ConfigError
from pipeline.session import MAX_BYTES
from pipeline.trial import Terms
from pipeline.vetting import MIB, Limits, Verdict, Vetting


def digest(data: bytes) -> str:
    """Give the digest of some bytes."""
    return hashlib.sha256(data).hexdigest()


def awaited(vetting: Vetting) -> Verdict:
    """Poll until there is a verdict."""
    while (verdict := vetting.poll()) is None:
        time.sleep(0.01)
    return verdict


def vetted(path: Path, data: bytes, *, terms: Terms = Terms(), limits: Limits = Limits()) -> Verdict:  # noqa: B008
    """Write a file and try it."""
    path.write_bytes(data)
    return awaited(Vetting.start(path, digest(data), terms=terms, limits=limits))


def refused(verdict: Verdict, *said: str) -> None:
    """Expect a refusal that names the file and says all of this."""
    assert not verdict.ok
    assert str(verdict.path) in verdict.why
    assert all(words in verdict.why for words in said), verdict.why
    assert (verdict.name, verdict.step_s) == ("", None)


def test_a_good_model_passes(tmp_path: Path) -> None:
    """The verdict names the model and how long a step takes, and stays the same from then on."""
    path, data = tmp_path / "m.onnx", model_bytes()
    path.write_bytes(data)
    vetting = Vetting.start(path, digest(data))
    verdict = awaited(vetting)
    assert verdict.ok, verdict.why
    assert (verdict.why, verdict.name, verdict.path, verdict.sha256) == ("", "last", path, digest(data))
    assert verdict.step_s is not None
    assert 0 < verdict.step_s < 1
    vetting.kill()
    assert vetting.poll() is verdict


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (pickle.dumps({"weights": [1.0]}), "the runtime refuses it"),
        (model_bytes()[:-200], "the runtime refuses it"),
        (b"", "the runtime refuses it"),
        (b"\x00" * 4096, "the runtime refuses it"),
        (model_bytes(metadata(horizon=3)), "quantile is float64"),
        (model_bytes(metadata(state=metadata().state[:2])), "inputs are"),
    ],
    ids=["pickle", "truncated", "empty", "zeros", "shapes", "state"],
)
def test_what_is_no_model_is_refused(tmp_path: Path, data: bytes, said: str) -> None:
    """A file that the runtime or its own metadata contradict is refused, with the reason of the session."""
    refused(vetted(tmp_path / "m.onnx", data), said)


def test_a_model_without_metadata_is_refused(tmp_path: Path) -> None:
    """A graph that does not describe itself is refused."""
    model = proto()
    del model.metadata_props[:]
    refused(vetted(tmp_path / "m.onnx", model.SerializeToString()), "no `statecast` entry")


def test_weights_in_another_file_are_refused(tmp_path: Path) -> None:
    """A model that points outside itself is refused though the other file is there and right."""
    path = tmp_path / "m.onnx"
    onnx.save(proto(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (tmp_path / "weights.bin").stat().st_size > 0
    refused(vetted(path, path.read_bytes()), "in another file")


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    """NaN in the row of one series is found and told."""
    model = proto()
    drift = next(x for x in model.graph.initializer if x.name == "drift")
    drift.CopyFrom(numpy_helper.from_array(np.array([[0.0], [1.0], [np.nan]], np.float32), "drift"))
    refused(vetted(tmp_path / "m.onnx", model.SerializeToString()), "quantile is not finite", "series BBB")


def test_quantiles_that_fall_are_refused(tmp_path: Path) -> None:
    """Quantiles must not fall as their level rises."""
    flip = helper.make_node("Neg", ["move_before"], ["move"])
    refused(vetted(tmp_path / "m.onnx", grafted("move", [flip])), "quantiles fall")


def test_a_model_that_poison_moves_is_refused(tmp_path: Path) -> None:
    """A graph that counts prices that are none is refused."""
    always = helper.make_node("Or", ["valid1_before", "mask_1"], ["valid1"])
    squeeze = helper.make_node("Squeeze", ["mask", "last_axis"], ["mask_1"])
    refused(vetted(tmp_path / "m.onnx", grafted("valid1", [squeeze, always])), "changed the state count", "nan")


def test_a_model_that_does_something_else_is_refused(tmp_path: Path) -> None:
    """A classifier is refused for what it is, though the session would open it."""
    refused(vetted(tmp_path / "m.onnx", classifier()), "labels moments as ['up', 'down']")


def test_covariates_must_be_there(tmp_path: Path) -> None:
    """A model may read what the caller says is there, and is refused where it reads more."""
    data = with_covariates("@hour", "volume")
    refused(vetted(tmp_path / "m.onnx", data), "needs volume", "@weekday")
    assert vetted(tmp_path / "m.onnx", data, terms=Terms(past=("volume", "@hour"))).ok
    assert vetted(tmp_path / "m.onnx", with_covariates("@hour")).ok


def test_prices_must_come_as_the_model_takes_them(tmp_path: Path) -> None:
    """A model of one price is refused where blocks of 24 come, and one that counts bars where they have no length."""
    refused(vetted(tmp_path / "m.onnx", model_bytes(), terms=Terms(block=24)), "takes 1 prices at once")
    refused(vetted(tmp_path / "m.onnx", model_bytes(metadata(grid="tick"))), "grid 'tick'")


def test_an_endless_loop_runs_out_of_time(tmp_path: Path) -> None:
    """A step that never ends is ended, by the clock or by the processor time it took, and the child is gone."""
    data = endless()
    (tmp_path / "m.onnx").write_bytes(data)
    vetting = Vetting.start(tmp_path / "m.onnx", digest(data), limits=Limits(wall_s=3))
    assert vetting.poll() is None
    refused(awaited(vetting), "no answer within 3 s")
    refused(vetted(tmp_path / "m.onnx", data, limits=Limits(cpu_s=1)), "more than 1 s of processor time")


def test_a_graph_that_wants_the_machine_is_refused(tmp_path: Path) -> None:
    """What fits the limit of memory passes, what does not is refused, and a hundred gigabytes are never there."""
    path, tight = tmp_path / "m.onnx", Limits(memory=512 * MIB)
    assert vetted(path, hungry(MIB), limits=tight).ok
    refused(vetted(path, hungry(128 * MIB), limits=tight), "more than 512 MiB of memory")
    refused(vetted(path, hungry(25_000_000_000)), "more than 2048 MiB of memory")


def test_a_constant_of_a_hundred_gigabytes_is_refused(tmp_path: Path) -> None:
    """A graph that the runtime would unfold while it opens the file is held by the same limit."""
    nodes = [
        helper.make_node("ConstantOfShape", ["count"], ["field"]),
        helper.make_node("ReduceSum", ["field"], ["sum"], keepdims=0),
        helper.make_node("Add", ["moved_before", "sum"], ["moved"]),
    ]
    data = grafted("moved", nodes, count=np.array([25_000_000_000]))
    refused(vetted(tmp_path / "m.onnx", data), "more than 2048 MiB of memory")


def test_a_file_without_end_is_refused_by_its_size(tmp_path: Path) -> None:
    """Ten gigabytes that lie nowhere are not read."""
    path = tmp_path / "m.onnx"
    with path.open("wb") as file:
        file.truncate(10_000_000_000)
    refused(awaited(Vetting.start(path, "0" * 64)), f"more than {MAX_BYTES} bytes")


def test_a_path_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    """A file that is gone, a folder, and a name that no system takes are verdicts too."""
    refused(awaited(Vetting.start(tmp_path / "gone.onnx", "0" * 64)), "No such file")
    refused(awaited(Vetting.start(tmp_path, "0" * 64)), "Is a directory")
    refused(awaited(Vetting.start(Path(f"{tmp_path}/a\0b"), "0" * 64)), "could not be started")


def test_a_pipe_that_nobody_writes_runs_out_of_time(tmp_path: Path) -> None:
    """A path at which reading waits for ever keeps nobody else waiting."""
    os.mkfifo(tmp_path / "m.onnx")
    refused(awaited(Vetting.start(tmp_path / "m.onnx", "0" * 64, limits=Limits(wall_s=1))), "no answer within 1 s")


def test_the_bytes_that_were_read_are_those_that_count(tmp_path: Path) -> None:
    """While a link is swapped between two models all the time, a verdict is of the digest asked for or a refusal."""
    one, two = model_bytes(metadata(name="one")), model_bytes(metadata(name="two"))
    for name, data in (("one", one), ("two", two)):
        (tmp_path / name).write_bytes(data)
    link, count = tmp_path / "m.onnx", 0
    link.symlink_to("one")
    for _ in range(3):
        vetting = Vetting.start(link, digest(one))
        while (verdict := vetting.poll()) is None:
            count += 1
            (tmp_path / "new").symlink_to(("one", "two")[count % 2])
            os.replace(tmp_path / "new", link)
        if verdict.ok:
            assert verdict.name == "one"
        else:
            refused(verdict, f"expected sha256 {digest(one)}, got {digest(two)}")
    assert count > 10
    (tmp_path / "new").symlink_to("two")
    os.replace(tmp_path / "new", link)
    refused(awaited(Vetting.start(link, digest(one))), digest(two))


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Vetting]:
    """Give a way to start a vetting whose process is a script instead of this Python."""

    def start(script: str) -> Vetting:
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(sys, "executable", str(path))
        return Vetting.start(tmp_path / "m.onnx", "0" * 64, limits=Limits(wall_s=20))

    return start


GOOD = {"ok": True, "why": "", "name": "m", "step_s": 0.1}


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "noise",
        "[]",
        "null",
        "{}",
        json.dumps(GOOD | {"ok": 1}),
        json.dumps(GOOD | {"ok": "true"}),
        json.dumps(GOOD | {"step_s": None}),
        json.dumps(GOOD | {"more": 1}),
        json.dumps({k: v for k, v in GOOD.items() if k != "why"}),
        json.dumps(GOOD) + "\n" + json.dumps(GOOD),
    ],
)
def test_an_answer_of_another_form_is_a_refusal(program: Callable[[str], Vetting], answer: str) -> None:
    """Only one line of just the right form counts as an answer."""
    refused(awaited(program(f"cat <<'END'\n{answer}\nEND")), "expected one line of JSON")


def test_an_answer_in_pieces_is_put_together(program: Callable[[str], Vetting]) -> None:
    """An answer that comes in two writes is one answer; without the end of its line it is none."""
    text = json.dumps(GOOD)
    pieces = f"printf %s '{text[:9]}'; sleep 0.2; printf %s '{text[9:]}'"
    assert awaited(program(f"{pieces}; echo")).ok
    refused(awaited(program(pieces)), "expected one line of JSON")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("kill -SEGV $$", "signal 11"),
        ("kill -ABRT $$", "signal 6"),
        ("kill -KILL $$", "killed from outside"),
        ("echo beware >&2; exit 3", "exit code 3, saying 'beware'"),
        (f"echo '{json.dumps(GOOD)}'; exit 1", "exit code 1"),
        ("yes", "wrote more than"),
        ("yes >&2", "wrote more than"),
    ],
)
def test_a_process_that_ends_badly_is_a_refusal(program: Callable[[str], Vetting], script: str, said: str) -> None:
    """Crash, exit code and a flood of output each become a sentence, whatever was answered before."""
    refused(awaited(program(script)), said)


def alive(number: int) -> bool:
    """Tell whether a process runs; one that has ended and waits to be collected does not."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("ending", ["kill", "own"])
def test_nothing_is_left_of_a_vetting(program: Callable[[str], Vetting], tmp_path: Path, ending: str) -> None:
    """What the child has started ends with it, whether it is stopped or ends by itself."""
    numbers = tmp_path / "numbers"
    vetting = program(
        f"sleep 1000 &\necho $! $$ > {numbers}.new\nmv {numbers}.new {numbers}\n[ {ending} = own ] || wait"
    )
    while not numbers.exists():
        time.sleep(0.01)
    if ending == "kill":
        assert vetting.poll() is None
        vetting.kill()
        verdict = vetting.poll()
        assert verdict is not None
        refused(verdict, "stopped before its end")
    else:
        awaited(vetting)
    deadline = time.monotonic() + 30
    while any(alive(int(n)) for n in numbers.read_text().split()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_process_that_cannot_be_started_is_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no Python to start, there is a verdict at once."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    verdict = Vetting.start(tmp_path / "m.onnx", "0" * 64).poll()
    assert verdict is not None
    refused(verdict, "could not be started")


def test_a_process_collected_by_other_code_is_a_refusal(program: Callable[[str], Vetting]) -> None:
    """Where the end of the child was taken by somebody else, nothing is known of it, so the file is refused."""
    vetting = program(f"echo '{json.dumps(GOOD)}'")
    assert vetting._process is not None
    os.waitpid(vetting._process.pid, 0)
    refused(awaited(vetting), "collected by other code")


def test_the_child_ends_by_itself(tmp_path: Path) -> None:
    """A child that nobody polls is over soon after its time, ended by its own alarm."""
    data = endless()
    (tmp_path / "m.onnx").write_bytes(data)
    vetting = Vetting.start(tmp_path / "m.onnx", digest(data), limits=Limits(wall_s=2))
    assert vetting._process is not None
    ended = os.waitid(os.P_PID, vetting._process.pid, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    assert ended.si_status == signal.SIGALRM
    refused(awaited(vetting), "no answer within 2 s")


def test_the_child_is_confined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it works, the child's limits are set, its input is empty, its session and environment its own."""
    data = endless()
    (tmp_path / "m.onnx").write_bytes(data)
    monkeypatch.setenv("OF_THE_TEST", "x")
    vetting = Vetting.start(tmp_path / "m.onnx", digest(data), limits=Limits(wall_s=60, cpu_s=30, memory=512 * MIB))
    assert vetting._process is not None
    process = Path(f"/proc/{vetting._process.pid}")
    try:
        found: dict[str, list[str]] = {}
        while found.get("cpu time") != ["30", "31"]:
            assert vetting.poll() is None
            rows = (process / "limits").read_text().splitlines()[1:]
            found = {row[:25].removeprefix("Max ").strip(): row[25:].split()[:2] for row in rows}
        assert found["data size"] == [str(512 * MIB)] * 2
        assert found["core file size"] == found["file size"] == ["0", "0"]
        assert found["open files"] == ["32", "32"]
        assert os.readlink(process / "fd/0") == "/dev/null"
        assert os.getsid(vetting._process.pid) == vetting._process.pid
        assert os.getpriority(os.PRIO_PROCESS, vetting._process.pid) > os.getpriority(os.PRIO_PROCESS, 0)
        assert b"OF_THE_TEST" not in (process / "environ").read_bytes()
    finally:
        vetting.kill()


@pytest.mark.parametrize("limits", [{"wall_s": 0.0}, {"cpu_s": 0}, {"memory": MIB}])
def test_limits_that_no_model_keeps_are_refused(limits: dict) -> None:
    """A limit that would refuse every file is a mistake of the settings."""
    with pytest.raises(ConfigError, match="limits of vetting"):
        Limits(**limits)
